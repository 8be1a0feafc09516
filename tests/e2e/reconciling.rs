//! What becomes of targets: owned, adopted, found again, renamed, replaced, left alone.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy, WatchEvent, WatchParams};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, control_plane, passes, prefect};
use crate::sessions::one_key;
use crate::support::{Mode, Proxy, eventually};

/// Applies a PrefectSecret with one key, `A`, from the Secret block `key`; `more` goes into its spec.
async fn prefect_secret(world: &World, name: &str, key: &str, more: Value) {
    let mut spec = json!({"data": [{"secretKey": "A", "remoteRef": {"key": key}}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    apply(world, "PrefectSecret", name, spec).await;
}

/// The same, called `etl`.
pub(super) async fn etl(world: &World, key: &str, more: Value) {
    prefect_secret(world, "etl", key, more).await;
}

async fn apply(world: &World, kind: &str, name: &str, spec: Value) {
    let object =
        json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    world.apply(&object.to_string()).await;
}

/// A world with the Secret block `a`, whose value is `one`.
async fn world(name: &str) -> (World, String) {
    let world = World::with_prefect(name).await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("one")).await;
    (world, key)
}

pub(super) async fn create(world: &World, secret: Value) -> Secret {
    let secret = serde_json::from_value(secret).unwrap();
    world.secrets().create(&PostParams::default(), &secret).await.unwrap()
}

async fn merge(world: &World, name: &str, patch: Value) -> Secret {
    world.secrets().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
}

async fn secret(world: &World, name: &str) -> Secret {
    world.secrets().get(name).await.unwrap()
}

/// Waits until the Secret is as `holds` says.
#[track_caller]
fn eventually_is<'a>(
    world: &'a World,
    name: &'a str,
    what: &'a str,
    holds: impl Fn(&Secret) -> bool + 'a,
) -> impl Future<Output = Secret> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        eventually(&format!("Secret {name} {what} ({caller})"), SOON, async || {
            match world.secrets().get_opt(name).await.unwrap() {
                Some(secret) if holds(&secret) => Ok(secret),
                Some(secret) => Err(format!("{:?}\n{}", secret.metadata, world.log())),
                None => Err(format!("there is none\n{}", world.log())),
            }
        })
        .await
    }
}

async fn eventually_gone(world: &World, kind: &str, name: &str) {
    // The garbage collector learns of new kinds every 30 s only.
    eventually(&format!("{kind} {name} to be gone"), 3 * SOON, async || {
        match world.api(kind).get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(_) => Err(format!("it is there\n{}", world.log())),
        }
    })
    .await;
}

fn owner_uids(secret: &Secret) -> Vec<String> {
    secret.owner_references().iter().map(|owner| owner.uid.clone()).collect()
}

