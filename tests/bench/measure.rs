//! What a process costs, what it asks of the API server, and percentiles.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// Kernel ticks in a second, the same on every Linux that matters.
const TICKS: f64 = 100.0;

/// CPU seconds that a process has used.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / TICKS
}

/// Resident memory of a process in MiB: `VmRSS` now, `VmHWM` at its peak.
pub fn memory_mib(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

/// Requests to the API server by verb and resource.
pub type Requests = BTreeMap<String, u64>;

/// What stands in a control plane's audit log.
pub struct Audit {
    pub log: PathBuf,
    /// Whose requests count; `None` for everyone's that are logged.
    pub user: Option<String>,
}

/// Lines of an audit log from an earlier length on.
#[derive(Clone, Copy, Default)]
pub struct Position(usize);

impl Audit {
    /// The end of the log as it is now.
    pub fn position(&self) -> Position {
        Position(std::fs::metadata(&self.log).map(|file| file.len() as usize).unwrap_or_default())
    }

    /// Requests since then, and when the last of them that is no watch was made, since the Unix epoch.
    pub fn since(&self, Position(from): Position) -> (Requests, Option<f64>) {
        use std::io::{Read as _, Seek as _};
        let mut text = String::new();
        let read = std::fs::File::open(&self.log).and_then(|mut file| {
            file.seek(std::io::SeekFrom::Start(from as u64))?;
            file.read_to_string(&mut text)
        });
        if read.is_err() {
            return Default::default();
        }
        let mut requests = Requests::new();
        let mut last: Option<f64> = None;
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if self.user.as_ref().is_some_and(|user| event["user"]["username"] != user.as_str()) {
                continue;
            }
            let word = |field: &str| event["objectRef"][field].as_str().unwrap_or_default().to_owned();
            let verb = event["verb"].as_str().unwrap_or_default();
            let resource = match word("subresource") {
                sub if sub.is_empty() => word("resource"),
                sub => format!("{}/{sub}", word("resource")),
            };
            *requests.entry(format!("{verb} {resource}")).or_default() += 1;
            if verb != "watch"
                && let Some(at) = event["requestReceivedTimestamp"].as_str().and_then(seconds)
            {
                last = Some(last.map_or(at, |before| before.max(at)));
            }
        }
        (requests, last)
    }
}

fn seconds(timestamp: &str) -> Option<f64> {
    let at: k8s_openapi::jiff::Timestamp = timestamp.parse().ok()?;
    Some(at.as_microsecond() as f64 / 1e6)
}

/// The present, since the Unix epoch.
pub fn unix_now() -> f64 {
    k8s_openapi::jiff::Timestamp::now().as_microsecond() as f64 / 1e6
}

/// Those of `requests` that write, no-op patches included.
pub fn writes(requests: &Requests) -> u64 {
    let is_write = |key: &str| ["create ", "update ", "patch ", "delete "].iter().any(|verb| key.starts_with(verb));
    requests.iter().filter(|(key, _)| is_write(key)).map(|(_, count)| count).sum()
}

/// How much more there is.
pub fn difference(after: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = after.iter().map(|(key, count)| (key.clone(), count - before.get(key).copied().unwrap_or_default()));
    more.filter(|(_, count)| *count > 0).collect()
}

/// In words: `5 read a batch, 1 check the server`.
pub fn listed(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

/// Latencies in order.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn new(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self(latencies)
    }

    /// In seconds; the worst with 1.0.
    pub fn percentile(&self, share: f64) -> f64 {
        let at = ((self.0.len() as f64 * share).ceil() as usize).clamp(1, self.0.len().max(1)) - 1;
        self.0.get(at).map_or(f64::NAN, Duration::as_secs_f64)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}
