//! The alerts and the dashboard ask only for what a live operator says.

use std::collections::{BTreeMap, BTreeSet};

use prefect_sync::sync::reason::Reason;
use regex::Regex;
use serde_json::{Value, json};

use crate::fixture::{SOON, World, prefect, psec, root};
use crate::support::eventually;

/// Words of PromQL that stand where names of metrics stand.
const KEYWORDS: [&str; 9] = ["and", "or", "unless", "offset", "bool", "inf", "nan", "group_left", "group_right"];

/// What can come of a request to Prefect.
const REQUEST_OUTCOMES: [&str; 10] = [
    "ok",
    "not_found",
    "unauthorized",
    "forbidden",
    "throttled",
    "rejected",
    "too_large",
    "malformed",
    "server_error",
    "unreachable",
];

/// A metric that an expression asks for.
#[derive(Debug, PartialEq)]
struct Asked {
    metric: String,
    /// The labels that it is selected by, each with the values that are named; of a pattern each alternative.
    selected: BTreeSet<(String, String)>,
    /// The labels that it is grouped by.
    grouped: BTreeSet<String>,
}

/// What an expression asks for.
fn asked_for(expression: &str) -> Vec<Asked> {
    let grouping = Regex::new(r"\bby\s*\(([^)]*)\)\s*\(").unwrap();
    let groups: Vec<(std::ops::Range<usize>, BTreeSet<String>)> = grouping
        .captures_iter(expression)
        .map(|found| {
            let begin = found.get(0).unwrap().end();
            let labels = found[1].split(',').map(|label| label.trim().to_owned()).collect();
            (begin..closing(expression, begin), labels)
        })
        .collect();
    let labels = Regex::new(r"\bby\s*\(").unwrap().find_iter(expression).count();
    assert_eq!(labels, groups.len(), "what is grouped has to stand behind the labels in {expression}");
    let grouped_at = |at: usize| {
        let around = groups.iter().filter(|(within, _)| within.contains(&at));
        around.flat_map(|(_, labels)| labels.clone()).collect()
    };
    names_in(expression)
        .into_iter()
        .map(|(at, metric, matchers)| {
            let matcher = Regex::new(r#"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=|!)[=~]?\s*"([^"]*)""#).unwrap();
            let mut selected = BTreeSet::new();
            for found in matcher.captures_iter(&matchers) {
                selected.extend(found[2].split('|').map(|value| (found[1].to_owned(), value.to_owned())));
            }
            Asked { metric, selected, grouped: grouped_at(at) }
        })
        .collect()
}

/// Where the parenthesis ends that begins before `begin`.
fn closing(expression: &str, begin: usize) -> usize {
    let mut depth = 1;
    for (at, letter) in expression.char_indices().skip_while(|(at, _)| *at < begin) {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth == 0 {
            return at;
        }
    }
    panic!("a parenthesis has no end: {expression}");
}

/// The names of metrics in an expression: where they are, and what is between their braces.
fn names_in(expression: &str) -> Vec<(usize, String, String)> {
    // What is not looked at becomes blanks, so that all else stays where it is.
    let blank = |pattern: &str, text: &str| -> String {
        let replaced =
            Regex::new(pattern).unwrap().replace_all(text, |found: &regex::Captures<'_>| " ".repeat(found[0].len()));
        replaced.into_owned()
    };
    // Grafana's own variables are no part of the language.
    let text = blank(r"\$__?[a-z_]+|\$\{?[a-z_]+\}?", expression);
    let text = blank(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", &text);
    let text = blank(r"\[[^\]]*\]", &text);
    // Labels within braces are no names of metrics: what was matched with its braces is passed over whole.
    let name = Regex::new(r#"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\(|\{(?:"[^"]*"|[^}"])*\})?"#).unwrap();
    name.captures_iter(&text)
        .filter(|found| found.get(2).is_none_or(|after| after.as_str() != "("))
        .filter(|found| !KEYWORDS.contains(&found[1].to_lowercase().as_str()))
        .filter(|found| !text[..found.get(1).unwrap().start()].ends_with(|c: char| c.is_ascii_digit()))
        .map(|found| {
            let matchers = found.get(2).map_or("", |after| after.as_str());
            (found.get(1).unwrap().start(), found[1].to_owned(), matchers.to_owned())
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

/// Every series of the alerts' own tests.
fn tried() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("tests/chart/alerts.yaml")).unwrap();
    let file: Value = serde_saphyr::from_str(&text).unwrap();
    let tests = file["tests"].as_array().unwrap().iter();
    let series = tests.flat_map(|test| test["input_series"].as_array().unwrap());
    series.map(|series| ("tests/chart/alerts.yaml".to_owned(), series["series"].as_str().unwrap().to_owned())).collect()
}

/// Whether a label can have this value; of those whose values are words of the operator's own.
fn is_word(metric: &str, label: &str, value: &str) -> bool {
    let among = |words: &[&str]| words.contains(&value);
    match (metric, label) {
        // An object that nobody has looked at has none.
        (_, "reason") => value.is_empty() || Reason::ALL.iter().any(|reason| reason.as_str() == value),
        (_, "ready") => among(&["true", "false", "unknown"]),
        (_, "kind") => among(&["PrefectSecret", "PrefectKV"]),
        ("prefect_sync_reconciles_total", "outcome") => among(&["ok", "error"]),
        (_, "outcome") => among(&REQUEST_OUTCOMES),
        _ => true,
    }
}

#[test]
fn names_and_labels_are_found_in_expressions() {
    let found = asked_for(
        r#"sum by (kind, le) (rate(a_total{outcome!="ok", host=~"b{2}|c"}[$__rate_interval])) / on (x) max by (y) (b offset 5m) > 1e3 and absent(c)"#,
    );
    let set = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<BTreeSet<String>>();
    let pairs = [("host", "b{2}"), ("host", "c"), ("outcome", "ok")];
    let selected = pairs.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
    let asked = |metric: &str, selected, grouped| Asked { metric: metric.to_owned(), selected, grouped };
    let expected = [
        asked("a_total", selected, set(&["kind", "le"])),
        asked("b", BTreeSet::new(), set(&["y"])),
        asked("c", BTreeSet::new(), set(&[])),
    ];
    assert_eq!(found, expected);
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
    // What Prometheus itself adds: to each series, and one of its own for each target.
    let added = ["job", "instance", "namespace", "pod", "service", "container", "endpoint", "cluster"];
    let its_own = BTreeSet::new();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for (place, expression) in alerts.iter().chain(&panels).chain(&tried()) {
        let asked = asked_for(expression);
        if asked.is_empty() {
            wrong.push(format!("{place} asks for no metric: {expression}"));
        }
        for Asked { metric, selected, grouped } in asked {
            let there = if metric == "up" { Some(&its_own) } else { scraped.get(&metric) };
            let Some(there) = there else {
                wrong.push(format!("{place}: there is no {metric} in {expression}"));
                continue;
            };
            for label in selected.iter().map(|(label, _)| label).chain(&grouped) {
                if !there.contains(label) && !added.contains(&label.as_str()) {
                    wrong.push(format!("{place}: {metric} has no label {label} in {expression}"));
                }
            }
            for (label, value) in selected.iter().filter(|(label, value)| !is_word(&metric, label, value)) {
                wrong.push(format!("{place}: {label} of {metric} is never {value:?} in {expression}"));
            }
            used.insert(metric);
        }
    }
    assert!(wrong.is_empty(), "{}\nscraped:\n{metrics}", wrong.join("\n"));
    assert!(used.len() >= 8, "{used:?}");
    // The words are those of a live operator.
    for asked in metrics.lines().filter(|line| !line.starts_with('#')).flat_map(asked_for) {
        for (label, value) in asked.selected {
            assert!(is_word(&asked.metric, &label, &value), "{label} of {} is {value:?}", asked.metric);
        }
    }
}
