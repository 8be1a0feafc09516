//! Holds that what the pages under `deploy/docs` and the README say exists: links, alerts, reasons, metrics, flags, values
//! of the chart, files, and manifests that the types read.

// Outside of `#[test]` functions clippy does not know that this is a test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::CommandFactory as _;
use prefect_sync::api::{ClusterPrefectWorkspaceSpec, PrefectKVSpec, PrefectSecretSpec, PrefectWorkspaceSpec};
use prefect_sync::cli::Cli;
use prefect_sync::sync::Reason;
use prefect_sync::telemetry::ALL_METRICS;
use regex::Regex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Words of Kubernetes, Helm and others that look like reasons.
const OTHERS: &[&str] = &[
    "ClusterExternalSecret",
    "ClusterSecretStore",
    "ConfigMap",
    "ContainerCreating",
    "CreateContainerConfigError",
    "CreateOrMerge",
    "CreatedOnce",
    "FailedMount",
    "InProgress",
    "OnChange",
    "PushSecret",
    "SecretStore",
];
/// Ours that are no reasons.
const KINDS: &[&str] = &["ClusterPrefectWorkspace", "PrefectKV", "PrefectSecret", "PrefectWorkspace"];
/// Flags of kubectl and helm.
const OTHERS_FLAGS: &[&str] = &["cascade", "force-conflicts", "server-side", "set", "take-ownership"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// One page: where it is, its prose without fenced blocks, and those, each with its language.
struct Page {
    path: PathBuf,
    prose: String,
    blocks: Vec<(String, String)>,
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap();
        let (mut prose, mut blocks, mut open) = (String::new(), Vec::new(), None::<(String, String)>);
        for line in text.lines() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(language), None) => open = Some((language.to_owned(), String::new())),
                (None, Some((_, block))) => *block += &format!("{line}\n"),
                (None, None) => prose += &format!("{line}\n"),
            }
        }
        assert!(open.is_none(), "{} has a block without an end", path.display());
        Self { path, prose, blocks }
    }

    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    /// What stands in backticks.
    fn code(&self) -> impl Iterator<Item = &str> {
        static SPAN: LazyLock<Regex> = LazyLock::new(|| Regex::new("`([^`\n]+)`").unwrap());
        SPAN.captures_iter(&self.prose).map(|found| found.get(1).unwrap().as_str())
    }

    fn blocks(&self, language: &str) -> impl Iterator<Item = &str> {
        self.blocks.iter().filter(move |(of, _)| of == language).map(|(_, text)| text.as_str())
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose.lines().filter(|line| line.starts_with('#'));
        let kept = |c: char| (c.is_alphanumeric() || matches!(c, '-' | '_' | ' ')).then_some(c);
        headings
            .map(|line| line.trim_start_matches('#').trim().to_lowercase().chars().filter_map(kept).collect::<String>())
            .map(|heading| heading.replace(' ', "-"))
            .collect()
    }
}

/// All pages by their path.
fn pages() -> BTreeMap<PathBuf, Page> {
    let folder = std::fs::read_dir(root().join("deploy/docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages: BTreeMap<PathBuf, Page> = folder
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain([root().join("README.md")])
        .map(|path| (path.clone(), Page::read(path)))
        .collect();
    assert!(pages.len() > 10, "only {} pages were found", pages.len());
    pages
}

fn documents(text: &str, at: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{at}: {error}\n{text}"))
}

/// The chart's own file; without it this can't be held.
fn chart(file: &str) -> Value {
    let path = root().join("deploy/helm/prefect-sync").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    documents(&text, file).remove(0)
}

/// Fails with everything that is wrong, not only the first.
fn assert_none(wrong: &[String], looked_at: usize, least: usize) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(looked_at >= least, "only {looked_at} were looked at");
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading_that_exist() {
    let pages = pages();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages.values() {
        for found in link.captures_iter(&page.prose) {
            let target = found.get(1).unwrap().as_str();
            if target.contains("://") {
                continue;
            }
            seen += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => page.path.clone(),
                file => normal(&page.path.parent().unwrap().join(file)),
            };
            if !path.exists() {
                wrong.push(format!("{}: there is no {target}", page.name()));
            } else if !anchor.is_empty() && !pages.get(&path).is_some_and(|page| page.anchors().contains(anchor)) {
                wrong.push(format!("{}: {target} leads to no heading", page.name()));
            }
        }
    }
    assert_none(&wrong, seen, 40);
}

/// Without `..`, and without asking the file system, which may have links.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            std::path::Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
        path
    })
}

