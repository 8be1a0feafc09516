//! Flags, each with its environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::telemetry::LogFormat;

/// From Prefect into Kubernetes: keeps Secrets and ConfigMaps in step with Prefect's blocks and variables.
/// Nothing is ever written to Prefect.
#[derive(Parser, Debug)]
#[command(name = "prefect-sync", version = VERSION.as_str(), max_term_width = 100)]
pub struct Cli {
    /// How much to log: a level (error, warn, info, debug) or directives such as info,prefect_sync=debug.
    #[arg(long, global = true, env = "PREFECT_SYNC_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How logs look: text on a terminal and JSON elsewhere, unless told.
    #[arg(long, global = true, env = "PREFECT_SYNC_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the operator: in a cluster with its service account, elsewhere with the current kubeconfig.
    Run(RunArgs),
    /// Show what objects in files would become, without a cluster: keys, where they come from, sizes. Values only
    /// when asked for. Exits with 1 when an entry can't be resolved.
    Render(RenderArgs),
    /// Check whether the workspaces of objects in files can be read, and whether each entry exists. No value is printed.
    /// Exits with 1 when something is wrong.
    Check(Files),
    /// Run a command with the environment that a pod would get from objects in files: their keys are environment
    /// variables, as with envFrom. Nothing is written to disk.
    Exec(ExecArgs),
    /// Print the custom resource definitions, to apply with kubectl.
    Crds(CrdsArgs),
    /// Edit the base job template of a Kubernetes work pool, from standard input to standard output, so that flow pods
    /// get what was synced: as the job variables env_from and image_pull_secrets, which deployments may set otherwise.
    /// Apply it with: prefect work-pool update NAME --base-job-template FILE.
    JobTemplate(JobTemplateArgs),
    /// Print what completes this program's commands and flags in a shell, such as: source <(prefect-sync completions bash).
    Completions(CompletionsArgs),
}

/// Flags of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Flags of `job-template`.
#[derive(Args, Clone, Debug, Default)]
pub struct JobTemplateArgs {
    /// A Secret whose keys are environment variables of the flow. Repeat for more; where two have the same key, the later
    /// one wins.
    #[arg(long, env = "PREFECT_SYNC_ENV_FROM_SECRET", value_delimiter = ',', value_name = "NAME")]
    pub env_from_secret: Vec<String>,
    /// A ConfigMap whose keys are environment variables of the flow, later than those of Secrets. Repeat for more.
    #[arg(long, env = "PREFECT_SYNC_ENV_FROM_CONFIGMAP", value_delimiter = ',', value_name = "NAME")]
    pub env_from_configmap: Vec<String>,
    /// A Secret to pull the flow's image with. Repeat for more.
    #[arg(long, env = "PREFECT_SYNC_IMAGE_PULL_SECRET", value_delimiter = ',', value_name = "NAME")]
    pub image_pull_secret: Vec<String>,
}

/// Flags of `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Work in these namespaces only, separated by commas. Without it: the whole cluster.
    #[arg(long, env = "PREFECT_SYNC_NAMESPACES", value_delimiter = ',', value_name = "NAMES")]
    pub namespaces: Vec<String>,
    /// Hosts that workspaces may point to: api.prefect.cloud, prefect-server:4200 or *.example.com, separated by
    /// commas. Without it: any host.
    #[arg(long, env = "PREFECT_SYNC_ALLOWED_API_HOSTS", value_delimiter = ',', value_name = "HOSTS")]
    pub allowed_api_hosts: Vec<String>,
    /// Where /livez, /readyz and /metrics are served: by IPv6 and IPv4 unless told, such as 127.0.0.1:8080.
    #[arg(long, env = "PREFECT_SYNC_HEALTH_ADDRESS", default_value = "[::]:8080", value_name = "ADDRESS:PORT")]
    pub health_address: SocketAddr,
    /// Run as one of several replicas: the one that holds a Lease works, the others stand by with full caches and take
    /// over when it stops or dies.
    #[arg(long, env = "PREFECT_SYNC_LEADER_ELECT")]
    pub leader_elect: bool,
    /// The Lease's namespace. Without it: that of the pod.
    #[arg(long, env = "PREFECT_SYNC_LEASE_NAMESPACE", value_name = "NAME")]
    pub lease_namespace: Option<String>,
    /// The Lease's name.
    #[arg(long, env = "PREFECT_SYNC_LEASE_NAME", default_value = "prefect-sync", value_name = "NAME")]
    pub lease_name: String,
    /// This replica's name, such as that of its pod: no other may have it. Without it: the host's, and a random part.
    #[arg(long, env = "PREFECT_SYNC_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,
}

/// The commit that this was built from, where its builder said so.
pub const COMMIT: &str = match option_env!("PREFECT_SYNC_COMMIT") {
    // An image's build argument that nobody gave is empty.
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

static VERSION: LazyLock<String> = LazyLock::new(|| format!("{} (commit {COMMIT})", env!("CARGO_PKG_VERSION")));

/// The files of commands that need no cluster.
#[derive(Args, Debug)]
pub struct Files {
    /// Files with PrefectSecrets and PrefectKVs, and if you like the workspaces, Namespaces, Secrets and ConfigMaps that
    /// they use; - is standard input. Repeat for more. A workspace that no file has is taken from PREFECT_API_URL,
    /// PREFECT_API_KEY and PREFECT_API_AUTH_STRING, else from the active profile, as Prefect itself does.
    #[arg(
        short,
        long = "filename",
        env = "PREFECT_SYNC_FILES",
        value_delimiter = ',',
        required = true,
        value_name = "FILE"
    )]
    pub files: Vec<PathBuf>,
}

/// Flags of `render`.
#[derive(Args, Debug)]
pub struct RenderArgs {
    /// What to read.
    #[command(flatten)]
    pub files: Files,
    /// A table, or the Secrets and ConfigMaps as YAML (needs --show-values).
    #[arg(short, long, env = "PREFECT_SYNC_OUTPUT", value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Print values. Not in a CI job whose log others read.
    #[arg(long, env = "PREFECT_SYNC_SHOW_VALUES")]
    pub show_values: bool,
}

/// Flags of `exec`.
#[derive(Args, Debug)]
pub struct ExecArgs {
    /// What to read; where two objects have the same key, the later one wins, as with envFrom.
    #[command(flatten)]
    pub files: Files,
    /// What to put before each key, as envFrom[].prefix does. Without it: PREFECT__CONTEXT__SECRETS__ for objects of
    /// format prefect1Context, nothing for others.
    #[arg(long, env = "PREFECT_SYNC_PREFIX", value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// The command and its arguments, after --.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

/// How `render` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Keys, sources and sizes.
    Table,
    /// Manifests, with values.
    Yaml,
}

/// Flags of `crds`.
#[derive(Args, Debug)]
pub struct CrdsArgs {
    /// Write one file a kind into this folder instead of printing them.
    #[arg(long, env = "PREFECT_SYNC_CRDS_OUTPUT", value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}
