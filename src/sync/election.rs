//! What to do about a Lease, decided from what was seen of it and when, on this replica's own clock.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use super::Timestamp;

/// How long a Lease is respected after it was seen to be renewed. As its changes are watched, this is the longest that
/// nobody works after a leader died.
pub const DURATION: Duration = Duration::from_secs(12);
/// How long the leader writes after it asked for a renewal that succeeded.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(8);
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
}

#[derive(Debug)]
struct Seen {
    lease: Lease,
    /// When its record was first seen to be this one.
    at: Duration,
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
        Self { options, seen: None }
    }

    /// The Lease was seen; `None` when there is none.
    pub fn see(&mut self, lease: Option<Lease>, now: Duration) {
        self.seen = lease.map(|lease| match self.seen.take() {
            // Written, but not by its holder: nobody has renewed it.
            Some(before) if before.lease.spec == lease.spec => Seen { lease, at: before.at },
            _ => Seen { lease, at: now },
        });
    }

    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let spec = self.seen.as_ref()?.lease.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// Whether it is this replica's.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.holder() == Some(&self.options.identity)
    }

    /// What to do now.
    #[must_use]
    pub fn step(&self, now: Duration) -> Step {
        let Some(seen) = &self.seen else { return Step::Create };
        match self.holder() {
            None => Step::Take,
            Some(holder) if holder == self.options.identity => Step::Renew,
            Some(_) => {
                let lasts = seen.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
                let lasts = lasts.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs);
                match (seen.at + lasts).saturating_sub(now) {
                    Duration::ZERO => Step::Take,
                    left => Step::Wait(left),
                }
            }
        }
    }

    /// The Lease as it is to be written, with the version that was seen.
    #[must_use]
    pub fn held(&self, now: Timestamp) -> Lease {
        let before = self.seen.as_ref().and_then(|seen| seen.lease.spec.clone()).unwrap_or_default();
        let renews = self.is_ours();
        self.lease(LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if renews { before.acquire_time.clone() } else { Some(MicroTime(now)) },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!renews && self.seen.is_some())),
            ..before
        })
    }

    /// The Lease as it is to be written when it is given back, if it is ours.
    #[must_use]
    pub fn given_back(&self) -> Option<Lease> {
        let spec = self.seen.as_ref().and_then(|seen| seen.lease.spec.clone())?;
        self.is_ours().then(|| self.lease(LeaseSpec { holder_identity: Some(String::new()), ..spec }))
    }

    fn lease(&self, spec: LeaseSpec) -> Lease {
        let seen = self.seen.as_ref().map(|seen| seen.lease.metadata.clone());
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
        a.see(Some(stored(a.held(at(0)), "1")), Duration::ZERO);
        assert_eq!((a.step(SECOND), a.holder()), (Step::Renew, Some("a")));
        let renewed = a.held(at(2));
        let spec = renewed.spec.clone().unwrap();
        assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(at(0))), Some(MicroTime(at(2)))));
        assert_eq!((spec.lease_transitions, spec.lease_duration_seconds), (Some(0), Some(12)));
        assert_eq!(renewed.metadata.resource_version.as_deref(), Some("1"), "it names the version that was seen");
    }

    #[test]
    fn another_waits_for_the_whole_duration_from_when_it_saw_the_last_renewal() {
        let (mut a, mut b) = (election("a"), election("b"));
        a.see(None, Duration::ZERO);
        // What the clock of `a` says is nothing to `b`.
        let lease = stored(a.held(at(-5000)), "1");
        b.see(Some(lease.clone()), 100 * SECOND);
        assert_eq!(b.step(101 * SECOND), Step::Wait(11 * SECOND));
        a.see(Some(lease), Duration::ZERO);
        b.see(Some(stored(a.held(at(2)), "2")), 102 * SECOND);
        assert_eq!(b.step(112 * SECOND), Step::Wait(2 * SECOND), "it was renewed");
        let mut labelled = stored(a.held(at(2)), "3");
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        b.see(Some(labelled), 113 * SECOND);
        assert_eq!(b.step(114 * SECOND), Step::Take, "a label is no renewal");
        let taken = b.held(at(14));
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("3"));
        let spec = taken.spec.clone().unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(1)));
        b.see(Some(stored(taken, "4")), 114 * SECOND);
        assert_eq!(b.step(114 * SECOND), Step::Renew);
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
    fn a_lease_without_a_duration_or_with_a_senseless_one_is_respected_for_ours() {
        let mut a = election("a");
        for duration in [None, Some(-1)] {
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
