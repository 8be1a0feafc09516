//! `make demo`: the main job on a real Kubernetes API and a real Prefect, step by step.
//!
//! With `ONCE=1` it ends after the last step, with an exit code other than 0 if a step failed; otherwise it stays
//! until Ctrl-C, for a look around.

// A step that can't be done ends the demo with a clear text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use support::{ControlPlane, Operator, OperatorOptions, Prefect, PrefectOptions, Scratch, eventually, ports};

/// Long enough for a slow machine; a step that waits this long has failed.
const SOON: Duration = Duration::from_secs(60);

/// A step's number and the time since the start, before each line.
struct Steps {
    started: Instant,
    number: u32,
}

impl Steps {
    fn step(&mut self, what: &str) {
        self.number += 1;
        println!("\n[{:5.1} s] {}. {what}", self.started.elapsed().as_secs_f64(), self.number);
    }
}

fn say(text: &str) {
    for line in text.trim_end().lines() {
        println!("            {line}");
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The operator's binary, built beside this one.
fn binary() -> PathBuf {
    let demo = std::env::current_exe().expect("the demo's own path");
    let folder = demo.parent().and_then(Path::parent).expect("target/PROFILE/examples/demo");
    folder.join("prefect-sync")
}

#[tokio::main]
async fn main() {
    support::install_crypto_provider();
    let once = std::env::var("ONCE").is_ok_and(|once| !once.is_empty() && once != "0");
    let mut steps = Steps { started: Instant::now(), number: 0 };

    steps.step("Start a Kubernetes control plane (etcd, API server, controller manager)");
    let cluster = ControlPlane::start().await;
    say(&format!("Kubernetes {}", cluster.admin().await.apiserver_version().await.expect("its version").git_version));

    steps.step("Start a Prefect server");
    let prefect = Prefect::start(PrefectOptions { ui: !once, ..PrefectOptions::default() }).await;
    say(&format!("Prefect at {}", prefect.url()));

    steps.step("Create a secret and a variable in Prefect, with Prefect's own Python client");
    let python = "from prefect.blocks.system import Secret\nfrom prefect.variables import Variable\n\
                  Secret(value='correct-horse').save('db-password')\nVariable.set('db-host', 'db.example.com')\n\
                  print('Secret block \"db-password\" and variable \"db-host\" are in Prefect')\n";
    let home = Scratch::new("demo");
    say(&support::prefect::prefect3_python(python, prefect.url(), home.path()));

    steps.step("Install the CRDs and the operator's roles, and run the operator under them");
    let file = |relative: &str| root().join(relative).display().to_string();
    for path in ["crds", "deploy/manifests-optional/00-namespace.yaml", "deploy/manifests/10-rbac.yaml"] {
        say(&format!("$ kubectl apply -f {path}"));
        cluster.kubectl_ok(&["apply", "-f", &file(path)]);
    }
    cluster.kubectl_ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    let operator = Operator::start(
        &binary(),
        &OperatorOptions {
            kubeconfig: cluster.kubeconfig_for_service_account("prefect-sync", "prefect-sync").await,
            args: vec!["--health-address".into(), format!("127.0.0.1:{}", ports::free())],
            env: Vec::new(),
        },
    );
    say("$ prefect-sync run");

    steps.step("Apply a workspace, a PrefectSecret and a PrefectKV (deploy/examples/quickstart.yaml)");
    let manifests = std::fs::read_to_string(root().join("deploy/examples/quickstart.yaml"))
        .expect("deploy/examples/quickstart.yaml")
        .replace("http://prefect-server.prefect.svc:4200/api", prefect.url());
    let applied = home.path().join("quickstart.yaml");
    std::fs::write(&applied, manifests).expect("writing the example");
    let since = Instant::now();
    cluster.kubectl_ok(&["apply", "-f", &applied.display().to_string()]);
    let client = cluster.admin().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let config_maps: Api<ConfigMap> = Api::namespaced(client, "default");
    secret_holds(&secrets, "correct-horse", &operator).await;
    eventually("ConfigMap my-flow", SOON, async || {
        let map = config_maps.get_opt("my-flow").await.map_err(|error| error.to_string())?;
        map.map(|_| ()).ok_or_else(|| format!("it does not exist; the operator's log:\n{}", operator.log()))
    })
    .await;
    say(&format!("Secret \"etl\" and ConfigMap \"my-flow\" were there after {:.2} s:", since.elapsed().as_secs_f64()));
    for kind in ["psec", "pkv", "pws"] {
        cluster.kubectl_ok(&["wait", kind, "--all", "--for=condition=Ready", "--timeout=60s"]);
    }
    say("$ kubectl get prefect");
    say(&cluster.kubectl_ok(&["get", "prefect"]));
    say("$ kubectl get secret etl -o jsonpath={.data.DB_PASSWORD} | base64 -d");
    say(&cluster.kubectl_ok(&["get", "secret", "etl", "-o", "go-template={{.data.DB_PASSWORD | base64decode}}"]));
    say("$ kubectl get configmap my-flow -o jsonpath={.data}   (its variable is not there: the default stands in)");
    say(&cluster.kubectl_ok(&["get", "configmap", "my-flow", "-o", "jsonpath={.data}"]));

    steps.step("Change the secret in Prefect");
    prefect.set_secret("db-password", serde_json::json!("battery-staple")).await;
    let since = Instant::now();
    secret_holds(&secrets, "battery-staple", &operator).await;
    say(&format!(
        "Secret \"etl\" holds the new value {:.2} s later (this workspace is refreshed every 2 s)",
        since.elapsed().as_secs_f64()
    ));

    steps.step("Delete the Secret in Kubernetes");
    cluster.kubectl_ok(&["delete", "secret", "etl"]);
    let since = Instant::now();
    secret_holds(&secrets, "battery-staple", &operator).await;
    say(&format!("It is back {:.2} s later", since.elapsed().as_secs_f64()));

    steps.step("Make a mistake: ask for \"db_password\", which is no name of a block");
    let mistake = home.path().join("mistake.yaml");
    let text = "apiVersion: prefect-sync.dev/v1alpha1\nkind: PrefectSecret\nmetadata: {name: mistake}\n\
                spec: {data: [{secretKey: DB_PASSWORD, remoteRef: {key: db_password}}]}\n";
    std::fs::write(&mistake, text).expect("writing the mistake");
    cluster.kubectl_ok(&["apply", "-f", &mistake.display().to_string()]);
    let reason = "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}: {.status.conditions[?(@.type==\"Ready\")].message}";
    let told = eventually("the mistake's condition", SOON, async || {
        let told = cluster.kubectl_ok(&["get", "psec", "mistake", "-o", reason]);
        let helps = told.contains("did you mean \"db-password\"?");
        if helps { Ok(told) } else { Err(format!("{told}; the operator's log:\n{}", operator.log())) }
    })
    .await;
    say("$ kubectl get psec mistake   (its condition says:)");
    say(&told);

    println!("\n[{:5.1} s] Done.", steps.started.elapsed().as_secs_f64());
    if !once {
        println!("\nLook around; everything ends with Ctrl-C:");
        say(&format!("export KUBECONFIG={}", cluster.kubeconfig().display()));
        say("kubectl get prefect,secrets,configmaps");
        say("kubectl describe psec mistake");
        say(&format!("Prefect's page: {}", prefect.url().trim_end_matches("/api")));
        say(&format!("The operator's log: {}", operator.log_path().display()));
        tokio::signal::ctrl_c().await.expect("waiting for Ctrl-C");
    }
    operator.stop().await;
}

async fn secret_holds(secrets: &Api<Secret>, password: &str, operator: &Operator) {
    eventually(&format!("Secret etl to hold {password:?}"), SOON, async || {
        let secret = secrets.get_opt("etl").await.map_err(|error| error.to_string())?;
        let held = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove("DB_PASSWORD"));
        match held {
            Some(held) if held.0 == password.as_bytes() => Ok(()),
            Some(_) => Err("it holds another value".to_owned()),
            None => Err(format!("it does not exist; the operator's log:\n{}", operator.log())),
        }
    })
    .await;
}
