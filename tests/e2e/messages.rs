//! What objects say: whole texts, provoked on the real parts, and the commands in them run as printed.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use regex::Regex;
use serde_json::json;

use crate::fixture::{Ready, SOON, World, control_plane, prefect};
use crate::support::{Mode, Proxy, eventually};

const NOT_WRITTEN: &str = "The target is not written until this is solved";

/// The message with each time in it as `TIME`, after a look at whether that may be right: no test takes longer than
/// some minutes.
pub fn timeless(message: &str) -> String {
    let time = Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").unwrap();
    for found in time.find_iter(message) {
        let at: Timestamp = found.as_str().parse().unwrap_or_else(|e| panic!("{message}: {e}"));
        let age = Timestamp::now().duration_since(at);
        let plausible = SignedDuration::from_secs(-1)..SignedDuration::from_mins(10);
        assert!(plausible.contains(&age), "{message}: that is {age:?} ago");
    }
    time.replace_all(message, "TIME").into_owned()
}

/// Waits until the object's `Ready` is `False` for this reason with exactly this message, times aside.
pub async fn eventually_says(world: &World, kind: &str, name: &str, reason: &str, message: &str) {
    let expected = Ready {
        status: "False".to_owned(),
        reason: reason.to_owned(),
        message: message.replace("NS", &world.namespace),
    };
    eventually(&format!("{kind} {name} to say {expected:#?}"), SOON, async || match world.ready(kind, name).await {
        Some(ready) if (Ready { message: timeless(&ready.message), ..ready.clone() }) == expected => Ok(()),
        other => Err(format!("it says {other:#?}")),
    })
    .await;
}

/// The command that a message ends with, run as its reader would; only kubectl's own name is taken off.
pub async fn run_the_printed_command(message: &str) {
    let (_, command) = message.split_once("kubectl ").unwrap_or_else(|| panic!("no command in {message:?}"));
    let command = command.split(". ").next().unwrap();
    let arguments: Vec<&str> = command.split_whitespace().collect();
    control_plane().await.kubectl_ok(&arguments);
}

/// A PrefectSecret of one entry, `X`.
pub fn object(name: &str, remote: &str, rest: &str) -> String {
    format!(
        r#"
---
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectSecret
metadata: {{name: {name}}}
spec:
  data: [{{secretKey: X, remoteRef: {{{remote}}}}}]
  {rest}
"#
    )
}

fn workspace(name: &str, url: &str) -> String {
    format!(
        "---\n{{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectWorkspace, metadata: {{name: {name}}}, spec: {{api: {{url: '{url}'}}, refreshInterval: 1s}}}}\n"
    )
}

