//! Prefect 1 Cloud, as far as a stand-in can be it: the real client 1.4.1 performs its own calls against it first.

use serde_json::{Value, json};

use crate::fixture::{World, object, psec};
use crate::support::Prefect1Server;
use crate::support::prefect1_server::TENANT;
use crate::support::python::prefect1;

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
    let status = world.get("PrefectWorkspace", "default").await["status"].clone();
    assert_eq!((&status["serverVersion"], &status["events"]["mode"]), (&json!("1"), &json!("Polling")), "{status}");
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
    let message = world.eventually_message("PrefectSecret", "typo", "KeyNotFound").await;
    assert!(message.contains("did you mean \"ETL_A\"?"), "{message}");
    // A key that is refused.
    server.fail(Some(401));
    let message = world.eventually_message("PrefectWorkspace", "default", "CredentialsRefused").await;
    assert!(message.contains("answered 401 to Secret") && message.contains("prefect1-key"), "{message}");
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
