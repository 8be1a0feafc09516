//! When "not found" may be believed: a list omits what a key may no longer see, and an emptied database answers
//! as if nothing had ever been.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::reading::{Absence, Answer, Missing, Reading};
use super::{RemoteKey, Timestamp};
use crate::api::{EntryState, EntryStatus, Source};

/// The absence after an exact not-found answer to a question asked at `asked` and answered at `answered`. It is
/// confirmed by the second such answer to a question asked at least an interval after the first answer in the same
/// epoch; `previous` is of the same epoch.
#[must_use]
pub fn absent(
    previous: Option<&Reading>,
    missing: Missing,
    asked: Timestamp,
    answered: Timestamp,
    interval: Duration,
) -> Absence {
    match previous.and_then(|reading| reading.answer.as_ref()) {
        Some(Answer::Absent(before)) => Absence {
            missing,
            since: before.since,
            confirmed: before.confirmed || elapsed(before.since, asked) >= interval,
            held: before.held,
        },
        _ => Absence { missing, since: answered, confirmed: false, held: false },
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

/// Holds the absences of keys that vanished together: more than one key, and more than half of all that targets hold
/// (`delivered`), whose absences began within two intervals. One key alone is what deleting a secret looks like. A
/// held absence stays held until the key comes back or no target holds it any more, whatever else goes later.
///
/// Returns the census, and the keys that are held from now on or not any more.
pub fn hold(
    readings: &mut BTreeMap<RemoteKey, Reading>,
    delivered: &BTreeSet<RemoteKey>,
    interval: Duration,
) -> (Census, BTreeSet<RemoteKey>) {
    let absent = |key: &RemoteKey, readings: &BTreeMap<RemoteKey, Reading>| match readings
        .get(key)
        .and_then(|reading| reading.answer.as_ref())
    {
        Some(Answer::Absent(absence)) => Some((absence.since, absence.held)),
        _ => None,
    };
    let gone: Vec<(&RemoteKey, Timestamp, bool)> =
        delivered.iter().filter_map(|key| absent(key, readings).map(|(since, held)| (key, since, held))).collect();
    let mut vanished = gone.iter().filter(|(_, _, held)| *held).count();
    let latest = gone.iter().map(|(_, since, _)| *since).max();
    let together: Vec<_> = gone
        .iter()
        .filter(|(_, since, _)| latest.is_some_and(|latest| elapsed(*since, latest) <= interval.saturating_mul(2)))
        .collect();
    let mut changed = BTreeSet::new();
    // Where no target holds the key nothing can shrink.
    for (key, reading) in readings.iter_mut().filter(|(key, _)| !delivered.contains(*key)) {
        if let Some(Answer::Absent(absence)) = reading.answer.as_mut()
            && std::mem::take(&mut absence.held)
        {
            changed.insert(key.clone());
        }
    }
    if together.len() > 1 && together.len() * 2 > delivered.len() {
        for (key, _, _) in together.into_iter().filter(|(_, _, held)| !held) {
            if let Some(Answer::Absent(absence)) = readings.get_mut(*key).and_then(|reading| reading.answer.as_mut()) {
                absence.held = true;
                vanished += 1;
                changed.insert((*key).clone());
            }
        }
    }
    (Census { delivered: delivered.len(), vanished }, changed)
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

    fn missing() -> Missing {
        Missing::Variable { near: None }
    }

    fn seen(previous: Option<&Absence>, second: i64) -> Absence {
        let previous = previous.cloned().map(reading);
        absent(previous.as_ref(), missing(), at(second), at(second + 1), INTERVAL)
    }

    #[test]
    fn an_absence_is_confirmed_by_a_second_question_an_interval_after_the_first_answer() {
        let first = seen(None, 0);
        assert!(!first.confirmed);
        let soon = seen(Some(&first), 30);
        assert!(!soon.confirmed, "29 s after the answer are less than an interval");
        let later = seen(Some(&soon), 31);
        assert!(later.confirmed);
        assert_eq!(later.since, first.since);
    }

    #[test]
    fn a_clock_that_goes_back_confirms_nothing() {
        assert!(!seen(Some(&seen(None, 100)), 0).confirmed);
    }

    /// Ten delivered keys, of which the first are gone since the seconds given.
    fn ten(gone: &[i64]) -> (BTreeMap<RemoteKey, Reading>, BTreeSet<RemoteKey>) {
        let keys: Vec<RemoteKey> = (0..10).map(|n| RemoteKey::Variable { name: format!("k{n}") }).collect();
        let absence = |since: &i64| Absence { missing: missing(), since: at(*since), confirmed: true, held: false };
        let readings = keys.iter().cloned().zip(gone.iter().map(|since| reading(absence(since)))).collect();
        (readings, keys.into_iter().collect())
    }

    fn vanished(gone: &[i64]) -> usize {
        let (mut readings, delivered) = ten(gone);
        hold(&mut readings, &delivered, INTERVAL).0.vanished
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
        let (mut readings, delivered) = ten(&[0, 0, 0, 0, 0, 0]);
        assert_eq!(hold(&mut readings, &delivered, INTERVAL).1.len(), 6);
        let key = RemoteKey::Variable { name: "k9".into() };
        readings.insert(key.clone(), reading(seen(None, 3600)));
        let (census, held_now) = hold(&mut readings, &delivered, INTERVAL);
        assert_eq!(census, Census { delivered: 10, vanished: 6 });
        assert!(held_now.is_empty());
        assert!(matches!(&readings[&key].answer, Some(Answer::Absent(absence)) if !absence.held), "it went alone");
    }

    #[test]
    fn what_no_target_holds_any_more_is_not_held() {
        let (mut readings, mut delivered) = ten(&[0, 0, 0, 0, 0, 0]);
        hold(&mut readings, &delivered, INTERVAL);
        let key = RemoteKey::Variable { name: "k0".into() };
        delivered.remove(&key);
        let (census, changed) = hold(&mut readings, &delivered, INTERVAL);
        assert_eq!(census.vanished, 5);
        assert_eq!(changed, BTreeSet::from([key]));
    }
}
