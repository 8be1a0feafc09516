//! A flow that Prefect's own Kubernetes worker runs, with the base job template of `deploy/examples`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{SOON, Space, node, prefect_secret, read};
use crate::readme::DB_PASSWORD;
use crate::support::Prefect;

const IMAGE: &str = "localhost/prefect:1";
/// A worker looks for work every few seconds, starts a pod, and Python starts in it; twice on a loaded machine.
const FLOW: Duration = Duration::from_secs(120);

/// The worker, and what it may do: Jobs and their pods in its namespace.
fn worker() -> [Value; 4] {
    let metadata = json!({"name": "prefect-worker"});
    let rules = json!([
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["pods", "pods/log", "pods/status", "events"], "verbs": ["get", "list", "watch"]},
    ]);
    let labels = json!({"app": "prefect-worker"});
    let variables = json!([
        {"name": "PREFECT_API_URL", "value": "http://prefect-server.prefect.svc:4200/api"},
        {"name": "PREFECT_HOME", "value": "/tmp/prefect"},
        {"name": "PREFECT_WORKER_QUERY_SECONDS", "value": "1"},
        {"name": "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES", "value": "work"},
    ]);
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "prefect-worker"},
            "subjects": [{"kind": "ServiceAccount", "name": "prefect-worker"}],
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
                "serviceAccountName": "prefect-worker",
                "containers": [{
                    "name": "worker", "image": IMAGE, "imagePullPolicy": "Never", "env": variables,
                    "command": ["prefect", "worker", "start", "--pool", "kubernetes", "--type", "kubernetes"],
                }],
            }}},
        }),
    ]
}

/// A deployment of the flow with these job variables beside those that every deployment here needs.
async fn deployment(prefect: &Prefect, name: &str, job_variables: &Value) -> String {
    let flow = prefect.post("/flows/", &json!({"name": "report"})).await;
    let mut variables = json!({"image": IMAGE, "image_pull_policy": "Never", "namespace": "work"});
    let more = job_variables.as_object().expect("an object").clone();
    variables.as_object_mut().expect("an object").extend(more);
    let deployment = json!({
        "name": name, "flow_id": flow["id"], "work_pool_name": "kubernetes", "job_variables": variables,
        "entrypoint": "flow.py:report",
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": "/opt/flows"}}],
    });
    prefect.post("/deployments/", &deployment).await["id"].as_str().expect("an id").to_owned()
}

/// Runs the flow and returns what it saw of these variables, and of the files of `/etc/etl`.
async fn report(space: &Space, prefect: &Prefect, deployment: &str, names: &[&str]) -> Value {
    let run = json!({
        "state": {"type": "SCHEDULED"}, "parameters": {"names": names, "folder": "/etc/etl"},
    });
    let run = prefect.post(&format!("/deployments/{deployment}/create_flow_run"), &run).await;
    let id = run["id"].as_str().expect("an id");
    space
        .eventually("the flow run to complete", FLOW, async || {
            let run: Value = serde_json::from_str(&prefect.get_text(&format!("/flow_runs/{id}")).await).expect("JSON");
            match run["state"]["type"].as_str() {
                Some("COMPLETED") => Ok(()),
                _ => Err(run["state"].to_string()),
            }
        })
        .await;
    let filter = json!({"logs": {"flow_run_id": {"any_": [id]}}});
    // Prefect's client sends a run's log in batches, the last of them as it ends.
    space
        .eventually("the flow's report in Prefect's log", SOON, async || {
            let logs = prefect.post("/logs/filter", &filter).await;
            let messages = logs.as_array().into_iter().flatten().filter_map(|log| log["message"].as_str());
            match messages.clone().find_map(|message| message.strip_prefix("REPORT ")) {
                Some(report) => Ok(serde_json::from_str(report).expect("JSON")),
                None => Err(format!("{:?}", messages.collect::<Vec<_>>())),
            }
        })
        .await
}

#[tokio::test]
async fn a_flow_of_the_kubernetes_worker_gets_the_synced_values_and_those_that_its_deployment_chooses() {
    let space = Space::new("work").await;
    let prefect = node().await.prefect();
    prefect.set_secret("db-password", json!(DB_PASSWORD)).await;
    prefect.set_variable("my_flow_last_executed", json!("2026-11-24")).await;
    prefect.set_secret("other-token", json!("other")).await;
    // The pool is there before its worker, which would make one with the default template.
    let template: Value = serde_json::from_str(&read("deploy/examples/base-job-template.json")).expect("JSON");
    let pool = json!({"name": "kubernetes", "type": "kubernetes", "base_job_template": template});
    prefect.post("/work_pools/", &pool).await;
    space.apply_file("deploy/examples/quickstart.yaml");
    space.apply(&worker());
    let other = json!({"data": [{"secretKey": "TOKEN", "remoteRef": {"key": "other-token"}}]});
    space.apply(&[prefect_secret("other", other)]);
    for object in ["prefectsecret/etl", "prefectsecret/other", "prefectkv/my-flow"] {
        space.eventually_ready(object).await;
    }

    let names = ["DB_PASSWORD", "DB_HOST", "LAST_EXECUTED", "TOKEN"];
    let files = json!({"DB_PASSWORD": DB_PASSWORD, "DB_HOST": "localhost"});
    let usual = deployment(prefect, "usual", &json!({})).await;
    assert_eq!(
        report(&space, prefect, &usual, &names).await,
        json!({"env": {
            "DB_PASSWORD": DB_PASSWORD, "DB_HOST": "localhost", "LAST_EXECUTED": "2026-11-24", "TOKEN": null,
        }, "files": files})
    );
    let own = deployment(prefect, "own", &json!({"env_from": [{"secretRef": {"name": "other"}}]})).await;
    assert_eq!(
        report(&space, prefect, &own, &names).await,
        json!({"env": {"DB_PASSWORD": null, "DB_HOST": null, "LAST_EXECUTED": null, "TOKEN": "other"}, "files": files})
    );
}
