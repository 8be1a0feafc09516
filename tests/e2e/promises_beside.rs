//! The promises about the operator beside others: its memory, bad neighbours, and what is installed.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::fixture::{SOON, World, control_plane, manifests, passes, prefect};
use crate::support::{Mode, Proxy, eventually};

fn object(kind: &str, name: &str, spec: Value) -> String {
    json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
        .to_string()
}

fn prefect_secret(name: &str, workspace: &str, key: &str) -> String {
    let data = json!([{"secretKey": "A", "remoteRef": {"key": key}}]);
    object("PrefectSecret", name, json!({"workspaceRef": {"name": workspace}, "data": data}))
}

#[tokio::test]
async fn promise_7_memory_does_not_grow_with_the_secrets_of_others() {
    const OTHERS: usize = 300;
    const SIZE: usize = 100 * 1024;
    let world = World::with_prefect("memory").await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("0")).await;
    world.apply(&prefect_secret("etl", "default", &key)).await;
    world.eventually_secret("etl", &[("A", "0")]).await;
    let before = world.rss_kib();
    let filling = "x".repeat(SIZE);
    let secrets = world.secrets();
    futures::stream::iter(0..OTHERS)
        .for_each_concurrent(8, |n| {
            let other = json!({"metadata": {"name": format!("other-{n}"), "labels": {"team": "data"}}, "stringData": {"x": filling}});
            let other: Secret = serde_json::from_value(other).unwrap();
            let secrets = secrets.clone();
            async move { drop(secrets.create(&PostParams::default(), &other).await.unwrap()) }
        })
        .await;
    // Once as they came, once as a new operator finds them. What was followed since proves that it had the chance.
    for (round, restart) in [("1", false), ("2", true)] {
        if restart {
            world.stop_operator().await;
            world.start_operator();
        }
        prefect().await.set_secret(&key, json!(round)).await;
        world.eventually_secret("etl", &[("A", round)]).await;
        let now = world.rss_kib();
        assert!(now < before + 6 * 1024, "{before} KiB before, {now} KiB with 30 MB of Secrets that are not ours");
    }
}

