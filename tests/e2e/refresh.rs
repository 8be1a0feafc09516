//! The annotation that has an object's keys read at once.

use serde_json::json;

use crate::fixture::{SOON, World, prefect, psec};
use crate::support::{Mode, Proxy, eventually};

#[tokio::test]
async fn an_annotation_has_the_keys_read_at_once_and_the_status_says_when_that_is_done() {
    let world = World::new("refresh").await;
    // Nothing is announced and nothing is due for ten minutes.
    let prefect = prefect().await;
    let proxy = Proxy::start(prefect.url()).await;
    proxy.set(Mode::AnswerWhere("/events/out".into(), 404, r#"{"detail":"Not Found"}"#.into()));
    world.workspace_spec("default", &json!({"api": {"url": proxy.url()}, "refreshInterval": "10m"}).to_string()).await;
    let name = world.name("a");
    prefect.set_secret(&name, json!("1")).await;
    let spec = json!({"data": [{"secretKey": "A", "remoteRef": {"key": name}}]});
    world.apply(&psec("etl", spec.clone())).await;
    world.eventually_secret("etl", &[("A", "1")]).await;
    prefect.set_secret(&name, json!("2")).await;
    let annotate = async |value: &str| {
        let metadata = json!({"name": "etl", "annotations": {"prefect-sync.dev/refresh": value}});
        let manifest = json!({"apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectSecret", "metadata": metadata, "spec": spec});
        world.apply(&manifest.to_string()).await;
    };
    let handled = async |value: &str| {
        eventually(&format!("the refresh {value} to be handled"), SOON, async || {
            let handled = world.get("PrefectSecret", "etl").await["status"]["lastHandledRefresh"].clone();
            if handled == value { Ok(()) } else { Err(format!("{handled}\n{}", world.log())) }
        })
        .await;
    };
    annotate("first").await;
    handled("first").await;
    assert_eq!(world.secret_data("etl").await.unwrap()["A"], "2", "done when the status says so");
    // Also where nothing changed; and once only: a later change is not read, though another object's is after it.
    annotate("second").await;
    handled("second").await;
    prefect.set_secret(&name, json!("3")).await;
    let other = world.name("b");
    prefect.set_secret(&other, json!("b")).await;
    world.apply(&psec("witness", json!({"data": [{"secretKey": "B", "remoteRef": {"key": other}}]}))).await;
    world.eventually_secret("witness", &[("B", "b")]).await;
    assert_eq!(world.secret_data("etl").await.unwrap()["A"], "2");
    // What is handled stays so over a restart, whose own first read finds the change.
    world.stop_operator().await;
    world.start_operator();
    world.eventually_secret("etl", &[("A", "3")]).await;
    assert_eq!(world.get("PrefectSecret", "etl").await["status"]["lastHandledRefresh"], "second");
    prefect.set_secret(&name, json!("4")).await;
    annotate("third").await;
    handled("third").await;
    assert_eq!(world.secret_data("etl").await.unwrap()["A"], "4");
}