/// Waits until the Event stands on the object.
async fn eventually_event(world: &World, expected: (&str, &str, &str)) {
    let expected = (expected.0.to_owned(), expected.1.to_owned(), expected.2.to_owned());
    eventually(&format!("the Event {expected:?}"), SOON, async || {
        let events = world.events("PrefectSecret", "etl").await;
        if events.contains(&expected) { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
}

#[tokio::test]
async fn targets_are_owned_and_kubernetes_collects_them_with_their_object() {
    let (world, key) = world("owned").await;
    let variable = world.name("v");
    prefect().await.set_variable(&variable, json!("x")).await;
    etl(&world, &key, json!({})).await;
    apply(&world, "PrefectKV", "kv", json!({"data": [{"configMapKey": "V", "remoteRef": {"key": variable}}]})).await;
    world.eventually_secret("etl", &[("A", "one")]).await;
    world.eventually_reason("PrefectKV", "kv", "Synced").await;
    for (kind, name, target) in [("PrefectSecret", "etl", "Secret"), ("PrefectKV", "kv", "ConfigMap")] {
        let object = world.get(kind, name).await;
        let target = world.get(target, name).await;
        let expected = json!([{
            "apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "name": name, "uid": object["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        }]);
        assert_eq!(target["metadata"]["ownerReferences"], expected);
        assert_eq!(target["metadata"]["labels"], json!({"prefect-sync.dev/owned-by": kind}));
        let annotations = json!({"prefect-sync.dev/owner": format!("{kind}/{name}")});
        assert_eq!(target["metadata"]["annotations"], annotations);
    }

    world.api("PrefectSecret").delete("etl", &DeleteParams::background()).await.unwrap();
    world.api("PrefectKV").delete("kv", &DeleteParams::background()).await.unwrap();
    eventually_gone(&world, "Secret", "etl").await;
    eventually_gone(&world, "ConfigMap", "kv").await;

    // With its dependents first: the target must not come back while its object is on its way out.
    etl(&world, &key, json!({})).await;
    world.eventually_secret("etl", &[("A", "one")]).await;
    let created = secret(&world, "etl").await;
    world.api("PrefectSecret").delete("etl", &DeleteParams::foreground()).await.unwrap();
    eventually_gone(&world, "PrefectSecret", "etl").await;
    eventually_gone(&world, "Secret", "etl").await;
    let created =
        format!("create /api/v1/namespaces/{}/secrets?&fieldManager=prefect-sync 201", created.namespace().unwrap());
    let writes = world.writes().await;
    assert_eq!(writes.iter().filter(|write| **write == created).count(), 2, "{writes:#?}");
}

#[tokio::test]
async fn a_foreign_target_is_refused_until_it_accepts_us_or_goes_away() {
    let (world, key) = world("adopt").await;
    let namespace = &world.namespace;
    let boss = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "boss"}});
    let boss = serde_json::from_value::<ConfigMap>(boss).unwrap();
    let boss = world.config_maps().create(&PostParams::default(), &boss).await.unwrap();
    let controller =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "boss", "uid": boss.uid(), "controller": true}]);
    let foreign: [(&str, Value, &str); 4] = [
        ("plain", json!({}), "someone else"),
        ("others", json!({"annotations": {"prefect-sync.dev/owner": "PrefectSecret/x"}}), "PrefectSecret/x"),
        ("owned", json!({"ownerReferences": controller}), "ConfigMap \"boss\""),
        ("goes", json!({}), "someone else"),
    ];
    let mut before = Vec::new();
    for (name, extra, _) in &foreign {
        let mut metadata = json!({"name": name, "labels": {"team": "data"}});
        metadata.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        // Accepting another object is not accepting this one.
        metadata["annotations"]["prefect-sync.dev/accepts"] = json!("PrefectSecret/another");
        metadata["annotations"]["note"] = json!("keep me");
        before.push(create(&world, json!({"metadata": metadata, "stringData": {"theirs": "x", "A": "theirs"}})).await);
        prefect_secret(&world, name, &key, json!({})).await;
    }
    for ((name, _, owner), before) in foreign.iter().zip(&before) {
        let ready = world.eventually_reason("PrefectSecret", name, "TargetConflict").await;
        let message = format!(
            "Secret {namespace}/{name} exists and belongs to {owner}; choose spec.target.name, or let it accept this object: kubectl annotate --overwrite secret {name} -n {namespace} prefect-sync.dev/accepts=PrefectSecret/{name}"
        );
        assert_eq!(ready.message, message);
        assert_eq!(secret(&world, name).await, *before, "a refused target is untouched");
        if *name == "goes" {
            world.secrets().delete(name, &DeleteParams::default()).await.unwrap();
            continue;
        }
        // What the message says is what helps.
        let command: Vec<&str> = message.split("kubectl ").nth(1).unwrap().split(' ').collect();
        control_plane().await.kubectl_ok(&command);
    }
    for ((name, ..), before) in foreign.iter().zip(&before) {
        world.eventually_secret(name, &[("A", "one")]).await;
        world.eventually_reason("PrefectSecret", name, "Synced").await;
        let ours = secret(&world, name).await;
        assert_eq!(ours.annotations()["prefect-sync.dev/owner"], format!("PrefectSecret/{name}"));
        let object = world.get("PrefectSecret", name).await;
        assert_eq!(owner_uids(&ours), [object["metadata"]["uid"].as_str().unwrap()]);
        if *name != "goes" {
            assert_eq!(ours.uid(), before.uid(), "adopted, not replaced");
            assert_eq!(ours.labels()["team"], "data");
            assert_eq!(ours.annotations()["note"], "keep me");
        }
    }
}

#[tokio::test]
async fn an_orphaned_target_stays_and_is_found_again_by_its_recreated_object() {
    let (world, key) = world("orphan").await;
    etl(&world, &key, json!({})).await;
    world.eventually_secret("etl", &[("A", "one")]).await;
    let first = secret(&world, "etl").await;
    // More than once, as the garbage collector, which takes the owner out, and the operator run side by side.
    for _ in 0..3 {
        world.eventually_reason("PrefectSecret", "etl", "Synced").await;
        let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
        world.api("PrefectSecret").delete("etl", &orphan).await.unwrap();
        eventually_gone(&world, "PrefectSecret", "etl").await;
        assert_eq!(owner_uids(&secret(&world, "etl").await), [""; 0], "an orphan has no owner");
        etl(&world, &key, json!({})).await;
        let object = world.get("PrefectSecret", "etl").await["metadata"]["uid"].as_str().unwrap().to_owned();
        let found =
            eventually_is(&world, "etl", "to be owned again", |secret| owner_uids(secret) == [object.clone()]).await;
        assert_eq!(found.uid(), first.uid(), "the same Secret");
    }
}