/// Names of this test in Prefect are written `NS-…`.
#[tokio::test]
async fn each_mistake_in_an_entry_is_said_in_one_message() {
    let world = World::with_prefect("messages").await;
    let prefect = prefect().await;
    prefect.set_secret(&world.name("db-password"), json!("hunter2")).await;
    prefect.set_secret(&world.name("dsn"), json!(r#"{"canaryuser": {"canaryname": "x"}}"#)).await;
    prefect.set_variable(&world.name("db-host"), json!("db.example")).await;
    let aws = json!({"aws_access_key_id": "id", "aws_secret_access_key": "hunter2", "profile_name": null});
    prefect.set_block("aws-credentials", &world.name("prod-aws"), aws).await;
    let masking = Proxy::start(prefect.url()).await;
    masking.set(Mode::Masked);
    let rejecting = Proxy::start(prefect.url()).await;
    rejecting.set(Mode::AnswerWhere(world.name("db-password"), 422, r#"{"exception_message": "hunter2"}"#.into()));
    let mut manifests = workspace("masking", &masking.url()) + &workspace("rejecting", &rejecting.url());

    let rejected = format!(
        r#"Prefect at {} answered 422 for secret block "NS-db-password"; is the name as Prefect writes it? "#,
        rejecting.host()
    ) + NOT_WRITTEN;
    #[rustfmt::skip]
    let cases = [
        ("underscores", "key: NS-db_password", "", "KeyNotFound",
            r#"no secret block "NS-db_password" in workspace default; block names have no underscores, did you mean "NS-db-password"? "#),
        ("capitals", "key: NS-DB-PASSWORD", "", "KeyNotFound",
            r#"no secret block "NS-DB-PASSWORD" in workspace default; block names have no capitals, did you mean "NS-db-password"? "#),
        ("typo", "key: NS-db-pasword", "", "KeyNotFound",
            r#"no secret block "NS-db-pasword" in workspace default; did you mean "NS-db-password"? "#),
        ("nothing-near", "key: q9-xyzzy-plugh", "", "KeyNotFound",
            r#"no secret block "q9-xyzzy-plugh" in workspace default; create it in Prefect, or correct remoteRef. "#),
        ("variable-typo", "variable: NS-db_hots", "", "KeyNotFound",
            r#"no variable "NS-db_hots" in workspace default; did you mean "NS-db-host"? "#),
        ("no-variable", "variable: q9-xyzzy-plugh", "", "KeyNotFound",
            r#"no variable "q9-xyzzy-plugh" in workspace default; create it in Prefect, or correct remoteRef. "#),
        ("a-variable", "key: NS-db-host", "", "IsAVariable",
            r#""NS-db-host" is a Variable, not a block; use remoteRef.variable. "#),
        ("type-typo", "key: NS-prod-aws, blockType: aws-credential", "", "BlockTypeNotFound",
            r#"no block type "aws-credential" in workspace default; did you mean "aws-credentials"? "#),
        ("no-type", "key: NS-prod-aws, blockType: xyzzyplugh", "", "BlockTypeNotFound",
            r#"no block type "xyzzyplugh" in workspace default; `prefect block type ls` shows what there is. "#),
        ("no-field", "key: NS-prod-aws, blockType: aws-credentials, property: secret_key", "", "PropertyNotFound",
            r#"aws-credentials block "NS-prod-aws" has no "secret_key"; it has aws_access_key_id, aws_secret_access_key, aws_session_token, profile_name, region_name, aws_client_parameters. "#),
        ("empty-field", "key: NS-prod-aws, blockType: aws-credentials, property: aws_session_token", "", "PropertyNotFound",
            r#"aws-credentials block "NS-prod-aws" has no value at "aws_session_token": it is unset in Prefect. "#),
        ("null-field", "key: NS-prod-aws, blockType: aws-credentials, property: profile_name", "", "PropertyNotFound",
            r#"aws-credentials block "NS-prod-aws" has no value at "profile_name": it is unset in Prefect. "#),
        // Names inside a secret are never told.
        ("no-member", "key: NS-dsn, property: pass", "", "PropertyNotFound",
            r#"secret block "NS-dsn" has nothing at "pass"; correct remoteRef.property, or add it in Prefect. "#),
        ("no-json", "key: NS-db-password, property: a.b", "", "NotJson",
            r#"secret block "NS-db-password" holds text that is no JSON, so there is nothing to look into at "a.b"; leave remoteRef.property out to take it whole. "#),
        ("masked", "key: NS-db-password", "workspaceRef: {name: masking}", "ValueMasked",
            r#"Prefect returned ******** for secret block "NS-db-password": these credentials may not see secret values; give their role that permission. "#),
        ("rejected", "key: NS-db-password", "workspaceRef: {name: rejecting}", "PrefectRejected", &rejected),
        ("workspace-typo", "key: NS-db-password", "workspaceRef: {name: maskin}", "WorkspaceNotFound",
            r#"no PrefectWorkspace "maskin" in "NS"; did you mean "masking"?"#),
        ("no-workspace", "key: NS-db-password", "workspaceRef: {name: prod}", "WorkspaceNotFound",
            r#"no PrefectWorkspace "prod" in "NS"; create one or set spec.workspaceRef; there is default, masking, rejecting"#),
    ];
    for (name, remote, rest, ..) in &cases {
        manifests += &object(name, &remote.replace("NS", &world.namespace), rest);
    }
    world.apply(&manifests).await;
    for (name, _, _, reason, message) in &cases {
        let end = if message.ends_with(' ') { NOT_WRITTEN } else { "" };
        let message = format!("{message}{end}");
        eventually_says(&world, "PrefectSecret", name, reason, &message).await;
    }
    let told = world.get("PrefectSecret", "no-member").await["status"].to_string();
    assert!(!told.contains("canary"), "{told}");

    // The same mistake in an object that is delivered already: the target stays, and it says since when.
    let good = object("delivered", &format!("key: {}", world.name("db-password")), "");
    world.apply(&good).await;
    world.eventually_secret("delivered", &[("X", "hunter2")]).await;
    let ready = world.eventually_reason("PrefectSecret", "delivered", "Synced").await;
    assert_eq!(ready.message, format!("1 of 1 keys synced to Secret {}/delivered", world.namespace));
    world.apply(&object("delivered", &format!("key: {}, property: a", world.name("db-password")), "")).await;
    let message = r#"secret block "NS-db-password" holds text that is no JSON, so there is nothing to look into at "a"; leave remoteRef.property out to take it whole. Target unchanged since TIME"#;
    eventually_says(&world, "PrefectSecret", "delivered", "NotJson", message).await;
    let log = world.stop_operator().await;
    assert!(!log.contains("hunter2") && !log.contains("canaryname"), "{log}");
}

#[tokio::test]
async fn a_target_of_others_names_its_owner_and_the_printed_command_lets_us_in() {
    let world = World::with_prefect("messages").await;
    let prefect = prefect().await;
    let (one, two) = (world.name("one"), world.name("two"));
    prefect.set_secret(&one, json!("1")).await;
    prefect.set_secret(&two, json!("2")).await;
    let boss = serde_json::from_value(json!({"metadata": {"name": "boss"}})).unwrap();
    let boss = world.config_maps().create(&PostParams::default(), &boss).await.unwrap();
    for metadata in [
        // The command has to get past an older word, too.
        json!({"name": "nobodys", "annotations": {"prefect-sync.dev/accepts": "PrefectSecret/gone"}}),
        json!({"name": "annotated", "annotations": {"prefect-sync.dev/owner": "PrefectSecret/gone"}}),
        json!({"name": "controlled", "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "boss", "uid": boss.metadata.uid, "controller": true},
        ]}),
    ] {
        let secret = serde_json::from_value(json!({"metadata": metadata, "stringData": {"OTHER": "x"}})).unwrap();
        world.secrets().create(&PostParams::default(), &secret).await.unwrap();
    }
    let key = format!("key: {one}");
    let mut manifests = object("mine", &key, "target: {name: shared}");
    for name in ["nobodys", "annotated", "controlled"] {
        manifests += &object(name, &key, "");
    }
    world.apply(&manifests).await;
    world.eventually_secret("shared", &[("X", "1")]).await;
    world.apply(&object("late", &format!("key: {two}"), "target: {name: shared}")).await;

    let conflict = |owner: &str, target: &str, name: &str| {
        format!(
            "Secret NS/{target} exists and belongs to {owner}; choose spec.target.name, or let it accept this object: kubectl annotate --overwrite secret {target} -n NS prefect-sync.dev/accepts=PrefectSecret/{name}"
        )
    };
    let cases = [
        ("nobodys", "nobodys", "someone else", "1"),
        ("annotated", "annotated", "PrefectSecret/gone", "1"),
        ("controlled", "controlled", r#"ConfigMap "boss""#, "1"),
        ("late", "shared", r#"PrefectSecret "mine""#, "2"),
    ];
    for (name, target, owner, _) in cases {
        eventually_says(&world, "PrefectSecret", name, "TargetConflict", &conflict(owner, target, name)).await;
        let data = world.secret_data(target).await.unwrap();
        let before = if target == "shared" { ("X", "1") } else { ("OTHER", "x") };
        assert_eq!(data, [before].map(|(key, value)| (key.to_owned(), value.to_owned())).into(), "{target}");
    }
    for (name, ..) in cases {
        run_the_printed_command(&world.ready("PrefectSecret", name).await.unwrap().message).await;
    }
    for (name, target, _, value) in cases {
        world.eventually_reason("PrefectSecret", name, "Synced").await;
        world.eventually_secret(target, &[("X", value)]).await;
    }
    // The one that had it is told at once.
    let message = conflict(r#"PrefectSecret "late""#, "shared", "mine");
    eventually_says(&world, "PrefectSecret", "mine", "TargetConflict", &message).await;
    world.stop_operator().await;
}

#[tokio::test]
async fn a_suspended_object_says_so_and_stays_as_ready_as_it_was() {
    let world = World::with_prefect("messages").await;
    let name = world.name("password");
    prefect().await.set_secret(&name, json!("1")).await;
    let key = format!("key: {name}");
    world.apply(&(object("was", &key, "") + &object("never", &key, "suspend: true"))).await;
    world.eventually_reason("PrefectSecret", "was", "Synced").await;
    world.apply(&object("was", &key, "suspend: true")).await;
    for (name, status) in [("was", "True"), ("never", "False")] {
        let ready = world.eventually_reason("PrefectSecret", name, "Suspended").await;
        let message = "spec.suspend is true: nothing is read or written until it is false".to_owned();
        let expected = Ready { status: status.to_owned(), reason: "Suspended".to_owned(), message };
        assert_eq!(ready, expected, "{name}");
    }
    world.stop_operator().await;
}
