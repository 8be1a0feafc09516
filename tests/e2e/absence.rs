//! The design's table: what an absence does under Retain and Delete, and that no failure does anything.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::fixture::{Ready, SOON, World, object, prefect, psec, timeless};
use crate::support::{Mode, Prefect, PrefectOptions, Proxy, eventually};

/// What a message says to do about a name that is not like any that is there.
const CREATE: &str = "; create it in Prefect, or correct remoteRef";
/// The end of the message of a workspace that can't be read.
const KEPT: &str = "Not ready since TIME; targets keep what they hold";

/// What such a message adds where only time helps.
fn again(reason: &str) -> &'static str {
    if reason == "PrefectUnreachable" { "; tried again at least every 1s" } else { "" }
}

/// Waits until `Ready` is exactly this.
async fn eventually_ready(world: &World, name: &str, status: &str, reason: &str, message: &str) {
    let expected = Ready { status: status.into(), reason: reason.into(), message: message.into() };
    eventually(&format!("PrefectSecret {name} to be {expected:?}"), SOON, async || {
        match world.ready("PrefectSecret", name).await {
            Some(ready) if ready == expected => Ok(()),
            other => Err(format!("it is {other:?}")),
        }
    })
    .await;
}

async fn entry(world: &World, name: &str, key: &str) -> Value {
    let stored = world.get("PrefectSecret", name).await;
    let entries = stored["status"]["entries"].as_array().cloned().unwrap_or_default();
    entries.into_iter().find(|entry| entry["key"] == key).unwrap_or_default()
}

async fn eventually_state(world: &World, name: &str, key: &str, state: &str) {
    eventually(&format!("{key} of {name} to be {state}"), SOON, async || {
        let entry = entry(world, name, key).await;
        if entry["state"] == state { Ok(()) } else { Err(entry.to_string()) }
    })
    .await;
}

async fn eventually_no_secret(world: &World, name: &str) {
    eventually(&format!("Secret {name} to go"), SOON, async || match world.secret_data(name).await {
        None => Ok(()),
        Some(data) => Err(format!("it holds {:?}", data.keys())),
    })
    .await;
}

fn of(key: &str, reference: &Value) -> Value {
    json!({"secretKey": key, "remoteRef": reference})
}

/// Five variables that stay, so that what a test deletes is never most of the workspace.
async fn ballast(world: &World) {
    let mut data = Vec::new();
    for n in 0..5 {
        let name = world.name(&format!("ballast-{n}"));
        prefect().await.set_variable(&name, json!(n)).await;
        data.push(of(&format!("B{n}"), &json!({"variable": name})));
    }
    world.apply(&psec("ballast", json!({"data": data}))).await;
    world.eventually_reason("PrefectSecret", "ballast", "Synced").await;
}

