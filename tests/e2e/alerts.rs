//! The alerts and the dashboard ask only for what a live operator says.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::{Value, json};

use crate::fixture::{SOON, World, prefect, psec, root};
use crate::support::eventually;

/// Words of PromQL that stand where names of metrics stand.
const KEYWORDS: [&str; 9] = ["and", "or", "unless", "offset", "bool", "inf", "nan", "group_left", "group_right"];

/// The metrics that an expression asks for, each with the labels that it is selected by.
fn asked_for(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    // Grafana's own variables are no part of the language.
    let text = Regex::new(r"\$__?[a-z_]+|\$\{?[a-z_]+\}?").unwrap().replace_all(expression, "5m");
    let text = Regex::new(r#""(?:[^"\\]|\\.)*""#).unwrap().replace_all(&text, r#""""#);
    let lists = Regex::new(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)").unwrap();
    let text = lists.replace_all(&text, " ");
    let text = Regex::new(r"\[[^\]]*\]").unwrap().replace_all(&text, " ").into_owned();
    let name = Regex::new(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\(|\{[^}]*\})?").unwrap();
    // Labels within braces are no names of metrics: what was matched with its braces is passed over whole.
    name.captures_iter(&text)
        .filter(|found| found.get(2).is_none_or(|after| after.as_str() != "("))
        .filter(|found| !KEYWORDS.contains(&found[1].to_lowercase().as_str()))
        .filter(|found| !text[..found.get(1).unwrap().start()].ends_with(|c: char| c.is_ascii_digit()))
        .map(|found| {
            let matchers = found.get(2).map_or("", |after| after.as_str());
            let label = Regex::new(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=|!)").unwrap();
            (found[1].to_owned(), label.captures_iter(matchers).map(|label| label[1].to_owned()).collect())
        })
        .collect()
}

/// Each metric that is scraped, with the labels of its series.
fn scraped(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let label = Regex::new(r#"([a-zA-Z_][a-zA-Z0-9_]*)=""#).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split([' ', '{']).next().unwrap_or_default();
        let labels = label.captures_iter(line).map(|label| label[1].to_owned());
        all.entry(name.to_owned()).or_default().extend(labels);
    }
    all
}

fn chart(file: &str) -> String {
    let path = root().join("deploy/helm/prefect-sync/files").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every alert's expression, by the alert's name.
fn alerts() -> Vec<(String, String)> {
    let rules: Value = serde_saphyr::from_str(&chart("rules.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rules.map(|rule| (text(&rule["alert"]), text(&rule["expr"]))).collect()
}

/// Every panel's expressions, by the panel's title.
fn panels() -> Vec<(String, String)> {
    fn find(value: &Value, title: &str, found: &mut Vec<(String, String)>) {
        let title = value["title"].as_str().unwrap_or(title);
        if let Some(expression) = value["expr"].as_str() {
            found.push((title.to_owned(), expression.to_owned()));
        }
        match value {
            Value::Object(members) => members.values().for_each(|value| find(value, title, found)),
            Value::Array(items) => items.iter().for_each(|value| find(value, title, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    find(&serde_json::from_str(&chart("dashboard.json")).unwrap(), "dashboard", &mut found);
    found
}

#[test]
fn names_and_labels_are_found_in_expressions() {
    let found = asked_for(
        r#"sum by (kind, le) (rate(a_total{outcome!="ok", host=~"b{2}"}[$__rate_interval])) / on (x) b offset 5m > 1e3 and absent(c)"#,
    );
    let found: Vec<(&str, Vec<&str>)> =
        found.iter().map(|(name, labels)| (name.as_str(), labels.iter().map(String::as_str).collect())).collect();
    assert_eq!(found, [("a_total", vec!["host", "outcome"]), ("b", vec![]), ("c", vec![])]);
}

#[tokio::test]
async fn alerts_and_dashboard_use_only_metrics_and_labels_that_a_live_operator_has() {
    let world = World::with_prefect("alerts").await;
    let key = world.name("key");
    prefect().await.set_secret(&key, json!("v")).await;
    world.apply(&psec("one", json!({"data": [{"secretKey": "V", "remoteRef": {"key": key}}]}))).await;
    world.eventually_secret("one", &[("V", "v")]).await;
    // What is counted in statuses is there once they are written and watched.
    let metrics = eventually("the ready object to be counted", SOON, async || {
        let metrics = world.metrics().await;
        let line = r#"prefect_sync_objects{kind="PrefectSecret",ready="true",reason="Synced"} 1"#;
        let ready = r#"workspace="default",reason="Connected"} 1"#;
        if metrics.contains(line) && metrics.contains(ready) { Ok(metrics) } else { Err(metrics) }
    })
    .await;
    let scraped = scraped(&metrics);
    let (alerts, panels) = (alerts(), panels());
    assert!(alerts.len() >= 5 && panels.len() >= 6, "{alerts:?} {panels:?}");
    // What Prometheus itself adds to each series.
    let added = ["job", "instance", "namespace", "pod", "service", "container", "endpoint", "cluster"];
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for (place, expression) in alerts.iter().chain(&panels) {
        let asked = asked_for(expression);
        if asked.is_empty() {
            wrong.push(format!("{place} asks for no metric: {expression}"));
        }
        for (name, labels) in asked {
            match scraped.get(&name) {
                None => wrong.push(format!("{place}: there is no {name} in {expression}")),
                Some(there) => wrong.extend(
                    labels
                        .iter()
                        .filter(|label| !there.contains(*label) && !added.contains(&label.as_str()))
                        .map(|label| format!("{place}: {name} has no label {label} in {expression}")),
                ),
            }
            used.insert(name);
        }
    }
    assert!(wrong.is_empty(), "{}\nscraped:\n{metrics}", wrong.join("\n"));
    assert!(used.len() >= 8, "{used:?}");
}
