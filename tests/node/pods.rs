//! What pods get of what Prefect holds.

use std::collections::BTreeMap;

use base64::Engine as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::fixture::{SOON, Space, busybox, node, prefect_secret};

/// Text with which careless hands break: quotes, newlines, `$`, what Kubernetes expands elsewhere, no ASCII.
const AWKWARD: &str = "  p/w&\"1'`$HOME$(HOME)${HOME}\\n\n\tsecond line ü 🗝\n\n";
/// Bytes that are no text.
const BINARY: &[u8] = &[0, 255, 10, 13, 0, 128, 254, 10];

/// JSON with a notation that careless hands change.
const NUMBERS: &str = r#"{"b":1.5,"a":[1,2]}"#;

#[tokio::test]
async fn a_job_reads_from_its_environment_and_its_files_what_prefect_holds_byte_for_byte() {
    let space = Space::new("job").await;
    let prefect = node().await.prefect();
    prefect.set_secret("job-awkward", json!(AWKWARD)).await;
    prefect.set_secret("job-binary", json!(base64::engine::general_purpose::STANDARD.encode(BINARY))).await;
    prefect.set_variable("job_setting", json!(AWKWARD)).await;
    prefect.set_variable_raw("job_numbers", NUMBERS).await;
    let kv = json!({
        "apiVersion": "prefect-sync.dev/v1alpha1", "kind": "PrefectKV", "metadata": {"name": "settings"},
        "spec": {"data": [
            {"configMapKey": "SETTING", "remoteRef": {"key": "job_setting"}},
            {"configMapKey": "NUMBERS", "remoteRef": {"key": "job_numbers"}},
        ]},
    });
    let text = json!({"data": [{"secretKey": "AWKWARD", "remoteRef": {"key": "job-awkward"}}]});
    let binary = json!({"data": [{"secretKey": "key.bin", "remoteRef": {"key": "job-binary"}, "decoding": "Base64"}]});
    space.apply(&[prefect_secret("text", text), prefect_secret("binary", binary), kv]);
    for object in ["prefectsecret/text", "prefectsecret/binary", "prefectkv/settings"] {
        space.eventually_ready(object).await;
    }

    // The environment as the program got it, and each file: its name, and what it holds as base64.
    let script = r#"
for file in /proc/1/environ /etc/text/* /etc/binary/* /etc/settings/*; do echo "$file $(base64 -w 0 "$file")"; done
"#;
    let mut container = busybox(script);
    container["envFrom"] = json!([{"secretRef": {"name": "text"}}, {"configMapRef": {"name": "settings"}}]);
    let volumes = ["text", "binary", "settings"];
    container["volumeMounts"] = volumes
        .iter()
        .map(|name| json!({"name": name, "mountPath": format!("/etc/{name}"), "readOnly": true}))
        .collect();
    space.apply(&[json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "flow"},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"app": "flow"}}, "spec": {
            "restartPolicy": "Never", "containers": [container], "volumes": [
                {"name": "text", "secret": {"secretName": "text"}},
                {"name": "binary", "secret": {"secretName": "binary"}},
                {"name": "settings", "configMap": {"name": "settings"}},
            ],
        }}},
    })]);
    space
        .eventually("the Job to succeed", SOON, async || {
            let job = space.all::<Job>().get("flow").await.map_err(|error| error.to_string())?;
            let status = job.status.unwrap_or_default();
            if status.succeeded == Some(1) { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    let log = space.log(&space.pods("flow").await[0].name_any()).await;
    let mut printed: BTreeMap<&str, Vec<u8>> = log
        .lines()
        .map(|line| line.split_once(' ').unwrap_or_else(|| panic!("the Job printed {log}")))
        .map(|(file, text)| (file, base64::engine::general_purpose::STANDARD.decode(text).expect("base64")))
        .collect();
    let environment = printed.remove("/proc/1/environ").expect("its environment");
    for (name, expected) in [("AWKWARD", AWKWARD), ("SETTING", AWKWARD), ("NUMBERS", NUMBERS)] {
        let variable = format!("{name}={expected}");
        let has = environment.split(|byte| *byte == 0).any(|found| found == variable.as_bytes());
        assert!(has, "{variable:?} is not in {:?}", String::from_utf8_lossy(&environment));
    }
    let expected = BTreeMap::from([
        ("/etc/binary/key.bin", BINARY.to_vec()),
        ("/etc/settings/NUMBERS", NUMBERS.into()),
        ("/etc/settings/SETTING", AWKWARD.into()),
        ("/etc/text/AWKWARD", AWKWARD.into()),
    ]);
    assert_eq!(printed, expected);
}

/// A Deployment of one busybox pod.
fn deployment(name: &str, container: &Value, volumes: &Value) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0,
        }}},
    })
}

#[tokio::test]
async fn a_value_rotated_in_prefect_appears_in_a_mounted_file_of_a_running_pod() {
    let space = Space::new("rotation").await;
    let prefect = node().await.prefect();
    prefect.set_secret("rotated", json!("before")).await;
    let spec = json!({"data": [{"secretKey": "PASSWORD", "remoteRef": {"key": "rotated"}}]});
    let mut container = busybox("exec sleep 3600");
    container["volumeMounts"] = json!([{"name": "etl", "mountPath": "/etc/etl", "readOnly": true}]);
    let volumes = json!([{"name": "etl", "secret": {"secretName": "etl"}}]);
    // The pod waits for its Secret.
    space.apply(&[deployment("reader", &container, &volumes), prefect_secret("etl", spec)]);
    let reads = async |expected: &str| {
        let pods = space.pods("reader").await;
        let [pod] = &pods[..] else { return Err(format!("{} pods", pods.len())) };
        let name = pod.name_any();
        let read = crate::fixture::kubectl(&["exec", "-n", &space.namespace, &name, "--", "cat", "/etc/etl/PASSWORD"]);
        let output = { read }.output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text == expected { Ok(pod.uid()) } else { Err(format!("{text:?} {:?}", String::from_utf8(output.stderr))) }
    };
    let first = space.eventually("the file to hold the value", SOON, async || reads("before").await).await;
    prefect.set_secret("rotated", json!("after")).await;
    let then = space.eventually("the file to hold the new value", SOON, async || reads("after").await).await;
    assert_eq!(first, then, "it is the same pod");
}

#[tokio::test]
async fn a_deployment_named_in_restart_rolls_and_its_new_pod_has_the_new_environment() {
    let space = Space::new("restart").await;
    let prefect = node().await.prefect();
    prefect.set_secret("agent-token", json!("old")).await;
    let spec = json!({
        "data": [{"secretKey": "API_TOKEN", "remoteRef": {"key": "agent-token"}}],
        "restart": [{"kind": "Deployment", "name": "agent", "keys": ["API_TOKEN"]}],
    });
    let mut container = busybox(r#"echo "token is $API_TOKEN"; exec sleep 3600"#);
    container["envFrom"] = json!([{"secretRef": {"name": "agent"}}]);
    space.apply(&[prefect_secret("agent", spec), deployment("agent", &container, &json!([]))]);
    let rolled_out = async |token: &str| {
        let agent = space.all::<Deployment>().get("agent").await.map_err(|error| error.to_string())?;
        let (generation, status) = (agent.metadata.generation, agent.status.unwrap_or_default());
        if status.observed_generation != generation || (status.updated_replicas, status.replicas) != (Some(1), Some(1))
        {
            return Err(format!("not rolled out: {status:?}"));
        }
        let pods = space.pods("agent").await;
        let [pod] = &pods[..] else { return Err(format!("{} pods", pods.len())) };
        let log = space.log(&pod.name_any()).await;
        if log == format!("token is {token}\n") { Ok(pod.name_any()) } else { Err(format!("its pod prints {log:?}")) }
    };
    let old = space.eventually("a pod with the token", SOON, async || rolled_out("old").await).await;
    prefect.set_secret("agent-token", json!("new")).await;
    let new = space.eventually("a pod with the new token", SOON, async || rolled_out("new").await).await;
    assert_ne!(old, new);
}