#[tokio::test]
async fn a_confirmed_absence_does_what_the_deletion_policy_says() {
    let world = World::with_prefect("absence").await;
    let prefect = prefect().await;
    // Unlike each other, so that no message suggests one for another.
    let [stay, required, optional, defaulted, never] = [
        "stays-as-it-is-forever",
        "required-block",
        "optional-and-then-deleted-variable",
        "a-variable-with-a-default-value",
        "no-such-secret-was-ever-made-here",
    ]
    .map(|name| world.name(name));
    prefect.set_variable(&stay, json!("1")).await;
    prefect.set_secret(&required, json!("1")).await;
    prefect.set_variable(&optional, json!("1")).await;
    prefect.set_variable(&defaulted, json!("1")).await;
    ballast(&world).await;

    let stay_entry = of("STAY", &json!({"variable": stay}));
    let never_entry = of("NEVER", &json!({"key": never}));
    let with = |mut entry: Value, field: &str, value: Value| {
        entry[field] = value;
        entry
    };
    let all = json!([
        stay_entry,
        of("REQ", &json!({"key": required})),
        with(of("OPT", &json!({"variable": optional})), "optional", json!(true)),
        with(of("DEF", &json!({"variable": defaulted})), "default", json!("d")),
        with(of("OPT_NEVER", &json!({"key": never})), "optional", json!(true)),
        with(of("DEF_NEVER", &json!({"key": never})), "default", json!("d")),
    ]);
    let policies = ["Retain", "Delete"];
    for policy in policies {
        let (lower, target) = (policy.to_lowercase(), json!({"deletionPolicy": policy}));
        world.apply(&psec(&lower, json!({"data": all, "target": target}))).await;
        let data = json!([stay_entry, never_entry]);
        world.apply(&psec(&format!("never-{lower}"), json!({"data": data, "target": target}))).await;
        let data = json!([stay_entry]);
        world.apply(&psec(&format!("extended-{lower}"), json!({"data": data, "target": target}))).await;
    }
    let namespace = &world.namespace;
    let mut versions = BTreeMap::new();
    for policy in policies {
        let name = policy.to_lowercase();
        let delivered = [("DEF", "1"), ("DEF_NEVER", "d"), ("OPT", "1"), ("REQ", "1"), ("STAY", "1")];
        world.eventually_secret(&name, &delivered).await;
        let message = format!("6 of 6 keys synced to Secret {namespace}/{name}");
        eventually_ready(&world, &name, "True", "Synced", &message).await;

        // Required and never delivered: not created, or left as it was.
        let missing = format!("no secret block {never:?} in workspace default{CREATE}");
        let unwritten = format!("{missing}. The target is not written until this is solved");
        eventually_ready(&world, &format!("never-{name}"), "False", "KeyNotFound", &unwritten).await;
        let extended = format!("extended-{name}");
        world.eventually_reason("PrefectSecret", &extended, "Synced").await;
        versions.insert(extended.clone(), world.version("Secret", &extended).await);
        let (data, target) = (json!([stay_entry, never_entry]), json!({"deletionPolicy": policy}));
        world.apply(&psec(&extended, json!({"data": data, "target": target}))).await;
        let said = world.eventually_message("PrefectSecret", &extended, "KeyNotFound").await;
        assert_eq!(said, format!("{missing}. Target unchanged since TIME"));
    }

    prefect.delete_block("secret", &required).await;
    prefect.delete_variable(&optional).await;
    prefect.delete_variable(&defaulted).await;
    prefect.set_variable(&stay, json!("2")).await;
    let missing = format!("no secret block {required:?} in workspace default{CREATE}. Key \"REQ\"");
    let kept = [("DEF", "d"), ("DEF_NEVER", "d"), ("REQ", "1"), ("STAY", "2")];
    world.eventually_secret("retain", &kept).await;
    eventually_ready(&world, "retain", "False", "KeyNotFound", &format!("{missing} keeps its last value")).await;
    world.eventually_secret("delete", &[("DEF", "d"), ("DEF_NEVER", "d"), ("STAY", "2")]).await;
    let removed = format!("{missing} was removed, as spec.target.deletionPolicy says");
    eventually_ready(&world, "delete", "False", "KeyNotFound", &removed).await;
    for (name, version) in &versions {
        // The new value of STAY was seen, and still nothing written.
        eventually_state(&world, name, "STAY", "Retained").await;
        assert_eq!(world.version("Secret", name).await, *version, "{name} was written");
    }
    for policy in policies {
        assert_eq!(world.secret_data(&format!("never-{}", policy.to_lowercase())).await, None);
    }

    prefect.set_secret(&required, json!("3")).await;
    let back = [("DEF", "d"), ("DEF_NEVER", "d"), ("REQ", "3"), ("STAY", "2")];
    for policy in policies {
        world.eventually_secret(&policy.to_lowercase(), &back).await;
        world.eventually_reason("PrefectSecret", &policy.to_lowercase(), "Synced").await;
    }
}

