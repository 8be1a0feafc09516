//! The loop of one session: when to read, what to do with what came back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::reader::{Pass, Reader};
use super::registry::Workspaces;
use crate::sync::object::WorkspaceKey;
use crate::sync::{Reason, Timestamp};

/// How long the first demand waits for company, so that many objects become one batch.
const GATHER: Duration = Duration::from_millis(20);
/// The first retry after a failure; doubled each time, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The least time between tries with credentials that were refused; new credentials are a new session.
const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// The longest time between two tries, however long the interval: a server that is back should be noticed.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// How long a session rests after a panic, which is a bug: others go on, and it is tried again.
const AFTER_PANIC: Duration = Duration::from_secs(10);
/// How long the search for what may have been meant by missing names may hold up what was read.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the session until it is aborted, or until the workspace is in another state than `epoch`.
pub(super) async fn supervise(
    workspaces: Workspaces,
    key: WorkspaceKey,
    epoch: u64,
    reader: Arc<Reader>,
    interval: Duration,
) {
    let clock = Clock::start();
    loop {
        let session = run(workspaces.clone(), key.clone(), (epoch, clock), reader.clone(), interval);
        match AbortOnDropHandle::new(tokio::spawn(session)).await {
            Ok(()) => return,
            Err(_) => tracing::error!(workspace = %key, "the session panicked; it starts again in {AFTER_PANIC:?}"),
        }
        tokio::time::sleep(AFTER_PANIC).await;
    }
}

/// Times of one epoch that only go forward, so that a clock that is set confirms no absence.
#[derive(Clone, Copy)]
struct Clock {
    began: Timestamp,
    since: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { began: Timestamp::now(), since: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        self.began.checked_add(self.since.elapsed()).unwrap_or(self.began)
    }
}

async fn run(
    workspaces: Workspaces,
    key: WorkspaceKey,
    (epoch, clock): (u64, Clock),
    reader: Arc<Reader>,
    interval: Duration,
) {
    let Some(demand) = workspaces.with(&key, |slot| slot.demand.clone()) else { return };
    let mut server_version: Option<Option<String>> = None;
    let mut failures = 0;
    // The failure that was logged last.
    let mut said: Option<String> = None;
    let mut next_refresh = Instant::now();
    loop {
        let refresh = Instant::now() >= next_refresh;
        let Some((wanted, known_absent)) = workspaces.in_epoch(&key, epoch, |slot| {
            let wanted = if refresh { slot.wanted() } else { slot.unread() };
            (wanted, slot.confirmed_absent())
        }) else {
            return;
        };
        if !refresh && wanted.is_empty() {
            tokio::select! {
                () = tokio::time::sleep_until(next_refresh) => {}
                () = demand.notified() => tokio::time::sleep(GATHER).await,
            }
            continue;
        }
        let asked = clock.now();
        // Since when a failure lasts is told to people, and compared with the time of day.
        let now = Timestamp::now();
        let mut outage = None;
        // Reading proves that all is well; the check is for a new or failing server, and for nothing to read.
        if server_version.is_none() || (refresh && wanted.is_empty()) {
            match reader.check(now).await {
                Ok(version) => server_version = Some(version),
                Err(failure) => outage = Some(failure),
            }
        }
        let pass = match outage {
            Some(outage) => Pass { reads: Default::default(), outage: Some(outage), retry_after: None },
            None => reader.read(&wanted, &known_absent, now).await,
        };
        let Some(unexplained) = workspaces.in_epoch(&key, epoch, |slot| slot.unexplained(&pass)) else { return };
        // It costs a hint where it takes too long.
        let explained = tokio::time::timeout(EXPLAIN_TIMEOUT, reader.explain(&unexplained)).await.unwrap_or_default();
        match &pass.outage {
            None => {
                if refresh {
                    next_refresh = Instant::now() + interval;
                } else if failures > 0 {
                    // It answers again: the others should hear of it.
                    next_refresh = Instant::now();
                }
                failures = 0;
                if said.take().is_some() {
                    tracing::info!(workspace = %key, "can be read again");
                }
            }
            Some(outage) => {
                // The server may come back as another version.
                server_version = None;
                let asked = pass.retry_after.unwrap_or_default().min(LONGEST_RETRY);
                let delay = retry_delay(failures, interval, outage.reason).max(asked);
                // Once: an outage may last, and the workspace's condition says that it does.
                if said.replace(outage.message.clone()).as_ref() == Some(&outage.message) {
                    tracing::debug!(workspace = %key, reason = %outage.reason, retry_in = ?delay, "{}", outage.message);
                } else {
                    tracing::warn!(workspace = %key, reason = %outage.reason, retry_in = ?delay, "{}", outage.message);
                }
                failures += 1;
                next_refresh = Instant::now() + delay;
            }
        }
        let version = server_version.clone().flatten();
        let Some(merged) = workspaces
            .in_epoch(&key, epoch, |slot| slot.merge(pass, explained, version, (asked, clock.now()), interval))
        else {
            return;
        };
        tracing::debug!(workspace = %key, keys = wanted.len(), changed = merged.wake.len(), "read");
        if merged.health_changed {
            workspaces.wake().workspace(&key);
        }
        workspaces.wake().dependents(merged.wake);
    }
}

/// Exponential from a second to the interval; slower where only new credentials can help; five minutes at most.
fn retry_delay(failures: u32, interval: Duration, reason: Reason) -> Duration {
    let longest = interval.min(LONGEST_RETRY);
    if reason == Reason::CredentialsRefused {
        return longest.max(REFUSED_RETRY);
    }
    FIRST_RETRY.saturating_mul(2_u32.saturating_pow(failures)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_slow_down_to_the_interval_and_refused_credentials_wait() {
        let interval = Duration::from_secs(30);
        let delays: Vec<u64> = (0..7).map(|n| retry_delay(n, interval, Reason::PrefectUnreachable).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(retry_delay(0, interval, Reason::CredentialsRefused), REFUSED_RETRY);
        assert_eq!(retry_delay(99, Duration::from_secs(86_400), Reason::PrefectUnreachable), LONGEST_RETRY);
    }
}
