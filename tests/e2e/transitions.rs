//! What the status says, how GitOps tools read it, and which Events tell of it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use prefect_sync::api::{PrefectSecret, SyncStatus};
use prefect_sync::controllers::status;
use serde_json::{Value, json};

use crate::fixture::{SOON, World, passes, prefect, psec};
use crate::reconciling::{create, etl};
use crate::support::{Mode, Proxy, Scratch, eventually, tools};

/// The health check for Argo CD, as the page has it.
fn argocd_script() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docs/gitops.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let block = blocks.find(|block| block.contains("argocd-cm")).expect("a ConfigMap in gitops.md");
    let map: Value = serde_saphyr::from_str(block).unwrap();
    let customizations: Value =
        serde_saphyr::from_str(map["data"]["resource.customizations"].as_str().expect("text")).unwrap();
    customizations["prefect-sync.dev/*"]["health.lua"].as_str().expect("a script").to_owned()
}

/// What kstatus itself says of an object, or with a script's path what Argo CD's interpreter makes of it.
fn health(args: &[&str], object: &Value) -> String {
    let mut command = Command::new(tools::health());
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "health {args:?} of {object}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn conditions_are_as_gitops_tools_read_them_and_events_tell_transitions_only() {
    let scratch = Scratch::new("health");
    let script = scratch.path().join("health.lua");
    std::fs::write(&script, argocd_script()).unwrap();
    let script = script.to_str().unwrap();
    let world = World::new("status").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    world.workspace(&proxy.url()).await;
    world.connected().await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("one")).await;
    create(&world, json!({"metadata": {"name": "foreign"}})).await;

    let (no1, no2) = (world.name("missing-1"), world.name("missing-2"));
    let mut transitions: Vec<String> = Vec::new();
    let mut generation = 0;
    // What is asked for; Ready, its reason, and the other condition; whether Ready changes; kstatus and Argo CD.
    let (synced, missing) = (["Current", "Healthy"], ["InProgress", "Progressing"]);
    let foreign = json!({"target": {"name": "foreign"}});
    let steps = [
        (&key, json!({}), "True", "Synced", None, true, synced),
        (&no1, json!({}), "False", "KeyNotFound", Some("Reconciling"), true, missing),
        (&no2, json!({}), "False", "KeyNotFound", Some("Reconciling"), false, missing),
        (&key, foreign, "False", "TargetConflict", Some("Stalled"), false, ["Failed", "Degraded"]),
        (&key, json!({"suspend": true}), "False", "Suspended", None, false, ["InProgress", "Suspended"]),
        (&key, json!({}), "True", "Synced", None, true, synced),
    ];
    for (key, more, status, reason, other, transition, [kstatus, argocd]) in steps {
        if let Some(last) = transitions.last() {
            // Times have whole seconds: a transition now must differ from the last.
            let last: Timestamp = last.parse().unwrap();
            let next =
                async || if Timestamp::now().as_second() > last.as_second() { Ok(()) } else { Err("too early".into()) };
            eventually("the next second", Duration::from_secs(5), next).await;
        }
        etl(&world, key, more).await;
        generation += 1;
        let object = eventually(&format!("generation {generation} to be {reason}"), SOON, async || {
            let object = world.get("PrefectSecret", "etl").await;
            // A new one that waits long says so first.
            let waits = object["status"]["conditions"][0]["reason"] == "Progressing";
            if object["status"]["observedGeneration"] == generation && !waits {
                Ok(object)
            } else {
                Err(object["status"].to_string())
            }
        })
        .await;
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let seen: Vec<_> = conditions
            .iter()
            .map(|c| (c["type"].as_str().unwrap(), c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()))
            .collect();
        let mut expected = vec![("Ready", status, reason)];
        expected.extend(other.map(|other| (other, "True", reason)));
        assert_eq!(seen, expected);
        assert!(conditions.iter().all(|c| c["observedGeneration"] == generation), "{conditions:?}");
        let message = conditions[0]["message"].as_str().unwrap();
        assert_eq!(health(&["kstatus"], &object), format!("{kstatus}\n"), "{object}");
        assert_eq!(health(&["argocd", script], &object), format!("{argocd}\n{reason}: {message}\n"), "{object}");
        let mut changed = object.clone();
        changed["metadata"]["generation"] = json!(generation + 1);
        assert_eq!(health(&["kstatus"], &changed), "InProgress\n");
        assert!(health(&["argocd", script], &changed).starts_with("Progressing\n"));
        let time = conditions[0]["lastTransitionTime"].as_str().unwrap().to_owned();
        match transitions.last() {
            Some(before) if transition => assert_ne!(*before, time, "{reason}"),
            Some(before) => assert_eq!(*before, time, "{reason}: only the message changed"),
            None => {}
        }
        transitions.push(time);
        // Nothing is said twice, however often it is found.
        if reason != "Suspended" {
            passes(&proxy, 1).await;
        }
    }
    let events = world.events("PrefectSecret", "etl").await;
    let told: Vec<_> = events.iter().map(|(kind, reason, _)| (kind.as_str(), reason.as_str())).collect();
    assert_eq!(told, [("Warning", "KeyNotFound"), ("Warning", "TargetConflict"), ("Normal", "Synced")], "{events:?}");
    assert_eq!(events[2].2, format!("1 of 1 keys synced to Secret {}/etl", world.namespace));
    assert_eq!(world.events("PrefectWorkspace", "default").await, [], "an ordinary first success is no event");

    // The workspace tells its outage once, and its end once.
    for (mode, reason) in
        [(Mode::Answer(503, Vec::new(), "{}".into()), "PrefectUnreachable"), (Mode::Pass, "Connected")]
    {
        proxy.set(mode);
        world.eventually_reason("PrefectWorkspace", "default", reason).await;
    }
    eventually("both Events", SOON, async || {
        let events = world.events("PrefectWorkspace", "default").await;
        let told: Vec<_> = events.iter().map(|(kind, reason, _)| (kind.as_str(), reason.as_str())).collect();
        if told == [("Warning", "PrefectUnreachable"), ("Normal", "Connected")] {
            Ok(())
        } else {
            Err(format!("{events:?}"))
        }
    })
    .await;
    assert_eq!(world.ready("PrefectSecret", "etl").await.unwrap().reason, "Synced", "objects outlive an outage");
}

