//! How the operator starts where something is missing, what it logs while something is down, and that it stops.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::{SOON, World, control_plane, operator_kubeconfig, operator_options, prefect};
use crate::support::{Mode, Operator, OperatorOptions, Proxy, Scratch, eventually, ports};

const BINARY: &str = env!("CARGO_BIN_EXE_prefect-sync");

/// The lines of a log, each of which must be a JSON object.
fn lines(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| !line.starts_with("leash"));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// How often each message was logged at this level.
fn messages(log: &str, level: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines(log).iter().filter(|line| line["level"] == level) {
        *counts.entry(line["message"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn missing_permissions_are_named_without_flooding_and_do_not_keep_it_from_stopping() {
    let control_plane = control_plane().await;
    let namespace = control_plane.namespace("starting").await;
    let options = OperatorOptions {
        kubeconfig: control_plane.kubeconfig_for_service_account(&namespace, "default").await,
        args: vec![
            "--namespaces".into(),
            namespace.clone(),
            "--health-address".into(),
            format!("127.0.0.1:{}", ports::free()),
        ],
        env: vec![("PREFECT_SYNC_LOG".into(), "info,kube_runtime=debug".into())],
    };
    let operator = Operator::start(Path::new(BINARY), &options);
    let expected = |resource: &str, group: &str| {
        let plural = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        format!(
            r#"a watch failed and is tried again: the API server answered 403: {plural} is forbidden: User "system:serviceaccount:{namespace}:default" cannot list resource "{resource}" in API group "{group}" in the namespace "{namespace}"; give it that permission, as deploy/manifests/10-rbac.yaml does"#
        )
    };
    let group = "prefect-sync.dev";
    let all: BTreeMap<String, usize> = [
        (expected("prefectworkspaces", group), 1),
        (expected("prefectsecrets", group), 1),
        (expected("prefectkvs", group), 1),
        // As targets, and as what is offered to workspaces.
        (expected("secrets", ""), 2),
        (expected("configmaps", ""), 2),
    ]
    .into();
    // Each of the seven fails, and some are tried again.
    let retries = |log: &str| messages(log, "DEBUG").get("Error received, backing off").copied().unwrap_or_default();
    eventually("twelve failed lists and a word about each", SOON, async || {
        let log = operator.log();
        match (retries(&log), messages(&log, "WARN").len()) {
            (failed, told) if failed >= 12 && told >= all.len() => Ok(()),
            counts => Err(format!("{counts:?}\n{log}")),
        }
    })
    .await;
    let (code, log) = operator.stop().await;
    assert_eq!(code, 0, "{log}");
    let told = messages(&log, "WARN");
    for (message, times) in &told {
        assert!(all.get(message).is_some_and(|most| times <= most), "{times} times {message}\n{log}");
    }
    assert_eq!(told.len(), all.len(), "{told:#?}");
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_said_in_one_line() {
    let scratch = Scratch::new("starting");
    let good = operator_kubeconfig().await;
    let kubeconfig = std::fs::read_to_string(&good).unwrap();
    let address = control_plane().await.url();
    let mut strange: Value = serde_json::from_str(&kubeconfig).unwrap();
    strange["users"][0]["user"]["token"] = json!("wrong");
    let write = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (free, taken) = (format!("127.0.0.1:{}", ports::free()), taken.local_addr().unwrap().to_string());

    let missing = scratch.path().join("none");
    for (kubeconfig, health, message) in [
        (
            missing.clone(),
            &free,
            format!(
                r#"finding the cluster: there must be a service account (in a cluster) or a kubeconfig (KUBECONFIG, ~/.kube/config): failed to infer config: in-cluster: (failed to read an incluster environment variable: environment variable not found), kubeconfig: (failed to read kubeconfig from '{missing:?}': No such file or directory (os error 2))"#
            ),
        ),
        (
            write("strange", &strange.to_string()),
            &free,
            format!(
                "cluster {address}/: asking the API server which kinds it serves: the API server answered 401: Unauthorized"
            ),
        ),
        (
            write(
                "elsewhere",
                &kubeconfig.replace(r#""tls-server-name": "kubernetes""#, r#""tls-server-name": "elsewhere""#),
            ),
            &free,
            format!(
                "cluster {address}/: asking the API server which kinds it serves: ServiceError: client error (Connect): invalid peer certificate: certificate not valid for name \"elsewhere\""
            ),
        ),
        (good, &taken, format!("listening on {taken} for health checks: Address already in use (os error 98)")),
    ] {
        let mut command = Command::new(BINARY);
        command.args(["run", "--health-address", health]).env("KUBECONFIG", kubeconfig).current_dir(scratch.path());
        command.env_remove("KUBERNETES_SERVICE_HOST").env("PREFECT_SYNC_LOG", "warn");
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert!(
            told.starts_with(&format!("prefect-sync: {message}")) && told.lines().count() == 1,
            "{message}\n{told}"
        );
        assert_eq!(ended.status.code(), Some(1), "{message}");
    }
}

#[tokio::test]
async fn an_api_server_that_can_not_be_reached_yet_is_waited_for() {
    let cluster = control_plane().await;
    let (address, port) = (cluster.url(), ports::free());
    let path = cluster.kubeconfig_by_way_of(&operator_kubeconfig().await, &format!("https://127.0.0.1:{port}"));
    let namespace = cluster.namespace("late").await;
    let operator = Operator::start(Path::new(BINARY), &operator_options(path, &["--namespaces", &namespace]));
    let says = async |text: &str| {
        let log = operator.log();
        if log.contains(text) { Ok(()) } else { Err(log) }
    };
    let refused = "asking the API server which kinds it serves: ServiceError: client error (Connect): Connection refused (os error 111)";
    eventually("the failure to be said", SOON, async || says(refused).await).await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let upstream = address.strip_prefix("https://").unwrap().to_owned();
    tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            let mut to = tokio::net::TcpStream::connect(&upstream).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    eventually("the operator to work", SOON, async || says(r#""message":"watching""#).await).await;
    assert_eq!(operator.stop().await.0, 0);
}

#[tokio::test]
async fn an_outage_is_logged_once_and_so_is_its_end() {
    let world = World::new("starting").await;
    let proxy = Proxy::start(prefect().await.url()).await;
    world.workspace(&proxy.url()).await;
    world.connected().await;
    proxy.set(Mode::Answer(500, Vec::new(), String::new()));
    world.eventually_reason("PrefectWorkspace", "default", "PrefectUnreachable").await;
    let before = proxy.requests().len();
    eventually("three more tries", SOON, async || match proxy.requests().len() - before {
        more if more >= 3 => Ok(()),
        more => Err(format!("{more} more")),
    })
    .await;
    proxy.set(Mode::Pass);
    world.connected().await;
    let log = world.stop_operator().await;
    let failed = format!("Prefect at {} answered 500; its own log says why", proxy.host());
    assert_eq!(messages(&log, "WARN"), [(failed, 1)].into(), "{log}");
    assert_eq!(messages(&log, "INFO").get("can be read again"), Some(&1), "{log}");
}
