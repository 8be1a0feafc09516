//! `spec.restart`: workloads roll when the content that they use changed, and for nothing else.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, prefect, psec, root};
use crate::support::eventually;

const MARK: &str = "prefect-sync.dev/restarted-for";

fn entry(key: &str, remote: &str) -> Value {
    json!({"secretKey": key, "remoteRef": {"key": remote}})
}

async fn deployment(world: &World, name: &str) {
    let labels = json!({"app": name});
    let manifest = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "example.com/flow:1"}]}}},
    });
    let manifest: Deployment = serde_json::from_value(manifest).unwrap();
    deployments(world).create(&PostParams::default(), &manifest).await.unwrap();
}

fn deployments(world: &World) -> Api<Deployment> {
    Api::namespaced(world.client.clone(), &world.namespace)
}

/// For which revision the workload was restarted; how often its pod template changed.
async fn rolled(world: &World, name: &str) -> (Option<String>, Option<i64>) {
    let deployment = deployments(world).get(name).await.unwrap();
    let template = deployment.spec.unwrap().template.metadata.unwrap();
    let mark = template.annotations.unwrap_or_default().remove(MARK);
    (mark.map(|mark| mark.rsplit('/').next().unwrap().to_owned()), deployment.metadata.generation)
}

async fn eventually_rolled(world: &World, name: &str, revision: &str) {
    eventually(&format!("{name} to be restarted for {revision}"), SOON, async || match rolled(world, name).await {
        (Some(mark), _) if mark == revision => Ok(()),
        other => Err(format!("{other:?}\n{}", world.log())),
    })
    .await;
}

/// Has all keys of `etl` read again, and waits until the status says that it was done.
async fn read_again(world: &World, token: &str) {
    let patch = json!({"metadata": {"annotations": {"prefect-sync.dev/refresh": token}}});
    world.api("PrefectSecret").patch("etl", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    eventually(&format!("the refresh {token} to be handled"), SOON, async || {
        let handled = world.get("PrefectSecret", "etl").await["status"]["lastHandledRefresh"].clone();
        if handled == token { Ok(()) } else { Err(handled.to_string()) }
    })
    .await;
}

/// The rules of `deploy/manifests-optional/11-restarts.yaml`, for one namespace.
async fn allow(world: &World) {
    let text = std::fs::read_to_string(root().join("deploy/manifests-optional/11-restarts.yaml")).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let role = json!({"metadata": {"name": "restarts"}, "rules": documents[0]["rules"]});
    let binding = json!({
        "metadata": {"name": "restarts"}, "subjects": documents[1]["subjects"],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "restarts"},
    });
    let roles: Api<Role> = Api::namespaced(world.client.clone(), &world.namespace);
    let bindings: Api<RoleBinding> = Api::namespaced(world.client.clone(), &world.namespace);
    roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
}

#[tokio::test]
async fn promise_12_a_workload_restarts_when_its_content_changed_and_for_nothing_else() {
    let world = World::with_prefect("restart").await;
    allow(&world).await;
    let (a, b) = (world.name("a"), world.name("b"));
    prefect().await.set_secret(&a, json!("1")).await;
    prefect().await.set_secret(&b, json!("1")).await;
    deployment(&world, "agent").await;
    deployment(&world, "picky").await;
    let data = json!([entry("A", &a), entry("B", &b)]);
    world.apply(&psec("etl", json!({"data": data}))).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let restart =
        json!([{"kind": "Deployment", "name": "agent"}, {"kind": "Deployment", "name": "picky", "keys": ["B"]}]);
    world.apply(&psec("etl", json!({"data": data, "restart": restart}))).await;
    eventually("the restarts in the status", SOON, async || {
        let restarts = world.get("PrefectSecret", "etl").await["status"]["restarts"].clone();
        if restarts.as_array().is_some_and(|restarts| restarts.len() == 2) { Ok(()) } else { Err(restarts.to_string()) }
    })
    .await;
    assert_eq!(rolled(&world, "agent").await, (None, Some(1)), "restart was only added");
    prefect().await.set_secret(&a, json!("2")).await;
    eventually_rolled(&world, "agent", "1").await;
    world.eventually_secret("etl", &[("A", "2"), ("B", "1")]).await;
    // Neither because a tool strips the annotation, nor because the operator starts again.
    read_again(&world, "restarted").await;
    let strip = json!({"spec": {"template": {"metadata": {"annotations": {MARK: null}}}}});
    deployments(&world).patch("agent", &PatchParams::default(), &Patch::Merge(strip)).await.unwrap();
    read_again(&world, "stripped").await;
    world.stop_operator().await;
    world.start_operator();
    read_again(&world, "started").await;
    assert_eq!(rolled(&world, "agent").await, (None, Some(3)), "neither stripping nor starting restarts");
    prefect().await.set_secret(&b, json!("2")).await;
    eventually_rolled(&world, "picky", "2").await;
    eventually_rolled(&world, "agent", "2").await;
    assert_eq!(rolled(&world, "picky").await.1, Some(2), "A is no business of its");
    assert_eq!(rolled(&world, "agent").await.1, Some(4), "two restarts and the stripping");
    eventually("an Event", SOON, async || {
        let events = world.events("PrefectSecret", "etl").await;
        let said = events.iter().any(|(_, reason, note)| reason == "Restarted" && note.contains("Deployment"));
        if said { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_workload_that_may_not_be_restarted_is_a_condition_until_it_may() {
    let world = World::with_prefect("forbidden").await;
    let a = world.name("a");
    prefect().await.set_secret(&a, json!("1")).await;
    deployment(&world, "agent").await;
    let restart = json!([{"kind": "Deployment", "name": "agent"}, {"kind": "StatefulSet", "name": "none"}]);
    world.apply(&psec("etl", json!({"data": [entry("A", &a)], "restart": restart}))).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    prefect().await.set_secret(&a, json!("2")).await;
    let message = world.eventually_message("PrefectSecret", "etl", "RestartFailed").await;
    assert!(
        message.starts_with(&format!("restarting Deployment {}/agent: the API server answered 403:", world.namespace)),
        "{message}"
    );
    let hint =
        "the chart's restarts.enabled, or kubectl apply -f deploy/manifests-optional/11-restarts.yaml, allows it";
    assert!(message.ends_with(hint), "{message}");
    world.eventually_secret("etl", &[("A", "2")]).await;
    allow(&world).await;
    // It would be tried again in half a minute; another change comes sooner.
    prefect().await.set_secret(&a, json!("3")).await;
    eventually_rolled(&world, "agent", "2").await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let status = world.get("PrefectSecret", "etl").await["status"].clone();
    assert_eq!(
        status["restarts"][1]["message"],
        json!(format!("there is no StatefulSet {}/none; it will start with the new content", world.namespace))
    );
}
