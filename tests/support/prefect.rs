//! A real Prefect 3 server.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::prefect_client::PrefectClient;
use super::python::remove_prefect_variables;
use super::{Leashed, Scratch, install_crypto_provider, ports, tools};

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct PrefectOptions {
    /// `user:password` that every request must bring (basic authentication).
    pub auth_string: Option<String>,
    /// Whether requests that could change something (reading with POST included) need a CSRF token.
    pub csrf: bool,
    /// Whether it serves its pages, at the address without `/api`.
    pub ui: bool,
    /// Whether it listens on all addresses, for pods, instead of 127.0.0.1 only.
    pub everywhere: bool,
    /// Prefect 2 instead of 3. It makes its database by itself, in about ten seconds.
    pub two: bool,
}

/// A server with a SQLite database of its own. Dereferences to the client that writes to it, so
/// `prefect.set_secret(…)` works.
#[derive(Debug)]
pub struct Prefect {
    process: Option<Leashed>,
    options: PrefectOptions,
    port: u16,
    client: PrefectClient,
    scratch: Scratch,
}

impl std::ops::Deref for Prefect {
    type Target = PrefectClient;

    fn deref(&self) -> &PrefectClient {
        &self.client
    }
}

impl Prefect {
    /// Starts one on a free port with an empty database and waits until it answers.
    pub async fn start(options: PrefectOptions) -> Self {
        install_crypto_provider();
        let scratch = Scratch::new("prefect");
        let port = ports::free();
        let client = PrefectClient::new(format!("http://127.0.0.1:{port}/api"), options.auth_string.clone());
        let mut prefect = Self { process: None, options, port, client, scratch };
        prefect.empty_database();
        prefect.start_again().await;
        prefect
    }

    /// What `PREFECT_API_URL` would hold.
    pub fn url(&self) -> &str {
        self.client.url()
    }

    /// The server's port, the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's log file.
    pub fn log_path(&self) -> std::path::PathBuf {
        self.scratch.path().join("prefect.log")
    }

    /// Stops the server; its port then refuses connections.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop().await;
        }
    }

    /// Kills the server at once, as when its machine fails.
    pub fn kill_now(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill_now();
        }
    }

    /// Starts it again after [`Prefect::stop`], on the same port, with the database it had.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "this Prefect server already runs");
        let mut process = Leashed::spawn(&self.command(), &self.log_path(), Duration::from_secs(5));
        let client = &self.client;
        process.until_ready(Duration::from_secs(120), async || client.healthy().await).await;
        self.process = Some(process);
    }

    /// What a freshly emptied database looks like: restarts the server on the same port with
    /// nothing in it. (The block types keep their ids, as all databases here are copies of one.)
    pub async fn wipe(&mut self) {
        self.stop().await;
        self.empty_database();
        self.start_again().await;
    }

    /// Puts a copy of the migrated, empty database in place, which saves the six seconds that the
    /// migrations take.
    fn empty_database(&self) {
        let home = self.home();
        std::fs::remove_dir_all(&home).ok();
        std::fs::create_dir_all(&home).expect("the scratch folder is ours");
        if self.options.two {
            return;
        }
        std::fs::copy(tools::prefect3_database(), home.join("prefect.db"))
            .unwrap_or_else(|e| panic!("cannot copy the Prefect database to {}: {e}", home.display()));
    }

    /// Its `PREFECT_HOME`.
    pub fn home(&self) -> std::path::PathBuf {
        self.scratch.path().join("home")
    }

    fn command(&self) -> Command {
        // The background services (scheduler, late runs, …) do nothing for blocks and variables;
        // the event stream is part of the web server and works without them.
        let port = self.port.to_string();
        let mut command = if self.options.two {
            // Its own command starts this as a child, which would outlive a kill.
            let mut command = Command::new(tools::prefect2_python());
            command.args(["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]);
            command.args(["--host", "127.0.0.1", "--port", &port]);
            command
        } else {
            let mut command = Command::new(tools::prefect3_python());
            let host = if self.options.everywhere { "0.0.0.0" } else { "127.0.0.1" };
            command.args(["-m", "prefect", "server", "start", "--host", host, "--no-services"]);
            command.args(["--port", &port, if self.options.ui { "--ui" } else { "--no-ui" }]);
            command
        };
        remove_prefect_variables(&mut command);
        if self.options.two {
            command.env("PREFECT_API_SERVICES_SCHEDULER_ENABLED", "false");
            command.env("PREFECT_API_SERVICES_LATE_RUNS_ENABLED", "false");
        }
        command.env("PREFECT_HOME", self.home());
        // Below the home folder as well, so that nothing of the developer's own is read or written.
        command.env("HOME", self.scratch.path());
        command.env("PREFECT_SERVER_ANALYTICS_ENABLED", "false").env("DO_NOT_TRACK", "1");
        command.env("PREFECT_API_URL", self.url());
        if let Some(auth) = &self.options.auth_string {
            command.env("PREFECT_SERVER_API_AUTH_STRING", auth).env("PREFECT_API_AUTH_STRING", auth);
        }
        if self.options.csrf {
            command.env("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "true");
        }
        command.current_dir(self.scratch.path());
        command
    }
}

/// Runs a snippet with Prefect 3's own Python client against the server at `url`.
pub fn prefect3_python(snippet: &str, url: &str, home: &Path) -> String {
    let mut command = Command::new(tools::prefect3_python());
    remove_prefect_variables(&mut command);
    command.args(["-c", snippet]).env("PREFECT_API_URL", url).env("PREFECT_HOME", home).env("HOME", home);
    command.env("DO_NOT_TRACK", "1");
    let output = command.output().unwrap_or_else(|e| panic!("cannot run Prefect 3's Python: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the Prefect 3 client failed ({}):\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("the snippet prints UTF-8")
}
