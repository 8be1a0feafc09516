//! Local secrets: a Prefect 1 `config.toml`, asked before the API, or instead of one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{SOON, World, object, passes, prefect, psec};
use crate::support::python::prefect1;
use crate::support::{Proxy, Scratch, eventually};

/// The Secret with the config.toml, offered to workspaces.
async fn config(world: &World, text: &str) {
    let metadata = json!({"name": "prefect-config", "labels": {"prefect-sync.dev/offer": "workspace"}});
    let manifest =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"config.toml": text}});
    world.apply(&manifest.to_string()).await;
}

fn local() -> Value {
    json!({"configToml": {"secretKeyRef": {"name": "prefect-config"}}})
}

fn entry(key: &str, name: &str) -> Value {
    json!({"secretKey": key, "remoteRef": {"key": name}})
}

/// Who answered for each key, by the status.
async fn sources(world: &World, name: &str) -> BTreeMap<String, String> {
    let stored = world.get("PrefectSecret", name).await;
    let entries = stored["status"]["entries"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries.iter().map(|entry| (text(&entry["key"]), text(&entry["source"]))).collect()
}

#[tokio::test]
async fn a_local_name_that_no_block_can_have_goes_first_and_the_block_stands_in() {
    let world = World::new("localkey").await;
    let (both, remote) = (world.name("both"), world.name("remote"));
    prefect().await.set_secret(&both, json!("from prefect")).await;
    prefect().await.set_secret(&remote, json!("remote")).await;
    config(&world, "[context.secrets]\nMYSECRET = \"local\"\n").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    let spec = json!({"api": {"url": proxy.url()}, "local": local(), "refreshInterval": "1s"});
    world.workspace_spec("default", &spec.to_string()).await;
    let reading =
        |key: &str, name: &str, local: &str| json!({"secretKey": key, "remoteRef": {"key": name, "localKey": local}});
    let data = json!([
        reading("BOTH", &both, "MYSECRET"),
        reading("REMOTE", &remote, "NOT_THERE"),
        // The same block under its own name, which has no local counterpart.
        entry("PLAIN", &both),
    ]);
    world.apply(&psec("etl", json!({"data": data}))).await;
    world.eventually_secret("etl", &[("BOTH", "local"), ("PLAIN", "from prefect"), ("REMOTE", "remote")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    assert_eq!(sources(&world, "etl").await["BOTH"], "Local");
    assert_eq!(sources(&world, "etl").await["REMOTE"], "Api");
    prefect().await.set_secret(&remote, json!("changed")).await;
    world.eventually_secret("etl", &[("BOTH", "local"), ("PLAIN", "from prefect"), ("REMOTE", "changed")]).await;
    // A name that is known to be missing is asked for anew, once, when another entry has it with a local name.
    let missing = world.name("missing");
    let optional = |mut entry: Value| {
        entry["optional"] = json!(true);
        entry
    };
    let plain = optional(entry("PLAIN", &missing));
    world.apply(&psec("missing", json!({"data": [plain]}))).await;
    world.eventually_reason("PrefectSecret", "missing", "Synced").await;
    let both = json!([plain, optional(reading("ALIAS", &missing, "NOT_THERE"))]);
    // Two answers confirm it.
    passes(&proxy, 3).await;
    world.apply(&psec("missing", json!({"data": both}))).await;
    eventually("both to be absent", SOON, async || match sources(&world, "missing").await.len() {
        2 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
    world.apply(&psec("none", json!({"data": [reading("A", "no-such-block", "NOT_THERE")]}))).await;
    let message = world.eventually_message("PrefectSecret", "none", "KeyNotFound").await;
    assert!(message.starts_with("no secret block \"no-such-block\" in workspace default;"), "{message}");
}

#[tokio::test]
async fn a_workspace_with_local_alone_needs_no_prefect() {
    let world = World::new("alone").await;
    config(&world, "[context.secrets]\nPASSWORD = \"hunter2\"\nRATE = 1.50\n[context.secrets.db]\nuser = \"u\"\n")
        .await;
    world.workspace_spec("default", &json!({"local": local()}).to_string()).await;
    let mut user = entry("USER", "db");
    user["remoteRef"]["property"] = json!("user");
    let mut optional = entry("NONE", "NONE");
    optional["optional"] = json!(true);
    let data = json!([entry("PASSWORD", "PASSWORD"), entry("RATE", "RATE"), entry("DB", "db"), user, optional]);
    world.apply(&psec("etl", json!({"data": data}))).await;
    let mut expected = [("DB", r#"{"user":"u"}"#), ("PASSWORD", "hunter2"), ("RATE", "1.50"), ("USER", "u")];
    world.eventually_secret("etl", &expected).await;
    let said = world.eventually_reason("PrefectWorkspace", "default", "Connected").await;
    assert_eq!(said.message, "the local secrets were read");
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    assert_eq!(sources(&world, "etl").await["PASSWORD"], "Local");

    // What has no local counterpart, or is misspelt.
    let only = "in workspace default, which has local secrets only (spec.api is not set)";
    let unwritten = "The target is not written until this is solved";
    world.apply(&psec("misspelt", json!({"data": [entry("K", "PASSWORT")]}))).await;
    let said = world.eventually_message("PrefectSecret", "misspelt", "KeyNotFound").await;
    assert_eq!(said, format!("no secret block \"PASSWORT\" {only}; did you mean \"PASSWORD\"? {unwritten}"));
    let variable = json!({"data": [{"configMapKey": "K", "remoteRef": {"key": "last-executed"}}]});
    world.apply(&object("PrefectKV", "variable", variable)).await;
    let said = world.eventually_message("PrefectKV", "variable", "KeyNotFound").await;
    let what = "add it to the config.toml, or set spec.api";
    assert_eq!(said, format!("no variable \"last-executed\" {only}; {what}. {unwritten}"));

    // Long before the 30 s of the default interval.
    config(&world, "[context.secrets]\nPASSWORD = \"hunter3\"\nRATE = 1.50\ndb = {user = \"u\"}\n").await;
    expected[1] = ("PASSWORD", "hunter3");
    eventually("the changed config.toml", Duration::from_secs(25), async || {
        match world.secret_data("etl").await.unwrap().get("PASSWORD").map(String::as_str) {
            Some("hunter3") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.eventually_secret("etl", &expected).await;
}

#[tokio::test]
async fn local_secrets_come_first_and_an_unreadable_file_is_never_a_way_to_the_api() {
    let world = World::new("local").await;
    let prefect = prefect().await;
    let proxy = Proxy::start(prefect.url()).await;
    let [both, remote] = ["in-both", "remote"].map(|name| world.name(name));
    prefect.set_secret(&both, json!("from the API")).await;
    prefect.set_secret(&remote, json!("from the API")).await;
    // The same name as a variable, or of another type, is not what the file holds.
    prefect.set_variable(&both, json!("a variable")).await;
    let good = format!("[context.secrets]\n{both} = \"from the file\"\n");
    config(&world, &good).await;
    let spec = json!({"local": local(), "api": {"url": proxy.url()}, "refreshInterval": "1s", "staleAfter": "0s"});
    world.workspace_spec("default", &spec.to_string()).await;
    let variable = json!({"secretKey": "VARIABLE", "remoteRef": {"variable": both}});
    let data = json!([entry("BOTH", &both), entry("REMOTE", &remote), variable]);
    world.apply(&psec("etl", json!({"data": data, "target": {"deletionPolicy": "Delete"}}))).await;
    let delivered = [("BOTH", "from the file"), ("REMOTE", "from the API"), ("VARIABLE", "a variable")];
    world.eventually_secret("etl", &delivered).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let from = sources(&world, "etl").await;
    assert_eq!([&from["BOTH"], &from["REMOTE"], &from["VARIABLE"]], ["Local", "Api", "Api"]);
    let version = world.version("Secret", "etl").await;

    let namespace = &world.namespace;
    let invalid = format!("Secret {namespace}/prefect-config key \"config.toml\": config.toml");
    for (text, why) in [
        (format!("{good}other = canary\n"), format!("{invalid} is not TOML: line 3, column 9: ")),
        ("[context]\nsecrets = \"canary\"\n".into(), format!("{invalid}: context.secrets must be a table")),
        (format!("{good}x = inf\n"), format!("{invalid}: secret \"x\" holds inf or nan")),
    ] {
        config(&world, &text).await;
        for (kind, name) in [("PrefectWorkspace", "default"), ("PrefectSecret", "etl")] {
            eventually(&format!("{kind} to say {why}"), SOON, async || match world.ready(kind, name).await {
                Some(ready) if ready.reason == "LocalInvalid" && ready.message.starts_with(&why) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        }
        let asked = proxy.requests().len();
        // Asks for what the API has and the file may have.
        world.apply(&psec("late", json!({"data": [entry("BOTH", &both)]}))).await;
        let said = world.eventually_message("PrefectSecret", "late", "LocalInvalid").await;
        assert!(said.ends_with("The target is not written until this is solved"), "{said}");
        assert_eq!(world.secret_data("late").await, None);
        assert_eq!(proxy.requests().len(), asked, "the API was asked");
        world.api("PrefectSecret").delete("late", &Default::default()).await.unwrap();
    }
    assert_eq!(world.version("Secret", "etl").await, version);

    // Readable again, and without the name: now it is the API's.
    config(&world, "[context.secrets]\n").await;
    let delivered = [("BOTH", "from the API"), ("REMOTE", "from the API"), ("VARIABLE", "a variable")];
    world.eventually_secret("etl", &delivered).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    assert_eq!(sources(&world, "etl").await["BOTH"], "Api");
    assert!(!world.stop_operator().await.contains("canary"));
}

/// What the real Prefect 1 client takes as it is: it expands `$` and `~`, and parses what looks like a number or
/// JSON.
const PLAIN: [(&str, &str); 7] = [
    ("PASSWORD", "hunter2"),
    ("SPACES", "  two words  "),
    ("SIGNS", "a=b;c:d/e@f%g#h&i+j"),
    ("BACKSLASH", r"C:\temp"),
    ("UNICODE", "grüße ☃"),
    ("ZEROS", "007"),
    ("PEM", "-----BEGIN KEY-----\nMIIB/+==\n-----END KEY-----\n"),
];

/// Prints what `Secret(NAME).get()` gives, by name.
const ASK: &str = r#"
import json
from prefect.client import Secret
print(json.dumps({name: Secret(name).get() for name in NAMES}))
"#;

#[tokio::test]
async fn the_real_prefect_1_client_reads_what_was_delivered_and_the_same_file_alike() {
    let world = World::new("prefect-one").await;
    let mut text = "[context.secrets]\n".to_owned();
    for (name, value) in PLAIN {
        // A JSON string is a TOML string too.
        text.push_str(&format!("{name} = {}\n", json!(value)));
    }
    config(&world, &text).await;
    world.workspace_spec("default", &json!({"local": local()}).to_string()).await;
    let data: Vec<Value> = PLAIN.iter().map(|(name, _)| entry(name, name)).collect();
    world.apply(&psec("etl", json!({"data": data}))).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let delivered = world.secret_data("etl").await.unwrap();
    let expected: BTreeMap<String, String> = PLAIN.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    assert_eq!(delivered, expected);

    let names: Vec<&str> = PLAIN.iter().map(|(name, _)| *name).collect();
    let snippet = format!("NAMES = {}{ASK}", json!(names));
    let answers = |env: Vec<(String, String)>| -> BTreeMap<String, String> {
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        serde_json::from_str(&prefect1(&snippet, &env)).unwrap()
    };
    // As `envFrom` with a prefix gives them to a flow's pod.
    let from_env = delivered.iter().map(|(name, value)| (format!("PREFECT__CONTEXT__SECRETS__{name}"), value.clone()));
    assert_eq!(answers(from_env.collect()), expected);
    // The file that the operator read.
    let scratch = Scratch::new("config-toml");
    let path = scratch.path().join("config.toml");
    std::fs::write(&path, &text).unwrap();
    assert_eq!(answers(vec![("PREFECT__USER_CONFIG_PATH".into(), path.display().to_string())]), expected);
}
