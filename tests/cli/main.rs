//! The commands that need no cluster, as a user runs them: the real binary, and a real Prefect where one is asked.

// Outside of `#[test]` functions clippy does not know that this is a test; a helper that fails should panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod files;
mod job_template;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;
use prefect_sync::cli::{COMMIT, Cli};
use support::{Scratch, python};

/// What a run of the binary left behind.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// The binary, to be run in an empty folder that is its home too, with none of Prefect's variables.
fn binary(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefect-sync"));
    python::remove_prefect_variables(&mut command);
    command.env("HOME", home).env("COLUMNS", "100").current_dir(home);
    command
}

/// Runs it to its end.
fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs the binary with these arguments, and of Prefect's variables only those of `env`.
fn run(home: &Path, args: &[&str], env: &[(&str, &str)]) -> Ran {
    ran(binary(home).args(args).envs(env.iter().copied()))
}

/// Words of each line, as tables are padded to what is longest.
fn words(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn help_explains_each_flag_and_names_its_environment_variable() {
    let scratch = Scratch::new("cli");
    let mut cli = Cli::command();
    cli.build();
    let mut flags = 0;
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        let help = run(scratch.path(), &[command.get_name(), "--help"], &[]);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""));
        for flag in command.get_arguments().filter(|flag| !matches!(flag.get_id().as_str(), "help" | "version")) {
            // The command after `--` is no flag.
            let Some(name) = flag.get_long() else { continue };
            flags += 1;
            let variable = flag.get_env().unwrap_or_else(|| panic!("--{name} has no variable")).to_str().unwrap();
            assert!(variable.starts_with("PREFECT_SYNC_"), "{variable}");
            let options = help.stdout.split("\nOptions:\n").nth(1).unwrap();
            // `--log` begins `--log-format` too.
            let shown = options.split(&format!("--{name}")).skip(1).find(|rest| rest.starts_with([' ', '\n']));
            let shown = shown.unwrap_or_else(|| panic!("no --{name}")).split("\n  -").next().unwrap();
            assert!(shown.contains(&format!("[env: {variable}=]")), "--{name} without {variable}:{shown}");
            assert!(flag.get_help().is_some_and(|text| text.to_string().len() > 10), "--{name} is not explained");
        }
    }
    assert!(flags >= 12, "only {flags} flags were looked at");
    let version = run(scratch.path(), &["--version"], &[]);
    assert_eq!(version.stdout, format!("prefect-sync {} (commit {COMMIT})\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_committed_crds_are_what_the_types_generate_one_file_a_kind() {
    let scratch = Scratch::new("cli");
    let generated = run(scratch.path(), &["crds", "--output", "out"], &[]);
    assert_eq!((generated.code, generated.stdout.as_str(), generated.stderr.as_str()), (0, "", ""));
    let files = |folder: PathBuf| {
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files
            .into_iter()
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, std::fs::read_to_string(&path).unwrap())
            })
            .collect::<Vec<_>>()
    };
    let committed = files(Path::new(env!("CARGO_MANIFEST_DIR")).join("crds"));
    let fresh = files(scratch.path().join("out"));
    let names: Vec<&str> = committed.iter().map(|(name, _)| name.as_str()).collect();
    let kinds = ["clusterprefectworkspaces", "prefectkvs", "prefectsecrets", "prefectworkspaces"];
    assert_eq!(names, kinds.map(|kind| format!("{kind}.yaml")));
    for (committed, fresh) in committed.iter().zip(&fresh) {
        assert!(committed == fresh, "crds/{} is stale: run `make crds`", committed.0);
    }
    assert_eq!(fresh.len(), 4);
    // Without a folder the same, as one stream for `kubectl apply -f -`.
    let printed = run(scratch.path(), &["crds"], &[]).stdout;
    assert_eq!(printed.matches("\nkind: CustomResourceDefinition\n").count(), 4);
    for (name, text) in &fresh {
        assert!(printed.contains(text), "{name} is not in what is printed");
    }
}

#[test]
fn shells_complete_every_command() {
    let scratch = Scratch::new("cli");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(scratch.path(), &["completions", shell], &[]);
        assert_eq!((script.code, script.stderr.as_str()), (0, ""));
        let commands = ["run", "render", "check", "exec", "crds", "job-template", "completions"];
        assert!(commands.iter().all(|command| script.stdout.contains(command)), "{shell}");
    }
    // What is printed is a script.
    std::fs::write(scratch.path().join("c.bash"), run(scratch.path(), &["completions", "bash"], &[]).stdout).unwrap();
    let checked = Command::new("bash").arg("-n").arg(scratch.path().join("c.bash")).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