#[tokio::test]
async fn a_deletion_that_the_operator_has_not_heard_of_yet_is_not_repaired() {
    let (world, proxy) = World::behind_proxy("unheard").await;
    world.workspace(prefect().await.url()).await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("one")).await;
    for name in ["stays", "goes"] {
        world.apply(&one_key(name, &key, json!({}))).await;
        world.eventually_reason("PrefectSecret", name, "Synced").await;
    }
    // One that is held up: it is going, and not gone.
    let finalizers = async |finalizers: Value| {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        world.api("PrefectSecret").patch("stays", &PatchParams::default(), &patch).await.unwrap();
    };
    finalizers(json!(["example.com/held"])).await;
    // The watch of the objects stalls; that of their targets tells that an owner, or the target, is gone.
    proxy.set(Mode::StallWhere("/prefectsecrets?".into()));
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    for (name, how) in [("stays", orphan), ("goes", DeleteParams::background())] {
        let looks = || proxy.gets(&format!("/prefectsecrets/{name}"));
        let before = looks();
        world.api("PrefectSecret").delete(name, &how).await.unwrap();
        eventually(&format!("the operator to look whether {name} stands"), SOON, async || {
            if looks() > before { Ok(()) } else { Err(world.log()) }
        })
        .await;
    }
    finalizers(json!(null)).await;
    proxy.set(Mode::Pass);
    // What it was about it has done when it has synced one that it hears of later.
    world.apply(&one_key("later", &key, json!({}))).await;
    world.eventually_reason("PrefectSecret", "later", "Synced").await;
    eventually_gone(&world, "PrefectSecret", "stays").await;
    assert_eq!(owner_uids(&secret(&world, "stays").await), [""; 0], "with an owner it would be collected");
    eventually_gone(&world, "Secret", "goes").await;
    let creations = proxy.requests().iter().filter(|r| r.starts_with("POST ") && r.contains("/secrets?")).count();
    assert_eq!(creations, 3, "one for each object: {:?}", proxy.requests());
}

#[tokio::test]
async fn a_restored_target_is_found_by_its_annotation_and_brought_up_to_date() {
    let (world, key) = world("restore").await;
    etl(&world, &key, json!({})).await;
    world.eventually_secret("etl", &[("A", "one")]).await;
    world.stop_operator().await;
    let backup = secret(&world, "etl").await;
    world.api("PrefectSecret").delete("etl", &DeleteParams::background()).await.unwrap();
    // Without waiting for the garbage collector, which may have been faster.
    world.secrets().delete("etl", &DeleteParams::default()).await.map(drop).unwrap_or_default();
    // A restore writes names, labels, annotations and data; owners that are gone it leaves out, as else the garbage
    // collector would take the Secret away again.
    let mut labels = backup.labels().clone();
    labels.insert("restored-by".into(), "backup".into());
    let metadata = json!({"name": "etl", "labels": labels, "annotations": backup.annotations()});
    let restored = create(&world, json!({"metadata": metadata, "stringData": {"A": "old", "B": "old"}})).await;
    etl(&world, &key, json!({})).await;
    world.start_operator();
    world.eventually_secret("etl", &[("A", "one")]).await;
    let found = secret(&world, "etl").await;
    assert_eq!(found.uid(), restored.uid());
    assert_eq!(found.labels()["restored-by"], "backup");
    let object = world.get("PrefectSecret", "etl").await;
    assert_eq!(owner_uids(&found), [object["metadata"]["uid"].as_str().unwrap()]);
}

