//! Prefect's events: a change is there long before the next refresh, and no refresh is missed for them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixture::{SOON, World, prefect, psec};
use crate::sessions::one_key;
use crate::support::{Mode, Prefect, PrefectOptions, Proxy, eventually, try_eventually};

/// A workspace that is refreshed once an hour, so that only events make it follow.
async fn hourly(world: &World, url: &str, more: &str) {
    world.workspace_spec("default", &format!("{{api: {{url: '{url}'{more}}}, refreshInterval: 1h}}")).await;
}

/// Waits until a change is heard by its event: a server that says that it streams takes a while longer until it does.
pub(super) async fn eventually_heard(world: &World, server: &Prefect) {
    world.eventually_mode("default", "Streaming").await;
    let key = world.name("heard");
    server.set_secret(&key, json!("first")).await;
    world.apply(&one_key("heard", &key, json!({}))).await;
    world.eventually_reason("PrefectSecret", "heard", "Synced").await;
    eventually("an event to be heard", SOON * 3, async || {
        let value = uuid::Uuid::new_v4().to_string();
        server.set_secret(&key, json!(value)).await;
        let holds = async || match world.secret_data("heard").await {
            Some(data) if data["V"] == value => Ok(()),
            _ => Err(world.log()),
        };
        try_eventually(Duration::from_secs(5), holds).await
    })
    .await;
}

#[tokio::test]
async fn a_change_arrives_by_its_event_though_the_refresh_is_an_hour_away() {
    let world = World::new("events").await;
    let server = prefect().await;
    let (block, variable) = (world.name("block"), world.name("variable"));
    server.set_secret(&block, json!("v0")).await;
    server.set_variable(&variable, json!("v0")).await;
    hourly(&world, server.url(), "").await;
    let data = json!([{"secretKey": "B", "remoteRef": {"key": block}}, {"secretKey": "V", "remoteRef": {"variable": variable}}]);
    world.apply(&psec("both", json!({"data": data}))).await;
    world.eventually_secret("both", &[("B", "v0"), ("V", "v0")]).await;
    eventually_heard(&world, server).await;
    let events = world.eventually_mode("default", "Streaming").await;
    assert!(events.get("message").is_none(), "{events}");
    let mut slowest = Duration::ZERO;
    for n in 1..=5 {
        let (before, value) = (format!("v{}", n - 1), format!("v{n}"));
        let since = Instant::now();
        server.set_secret(&block, json!(value)).await;
        world.eventually_secret("both", &[("B", &value), ("V", &before)]).await;
        slowest = slowest.max(since.elapsed());
        server.set_variable(&variable, json!(value)).await;
        world.eventually_secret("both", &[("B", &value), ("V", &value)]).await;
    }
    // Loosely: what it takes is measured by the benchmark. Without events it would be an hour.
    assert!(slowest < Duration::from_secs(25), "{slowest:?}");
    world.stop_operator().await;
}

#[tokio::test]
async fn what_is_made_deleted_and_renamed_is_noticed_too() {
    let world = World::new("lifecycle").await;
    let server = prefect().await;
    let (later, other) = (world.name("later"), world.name("quite_another_name_of_it"));
    hourly(&world, server.url(), "").await;
    world
        .apply(&psec(
            "etl",
            json!({"data": [
                {"secretKey": "L", "remoteRef": {"variable": later}, "default": "none"},
                {"secretKey": "O", "remoteRef": {"variable": other}, "default": "none"},
            ]}),
        ))
        .await;
    world.eventually_secret("etl", &[("L", "none"), ("O", "none")]).await;
    eventually_heard(&world, server).await;
    server.set_variable(&later, json!("there")).await;
    world.eventually_secret("etl", &[("L", "there"), ("O", "none")]).await;
    server.rename_variable(&later, &other).await;
    // That the old name is gone is confirmed at the refresh, so it keeps its value until then.
    world.eventually_secret("etl", &[("L", "there"), ("O", "there")]).await;
    eventually("the old name to be missed", SOON, async || {
        let entries = world.get("PrefectSecret", "etl").await["status"]["entries"].clone();
        if entries[0]["state"] == "Retained" { Ok(()) } else { Err(entries.to_string()) }
    })
    .await;
    world.stop_operator().await;
}

