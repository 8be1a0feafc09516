//! What to do about a Lease, decided from what was seen of it and when, on this replica's own clock.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use super::Timestamp;

/// How long a Lease is respected after it was seen to be renewed. As its changes are watched, this is the longest that
/// nobody works after a leader died.
pub const DURATION: Duration = Duration::from_secs(10);
/// How long the leader writes after it asked for a renewal that succeeded.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(7);
/// How often the leader renews.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);

/// Which Lease, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseOptions {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// This replica's name, of which there must not be two.
    pub identity: String,
}

/// A replica that has seen the Lease so.
#[derive(Debug)]
pub struct Election {
    options: LeaseOptions,
    seen: Option<Seen>,
    /// Since when this replica holds it, or asks for it. Tells its record from that of another one with its name.
    since: Option<MicroTime>,
}

#[derive(Debug)]
struct Seen {
    lease: Lease,
    /// When its record was first seen to be this one.
    at: Duration,
    /// It was deleted since. Who held it knows nothing of that yet.
    deleted: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is none.
    Create,
    /// It is free, or its holder has not renewed it for too long.
    Take,
    /// It is ours.
    Renew,
    /// It is another's, who may renew it until then.
    Wait(Duration),
}

impl Election {
    /// Of a replica that has seen nothing yet.
    #[must_use]
    pub fn new(options: LeaseOptions) -> Self {
        Self { options, seen: None, since: None }
    }

    /// The Lease was seen; `None` when there is none.
    pub fn see(&mut self, lease: Option<Lease>, now: Duration) {
        let before = self.seen.take();
        self.seen = match (lease, before) {
            (None, before) => before.map(|before| Seen { deleted: true, ..before }),
            // Written, but not by its holder: nobody has renewed it.
            (Some(lease), Some(before)) if before.lease.spec == lease.spec => {
                Some(Seen { lease, at: before.at, deleted: false })
            }
            (Some(lease), _) => Some(Seen { lease, at: now, deleted: false }),
        };
        if self.holder().is_some() && !self.is_ours() {
            self.since = None;
        }
    }