#[tokio::test]
async fn under_delete_the_object_goes_with_its_last_key_and_comes_back_with_the_first() {
    let world = World::with_prefect("last").await;
    let prefect = prefect().await;
    let [first, second] = ["the-first-of-two", "another-one-as-well"].map(|name| world.name(name));
    prefect.set_secret(&first, json!("1")).await;
    prefect.set_secret(&second, json!("1")).await;
    ballast(&world).await;
    let data = json!([of("FIRST", &json!({"key": first})), of("SECOND", &json!({"key": second}))]);
    world.apply(&psec("both", json!({"data": data, "target": {"deletionPolicy": "Delete"}}))).await;
    world.eventually_secret("both", &[("FIRST", "1"), ("SECOND", "1")]).await;

    prefect.delete_block("secret", &first).await;
    world.eventually_secret("both", &[("SECOND", "1")]).await;
    prefect.delete_block("secret", &second).await;
    eventually_no_secret(&world, "both").await;
    let message = format!(
        "no secret block {first:?} in workspace default{CREATE}. Key \"FIRST\" was removed, as spec.target.deletionPolicy says (and 1 more: see status.entries)"
    );
    eventually_ready(&world, "both", "False", "KeyNotFound", &message).await;

    prefect.set_secret(&first, json!("2")).await;
    world.eventually_secret("both", &[("FIRST", "2")]).await;
    prefect.set_secret(&second, json!("2")).await;
    world.eventually_secret("both", &[("FIRST", "2"), ("SECOND", "2")]).await;
    world.eventually_reason("PrefectSecret", "both", "Synced").await;
}