#[tokio::test]
async fn promise_9_one_bad_object_harms_no_other() {
    let world = World::with_prefect("bad").await;
    let slow = Proxy::start(prefect().await.url()).await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("0")).await;
    world
        .apply(&object("PrefectWorkspace", "slow", json!({"api": {"url": slow.url()}, "refreshInterval": "1s"})))
        .await;
    world
        .apply(&object(
            "PrefectWorkspace",
            "nowhere",
            json!({"api": {"url": "http://127.0.0.1:1/api"}, "refreshInterval": "1s"}),
        ))
        .await;
    world.apply(&prefect_secret("slow", "slow", &key)).await;
    world.eventually_secret("slow", &[("A", "0")]).await;
    slow.set(Mode::Hang);
    let requests = slow.requests().len();
    eventually("the slow workspace to hang", SOON, async || {
        if slow.requests().len() > requests { Ok(()) } else { Err(String::new()) }
    })
    .await;
    let foreign: Secret = serde_json::from_value(json!({"metadata": {"name": "conflict"}})).unwrap();
    world.secrets().create(&PostParams::default(), &foreign).await.unwrap();
    let property = json!([{"secretKey": "A", "remoteRef": {"key": key, "property": "a["}}]);
    // More of each than there are workers.
    for n in 0..40 {
        world.apply(&prefect_secret(&format!("slow-{n}"), "slow", &key)).await;
    }
    world.apply(&object("PrefectSecret", "path", json!({"data": property}))).await;
    world.apply(&prefect_secret("conflict", "default", &key)).await;
    world.apply(&prefect_secret("nowhere", "nowhere", &key)).await;
    world.apply(&prefect_secret("good", "default", &key)).await;
    // All within the time that a request may hang, so that nobody was waited for.
    let within = Duration::from_secs(25);
    for (name, reason) in
        [("path", "PropertyInvalid"), ("conflict", "TargetConflict"), ("nowhere", "PrefectUnreachable")]
    {
        eventually(&format!("{name} to be {reason} at once"), within, async || {
            match world.ready("PrefectSecret", name).await {
                Some(ready) if ready.reason == reason => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    for round in ["1", "2", "3"] {
        prefect().await.set_secret(&key, json!(round)).await;
        eventually("the good one to follow within seconds", within, async || match world.secret_data("good").await {
            Some(data) if data["A"] == round => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert_eq!(world.secret_data("slow").await.unwrap()["A"], "0", "it hangs all the while");
    }
    slow.set(Mode::Pass);
}

/// Every schema keyword `default`, by where it stands; properties may be called so.
fn defaults(schema: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(members) = schema else {
        schema.as_array().into_iter().flatten().for_each(|item| defaults(item, at, found));
        return;
    };
    for (name, value) in members {
        let at = format!("{at}.{name}");
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.iter().for_each(|(property, schema)| defaults(schema, &format!("{at}.{property}"), found));
            }
            ("default", _) => found.push(at),
            _ => defaults(value, &at, found),
        }
    }
}

#[tokio::test]
async fn promise_10_there_are_no_webhooks_and_no_schema_defaults() {
    let mut kinds = Vec::new();
    for folder in ["crds", "deploy/manifests", "deploy/manifests-optional", "deploy/examples"] {
        for file in manifests(folder) {
            let text = std::fs::read_to_string(file).unwrap();
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
            kinds.extend(documents.iter().map(|document| document["kind"].as_str().unwrap().to_owned()));
        }
    }
    assert!(kinds.len() > 10 && !kinds.iter().any(|kind| kind.contains("Webhook")), "{kinds:?}");

    // As the API server has them after `kubectl apply -f crds/`, and nothing came besides.
    let installed = control_plane().await.kubectl_ok(&["get", "crd", "-o", "json"]);
    let installed: Value = serde_json::from_str(&installed).unwrap();
    let crds: Vec<&Value> = installed["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|crd| crd["spec"]["group"] == "prefect-sync.dev")
        .collect();
    assert_eq!(crds.len(), 4);
    for crd in crds {
        assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
        for version in crd["spec"]["versions"].as_array().unwrap() {
            let mut found = Vec::new();
            defaults(&version["schema"]["openAPIV3Schema"], "", &mut found);
            assert_eq!(found, [""; 0], "{}", crd["metadata"]["name"]);
        }
    }
    let webhooks = "validatingwebhookconfigurations,mutatingwebhookconfigurations";
    let webhooks = control_plane().await.kubectl_ok(&["get", webhooks, "-o", "name"]);
    // A test of replicas has one of its own.
    assert!(webhooks.lines().all(|name| name.contains("/hanging-")), "{webhooks}");

    // So what is stored is what was written, also once the operator has seen it.
    let world = World::new("defaults").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    let workspace = json!({"api": {"url": proxy.url()}, "refreshInterval": "1s"});
    world.apply(&object("PrefectWorkspace", "default", workspace.clone())).await;
    let key = world.name("a");
    prefect().await.set_variable(&key, json!("one")).await;
    let secret = json!({"data": [{"secretKey": "A", "remoteRef": {"variable": key}}], "target": {"template": {}}});
    let kv = json!({"data": [{"configMapKey": "A", "remoteRef": {"key": key}}], "target": {}});
    world.apply(&object("PrefectSecret", "etl", secret.clone())).await;
    world.apply(&object("PrefectKV", "kv", kv.clone())).await;
    passes(&proxy, 1).await;
    for (kind, name, spec) in
        [("PrefectWorkspace", "default", workspace), ("PrefectSecret", "etl", secret), ("PrefectKV", "kv", kv)]
    {
        world.eventually_reason(kind, name, if kind == "PrefectWorkspace" { "Connected" } else { "Synced" }).await;
        let object = world.get(kind, name).await;
        assert_eq!(object["spec"], spec);
        assert_eq!(object["metadata"]["finalizers"], Value::Null);
        assert_eq!(object["metadata"]["labels"], Value::Null);
        assert_eq!(object["metadata"]["annotations"], Value::Null);
        assert_eq!(object["metadata"]["generation"], 1);
    }
}
