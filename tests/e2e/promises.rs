//! The promises of the design, one test each; those about values and absence are elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use crate::fixture::{SOON, World, control_plane, passes, prefect};
use crate::support::{Mode, Proxy, eventually};

async fn apply(world: &World, kind: &str, name: &str, spec: Value) {
    let object =
        json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    world.apply(&object.to_string()).await;
}

/// A PrefectSecret with the key `A` from the Secret block `key`; `more` goes into its spec.
async fn prefect_secret(world: &World, name: &str, key: &str, more: Value) {
    let mut spec = json!({"data": [{"secretKey": "A", "remoteRef": {"key": key}}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    apply(world, "PrefectSecret", name, spec).await;
}

async fn workspace(world: &World, name: &str, url: &str, interval: &str) {
    apply(world, "PrefectWorkspace", name, json!({"api": {"url": url}, "refreshInterval": interval})).await;
}

async fn create(world: &World, secret: Value) -> Secret {
    let secret = serde_json::from_value(secret).unwrap();
    world.secrets().create(&PostParams::default(), &secret).await.unwrap()
}

async fn merge(world: &World, kind: &str, name: &str, patch: Value) {
    world.api(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

#[tokio::test]
async fn promise_1_a_target_is_one_consistent_snapshot() {
    let world = World::new("snapshot").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    workspace(&world, "default", &proxy.url(), "1s").await;
    let (block, variable) = (world.name("a"), world.name("b"));
    let set = async |value: &str| {
        prefect().await.set_secret(&block, json!(value)).await;
        prefect().await.set_variable(&variable, json!(value)).await;
    };
    set("0").await;
    // Every state that anybody could have seen.
    let seen: Arc<Mutex<Vec<BTreeMap<String, String>>>> = Arc::default();
    let watch = world.secrets().watch(&WatchParams::default(), "0").await.unwrap();
    let recorder = seen.clone();
    let watching = tokio::spawn(async move {
        let mut watch = std::pin::pin!(watch);
        while let Ok(Some(event)) = watch.try_next().await {
            let (WatchEvent::Added(secret) | WatchEvent::Modified(secret)) = event else { continue };
            let data = secret.data.unwrap_or_default().into_iter();
            recorder.lock().unwrap().push(data.map(|(k, v)| (k, String::from_utf8(v.0).unwrap())).collect());
        }
    });
    let data = json!([{"secretKey": "A", "remoteRef": {"key": block}}, {"secretKey": "B", "remoteRef": {"variable": variable}}]);
    apply(&world, "PrefectSecret", "etl", json!({"data": data})).await;
    world.eventually_secret("etl", &[("A", "0"), ("B", "0")]).await;

    // One of the two can't be read: alone (500), or with the workspace (503).
    let faults = [("/variables/filter", 500), ("/block_documents/filter", 500), ("/variables/filter", 503)];
    for (round, (path, status)) in faults.into_iter().enumerate() {
        let (before, after) = (round.to_string(), (round + 1).to_string());
        proxy.set(Mode::AnswerWhere(path.into(), status, "{}".into()));
        passes(&proxy, 1).await;
        set(&after).await;
        passes(&proxy, 2).await;
        world.eventually_secret("etl", &[("A", &before), ("B", &before)]).await;
        world.secrets().delete("etl", &DeleteParams::default()).await.unwrap();
        if status == 503 {
            // The whole workspace fails, and what was read before it did is one snapshot still.
            world.eventually_secret("etl", &[("A", &before), ("B", &before)]).await;
        } else {
            // Now it would have to be made from what is known: one key of now, and one of before.
            passes(&proxy, 2).await;
            assert_eq!(world.secret_data("etl").await, None, "{path} {status}");
        }
        proxy.set(Mode::Pass);
        world.eventually_secret("etl", &[("A", &after), ("B", &after)]).await;
    }
    watching.abort();
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 4, "{seen:?}");
    for state in seen.iter() {
        assert_eq!(state.keys().collect::<Vec<_>>(), ["A", "B"], "{seen:?}");
        assert_eq!(state["A"], state["B"], "{seen:?}");
    }
}

#[tokio::test]
async fn promise_3_nothing_of_others_is_touched_and_nothing_is_read_from_another_namespace() {
    let other = control_plane().await.namespace("others").await;
    let world = World::with_args("foreign", &["--namespaces", &other]).await;
    let namespace = &world.namespace;
    let proxy = Proxy::start(prefect().await.url()).await;
    let marker = Proxy::start(prefect().await.url()).await;
    workspace(&world, "default", &marker.url(), "1s").await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("one")).await;

    // A workspace and a Secret of the other namespace, both ready to be used there.
    let there = format!(
        "{{apiVersion: prefect-sync.dev/v1alpha1, kind: PrefectWorkspace, metadata: {{name: there, namespace: {other}}}, spec: {{api: {{url: '{}'}}}}}}",
        marker.url()
    );
    let offered = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "creds", "namespace": other,
        "labels": {"prefect-sync.dev/offer": "workspace"}}, "stringData": {"key": "pnu_there"}});
    let folder = crate::support::Scratch::new("others");
    let file = folder.path().join("there.yaml");
    std::fs::write(&file, format!("{there}\n---\n{offered}\n")).unwrap();
    control_plane().await.kubectl_ok(&["apply", "-f", file.to_str().unwrap()]);
    eventually("the other namespace's workspace to work", SOON, async || {
        let columns = control_plane().await.kubectl_ok(&["get", "pws", "there", "-n", &other]);
        if columns.contains("Connected") { Ok(()) } else { Err(columns) }
    })
    .await;
    prefect_secret(&world, "remote", &key, json!({"workspaceRef": {"name": "there"}})).await;
    let ready = world.eventually_reason("PrefectSecret", "remote", "WorkspaceNotFound").await;
    let message = format!("no PrefectWorkspace \"there\" in {namespace:?}; create one or set spec.workspaceRef");
    assert!(ready.message.starts_with(&message), "{}", ready.message);
    let spec =
        json!({"api": {"url": proxy.url(), "apiKey": {"secretKeyRef": {"name": "creds"}}}, "refreshInterval": "1s"});
    apply(&world, "PrefectWorkspace", "guarded", spec.clone()).await;
    let ready = world.eventually_reason("PrefectWorkspace", "guarded", "CredentialsNotFound").await;
    let message = format!(
        "no Secret {namespace}/creds; create it with the key \"key\" and the label prefect-sync.dev/offer=workspace"
    );
    assert!(ready.message.starts_with(&message), "{}", ready.message);
    let mut named = spec;
    named["api"]["apiKey"]["secretKeyRef"]["namespace"] = json!(other);
    let named = json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectWorkspace", "metadata": {"name": "guarded"}, "spec": named});
    let refused = world.try_apply(&named.to_string()).await.unwrap_err();
    assert!(refused.contains("secretKeyRef.namespace"), "a reference has no namespace: {refused}");

    // Not even a Secret of the own namespace, unless it offers itself.
    create(&world, json!({"metadata": {"name": "creds"}, "stringData": {"key": "pnu_here"}})).await;
    apply(&world, "PrefectWorkspace", "guarded", json!({"api": {"url": proxy.url(), "apiKey": {"secretKeyRef": {"name": "creds"}}}, "refreshInterval": "1s", "staleAfter": "1s"})).await;
    let ready = world.eventually_reason("PrefectWorkspace", "guarded", "NotOffered").await;
    let command = format!("label --overwrite secret creds -n {namespace} prefect-sync.dev/offer=workspace");
    let message = format!("Secret {namespace}/creds is not offered to workspaces; kubectl {command}");
    assert!(ready.message.starts_with(&message), "{}", ready.message);
    assert_eq!(proxy.requests(), [""; 0]);
    for _ in 0..2 {
        control_plane().await.kubectl_ok(&command.split(' ').collect::<Vec<_>>());
        // Before the next look after 30 s.
        let at_once = async || match world.ready("PrefectWorkspace", "guarded").await {
            Some(ready) if ready.reason == "Connected" => Ok(()),
            other => Err(format!("{other:?}")),
        };
        eventually("the offer to be taken", Duration::from_secs(25), at_once).await;
        merge(&world, "Secret", "creds", json!({"metadata": {"labels": {"prefect-sync.dev/offer": null}}})).await;
        let withdrawn = async || match world.ready("PrefectWorkspace", "guarded").await {
            Some(ready) if ready.reason == "NotOffered" => Ok(()),
            other => Err(format!("{other:?}")),
        };
        eventually("the offer to be withdrawn", SOON, withdrawn).await;
        let requests = proxy.requests().len();
        prefect_secret(&world, "marker", &key, json!({})).await;
        passes(&marker, 2).await;
        assert_eq!(proxy.requests().len(), requests, "what is not offered any more is not used");
    }

    // Others' Secrets and ConfigMaps: refused, and never even written at.
    let before = create(&world, json!({"metadata": {"name": "etl"}, "stringData": {"theirs": "x"}})).await;
    prefect_secret(&world, "etl", &key, json!({})).await;
    world.eventually_reason("PrefectSecret", "etl", "TargetConflict").await;
    prefect().await.set_secret(&key, json!("two")).await;
    world.eventually_secret("marker", &[("A", "two")]).await;
    world.api("PrefectSecret").delete("etl", &DeleteParams::background()).await.unwrap();
    world.secrets().delete("marker", &DeleteParams::default()).await.unwrap();
    world.eventually_secret("marker", &[("A", "two")]).await;
    assert_eq!(world.secrets().get("etl").await.unwrap(), before);
    let theirs = format!("/api/v1/namespaces/{namespace}/secrets/");
    let writes = world.writes().await;
    let wrong = writes.iter().filter(|w| w.contains(&theirs) && !w.contains("/secrets/marker"));
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0], "{writes:?}");
}