#[tokio::test]
async fn promise_2_failure_never_destroys() {
    let world = World::new("failure").await;
    let prefect = prefect().await;
    let [required, optional, defaulted] = ["required", "optional", "defaulted"].map(|name| world.name(name));
    prefect.set_secret(&required, json!("1")).await;
    prefect.set_secret(&optional, json!("1")).await;
    prefect.set_variable(&defaulted, json!("1")).await;
    let elsewhere = Proxy::start(prefect.url()).await;
    let answer = |status: u16, body: &str| Mode::Answer(status, vec![], body.to_owned());
    let login = ("location", format!("{}/login", elsewhere.url()));
    let unauthorized = r#"{"exception_message":"Unauthorized"}"#;
    let rejected = r#"{"exception_message":"Invalid request received.","exception_detail":[],"request_body":{}}"#;
    let not_api = r#"HOST answered, but not as Prefect's API; is spec.api.url what PREFECT_API_URL holds (status.apiUrl is what was asked), and is no login page in between?"#;
    let cases = [
        (
            answer(401, unauthorized),
            "CredentialsRefused",
            "Prefect at HOST answered 401 to a workspace without credentials; set spec.api.apiKey (Prefect Cloud) or spec.api.authString (self-hosted)",
        ),
        (
            answer(403, r#"{"detail":"Forbidden"}"#),
            "CredentialsRefused",
            "Prefect at HOST answered 403 to a workspace without credentials; set spec.api.apiKey (Prefect Cloud) or spec.api.authString (self-hosted)",
        ),
        (answer(404, r#"{"detail":"Not Found"}"#), "NotPrefectApi", not_api),
        (answer(422, rejected), "PrefectRejected", "Prefect at HOST answered 422; is the name as Prefect writes it?"),
        (
            answer(429, r#"{"detail":"slow down"}"#),
            "PrefectThrottled",
            "Prefect at HOST answered 429: too many requests; it is asked again later",
        ),
        (
            answer(500, r#"{"exception_message":"Internal Server Error"}"#),
            "PrefectUnreachable",
            "Prefect at HOST answered 500; its own log says why",
        ),
        (
            answer(503, r#"{"exception_message":"Service Unavailable"}"#),
            "PrefectUnreachable",
            "Prefect at HOST answered 503; its own log says why",
        ),
        (answer(200, "<html><body>Welcome</body></html>"), "NotPrefectApi", not_api),
        (answer(200, "[]"), "NotPrefectApi", not_api),
        (answer(200, "null"), "NotPrefectApi", not_api),
        (Mode::Answer(302, vec![login], String::new()), "NotPrefectApi", not_api),
        (Mode::Cut, "PrefectUnreachable", "cannot reach HOST: the connection was cut before the answer was complete"),
    ];
    let mut proxies = Vec::new();
    for at in 0..cases.len() {
        let (name, proxy) = (format!("case-{at}"), Proxy::start(prefect.url()).await);
        let spec = json!({"api": {"url": proxy.url()}, "refreshInterval": "1s", "staleAfter": "0s"});
        world.workspace_spec(&name, &spec.to_string()).await;
        // What would go at once if the failure were taken for an absence.
        let data = json!([
            of("REQ", &json!({"key": required})),
            {"secretKey": "OPT", "remoteRef": {"key": optional}, "optional": true},
            {"secretKey": "DEF", "remoteRef": {"variable": defaulted}, "default": "d"},
        ]);
        let target = json!({"deletionPolicy": "Delete"});
        world.apply(&psec(&name, json!({"workspaceRef": {"name": name}, "data": data, "target": target}))).await;
        proxies.push((name, proxy));
    }
    let mut versions = Vec::new();
    for (name, _) in &proxies {
        world.eventually_reason("PrefectSecret", name, "Synced").await;
        versions.push(world.version("Secret", name).await);
    }
    for ((_, proxy), (mode, _, _)) in proxies.iter().zip(&cases) {
        proxy.set(mode.clone());
    }
    let mut since = Vec::new();
    for ((name, proxy), (mode, reason, message)) in proxies.iter().zip(&cases) {
        let message = message.replace("HOST", &proxy.host());
        let full_stop = if message.ends_with('?') { "" } else { "." };
        let said = world.eventually_message("PrefectSecret", name, reason).await;
        assert_eq!(said, format!("{message}{full_stop} Target unchanged since TIME"), "{mode:?}");
        let said = world.eventually_reason("PrefectWorkspace", name, reason).await;
        assert_eq!(timeless(&said.message), format!("{message}{full_stop} {KEPT}{}", again(reason)));
        since.push(said);
    }
    // More failures confirm nothing, and the time stays that of the first. (Refused credentials are tried again
    // after a minute only.)
    let before: Vec<usize> = proxies.iter().map(|(_, proxy)| proxy.requests().len()).collect();
    for (at, (name, proxy)) in proxies.iter().enumerate().filter(|(at, _)| cases[*at].1 != "CredentialsRefused") {
        eventually(&format!("more failures of {name}"), SOON, async || match proxy.requests().len() - before[at] {
            4.. => Ok(()),
            few => Err(format!("{few}")),
        })
        .await;
        assert_eq!(world.ready("PrefectWorkspace", name).await.as_ref(), Some(&since[at]));
    }
    assert_eq!(elsewhere.requests(), [""; 0], "a redirect was followed");
    for ((name, _), version) in proxies.iter().zip(&versions) {
        assert_eq!(world.version("Secret", name).await, *version, "{name} was written");
    }
    // The same path works again: what was compared above could have changed.
    prefect.set_secret(&required, json!("2")).await;
    for (name, proxy) in &proxies {
        proxy.set(Mode::Pass);
        // Another state of the workspace, since refused credentials are tried again after a minute only.
        let spec = json!({"api": {"url": proxy.url()}, "refreshInterval": "2s", "staleAfter": "0s"});
        world.workspace_spec(name, &spec.to_string()).await;
    }
    for (name, _) in &proxies {
        world.eventually_secret(name, &[("DEF", "1"), ("OPT", "1"), ("REQ", "2")]).await;
        world.eventually_reason("PrefectWorkspace", name, "Connected").await;
    }
}

#[tokio::test]
async fn only_prefects_exact_answer_by_name_is_an_absence() {
    let world = World::new("exactly").await;
    let prefect = prefect().await;
    let proxy = Proxy::start(prefect.url()).await;
    let spec = json!({"api": {"url": proxy.url()}, "refreshInterval": "1s", "staleAfter": "0s"});
    world.workspace_spec("default", &spec.to_string()).await;
    ballast(&world).await;
    let name = world.name("only");
    prefect.set_secret(&name, json!("1")).await;
    let data = json!([{"secretKey": "K", "remoteRef": {"key": name}, "optional": true}]);
    world.apply(&psec("only", json!({"data": data, "target": {"deletionPolicy": "Delete"}}))).await;
    world.eventually_secret("only", &[("K", "1")]).await;
    let version = world.version("Secret", "only").await;
    let by_name = format!("GET /api/block_types/slug/secret/block_documents/name/{name}?include_secrets=true");
    let asked_by_name = async |times: usize| {
        let before = proxy.requests().len();
        eventually("requests by name", SOON, async || {
            let requests = proxy.requests();
            let count = requests[before..].iter().filter(|request| **request == by_name).count();
            if count >= times { Ok(()) } else { Err(format!("{count} of them")) }
        })
        .await;
    };

    // A list omits what the key may no longer see.
    proxy.set(Mode::AnswerWhere("/block_documents/filter".into(), 200, "[]".into()));
    asked_by_name(4).await;
    assert_eq!(world.version("Secret", "only").await, version);
    world.eventually_reason("PrefectSecret", "only", "Synced").await;

    // Gone now, but who says so is not Prefect.
    proxy.set(Mode::AnswerWhere(format!("/name/{name}"), 404, r#"{"detail":"Not Found"}"#.into()));
    prefect.delete_block("secret", &name).await;
    world.eventually_reason("PrefectSecret", "only", "NotPrefectApi").await;
    asked_by_name(2).await;
    assert_eq!(world.version("Secret", "only").await, version);

    proxy.set(Mode::Pass);
    eventually_no_secret(&world, "only").await;
    world.eventually_reason("PrefectSecret", "only", "Synced").await;
}

#[tokio::test]
async fn a_key_that_prefect_rejects_is_that_keys_trouble_only() {
    let world = World::new("rejected").await;
    let prefect = prefect().await;
    let proxy = Proxy::start(prefect.url()).await;
    world.workspace(&proxy.url()).await;
    let [bad, good] = ["bad", "good"].map(|name| world.name(name));
    prefect.set_secret(&bad, json!("1")).await;
    prefect.set_secret(&good, json!("1")).await;
    for (object, name) in [("bad", &bad), ("good", &good)] {
        let data = json!([{"secretKey": "K", "remoteRef": {"key": name}, "optional": true}]);
        world.apply(&psec(object, json!({"data": data, "target": {"deletionPolicy": "Delete"}}))).await;
        world.eventually_secret(object, &[("K", "1")]).await;
    }
    let version = world.version("Secret", "bad").await;
    for (status, reason, message) in [
        (422, "PrefectRejected", format!("answered 422 for secret block {bad:?}; is the name as Prefect writes it?")),
        (500, "PrefectUnreachable", format!("answered 500 for secret block {bad:?}; its own log says why.")),
    ] {
        // Every request that names it, whether alone or with others.
        proxy.set(Mode::AnswerWhere(format!("\"{bad}\""), status, r#"{"exception_message":"no"}"#.into()));
        let said = world.eventually_message("PrefectSecret", "bad", reason).await;
        assert_eq!(said, format!("Prefect at {} {message} Target unchanged since TIME", proxy.host()));
        prefect.set_secret(&good, json!(status.to_string())).await;
        world.eventually_secret("good", &[("K", &status.to_string())]).await;
        assert_eq!(world.version("Secret", "bad").await, version);
        world.connected().await;
    }
}

#[tokio::test]
async fn an_object_stays_ready_through_an_outage_until_it_is_stale() {
    let world = World::new("stale").await;
    let prefect = prefect().await;
    let proxy = Proxy::start(prefect.url()).await;
    let name = world.name("key");
    prefect.set_secret(&name, json!("1")).await;
    for (workspace, stale_after) in [("soon", "3s"), ("late", "1h")] {
        let spec = json!({"api": {"url": proxy.url()}, "refreshInterval": "1s", "staleAfter": stale_after});
        world.workspace_spec(workspace, &spec.to_string()).await;
        let data = json!([of("K", &json!({"key": name}))]);
        world.apply(&psec(workspace, json!({"workspaceRef": {"name": workspace}, "data": data}))).await;
        world.eventually_reason("PrefectSecret", workspace, "Synced").await;
    }
    let version = world.version("Secret", "soon").await;

    proxy.set(Mode::Answer(503, vec![], r#"{"exception_message":"Service Unavailable"}"#.into()));
    world.eventually_reason("PrefectWorkspace", "late", "PrefectUnreachable").await;
    let said = world.eventually_message("PrefectSecret", "soon", "PrefectUnreachable").await;
    let host = proxy.host();
    assert_eq!(said, format!("Prefect at {host} answered 503; its own log says why. Target unchanged since TIME"));
    let stored = world.get("PrefectSecret", "soon").await;
    let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
    let turned = time(&stored["status"]["conditions"][0]["lastTransitionTime"]);
    let ready_for = turned.duration_since(time(&stored["status"]["failingSince"]));
    assert!(ready_for.as_secs() >= 3, "not ready after {ready_for:?} already");

    // One that is well yet finds its last values even for a target that someone deletes.
    assert_eq!(world.ready("PrefectSecret", "late").await.unwrap().status, "True");
    world.secrets().delete("late", &Default::default()).await.unwrap();
    world.eventually_secret("late", &[("K", "1")]).await;

    proxy.set(Mode::Pass);
    world.eventually_reason("PrefectSecret", "soon", "Synced").await;
    world.eventually_reason("PrefectWorkspace", "soon", "Connected").await;
    assert_eq!(world.version("Secret", "soon").await, version);
}

#[tokio::test]
async fn promise_2_an_emptied_database_removes_nothing_not_even_after_a_restart() {
    let world = World::new("emptied").await;
    let mut prefect = Prefect::start(PrefectOptions::default()).await;
    let fill = async |prefect: &Prefect, value: &str| {
        for name in ["one", "two", "three"] {
            prefect.set_secret(name, json!(value)).await;
        }
        prefect.set_variable("four", json!(value)).await;
    };
    fill(&prefect, "1").await;
    world.workspace(prefect.url()).await;
    let target = json!({"deletionPolicy": "Delete"});
    let data = json!([
        of("ONE", &json!({"key": "one"})),
        {"secretKey": "TWO", "remoteRef": {"key": "two"}, "optional": true},
        {"secretKey": "THREE", "remoteRef": {"key": "three"}, "default": "d"},
    ]);
    world.apply(&psec("etl", json!({"data": data, "target": target}))).await;
    let data = json!([{"configMapKey": "FOUR", "remoteRef": {"key": "four"}, "optional": true}]);
    world.apply(&object("PrefectKV", "etl", json!({"data": data, "target": target}))).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    world.eventually_reason("PrefectKV", "etl", "Synced").await;
    let versions = async || [world.version("Secret", "etl").await, world.version("ConfigMap", "etl").await];
    let before = versions().await;

    prefect.stop().await;
    let said = world.eventually_message("PrefectWorkspace", "default", "PrefectUnreachable").await;
    let (port, again) = (prefect.port(), again("PrefectUnreachable"));
    assert_eq!(
        said,
        format!(
            "cannot reach 127.0.0.1:{port}: connection refused: localhost inside a pod is the pod itself, use Prefect's Service name there; outside, is Prefect running, and is the port right? {KEPT}{again}"
        )
    );
    prefect.wipe().await;
    let vanished = "Most of what workspace default delivered vanished with it, as when a database is emptied or a permission lost: nothing is removed. To let it go, remove the entry";
    let check = async || {
        let said = world.eventually_message("PrefectWorkspace", "default", "KeysVanished").await;
        assert_eq!(
            said,
            "4 of the 4 keys that targets hold vanished from Prefect together, as when a database is emptied or a permission lost: targets keep them. Restore them, or remove their entries"
        );
        let said = world.eventually_reason("PrefectSecret", "etl", "KeysVanished").await;
        let missing = "no secret block \"one\" in workspace default";
        assert_eq!(
            said.message,
            format!("{missing}{CREATE}. {vanished}. Key \"ONE\" keeps its last value (and 2 more: see status.entries)")
        );
        for key in ["ONE", "TWO", "THREE"] {
            assert_eq!(entry(&world, "etl", key).await["state"], "Retained");
        }
        let said = world.eventually_reason("PrefectKV", "etl", "KeysVanished").await;
        assert_eq!(said.message, format!("no variable \"four\" in workspace default{CREATE}. {vanished}"));
        // Long enough for two exact answers an interval apart, and one more.
        let reads = || world.log().matches(r#""message":"read""#).count();
        let so_far = reads();
        eventually("three more reads", SOON, async || match reads() - so_far {
            3.. => Ok(()),
            few => Err(format!("{few}")),
        })
        .await;
        assert_eq!(versions().await, before);
    };
    check().await;
    world.stop_operator().await;
    world.start_operator();
    check().await;

    fill(&prefect, "2").await;
    world.eventually_secret("etl", &[("ONE", "2"), ("THREE", "2"), ("TWO", "2")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    world.eventually_reason("PrefectKV", "etl", "Synced").await;
    world.connected().await;
}
