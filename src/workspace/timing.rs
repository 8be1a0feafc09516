//! A session's clock, and how long it waits.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::object::WorkspaceKey;
use crate::sync::{Reason, Timestamp};

/// The first retry after a failure; doubled each time, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The least time between tries with credentials that were refused; new credentials are a new session.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// The longest time between two tries, however long the interval: a server that is back should be noticed.
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Times of one epoch that only go forward, so that a clock that is set confirms no absence.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    began: Timestamp,
    since: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { began: Timestamp::now(), since: Instant::now() }
    }

    pub fn now(&self) -> Timestamp {
        self.began.checked_add(self.elapsed()).unwrap_or(self.began)
    }

    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    pub fn at(&self, elapsed: Duration) -> Instant {
        self.since + elapsed
    }
}

/// Tells workspaces apart, from 0 to 1.
pub(super) fn spread(key: &WorkspaceKey) -> f64 {
    let text = key.to_string();
    let hash = text.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(16_777_619) ^ u32::from(byte));
    f64::from(hash % 1_000) / 1_000.0
}

/// Exponential from a second to the interval; slower where only new credentials can help; five minutes at most.
pub(super) fn retry_delay(failures: u32, interval: Duration, reason: Reason) -> Duration {
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
