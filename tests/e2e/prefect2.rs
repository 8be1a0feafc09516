//! Prefect 2, a real 2.20 server: the same endpoints, with less behind them.

use serde_json::json;

use crate::fixture::{World, object, psec};
use crate::support::{Prefect, PrefectOptions};

#[tokio::test]
async fn prefect_2_is_read_like_prefect_3_and_what_it_has_not_is_said() {
    let prefect = Prefect::start(PrefectOptions { two: true, ..PrefectOptions::default() }).await;
    let world = World::new("two").await;
    world.workspace(prefect.url()).await;
    let ready = world.eventually_reason("PrefectWorkspace", "default", "Connected").await;
    assert_eq!(ready.status, "True");
    world.eventually_mode("default", "Polling").await;
    let status = world.get("PrefectWorkspace", "default").await["status"].clone();
    assert_eq!(status["serverVersion"], "2.20.26");
    assert_eq!(status["events"]["mode"], "Polling", "{status}");

    prefect.set_secret("etl-password", json!("p/w: 123 \"x\"\n")).await;
    prefect.set_secret("etl-number", json!("123")).await;
    prefect.set_variable("my_flow_last_executed", json!("2026-01-01")).await;
    let aws = json!({"aws_access_key_id": "AKIA", "aws_secret_access_key": "s/+="});
    prefect.set_block("aws-credentials", "prod-aws", aws).await;
    let data = json!([
        {"secretKey": "PASSWORD", "remoteRef": {"key": "etl-password"}},
        {"secretKey": "AWS", "remoteRef": {"key": "prod-aws", "blockType": "aws-credentials", "property": "aws_secret_access_key"}},
        {"secretKey": "LAST", "remoteRef": {"variable": "my_flow_last_executed"}},
    ]);
    let find = json!({"find": {"name": {"regexp": "^etl-"}}, "rewrite": [{"envName": {}}]});
    world.apply(&psec("etl", json!({"data": data, "dataFrom": [find]}))).await;
    let password = "p/w: 123 \"x\"\n";
    let mut expected = [
        ("AWS", "s/+="),
        ("ETL_NUMBER", "123"),
        ("ETL_PASSWORD", password),
        ("LAST", "2026-01-01"),
        ("PASSWORD", password),
    ];
    world.eventually_secret("etl", &expected).await;
    prefect.set_variable("my_flow_last_executed", json!("2026-02-02")).await;
    expected[3].1 = "2026-02-02";
    world.eventually_secret("etl", &expected).await;
    // What is deleted goes.
    prefect.delete_block("secret", "etl-number").await;
    world.eventually_secret("etl", &[expected[0], expected[2], expected[3], expected[4]]).await;

    // Variables found by a tag, and a name that no variable of Prefect 2 can have.
    prefect.tag_variable("my_flow_last_executed", &["flow"]).await;
    world.apply(&object("PrefectKV", "tagged", json!({"dataFrom": [{"find": {"tags": ["flow"]}}]}))).await;
    world.eventually_reason("PrefectKV", "tagged", "Synced").await;
    let map = world.config_maps().get("tagged").await.unwrap();
    assert_eq!(json!(map.data), json!({"my_flow_last_executed": "2026-02-02"}));
    let entry = json!({"configMapKey": "LAST", "remoteRef": {"key": "my-flow-last-executed"}});
    world.apply(&object("PrefectKV", "dashes", json!({"data": [entry]}))).await;
    let message = world.eventually_hint("PrefectKV", "dashes", "my_flow_last_executed").await;
    assert_eq!(
        message,
        "no variable \"my-flow-last-executed\" in workspace default; Prefect 2 has no dashes in the names of variables, did you mean \"my_flow_last_executed\"? The target is not written until this is solved"
    );
}
