//! An operator that is limited to some namespaces: the real one, under the roles that the chart gives it, judged by the
//! real authorizer.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{CHART, Helm, TEAMS, documents, find};
use crate::support::control_plane::ControlPlaneOptions;
use crate::support::{ControlPlane, Operator, OperatorOptions, eventually, ports};

const USER: &str = "system:serviceaccount:prefect-sync:prefect-sync";

/// Whether the operator's account may do this; `scope` as kubectl's flags.
fn may(control_plane: &ControlPlane, verb: &str, resource: &str, scope: &[&str]) -> bool {
    let mut args = vec!["auth", "can-i", verb, resource, "--as", USER];
    args.extend(scope);
    // It fails for a no.
    let output = control_plane.kubectl(&args);
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => true,
        "no" => false,
        other => panic!("kubectl {}: {other} {}", args.join(" "), String::from_utf8_lossy(&output.stderr)),
    }
}

#[tokio::test]
async fn it_works_without_a_right_on_the_cluster_and_asks_for_nothing_cluster_wide() {
    let control_plane =
        ControlPlane::start_with(ControlPlaneOptions { audit_reads: true, ..ControlPlaneOptions::default() }).await;
    let helm = Helm::of(&control_plane);
    for team in TEAMS {
        control_plane.kubectl_ok(&["create", "namespace", team]);
    }
    let values = json!({"namespaces": TEAMS});
    let file = helm.values(&values);
    let install = ["install", "prefect-sync", CHART, "-n", "prefect-sync", "--create-namespace", "--values", &file];
    helm.ok(&install);
    control_plane.kubectl_ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);

    let ours = ["prefectworkspaces.prefect-sync.dev", "prefectsecrets.prefect-sync.dev", "prefectkvs.prefect-sync.dev"];
    for resource in ours.into_iter().chain(["secrets", "configmaps"]) {
        for verb in ["list", "watch", "get"] {
            assert!(!may(&control_plane, verb, resource, &["-A"]), "{verb} {resource} in the whole cluster");
            assert!(!may(&control_plane, verb, resource, &["-n", "default"]), "{verb} {resource} elsewhere");
            for team in TEAMS {
                assert!(may(&control_plane, verb, resource, &["-n", team]), "no {verb} {resource} in {team}");
            }
        }
    }
    for resource in ["namespaces", "clusterprefectworkspaces.prefect-sync.dev"] {
        for verb in ["get", "list", "watch"] {
            assert!(!may(&control_plane, verb, resource, &[]), "{verb} {resource}");
        }
    }
    // In its own namespace it may hold its Lease, and nothing else; not even another Lease.
    assert!(may(&control_plane, "update", "leases.coordination.k8s.io/prefect-sync", &["-n", "prefect-sync"]));
    assert!(!may(&control_plane, "update", "leases.coordination.k8s.io/other", &["-n", "prefect-sync"]));
    assert!(!may(&control_plane, "list", "secrets", &["-n", "prefect-sync"]));
    assert!(!may(&control_plane, "update", "leases.coordination.k8s.io/prefect-sync", &["-n", TEAMS[0]]));

    // And that is enough for it.
    let objects = documents(&helm.template("prefect-sync", "prefect-sync", &values));
    let args = &find(&objects, "Deployment").unwrap()["spec"]["template"]["spec"]["containers"][0]["args"];
    let namespaces = args.as_array().unwrap().iter().filter_map(Value::as_str);
    let namespaces: Vec<&str> = namespaces.filter(|arg| arg.starts_with("--namespaces=")).collect();
    assert_eq!(namespaces, ["--namespaces=team-a,team-b"]);
    let health = format!("127.0.0.1:{}", ports::free());
    let options = OperatorOptions {
        kubeconfig: control_plane.kubeconfig_for_service_account("prefect-sync", "prefect-sync").await,
        args: vec![namespaces[0].to_owned(), format!("--health-address={health}")],
        env: Vec::new(),
    };
    let operator = Operator::start(Path::new(env!("CARGO_BIN_EXE_prefect-sync")), &options);
    eventually("the operator to be ready", Duration::from_secs(60), async || {
        let answer = reqwest::get(format!("http://{health}/readyz")).await.map_err(|e| e.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("{}\n{}", answer.status(), operator.log())) }
    })
    .await;
    // It is ready when all is listed; the watches follow: of three kinds, two kinds of targets, two that are offered.
    eventually("all watches", Duration::from_secs(60), async || {
        let requests = control_plane.requests_of(USER);
        let watches = requests.iter().filter(|request| request["verb"] == "watch");
        // Each begins anew now and then, from another version.
        let selector = |uri: &str| uri.split('&').find(|part| part.starts_with("labelSelector")).map(str::to_owned);
        let what = |request: &Value| {
            let uri = request["requestURI"].as_str().unwrap();
            (uri.split('?').next().map(str::to_owned), selector(uri))
        };
        let watched: BTreeSet<_> = watches.map(what).collect();
        if watched.len() == 7 * TEAMS.len() { Ok(()) } else { Err(format!("{watched:#?}")) }
    })
    .await;
    let (code, log) = operator.stop().await;
    assert_eq!(code, 0, "{log}");

    let requests = control_plane.requests_of(USER);
    for request in &requests {
        let (verb, uri) = (request["verb"].as_str().unwrap(), request["requestURI"].as_str().unwrap());
        let code = &request["responseStatus"]["code"];
        assert!(code != 403, "{verb} {uri} was forbidden");
        if let Some(namespace) = request["objectRef"]["namespace"].as_str() {
            assert!(TEAMS.contains(&namespace), "{verb} {uri}");
        } else {
            // Only which kinds there are.
            assert_eq!((verb, request["objectRef"]["resource"].as_str()), ("get", None), "{uri}");
        }
    }
}
