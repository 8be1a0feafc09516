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
        Output::Table => {
            let rows: Vec<_> = outcomes.iter().flat_map(rows).collect();
            print_table(["OBJECT", "KEY", "SOURCE", "SIZE", "STATE"], &rows);
        }
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

/// The entries, and what a format or templates make of them: object, key, source, size, state.
pub(crate) fn rows(outcome: &Outcome) -> Vec<[String; 5]> {
    let object = format!("{}/{}", outcome.object.id.kind.as_str(), outcome.object.id.name);
    let size = |key: &str| {
        let value = outcome.manifest().and_then(|manifest| manifest.data.get(key));
        value.map_or_else(|| "-".to_owned(), |value| format!("{} B", value.len()))
    };
    let entries = &outcome.plan.status.entries;
    let mut rows: Vec<[String; 5]> = entries
        .iter()
        .map(|entry| {
            // Nothing is written here: an entry that only waits for the others is fine.
            let state = match entry.state {
                EntryState::Pending => "Resolved".to_owned(),
                state => entry.reason.clone().unwrap_or_else(|| format!("{state:?}")),
            };
            let source = entry.source.map_or_else(|| "-".to_owned(), |source| format!("{source:?}"));
            [object.clone(), entry.key.clone(), source, size(&entry.key), state]
        })
        .collect();
    let made = outcome.manifest().into_iter().flat_map(|manifest| manifest.data.keys());
    let made = made.filter(|key| !entries.iter().any(|entry| entry.key == **key));
    rows.extend(made.map(|key| [object.clone(), key.clone(), "-".to_owned(), size(key), "Made".to_owned()]));
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

/// Prints a table whose columns are as wide as what is in them; sizes stand to the right.
pub(crate) fn print_table<const N: usize>(header: [&str; N], rows: &[[String; N]]) {
    let all: Vec<[&str; N]> =
        std::iter::once(header).chain(rows.iter().map(|row| row.each_ref().map(String::as_str))).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &all {
        let cells = row.iter().enumerate().map(|(column, cell)| match header[column] {
            "SIZE" => format!("{cell:>width$}", width = widths[column]),
            _ if column + 1 == N => (*cell).to_owned(),
            _ => format!("{cell:<width$}", width = widths[column]),
        });
        println!("{}", cells.collect::<Vec<_>>().join("   "));
    }
}