    /// Who holds it, or held it when it was deleted.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let spec = self.seen.as_ref()?.lease.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// Whether it is this replica's.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let spec = self.seen.as_ref().and_then(|seen| seen.lease.spec.as_ref());
        let since = spec.and_then(|spec| spec.acquire_time.as_ref());
        self.holder() == Some(&self.options.identity) && since.is_some() && since == self.since.as_ref()
    }

    /// Whether a replica that leads still does. It makes a Lease that was deleted anew, unless its deadline has passed:
    /// someone else may have worked meanwhile.
    #[must_use]
    pub fn keeps(&self, may_write: bool) -> bool {
        self.is_ours() && (may_write || !self.was_deleted())
    }

    /// Whether this replica has asked for it, and it may be its own by now.
    #[must_use]
    pub fn may_be_ours(&self) -> bool {
        self.since.is_some()
    }

    /// Whether it was there, and is there no more.
    #[must_use]
    pub fn was_deleted(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.deleted)
    }

    /// What to do now.
    #[must_use]
    pub fn step(&self, now: Duration) -> Step {
        let Some(seen) = &self.seen else { return Step::Create };
        let free = if seen.deleted { Step::Create } else { Step::Take };
        match self.holder() {
            None => free,
            Some(_) if self.is_ours() && !seen.deleted => Step::Renew,
            Some(_) if self.is_ours() => Step::Create,
            Some(_) => {
                let lasts = seen.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
                let lasts = lasts.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs);
                // Never less: its holder writes by its own clock, whatever someone wrote into it.
                let lasts = lasts.max(DURATION);
                match (seen.at + lasts).saturating_sub(now) {
                    Duration::ZERO => free,
                    left => Step::Wait(left),
                }
            }
        }
    }

    /// The Lease as it is to be written, with the version that was seen.
    #[must_use]
    pub fn held(&mut self, now: Timestamp) -> Lease {
        let before = self.seen.as_ref().and_then(|seen| seen.lease.spec.clone()).unwrap_or_default();
        // As precisely as it is stored, or it would not be known again.
        let now = MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now));
        let changes = !self.is_ours() && self.seen.is_some();
        let since = self.since.get_or_insert_with(|| now.clone()).clone();
        self.lease(LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(since),
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(changes)),
            ..before
        })
    }

    /// The Lease as it is to be written when it is given back, if it is ours.
    #[must_use]
    pub fn given_back(&self) -> Option<Lease> {
        let seen = self.seen.as_ref().filter(|seen| self.is_ours() && !seen.deleted)?;
        let spec = seen.lease.spec.clone()?;
        Some(self.lease(LeaseSpec { holder_identity: Some(String::new()), ..spec }))
    }

    fn lease(&self, spec: LeaseSpec) -> Lease {
        let seen = self.seen.as_ref().filter(|seen| !seen.deleted).map(|seen| seen.lease.metadata.clone());
        let metadata = seen.unwrap_or_else(|| ObjectMeta {
            namespace: Some(self.options.namespace.clone()),
            name: Some(self.options.name.clone()),
            ..ObjectMeta::default()
        });
        Lease { metadata, spec: Some(spec) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn election(identity: &str) -> Election {
        let (namespace, name) = ("prefect-sync".to_owned(), "prefect-sync".to_owned());
        Election::new(LeaseOptions { namespace, name, identity: identity.to_owned() })
    }

    /// As the API server would return it.
    fn stored(mut lease: Lease, version: &str) -> Lease {
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn the_first_creates_it_and_renews_it_and_its_times_and_changes_are_kept() {
        let mut a = election("a");
        a.see(None, Duration::ZERO);
        assert_eq!(a.step(Duration::ZERO), Step::Create);
        let held = stored(a.held(at(0)), "1");
        a.see(Some(held), Duration::ZERO);
        assert_eq!((a.step(SECOND), a.holder()), (Step::Renew, Some("a")));
        let renewed = a.held(at(2));
        let spec = renewed.spec.clone().unwrap();
        assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(at(0))), Some(MicroTime(at(2)))));
        assert_eq!((spec.lease_transitions, spec.lease_duration_seconds), (Some(0), Some(10)));
        assert_eq!(renewed.metadata.resource_version.as_deref(), Some("1"), "it names the version that was seen");
    }

    #[test]
    fn another_waits_for_the_whole_duration_from_when_it_saw_the_last_renewal() {
        let (mut a, mut b) = (election("a"), election("b"));
        a.see(None, Duration::ZERO);
        // What the clock of `a` says is nothing to `b`.
        let lease = stored(a.held(at(-5000)), "1");
        b.see(Some(lease.clone()), 100 * SECOND);
        assert_eq!(b.step(101 * SECOND), Step::Wait(9 * SECOND));
        a.see(Some(lease), Duration::ZERO);
        b.see(Some(stored(a.held(at(2)), "2")), 102 * SECOND);
        assert_eq!(b.step(110 * SECOND), Step::Wait(2 * SECOND), "it was renewed");
        let mut labelled = stored(a.held(at(2)), "3");
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        b.see(Some(labelled), 111 * SECOND);
        assert_eq!(b.step(112 * SECOND), Step::Take, "a label is no renewal");
        let taken = b.held(at(14));
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("3"));
        let spec = taken.spec.clone().unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(1)));
        b.see(Some(stored(taken, "4")), 112 * SECOND);
        assert_eq!(b.step(112 * SECOND), Step::Renew);
    }

    #[test]
    fn one_that_is_given_back_is_free_at_once_and_only_its_holder_gives_it_back() {
        let (mut a, mut b) = (election("a"), election("b"));
        a.see(None, Duration::ZERO);
        let lease = stored(a.held(at(0)), "1");
        a.see(Some(lease.clone()), Duration::ZERO);
        b.see(Some(lease), Duration::ZERO);
        assert_eq!(b.given_back(), None);
        b.see(a.given_back(), SECOND);
        assert_eq!((b.step(SECOND), b.holder()), (Step::Take, None));
    }

    #[test]
    fn one_that_is_deleted_is_respected_as_long_as_if_it_were_there_and_its_holder_makes_it_anew() {
        let (mut a, mut b) = (election("a"), election("b"));
        a.see(None, Duration::ZERO);
        let lease = stored(a.held(at(0)), "1");
        a.see(Some(lease.clone()), Duration::ZERO);
        b.see(Some(lease.clone()), Duration::ZERO);
        b.see(None, 4 * SECOND);
        assert_eq!((b.step(4 * SECOND), b.holder(), b.was_deleted()), (Step::Wait(6 * SECOND), Some("a"), true));
        assert_eq!(b.step(10 * SECOND), Step::Create);
        a.see(None, 4 * SECOND);
        assert_eq!((a.step(4 * SECOND), a.given_back()), (Step::Create, None));
        assert!(a.keeps(true) && !a.keeps(false) && !b.keeps(true));
        let again = a.held(at(4));
        assert_eq!((&again.metadata.resource_version, &again.metadata.uid), (&None, &None));
        assert_eq!(again.spec.clone().unwrap().acquire_time, lease.spec.unwrap().acquire_time);
        b.see(Some(stored(again.clone(), "9")), 5 * SECOND);
        assert_eq!((b.step(5 * SECOND), b.was_deleted()), (Step::Wait(10 * SECOND), false));
        a.see(Some(stored(again, "9")), 5 * SECOND);
        assert_eq!(a.step(5 * SECOND), Step::Renew);
        // Given back, then deleted: it was free before.
        b.see(a.given_back(), 6 * SECOND);
        b.see(None, 7 * SECOND);
        assert_eq!(b.step(7 * SECOND), Step::Create);
    }

    #[test]
    fn another_with_the_same_name_is_another() {
        let (mut one, mut other) = (election("a"), election("a"));
        one.see(None, Duration::ZERO);
        // Nanoseconds are not stored.
        let asked = one.held(at(0) + Duration::from_nanos(1_001));
        let lease = stored(serde_json::from_value(serde_json::to_value(&asked).unwrap()).unwrap(), "1");
        one.see(Some(lease.clone()), Duration::ZERO);
        other.see(Some(lease), Duration::ZERO);
        assert_eq!((one.step(SECOND), other.step(SECOND)), (Step::Renew, Step::Wait(9 * SECOND)));
        let taken = stored(other.held(at(12)), "2");
        one.see(Some(taken), 12 * SECOND);
        assert!(!one.is_ours() && one.given_back().is_none());
    }

    #[test]
    fn a_write_whose_answer_was_lost_is_known_again_though_it_was_asked_for_anew() {
        let mut a = election("a");
        a.see(None, Duration::ZERO);
        let landed = stored(a.held(at(0)), "1");
        let _ = a.held(at(2));
        a.see(Some(landed), 3 * SECOND);
        assert_eq!(a.step(3 * SECOND), Step::Renew);
    }

    #[test]
    fn a_lease_without_a_duration_or_with_one_that_is_too_short_is_respected_for_ours() {
        let mut a = election("a");
        for duration in [None, Some(-1), Some(1)] {
            let spec = LeaseSpec {
                holder_identity: Some("b".into()),
                lease_duration_seconds: duration,
                ..LeaseSpec::default()
            };
            a.see(Some(Lease { spec: Some(spec), ..Lease::default() }), Duration::ZERO);
            assert_eq!(a.step(SECOND), Step::Wait(DURATION - SECOND));
        }
    }
}
