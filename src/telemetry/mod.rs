//! What the operator says of itself: logs, metrics and health.
//!
//! Logs go to standard error: text on a terminal, JSON elsewhere. **Invariant:** the Kubernetes client logs whole
//! response bodies when an answer does not parse, and a Secret's body holds values; the websocket's logs whole frames,
//! and the first holds the credentials: such targets are silenced, whatever filter is asked for. What it says of failures we say ourselves, with what was being done.

mod health;
mod metrics;
mod pulse;

pub use health::{Health, Readiness, serve};
pub use metrics::{ALL as ALL_METRICS, Census, Metrics, SessionState};
pub use pulse::{Pulse, Pulses};

use std::io::IsTerminal as _;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// They log what is sent and received.
const SECRETIVE: [&str; 4] = ["kube_client::client", "tungstenite", "async_tungstenite", "reqwest_websocket"];

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `filter` is a level (`info`) or directives (`info,prefect_sync=debug`).
///
/// # Errors
/// When the filter is not one, or logging was started before.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let parsed = EnvFilter::try_new(filter).map_err(|error| {
        anyhow::anyhow!("log filter {filter:?}: {error}; write a level such as info, or info,prefect_sync=debug")
    })?;
    // A filter of its own: directives of spans would be looked at before any directive of this target.
    let quiet = filter_fn(|about| match about.target() {
        "kube_runtime::watcher" => *about.level() != Level::WARN,
        // Our lines name their object; the controller's span would name it once more.
        "kube_runtime::controller" => !about.is_span(),
        target => !SECRETIVE.iter().any(|secretive| target.starts_with(secretive)),
    });
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = if json {
        layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        layer.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    tracing_subscriber::registry().with(layer.with_filter(parsed.and(quiet))).try_init()?;
    Ok(())
}