/// What would betray `canary`: itself, and what base64 makes of it wherever it stands in a longer text.
fn traces(canary: &str) -> Vec<String> {
    let mut traces = vec![canary.to_owned()];
    for shift in 0..3 {
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(format!("{}{canary}", "x".repeat(shift)));
        // The characters at the ends depend on what stands next to it.
        traces.push(encoded[4.min(shift * 4)..encoded.len() - 3].to_owned());
    }
    traces
}

#[tokio::test]
async fn promise_4_values_stay_out_of_logs_events_status_and_error_texts() {
    let world = World::with_args("canary", &["--log", "trace"]).await;
    let namespace = &world.namespace;
    let canary = format!("kanarienvogel{}", uuid::Uuid::new_v4().simple());
    let (own, masked, echoed) = (
        Proxy::start(prefect().await.url()).await,
        Proxy::start(prefect().await.url()).await,
        Proxy::start(prefect().await.url()).await,
    );
    let key = world.name("a");
    let name = world.name("json");
    prefect().await.set_secret(&key, json!(canary)).await;
    prefect().await.set_secret(&name, json!({"inner": {&canary: canary}})).await;
    prefect().await.set_variable(&key, json!(canary)).await;
    masked.set(Mode::Masked);
    let echo = json!({"exception_message": canary, "exception_detail": [{"input": canary}], "request_body": canary});
    echoed.set(Mode::AnswerWhere(key.clone(), 422, echo.to_string()));

    let offer = json!({"prefect-sync.dev/offer": "workspace"});
    let config = format!("[context.secrets]\n{key} = \"{canary}\"\n");
    for (secret, data) in [
        ("credentials", json!({"key": format!("pnu_{canary}")})),
        ("config", json!({"config.toml": config})),
        ("broken", json!({"config.toml": format!("{config}{canary} = \"{canary}\n")})),
        ("lines", json!({"key": format!("{canary}\n{canary}")})),
    ] {
        create(&world, json!({"metadata": {"name": secret, "labels": offer}, "stringData": data})).await;
    }
    let api = |url: String, secret: &str| json!({"api": {"url": url, "apiKey": {"secretKeyRef": {"name": secret}}}, "refreshInterval": "1s", "staleAfter": "1s"});
    let local =
        |secret: &str| json!({"local": {"configToml": {"secretKeyRef": {"name": secret}}}, "refreshInterval": "1s"});
    for (workspace, spec) in [
        ("default", api(own.url(), "credentials")),
        ("masked", api(masked.url(), "credentials")),
        ("echoed", api(echoed.url(), "credentials")),
        ("local", local("config")),
        ("broken", local("broken")),
        ("lines", api(own.url(), "lines")),
    ] {
        apply(&world, "PrefectWorkspace", workspace, spec).await;
    }
    // An admission policy that tells in its refusal what it saw.
    let policy = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": namespace}, "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}]},
            "matchConditions": [{"name": "one", "expression": "object.metadata.name == 'refused'"}],
            "validations": [{"expression": "false", "messageExpression": "'not with ' + string(object.data.A)"}]}},
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": namespace}, "spec": {
            "policyName": namespace, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}}},
    ]});
    let folder = crate::support::Scratch::new("policy");
    std::fs::write(folder.path().join("policy.json"), policy.to_string()).unwrap();
    control_plane().await.kubectl_ok(&["apply", "-f", folder.path().join("policy.json").to_str().unwrap()]);
    let probe: Secret =
        serde_json::from_value(json!({"metadata": {"name": "refused"}, "stringData": {"A": "probe"}})).unwrap();
    let dry_run = PostParams { dry_run: true, ..Default::default() };
    eventually("the policy to work", SOON, async || match world.secrets().create(&dry_run, &probe).await {
        Err(kube::Error::Api(status)) if status.message.contains("cHJvYmU=") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    create(&world, json!({"metadata": {"name": "conflict"}, "stringData": {"A": canary}})).await;
    let from = |name: &str, property: &str| json!({"data": [{"secretKey": "A", "remoteRef": {"key": name, "property": property}}]});
    let through = |workspace: &str| json!({"workspaceRef": {"name": workspace}});
    let objects = [
        ("good", "Synced", json!({})),
        ("local", "Synced", through("local")),
        ("masked", "ValueMasked", through("masked")),
        ("echoed", "PrefectRejected", through("echoed")),
        ("broken", "LocalInvalid", through("broken")),
        ("lines", "WorkspaceInvalid", through("lines")),
        ("conflict", "TargetConflict", json!({})),
        ("refused", "TargetRefused", json!({})),
        ("nojson", "NotJson", from(&key, "a.b")),
        ("property", "PropertyNotFound", from(&name, "inner.other")),
    ];
    for (object, _, more) in &objects {
        prefect_secret(&world, object, &key, more.clone()).await;
    }
    let kv = json!({"data": [{"configMapKey": "A", "remoteRef": {"key": key}}]});
    apply(&world, "PrefectKV", "kv", kv).await;
    for (object, reason, _) in &objects {
        world.eventually_reason("PrefectSecret", object, reason).await;
    }
    world.eventually_reason("PrefectKV", "kv", "Synced").await;
    // Drift and recovery have words of their own.
    merge(&world, "Secret", "good", json!({"stringData": {"A": "edited"}})).await;
    world.eventually_secret("good", &[("A", &canary)]).await;
    eventually("the Event of that", SOON, async || match world.events("PrefectSecret", "good").await {
        events if events.iter().any(|(_, reason, _)| reason == "DriftRepaired") => Ok(()),
        events => Err(format!("{events:?}")),
    })
    .await;
    masked.set(Mode::Pass);
    world.eventually_secret("masked", &[("A", &canary)]).await;
    echoed.set(Mode::Answer(403, Vec::new(), echo.to_string()));
    world.eventually_reason("PrefectWorkspace", "echoed", "CredentialsRefused").await;
    control_plane().await.kubectl_ok(&[
        "delete",
        "validatingadmissionpolicybinding,validatingadmissionpolicy",
        namespace,
    ]);

    let mut told = String::new();
    for kind in ["PrefectWorkspace", "PrefectSecret", "PrefectKV"] {
        for object in world.api(kind).list(&Default::default()).await.unwrap() {
            told.push_str(&format!("{kind} {}: {}\n", object.name_any(), object.data["status"]));
            told.push_str(&object.metadata.managed_fields.map(|fields| json!(fields).to_string()).unwrap_or_default());
        }
    }
    told.push_str(&control_plane().await.kubectl_ok(&["get", "events.events.k8s.io", "-n", namespace, "-o", "json"]));
    assert!(told.contains("DriftRepaired") && told.contains("TargetRefused"), "{told}");
    let log = world.stop_operator().await;
    assert!(log.contains("\"TRACE\""), "it logs all that it can");
    for trace in traces(&canary) {
        for (place, text) in [("status or an Event", &told), ("the log", &log)] {
            if let Some(at) = text.find(&trace) {
                let around = &text[at.saturating_sub(300)..text.len().min(at + 100)];
                panic!("{trace} stands in {place}: {around}");
            }
        }
    }
}

#[tokio::test]
async fn promise_5_quiet_when_nothing_changes_and_after_a_restart() {
    let world = World::new("quiet").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    workspace(&world, "default", &proxy.url(), "1s").await;
    let keys = [world.name("a"), world.name("b"), world.name("c")];
    for key in &keys[..2] {
        prefect().await.set_secret(key, json!("one")).await;
    }
    prefect().await.set_variable(&keys[2], json!("one")).await;
    let [a, b, c] = &keys;
    let data = json!([{"secretKey": "A", "remoteRef": {"key": a}}, {"secretKey": "B", "remoteRef": {"key": b}}, {"secretKey": "C", "remoteRef": {"variable": c}}]);
    let names: Vec<String> = (0..30).map(|n| format!("etl-{n}")).collect();
    for name in &names {
        apply(&world, "PrefectSecret", name, json!({"data": data})).await;
    }
    // Those that are not well are quiet too.
    create(&world, json!({"metadata": {"name": "conflict"}})).await;
    let missing = json!([{"secretKey": "A", "remoteRef": {"key": world.name("missing")}}, {"secretKey": "B", "remoteRef": {"key": a}}]);
    for (name, more, reason) in [
        ("conflict", json!({}), "TargetConflict"),
        ("missing", json!({"data": missing}), "KeyNotFound"),
        ("nojson", json!({"data": [{"secretKey": "A", "remoteRef": {"key": a, "property": "x"}}]}), "NotJson"),
        ("suspended", json!({"suspend": true}), "Suspended"),
        ("lost", json!({"workspaceRef": {"name": "nowhere"}}), "WorkspaceNotFound"),
        (
            "absent",
            json!({"data": [{"secretKey": "A", "remoteRef": {"key": world.name("absent")}, "default": "x"}]}),
            "Synced",
        ),
    ] {
        prefect_secret(&world, name, a, more).await;
        world.eventually_reason("PrefectSecret", name, reason).await;
    }
    for name in &names {
        world.eventually_reason("PrefectSecret", name, "Synced").await;
    }
    // Absences are confirmed by now.
    passes(&proxy, 3).await;

    let versions = async || {
        let mut versions = Vec::new();
        for kind in ["PrefectWorkspace", "PrefectSecret", "Secret"] {
            for object in world.api(kind).list(&Default::default()).await.unwrap() {
                versions.push((kind, object.name_any(), object.resource_version().unwrap()));
            }
        }
        versions
    };
    let (writes, seen, requests) = (world.writes().await, versions().await, proxy.requests().len());
    // Long enough for the retry of a conflict.
    passes(&proxy, 11).await;
    let asked = proxy.answered_since(requests);
    assert_eq!(world.writes().await, writes);
    assert_eq!(versions().await, seen);
    // One request for the Secret blocks and one for the variables, however many objects there are.
    let blocks = asked.iter().filter(|request| request.ends_with("/block_documents/filter")).count();
    let variables = asked.iter().filter(|request| request.ends_with("/variables/filter")).count();
    assert!(blocks >= 11 && blocks.abs_diff(variables) <= 1, "{asked:?}");
    assert_eq!(asked.len(), blocks + variables, "{asked:?}");

    // A restart finds all in place. Only what changes later is written.
    world.stop_operator().await;
    world.start_operator();
    passes(&proxy, 2).await;
    assert_eq!(world.writes().await, writes);
    assert_eq!(versions().await, seen);
    prefect().await.set_variable(c, json!("two")).await;
    for name in &names {
        world.eventually_secret(name, &[("A", "one"), ("B", "one"), ("C", "two")]).await;
    }
    eventually("all statuses", SOON, async || match world.writes().await.len() - writes.len() {
        few if few < 2 * names.len() => Err(format!("{few} writes")),
        _ => Ok(()),
    })
    .await;
    passes(&proxy, 1).await;
    let after = world.writes().await.split_off(writes.len());
    assert_eq!(after.len(), 2 * names.len(), "each target and its status, once: {after:#?}");
    assert!(after.iter().all(|write| write.contains("/etl-")), "{after:#?}");
}

#[tokio::test]
async fn promise_6_drift_is_repaired_at_once() {
    let world = World::new("drift").await;
    // So that no refresh can be what repairs.
    workspace(&world, "default", prefect().await.url(), "1h").await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("one")).await;
    prefect().await.set_variable(&key, json!("one")).await;
    prefect_secret(&world, "etl", &key, json!({})).await;
    let kv = json!({"data": [{"configMapKey": "A", "remoteRef": {"key": key}}]});
    apply(&world, "PrefectKV", "kv", kv).await;
    for (kind, name) in [("PrefectSecret", "etl"), ("PrefectKV", "kv")] {
        world.eventually_reason(kind, name, "Synced").await;
    }
    let edits = [
        ("a value is edited", json!({"data": {"A": "eHh4"}})),
        ("a key is added", json!({"data": {"B": "eHh4"}})),
        ("a key is removed", json!({"data": {"A": null}})),
        ("all is removed", json!({"data": null})),
        ("our label is stripped", json!({"metadata": {"labels": null}})),
        ("our label is changed", json!({"metadata": {"labels": {"prefect-sync.dev/owned-by": "me"}}})),
        ("our annotation is stripped", json!({"metadata": {"annotations": null}})),
        ("its owner is taken out", json!({"metadata": {"ownerReferences": null}})),
        ("it is deleted", Value::Null),
    ];
    let shape = async |kind: &str, name: &str| {
        let object = world.api(kind).get_opt(name).await.unwrap().map(|object| serde_json::to_value(object).unwrap());
        object.map(|object| {
            let metadata = &object["metadata"];
            json!([object["data"], metadata["labels"], metadata["annotations"], metadata["ownerReferences"]])
        })
    };
    let edit = async |kind: &str, name: &str, patch: &Value| match patch {
        Value::Null => drop(world.api(kind).delete(name, &DeleteParams::default()).await.unwrap()),
        patch => merge(&world, kind, name, patch.clone()).await,
    };
    for (kind, name) in [("Secret", "etl"), ("ConfigMap", "kv")] {
        let right = shape(kind, name).await;
        // While the operator runs, and while it does not.
        for (what, patch) in &edits {
            edit(kind, name, patch).await;
            eventually(&format!("{kind}: {what}, and repaired"), Duration::from_secs(25), async || {
                let now = shape(kind, name).await;
                if now == right { Ok(()) } else { Err(format!("{now:?}\n{}", world.log())) }
            })
            .await;
        }
    }
    let events = world.events("PrefectSecret", "etl").await;
    assert!(
        events.iter().all(|(kind, reason, _)| (kind.as_str(), reason.as_str()) == ("Normal", "DriftRepaired")),
        "{events:?}"
    );
    assert!(!events.is_empty());
    for (what, patch) in [&edits[0], &edits[8]] {
        let right = [shape("Secret", "etl").await, shape("ConfigMap", "kv").await];
        world.stop_operator().await;
        edit("Secret", "etl", patch).await;
        edit("ConfigMap", "kv", patch).await;
        world.start_operator();
        eventually(&format!("{what} while the operator is down, and repaired"), SOON, async || {
            let now = [shape("Secret", "etl").await, shape("ConfigMap", "kv").await];
            if now == right { Ok(()) } else { Err(format!("{now:?}\n{}", world.log())) }
        })
        .await;
    }
    // One that someone has made their own is no drift.
    let taken = json!({"metadata": {"labels": null, "annotations": null, "ownerReferences": null}});
    merge(&world, "Secret", "etl", taken).await;
    world.eventually_reason("PrefectSecret", "etl", "TargetConflict").await;
}