#[tokio::test]
async fn a_status_replaces_only_the_one_that_it_was_planned_from_whatever_else_changed() {
    let world = World::without_operator("outdated", &[]).await;
    let data = json!({"data": [{"secretKey": "V", "remoteRef": {"key": world.name("k")}}]});
    world.apply(&psec("etl", data)).await;
    let objects: Api<PrefectSecret> = Api::namespaced(world.client.clone(), &world.namespace);
    let at = |revision| SyncStatus { revision: Some(revision), ..SyncStatus::default() };
    let seen = objects.get("etl").await.unwrap().metadata;
    let write = async |before: &SyncStatus, after: &SyncStatus| {
        status::write::<PrefectSecret, _>(&world.client, &seen, Some(before), after).await
    };
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    objects.patch("etl", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    let (nothing, first, second) = (SyncStatus::default(), at(1), at(2));
    assert!(write(&nothing, &first).await.unwrap().is_some(), "a label is no status");
    assert!(write(&first, &second).await.unwrap().is_some());
    let refused = write(&first, &at(9)).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("the status of PrefectSecret {}/etl changed", world.namespace)), "{refused}");
    assert_eq!(objects.get("etl").await.unwrap().status, Some(second.clone()));
    objects.delete("etl", &DeleteParams::default()).await.unwrap();
    assert_eq!(write(&second, &first).await.unwrap(), None);
}
