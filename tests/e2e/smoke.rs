//! The main job in one breath.

use serde_json::json;

use crate::fixture::{World, prefect};

#[tokio::test]
async fn what_prefect_holds_arrives_follows_changes_and_comes_back() {
    let world = World::with_prefect("smoke").await;
    let prefect = prefect().await;
    let (password, host) = (world.name("password"), world.name("host"));
    prefect.set_secret(&password, json!("hunter2")).await;
    prefect.set_variable(&host, json!("db.example")).await;
    world
        .apply(&format!(
            r#"
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectSecret
metadata: {{name: etl}}
spec:
  data:
    - {{secretKey: PASSWORD, remoteRef: {{key: {password}}}}}
    - {{secretKey: HOST, remoteRef: {{variable: {host}}}}}
---
apiVersion: prefect-sync.dev/v1alpha1
kind: PrefectKV
metadata: {{name: settings}}
spec:
  data:
    - {{configMapKey: HOST, remoteRef: {{key: {host}}}}}
"#
        ))
        .await;
    world.eventually_secret("etl", &[("PASSWORD", "hunter2"), ("HOST", "db.example")]).await;
    world.eventually_reason("PrefectKV", "settings", "Synced").await;
    let map = world.config_maps().get("settings").await.unwrap();
    assert_eq!(map.data.unwrap()["HOST"], "db.example");

    prefect.set_secret(&password, json!("hunter3")).await;
    world.eventually_secret("etl", &[("PASSWORD", "hunter3"), ("HOST", "db.example")]).await;

    world.secrets().delete("etl", &Default::default()).await.unwrap();
    world.eventually_secret("etl", &[("PASSWORD", "hunter3"), ("HOST", "db.example")]).await;
    world.stop_operator().await;
}
