//! Every example of `deploy/examples`, applied as it is, with the blocks that it names in a real Prefect.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::fixture::{CLUSTER_DEFAULT, SOON, World, root, whole_cluster};
use crate::support::python::prefect1;
use crate::support::{Prefect, PrefectOptions, Scratch, eventually};

/// Examples without an object that syncs: where Prefect is, and a pod.
const OTHERS: [&str; 7] = [
    "base-job-template.json",
    "cloud-workspace.yaml",
    "flow-pod.yaml",
    // These are of the whole cluster: see below.
    "many-teams.yaml",
    "prefect1-workspace.yaml",
    "self-hosted-workspace.yaml",
    "team-override.yaml",
];

/// Keys and values.
type Pairs = &'static [(&'static str, &'static str)];

/// What the examples' targets must hold, by kind and name.
const EXPECTED: &[(&str, &str, Pairs)] = &[
    ("Secret", "db", &[("DB_PASSWORD", "p/w&\"1")]),
    ("Secret", "etl", &[("DB_HOST", "localhost"), ("DB_PASSWORD", "p/w&\"1")]),
    ("Secret", "etl-env", &[("ETL_DB_URL", "postgres://x"), ("ETL_TOKEN", "t")]),
    ("Secret", "aws", &[("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_REGION", "eu-west-1"), ("AWS_SECRET_ACCESS_KEY", "s/+=")]),
    ("Secret", "gcp", &[("key.json", r#"{"type":"service_account","project_id":"p"}"#)]),
    ("Secret", "database-url", &[("DATABASE_URL", "postgresql://etl:p%2Fw%26%221@db.example.com/flows")]),
    ("ConfigMap", "last-run", &[("LAST_EXECUTED", "1970-01-01")]),
    ("ConfigMap", "my-flow", &[("LAST_EXECUTED", "1970-01-01")]),
    ("ConfigMap", "settings", &[("settings.json", r#"{"batch":100,"ratio":0.25}"#)]),
    (
        "Secret",
        "registry",
        &[(".dockerconfigjson", r#"{"auths":{"ghcr.io":{"username":"bot","password":"ghp","auth":"Ym90OmdocA=="}}}"#)],
    ),
    ("Secret", "flow-tls", &[("tls.crt", "CRT\n"), ("tls.key", "KEY\n")]),
    ("Secret", "app", &[("DB_PASSWORD", "p/w&\"1")]),
    ("Secret", "agent", &[("API_TOKEN", "a")]),
    ("Secret", "app-settings", &[("API_TOKEN", "a"), ("LOG_LEVEL", "info")]),
    ("Secret", "local", &[("DB_PASSWORD", "local-password")]),
    (
        "Secret",
        "flow-credentials",
        &[("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "s/+="), ("DB_USER", "u")],
    ),
    ("Secret", "prefect1-env", &[("DB_PASSWORD", r#""\"\\\"p/w&\\\\\\\"1\\\"\"""#)]),
    (
        "Secret",
        "prefect1-config",
        &[("config.toml", "[context.secrets]\n\"DB_PASSWORD\" = \"\\\"\\\\\\\"p/w&\\\\\\\\\\\\\\\"1\\\\\\\"\\\"\"\n")],
    ),
];

/// The blocks and variables that the examples name.
async fn fill(prefect: &Prefect) {
    let secrets = [
        ("db-password", json!("p/w&\"1")),
        ("etl-db-url", json!("postgres://x")),
        ("etl-token", json!("t")),
        ("db-json", json!({"user": "u"})),
        ("flow-tls-crt", json!("CRT\n")),
        ("flow-tls-key", json!("KEY\n")),
        ("agent-token", json!("a")),
    ];
    for (name, value) in secrets {
        prefect.set_secret(name, value).await;
    }
    let aws = json!({"aws_access_key_id": "AKIA", "aws_secret_access_key": "s/+=", "region_name": "eu-west-1"});
    prefect.set_block("aws-credentials", "prod-aws", aws).await;
    let gcp = r#"{"service_account_info": {"type": "service_account", "project_id": "p"}, "project": null}"#;
    prefect.set_block_raw("gcp-credentials", "prod-gcp", gcp).await;
    let registry = json!({"username": "bot", "password": "ghp", "registry_url": "ghcr.io", "reauth": true});
    prefect.set_block("docker-registry-credentials", "ghcr", registry).await;
    prefect.set_variable("db_host", json!("db.example.com")).await;
    prefect.set_variable("db_name", json!("flows")).await;
    prefect.set_variable_raw("my_flow_settings", r#"{"batch": 100, "ratio": 0.25}"#).await;
}

/// All documents of an example.
fn all_documents(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("deploy/examples").join(file)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

/// Those that can be tried here: all but the workspace `default`, which is the test's own.
fn documents(file: &str) -> Vec<Value> {
    let is_default =
        |document: &Value| document["kind"] == "PrefectWorkspace" && document["metadata"]["name"] == "default";
    all_documents(file).into_iter().filter(|document| !is_default(document)).collect()
}

fn files() -> BTreeSet<String> {
    let names = std::fs::read_dir(root().join("deploy/examples")).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn data(world: &World, kind: &str, name: &str) -> BTreeMap<String, String> {
    match kind {
        "Secret" => world.secret_data(name).await.unwrap_or_default(),
        _ => world.config_maps().get(name).await.unwrap().data.unwrap_or_default(),
    }
}

#[tokio::test]
async fn every_example_becomes_ready_and_makes_what_it_says() {
    let world = World::new("examples").await;
    let prefect = Prefect::start(PrefectOptions::default()).await;
    fill(&prefect).await;
    world.workspace(prefect.url()).await;
    let (mut objects, mut targets) = (Vec::new(), BTreeSet::new());
    for file in files().iter().filter(|file| !OTHERS.contains(&file.as_str())) {
        for document in documents(file) {
            world.apply(&document.to_string()).await;
            let (kind, name) = (document["kind"].as_str().unwrap(), document["metadata"]["name"].as_str().unwrap());
            if matches!(kind, "PrefectSecret" | "PrefectKV") {
                let target = document["spec"]["target"]["name"].as_str().unwrap_or(name);
                targets.insert((if kind == "PrefectKV" { "ConfigMap" } else { "Secret" }, target.to_owned()));
                objects.push((kind.to_owned(), name.to_owned(), file.clone()));
            }
        }
    }
    let expected: BTreeSet<_> = EXPECTED.iter().map(|(kind, name, _)| (*kind, (*name).to_owned())).collect();
    assert_eq!(targets, expected, "each target of an example is in the table");
    for (kind, name, file) in &objects {
        eventually(&format!("{kind} {name} of {file} to be Ready"), SOON, async || {
            match world.ready(kind, name).await {
                Some(ready) if ready.status == "True" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    for (kind, name, expected) in EXPECTED {
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(data(&world, kind, name).await, expected, "{kind} {name}");
    }
    // Prefect 1 itself reads its two.
    let read = "from prefect.client import Secret; print(Secret('DB_PASSWORD').get())";
    let env = data(&world, "Secret", "prefect1-env").await;
    assert_eq!(prefect1(read, &[("PREFECT__CONTEXT__SECRETS__DB_PASSWORD", &env["DB_PASSWORD"])]), "p/w&\"1");
    let folder = Scratch::new("prefect1-example");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, &data(&world, "Secret", "prefect1-config").await["config.toml"]).unwrap();
    assert_eq!(prefect1(read, &[("PREFECT__USER_CONFIG_PATH", &file.display().to_string())]), "p/w&\"1");
}

#[tokio::test]
async fn one_manifest_serves_dev_and_prod() {
    let manifest = documents("dev-and-prod.yaml").remove(0).to_string();
    let (dev, prod) = (World::new("dev").await, World::new("prod").await);
    for (world, password, dsn) in [(&dev, "dev-pw", None), (&prod, "prod-pw", Some("https://sentry"))] {
        let prefect = Prefect::start(PrefectOptions::default()).await;
        prefect.set_secret("db-password", json!(password)).await;
        if let Some(dsn) = dsn {
            prefect.set_secret("sentry-dsn", json!(dsn)).await;
        }
        world.workspace(prefect.url()).await;
        world.apply(&manifest).await;
        let expected = [("DB_PASSWORD", password), ("SENTRY_DSN", dsn.unwrap_or_default())];
        world.eventually_secret("app", &expected[..1 + usize::from(dsn.is_some())]).await;
    }
}

/// Applies an example of the whole cluster as it stands, but for the address of Prefect.
async fn apply_to_cluster(file: &str, api: &Value) {
    let folder = Scratch::new("example");
    let path = folder.path().join("example.json");
    let mut items = all_documents(file);
    for item in &mut items {
        if let Some(theirs) = item.pointer_mut("/spec/api") {
            *theirs = api.clone();
        }
    }
    std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()).unwrap();
    whole_cluster().await.control_plane.kubectl_ok(&["apply", "--validate=strict", "-f", &path.display().to_string()]);
}

#[tokio::test]
async fn many_teams_read_one_workspace_and_one_of_them_has_secrets_of_its_own_over_it() {
    let _default = CLUSTER_DEFAULT.lock().await;
    let prefect = Prefect::start(PrefectOptions::default()).await;
    for (name, value) in [("team-ads-db-password", "of all"), ("shared-sentry-dsn", "https://sentry")] {
        prefect.set_secret(name, json!(value)).await;
    }
    let aws = json!({"aws_access_key_id": "AKIA", "aws_secret_access_key": "s/+=", "region_name": "eu-west-1"});
    prefect.set_block("aws-credentials", "team-ads-s3", aws).await;
    let world = World::in_whole_cluster("examples", json!({})).await;
    let team = world.elsewhere("team-ads");
    apply_to_cluster("many-teams.yaml", &json!({"url": prefect.url()})).await;
    let expected =
        |password| [("AWS_SECRET_ACCESS_KEY", "s/+="), ("DB_PASSWORD", password), ("SENTRY_DSN", "https://sentry")];
    team.eventually_secret("etl", &expected("of all")).await;
    apply_to_cluster("team-override.yaml", &json!({})).await;
    team.eventually_secret("etl", &expected("our own")).await;
    team.eventually_reason("PrefectSecret", "etl", "Synced").await;
    let workspaces = world.api("ClusterPrefectWorkspace");
    workspaces.delete("default", &kube::api::DeleteParams::default()).await.unwrap();
}
