//! What is known of a workspace's stream of events, and what its status says of it.

use std::time::Duration;

use crate::api::{EventsMode, EventsStatus};

/// How long the stream may be cut before the status says so.
const CUT_FOR: Duration = Duration::from_secs(30);
/// The state of the stream of events. Times are since the session began.
#[derive(Debug, Default)]
pub struct Subscription {
    is_open: bool,
    /// What the status says; `None` while nothing is known.
    status: Option<EventsStatus>,
    /// Since when it is cut, and what the status will say if it stays so.
    cut: Option<(Duration, EventsStatus)>,
}

impl Subscription {
    /// Whether events are heard.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether it has neither opened nor failed yet.
    #[must_use]
    pub const fn is_opening(&self) -> bool {
        !self.is_open && self.status.is_none() && self.cut.is_none()
    }

    /// How changes are noticed, for the status; `None` while that is not known.
    #[must_use]
    pub const fn status(&self) -> Option<&EventsStatus> {
        self.status.as_ref()
    }

    /// Events are heard from now on.
    pub fn open(&mut self) {
        (self.is_open, self.cut) = (true, None);
        self.status = Some(EventsStatus { mode: EventsMode::Streaming, message: None });
    }

    /// Events are not heard any more, and `status` says why; `for_good` if another try would not help soon.
    pub fn close(&mut self, status: EventsStatus, for_good: bool, now: Duration) {
        self.is_open = false;
        if for_good {
            (self.status, self.cut) = (Some(status), None);
        } else if self.status.as_ref().is_none_or(|said| said.mode == EventsMode::Streaming) {
            self.cut.get_or_insert((now, status));
        }
    }

    /// When a cut is worth saying, unless it has ended by then.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.cut.as_ref().map(|(since, _)| *since + CUT_FOR)
    }

    /// Gives a cut up that has lasted: whether the status says so from now on.
    pub fn gives_up(&mut self, now: Duration) -> bool {
        let lasts = self.deadline().is_some_and(|deadline| deadline <= now);
        if lasts {
            self.status = self.cut.take().map(|(_, status)| status);
        }
        lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn polling(why: &str) -> EventsStatus {
        EventsStatus { mode: EventsMode::Polling, message: Some(why.into()) }
    }

    fn says(subscription: &Subscription) -> Option<&str> {
        subscription.status().map(|status| status.message.as_deref().unwrap_or("streaming"))
    }

    #[test]
    fn a_short_cut_is_not_worth_a_word_and_a_long_one_is_said_as_it_began() {
        let mut subscription = Subscription::default();
        assert!(subscription.is_opening());
        subscription.open();
        assert!(subscription.is_open() && !subscription.is_opening());
        subscription.close(polling("cut"), false, s(10));
        subscription.open();
        assert!(!subscription.gives_up(s(100)), "it was heard again");
        subscription.close(polling("first"), false, s(100));
        subscription.close(polling("second"), false, s(120));
        assert_eq!(subscription.deadline(), Some(s(130)));
        assert!(!subscription.gives_up(s(129)));
        assert_eq!(says(&subscription), Some("streaming"));
        assert!(subscription.gives_up(s(130)));
        assert_eq!((says(&subscription), subscription.is_open()), (Some("first"), false));
        assert!(!subscription.gives_up(s(200)), "once");
        subscription.close(polling("third"), false, s(300));
        assert_eq!(subscription.deadline(), None, "the status says already that it is cut");
        subscription.open();
        assert_eq!(says(&subscription), Some("streaming"));
    }

    #[test]
    fn a_server_without_events_is_said_at_once() {
        let mut subscription = Subscription::default();
        subscription.close(polling("cut"), false, s(1));
        assert!(!subscription.is_opening(), "nobody waits for it any longer");
        assert_eq!(says(&subscription), None);
        subscription.close(polling("none"), true, s(2));
        assert_eq!((says(&subscription), subscription.deadline()), (Some("none"), None));
    }
}
