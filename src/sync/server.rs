//! What is known of a workspace's Prefect server, and when to ask it again.

use std::time::Duration;

use super::Reason;

/// The first retry after a failure; doubled each time, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The least time between tries with credentials that were refused; new credentials are a new session.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// The longest time between two tries, however long the interval: a server that is back should be noticed.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// A new object has a failing server tried again, but not more often than this.
const DEMANDED_RETRY: Duration = Duration::from_secs(5);

/// The state of a server. Times are since the session began.
#[derive(Debug, Default)]
pub struct Server {
    state: State,
    /// How often it failed since the last refresh that was complete.
    failures: u32,
    /// When it last answered a check.
    proven: Option<Duration>,
    version: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Nothing is known yet.
    #[default]
    New,
    /// It is being asked.
    Asked,
    /// It answers.
    Well,
    /// It does not.
    Failing { tried: Duration, retry: Duration, reason: Reason },
}

impl Server {
    /// Whether it answers.
    #[must_use]
    pub const fn is_well(&self) -> bool {
        matches!(self.state, State::Well)
    }

    /// Whether it failed, and is not being asked again.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        matches!(self.state, State::Failing { .. })
    }

    /// Whether nothing speaks against connecting to it.
    #[must_use]
    pub const fn may_connect(&self) -> bool {
        self.failures == 0 || self.is_well()
    }

    /// The version that it says it is.
    #[must_use]
    pub const fn version(&self) -> Option<&String> {
        self.version.as_ref()
    }

    /// When a failing one is asked again.
    #[must_use]
    pub const fn retry(&self) -> Option<Duration> {
        match self.state {
            State::Failing { retry, .. } => Some(retry),
            _ => None,
        }
    }

    /// Whether to ask it now how it does.
    #[must_use]
    pub fn is_to_be_asked(&self, now: Duration) -> bool {
        matches!(self.state, State::New) || self.retry().is_some_and(|retry| retry <= now)
    }

    /// Whether it answered a check since `since`.
    #[must_use]
    pub fn was_checked_since(&self, since: Duration) -> bool {
        self.proven.is_some_and(|proven| proven > since)
    }

    /// It is being asked how it does.
    pub const fn asked(&mut self) {
        self.state = State::Asked;
    }

    /// It answered.
    pub fn answered(&mut self, version: Option<String>, now: Duration) {
        (self.state, self.version, self.proven) = (State::Well, version, Some(now));
    }

    /// A refresh was complete.
    pub const fn refreshed(&mut self) {
        self.failures = 0;
    }

    /// It failed, and asked to be left alone for `retry_after`; how long to wait. `interval` is the workspace's.
    pub fn failed(
        &mut self,
        reason: Reason,
        retry_after: Option<Duration>,
        interval: Duration,
        now: Duration,
    ) -> Duration {
        // Others that were under way fail with it.
        if !self.is_failing() {
            self.failures = self.failures.saturating_add(1);
        }
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY);
        let delay = retry_delay(self.failures.saturating_sub(1), interval, reason).max(asked);
        self.state = State::Failing { tried: now, retry: now + delay, reason };
        delay
    }

    /// Somebody needs an answer: has a failing server asked again sooner, where that may help.
    pub fn demanded(&mut self) {
        if let State::Failing { tried, .. } = self.state {
            self.retry_by(tried + DEMANDED_RETRY);
        }
    }

    /// Has a failing server asked again at `at`, unless it is before that anyway, or asking does not help.
    pub fn retry_by(&mut self, at: Duration) {
        if let State::Failing { retry, reason, .. } = &mut self.state
            && !matches!(reason, Reason::CredentialsRefused | Reason::PrefectThrottled)
        {
            *retry = at.min(*retry);
        }
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

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn retries_slow_down_to_the_interval_and_refused_credentials_wait() {
        let interval = s(30);
        let delays: Vec<u64> = (0..7).map(|n| retry_delay(n, interval, Reason::PrefectUnreachable).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(retry_delay(0, interval, Reason::CredentialsRefused), REFUSED_RETRY);
        assert_eq!(retry_delay(99, s(86_400), Reason::PrefectUnreachable), LONGEST_RETRY);
    }

    #[test]
    fn what_fails_together_counts_once_and_only_a_complete_refresh_forgets_it() {
        let mut server = Server::default();
        assert!(server.is_to_be_asked(s(0)) && server.may_connect());
        server.asked();
        assert!(!server.is_to_be_asked(s(99)));
        assert_eq!(server.failed(Reason::PrefectUnreachable, None, s(60), s(0)), s(1));
        assert_eq!(server.failed(Reason::PrefectUnreachable, None, s(60), s(0)), s(1), "what was under way");
        assert!(!server.may_connect() && server.is_to_be_asked(s(1)) && !server.is_to_be_asked(Duration::ZERO));
        server.asked();
        server.answered(Some("3.7.5".into()), s(2));
        assert!(server.may_connect() && server.was_checked_since(s(1)) && !server.was_checked_since(s(2)));
        assert_eq!(server.failed(Reason::PrefectUnreachable, None, s(60), s(3)), s(2), "it never recovered");
        server.answered(None, s(9));
        server.refreshed();
        assert_eq!(server.failed(Reason::PrefectUnreachable, Some(s(20)), s(60), s(10)), s(20), "as it asks");
        assert_eq!(server.failed(Reason::PrefectUnreachable, Some(s(9_999)), s(60), s(10)), LONGEST_RETRY);
    }

    #[test]
    fn a_new_object_has_a_failing_server_asked_sooner_but_not_one_that_refused_or_throttles_us() {
        for (reason, retry) in [
            (Reason::PrefectUnreachable, s(105)),
            (Reason::CredentialsRefused, s(160)),
            (Reason::PrefectThrottled, s(160)),
        ] {
            let mut server = Server::default();
            server.failed(reason, Some(s(60)), s(30), s(100));
            server.demanded();
            assert_eq!(server.retry(), Some(retry), "{reason}");
        }
    }
}
