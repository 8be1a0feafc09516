//! Proves the harness that the other tests rely on: that its parts are the real ones, and that
//! nothing outlives them.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use support::{ControlPlane, Leashed, Prefect, PrefectOptions, Scratch, eventually, python};

const SOON: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(500);

fn alive(pid: u32) -> bool {
    // A zombie is dead; it only waits for its parent to look.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

async fn gone(what: &str, pid: u32) {
    eventually(what, SOON, async || if alive(pid) { Err(format!("{pid} is alive")) } else { Ok(()) }).await;
}

/// A shell that gets KILL this long after TERM.
fn sleeper(log: &Path, script: &str, grace: Duration) -> Leashed {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Leashed::spawn(&command, log, grace)
}

#[tokio::test]
async fn control_plane_is_kubernetes_1_36_3_with_rbac_and_garbage_collection() {
    let started = Instant::now();
    let cluster = ControlPlane::start().await;
    println!("control plane ready after {:?}", started.elapsed());
    let admin = cluster.admin().await;
    // Where KUBEBUILDER_ASSETS chooses the server, its version is whatever that folder holds.
    if std::env::var_os("KUBEBUILDER_ASSETS").is_none_or(|folder| folder.is_empty()) {
        assert_eq!(admin.apiserver_version().await.unwrap().git_version, "v1.36.3");
    }
    assert!(cluster.kubectl_ok(&["get", "--raw", "/readyz"]).starts_with("ok"));

    let namespace = cluster.namespace("harness").await;
    let owners: Api<ConfigMap> = Api::namespaced(admin.clone(), &namespace);
    let owner = serde_json::from_value(json!({"metadata": {"name": "owner"}})).unwrap();
    let owner = owners.create(&PostParams::default(), &owner).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(admin, &namespace);
    let owned = serde_json::from_value(json!({"metadata": {"name": "owned", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid},
    ]}}))
    .unwrap();
    secrets.create(&PostParams::default(), &owned).await.unwrap();
    owners.delete("owner", &DeleteParams::background()).await.unwrap();
    eventually("garbage collection of the owned Secret", SOON, async || match secrets.get_opt("owned").await {
        Ok(None) => Ok(()),
        other => Err(format!("found: {}", other.is_ok())),
    })
    .await;

    // A service account is somebody, but may read nothing that no role grants.
    let client = cluster.client_for_service_account(&namespace, "default").await;
    let refused = Api::<Secret>::namespaced(client, &namespace).get_opt("owned").await.unwrap_err().to_string();
    assert!(refused.contains(&format!("system:serviceaccount:{namespace}:default")), "{refused}");

    let logs = cluster.logs().to_owned();
    let stopping = Instant::now();
    cluster.stop();
    println!("control plane stopped after {:?}", stopping.elapsed());
    assert!(!logs.exists(), "the scratch folder is left");
}

