//! `dataFrom`: many entries at once, from a real Prefect.

use serde_json::json;

use crate::events::eventually_heard;
use crate::fixture::{SOON, World, object, passes, prefect, psec};
use crate::support::{Proxy, eventually};

/// A PrefectSecret of one `dataFrom` item.
fn from(name: &str, item: serde_json::Value) -> String {
    psec(name, json!({"dataFrom": [item]}))
}

#[tokio::test]
async fn all_blocks_with_a_prefix_become_one_secret_and_follow_what_comes_and_goes() {
    let world = World::with_prefect("found").await;
    let prefect = prefect().await;
    let name = |name: &str| world.name(name);
    prefect.set_secret(&name("etl-db-url"), json!("postgres://x")).await;
    prefect.set_secret(&name("etl-user"), json!("u")).await;
    prefect.set_secret(&name("other"), json!("o")).await;
    let item = json!({
        "find": {"name": {"regexp": format!("^{}-etl-", world.namespace)}},
        "rewrite": [{"regexp": {"source": format!("^{}-", world.namespace), "target": ""}}, {"envName": {}}],
    });
    world.apply(&from("etl", item)).await;
    world.eventually_secret("etl", &[("ETL_DB_URL", "postgres://x"), ("ETL_USER", "u")]).await;
    // One comes, one changes.
    prefect.set_secret(&name("etl-new"), json!("n")).await;
    prefect.set_secret(&name("etl-user"), json!("u2")).await;
    world.eventually_secret("etl", &[("ETL_DB_URL", "postgres://x"), ("ETL_NEW", "n"), ("ETL_USER", "u2")]).await;
    // One goes: no problem of the others'.
    prefect.delete_block("secret", &name("etl-new")).await;
    world.eventually_secret("etl", &[("ETL_DB_URL", "postgres://x"), ("ETL_USER", "u2")]).await;
    let expected = format!("2 of 2 keys synced to Secret {}/etl", world.namespace);
    eventually("the status to follow", SOON, async || match world.ready("PrefectSecret", "etl").await {
        Some(ready) if ready.message == expected => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let status = world.get("PrefectSecret", "etl").await["status"].clone();
    assert_eq!(status["entries"][0]["from"], json!(format!("secret block {:?}", name("etl-db-url"))));
    assert_eq!(status["counts"]["synced"], 2);
}

#[tokio::test]
async fn most_of_what_was_found_vanishing_removes_nothing_not_even_after_a_restart() {
    let world = World::with_prefect("vanished").await;
    let prefect = prefect().await;
    for name in ["a", "b", "c"] {
        prefect.set_variable(&world.name(name).replace('-', "_"), json!(name)).await;
    }
    let prefix = world.namespace.replace('-', "_");
    let find = json!({"kind": "Variable", "name": {"regexp": format!("^{prefix}_")}});
    let rewrite = json!([{"regexp": {"source": format!("^{prefix}_"), "target": ""}}]);
    world.apply(&from("vars", json!({"find": find, "rewrite": rewrite}))).await;
    let all = [("a", "a"), ("b", "b"), ("c", "c")];
    world.eventually_secret("vars", &all).await;
    world.eventually_reason("PrefectSecret", "vars", "Synced").await;
    world.stop_operator().await;
    for name in ["a", "b", "c"] {
        prefect.delete_variable(&world.name(name).replace('-', "_")).await;
    }
    world.start_operator();
    world.eventually_reason("PrefectSecret", "vars", "KeysVanished").await;
    world.eventually_secret("vars", &all).await;
    prefect.set_variable(&format!("{prefix}_a"), json!("again")).await;
    world.eventually_secret("vars", &[("a", "again"), ("b", "b"), ("c", "c")]).await;
}

#[tokio::test]
async fn more_than_a_page_is_found_and_costs_a_request_a_page() {
    const MANY: usize = 230;
    let prefect = crate::support::Prefect::start(crate::support::PrefectOptions::default()).await;
    let proxy = Proxy::start(prefect.url()).await;
    for n in 0..MANY {
        prefect.set_variable(&format!("many_{n:03}"), json!(n)).await;
    }
    let world = World::new("pages").await;
    world.workspace_spec("default", &json!({"api": {"url": proxy.url()}, "refreshInterval": "2s"}).to_string()).await;
    let spec = json!({"dataFrom": [{"find": {"name": {"regexp": "^many_"}}}]});
    world.apply(&object("PrefectKV", "many", spec.clone())).await;
    world.apply(&object("PrefectKV", "twin", spec)).await;
    for name in ["many", "twin"] {
        let ready = world.eventually_reason("PrefectKV", name, "Synced").await;
        assert_eq!(ready.message, format!("{MANY} of {MANY} keys synced to ConfigMap {}/{name}", world.namespace));
    }
    let before = proxy.requests().iter().filter(|request| request.ends_with("/variables/filter")).count();
    passes(&proxy, 3).await;
    let requests = proxy.requests();
    let listings = requests.iter().filter(|request| request.ends_with("/variables/filter")).count() - before;
    // Two pages at each of three refreshes, and what was under way: for both objects together.
    assert!((3..=10).contains(&listings), "{listings} listings");
    let by_name = requests.iter().filter(|request| request.contains("/variables/name/")).count();
    assert_eq!(by_name, 0, "nothing is read one by one");
    let status = world.get("PrefectKV", "many").await["status"].clone();
    assert_eq!(status["counts"]["synced"], json!(MANY));
    assert_eq!(status["entries"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn variables_are_found_by_their_tags() {
    let world = World::with_prefect("tags").await;
    let prefect = prefect().await;
    let tag = world.namespace.clone();
    let name = |name: &str| format!("{}_{name}", world.namespace.replace('-', "_"));
    prefect.set_variable(&name("a"), json!("1")).await;
    prefect.set_variable(&name("b"), json!({"x": 1.5})).await;
    prefect.set_variable(&name("c"), json!("3")).await;
    prefect.tag_variable(&name("a"), &[&tag, "prod"]).await;
    prefect.tag_variable(&name("b"), &[&tag]).await;
    world.apply(&object("PrefectKV", "tagged", json!({"dataFrom": [{"find": {"tags": [tag]}}]}))).await;
    let data = async || world.config_maps().get("tagged").await.map(|map| map.data.unwrap_or_default());
    let expect = async |expected: &[(String, &str)]| {
        eventually("the ConfigMap", SOON, async || match data().await {
            Ok(data) if data.iter().map(|(k, v)| (k.clone(), v.as_str())).eq(expected.iter().cloned()) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    expect(&[(name("a"), "1"), (name("b"), r#"{"x":1.5}"#)]).await;
    // A tag that is taken away takes the key away, a new one brings one.
    prefect.tag_variable(&name("a"), &["prod"]).await;
    prefect.tag_variable(&name("c"), &[&tag]).await;
    expect(&[(name("b"), r#"{"x":1.5}"#), (name("c"), "3")]).await;
}

#[tokio::test]
async fn one_object_becomes_many_entries_and_data_overrides_them() {
    let world = World::with_prefect("extract").await;
    let prefect = prefect().await;
    prefect.set_secret(&world.name("db"), json!({"user": "u", "password": "p", "port": 5432, "note": null})).await;
    prefect.set_secret(&world.name("text"), json!("{\"token\": \"t\"}")).await;
    prefect.set_secret(&world.name("own"), json!("mine")).await;
    let aws = json!({"aws_access_key_id": "AKIA", "aws_secret_access_key": "s/+=", "region_name": "eu-west-1"});
    prefect.set_block("aws-credentials", &world.name("aws"), aws).await;
    let aws = json!({
        "extract": {"key": world.name("aws"), "blockType": "aws-credentials", "include": ["aws_access_key_id", "aws_secret_access_key", "region_name"]},
        "rewrite": [{"rename": {"region_name": "aws_region"}}, {"envName": {}}],
    });
    let spec = json!({
        "dataFrom": [{"extract": {"key": world.name("db")}}, {"extract": {"key": world.name("text")}}, aws],
        "data": [{"secretKey": "user", "remoteRef": {"key": world.name("own")}}],
    });
    world.apply(&psec("all", spec)).await;
    let expected = [
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_SECRET_ACCESS_KEY", "s/+="),
        ("password", "p"),
        ("port", "5432"),
        ("token", "t"),
        ("user", "mine"),
    ];
    world.eventually_secret("all", &expected).await;
}

#[tokio::test]
async fn local_secrets_come_first_in_what_is_found_too() {
    let world = World::new("found-local").await;
    let prefect = prefect().await;
    let (both, remote) = (world.name("both"), world.name("remote"));
    prefect.set_secret(&both, json!("from prefect")).await;
    prefect.set_secret(&remote, json!("remote")).await;
    let local = world.name("local");
    let metadata = json!({"name": "prefect-config", "labels": {"prefect-sync.dev/offer": "workspace"}});
    let text = format!("[context.secrets]\n{both} = \"local\"\n{local} = \"only here\"\n");
    let config =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"config.toml": text}});
    world.apply(&config.to_string()).await;
    let spec =
        json!({"api": {"url": prefect.url()}, "local": {"configToml": {"secretKeyRef": {"name": "prefect-config"}}}});
    world.workspace_spec("default", &spec.to_string()).await;
    let item = json!({
        "find": {"name": {"regexp": format!("^{}-", world.namespace)}},
        "rewrite": [{"regexp": {"source": format!("^{}-", world.namespace), "target": ""}}],
    });
    world.apply(&from("mixed", item)).await;
    world.eventually_secret("mixed", &[("both", "local"), ("local", "only here"), ("remote", "remote")]).await;
}

#[tokio::test]
async fn binary_values_reach_a_secret_and_a_config_map_unchanged() {
    let world = World::with_prefect("binary").await;
    let name = world.namespace.replace('-', "_");
    prefect().await.set_variable(&name, json!("/wD+\nAQI=")).await;
    let remote = json!({"variable": name});
    world.apply(&psec("bin", json!({"data": [{"secretKey": "KEY", "remoteRef": remote, "decoding": "Base64"}]}))).await;
    let entry = json!({"configMapKey": "KEY", "remoteRef": {"key": name}, "decoding": "Base64"});
    world.apply(&object("PrefectKV", "bin", json!({"data": [entry]}))).await;
    let bytes = vec![0xff, 0x00, 0xfe, 0x01, 0x02];
    world.eventually_reason("PrefectSecret", "bin", "Synced").await;
    world.eventually_reason("PrefectKV", "bin", "Synced").await;
    assert_eq!(world.secrets().get("bin").await.unwrap().data.unwrap()["KEY"].0, bytes);
    let map = world.config_maps().get("bin").await.unwrap();
    assert_eq!((map.binary_data.unwrap()["KEY"].0.clone(), map.data), (bytes, None));
}

#[tokio::test]
async fn a_new_block_is_found_by_its_event_long_before_the_next_refresh() {
    let world = World::new("found-event").await;
    let prefect = prefect().await;
    world
        .workspace_spec("default", &json!({"api": {"url": prefect.url()}, "refreshInterval": "10m"}).to_string())
        .await;
    prefect.set_secret(&world.name("one"), json!("1")).await;
    let item = json!({"find": {"name": {"regexp": format!("^{}-(one|two)$", world.namespace)}}});
    world.apply(&from("etl", item)).await;
    let (one, two) = (world.name("one"), world.name("two"));
    world.eventually_secret("etl", &[(&one, "1")]).await;
    eventually_heard(&world, prefect).await;
    prefect.set_secret(&two, json!("2")).await;
    world.eventually_secret("etl", &[(&one, "1"), (&two, "2")]).await;
}
