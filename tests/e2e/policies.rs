//! Whose the target is: keys merged into a Secret of someone else's, orphans, immutable targets.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, object, prefect, psec};
use crate::support::eventually;

fn entry(key: &str, remote: &str) -> Value {
    json!({"secretKey": key, "remoteRef": {"key": remote}})
}

fn merging(name: &str, entries: &[Value]) -> String {
    psec(name, json!({"data": entries, "target": {"name": "shared", "creationPolicy": "Merge"}}))
}

/// A Secret of someone else's, made as `kubectl create` makes it.
async fn theirs(world: &World, accepts: &str) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "shared", "annotations": {"prefect-sync.dev/accepts": accepts}},
        "stringData": {"THEIRS": "theirs"},
    });
    let secret: Secret = serde_json::from_value(secret).unwrap();
    let parameters = PostParams { field_manager: Some("kubectl-create".into()), ..PostParams::default() };
    world.secrets().create(&parameters, &secret).await.unwrap();
}

#[tokio::test]
async fn two_objects_share_a_target_that_accepts_them_and_leave_with_their_keys_only() {
    let world = World::with_prefect("merge").await;
    let (a, b) = (world.name("a"), world.name("b"));
    prefect().await.set_secret(&a, json!("a-1")).await;
    prefect().await.set_secret(&b, json!("b-1")).await;
    world.apply(&merging("one", &[entry("A", &a)])).await;
    let message = world.eventually_message("PrefectSecret", "one", "TargetNotFound").await;
    assert_eq!(
        message,
        format!(
            "there is no Secret {0}/shared to merge keys into; create it and let it accept this object, or set spec.target.creationPolicy to Owner",
            world.namespace
        )
    );
    theirs(&world, "PrefectSecret/one").await;
    world.eventually_secret("shared", &[("A", "a-1"), ("THEIRS", "theirs")]).await;
    world.apply(&merging("two", &[entry("B", &b)])).await;
    let message = world.eventually_message("PrefectSecret", "two", "TargetConflict").await;
    assert!(message.ends_with("prefect-sync.dev/accepts=PrefectSecret/one,PrefectSecret/two"), "{message}");
    let accepts =
        json!({"metadata": {"annotations": {"prefect-sync.dev/accepts": "PrefectSecret/one,PrefectSecret/two"}}});
    world.secrets().patch("shared", &PatchParams::default(), &Patch::Merge(accepts)).await.unwrap();
    world.eventually_secret("shared", &[("A", "a-1"), ("B", "b-1"), ("THEIRS", "theirs")]).await;
    // Each follows Prefect, and nobody's key goes with another's.
    prefect().await.set_secret(&a, json!("a-2")).await;
    world.eventually_secret("shared", &[("A", "a-2"), ("B", "b-1"), ("THEIRS", "theirs")]).await;
    world.api("PrefectSecret").delete("one", &DeleteParams::default()).await.unwrap();
    world.eventually_secret("shared", &[("B", "b-1"), ("THEIRS", "theirs")]).await;
    // Also one that goes while the operator is not there.
    world.stop_operator().await;
    world.api("PrefectSecret").delete("two", &DeleteParams::default()).await.unwrap();
    world.start_operator();
    world.eventually_secret("shared", &[("THEIRS", "theirs")]).await;
    let shared = world.secrets().get("shared").await.unwrap();
    assert_eq!(shared.labels(), &BTreeMap::new(), "nothing of ours is left");
    let managers: Vec<_> =
        shared.metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.clone()).collect();
    assert!(!managers.iter().any(|manager| manager.starts_with("prefect-sync/")), "{managers:?}");
    assert_eq!(shared.owner_references(), []);
}

