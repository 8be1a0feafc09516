//! When "not found" may be believed: a list omits what a key may no longer see, and an emptied database answers
//! as if nothing had ever been.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::reading::{Absence, Answer, Held, Hints, Reading};
use super::{RemoteKey, Timestamp};
use crate::api::{EntryState, EntryStatus, Source};

/// The absence after a not-found answer to a question asked at `asked` and answered at `answered`; `exact` if the
/// question was by name. It is confirmed by an exact answer to a question asked at least an interval after the first
/// answer in the same epoch; `previous` is of the same epoch.
#[must_use]
pub fn absent(
    previous: Option<&Reading>,
    hints: Hints,
    exact: bool,
    (asked, answered): (Timestamp, Timestamp),
    interval: Duration,
) -> Absence {
    match previous.and_then(|reading| reading.answer.as_ref()) {
        Some(Answer::Absent(before)) => Absence {
            hints,
            since: before.since,
            exact: exact || before.exact,
            confirmed: before.confirmed || (exact && elapsed(before.since, asked) >= interval),
            held: before.held.clone(),
        },
        _ => Absence { hints, since: answered, exact, confirmed: false, held: Held::default() },
    }
}

/// Of the keys that targets hold, how many there are and how many are held because they vanished together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Census {
    /// Keys that some target holds.
    pub delivered: usize,
    /// Those of them that vanished together, and have not come back.
    pub vanished: usize,
}

/// A key that is gone.
pub struct Gone<'a> {
    /// The key.
    pub key: &'a RemoteKey,
    /// Its absence.
    pub absence: &'a mut Absence,
    /// The namespaces in which a target holds it.
    pub holders: BTreeSet<&'a str>,
}

/// How many keys targets hold.
#[derive(Debug, Default)]
pub struct Delivered<'a> {
    total: usize,
    by_namespace: BTreeMap<&'a str, usize>,
}

impl<'a> Delivered<'a> {
    /// Counts one more key, which targets in these namespaces hold.
    pub fn count(&mut self, holders: &BTreeSet<&'a str>) {
        self.total += usize::from(!holders.is_empty());
        for holder in holders {
            *self.by_namespace.entry(holder).or_default() += 1;
        }
    }

    /// In one namespace, or in all of them.
    fn of(&self, namespace: Option<&str>) -> usize {
        match namespace {
            None => self.total,
            Some(namespace) => self.by_namespace.get(namespace).copied().unwrap_or_default(),
        }
    }
}

/// Holds the absences of keys that vanished together: more than one key, and more than half of those that targets hold,
/// whose absences began within two intervals. That is looked at for the workspace as a whole, and for each namespace that
/// shares it, which is then the only one where they are held. One key alone is what deleting a secret looks like. A held
/// absence stays held until the key comes back or no target holds it any more, whatever else goes later.
///
/// `gone` are all there are. Returns the census, and the keys that are held from now on or not any more.
pub fn hold(mut gone: Vec<Gone<'_>>, delivered: &Delivered<'_>, interval: Duration) -> (Census, BTreeSet<RemoteKey>) {
    let mut changed = BTreeSet::new();
    let mut places: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for (at, Gone { key, absence, holders }) in gone.iter_mut().enumerate() {
        // Where no target holds the key nothing can shrink.
        let before = absence.held.namespaces.len();
        absence.held.namespaces.retain(|namespace| holders.contains(&**namespace));
        let is_over = holders.is_empty() && std::mem::take(&mut absence.held.everywhere);
        if is_over || absence.held.namespaces.len() < before {
            changed.insert(key.clone());
        }
        let everywhere = (!holders.is_empty()).then_some(None);
        for place in everywhere.into_iter().chain(holders.iter().map(|holder| Some(*holder))) {
            places.entry(place).or_default().push(at);
        }
    }
    for (place, mut together) in places {
        let latest = together.iter().map(|at| gone[*at].absence.since).max();
        together.retain(|at| {
            latest.is_some_and(|latest| elapsed(gone[*at].absence.since, latest) <= interval.saturating_mul(2))
        });
        if together.len() < 2 || together.len() * 2 <= delivered.of(place) {
            continue;
        }
        for at in together {
            let Gone { key, absence, .. } = &mut gone[at];
            let is_new = match place {
                None => !std::mem::replace(&mut absence.held.everywhere, true),
                Some(namespace) => absence.held.namespaces.insert(namespace.into()),
            };
            if is_new {
                changed.insert(key.clone());
            }
        }
    }
    let vanished = gone.iter().filter(|gone| gone.absence.held.everywhere).count();
    (Census { delivered: delivered.total, vanished }, changed)
}

/// Whether an entry's status says that the target holds a value of Prefect's, not a default.
#[must_use]
pub fn is_delivered(entry: &EntryStatus) -> bool {
    matches!(entry.state, EntryState::Synced | EntryState::Retained) && entry.source != Some(Source::Default)
}

