//! Several replicas: one works, the others stand by. The real binary, killed, stopped and frozen under load.

use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::fixture::{SOON, prefect, psec};
use crate::replica::{Load, Replica, eventually_holder, give_permission, lease, take_permission, world};
use crate::support::{Proxy, eventually};

/// The longest that nobody works after a leader died, as the README promises.
const TAKE_OVER: Duration = Duration::from_secs(15);
/// Long enough for a session to begin and to look for changes.
const WHILE: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_standby_is_ready_knows_no_value_and_asks_nothing_of_prefect() {
    let proxy = Proxy::start(prefect().await.url()).await;
    let world = world("standby", &proxy.url()).await;
    let leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    let load = Load::start(&world).await;
    load.eventually_delivered(&world).await;
    let standby = Replica::start(&world, "b").await;
    standby.eventually_leads(false).await;
    let log = standby.operator.log();
    assert!(log.contains("standing by") && log.contains(r#""holder":"a""#), "{log}");
    // The leader is gone, and nobody can take its Lease: whatever is asked of Prefect now the standby would ask.
    let permission = take_permission(&world).await;
    leader.signal("STOP");
    // Behind whatever the leader had sent.
    reqwest::get(format!("{}/marker", proxy.url())).await.unwrap();
    let asked = proxy.requests().len();
    world.apply(&psec("new", json!({"data": [{"secretKey": "V", "remoteRef": {"key": world.name("k0")}}]}))).await;
    tokio::time::sleep(WHILE).await;
    let (_, metrics) = standby.ask("metrics").await.unwrap();
    for line in ["prefect_sync_prefect_requests_total{", "prefect_sync_snapshot_age_seconds{", "prefect_sync_objects{"]
    {
        assert!(!metrics.contains(line), "{metrics}");
    }
    assert_eq!(proxy.requests().len(), asked, "{:?}", proxy.requests());
    assert!(leader.remembers("canary-0-1"), "the leader's memory holds what it delivers, or this looks at nothing");
    assert!(!standby.remembers("canary-0-1"), "the standby holds a value");
    assert!(standby.writes().await.is_empty(), "{:?}", standby.writes().await);
    leader.operator.kill_now();
    give_permission(&world, &permission).await;
    standby.eventually_leads(true).await;
    world.eventually_reason("PrefectSecret", "new", "Synced").await;
}

#[tokio::test]
async fn a_killed_leader_is_followed_within_15_seconds_and_no_change_is_lost() {
    let kills: usize = std::env::var("KILLS").map_or(2, |kills| kills.parse().expect("KILLS is a number"));
    let world = world("killed", prefect().await.url()).await;
    let mut leader = Replica::start(&world, "r0").await;
    leader.eventually_leads(true).await;
    let mut load = Load::start(&world).await;
    let (mut took, mut worked) = (Vec::new(), Vec::new());
    for kill in 1..=kills {
        let standby = Replica::start(&world, &format!("r{kill}")).await;
        standby.eventually_leads(false).await;
        load.change(&world).await;
        leader.operator.kill_now();
        let (killed, round) = (Instant::now(), load.round);
        let works = async {
            Load::eventually_followed(&world, round).await;
            killed.elapsed()
        };
        let (held, works) = tokio::join!(load.change_until_held(&world, &standby.identity), works);
        // Who holds the Lease works at once; how fast its first read and write are is up to the machine as well.
        assert!(held < TAKE_OVER, "held after {held:?}, works after {works:?}\n{}", standby.operator.log());
        took.push(held);
        worked.push(works);
        load.eventually_delivered(&world).await;
        leader = standby;
    }
    println!("taken over after {took:.1?}, a target followed after {worked:.1?}");
    // Each of them once, and nothing but what the leaders wrote.
    assert_eq!(lease(&world).await.spec.and_then(|spec| spec.lease_transitions), i32::try_from(kills).ok());
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_at_once() {
    let world = world("stopped", prefect().await.url()).await;
    let leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    let mut load = Load::start(&world).await;
    let standby = Replica::start(&world, "b").await;
    standby.eventually_leads(false).await;
    load.change(&world).await;
    let (code, log) = leader.operator.stop().await;
    assert_eq!(code, 0, "{log}");
    let took = eventually_holder(&world, "b").await;
    println!("handed over {took:.1?} after the leader ended");
    // Less than what is left of a Lease that is not given back.
    assert!(took < Duration::from_secs(7), "{took:?}\n{}", standby.operator.log());
    load.eventually_delivered(&world).await;
    assert!(log.contains("gave the Lease back"), "{log}");
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_after_15_seconds_though_a_write_hangs() {
    /// What a pod has to end in.
    const GRACE: Duration = Duration::from_secs(30);
    let world = world("hanging", prefect().await.url()).await;
    let mut leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    // It takes what it is asked, and never answers. The API server waits for 10 s, and does without: for the target, then
    // for the status.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = json!({
        "metadata": {"name": world.namespace},
        "webhooks": [{
            "name": "silent.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": 30,
            "clientConfig": {"url": format!("https://{}", silent.local_addr().unwrap())},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
            "rules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]},
                {"apiGroups": ["prefect-sync.dev"], "apiVersions": ["v1alpha1"], "operations": ["UPDATE"],
                 "resources": ["prefectsecrets/status"]},
            ],
        }],
    });
    let hooks: Api<ValidatingWebhookConfiguration> = Api::all(world.client.clone());
    hooks.create(&PostParams::default(), &serde_json::from_value(hook).unwrap()).await.unwrap();
    let data = json!([{"secretKey": "V", "remoteRef": {"key": world.name("k")}}]);
    prefect().await.set_secret(&world.name("k"), json!("canary")).await;
    // The API server takes a moment to know of the webhook.
    let hung = eventually("a write to hang", SOON, async || {
        world.apply(&psec("etl", json!({"data": data}))).await;
        if let Ok(hung) = tokio::time::timeout(Duration::from_secs(5), silent.accept()).await {
            return Ok(hung);
        }
        world.api("PrefectSecret").delete("etl", &DeleteParams::default()).await.unwrap();
        Err(leader.operator.log())
    })
    .await;
    leader.signal("TERM");
    let asked = Instant::now();
    let code = eventually("the leader to end", GRACE, async || {
        leader.operator.exit_code().ok_or_else(|| leader.operator.log())
    })
    .await;
    let log = leader.operator.log();
    println!("ended {:.1?} after it was asked to", asked.elapsed());
    hooks.delete(&world.namespace, &DeleteParams::default()).await.unwrap();
    drop(hung);
    assert!(
        code == 0 && log.contains("not finished within 15s") && log.contains("gave the Lease back"),
        "{code} {log}"
    );
}

#[tokio::test]
async fn a_frozen_leader_writes_nothing_when_it_wakes_and_ends() {
    let freezes: usize = std::env::var("FREEZES").map_or(1, |freezes| freezes.parse().expect("FREEZES is a number"));
    let world = world("frozen", prefect().await.url()).await;
    let mut leader = Replica::start(&world, "r0").await;
    leader.eventually_leads(true).await;
    let mut load = Load::start(&world).await;
    for freeze in 1..=freezes {
        let standby = Replica::start(&world, &format!("r{freeze}")).await;
        standby.eventually_leads(false).await;
        // In the midst of its work.
        load.change(&world).await;
        leader.signal("STOP");
        load.change_until_held(&world, &standby.identity).await;
        let taken = lease(&world).await.spec.and_then(|spec| spec.acquire_time).unwrap().0;
        load.eventually_delivered(&world).await;
        // It can't learn that it was replaced: the clock alone holds it back.
        let permission = take_permission(&world).await;
        leader.signal("CONT");
        // Nor does the other one write what it finds, before it does.
        standby.eventually_leads(false).await;
        load.change(&world).await;
        leader.eventually_held_back().await;
        assert_eq!(leader.operator.exit_code(), None);
        give_permission(&world, &permission).await;
        let code = eventually("the one that woke to end", SOON, async || {
            leader.operator.exit_code().ok_or_else(|| leader.operator.log())
        })
        .await;
        let log = leader.operator.log();
        assert_eq!(code, 1, "{log}");
        let told = format!("another replica ({}) holds the Lease now", standby.identity);
        assert!(log.contains(&told), "{log}");
        let writes = leader.writes().await;
        assert!(!writes.is_empty(), "the audit log has none of its writes, so this looks at nothing");
        let late: Vec<_> = writes.iter().filter(|(time, _)| *time >= taken).collect();
        assert!(late.is_empty(), "after {taken}: {late:#?}");
        load.change(&world).await;
        load.eventually_delivered(&world).await;
        leader = standby;
    }
}

#[tokio::test]
async fn a_leader_that_can_not_renew_writes_nothing_until_it_can_again() {
    let world = world("unrenewed", prefect().await.url()).await;
    let leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    let mut load = Load::start(&world).await;
    load.eventually_delivered(&world).await;
    let permission = take_permission(&world).await;
    leader.eventually_leads(false).await;
    let before = leader.writes().await.len();
    load.change(&world).await;
    leader.eventually_held_back().await;
    let log = leader.operator.log();
    assert_eq!(leader.writes().await.len(), before, "{log}");
    let said: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said =
        said.iter().filter_map(|line| line["message"].as_str().filter(|text| text.contains("renewing the Lease")));
    let said: Vec<&str> = said.collect();
    let is_news = said.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(!said.is_empty() && is_news, "once, not every second: {said:#?}\n{log}");
    assert_eq!(world.secret_data("k0").await.unwrap()["V"], "canary-0-1");
    give_permission(&world, &permission).await;
    leader.eventually_leads(true).await;
    load.eventually_delivered(&world).await;
}

#[tokio::test]
async fn a_replica_that_can_not_fill_its_caches_leaves_the_lease_to_one_that_can() {
    let world = world("cold", prefect().await.url()).await;
    // An account that may hold the Lease, and list nothing.
    let mut permission = take_permission(&world).await;
    let account = json!({"kind": "ServiceAccount", "name": "default", "namespace": world.namespace});
    permission.subjects.get_or_insert_default().push(serde_json::from_value(account).unwrap());
    give_permission(&world, &permission).await;
    // The cold one has the start; it waits for ten seconds at most.
    let cold = Replica::start_as(&world, "cold", (&world.namespace, "default")).await;
    let warm = Replica::start(&world, "warm").await;
    warm.eventually_leads(true).await;
    cold.eventually_says("a watch failed and is tried again").await;
    assert!(!cold.operator.log().contains("leading"), "{}", cold.operator.log());
}

#[tokio::test]
async fn a_lease_that_is_deleted_is_made_anew_by_its_holder_and_taken_by_no_other() {
    let world = world("deleted", prefect().await.url()).await;
    let leader = Replica::start(&world, "a").await;
    leader.eventually_leads(true).await;
    let standby = Replica::start(&world, "b").await;
    standby.eventually_leads(false).await;
    let before = lease(&world).await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    leases.delete("prefect-sync", &DeleteParams::default()).await.unwrap();
    let after = eventually("the Lease to be there again", SOON, async || {
        leases.get("prefect-sync").await.map_err(|error| error.to_string())
    })
    .await;
    assert_ne!(before.metadata.uid, after.metadata.uid);
    let held = |lease: &Lease| lease.spec.clone().map(|spec| (spec.holder_identity, spec.acquire_time));
    assert_eq!(held(&before), held(&after), "{}", standby.operator.log());
    standby.eventually_says("the Lease was deleted; who held it may still write").await;
    Load::start(&world).await.eventually_delivered(&world).await;
    leader.eventually_leads(true).await;
    standby.eventually_leads(false).await;
}
