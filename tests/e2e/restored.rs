//! What an older backup of Prefect, or another Prefect at another address, is taken for.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixture::{World, prefect, psec};
use crate::support::{Prefect, PrefectOptions, Proxy};

fn entry(key: &str, name: &str) -> Value {
    json!({"secretKey": key, "remoteRef": {"key": name}})
}

/// A key's state and reason in the status.
async fn state(world: &World, name: &str, key: &str) -> (Value, Value) {
    let object = world.get("PrefectSecret", name).await;
    let entries = object["status"]["entries"].as_array().cloned().unwrap_or_default();
    let entry = entries.into_iter().find(|entry| entry["key"] == key).unwrap_or_default();
    (entry["state"].clone(), entry["reason"].clone())
}

/// Copies a database with what SQLite keeps beside it, and leaves nothing else of it there.
fn replace_database(from: &Path, to: &Path) {
    let files = |folder: &Path| -> Vec<PathBuf> {
        let all = std::fs::read_dir(folder).into_iter().flatten().map(|file| file.expect("a file").path());
        all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("prefect.db")))
            .collect()
    };
    std::fs::create_dir_all(to).expect("the scratch folder is ours");
    files(to).iter().for_each(|file| std::fs::remove_file(file).expect("it is ours"));
    for file in files(from) {
        std::fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("a copy");
    }
}

#[tokio::test]
async fn an_older_backup_gives_older_values_and_takes_no_required_key_away() {
    let world = World::new("backup").await;
    let mut prefect = Prefect::start(PrefectOptions::default()).await;
    for name in ["one", "two", "three"] {
        prefect.set_secret(name, json!("old")).await;
    }
    prefect.stop().await;
    let (home, backup) = (prefect.home(), prefect.home().join("backup"));
    replace_database(&home, &backup);
    prefect.start_again().await;
    for name in ["one", "new"] {
        prefect.set_secret(name, json!("new")).await;
    }
    world.workspace(prefect.url()).await;
    let data = json!([entry("ONE", "one"), entry("TWO", "two"), entry("THREE", "three"), entry("NEW", "new")]);
    world.apply(&psec("etl", json!({"data": data}))).await;
    world.eventually_secret("etl", &[("NEW", "new"), ("ONE", "new"), ("THREE", "old"), ("TWO", "old")]).await;

    prefect.stop().await;
    replace_database(&backup, &home);
    prefect.start_again().await;
    // What Prefect says now is what holds; what it does not have any more stays.
    world.eventually_secret("etl", &[("NEW", "new"), ("ONE", "old"), ("THREE", "old"), ("TWO", "old")]).await;
    world.eventually_reason("PrefectSecret", "etl", "KeyNotFound").await;
    assert_eq!(state(&world, "etl", "NEW").await, (json!("Retained"), json!("KeyNotFound")));
    prefect.set_secret("new", json!("again")).await;
    world.eventually_secret("etl", &[("NEW", "again"), ("ONE", "old"), ("THREE", "old"), ("TWO", "old")]).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
}

#[tokio::test]
async fn another_prefect_at_another_address_that_has_nothing_takes_nothing_away() {
    let world = World::new("moved").await;
    let [one, two] = ["one", "two"].map(|name| world.name(name));
    let empty = Prefect::start(PrefectOptions::default()).await;
    let proxy = Proxy::start(empty.url()).await;
    for name in [&one, &two] {
        prefect().await.set_secret(name, json!("1")).await;
    }
    world.workspace(prefect().await.url()).await;
    // All of them would go if they were taken for gone.
    let target = json!({"deletionPolicy": "Delete"});
    let optional = json!({"secretKey": "TWO", "remoteRef": {"key": two}, "optional": true});
    world.apply(&psec("etl", json!({"data": [entry("ONE", &one), optional], "target": target}))).await;
    let find = json!([{"find": {"name": {"regexp": format!("^{}", world.namespace)}}}]);
    world.apply(&psec("found", json!({"dataFrom": find, "target": target}))).await;
    world.eventually_secret("etl", &[("ONE", "1"), ("TWO", "1")]).await;
    world.eventually_secret("found", &[(&one, "1"), (&two, "1")]).await;
    world.eventually_reason("PrefectSecret", "found", "Synced").await;
    let versions = async || [world.version("Secret", "etl").await, world.version("Secret", "found").await];
    let before = versions().await;

    world.workspace(&proxy.url()).await;
    world.eventually_reason("PrefectSecret", "etl", "KeysVanished").await;
    world.eventually_reason("PrefectWorkspace", "default", "KeysVanished").await;
    // Long after a second exact answer would have confirmed it.
    crate::fixture::passes(&proxy, 4).await;
    assert_eq!(versions().await, before);
    for key in ["ONE", "TWO"] {
        assert_eq!(state(&world, "etl", key).await.0, "Retained");
    }

    world.workspace(prefect().await.url()).await;
    world.eventually_reason("PrefectSecret", "etl", "Synced").await;
    world.eventually_reason("PrefectSecret", "found", "Synced").await;
    assert_eq!(versions().await, before);
}
