//! `exec`: runs a command with the environment that a pod would get. Nothing is written to disk.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::cli::ExecArgs;
use crate::offline::outcomes;
use crate::sync::layout::Format;
use crate::sync::prefect1;

/// Becomes the command: it has the operator's own signals, exit code and standard streams.
///
/// # Errors
/// When an entry could not be resolved, a value can't stand in an environment, or the command can't be run.
pub async fn exec(args: &ExecArgs) -> anyhow::Result<Infallible> {
    let outcomes = outcomes(&args.files.files).await?;
    let problems: Vec<String> = outcomes.iter().flat_map(crate::offline::Outcome::problems).collect();
    if !problems.is_empty() {
        bail!("the command is not run: {}", problems.join("; "));
    }
    let [program, arguments @ ..] = args.command.as_slice() else { bail!("give a command after --") };
    let mut command = Command::new(program);
    command.args(arguments);
    for outcome in &outcomes {
        let object = &outcome.object;
        let prefix = match (&args.prefix, &object.format) {
            (Some(prefix), _) => prefix.as_str(),
            (None, Format::Prefect1Context) => prefect1::PREFIX,
            (None, _) => "",
        };
        for (key, value) in outcome.manifest().into_iter().flat_map(|manifest| &manifest.data) {
            if value.contains(&0) {
                bail!("{} of {} has a NUL in it, which no environment variable can have", key, object.target_display());
            }
            command.env(format!("{prefix}{key}"), OsString::from_vec(value.to_vec()));
        }
    }
    // Only comes back when it failed.
    Err(command.exec()).with_context(|| format!("running {}", program.display()))
}