#[test]
fn every_alert_has_a_section_of_its_name_in_the_runbooks_and_leads_there() {
    let runbooks = Page::read(root().join("deploy/docs/runbooks.md"));
    let sections: BTreeSet<&str> = runbooks.prose.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let rules = chart("files/rules.yaml");
    let groups = rules["groups"].as_array().unwrap().iter();
    let alerts: Vec<&Value> =
        groups.flat_map(|group| group["rules"].as_array().unwrap()).filter(|rule| rule["alert"].is_string()).collect();
    let names: BTreeSet<&str> = alerts.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(sections, names, "the sections of the runbooks, and the alerts");
    for rule in alerts {
        let (name, url) = (rule["alert"].as_str().unwrap(), rule["annotations"]["runbook_url"].as_str().unwrap());
        let expected = format!("deploy/docs/runbooks.md#{}", name.to_lowercase());
        assert!(url.ends_with(&expected), "{name} leads to {url}, not to {expected}");
    }
    for part in ["**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Remedy.**"] {
        assert_eq!(runbooks.prose.matches(part).count(), sections.len(), "each section has one {part}");
    }
}

#[test]
fn every_reason_that_a_page_names_exists() {
    let like_a_reason = Regex::new("^[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+$").unwrap();
    let reasons: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages().values() {
        for word in page.code().filter(|word| like_a_reason.is_match(word)) {
            seen += 1;
            if !reasons.contains(word) && !OTHERS.contains(&word) && !KINDS.contains(&word) {
                wrong.push(format!("{}: there is no reason {word}", page.name()));
            }
        }
    }
    assert_none(&wrong, seen, 100);
}

#[test]
fn every_metric_that_a_page_names_exists() {
    let metric = Regex::new(r"\bprefect_sync_[a-z_]+").unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages().values() {
        let blocks = page.blocks.iter().map(|(_, block)| block.as_str());
        for found in blocks.chain([page.prose.as_str()]).flat_map(|text| metric.find_iter(text)) {
            seen += 1;
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| found.as_str().strip_suffix(suffix));
            let name = name.unwrap_or(found.as_str());
            if !ALL_METRICS.iter().any(|(known, ..)| *known == name) {
                wrong.push(format!("{}: there is no metric {name}", page.name()));
            }
        }
    }
    assert_none(&wrong, seen, 15);
}

#[test]
fn every_flag_and_file_that_a_page_names_exists() {
    let mut cli = Cli::command();
    cli.build();
    let flags: BTreeSet<&str> =
        cli.get_subcommands().flat_map(|c| c.get_arguments().filter_map(clap::Arg::get_long)).collect();
    let path = Regex::new(r"^(?:deploy|crds|tests|src)/[\w./-]+$").unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages().values() {
        for word in page.code() {
            if let Some(flag) = word.strip_prefix("--") {
                seen += 1;
                let flag = flag.split(['=', ' ']).next().unwrap();
                if !flags.contains(flag) && !OTHERS_FLAGS.contains(&flag) {
                    wrong.push(format!("{}: there is no flag --{flag}", page.name()));
                }
            } else if path.is_match(word) {
                seen += 1;
                if !root().join(word).exists() {
                    wrong.push(format!("{}: there is no file {word}", page.name()));
                }
            }
        }
    }
    assert_none(&wrong, seen, 30);
}

/// Whether the chart has a value at this path; below what is empty in `values.yaml` users write what they like.
fn has_value(values: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    match values {
        Value::Object(members) if members.is_empty() => true,
        Value::Object(members) => members.get(*first).is_some_and(|value| has_value(value, rest)),
        _ => true,
    }
}

/// The paths of a tree down to what is no object.
fn leaves(value: &Value, path: &[&str], found: &mut Vec<String>) {
    match value.as_object().filter(|members| !members.is_empty()) {
        Some(members) => members.iter().for_each(|(name, value)| leaves(value, &[path, &[name]].concat(), found)),
        None => found.push(path.join(".")),
    }
}

