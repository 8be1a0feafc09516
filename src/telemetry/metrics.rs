//! Metrics, as OpenMetrics text. Names, labels and units are part of what users build on: they only ever grow.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds in seconds: from an announced change to one that a long interval hid.
const LAG_BUCKETS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 300.0, 600.0];

const REQUESTS: (&str, &str) =
    ("prefect_sync_prefect_requests", "Requests to Prefect, by host and by what came of them");
const LAG: (&str, &str) = (
    "prefect_sync_target_lag",
    "From a change in Prefect, or at most from the read before it was seen, to the written target",
);
const RECONCILES: (&str, &str) = ("prefect_sync_reconciles", "Reconciles of objects, by kind and outcome");
const AGE: (&str, &str) =
    ("prefect_sync_snapshot_age", "Since when a workspace's last complete refresh is over, or else its session began");
const STREAMING: (&str, &str) =
    ("prefect_sync_events_connected", "Whether a workspace hears Prefect's events (1) or polls (0)");

/// Every metric: its name as it is scraped, its labels and its meaning; the same text as in the README's table.
pub const ALL: [(&str, &str, &str); 5] = [
    ("prefect_sync_prefect_requests_total", "host, outcome", REQUESTS.1),
    ("prefect_sync_target_lag_seconds", "", LAG.1),
    ("prefect_sync_reconciles_total", "kind, outcome", RECONCILES.1),
    ("prefect_sync_snapshot_age_seconds", "namespace, workspace", AGE.1),
    ("prefect_sync_events_connected", "namespace, workspace", STREAMING.1),
];

/// How a session does, as it is scraped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The workspace's namespace.
    pub namespace: String,
    /// The workspace's name.
    pub workspace: String,
    /// Since when the last complete refresh is over.
    pub age: Duration,
    /// Whether events are heard.
    pub streaming: bool,
}

/// Says how all sessions do.
pub type Sessions = dyn Fn() -> Vec<SessionState> + Send + Sync;

/// All metrics of the process. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<RequestLabels, Counter>,
    reconciles: Family<ReconcileLabels, Counter>,
    lag: Histogram,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    host: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReconcileLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkspaceLabels {
    namespace: String,
    workspace: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        registry.register(REQUESTS.0, REQUESTS.1, requests.clone());
        let reconciles = Family::default();
        registry.register(RECONCILES.0, RECONCILES.1, reconciles.clone());
        let lag = Histogram::new(LAG_BUCKETS);
        registry.register_with_unit(LAG.0, LAG.1, Unit::Seconds, lag.clone());
        Self { registry: Arc::new(Mutex::new(registry)), requests, reconciles, lag }
    }
}

impl Metrics {
    /// Has the sessions' state in each scrape.
    pub fn watch_sessions(&self, sessions: Arc<Sessions>) {
        self.registry().register_collector(Box::new(SessionsCollector(sessions)));
    }

    /// A request to Prefect came to this.
    pub fn prefect_request(&self, host: &str, outcome: &'static str) {
        self.requests.get_or_create(&RequestLabels { host: host.to_owned(), outcome }).inc();
    }

    /// An object was reconciled.
    pub fn reconciled(&self, kind: &'static str, outcome: &'static str) {
        self.reconciles.get_or_create(&ReconcileLabels { kind, outcome }).inc();
    }

    /// A target follows a change of Prefect's that was seen, or at most was seen, so long ago.
    pub fn target_followed(&self, lag: Duration) {
        self.lag.observe(lag.as_secs_f64());
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// When a metric could not be written.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry())?;
        Ok(text)
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks at each scrape, as an age grows by itself.
struct SessionsCollector(Arc<Sessions>);

impl Debug for SessionsCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionsCollector")
    }
}

impl Collector for SessionsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let sessions = (self.0)();
        let labels = |session: &SessionState| WorkspaceLabels {
            namespace: session.namespace.clone(),
            workspace: session.workspace.clone(),
        };
        let ages: Vec<_> =
            sessions.iter().map(|session| (labels(session), ConstGauge::new(session.age.as_secs_f64()))).collect();
        let streaming: Vec<_> =
            sessions.iter().map(|session| (labels(session), ConstGauge::new(i64::from(session.streaming)))).collect();
        let kind = prometheus_client::metrics::MetricType::Gauge;
        let mut family = encoder.encode_descriptor(AGE.0, &format!("{}.", AGE.1), Some(&Unit::Seconds), kind)?;
        for (labels, gauge) in &ages {
            gauge.encode(family.encode_family(labels)?)?;
        }
        let mut family = encoder.encode_descriptor(STREAMING.0, &format!("{}.", STREAMING.1), None, kind)?;
        for (labels, gauge) in &streaming {
            gauge.encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_scraped_under_its_documented_name_with_its_meaning() {
        let metrics = Metrics::default();
        let session = SessionState {
            namespace: "flows".into(),
            workspace: "default".into(),
            age: Duration::from_millis(1500),
            streaming: true,
        };
        metrics.watch_sessions(Arc::new(move || vec![session.clone()]));
        metrics.prefect_request("prefect:4200", "ok");
        metrics.prefect_request("prefect:4200", "ok");
        metrics.reconciled("PrefectSecret", "ok");
        metrics.target_followed(Duration::from_millis(200));
        let text = metrics.encode().unwrap();
        for line in [
            r#"prefect_sync_prefect_requests_total{host="prefect:4200",outcome="ok"} 2"#,
            r#"prefect_sync_reconciles_total{kind="PrefectSecret",outcome="ok"} 1"#,
            r#"prefect_sync_target_lag_seconds_bucket{le="0.25"} 1"#,
            r#"prefect_sync_snapshot_age_seconds{namespace="flows",workspace="default"} 1.5"#,
            r#"prefect_sync_events_connected{namespace="flows",workspace="default"} 1"#,
            "# UNIT prefect_sync_snapshot_age_seconds seconds",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
        for (name, _, meaning) in ALL {
            let family = name.trim_end_matches("_total");
            assert!(text.contains(&format!("# HELP {family} {meaning}.\n")), "{name} is not explained in\n{text}");
        }
    }
}