/// The time from `from` to `to`; zero when the clock went back.
#[must_use]
pub fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn reading(absence: Absence) -> Reading {
        Reading { answer: Some(Answer::Absent(absence)), ..Reading::default() }
    }

    fn seen(previous: Option<&Absence>, second: i64, exact: bool) -> Absence {
        let previous = previous.cloned().map(reading);
        absent(previous.as_ref(), Hints::default(), exact, (at(second), at(second + 1)), INTERVAL)
    }

    #[test]
    fn an_absence_is_confirmed_by_a_second_question_an_interval_after_the_first_answer() {
        let first = seen(None, 0, true);
        assert!(!first.confirmed);
        let soon = seen(Some(&first), 30, true);
        assert!(!soon.confirmed, "29 s after the answer are less than an interval");
        let later = seen(Some(&soon), 31, true);
        assert!(later.confirmed);
        assert_eq!(later.since, first.since);
    }

    #[test]
    fn a_list_may_be_the_first_to_lack_a_key_and_confirms_nothing() {
        let first = seen(None, 0, false);
        assert!(!first.exact);
        let listed = seen(Some(&first), 60, false);
        assert!(!listed.exact && !listed.confirmed);
        let named = seen(Some(&listed), 61, true);
        assert!(named.exact && named.confirmed, "the second read is by name");
    }

    #[test]
    fn a_clock_that_goes_back_confirms_nothing() {
        assert!(!seen(Some(&seen(None, 100, true)), 0, true).confirmed);
    }

    /// Ten delivered keys, of which the first are gone since the seconds given.
    fn ten(gone: &[i64]) -> Vec<(RemoteKey, Absence, bool)> {
        let absence = |since: &i64| Absence {
            hints: Hints::default(),
            since: at(*since),
            exact: true,
            confirmed: true,
            held: Held::default(),
        };
        gone.iter().enumerate().map(|(n, since)| (key(n), absence(since), true)).collect()
    }

    fn key(n: usize) -> RemoteKey {
        RemoteKey::Variable { name: format!("k{n}") }
    }

    /// Keys that are gone, each held in one namespace or in none, of so many that targets hold in each.
    fn hold_of<'a>(
        gone: impl Iterator<Item = (&'a RemoteKey, &'a mut Absence, &'a str)>,
        delivered: &[(&'a str, usize)],
    ) -> (Census, BTreeSet<RemoteKey>) {
        let mut counts = Delivered::default();
        for (namespace, count) in delivered {
            (0..*count).for_each(|_| counts.count(&BTreeSet::from([*namespace])));
        }
        let holders = |of: &'a str| Some(of).filter(|of| !of.is_empty()).into_iter().collect();
        hold(gone.map(|(key, absence, of)| Gone { key, absence, holders: holders(of) }).collect(), &counts, INTERVAL)
    }

    #[test]
    fn a_team_whose_keys_vanish_together_is_as_safe_as_if_the_workspace_were_its_own() {
        let delivered = [("small", 3), ("large", 100)];
        let mut gone = ten(&[0, 0, 0]);
        let all_of = |of: &'static str, gone: &mut [(RemoteKey, Absence, bool)]| {
            let (census, held) = hold_of(gone.iter_mut().map(|(key, absence, _)| (&*key, absence, of)), &delivered);
            assert_eq!(census.vanished, 0, "it is no alarm for all others");
            held.len()
        };
        assert_eq!(all_of("large", &mut gone), 0, "three of a hundred are no alarm");
        assert_eq!(all_of("small", &mut gone), 3, "three of three are");
        let held = &gone[0].1.held;
        assert!(held.is_in("small") && !held.is_in("large"), "whoever else has them is not held up");
        assert_eq!(all_of("large", &mut gone), 3, "nor is anybody once that one has them no more");
        assert!(!gone[0].1.held.is_in("small"));
    }

    fn hold_of_ten(absences: &mut [(RemoteKey, Absence, bool)]) -> (Census, BTreeSet<RemoteKey>) {
        hold_of(
            absences.iter_mut().map(|(key, absence, held)| (&*key, absence, if *held { "a" } else { "" })),
            &[("a", 10)],
        )
    }

    fn vanished(gone: &[i64]) -> usize {
        hold_of_ten(&mut ten(gone)).0.vanished
    }

    #[test]
    fn most_keys_vanishing_together_are_held_and_one_is_not() {
        assert_eq!(vanished(&[0]), 0);
        assert_eq!(vanished(&[0, 0, 0, 0, 0]), 0, "half is not most");
        assert_eq!(vanished(&[0, 0, 0, 0, 0, 5]), 6);
        assert_eq!(vanished(&[0, 500, 1000, 1500, 2000, 2500]), 0, "one after the other is not together");
    }

    #[test]
    fn what_is_held_stays_held_when_another_key_goes_later() {
        let mut gone = ten(&[0, 0, 0, 0, 0, 0]);
        assert_eq!(hold_of_ten(&mut gone).1.len(), 6);
        gone.push((key(9), seen(None, 3600, true), true));
        let (census, held_now) = hold_of_ten(&mut gone);
        assert_eq!(census, Census { delivered: 10, vanished: 6 });
        assert!(held_now.is_empty());
        assert!(!gone[6].1.held.is_in("a"), "it went alone");
    }

    #[test]
    fn what_no_target_holds_any_more_is_not_held() {
        let mut gone = ten(&[0, 0, 0, 0, 0, 0]);
        hold_of_ten(&mut gone);
        gone[0].2 = false;
        let (census, changed) = hold_of_ten(&mut gone);
        assert_eq!(census.vanished, 5);
        assert_eq!(changed, BTreeSet::from([key(0)]));
    }
}