#[tokio::test]
async fn a_renamed_target_is_written_before_the_old_one_goes() {
    let (world, key) = world("rename").await;
    let namespace = &world.namespace;
    etl(&world, &key, json!({})).await;
    world.eventually_secret("etl", &[("A", "one")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let version = secret(&world, "etl").await.resource_version().unwrap();
    let watch = world.secrets().watch(&WatchParams::default(), &version).await.unwrap();
    etl(&world, &key, json!({"target": {"name": "new"}})).await;
    let mut watch = std::pin::pin!(watch);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let event = tokio::time::timeout(SOON, watch.try_next()).await.expect("two changes").unwrap().unwrap();
        match event {
            WatchEvent::Added(secret) => seen.push(format!("added {}", secret.name_any())),
            WatchEvent::Deleted(secret) => seen.push(format!("deleted {}", secret.name_any())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["added new", "deleted etl"]);
    world.eventually_secret("new", &[("A", "one")]).await;
    let note = format!("etl was removed: the target is now Secret {namespace}/new");
    eventually_event(&world, ("Normal", "TargetRemoved", &note)).await;
    // Nobody edited anything.
    assert_eq!(world.events("PrefectSecret", "etl").await.len(), 1, "{:?}", world.events("PrefectSecret", "etl").await);

    // While nothing can be written, the old target stays.
    let data = json!([{"secretKey": "A", "remoteRef": {"key": key, "property": "x"}}]);
    etl(&world, &key, json!({"data": data, "target": {"name": "third"}})).await;
    world.eventually_reason("PrefectSecret", "etl", "NotJson").await;
    world.eventually_secret("new", &[("A", "one")]).await;
    etl(&world, &key, json!({"target": {"name": "third"}})).await;
    world.eventually_secret("third", &[("A", "one")]).await;
    eventually_gone(&world, "Secret", "new").await;

    // An old one that has come to belong to someone else is theirs.
    etl(&world, &key, json!({"suspend": true, "target": {"name": "third"}})).await;
    world.eventually_reason("PrefectSecret", "etl", "Suspended").await;
    let taken = json!({"metadata": {"ownerReferences": null, "labels": {"prefect-sync.dev/owned-by": null},
        "annotations": {"prefect-sync.dev/owner": null}}, "stringData": {"theirs": "x"}});
    let taken = merge(&world, "third", taken).await;
    etl(&world, &key, json!({"target": {"name": "fourth"}})).await;
    world.eventually_secret("fourth", &[("A", "one")]).await;
    let target = async || match &world.get("PrefectSecret", "etl").await["status"]["target"]["name"] {
        name if name == "fourth" => Ok(()),
        other => Err(other.to_string()),
    };
    eventually("the status to name the new target", SOON, target).await;
    assert_eq!(secret(&world, "third").await, taken);
}

#[tokio::test]
async fn what_cannot_be_changed_in_place_is_replaced_with_an_event() {
    let (world, key) = world("replace").await;
    let namespace = &world.namespace;
    etl(&world, &key, json!({})).await;
    world.eventually_secret("etl", &[("A", "one")]).await;
    let first = secret(&world, "etl").await;
    etl(&world, &key, json!({"target": {"template": {"type": "example.com/custom"}}})).await;
    let second =
        eventually_is(&world, "etl", "to have the type", |s| s.type_.as_deref() == Some("example.com/custom")).await;
    assert_ne!(second.uid(), first.uid());
    let note = format!("Secret {namespace}/etl was deleted and created anew: its type changed, or it was immutable");
    eventually_event(&world, ("Normal", "TargetReplaced", &note)).await;

    // Made immutable by someone: first a value changes, then only a label.
    merge(&world, "etl", json!({"immutable": true})).await;
    prefect().await.set_secret(&key, json!("two")).await;
    world.eventually_secret("etl", &[("A", "two")]).await;
    let third = secret(&world, "etl").await;
    assert_eq!(third.immutable, None);
    merge(&world, "etl", json!({"immutable": true})).await;
    let template = json!({"type": "example.com/custom", "metadata": {"labels": {"team": "data"}}});
    etl(&world, &key, json!({"target": {"template": template}})).await;
    let fourth = eventually_is(&world, "etl", "to have the label", |s| s.labels().contains_key("team")).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;

    // A type that the API server will refuse costs nothing: what stands, stands.
    etl(&world, &key, json!({"target": {"template": {"type": "kubernetes.io/tls"}}})).await;
    let refused = world.eventually_reason("PrefectSecret", "etl", "TargetRefused").await;
    assert_eq!(
        refused.message,
        format!(
            "the API server refused Secret {namespace}/etl: data[tls.crt]: Required value, data[tls.key]: Required value"
        )
    );
    assert_eq!(secret(&world, "etl").await.uid(), fourth.uid());
}

#[tokio::test]
async fn labels_and_annotations_of_the_template_come_and_go_and_those_of_others_stay() {
    let (world, key) = world("template").await;
    let metadata = |metadata: Value| json!({"target": {"template": {"metadata": metadata}}});
    let both = json!({"labels": {"team": "data", "tier": "1"}, "annotations": {"example.com/a": "x"}});
    etl(&world, &key, metadata(both)).await;
    eventually_is(&world, "etl", "to have them", |s| {
        s.labels().get("tier").is_some_and(|tier| tier == "1") && s.annotations().contains_key("example.com/a")
    })
    .await;
    merge(&world, "etl", json!({"metadata": {"labels": {"theirs": "l"}, "annotations": {"example.com/theirs": "a"}}}))
        .await;
    etl(&world, &key, metadata(json!({"labels": {"team": "ops"}}))).await;
    let after =
        eventually_is(&world, "etl", "to have the other", |s| s.labels().get("team").is_some_and(|team| team == "ops"))
            .await;
    let keys = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<BTreeSet<_>>();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(keys(after.labels()), set(&["prefect-sync.dev/owned-by", "team", "theirs"]));
    assert_eq!(
        keys(after.annotations()),
        set(&["example.com/theirs", "prefect-sync.dev/owner", "prefect-sync.dev/template-metadata"])
    );
    etl(&world, &key, json!({})).await;
    let bare = eventually_is(&world, "etl", "to have none", |s| !s.labels().contains_key("team")).await;
    assert_eq!(keys(bare.labels()), set(&["prefect-sync.dev/owned-by", "theirs"]));
    assert_eq!(keys(bare.annotations()), set(&["example.com/theirs", "prefect-sync.dev/owner"]));
    assert_eq!(bare.uid(), after.uid());
}

#[tokio::test]
async fn a_suspended_object_leaves_all_alone_even_drift_and_goes_on_when_resumed() {
    let world = World::new("suspend").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    world.workspace(&proxy.url()).await;
    let (key, marker) = (world.name("a"), world.name("marker"));
    for key in [&key, &marker] {
        prefect().await.set_secret(key, json!("one")).await;
    }
    etl(&world, &key, json!({})).await;
    prefect_secret(&world, "marker", &marker, json!({})).await;
    world.eventually_secret("etl", &[("A", "one")]).await;
    world.eventually_secret("marker", &[("A", "one")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    etl(&world, &key, json!({"suspend": true})).await;
    let ready = world.eventually_reason("PrefectSecret", "etl", "Suspended").await;
    assert_eq!(ready.status, "True", "its target was right when it was suspended");
    assert_eq!(ready.message, "spec.suspend is true: nothing is read or written until it is false");

    let edited = merge(&world, "etl", json!({"stringData": {"A": "edited"}})).await;
    prefect().await.set_secret(&key, json!("two")).await;
    passes(&proxy, 2).await;
    // The same watch and the same session bring these after the changes above.
    merge(&world, "marker", json!({"stringData": {"A": "edited"}})).await;
    world.eventually_secret("marker", &[("A", "one")]).await;
    prefect().await.set_secret(&marker, json!("two")).await;
    world.eventually_secret("marker", &[("A", "two")]).await;
    assert_eq!(secret(&world, "etl").await, edited);

    etl(&world, &key, json!({"suspend": false})).await;
    world.eventually_secret("etl", &[("A", "two")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
}

#[tokio::test]
async fn another_workspace_takes_over_when_the_reference_changes() {
    let world = World::new("reference").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    world.workspace(&proxy.url()).await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("from the API")).await;
    let config = format!("[context.secrets]\n{key} = \"from the file\"\n");
    let label = json!({"prefect-sync.dev/offer": "workspace"});
    create(&world, json!({"metadata": {"name": "config", "labels": label}, "stringData": {"config.toml": config}}))
        .await;
    apply(&world, "PrefectWorkspace", "local", json!({"local": {"configToml": {"secretKeyRef": {"name": "config"}}}}))
        .await;
    for (reference, name, value, source) in [
        (json!({}), "default", "from the API", "Api"),
        (json!({"workspaceRef": {"name": "local"}}), "local", "from the file", "Local"),
        (json!({"workspaceRef": {"kind": "PrefectWorkspace", "name": "default"}}), "default", "from the API", "Api"),
    ] {
        etl(&world, &key, reference).await;
        world.eventually_secret("etl", &[("A", value)]).await;
        eventually("the status to say so", SOON, async || {
            let status = &world.get("PrefectSecret", "etl").await["status"];
            let expected = json!({"kind": "PrefectWorkspace", "name": name});
            if status["workspace"] == expected && status["entries"][0]["source"] == source {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })
        .await;
    }
}
