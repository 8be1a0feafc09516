//! Child processes on a leash: they die when this process dies, whatever the cause.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use super::wait;

/// The wrapper around the child. Its standard input is a pipe whose other end only this process
/// holds, so the kernel closes it even when this process is SIGKILLed or ends without dropping its
/// statics (Rust opens pipes with close-on-exec, so no other child keeps it open). End of file
/// means: TERM, wait for the grace, KILL. A line means: KILL at once. The first line that the
/// wrapper prints is the child's process id.
const WRAPPER: &str = r#"
grace=$1 log=$2
shift 2
exec 3<&0 4>&1 </dev/null >>"$log" 2>&1
"$@" 3<&- 4>&- &
child=$!
(
    exec 4>&- 2>/dev/null
    if ! read -r _ <&3; then
        kill -TERM "$child"
        while [ "$grace" -gt 0 ] && kill -0 "$child"; do sleep 0.1; grace=$((grace - 1)); done
    fi
    kill -KILL "$child"
) &
reader=$!
echo "$child" >&4
exec 3<&- 4>&-
wait "$child"
status=$?
kill "$reader"
exit "$status"
"#;

/// A running child. Dropping it kills it; [`Leashed::stop`] lets it end in order.
#[derive(Debug)]
pub struct Leashed {
    name: String,
    wrapper: Child,
    leash: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
    grace: Duration,
}

impl Leashed {
    /// Starts `command` (its arguments, folder and variables are taken over; its standard streams
    /// are not) with its output appended to `log`. `grace` is how long it may take to end after
    /// TERM before it gets KILL.
    pub fn spawn(command: &Command, log: &Path, grace: Duration) -> Self {
        let name = Path::new(command.get_program())
            .file_name()
            .map_or_else(|| "child".to_owned(), |name| name.to_string_lossy().into_owned());
        let mut wrapper = Command::new("sh");
        wrapper.args(["-c", WRAPPER, "leash"]).arg((grace.as_millis() / 100).to_string()).arg(log);
        wrapper.arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => wrapper.env(variable, value),
                None => wrapper.env_remove(variable),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            wrapper.current_dir(folder);
        }
        // Own process group: Ctrl-C in a terminal reaches this process only, which then stops its
        // children in order.
        wrapper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut wrapper = wrapper.spawn().unwrap_or_else(|e| panic!("cannot start sh for {name}: {e}"));
        let leash = wrapper.stdin.take();
        let mut line = String::new();
        BufReader::new(wrapper.stdout.take().unwrap()).read_line(&mut line).ok();
        let Ok(pid) = line.trim().parse() else {
            panic!("{name} did not start: its log {} could not be opened", log.display());
        };
        Self { name, wrapper, leash, pid, log: log.to_owned(), grace }
    }

    /// The child's process id (not the wrapper's).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The log file.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All that the child has printed so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The exit code when the child has ended; 128 and the signal's number when a signal ended it.
    pub fn exit_code(&mut self) -> Option<i32> {
        let status = self.wrapper.try_wait().unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.name))?;
        Some(status.code().unwrap_or(-1))
    }

    /// Waits until `probe` succeeds. Panics with the last log lines when the child ends before, or
    /// time is up.
    pub async fn until_ready(&mut self, timeout: Duration, mut probe: impl AsyncFnMut() -> Result<(), String>) {
        let started = Instant::now();
        loop {
            if let Some(code) = self.exit_code() {
                panic!("{} ended with exit code {code} instead of becoming ready{}", self.name, self.last_lines());
            }
            // A short deadline for each look, so that the end of the child is seen soon.
            let Err(reason) = wait::try_eventually(Duration::from_millis(500), &mut probe).await else {
                return;
            };
            if started.elapsed() > timeout {
                panic!("{} not ready after {timeout:?}: {reason}{}", self.name, self.last_lines());
            }
        }
    }

    /// TERM, then KILL after the grace. Returns the exit code.
    pub async fn stop(mut self) -> i32 {
        drop(self.leash.take());
        let deadline = Instant::now() + self.grace + Duration::from_secs(5);
        loop {
            if let Some(code) = self.exit_code() {
                return code;
            }
            assert!(Instant::now() < deadline, "{} (pid {}) outlived KILL", self.name, self.pid);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// KILL at once, and wait until the child is gone.
    pub fn kill_now(self) {
        drop(self);
    }

    fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(25)..].join("\n");
        format!("\n--- last lines of {}\n{last}\n---", self.log.display())
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        if let Some(mut leash) = self.leash.take() {
            // Fails when the child has already ended and nobody reads any more.
            leash.write_all(b"kill\n").ok();
            // Kept open until the wrapper is gone: the line must be read before the end of file.
            self.wrapper.wait().ok();
        }
    }
}
