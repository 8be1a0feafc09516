//! When "not found" may be believed: a list omits what a key may no longer see, and an emptied database answers
//! as if nothing had ever been.

use std::time::Duration;

use super::reading::{Absence, Answer, Missing, Reading};
use super::{RemoteKey, Timestamp};

/// The absence after an exact not-found answer at `now`. It is confirmed by the second such answer at least an
/// interval after the first in the same epoch; `previous` is of the same epoch.
#[must_use]
pub fn absent(previous: Option<&Reading>, missing: Missing, now: Timestamp, interval: Duration) -> Absence {
    match previous.and_then(|reading| reading.answer.as_ref()) {
        Some(Answer::Absent(before)) => Absence {
            missing,
            since: before.since,
            confirmed: before.confirmed || elapsed(before.since, now) >= interval,
            held: before.held,
        },
        _ => Absence { missing, since: now, confirmed: false, held: false },
    }
}

/// Of the keys that targets hold, how many there are and how many vanished together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Census {
    /// Keys that some target holds.
    pub delivered: usize,
    /// Those of them whose absence began within two intervals of the latest such absence.
    pub vanished: usize,
}

impl Census {
    /// Counts the keys that some target holds.
    pub fn take<'a>(delivered: impl Iterator<Item = (&'a RemoteKey, Option<&'a Reading>)>, interval: Duration) -> Self {
        let mut count = 0;
        let mut since: Vec<Timestamp> = Vec::new();
        for (_, reading) in delivered {
            count += 1;
            if let Some(Answer::Absent(absence)) = reading.and_then(|r| r.answer.as_ref()) {
                since.push(absence.since);
            }
        }
        let vanished = since.iter().max().map_or(0, |latest| {
            since.iter().filter(|first| elapsed(**first, *latest) <= interval.saturating_mul(2)).count()
        });
        Self { delivered: count, vanished }
    }

    /// Whether nothing may shrink: more than one key, and more than half of all, vanished together. One key alone
    /// is what deleting a secret looks like.
    #[must_use]
    pub fn holds(self) -> bool {
        self.vanished > 1 && self.vanished * 2 > self.delivered
    }
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

    #[test]
    fn an_absence_is_confirmed_by_a_second_answer_an_interval_later() {
        let first = absent(None, missing(), at(0), INTERVAL);
        assert!(!first.confirmed);
        let soon = absent(Some(&reading(first.clone())), missing(), at(29), INTERVAL);
        assert!(!soon.confirmed, "29 s are less than an interval");
        let later = absent(Some(&reading(soon)), missing(), at(30), INTERVAL);
        assert!(later.confirmed);
        assert_eq!(later.since, first.since);
    }

    #[test]
    fn a_clock_that_goes_back_confirms_nothing() {
        let first = absent(None, missing(), at(100), INTERVAL);
        assert!(!absent(Some(&reading(first)), missing(), at(0), INTERVAL).confirmed);
    }

    #[test]
    fn most_keys_vanishing_together_hold_everything_and_one_does_not() {
        let keys: Vec<RemoteKey> = (0..10).map(|n| RemoteKey::Variable { name: format!("k{n}") }).collect();
        let census = |gone: &[i64]| {
            let readings: Vec<Option<Reading>> = (0..10)
                .map(|n| {
                    gone.get(n).map(|since| {
                        reading(Absence { missing: missing(), since: at(*since), confirmed: true, held: false })
                    })
                })
                .collect();
            Census::take(keys.iter().zip(readings.iter().map(Option::as_ref)), INTERVAL)
        };
        assert!(!census(&[0]).holds());
        assert!(!census(&[0, 0, 0, 0, 0]).holds(), "half is not most");
        assert!(census(&[0, 0, 0, 0, 0, 5]).holds());
        assert!(!census(&[0, 500, 1000, 1500, 2000, 2500]).holds(), "one after the other is not together");
    }
}
