//! One session for all objects of a workspace: how many requests they cost, and who waits for whom.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::fixture::{SOON, World, object, passes, prefect, psec};
use crate::support::{Mode, Prefect, PrefectOptions, Proxy, eventually};

/// A PrefectSecret with one key of a Secret block.
pub fn one_key(name: &str, key: &str, more: Value) -> String {
    let mut spec = json!({"data": [{"secretKey": "V", "remoteRef": {"key": key}}]});
    spec.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    psec(name, spec)
}

/// A workspace without a stream of events, refreshed at `interval`.
async fn polling(world: &World, proxy: &Proxy, interval: &str) {
    proxy.set(Mode::AnswerWhere("/events/out".into(), 404, "{}".into()));
    world.workspace_spec("default", &format!("{{api: {{url: '{}'}}, refreshInterval: {interval}}}", proxy.url())).await;
}

/// How many requests there were that read blocks.
fn reads(proxy: &Proxy) -> usize {
    proxy.answered_since(0).iter().filter(|request| request.contains("block_documents")).count()
}

#[tokio::test]
async fn objects_that_share_a_key_cost_one_request_and_a_new_one_is_served_from_what_is_known() {
    let world = World::new("shared").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    let key = world.name("key");
    prefect().await.set_secret(&key, json!("v1")).await;
    let many: Vec<String> = (0..20).map(|n| one_key(&format!("o{n}"), &key, json!({}))).collect();
    world.apply(&many.join("\n---\n")).await;
    polling(&world, &proxy, "1h").await;
    for n in 0..20 {
        world.eventually_secret(&format!("o{n}"), &[("V", "v1")]).await;
    }
    assert_eq!(reads(&proxy), 1, "{:?}", proxy.requests());
    // Known, and fresh for an hour: nothing is asked.
    world.apply(&one_key("late", &key, json!({}))).await;
    world.eventually_secret("late", &[("V", "v1")]).await;
    assert_eq!(reads(&proxy), 1, "{:?}", proxy.requests());
    world.stop_operator().await;
}

#[tokio::test]
async fn more_than_two_hundred_keys_are_two_requests_a_refresh_however_many_objects_have_them() {
    let world = World::new("batches").await;
    let server = prefect().await;
    let proxy = Proxy::start(server.url()).await;
    let names: Vec<String> = (0..201).map(|n| world.name(&format!("k{n:03}"))).collect();
    let seeded = names.iter().map(|name| server.set_variable(name, json!("v")));
    futures::stream::iter(seeded).buffer_unordered(4).collect::<Vec<()>>().await;
    for (n, chunk) in names.chunks(7).enumerate() {
        let entry = |(i, name)| json!({"configMapKey": format!("K{i}"), "remoteRef": {"key": name}});
        let data: Vec<Value> = chunk.iter().enumerate().map(entry).collect();
        world.apply(&object("PrefectKV", &format!("kv{n:02}"), json!({"data": data}))).await;
    }
    polling(&world, &proxy, "2s").await;
    for n in 0..29 {
        world.eventually_reason("PrefectKV", &format!("kv{n:02}"), "Synced").await;
    }
    // 28 objects of seven and one of five: 196 keys in the first request.
    let lists = |proxy: &Proxy| proxy.requests().iter().filter(|r| r.ends_with("/variables/filter")).count();
    let by_name = proxy.requests().iter().filter(|request| request.contains("/variables/name/")).count();
    assert_eq!(by_name, 0, "{:?}", proxy.requests());
    let (before, since) = (lists(&proxy), Instant::now());
    passes(&proxy, 6).await;
    let (asked, seconds) = (lists(&proxy) - before, since.elapsed().as_secs_f64());
    assert!(asked as f64 <= 2.0 * (seconds / 2.0 + 1.0), "{asked} requests in {seconds:.1} s: {:?}", proxy.requests());
    world.stop_operator().await;
}