#[tokio::test]
async fn a_key_of_others_is_never_taken_and_an_edit_of_ours_is_reported() {
    let world = World::with_prefect("foreign").await;
    let a = world.name("a");
    prefect().await.set_secret(&a, json!("theirs")).await;
    theirs(&world, "PrefectSecret/etl").await;
    world.apply(&merging("etl", &[entry("THEIRS", &a), entry("A", &a)])).await;
    let message = world.eventually_message("PrefectSecret", "etl", "TargetConflict").await;
    assert_eq!(
        message,
        format!(
            "Secret {}/shared has keys of others that this object would write: THEIRS of kubectl-create; give them other names, or remove them there",
            world.namespace
        )
    );
    world.eventually_secret("shared", &[("THEIRS", "theirs")]).await;
    world.apply(&merging("etl", &[entry("A", &a), entry("B", &a)])).await;
    world.eventually_secret("shared", &[("A", "theirs"), ("B", "theirs"), ("THEIRS", "theirs")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let edit = json!({"stringData": {"A": "edited"}});
    let parameters = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
    world.secrets().patch("shared", &parameters, &Patch::Merge(edit)).await.unwrap();
    let message = world.eventually_message("PrefectSecret", "etl", "TargetConflict").await;
    assert!(message.contains("would write: A of kubectl-edit;"), "{message}");
    world.eventually_secret("shared", &[("A", "edited"), ("B", "theirs"), ("THEIRS", "theirs")]).await;
    // Taken out there, it is put back.
    let edit = json!({"data": {"A": null}});
    world.secrets().patch("shared", &parameters, &Patch::Merge(edit)).await.unwrap();
    world.eventually_secret("shared", &[("A", "theirs"), ("B", "theirs"), ("THEIRS", "theirs")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    // Another target is left behind clean.
    let spec = json!({"data": [entry("A", &a)], "target": {"name": "own"}});
    world.apply(&psec("etl", spec)).await;
    world.eventually_secret("own", &[("A", "theirs")]).await;
    world.eventually_secret("shared", &[("THEIRS", "theirs")]).await;
}

#[tokio::test]
async fn a_config_map_of_someone_elses_takes_keys_too_binary_ones_included() {
    let world = World::with_prefect("merge-map").await;
    let name = world.namespace.replace('-', "_");
    prefect().await.set_variable(&name, json!("/wA=")).await;
    let theirs = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "shared", "annotations": {"prefect-sync.dev/accepts": "PrefectKV/etl"}}, "data": {"THEIRS": "1"},
    });
    world.apply(&theirs.to_string()).await;
    let remote = json!({"key": name});
    let entries = json!([{"configMapKey": "BIN", "remoteRef": remote, "decoding": "Base64"}, {"configMapKey": "TEXT", "remoteRef": remote}]);
    let spec = json!({"data": entries, "target": {"name": "shared", "creationPolicy": "Merge"}});
    world.apply(&object("PrefectKV", "etl", spec)).await;
    world.eventually_reason("PrefectKV", "etl", "Synced").await;
    let map = world.config_maps().get("shared").await.unwrap();
    assert_eq!(map.binary_data.unwrap()["BIN"].0, vec![0xff, 0x00]);
    assert_eq!(json!(map.data), json!({"TEXT": "/wA=", "THEIRS": "1"}));
    world.api("PrefectKV").delete("etl", &DeleteParams::default()).await.unwrap();
    eventually("our keys to be gone", SOON, async || {
        let map = world.config_maps().get("shared").await.unwrap();
        let ours = map
            .metadata
            .managed_fields
            .iter()
            .flatten()
            .any(|entry| entry.manager.as_deref().is_some_and(|name| name.starts_with("prefect-sync/")));
        match (json!(map.data), map.binary_data, ours) {
            (data, None, false) if data == json!({"THEIRS": "1"}) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn an_orphan_outlives_its_object_and_is_repaired_while_it_has_one() {
    let world = World::with_prefect("orphan").await;
    let a = world.name("a");
    prefect().await.set_secret(&a, json!("1")).await;
    let spec = json!({"data": [entry("A", &a)], "target": {"creationPolicy": "Orphan"}});
    world.apply(&psec("etl", spec)).await;
    world.eventually_secret("etl", &[("A", "1")]).await;
    assert_eq!(world.secrets().get("etl").await.unwrap().owner_references(), []);
    let edit = json!({"stringData": {"A": "edited", "B": "more"}});
    world.secrets().patch("etl", &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
    world.eventually_secret("etl", &[("A", "1")]).await;
    world.api("PrefectSecret").delete("etl", &DeleteParams::default()).await.unwrap();
    eventually("the object to be gone", SOON, async || {
        match world.api("PrefectSecret").get_opt("etl").await.unwrap() {
            None => Ok(()),
            Some(_) => Err("it is there".to_owned()),
        }
    })
    .await;
    // Not by what is done when an object is gone, nor at the next start: another object is synced after both.
    world.stop_operator().await;
    world.start_operator();
    world.apply(&psec("later", json!({"data": [entry("A", &a)]}))).await;
    world.eventually_reason("PrefectSecret", "later", "Synced").await;
    assert_eq!(world.secret_data("etl").await.unwrap()["A"], "1");
    assert_eq!(world.secrets().get("etl").await.unwrap().owner_references(), []);
}

#[tokio::test]
async fn an_immutable_target_is_replaced_at_once_and_an_event_says_so() {
    let world = World::with_prefect("immutable").await;
    let a = world.name("a");
    prefect().await.set_secret(&a, json!("1")).await;
    let spec = json!({"data": [entry("A", &a)], "target": {"immutable": true}});
    world.apply(&psec("etl", spec)).await;
    world.eventually_secret("etl", &[("A", "1")]).await;
    let before = world.secrets().get("etl").await.unwrap();
    assert_eq!(before.immutable, Some(true));
    prefect().await.set_secret(&a, json!("2")).await;
    world.eventually_secret("etl", &[("A", "2")]).await;
    let after = world.secrets().get("etl").await.unwrap();
    assert_eq!(after.immutable, Some(true));
    assert_ne!(after.uid(), before.uid());
    eventually("an Event", SOON, async || {
        let events = world.events("PrefectSecret", "etl").await;
        let said = events.iter().any(|(_, reason, note)| reason == "TargetReplaced" && note.contains("immutable"));
        if said { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
}
