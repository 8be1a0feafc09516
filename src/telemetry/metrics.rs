//! Metrics, as OpenMetrics text. Names, labels and units are part of what users build on: they only ever grow.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds in seconds, to the longest that a reconcile may take.
const DURATION_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];
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
const INTERVAL: (&str, &str) =
    ("prefect_sync_refresh_interval", "The refreshInterval of a workspace, to which its snapshot's age compares");
const STREAMING: (&str, &str) =
    ("prefect_sync_events_connected", "Whether a workspace hears Prefect's events (1) or polls (0)");

const DURATION: (&str, &str) = ("prefect_sync_reconcile_duration", "How long reconciles of objects took, by kind");
const OBJECTS: (&str, &str) = (
    "prefect_sync_objects",
    "How many objects there are, by kind, by whether they are ready, and why; from the leader",
);
const WORKSPACE: (&str, &str) =
    ("prefect_sync_workspace_ready", "Whether a workspace is ready (1) or not (0), and why; from the leader");
const LEADER: (&str, &str) = ("prefect_sync_leader", "Whether this replica works (1) or stands by (0)");
const START: (&str, &str) = ("prefect_sync_start_time", "When the process began, in Unix time");
const BUILD: (&str, &str) = ("prefect_sync_build_info", "Which version this is, always 1");

/// Every metric: its name as it is scraped, its labels and its meaning; the same text as in `deploy/docs/metrics.md`.
pub const ALL: [(&str, &str, &str); 12] = [
    ("prefect_sync_prefect_requests_total", "host, outcome", REQUESTS.1),
    ("prefect_sync_target_lag_seconds", "", LAG.1),
    ("prefect_sync_reconciles_total", "kind, outcome", RECONCILES.1),
    ("prefect_sync_reconcile_duration_seconds", "kind", DURATION.1),
    ("prefect_sync_objects", "kind, ready, reason", OBJECTS.1),
    ("prefect_sync_workspace_ready", "namespace, workspace, reason", WORKSPACE.1),
    ("prefect_sync_snapshot_age_seconds", "namespace, workspace", AGE.1),
    ("prefect_sync_refresh_interval_seconds", "namespace, workspace", INTERVAL.1),
    ("prefect_sync_events_connected", "namespace, workspace", STREAMING.1),
    ("prefect_sync_leader", "", LEADER.1),
    ("prefect_sync_start_time_seconds", "", START.1),
    ("prefect_sync_build_info", "version, commit", BUILD.1),
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
    /// How long a refresh may be away from the one before.
    pub interval: Duration,
    /// Whether events are heard.
    pub streaming: bool,
}

/// Says how all sessions do.
pub type Sessions = dyn Fn() -> Vec<SessionState> + Send + Sync;

/// What stands in the statuses of objects and workspaces, as it is scraped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many objects have this kind, `Ready` status and reason.
    pub objects: BTreeMap<(&'static str, String, String), u64>,
    /// Whether a workspace is ready, by namespace, name and reason.
    pub workspaces: BTreeMap<(String, String, String), bool>,
}

/// Adds what it knows.
pub type Count = dyn Fn(&mut Census) + Send + Sync;

/// All metrics of the process. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<RequestLabels, Counter>,
    reconciles: Family<ReconcileLabels, Counter>,
    durations: Family<KindLabels, Histogram>,
    lag: Histogram,
    counts: Arc<Mutex<Vec<Box<Count>>>>,
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
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ObjectLabels {
    kind: &'static str,
    ready: String,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReadyLabels {
    namespace: String,
    workspace: String,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    commit: &'static str,
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
        let histogram: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS);
        let durations = Family::new_with_constructor(histogram);
        registry.register_with_unit(DURATION.0, DURATION.1, Unit::Seconds, durations.clone());
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        registry.register_with_unit(START.0, START.1, Unit::Seconds, ConstGauge::new(start.as_secs_f64()));
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION"), commit: crate::cli::COMMIT }).set(1);
        registry.register(BUILD.0, BUILD.1, build);
        let counts: Arc<Mutex<Vec<Box<Count>>>> = Arc::default();
        registry.register_collector(Box::new(CensusCollector(counts.clone())));
        Self { registry: Arc::new(Mutex::new(registry)), requests, reconciles, durations, lag, counts }
    }
}

impl Metrics {
    /// Has the sessions' state in each scrape.
    pub fn watch_sessions(&self, sessions: Arc<Sessions>) {
        self.registry().register_collector(Box::new(SessionsCollector(sessions)));
    }

    /// Has in each scrape whether this replica works.
    pub fn watch_leadership(&self, leads: Arc<dyn Fn() -> bool + Send + Sync>) {
        self.registry().register_collector(Box::new(LeaderCollector(leads)));
    }