#[tokio::test]
async fn an_object_may_be_refreshed_more_or_less_often_than_its_workspace_says() {
    let world = World::new("interval").await;
    let server = prefect().await;
    let proxy = Proxy::start(server.url()).await;
    let [often, seldom] = ["often", "seldom"].map(|name| world.name(name));
    for key in [&often, &seldom] {
        server.set_secret(key, json!("v1")).await;
    }
    world.workspace_spec("unused", "{api: {url: 'http://127.0.0.1:1/api'}}").await;
    polling(&world, &proxy, "1h").await;
    world.apply(&one_key("often", &often, json!({"refreshInterval": "1s"}))).await;
    world.apply(&one_key("seldom", &seldom, json!({}))).await;
    for name in ["often", "seldom"] {
        world.eventually_secret(name, &[("V", "v1")]).await;
    }
    for key in [&often, &seldom] {
        server.set_secret(key, json!("v2")).await;
    }
    world.eventually_secret("often", &[("V", "v2")]).await;
    passes(&proxy, 3).await;
    assert_eq!(world.secret_data("seldom").await.unwrap()["V"], "v1", "it is due in an hour");
    // Its interval shortened, it follows.
    world.apply(&one_key("seldom", &seldom, json!({"refreshInterval": "2s"}))).await;
    world.eventually_secret("seldom", &[("V", "v2")]).await;
    // And the other way round: longer than the workspace's.
    polling(&world, &proxy, "1s").await;
    world.apply(&one_key("often", &often, json!({"refreshInterval": "24h"}))).await;
    eventually("the operator to have heard of it", SOON, async || {
        let object = world.get("PrefectSecret", "often").await;
        let (heard, asked) = (&object["status"]["observedGeneration"], &object["metadata"]["generation"]);
        if heard == asked { Ok(()) } else { Err(format!("{heard} of {asked}")) }
    })
    .await;
    passes(&proxy, 2).await;
    server.set_secret(&often, json!("v3")).await;
    server.set_secret(&seldom, json!("v3")).await;
    world.eventually_secret("seldom", &[("V", "v3")]).await;
    assert_eq!(world.secret_data("often").await.unwrap()["V"], "v2", "it is due in a day");
    world.stop_operator().await;
}

#[tokio::test]
async fn a_new_object_waits_for_no_refresh() {
    let world = World::new("ahead").await;
    let server = prefect().await;
    let proxy = Proxy::start(server.url()).await;
    let [old, new] = ["old", "new"].map(|name| world.name(name));
    server.set_secret(&old, json!("v")).await;
    server.set_secret(&new, json!("v")).await;
    polling(&world, &proxy, "2s").await;
    world.apply(&one_key("old", &old, json!({}))).await;
    world.eventually_secret("old", &[("V", "v")]).await;
    // The refresh of the old key takes for ever; only the new one's request is answered.
    proxy.set(Mode::HangWhere(old.clone()));
    let hung = proxy.requests().len();
    eventually("a refresh that hangs", SOON, async || {
        if proxy.requests().len() > hung { Ok(()) } else { Err("none yet".to_owned()) }
    })
    .await;
    let since = Instant::now();
    world.apply(&one_key("new", &new, json!({}))).await;
    world.eventually_secret("new", &[("V", "v")]).await;
    // The refresh still hangs: it is given up after 30 s.
    assert!(since.elapsed() < Duration::from_secs(28), "{:?}", since.elapsed());
    world.stop_operator().await;
}

#[tokio::test]
async fn an_emptied_database_does_not_cost_a_request_a_key() {
    let world = World::new("mass").await;
    let server = prefect().await;
    let proxy = Proxy::start(server.url()).await;
    let names: Vec<String> = (0..60).map(|n| world.name(&format!("k{n:02}"))).collect();
    for name in &names {
        server.set_variable(name, json!("v")).await;
    }
    let data: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(n, name)| json!({"configMapKey": format!("K{n:02}"), "remoteRef": {"key": name}}))
        .collect();
    world.apply(&object("PrefectKV", "all", json!({"data": data, "target": {"deletionPolicy": "Delete"}}))).await;
    polling(&world, &proxy, "3s").await;
    world.eventually_reason("PrefectKV", "all", "Synced").await;
    // So that it sees all of them go together, however long that takes.
    proxy.set(Mode::Answer(503, Vec::new(), String::new()));
    for name in &names {
        server.delete_variable(name).await;
    }
    polling(&world, &proxy, "3s").await;
    world.eventually_reason("PrefectKV", "all", "KeysVanished").await;
    let by_name =
        |proxy: &Proxy| proxy.requests().iter().filter(|request| request.contains("/variables/name/")).count();
    let before = by_name(&proxy);
    passes(&proxy, 1).await;
    let (one, _) = (by_name(&proxy) - before, passes(&proxy, 1).await);
    assert!(one <= 3 * 20, "{one} requests by name in about a refresh of 60 missing keys");
    assert_eq!(world.config_maps().get("all").await.unwrap().data.unwrap().len(), 60);
    world.stop_operator().await;
}

