//! Prefect 1 Cloud, as far as a stand-in can be it: the real client 1.4.1 performs its own calls against it first.

use serde_json::{Value, json};

use kube::api::{Patch, PatchParams};

use crate::fixture::{SOON, World, object, psec};
use crate::support::prefect1_server::TENANT;
use crate::support::python::prefect1;
use crate::support::{Prefect1Server, eventually};

const KEY: &str = "pcu_canary-key";

/// The Secret with the key, and a workspace that names it.
async fn workspace(world: &World, url: &str, more: Value) {
    let metadata = json!({"name": "prefect1-key", "labels": {"prefect-sync.dev/offer": "workspace"}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"key": KEY}});
    world.apply(&secret.to_string()).await;
    let mut spec = json!({"apiUrl": url, "apiKey": {"secretKeyRef": {"name": "prefect1-key"}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.workspace_spec("default", &json!({"prefect1": spec, "refreshInterval": "1s"}).to_string()).await;
}

/// What each call of the real client's `Secret` and `kv_store` comes to.
const CALLS: &str = r#"
import json
import prefect
from prefect.client import Secret
from prefect.backend import set_key_value, get_key_value, delete_key, list_keys
client = prefect.Client()
client.set_secret("DB", {"user": "u", "n": 1.5})
client.set_secret("TEXT", "123")
out = [Secret("DB").get(), Secret("TEXT").get()]
try:
    Secret("NONE").get()
except KeyError as error:
    out.append("KeyError")
out.append(isinstance(set_key_value("a \"quoted\" key", [1, "x"]), str))
set_key_value("other", "y")
out += [get_key_value("a \"quoted\" key"), list_keys()]
out.append(delete_key("other"))
try:
    get_key_value("other")
except ValueError:
    out.append("ValueError")
out.append(client.tenant_id)
print(json.dumps(out))
"#;

fn real_client(url: &str) -> Value {
    let env = [
        ("PREFECT__BACKEND", "cloud"),
        ("PREFECT__CLOUD__API", url),
        ("PREFECT__CLOUD__API_KEY", KEY),
        ("PREFECT__CLOUD__USE_LOCAL_SECRETS", "false"),
    ];
    serde_json::from_str(&prefect1(CALLS, &env)).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stand_in_is_what_the_real_client_takes_it_for_and_we_ask_as_it_does() {
    let server = Prefect1Server::start(KEY).await;
    let url = server.url();
    let said = tokio::task::spawn_blocking(move || real_client(&url)).await.unwrap();
    let expected = json!([
        {"user": "u", "n": 1.5}, 123, "KeyError", true, [1, "x"], ["a \"quoted\" key", "other"], true, "ValueError", TENANT
    ]);
    assert_eq!(said, expected);
    let asked_by_it = server.requests();

    let world = World::new("one-calls").await;
    workspace(&world, &server.url(), json!({})).await;
    let data = json!([
        {"secretKey": "DB", "remoteRef": {"key": "DB"}},
        {"secretKey": "USER", "remoteRef": {"key": "DB", "property": "user"}},
        {"secretKey": "TEXT", "remoteRef": {"key": "TEXT"}},
        {"secretKey": "PAIR", "remoteRef": {"variable": "a \"quoted\" key"}},
        {"secretKey": "GONE", "remoteRef": {"variable": "other"}, "optional": true},
    ]);
    world.apply(&psec("etl", json!({"data": data}))).await;
    let expected = [("DB", r#"{"user":"u","n":1.5}"#), ("PAIR", r#"[1,"x"]"#), ("TEXT", "123"), ("USER", "u")];
    let expected: Vec<(&str, &str)> = expected.to_vec();
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let found = world.secret_data("etl").await.unwrap();
    let found: Vec<(&str, &str)> = found.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(found.len(), expected.len());
    assert_eq!((found[1], found[2], found[3]), (expected[1], expected[2], expected[3]));
    // The stand-in's own JSON orders members.
    assert_eq!(serde_json::from_str::<Value>(found[0].1).unwrap(), json!({"user": "u", "n": 1.5}));
    // Every question of ours is one of the real client's.
    let ours: Vec<String> = server.requests().split_off(asked_by_it.len());
    assert!(ours.len() > 4);
    for request in ours {
        assert!(asked_by_it.contains(&request), "it never asks {request}");
    }
    // The workspace's status is written beside the object's.
    eventually("the workspace says that it polls a Prefect 1", SOON, async || {
        let status = world.get("PrefectWorkspace", "default").await["status"].clone();
        match (&status["serverVersion"], &status["events"]["mode"]) == (&json!("1"), &json!("Polling")) {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    })
    .await;
    assert!(!world.log().contains("canary"));
}

#[tokio::test]
async fn prefect_1_is_followed_found_and_survived() {
    let server = Prefect1Server::start(KEY).await;
    server.set_secret("ETL_A", json!("a-1"));
    server.set_secret("ETL_B", json!("b-1"));
    server.set_key_value("last", json!("2020"));
    let world = World::new("one").await;
    workspace(&world, &server.url(), json!({"tenantId": TENANT})).await;
    let spec = json!({"dataFrom": [{"find": {"name": {"regexp": "^ETL_"}}}]});
    world.apply(&psec("found", spec)).await;
    world.eventually_secret("found", &[("ETL_A", "a-1"), ("ETL_B", "b-1")]).await;
    let entry = json!({"configMapKey": "LAST", "remoteRef": {"key": "last"}});
    world.apply(&object("PrefectKV", "kv", json!({"data": [entry]}))).await;
    world.eventually_reason("PrefectKV", "kv", "Synced").await;
    assert_eq!(json!(world.config_maps().get("kv").await.unwrap().data), json!({"LAST": "2020"}));
    server.set_secret("ETL_A", json!("a-2"));
    world.eventually_secret("found", &[("ETL_A", "a-2"), ("ETL_B", "b-1")]).await;
    // Out of reach nothing goes; back, it follows, and what is deleted goes.
    server.fail(Some(503));
    world.eventually_reason("PrefectWorkspace", "default", "PrefectUnreachable").await;
    assert_eq!(world.secret_data("found").await.unwrap().len(), 2);
    server.fail(None);
    server.delete_secret("ETL_B");
    world.eventually_secret("found", &[("ETL_A", "a-2")]).await;
    // What it has not is said in its own terms, and a near name is offered.
    let aws = json!({"data": [{"secretKey": "A", "remoteRef": {"key": "x", "blockType": "aws-credentials"}}]});
    world.apply(&psec("aws", aws)).await;
    let message = world.eventually_message("PrefectSecret", "aws", "NotInPrefect1").await;
    assert_eq!(
        message,
        "aws-credentials block \"x\": Prefect 1 has no blocks; only secrets and key-value pairs can be read. The target is not written until this is solved"
    );
    let typo = json!({"data": [{"secretKey": "A", "remoteRef": {"key": "ETL-A"}}]});
    world.apply(&psec("typo", typo)).await;
    world.eventually_hint("PrefectSecret", "typo", "ETL_A").await;
    // A key that is refused.
    server.fail(Some(401));
    let message = world.eventually_message("PrefectWorkspace", "default", "CredentialsRefused").await;
    assert!(message.contains("answered 401 to Secret") && message.contains("prefect1-key"), "{message}");
    assert!(!world.log().contains("canary"));
}

#[tokio::test]
async fn whatever_prefect_1_answers_nothing_is_lost_and_one_bad_key_harms_no_other() {
    let server = Prefect1Server::start(KEY).await;
    for name in ["A", "B"] {
        server.set_secret(name, json!(format!("canary-{name}")));
    }
    server.set_key_value("pair", json!("canary-pair"));
    let world = World::new("one-faults").await;
    workspace(&world, &server.url(), json!({"tenantId": TENANT})).await;
    let entry = |name: &str| json!({"data": [{"secretKey": name, "remoteRef": {"key": name}}]});
    world.apply(&psec("a", entry("A"))).await;
    world.apply(&psec("b", entry("B"))).await;
    world.apply(&psec("all", json!({"dataFrom": [{"find": {"name": {"regexp": "^[AB]$"}}}]}))).await;
    let both = [("A", "canary-A"), ("B", "canary-B")];
    let intact = async || {
        assert_eq!(world.secret_data("a").await.unwrap()["A"], "canary-A");
        assert_eq!(world.secret_data("b").await.unwrap()["B"], "canary-B");
        world.eventually_secret("all", &both).await;
    };
    for name in ["a", "b", "all"] {
        world.eventually_reason("PrefectSecret", name, "Synced").await;
    }
    let errors =
        |code: &str| json!({"errors": [{"message": "canary: it failed", "extensions": {"code": code}}], "data": null});
    // One key's own trouble, in each of its shapes.
    for (status, body) in
        [(200, errors("X")), (400, errors("X")), (403, json!({})), (200, json!({"data": {"secret_value": null}}))]
    {
        server.fail_where(Some(("\"A\"", status, body.clone())));
        eventually(&format!("{status} {body} to be said of A alone"), SOON, async || {
            let (a, b) =
                (world.ready("PrefectSecret", "a").await.unwrap(), world.ready("PrefectSecret", "b").await.unwrap());
            if a.status == "False" && b.status == "True" { Ok(()) } else { Err(format!("{a:?} {b:?}")) }
        })
        .await;
        intact().await;
        server.fail_where(None);
        world.eventually_reason("PrefectSecret", "a", "Synced").await;
    }
    // A list that is refused, or says what only a secret can, is no list without anything.
    for body in [errors("X"), json!({"errors": [{"message": "No value found for the requested key"}]})] {
        server.fail_where(Some(("secret_names", 200, body)));
        eventually("the listing to fail", SOON, async || match world.ready("PrefectSecret", "all").await {
            Some(ready) if ready.status == "False" && ready.reason != "NothingFound" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        intact().await;
        assert_eq!(world.ready("PrefectSecret", "b").await.unwrap().status, "True");
        server.fail_where(None);
        world.eventually_reason("PrefectSecret", "all", "Synced").await;
    }
    // A key that is not valid any more, said with 200; and a server that answers nothing but errors.
    for (part, body, reason) in
        [("{", errors("UNAUTHENTICATED"), "CredentialsRefused"), ("{", errors("X"), "PrefectRejected")]
    {
        server.fail_where(Some((part, 200, body)));
        world.eventually_reason("PrefectWorkspace", "default", reason).await;
        intact().await;
        server.fail_where(None);
        // Refused credentials are tried again after a minute only; others are a new state at once.
        let patch = json!({"metadata": {"labels": {"round": reason.to_lowercase()}}});
        world.api("Secret").patch("prefect1-key", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        world.connected().await;
    }
    // What can't be listed there fails, and finds nothing less.
    let tags = json!({"dataFrom": [{"find": {"tags": ["x"]}}]});
    world.apply(&object("PrefectKV", "tags", tags)).await;
    let message = world.eventually_message("PrefectKV", "tags", "NotInPrefect1").await;
    assert!(message.contains("have no tags; use find.name.regexp"), "{message}");
    for (kind, name) in [("PrefectSecret", "a"), ("PrefectSecret", "all"), ("PrefectWorkspace", "default")] {
        assert!(!world.get(kind, name).await["status"].to_string().contains("canary"), "{kind} {name}");
    }
    assert!(!world.log().contains("canary"));
}

#[tokio::test]
async fn prefect_server_refuses_what_it_cannot_do_in_prefect_1s_own_terms() {
    let world = World::new("one-server").await;
    let metadata = json!({"name": "config", "labels": {"prefect-sync.dev/offer": "workspace"}});
    let text = "[context.secrets]\nA = \"local\"\n";
    let config =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"config.toml": text}});
    world.apply(&config.to_string()).await;
    let spec =
        json!({"prefect1": {"backend": "Server"}, "local": {"configToml": {"secretKeyRef": {"name": "config"}}}});
    world.workspace_spec("default", &spec.to_string()).await;
    let entry = |of: Value| json!({"data": [{"secretKey": "A", "remoteRef": of}]});
    world.apply(&psec("local", entry(json!({"key": "A"})))).await;
    world.eventually_secret("local", &[("A", "local")]).await;
    world.apply(&psec("none", entry(json!({"key": "B"})))).await;
    world.eventually_reason("PrefectSecret", "none", "KeyNotFound").await;
    world.apply(&psec("pair", entry(json!({"variable": "x"})))).await;
    let message = world.eventually_message("PrefectSecret", "pair", "NotInPrefect1").await;
    assert_eq!(
        message,
        "variable \"x\": KV Store operations are only supported while using Prefect Cloud as a backend (Prefect 1's words); set prefect1.backend to Cloud, or leave it out. The target is not written until this is solved"
    );
}
