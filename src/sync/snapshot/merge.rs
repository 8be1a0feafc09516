//! Takes in what a pass brought: the readings that follow from it, and whom a change concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Known, Snapshot};
use crate::sync::absence::{Census, Delivered, Gone, absent, hold};
use crate::sync::{Absence, Answer, Dependent, Failure, Hints, Read, Reading, RemoteKey, Timestamp};

/// What a merged pass calls for.
#[derive(Default)]
pub struct Merged {
    /// Objects one of whose readings changed.
    pub wake: BTreeSet<Dependent>,
    /// Objects that an outage had made not ready and that can be read again.
    pub recovered: BTreeSet<Dependent>,
    /// The keys whose answer is another than before, each with when it was read before, since the session began.
    pub changed: Vec<(RemoteKey, Duration)>,
    /// Keys that vanished together.
    pub census: Census,
    /// Whether several keys are newly gone, so that it must be known soon how many.
    pub vanishing: bool,
}

/// The numbers of a pass, in the order in which its parts began.
#[derive(Debug)]
pub struct Numbers {
    /// Of the pass.
    pub first: u64,
    /// Of the keys that it was extended by.
    pub later: BTreeMap<RemoteKey, u64>,
}

impl Numbers {
    /// Of a pass that was not extended.
    #[must_use]
    pub fn only(first: u64) -> Self {
        Self { first, later: BTreeMap::new() }
    }

    fn of(&self, key: &RemoteKey) -> u64 {
        self.later.get(key).copied().unwrap_or(self.first)
    }
}

/// When a pass asked and was answered.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Before its first question.
    pub asked: Timestamp,
    /// After its last answer.
    pub answered: Timestamp,
    /// Before its first question, since the session began.
    pub at: Duration,
}

impl Snapshot {
    /// Takes in what a pass brought; `explained` says what may have been meant by missing keys. What a pass that began
    /// later has brought already stands.
    pub fn merge(
        &mut self,
        numbers: &Numbers,
        reads: BTreeMap<RemoteKey, Read>,
        mut explained: BTreeMap<RemoteKey, Hints>,
        times: Times,
        interval: Duration,
    ) -> Merged {
        self.merged += 1;
        let mut merged = Merged::default();
        let mut changed = BTreeSet::new();
        // Of listings that go on, the names that came or went.
        let mut others: BTreeMap<RemoteKey, Vec<String>> = BTreeMap::new();
        let mut newly_gone = BTreeSet::new();
        for (key, read) in &reads {
            if let Read::Listed(names) = read {
                self.enlist(key, names);
            }
        }
        for (key, mut read) in reads {
            let pass = numbers.of(&key);
            let Some(known) = self.keys.get_mut(&key) else { continue };
            if known.reading.as_ref().is_some_and(|before| before.passes.1 > pass) {
                continue;
            }
            // It may have been forgotten and asked for anew meanwhile: then it is read again.
            if matches!(read, Read::StillAbsent) && !known.is_absent() {
                continue;
            }
            if let Read::Found { ids, .. } = &mut read {
                known.ids = std::mem::take(ids);
            }
            if !matches!(read, Read::Failed(_)) {
                known.renew(times.answered);
            }
            let before = known.reading.take();
            let after = reading(before.as_ref(), &key, read, (pass, &mut explained), times, interval);
            if before.as_ref().is_none_or(|before| !same(before, &after)) {
                if before.as_ref().is_some_and(|before| before.answer.is_some() && before.answer != after.answer) {
                    merged.changed.push((key.clone(), known.read_at));
                }
                if is_absent(&after) && !before.as_ref().is_some_and(is_absent) {
                    newly_gone.insert(key.clone());
                }
                if let Some(names) = before.as_ref().and_then(|before| came_or_went(before, &after)) {
                    others.insert(key.clone(), names);
                }
                changed.insert(key.clone());
            }
            if self.outage.as_ref().is_some_and(|outage| known.merged <= outage.before) {
                let unwell = |user: &&Dependent| self.interests.get(*user).is_some_and(|interest| !interest.well);
                merged.recovered.extend(known.users.iter().filter(unwell).cloned());
            }
            known.reading = Some(after);
            known.merged = self.merged;
            known.asked = known.asked.max(pass);
            known.read_at = times.at;
            self.unread.remove(&key);
        }
        let done = self
            .refreshing
            .iter()
            .filter(|(object, request)| !request.told && self.is_read_since(object, request.after));
        let done: Vec<Dependent> = done.map(|(object, _)| object.clone()).collect();
        for object in &done {
            if let Some(request) = self.refreshing.get_mut(object) {
                request.told = true;
            }
        }
        merged.census = self.hold(interval, &mut changed);
        merged.vanishing = newly_gone.iter().any(|key| self.is_delivered(key)) && self.are_vanishing();
        for key in &changed {
            let users = self.keys.get(key).into_iter().flat_map(|known| &known.users);
            // Who may read none of what came or went is not to notice.
            let concerns = |user: &&Dependent| {
                let (Some(names), Some(interest)) = (others.get(key), self.interests.get(*user)) else { return true };
                names.iter().any(|name| interest.access.allows_named(key.block_type(), name))
            };
            merged.wake.extend(users.filter(concerns).cloned());
        }
        merged.wake.extend(done);
        merged
    }