    /// Has in each scrape what `count` adds.
    pub fn watch_census(&self, count: Box<Count>) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).push(count);
    }

    /// A request to Prefect came to this.
    pub fn prefect_request(&self, host: &str, outcome: &'static str) {
        self.requests.get_or_create(&RequestLabels { host: host.to_owned(), outcome }).inc();
    }

    /// An object was reconciled, and it took so long.
    pub fn reconciled(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ReconcileLabels { kind, outcome }).inc();
        self.durations.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
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
        let mut family =
            encoder.encode_descriptor(AGE.0, &format!("{}.", AGE.1), Some(&Unit::Seconds), MetricType::Gauge)?;
        for session in &sessions {
            ConstGauge::new(session.age.as_secs_f64()).encode(family.encode_family(&labels(session))?)?;
        }
        let mut family = encoder.encode_descriptor(
            INTERVAL.0,
            &format!("{}.", INTERVAL.1),
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for session in &sessions {
            ConstGauge::new(session.interval.as_secs_f64()).encode(family.encode_family(&labels(session))?)?;
        }
        let mut family =
            encoder.encode_descriptor(STREAMING.0, &format!("{}.", STREAMING.1), None, MetricType::Gauge)?;
        for session in &sessions {
            ConstGauge::new(i64::from(session.streaming)).encode(family.encode_family(&labels(session))?)?;
        }
        Ok(())
    }
}

struct LeaderCollector(Arc<dyn Fn() -> bool + Send + Sync>);

impl Debug for LeaderCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeaderCollector")
    }
}

impl Collector for LeaderCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let leads = ConstGauge::new(i64::from((self.0)()));
        let metric = encoder.encode_descriptor(LEADER.0, &format!("{}.", LEADER.1), None, MetricType::Gauge)?;
        leads.encode(metric)
    }
}

/// Counts at each scrape what the caches hold.
struct CensusCollector(Arc<Mutex<Vec<Box<Count>>>>);

impl Debug for CensusCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CensusCollector")
    }
}

impl Collector for CensusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut census = Census::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|count| count(&mut census));
        let mut family = encoder.encode_descriptor(OBJECTS.0, &format!("{}.", OBJECTS.1), None, MetricType::Gauge)?;
        for ((kind, ready, reason), count) in census.objects {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&ObjectLabels { kind, ready, reason })?)?;
        }
        let mut family =
            encoder.encode_descriptor(WORKSPACE.0, &format!("{}.", WORKSPACE.1), None, MetricType::Gauge)?;
        for ((namespace, workspace, reason), ready) in census.workspaces {
            let labels = ReadyLabels { namespace, workspace, reason };
            ConstGauge::new(i64::from(ready)).encode(family.encode_family(&labels)?)?;
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
            interval: Duration::from_secs(30),
            streaming: true,
        };
        metrics.watch_sessions(Arc::new(move || vec![session.clone()]));
        metrics.prefect_request("prefect:4200", "ok");
        metrics.prefect_request("prefect:4200", "ok");
        metrics.reconciled("PrefectSecret", "ok", Duration::from_millis(20));
        metrics.watch_leadership(Arc::new(|| true));
        metrics.watch_census(Box::new(|census| {
            *census.objects.entry(("PrefectKV", "false".into(), "KeyNotFound".into())).or_default() += 2;
            census.workspaces.insert(("flows".into(), "default".into(), "Connected".into()), true);
        }));
        metrics.target_followed(Duration::from_millis(200));
        let text = metrics.encode().unwrap();
        for line in [
            r#"prefect_sync_prefect_requests_total{host="prefect:4200",outcome="ok"} 2"#,
            r#"prefect_sync_reconciles_total{kind="PrefectSecret",outcome="ok"} 1"#,
            r#"prefect_sync_target_lag_seconds_bucket{le="0.25"} 1"#,
            r#"prefect_sync_snapshot_age_seconds{namespace="flows",workspace="default"} 1.5"#,
            r#"prefect_sync_refresh_interval_seconds{namespace="flows",workspace="default"} 30.0"#,
            r#"prefect_sync_events_connected{namespace="flows",workspace="default"} 1"#,
            r#"prefect_sync_reconcile_duration_seconds_bucket{le="0.025",kind="PrefectSecret"} 1"#,
            r#"prefect_sync_objects{kind="PrefectKV",ready="false",reason="KeyNotFound"} 2"#,
            r#"prefect_sync_workspace_ready{namespace="flows",workspace="default",reason="Connected"} 1"#,
            "prefect_sync_leader 1",
            "# UNIT prefect_sync_start_time_seconds seconds",
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
