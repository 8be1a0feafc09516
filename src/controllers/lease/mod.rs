//! Which of several replicas works: the one that holds a Lease.
//!
//! - [`crate::sync::election`] decides, as a function of what was seen and when: whether to wait, to take the Lease or to
//!   renew it.
//! - `keeper` asks the API server: watches the Lease, takes it, renews it, gives it back at the end.
//! - [`Leadership`] is what the rest knows of it: whether this replica works, and until when it may write.
//! - `fence` stands before the API server: it lets no write pass after that, and waits for none any longer.
//!
//! **Invariants.** A replica writes only until `RENEW_DEADLINE` after it *asked for* the last renewal that succeeded,
//! and nobody takes its Lease before `DURATION` after that renewal was *seen*: between the two no one writes. Only
//! spans of a replica's own clock count, never a time that another one wrote. Every write of the Lease names the
//! version that was seen, so of two that take it one fails. Who saw it before it was deleted respects it as long as if it
//! were there; who begins only then does not, and may overlap with its holder until that one's next renewal.
//!
//! What the fence can't know is when the network delivers, and when the API server acts: a write that was sent in time
//! may be carried out late. Targets and the statuses of objects name the version that they change, so such a write fails
//! if the next leader was there before; a restart, an Event and the status of a workspace do not, and may be carried out
//! once more. A virtual machine that goes on from a snapshot is beyond what clocks tell.
//!
//! Own code, as no crate keeps these: the one for this version of kube compares the clocks of different nodes, takes
//! Leases without naming the version that it saw, and does not say until when one may write.

mod fence;
mod keeper;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::sync::Timestamp;
use crate::sync::election::RENEW_DEADLINE;
pub use fence::FenceLayer;
pub use keeper::{Keeper, own_namespace};

/// Whether this replica works, and until when it may write. Clones are the same.
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    granted: CancellationToken,
    term: Mutex<Term>,
    /// Changes when it may write again after it could not.
    regained: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug)]
struct Term {
    since: Timestamp,
    /// None has no end; the first of the two clocks decides: one stands still while a machine sleeps, the other can be
    /// set.
    until: Option<(Instant, SystemTime)>,
}

impl Leadership {
    /// There is no other replica.
    #[must_use]
    pub fn alone() -> Self {
        let leadership = Self::candidate();
        leadership.set(None);
        leadership
    }

    /// Not yet.
    #[must_use]
    pub fn candidate() -> Self {
        let past = (Instant::now(), SystemTime::now());
        let term = Term { since: Timestamp::now(), until: Some(past) };
        Self(Arc::new(Inner {
            granted: CancellationToken::new(),
            term: Mutex::new(term),
            regained: watch::channel(()).0,
        }))
    }

    /// Waits until this replica works for the first time. It never changes back: a replica that has lost its Lease ends.
    pub async fn granted(&self) {
        self.0.granted.cancelled().await;
    }

    /// Whether this replica has begun to work.
    #[must_use]
    pub fn is_granted(&self) -> bool {
        self.0.granted.is_cancelled()
    }

    /// Says each time that it may write again after it could not: what was refused meanwhile need not wait for its retry.
    pub fn regained(&self) -> impl Stream<Item = ()> + Send + use<> {
        stream::unfold(self.0.regained.subscribe(), |mut regained| async move {
            regained.changed().await.ok()?;
            Some(((), regained))
        })
    }

    /// Whether it may write now.
    #[must_use]
    pub fn may_write(&self) -> bool {
        !self.left().is_zero()
    }

    /// When it began to work; before that, when it began to wait.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.term().since
    }

    /// For how long it may write yet; an hour from whenever it is asked, when there is no other replica.
    fn left(&self) -> Duration {
        let (now, wall) = (Instant::now(), SystemTime::now());
        self.term().until.map_or(Duration::from_secs(3600), |(on, at)| {
            on.saturating_duration_since(now).min(at.duration_since(wall).unwrap_or_default())
        })
    }

    /// It may write no more, whether or not another replica works yet.
    fn close(&self) {
        self.term().until = Some((Instant::now(), SystemTime::now()));
    }

    /// It works, and may write for [`RENEW_DEADLINE`] from when the renewal was asked for.
    fn extend(&self, asked: (Instant, SystemTime)) {
        let regains = self.is_granted() && !self.may_write();
        self.set(Some((asked.0 + RENEW_DEADLINE, asked.1 + RENEW_DEADLINE)));
        // Not where the answer came so late that it is over again.
        if regains && self.may_write() {
            self.0.regained.send_replace(());
        }
    }

    fn set(&self, until: Option<(Instant, SystemTime)>) {
        let mut term = self.term();
        term.until = until;
        if !self.is_granted() {
            term.since = Timestamp::now();
            self.0.granted.cancel();
        }
    }

    fn term(&self) -> std::sync::MutexGuard<'_, Term> {
        self.0.term.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    #[test]
    fn a_candidate_writes_only_for_the_deadline_after_a_renewal_was_asked_for() {
        let leadership = Leadership::candidate();
        assert!(!leadership.is_granted() && !leadership.may_write());
        let (now, wall) = (Instant::now(), SystemTime::now());
        leadership.extend((now, wall));
        assert!(leadership.is_granted() && leadership.may_write());
        let late = RENEW_DEADLINE + Duration::from_millis(1);
        // Either clock is enough to end it.
        leadership.extend((now - late, wall));
        assert!(!leadership.may_write());
        leadership.extend((now, wall - late));
        assert!(leadership.is_granted() && !leadership.may_write());
        assert!(Leadership::alone().may_write());
    }

    #[test]
    fn who_may_write_again_says_so_and_no_one_else() {
        let leadership = Leadership::candidate();
        let mut regained = pin!(leadership.regained());
        let mut says_so = || regained.next().now_or_never().is_some();
        let (now, wall) = (Instant::now(), SystemTime::now());
        leadership.extend((now, wall));
        leadership.extend((now, wall));
        assert!(!says_so(), "it works for the first time, and goes on");
        let late = RENEW_DEADLINE + Duration::from_millis(1);
        leadership.extend((now - late, wall));
        assert!(!says_so(), "it may not write");
        leadership.extend((now, wall));
        assert!(says_so());
        assert!(!says_so(), "once");
    }
}
