//! What becomes of the work when a replica dies.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::fixture::{RELEASE, SOON, Space, node, operators, prefect_secret, secret_text};

/// The longest that nobody works after a leader died, as the README promises.
const TAKE_OVER: Duration = Duration::from_secs(15);
/// After a leader that could say goodbye: less than what is left of a Lease that is not given back.
const HAND_OVER: Duration = Duration::from_secs(7);

async fn holder(space: &Space) -> Result<String, String> {
    let leases: Api<Lease> = Api::namespaced(space.client.clone(), RELEASE);
    let lease = leases.get(RELEASE).await.map_err(|error| error.to_string())?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    if holder.is_empty() { Err("nobody holds the Lease".to_owned()) } else { Ok(holder) }
}

/// The process of a pod's container on this node, as all are in its process namespace.
fn process_of(pod: &Pod) -> String {
    let uid = pod.uid().expect("a uid");
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut pids = all.filter_map(|entry| {
        let pid = entry.file_name().into_string().ok().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?;
        let program = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        (program.starts_with("/prefect-sync\0") && groups.contains(&uid)).then_some(pid)
    });
    pids.next().unwrap_or_else(|| panic!("no process of pod {uid}"))
}

fn kill(pid: &str) {
    let killed = std::process::Command::new("kill").args(["-KILL", pid]).status().expect("kill");
    assert!(killed.success(), "kill -KILL {pid}");
}

#[tokio::test]
async fn another_replica_takes_over_when_the_leader_dies_and_at_once_when_it_ends_in_order() {
    let space = Space::alone("take-over").await;
    let prefect = node().await.prefect();
    prefect.set_secret("take-over", json!("0")).await;
    let spec = json!({"data": [{"secretKey": "VALUE", "remoteRef": {"key": "take-over"}}]});
    space.apply(&[prefect_secret("etl", spec)]);
    let holds = async |expected: &str| match secret_text(&space, "etl", "VALUE").await {
        Some(value) if value == expected => Ok(()),
        other => Err(format!("it holds {other:?}")),
    };
    space.eventually("the Secret", SOON, async || holds("0").await).await;
    let pods: Api<Pod> = Api::namespaced(space.client.clone(), RELEASE);
    let another = async |before: &str| match holder(&space).await {
        Ok(now) if now != before => Ok(now),
        other => Err(format!("{other:?}")),
    };

    // Its machine is gone: the process ends without a word, and its pod does not come back.
    let first = holder(&space).await.expect("a leader");
    let standby = operators(&space).await.into_iter().find(|pod| pod.name_any() != first).expect("a second replica");
    kill(&process_of(&pods.get(&first).await.expect("its pod")));
    let died = Instant::now();
    pods.delete(&first, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
        .await
        .expect("deleted");
    prefect.set_secret("take-over", json!("1")).await;
    let second = space.eventually("another leader", TAKE_OVER, async || another(&first).await).await;
    println!("{second} took over {:?} after {first} was killed", died.elapsed());
    assert_eq!(second, standby.name_any(), "the one that stood by, rather than the one that starts in its place");
    space.eventually("what changed meanwhile", SOON, async || holds("1").await).await;

    // Its program alone is killed: the kubelet starts it again, and someone works.
    kill(&process_of(&pods.get(&second).await.expect("its pod")));
    let died = Instant::now();
    prefect.set_secret("take-over", json!("2")).await;
    space.eventually("what changed meanwhile", SOON, async || holds("2").await).await;
    println!(
        "{} works {:?} after the program of {second} was killed",
        holder(&space).await.expect("a leader"),
        died.elapsed()
    );

    // An orderly end, as an upgrade or a drain brings it.
    space
        .eventually("two Ready replicas", SOON, async || match operators(&space).await.len() {
            2 => Ok(()),
            ready => Err(format!("{ready} are")),
        })
        .await;
    let third = holder(&space).await.expect("a leader");
    pods.delete(&third, &DeleteParams::default()).await.expect("deleted");
    let ended = Instant::now();
    let fourth = space.eventually("another leader", HAND_OVER, async || another(&third).await).await;
    println!("{fourth} took over {:?} after {third} was told to end", ended.elapsed());
    prefect.set_secret("take-over", json!("3")).await;
    space.eventually("a change under the new leader", SOON, async || holds("3").await).await;
}