#[tokio::test]
async fn a_block_that_contains_a_changed_one_is_read_again() {
    let world = World::new("nested").await;
    let server = prefect().await;
    let (credentials, bucket) = (world.name("credentials"), world.name("bucket"));
    server
        .set_block("aws-credentials", &credentials, json!({"aws_access_key_id": "id", "aws_secret_access_key": "one"}))
        .await;
    let id = server.id_of_block("aws-credentials", &credentials).await;
    server
        .set_block(
            "s3-bucket",
            &bucket,
            json!({"bucket_name": "data", "credentials": {"$ref": {"block_document_id": id}}}),
        )
        .await;
    hourly(&world, server.url(), "").await;
    let reference = json!({"key": bucket, "blockType": "s3-bucket", "property": "credentials.aws_secret_access_key"});
    world.apply(&psec("s3", json!({"data": [{"secretKey": "KEY", "remoteRef": reference}]}))).await;
    world.eventually_secret("s3", &[("KEY", "one")]).await;
    eventually_heard(&world, server).await;
    server
        .set_block("aws-credentials", &credentials, json!({"aws_access_key_id": "id", "aws_secret_access_key": "two"}))
        .await;
    world.eventually_secret("s3", &[("KEY", "two")]).await;
    world.stop_operator().await;
}

#[tokio::test]
async fn with_basic_authentication_and_csrf_events_are_heard_as_well() {
    let world = World::new("evauth").await;
    let options = PrefectOptions { auth_string: Some("admin:s3cr3t".into()), csrf: true, ..PrefectOptions::default() };
    let server = Prefect::start(options).await;
    server.set_secret("key", json!("v1")).await;
    world
        .apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "auth", "labels": {"prefect-sync.dev/offer": "workspace"}},
            "stringData": {"auth-string": "admin:s3cr3t"}}).to_string())
        .await;
    hourly(&world, server.url(), ", authString: {secretKeyRef: {name: auth}}").await;
    world.apply(&one_key("etl", "key", json!({}))).await;
    world.eventually_secret("etl", &[("V", "v1")]).await;
    eventually_heard(&world, &server).await;
    server.set_secret("key", json!("v2")).await;
    world.eventually_secret("etl", &[("V", "v2")]).await;
    world.stop_operator().await;
}

#[tokio::test]
async fn a_server_killed_mid_stream_is_heard_again_and_what_the_gap_hid_is_found() {
    let world = World::new("midstream").await;
    let mut server = Prefect::start(PrefectOptions::default()).await;
    hourly(&world, server.url(), "").await;
    for key in ["gap", "after"] {
        server.set_secret(key, json!("v1")).await;
        world.apply(&one_key(key, key, json!({}))).await;
        world.eventually_secret(key, &[("V", "v1")]).await;
    }
    world.eventually_mode("default", "Streaming").await;
    server.kill_now();
    server.start_again().await;
    // Most likely before the stream is back; if not, its event tells.
    server.set_secret("gap", json!("v2")).await;
    world.eventually_secret("gap", &[("V", "v2")]).await;
    eventually_heard(&world, &server).await;
    server.set_secret("after", json!("v2")).await;
    world.eventually_secret("after", &[("V", "v2")]).await;
    let events = world.events("PrefectSecret", "gap").await;
    assert!(events.is_empty(), "an object that stays well has nothing to tell: {events:?}");
    world.stop_operator().await;
}

#[tokio::test]
async fn where_there_are_no_events_the_status_says_so_and_polling_goes_on() {
    let world = World::new("noevents").await;
    let server = prefect().await;
    let proxy = Proxy::start(server.url()).await;
    proxy.set(Mode::AnswerWhere("/events/out".into(), 404, r#"{"detail":"Not Found"}"#.into()));
    let key = world.name("key");
    server.set_secret(&key, json!("v1")).await;
    world.workspace(&proxy.url()).await;
    world.apply(&one_key("etl", &key, json!({}))).await;
    world.eventually_secret("etl", &[("V", "v1")]).await;
    let events = world.eventually_mode("default", "Polling").await;
    let message = "this server has no stream of events (Prefect 3.7.4 and later have one, unless it is turned off): changes are seen at the next refresh";
    assert_eq!(events["message"], message);
    let ready = world.ready("PrefectWorkspace", "default").await.unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Connected"));
    server.set_secret(&key, json!("v2")).await;
    world.eventually_secret("etl", &[("V", "v2")]).await;
    let asked = proxy.requests().iter().filter(|request| request.contains("/events/out")).count();
    assert_eq!(asked, 1, "it is not asked again and again");
    world.stop_operator().await;
}
