//! The operator, as the process that users run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Leashed, Scratch, python};

/// How long a pod has to end.
const GRACE: Duration = Duration::from_secs(30);

/// How the operator is started.
#[derive(Clone, Debug, Default)]
pub struct OperatorOptions {
    /// Which cluster, and as whom: in tests a service account bound to the roles that `deploy/`
    /// ships.
    pub kubeconfig: PathBuf,
    /// Arguments after `run`.
    pub args: Vec<String>,
    /// Further environment variables.
    pub env: Vec<(String, String)>,
}

/// A running `prefect-sync run`.
#[derive(Debug)]
pub struct Operator {
    process: Leashed,
    scratch: Scratch,
}

impl Operator {
    /// Starts `binary` (`env!("CARGO_BIN_EXE_prefect-sync")` in integration tests). Does not wait
    /// for anything: tests wait for what they need.
    pub fn start(binary: &Path, options: &OperatorOptions) -> Self {
        assert!(binary.exists(), "{} is missing: run `cargo build`", binary.display());
        let scratch = Scratch::new("operator");
        let mut command = Command::new(binary);
        python::remove_prefect_variables(&mut command);
        command
            .arg("run")
            .args(&options.args)
            .env("KUBECONFIG", &options.kubeconfig)
            .env("RUST_BACKTRACE", "1")
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .current_dir(scratch.path());
        let process = Leashed::spawn(&command, &scratch.path().join("operator.log"), GRACE);
        Self { process, scratch }
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The log file.
    pub fn log_path(&self) -> &Path {
        self.process.log_path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its exit code, if it has ended.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.process.exit_code()
    }

    /// Its resident memory.
    pub fn rss_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {path}: {e}"));
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("{path} has no VmRSS"))
    }

    /// Ends it in order (TERM) and returns its exit code and whole log.
    pub async fn stop(self) -> (i32, String) {
        let log = self.process.log_path().to_owned();
        let code = self.process.stop().await;
        (code, std::fs::read_to_string(log).unwrap_or_default())
    }

    /// Ends it without any chance to tidy up (KILL).
    pub fn kill_now(self) {
        self.process.kill_now();
    }
}
