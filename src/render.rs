//! `render`: the same pipeline for files, without a cluster. Nothing is written anywhere, and values are printed only
//! when asked for.

use std::process::ExitCode;

use anyhow::bail;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::api::{EntryState, GROUP};
use crate::cli::{Output, RenderArgs};
use crate::controllers::kind::TargetKind as _;
use crate::offline::{Outcome, outcomes};
use crate::sync::{Kind, Manifest};

/// One line of the table.
struct Row {
    object: String,
    key: String,
    source: String,
    size: String,
    state: String,
}

/// Renders. The exit code is 1 when an entry could not be resolved.
///
/// # Errors
/// When the files can't be read, or no workspace is to be found.
pub async fn render(args: &RenderArgs) -> anyhow::Result<ExitCode> {
    if args.output == Output::Yaml && !args.show_values {
        bail!("-o yaml prints values: add --show-values if that is what you want");
    }
    let outcomes = outcomes(&args.files.files).await?;
    match args.output {
        Output::Table => print_table(&outcomes.iter().flat_map(rows).collect::<Vec<_>>()),
        Output::Yaml => {
            for outcome in &outcomes {
                if let Some(manifest) = outcome.manifest() {
                    println!("---\n{}", to_yaml(outcome.object.id.kind, manifest)?);
                }
            }
        }
    }
    let problems: Vec<String> = outcomes.iter().flat_map(Outcome::problems).collect();
    for problem in &problems {
        eprintln!("{problem}");
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The entries, and what a format or templates make of them.
fn rows(outcome: &Outcome) -> Vec<Row> {
    let object = format!("{}/{}", outcome.object.id.kind.as_str(), outcome.object.id.name);
    let size = |key: &str| {
        let value = outcome.manifest().and_then(|manifest| manifest.data.get(key));
        value.map_or_else(|| "-".to_owned(), |value| format!("{} B", value.len()))
    };
    let entries = &outcome.plan.status.entries;
    let mut rows: Vec<Row> = entries
        .iter()
        .map(|entry| Row {
            object: object.clone(),
            key: entry.key.clone(),
            source: entry.source.map_or_else(|| "-".to_owned(), |source| format!("{source:?}")),
            size: size(&entry.key),
            // Nothing is written here: an entry that only waits for the others is fine.
            state: match entry.state {
                EntryState::Pending => "Resolved".to_owned(),
                state => entry.reason.clone().unwrap_or_else(|| format!("{state:?}")),
            },
        })
        .collect();
    let made = outcome.manifest().into_iter().flat_map(|manifest| manifest.data.keys());
    let made = made.filter(|key| !entries.iter().any(|entry| entry.key == **key));
    rows.extend(made.map(|key| Row {
        object: object.clone(),
        key: key.clone(),
        source: "-".to_owned(),
        size: size(key),
        state: "Made".to_owned(),
    }));
    rows
}

fn to_yaml(kind: Kind, manifest: &Manifest) -> anyhow::Result<String> {
    // There is no object in a cluster that could own it; whoever applies it by hand owns it.
    let mut manifest = Manifest { owners: Vec::new(), ..manifest.clone() };
    manifest.labels.retain(|key, _| !key.starts_with(GROUP));
    manifest.annotations.retain(|key, _| !key.starts_with(GROUP));
    Ok(match kind {
        Kind::PrefectSecret => serde_saphyr::to_string(&Secret::from_manifest(&manifest))?,
        Kind::PrefectKV => serde_saphyr::to_string(&ConfigMap::from_manifest(&manifest))?,
    })
}

fn print_table(rows: &[Row]) {
    let header = Row {
        object: "OBJECT".into(),
        key: "KEY".into(),
        source: "SOURCE".into(),
        size: "SIZE".into(),
        state: "STATE".into(),
    };
    let all: Vec<[&str; 5]> = std::iter::once(&header)
        .chain(rows)
        .map(|row| [row.object.as_str(), &row.key, &row.source, &row.size, &row.state])
        .collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..4).map(width).collect();
    for [object, key, source, size, state] in &all {
        println!(
            "{object:<a$}   {key:<b$}   {source:<c$}   {size:>d$}   {state}",
            a = widths[0],
            b = widths[1],
            c = widths[2],
            d = widths[3]
        );
    }
}
