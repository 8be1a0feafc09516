//! What the status says as kstatus reads it, and which Events tell of it.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::fixture::{SOON, World, passes, prefect};
use crate::reconciling::{create, etl};
use crate::support::{Mode, Proxy, eventually};

#[tokio::test]
async fn conditions_are_as_kstatus_reads_them_and_events_tell_transitions_only() {
    let world = World::new("status").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    world.workspace(&proxy.url()).await;
    let key = world.name("a");
    prefect().await.set_secret(&key, json!("one")).await;
    create(&world, json!({"metadata": {"name": "foreign"}})).await;

    let (no1, no2) = (world.name("missing-1"), world.name("missing-2"));
    let mut transitions: Vec<String> = Vec::new();
    let mut generation = 0;
    // What is asked for; Ready, its reason, and the other condition; whether Ready changes.
    let steps = [
        (&key, json!({}), "True", "Synced", None, true),
        (&no1, json!({}), "False", "KeyNotFound", Some("Reconciling"), true),
        (&no2, json!({}), "False", "KeyNotFound", Some("Reconciling"), false),
        (&key, json!({"target": {"name": "foreign"}}), "False", "TargetConflict", Some("Stalled"), false),
        (&key, json!({"suspend": true}), "False", "Suspended", None, false),
        (&key, json!({}), "True", "Synced", None, true),
    ];
    for (key, more, status, reason, other, transition) in steps {
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
            if object["status"]["observedGeneration"] == generation {
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
