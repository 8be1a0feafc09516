//! `check`: whether the workspaces of objects in files can be read, and whether each entry exists. No value is printed.

use std::process::ExitCode;

use crate::cli::Files;
use crate::offline::{Outcome, read};
use crate::render::{print_table, rows};

/// Checks. The exit code is 1 when a workspace can't be read or an entry can't be resolved.
///
/// # Errors
/// When the files can't be read, or no workspace is to be found.
pub async fn check(files: &Files) -> anyhow::Result<ExitCode> {
    let found = read(&files.files).await?;
    let workspaces: Vec<[String; 3]> = found
        .workspaces
        .iter()
        .map(|(key, checked)| match checked {
            Ok(version) => [key.to_string(), version.clone().unwrap_or_else(|| "-".to_owned()), "Connected".to_owned()],
            Err(failure) => [key.to_string(), "-".to_owned(), failure.reason.to_string()],
        })
        .collect();
    print_table(["WORKSPACE", "SERVER", "STATE"], &workspaces);
    println!();
    let entries: Vec<[String; 4]> = found
        .outcomes
        .iter()
        .flat_map(rows)
        .filter(|[.., state]| state != "Made")
        .map(|[object, key, source, _, state]| {
            // Nothing is synced here.
            let state = if matches!(state.as_str(), "Synced" | "Resolved") { "Found".to_owned() } else { state };
            [object, key, source, state]
        })
        .collect();
    print_table(["OBJECT", "KEY", "SOURCE", "STATE"], &entries);
    let of_workspaces = found.workspaces.iter().filter_map(|(key, checked)| {
        let failure = checked.as_ref().err()?;
        Some(format!("{key}: {}", failure.message))
    });
    let mut problems: Vec<String> = of_workspaces.collect();
    // What a workspace says stands above, once.
    let is_wide = |problem: &String| {
        !found.workspaces.iter().any(|(_, c)| c.as_ref().is_err_and(|f| problem.contains(&f.message)))
    };
    problems.extend(found.outcomes.iter().flat_map(Outcome::problems).filter(is_wide));
    for problem in &problems {
        eprintln!("{problem}");
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
