//! Many objects: what a start costs, and what happens when the API server itself asks to be left alone.

use futures::StreamExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::fixture::{SOON, World, control_plane, prefect};
use crate::sessions::one_key;
use crate::support::eventually;

/// Objects `o000`… of one key each, synced.
async fn synced(world: &World, count: usize) -> Vec<String> {
    let server = prefect().await;
    let names: Vec<String> = (0..count).map(|n| format!("o{n:03}")).collect();
    let key = world.name("shared");
    server.set_secret(&key, json!("v")).await;
    let applied = names.iter().map(async |name| world.apply(&one_key(name, &key, json!({}))).await);
    futures::stream::iter(applied).buffer_unordered(8).collect::<Vec<()>>().await;
    for name in &names {
        world.eventually_reason("PrefectSecret", name, "Synced").await;
    }
    names
}

#[tokio::test]
async fn a_restart_reads_no_target_one_by_one_and_writes_nothing() {
    let world = World::with_prefect("restart").await;
    synced(&world, 120).await;
    world.stop_operator().await;
    let (reads, writes) = (world.reads_of_secrets().await, world.writes().await.len());
    world.start_operator();
    // It has looked at all of them once one that changes follows.
    prefect().await.set_secret(&world.name("shared"), json!("v")).await;
    eventually("the restarted operator to be quiet", SOON, async || {
        let log = world.log();
        if log.matches("\"message\":\"read\"").count() >= 5 { Ok(()) } else { Err("it has hardly begun".to_owned()) }
    })
    .await;
    world.stop_operator().await;
    let read: Vec<String> = world.reads_of_secrets().await.split_off(reads.len());
    let gets = read.iter().filter(|request| request.starts_with("get ")).count();
    let lists = read.iter().filter(|request| request.starts_with("list ")).count();
    assert!(gets < 10 && lists > 0, "{gets} GETs and {lists} LISTs: {read:#?}");
    assert_eq!(world.writes().await.split_off(writes), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_done_to_targets_while_the_operator_was_down_is_undone_after_its_start() {
    let world = World::with_prefect("whiledown").await;
    let names = synced(&world, 60).await;
    world.stop_operator().await;
    let edit = json!({"stringData": {"V": "edited"}});
    world.secrets().patch(&names[7], &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
    world.secrets().delete(&names[20], &DeleteParams::default()).await.unwrap();
    let unlabel = json!({"metadata": {"labels": {"prefect-sync.dev/owned-by": null}}});
    world.secrets().patch(&names[40], &PatchParams::default(), &Patch::Merge(unlabel)).await.unwrap();
    world.start_operator();
    world.eventually_secret(&names[7], &[("V", "v")]).await;
    world.eventually_secret(&names[20], &[("V", "v")]).await;
    eventually("the label to be back", SOON, async || {
        let labels = world.secrets().get(&names[40]).await.unwrap().metadata.labels.unwrap_or_default();
        if labels.contains_key("prefect-sync.dev/owned-by") { Ok(()) } else { Err(format!("{labels:?}")) }
    })
    .await;
    // And from here on each is watched, those that were found right included.
    world.secrets().delete(&names[50], &DeleteParams::default()).await.unwrap();
    world.eventually_secret(&names[50], &[("V", "v")]).await;
    world.stop_operator().await;
}

#[tokio::test]
async fn an_api_server_that_asks_to_be_left_alone_is_and_everything_follows_later() {
    let world = World::new("throttled").await;
    let key = world.name("key");
    prefect().await.set_secret(&key, json!("v")).await;
    // Of the operator's requests that create Secrets here one at a time has a place: the others get 429.
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": world.namespace}, "spec": {"type": "Limited",
            "limited": {"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
                "limitResponse": {"type": "Reject"}}}});
    let operator =
        json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "prefect-sync", "name": "prefect-sync"}});
    let creations =
        json!({"verbs": ["create"], "apiGroups": [""], "resources": ["secrets"], "namespaces": [world.namespace]});
    let flow = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": world.namespace}, "spec": {"matchingPrecedence": 2,
            "priorityLevelConfiguration": {"name": world.namespace},
            "rules": [{"subjects": [operator], "resourceRules": [creations]}]}});
    let file = crate::support::Scratch::new("throttled");
    let path = file.path().join("flow.json");
    std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": [level, flow]}).to_string()).unwrap();
    let path = path.display().to_string();
    control_plane().await.kubectl_ok(&["apply", "-f", &path]);
    let name = world.namespace.as_str();
    control_plane().await.kubectl_ok(&["wait", "flowschema", name, "--for=condition=Dangling=False", "--timeout=30s"]);

    let count = 40;
    for n in 0..count {
        world.apply(&one_key(&format!("o{n:02}"), &key, json!({}))).await;
    }
    // All of them at once.
    world.workspace(prefect().await.url()).await;
    for n in 0..count {
        world.eventually_secret(&format!("o{n:02}"), &[("V", "v")]).await;
    }
    world.stop_operator().await;
    control_plane().await.kubectl_ok(&["delete", "-f", &path]);
    let creations: Vec<String> = world
        .writes()
        .await
        .into_iter()
        .filter(|write| write.starts_with("create ") && write.contains("/secrets"))
        .collect();
    let refused = creations.iter().filter(|write| write.ends_with(" 429")).count();
    assert!(refused > 0, "none was refused: {creations:#?}");
    assert!(creations.len() <= 8 * count, "{} tries for {count} objects", creations.len());
}