/// Plays two parts: run by the test runner it starts itself once more; that second process starts a
/// child on a leash and waits to be killed.
#[tokio::test]
async fn leash_kills_the_child_when_its_parent_is_sigkilled() {
    const LOG: &str = "HARNESS_TEST_LEASH_LOG";
    if let Some(log) = std::env::var_os(LOG) {
        let child = sleeper(Path::new(&log), "trap '' TERM; while :; do sleep 0.1; done", SHORT);
        println!("\nchild {}", child.pid());
        loop {
            std::thread::park();
        }
    }
    let scratch = Scratch::new("leash");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leash_kills_the_child_when_its_parent_is_sigkilled", "--nocapture"])
        .env(LOG, scratch.path().join("child.log"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = BufReader::new(parent.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("child ")?.parse().ok())
        .expect("the parent prints its child's process id");
    assert!(alive(pid));
    parent.kill().unwrap(); // SIGKILL
    parent.wait().unwrap();
    gone("the child, which ignores TERM, to die with its parent", pid).await;
}

#[tokio::test]
async fn leash_stops_in_order_kills_at_once_and_reports_exit_codes() {
    let scratch = Scratch::new("leash");
    let log = scratch.path().join("child.log");
    let tidy = sleeper(&log, "trap 'echo tidied; exit 7' TERM; echo up; while :; do sleep 0.1; done", SOON);
    eventually("the child to come up", SOON, async || if tidy.log().contains("up") { Ok(()) } else { Err(tidy.log()) })
        .await;
    assert_eq!(tidy.stop().await, 7);
    assert!(std::fs::read_to_string(&log).unwrap().contains("tidied"));

    let mut deaf = sleeper(&log, "trap '' TERM; while :; do sleep 0.1; done", SHORT);
    assert_eq!(deaf.exit_code(), None);
    let pid = deaf.pid();
    deaf.kill_now();
    assert!(!alive(pid));
    let pid = sleeper(&log, "exec sleep 60", SHORT).pid(); // dropped here
    assert!(!alive(pid));

    let mut short = sleeper(&log, "exit 3", SHORT);
    let code = eventually("the exit code", SOON, async || short.exit_code().ok_or_else(|| "still runs".to_owned()));
    assert_eq!(code.await, 3);
}

#[tokio::test]
async fn prefect_round_trips_secrets_and_number_text_and_survives_restart_and_wipe() {
    let started = Instant::now();
    let mut prefect = Prefect::start(PrefectOptions::default()).await;
    println!("Prefect ready after {:?}", started.elapsed());
    let secret = "/block_types/slug/secret/block_documents/name/db-password?include_secrets=true";
    let at = |text: &str, pointer: &str| serde_json::from_str::<Value>(text).unwrap().pointer(pointer).cloned();

    prefect.set_secret("db-password", json!("created")).await;
    prefect.set_secret("db-password", json!("hünter2\n")).await;
    assert_eq!(at(&prefect.get_text(secret).await, "/data/value"), Some(json!("hünter2\n")));
    // Beyond what a double can hold: shows that no side rounds. (Thirty digits survive in blocks,
    // not in variables.)
    prefect.set_secret_raw("db-password", "123456789012345678901234567890").await;
    assert!(prefect.get_text(secret).await.contains(r#""value":123456789012345678901234567890"#));
    prefect.set_variable_raw("limit", "1").await;
    prefect.set_variable_raw("limit", r#"{"b":9007199254740993,"a":1.5}"#).await;
    let text = prefect.get_text("/variables/name/limit").await;
    assert!(text.contains(r#""value":{"b":9007199254740993,"a":1.5}"#), "{text}");

    prefect
        .set_block("aws-credentials", "aws", json!({"aws_access_key_id": "id", "aws_secret_access_key": "key"}))
        .await;
    prefect.delete_block("aws-credentials", "aws").await;
    prefect.delete_variable("limit").await;

    let port = prefect.port();
    prefect.stop().await;
    assert!(prefect.healthy().await.is_err());
    prefect.start_again().await;
    assert!(prefect.get_text(secret).await.contains("12345678901234567890"));
    prefect.wipe().await;
    assert_eq!(prefect.port(), port);
    assert_eq!(prefect.get_text("/block_types/slug/secret/block_documents").await, "[]");
}

#[tokio::test]
async fn prefect_with_basic_auth_and_csrf_refuses_strangers() {
    let options = PrefectOptions { auth_string: Some("admin:s3cr3t".to_owned()), csrf: true, ..Default::default() };
    let prefect = Prefect::start(options).await;
    prefect.set_secret("token", json!("x")).await;
    prefect.set_variable("region", json!("eu")).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let version = format!("{}/admin/version", prefect.url());
    assert_eq!(http.get(&version).send().await.unwrap().status(), 401);
    let filter = http.post(format!("{}/variables/filter", prefect.url())).basic_auth("admin", Some("s3cr3t"));
    let answer = filter.send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(answer.text().await.unwrap().contains("Missing CSRF token"));
    assert_eq!(prefect.get_text("/admin/version").await, r#""3.8.8""#);
}

#[test]
fn prefect_1_reads_a_secret_from_the_environment() {
    let snippet = "import prefect; from prefect.client import Secret; print(prefect.__version__, Secret('X').get())";
    let printed = python::prefect1(snippet, &[("PREFECT__CONTEXT__SECRETS__X", "hunter2")]);
    assert_eq!(printed, "1.4.1 hunter2");
}