#[test]
fn every_value_of_the_chart_that_a_page_names_exists() {
    let values = chart("values.yaml");
    let exists = |path: &str| has_value(&values, &path.split('.').collect::<Vec<_>>());
    let is_known = |path: &str| values.get(path.split('.').next().unwrap()).is_some();
    let dotted = Regex::new(r"^([a-z][A-Za-z]*(?:\.[a-z][A-Za-z]*)+)(?:: .*)?$").unwrap();
    let set = Regex::new(r"--set(?:-json|-string|-file)? '?([A-Za-z.]+)").unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages().values() {
        let spans = page.code().filter_map(|word| Some(dotted.captures(word)?.get(1)?.as_str()));
        let mut named: Vec<String> = spans.filter(|path| is_known(path)).map(str::to_owned).collect();
        let texts = page.blocks("console").chain([page.prose.as_str()]);
        named.extend(texts.flat_map(|text| set.captures_iter(text)).map(|found| found[1].to_owned()));
        for block in page.blocks("yaml").flat_map(|block| documents(block, &page.name())) {
            if block.as_object().unwrap().keys().all(|key| is_known(key)) {
                leaves(&block, &[], &mut named);
            }
        }
        seen += named.len();
        let missing = named.iter().filter(|path| !is_known(path) || !exists(path));
        wrong.extend(missing.map(|path| format!("{}: the chart has no value {path}", page.name())));
    }
    assert_none(&wrong, seen, 25);
}

/// What a manifest says and the types do not take over, as serde drops what it does not know.
fn dropped(said: &Value, read: &Value, at: &str) -> Vec<String> {
    match (said, read) {
        (Value::Object(said), Value::Object(read)) => said
            .iter()
            .flat_map(|(name, value)| match read.get(name) {
                Some(read) => dropped(value, read, &format!("{at}.{name}")),
                None => vec![format!("{at}.{name}")],
            })
            .collect(),
        (Value::Array(said), Value::Array(read)) if said.len() == read.len() => {
            said.iter().zip(read).flat_map(|(said, read)| dropped(said, read, &format!("{at}[]"))).collect()
        }
        (Value::Object(_) | Value::Array(_), _) => vec![at.to_owned()],
        _ => Vec::new(),
    }
}

/// What is wrong with a specification.
fn problems<S: DeserializeOwned + Serialize>(spec: &Value) -> Vec<String> {
    match serde_json::from_value::<S>(spec.clone()) {
        Ok(read) => dropped(spec, &serde_json::to_value(read).unwrap(), "spec"),
        Err(error) => vec![error.to_string()],
    }
}

fn problems_of(kind: &str, spec: &Value) -> Option<Vec<String>> {
    Some(match kind {
        "PrefectSecret" => problems::<PrefectSecretSpec>(spec),
        "PrefectKV" => problems::<PrefectKVSpec>(spec),
        "PrefectWorkspace" => problems::<PrefectWorkspaceSpec>(spec),
        "ClusterPrefectWorkspace" => problems::<ClusterPrefectWorkspaceSpec>(spec),
        _ => return None,
    })
}

#[test]
fn every_manifest_of_ours_in_a_page_is_one_that_the_types_read_whole() {
    let values = chart("values.yaml");
    let others =
        Regex::new("^(external-secrets.io/|kustomize.toolkit.fluxcd.io/|rbac.authorization.k8s.io/|v1$|apps/|batch/)")
            .unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages().values() {
        for document in page.blocks("yaml").flat_map(|block| documents(block, &page.name())) {
            seen += 1;
            let found = match document["kind"].as_str() {
                Some(kind) => match problems_of(kind, &document["spec"]) {
                    Some(found) => found,
                    None if others.is_match(document["apiVersion"].as_str().unwrap_or_default()) => Vec::new(),
                    None => vec![format!("{kind} is no kind that is known here")],
                },
                // Values of the chart are looked at elsewhere, but for the specification in them.
                None if document.as_object().unwrap().keys().all(|key| values.get(key).is_some()) => {
                    let workspace = &document["defaultWorkspace"];
                    workspace["kind"]
                        .as_str()
                        .and_then(|kind| problems_of(kind, &workspace["spec"]))
                        .unwrap_or_default()
                }
                // A part of a specification.
                None => dropped_part(&document),
            };
            wrong.extend(found.into_iter().map(|problem| format!("{}: {problem}", page.name())));
        }
    }
    assert_none(&wrong, seen, 12);
}

/// The same of a part of a PrefectSecret's specification, or of a pod's.
fn dropped_part(part: &Value) -> Vec<String> {
    let of_a_pod = ["envFrom", "containers", "volumes", "imagePullSecrets"];
    if part.as_object().unwrap().keys().all(|key| of_a_pod.contains(&key.as_str())) {
        return Vec::new();
    }
    problems::<PrefectSecretSpec>(part)
}
