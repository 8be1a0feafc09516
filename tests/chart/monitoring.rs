//! The alerts and the dashboard: read by Prometheus' own tool, and each alert fires when it should.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::{CHART, Helm, chart_file, documents, find, root, succeeded};
use crate::support::tools;

const ALERTS: [&str; 8] = [
    "PrefectSyncSnapshotTooOld",
    "PrefectSyncObjectsNotReady",
    "PrefectSyncWorkspaceNotReady",
    "PrefectSyncCredentialsRefused",
    "PrefectSyncNoLeader",
    "PrefectSyncCrashLooping",
    "PrefectSyncReplicaDown",
    "PrefectSyncReconcilesFailing",
];

fn promtool(args: &[&str]) -> String {
    let output = Command::new(tools::promtool()).current_dir(root()).args(args).output().expect("promtool");
    succeeded(&output, &format!("promtool {}", args.join(" ")))
}

fn rules() -> Vec<Value> {
    let file = documents(&chart_file("files/rules.yaml")).remove(0);
    let groups = file["groups"].as_array().expect("groups").clone();
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

/// How the file selects a release's metrics.
const NAMESPACE: &str = r#"namespace="prefect-sync""#;
const JOB: &str = r#"job="prefect-sync""#;

#[test]
fn every_metric_of_an_alert_is_selected_by_its_release() {
    for rule in rules() {
        let expr = rule["expr"].as_str().unwrap();
        let count = |names: &[&str]| names.iter().map(|name| expr.matches(name).count()).sum::<usize>();
        let metrics = count(&["up{", "prefect_sync_"]);
        // The namespace of these is a workspace's.
        let of_workspaces = count(&["prefect_sync_workspace_", "prefect_sync_snapshot_", "prefect_sync_refresh_"]);
        assert!(metrics > 0, "{expr}");
        assert_eq!((count(&[JOB]), count(&[NAMESPACE])), (metrics, metrics - of_workspaces), "{expr}");
    }
}

#[test]
fn prometheus_reads_the_rules() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", &format!("{CHART}/files/rules.yaml")]);
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    let output = promtool(&["test", "rules", "tests/chart/alerts.yaml"]);
    assert!(output.contains("SUCCESS"), "{output}");
    // Each of them both fires and stays silent in it.
    let file = std::fs::read_to_string(root().join("tests/chart/alerts.yaml")).unwrap();
    let tests = documents(&file).remove(0);
    let looks: Vec<&Value> = tests["tests"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
        .collect();
    for alert in ALERTS {
        let of = |fires: bool| {
            looks
                .iter()
                .any(|look| look["alertname"] == alert && look["exp_alerts"].as_array().unwrap().is_empty() != fires)
        };
        assert!(of(true) && of(false), "{alert} is not tried both ways");
    }
}

#[test]
fn each_alert_says_how_bad_it_is_and_where_its_runbook_is() {
    let rules = rules();
    let names: Vec<&str> = rules.iter().map(|rule| rule["alert"].as_str().expect("an alert")).collect();
    assert_eq!(names, ALERTS);
    for rule in &rules {
        let anchor = rule["alert"].as_str().unwrap().to_lowercase();
        assert_eq!(rule["annotations"]["runbook_url"], format!("deploy/docs/runbooks.md#{anchor}"));
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        assert!(rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string(), "{rule}");
    }
    let schema: Value = serde_json::from_str(&chart_file("values.schema.json")).unwrap();
    let known = &schema["properties"]["prometheusRule"]["properties"]["disabledAlerts"]["items"]["enum"];
    assert_eq!(*known, json!(ALERTS));
}

#[test]
fn the_prometheus_rule_has_the_alerts_of_the_file_without_the_disabled_ones() {
    let helm = Helm::offline();
    let rendered = |values: Value| -> Value {
        let objects = documents(&helm.template("r", "ops", &values));
        find(&objects, "PrometheusRule").map_or(Value::Null, |rule| rule["spec"]["groups"].clone())
    };
    // The file's, about this namespace and this job; the runbooks are wherever the values say.
    let expected = |job: &str| {
        let file = chart_file("files/rules.yaml").replace(NAMESPACE, r#"namespace="ops""#).replace(JOB, job);
        documents(&file.replace("deploy/docs/runbooks.md", "https://r.example.com")).remove(0)["groups"].clone()
    };
    let base = "https://r.example.com";
    // A ServiceMonitor makes the Service's name the job.
    let all = rendered(json!({"prometheusRule": {"enabled": true, "runbookBaseUrl": base}}));
    assert_eq!(all, expected(r#"job="r-prefect-sync""#));
    let all = rendered(json!({"prometheusRule": {"enabled": true, "runbookBaseUrl": base, "job": "mon/sync"}}));
    assert_eq!(all, expected(r#"job="mon/sync""#));
    let bare = rendered(json!({"prometheusRule": {"enabled": true}}));
    assert!(!bare.to_string().contains("runbook") && bare[0]["rules"].as_array().unwrap().len() == ALERTS.len());
    let some = rendered(json!({"prometheusRule": {"enabled": true, "disabledAlerts": ALERTS[1..]}}));
    let left: Vec<&Value> = some[0]["rules"].as_array().unwrap().iter().map(|rule| &rule["alert"]).collect();
    assert_eq!(left, [ALERTS[0]]);
    assert_eq!(rendered(json!({"prometheusRule": {"enabled": true, "disabledAlerts": ALERTS}})), json!([]));
}

/// Every expression of the dashboard, by its panel.
fn expressions() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&chart_file("files/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").clone();
    let mut found = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().expect("a title").to_owned();
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap_or_else(|| panic!("{title} has no targets"));
        assert!(!targets.is_empty(), "{title}");
        found.extend(targets.iter().map(|target| (title.clone(), target["expr"].as_str().expect("expr").to_owned())));
    }
    found
}

#[test]
fn prometheus_reads_every_expression_of_the_dashboard() {
    let expressions = expressions();
    assert!(expressions.len() > 15, "only {} expressions", expressions.len());
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(n, (_, expr))| json!({"record": format!("panel:{n}"), "expr": expr.replace("$__rate_interval", "5m")}))
        .collect();
    let helm = Helm::offline();
    let file = helm.write("dashboard", "yaml", &json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string());
    promtool(&["check", "rules", &file]);
}

#[test]
fn the_dashboards_panels_do_not_overlap_and_have_ids_of_their_own() {
    let dashboard: Value = serde_json::from_str(&chart_file("files/dashboard.json")).expect("JSON");
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} has another's id", panel["title"]);
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{} is too wide", panel["title"]);
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} covers another", panel["title"]);
            }
        }
    }
}

#[test]
fn the_config_map_has_the_dashboard_as_it_is() {
    let objects = documents(&Helm::offline().template("r", "ops", &json!({"dashboard": {"enabled": true}})));
    let map = find(&objects, "ConfigMap").expect("a ConfigMap");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let shown: Value = serde_json::from_str(map["data"]["prefect-sync.json"].as_str().unwrap()).expect("JSON");
    assert_eq!(shown, serde_json::from_str::<Value>(&chart_file("files/dashboard.json")).unwrap());
}

#[test]
fn labels_that_the_chart_sets_too_are_the_users() {
    let monitored = json!({"enabled": true, "labels": {"app.kubernetes.io/instance": "prometheus"}});
    let helm = Helm::offline();
    let values = json!({"dashboard": monitored, "serviceMonitor": monitored, "prometheusRule": monitored});
    // A key that is there twice is an error of the parser's.
    let objects = documents(&helm.template("r", "ops", &values));
    for kind in ["ConfigMap", "ServiceMonitor", "PrometheusRule"] {
        let labels = &find(&objects, kind).expect(kind)["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/instance"], "prometheus", "{kind}");
        assert_eq!(labels["app.kubernetes.io/name"], "prefect-sync", "{kind}");
    }
}