#[tokio::test]
async fn an_outage_shorter_than_stale_after_writes_nothing_but_the_workspaces_status() {
    let world = World::new("brief").await;
    let mut server = Prefect::start(PrefectOptions::default()).await;
    let names: Vec<String> = (0..30).map(|n| format!("k{n:02}")).collect();
    for name in &names {
        server.set_secret(name, json!("v")).await;
    }
    world.apply(&names.iter().map(|name| one_key(name, name, json!({}))).collect::<Vec<_>>().join("\n---\n")).await;
    world.workspace(server.url()).await;
    for name in &names {
        world.eventually_reason("PrefectSecret", name, "Synced").await;
    }
    let before = world.writes().await.len();
    server.stop().await;
    world.eventually_reason("PrefectWorkspace", "default", "PrefectUnreachable").await;
    server.start_again().await;
    world.connected().await;
    server.set_secret("k07", json!("v2")).await;
    world.eventually_secret("k07", &[("V", "v2")]).await;
    world.stop_operator().await;
    let writes = world.writes().await.split_off(before);
    let others: Vec<&String> = writes
        .iter()
        .filter(|write| !write.contains("/prefectworkspaces/") && !write.contains("/events") && !write.contains("/k07"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    let of_workspace = writes.iter().filter(|write| write.contains("/prefectworkspaces/")).count();
    assert!((2..=4).contains(&of_workspace), "{writes:?}");
}

#[tokio::test]
async fn a_dead_server_is_left_alone_and_one_that_asks_for_it_too() {
    let world = World::new("breaker").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    let key = world.name("key");
    prefect().await.set_secret(&key, json!("v1")).await;
    for name in ["default", "second", "third"] {
        world.workspace_spec(name, &format!("{{api: {{url: '{}'}}, refreshInterval: 2s}}", proxy.url())).await;
        world.apply(&one_key(name, &key, json!({"workspaceRef": {"name": name}}))).await;
        world.eventually_secret(name, &[("V", "v1")]).await;
    }
    let asked_within = async |window: Duration| {
        let before = proxy.requests().len();
        tokio::time::sleep(window).await; // Not for something to happen, but to count what does.
        proxy.requests().len() - before
    };
    proxy.set(Mode::Answer(503, Vec::new(), "{}".into()));
    for name in ["default", "second", "third"] {
        world.eventually_reason("PrefectWorkspace", name, "PrefectUnreachable").await;
    }
    // One probe every two seconds for all three; it may be tried up to three times.
    let asked = asked_within(Duration::from_secs(6)).await;
    assert!((1..=12).contains(&asked), "{asked} requests in 6 s");

    proxy.set(Mode::Answer(429, vec![("retry-after", "600".into())], "{}".into()));
    world.eventually_reason("PrefectWorkspace", "default", "PrefectThrottled").await;
    assert_eq!(asked_within(Duration::from_secs(5)).await, 0, "it was asked to wait for ten minutes");
    let metrics = world.metrics().await;
    for outcome in ["ok", "server_error", "throttled"] {
        let line = format!("prefect_sync_prefect_requests_total{{host=\"{}\",outcome=\"{outcome}\"}}", proxy.host());
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    world.stop_operator().await;
}

#[tokio::test]
async fn promise_11_a_snapshot_that_grows_old_shows_and_so_does_how_soon_targets_follow() {
    let world = World::new("metrics").await;
    let mut server = Prefect::start(PrefectOptions::default()).await;
    server.set_secret("key", json!("v1")).await;
    world.workspace(server.url()).await;
    world.apply(&one_key("etl", "key", json!({}))).await;
    world.eventually_secret("etl", &[("V", "v1")]).await;
    server.set_secret("key", json!("v2")).await;
    world.eventually_secret("etl", &[("V", "v2")]).await;
    let labels = format!("{{namespace=\"{}\",workspace=\"default\"}}", world.namespace);
    let value = async |name: &str| -> Option<f64> {
        let metrics = world.metrics().await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.and_then(|value| value.parse().ok())
    };
    let age = format!("prefect_sync_snapshot_age_seconds{labels}");
    assert!(value(&age).await.unwrap() < 10.0);
    let connected = format!("prefect_sync_events_connected{labels}");
    let reconciles = "prefect_sync_reconciles_total{kind=\"PrefectSecret\",outcome=\"ok\"}";
    eventually("what happened to be counted", SOON, async || {
        // The first value was no change.
        let lags = value("prefect_sync_target_lag_seconds_count").await;
        let seen = (value(&connected).await, lags, value(reconciles).await);
        if seen.0 == Some(1.0) && lags == Some(1.0) && seen.2 >= Some(2.0) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    server.stop().await;
    eventually("the snapshot to grow old", SOON, async || match value(&age).await {
        Some(age) if age > 3.0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(value(&connected).await, Some(0.0));
    world.stop_operator().await;
}
