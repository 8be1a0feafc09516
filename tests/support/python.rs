//! Asking the real Prefect 1 client.

use std::process::Command;

use super::tools;

/// Runs `snippet` with the interpreter that has Prefect 1.4.1 and returns what it printed, without
/// the last newline. Of Prefect's own variables it sees only those in `env`, and no `~/.prefect` of
/// whoever runs the tests.
pub fn prefect1(snippet: &str, env: &[(&str, &str)]) -> String {
    let home = super::Scratch::new("prefect1");
    let mut command = Command::new(tools::prefect1_python());
    remove_prefect_variables(&mut command);
    command.args(["-c", snippet]).env("HOME", home.path()).envs(env.iter().copied());
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {:?}: {e}", command.get_program()));
    assert!(
        output.status.success(),
        "the Prefect 1 client failed ({}):\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout).expect("the snippet prints UTF-8");
    printed.strip_suffix('\n').map(str::to_owned).unwrap_or(printed)
}

/// Keeps the developer's own Prefect settings (`PREFECT_…` and `PREFECT__…`) out of a child.
pub fn remove_prefect_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PREFECT_") {
            command.env_remove(name);
        }
    }
}