    fn hold(&mut self, interval: Duration, changed: &mut BTreeSet<RemoteKey>) -> Census {
        // As good as always nothing is missing.
        if !self.keys.values().any(Known::is_absent) {
            return Census::default();
        }
        let mut delivered = Delivered::default();
        let mut absences: Vec<Gone<'_>> = Vec::new();
        for (key, Known { users, reading, .. }) in &mut self.keys {
            let holds = |user: &&Dependent| self.interests.get(*user).and_then(|i| i.holds(key)) == Some(true);
            let holders: BTreeSet<&str> = users.iter().filter(holds).map(|user| user.namespace.as_str()).collect();
            delivered.count(&holders);
            if let Some(Answer::Absent(absence)) = reading.as_mut().and_then(|reading| reading.answer.as_mut()) {
                absences.push(Gone { key, absence, holders });
            }
        }
        let (census, held_now) = hold(absences, &delivered, interval);
        changed.extend(held_now);
        census
    }

    /// Whether several delivered keys are gone and not yet confirmed to be.
    fn are_vanishing(&self) -> bool {
        let going = self.keys.iter().filter(|(key, known)| {
            matches!(known.answer(), Some(Answer::Absent(absence)) if !absence.confirmed) && self.is_delivered(key)
        });
        going.take(2).count() > 1
    }
}

/// The names that came or went, where nothing else changed.
fn came_or_went(before: &Reading, after: &Reading) -> Option<Vec<String>> {
    match (&before.answer, &after.answer) {
        (Some(Answer::Listed(old)), Some(Answer::Listed(new))) if before.failure == after.failure => {
            Some(old.symmetric_difference(new).cloned().collect())
        }
        _ => None,
    }
}

fn is_absent(reading: &Reading) -> bool {
    matches!(reading.answer, Some(Answer::Absent(_)))
}

/// The same as far as an object could tell.
fn same(before: &Reading, after: &Reading) -> bool {
    before.answer == after.answer && before.failure == after.failure
}

fn reading(
    before: Option<&Reading>,
    key: &RemoteKey,
    read: Read,
    (pass, explained): (u64, &mut BTreeMap<RemoteKey, Hints>),
    times: Times,
    interval: Duration,
) -> Reading {
    let answered = before.and_then(|before| before.answer.as_ref());
    let good = |answer: Answer| {
        let first =
            before.filter(|before| before.answer.as_ref() == Some(&answer)).map_or(pass, |before| before.passes.0);
        Reading { answer: Some(answer), failure: None, passes: (first, pass) }
    };
    let missing = |exact: bool, explained: &mut BTreeMap<RemoteKey, Hints>| {
        let told = match answered {
            Some(Answer::Absent(Absence { hints, .. })) => hints.clone(),
            _ => Hints::default(),
        };
        let hints = told.and(&explained.remove(key).unwrap_or_default());
        good(Answer::Absent(absent(before, hints, exact, (times.asked, times.answered), interval)))
    };
    match read {
        Read::Found { document, source, .. } => {
            // The same text is kept once: the one that is there already.
            let document = match answered {
                Some(Answer::Found { document: held, .. }) if **held == *document => Arc::clone(held),
                _ => document,
            };
            good(Answer::Found { document, source })
        }
        Read::Listed(names) => {
            let names = match answered {
                Some(Answer::Listed(held)) if **held == names => Arc::clone(held),
                _ => Arc::new(names),
            };
            good(Answer::Listed(names))
        }
        Read::NotFound => missing(true, explained),
        Read::Unlisted => missing(false, explained),
        Read::StillAbsent => {
            let mut before = before.cloned().unwrap_or_default();
            if let (Some(Answer::Absent(absence)), Some(more)) = (&mut before.answer, explained.remove(key)) {
                absence.hints = std::mem::take(&mut absence.hints).and(&more);
            }
            Reading { failure: None, passes: (before.passes.0, pass), ..before }
        }
        Read::Failed(failure) => {
            let since = before.and_then(|before| before.failure.as_ref()).map_or(failure.since, |own| own.since);
            Reading { failure: Some(Failure { since, ..failure }), ..before.cloned().unwrap_or_default() }
        }
    }
}
