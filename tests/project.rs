//! Holds what no compiler holds: who may know whom, and that what is written about the project is true.

// Outside of `#[test]` functions clippy does not know that this is a test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prefect_sync::sync::Reason;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust sources below a folder, with their text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

/// The code of a file without its comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Whether `code` names `word` as a path, such as `crate::prefect` or `tokio::`.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn rooms_know_only_the_rooms_that_the_map_allows() {
    // Of our own rooms, and of crates that would bring I/O, a runtime or a clock.
    let forbidden: [(&str, &[&str]); 4] = [
        (
            "api",
            &[
                "crate::sync",
                "crate::prefect",
                "crate::workspace",
                "crate::controllers",
                "crate::render",
                "crate::offline",
                "crate::exec",
                "kube::Client",
                "kube::Api",
                "tokio",
                "reqwest",
            ],
        ),
        (
            "sync",
            &[
                "crate::prefect",
                "crate::workspace",
                "crate::controllers",
                "crate::render",
                "crate::offline",
                "crate::exec",
                "crate::telemetry",
                "kube::Client",
                "kube::Api",
                "kube::client",
                "kube::runtime",
                "tokio",
                "reqwest",
                "Timestamp::now",
                "Instant::now",
                "SystemTime",
                "std::fs",
                "std::env",
            ],
        ),
        (
            "prefect",
            &[
                "crate::api",
                "crate::sync",
                "crate::workspace",
                "crate::controllers",
                "crate::render",
                "crate::offline",
                "crate::exec",
                "kube",
                "k8s_openapi",
            ],
        ),
        (
            "workspace",
            &[
                "crate::controllers",
                "crate::render",
                "crate::offline",
                "crate::exec",
                "kube::Client",
                "kube::Api",
                "kube::runtime",
            ],
        ),
    ];
    let mut trespassers = Vec::new();
    for (room, words) in forbidden {
        for (path, text) in sources(&root().join("src").join(room)) {
            let code = code(&text);
            for word in words {
                if names(&code, word) {
                    trespassers.push(format!("{} names {word}", path.strip_prefix(root()).unwrap().display()));
                }
            }
        }
    }
    assert!(trespassers.is_empty(), "{trespassers:#?}");
}

#[test]
fn the_pages_explain_every_reason_in_the_words_of_the_code() {
    let page = std::fs::read_to_string(root().join("deploy/docs/conditions.md")).unwrap();
    let missing: Vec<String> = Reason::ALL
        .iter()
        .map(|reason| format!("| `{reason}` | {} |", reason.explain()))
        .filter(|row| !page.contains(row.as_str()))
        .collect();
    assert!(missing.is_empty(), "conditions.md lacks these rows:\n{}", missing.join("\n"));
}

#[test]
fn the_pages_have_every_metric_with_its_meaning() {
    let page = std::fs::read_to_string(root().join("deploy/docs/metrics.md")).unwrap();
    for (name, labels, meaning) in prefect_sync::telemetry::ALL_METRICS {
        let row = format!("| `{name}` | {labels} | {meaning} |");
        assert!(page.contains(&row), "metrics.md lacks this row: {row}");
    }
}

#[test]
fn the_readme_names_every_example_of_what_people_do() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let others = ["blocks-and-fields", "cloud-workspace", "flow-pod", "quickstart", "self-hosted-workspace"];
    for entry in std::fs::read_dir(root().join("deploy/examples")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(others.iter().any(|other| file.starts_with(other)) || readme.contains(&format!("`{file}`")), "{file}");
    }
}

#[test]
fn every_command_and_file_that_the_readme_names_exists() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = readme
        .split("make ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next())
        .filter(|word| ["bench", "demo", "test", "help", "run", "crds", "lint", "tools", "fmt"].contains(word))
        .collect();
    assert!(targets.contains("demo") && targets.contains("test"));
    for target in targets {
        assert!(makefile.contains(&format!("\n{target}:")), "the Makefile has no {target}");
    }
    for path in [
        "crds",
        "deploy/manifests",
        "deploy/examples",
        "src/lib.rs",
        "src/sync",
        "deploy/manifests/20-deployment.yaml",
        "tests/bench/README.md",
    ] {
        assert!(root().join(path).exists(), "{path} does not exist");
    }
}
