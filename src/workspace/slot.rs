//! What is known of one workspace: who asks for what, and the readings.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::reader::{Pass, Read};
use crate::sync::absence::{absent, hold};
use crate::sync::workspace::Health;
use crate::sync::{Absence, Answer, Dependent, Failure, Missing, Reading, RemoteKey, Timestamp};

/// Which keys an object asks for, each with whether its target holds it.
pub(super) type Interest = BTreeMap<RemoteKey, bool>;

/// How the workspace stands.
pub(super) enum State {
    /// Not looked at yet, or gone.
    Unknown,
    /// It can't be used.
    Unusable(Failure),
    /// It has a session; dropping the handle ends it.
    Running(#[expect(dead_code, reason = "held for its Drop")] AbortOnDropHandle<()>),
}

/// One workspace.
pub(super) struct Slot {
    pub state: State,
    /// Which state of the workspace and its credentials this is.
    pub fingerprint: String,
    /// Counts states; a session of an older one has nothing to say.
    pub epoch: u64,
    pub interests: HashMap<Dependent, Interest>,
    pub readings: BTreeMap<RemoteKey, Reading>,
    pub health: Health,
    pub stale_after: Duration,
    /// Rings when a key is asked for that was not read yet.
    pub demand: Arc<Notify>,
    /// Counts passes.
    pub pass: u64,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            state: State::Unknown,
            fingerprint: String::new(),
            epoch: 0,
            interests: HashMap::new(),
            readings: BTreeMap::new(),
            health: Health::Pending,
            stale_after: Duration::ZERO,
            demand: Arc::new(Notify::new()),
            pass: 0,
        }
    }
}

/// What a merged pass calls for.
#[derive(Default)]
pub(super) struct Merged {
    /// Objects one of whose readings changed.
    pub wake: Vec<Dependent>,
    /// Whether the workspace's own status may differ.
    pub health_changed: bool,
}

impl Slot {
    /// Every key that some object asks for.
    pub fn wanted(&self) -> BTreeSet<RemoteKey> {
        self.interests.values().flat_map(|interest| interest.keys().cloned()).collect()
    }

    /// The keys that were never read, not even with a failure, and all that must be read with them: an object's keys
    /// are read together, so that its target is one snapshot, and so are the keys of every object that shares one.
    pub fn unread(&self) -> BTreeSet<RemoteKey> {
        let mut keys: BTreeSet<RemoteKey> = self
            .interests
            .values()
            .flat_map(BTreeMap::keys)
            .filter(|key| !self.readings.contains_key(key))
            .cloned()
            .collect();
        loop {
            let before = keys.len();
            for interest in self.interests.values().filter(|interest| interest.len() > 1) {
                if interest.keys().any(|key| keys.contains(key)) {
                    keys.extend(interest.keys().cloned());
                }
            }
            if keys.len() == before {
                return keys;
            }
        }
    }

    /// Keys whose absence is confirmed.
    pub fn confirmed_absent(&self) -> BTreeSet<RemoteKey> {
        self.readings
            .iter()
            .filter(|(_, reading)| matches!(&reading.answer, Some(Answer::Absent(absence)) if absence.confirmed))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Keys that a pass found missing for the first time, so that nothing explains them yet.
    pub fn unexplained(&self, pass: &Pass) -> BTreeSet<RemoteKey> {
        pass.reads
            .iter()
            .filter(|(key, read)| {
                matches!(read, Read::NotFound)
                    && !matches!(self.readings.get(key).and_then(|r| r.answer.as_ref()), Some(Answer::Absent(_)))
            })
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Takes in what a pass brought; `explained` says what may have been meant by missing keys, `times` when the pass
    /// began and ended.
    pub fn merge(
        &mut self,
        pass: Pass,
        mut explained: BTreeMap<RemoteKey, Missing>,
        server_version: Option<String>,
        times: (Timestamp, Timestamp),
        interval: Duration,
    ) -> Merged {
        self.pass += 1;
        let wanted = self.wanted();
        self.readings.retain(|key, _| wanted.contains(key));
        let mut changed = BTreeSet::new();
        for (key, read) in pass.reads {
            let before = self.readings.get(&key);
            let after = self.reading(before, &key, read, &mut explained, times, interval);
            if before.is_none_or(|before| !same(before, &after)) {
                changed.insert(key.clone());
            }
            self.readings.insert(key, after);
        }
        if let Some(outage) = &pass.outage {
            // Every key is as unreadable as the workspace; the first failure since the last success counts.
            for key in &wanted {
                let reading = self.readings.entry(key.clone()).or_default();
                let failure = lasting(reading.failure.as_ref(), outage);
                if reading.failure.as_ref() != Some(&failure) {
                    reading.failure = Some(failure);
                    changed.insert(key.clone());
                }
            }
        }
        let delivered = self.delivered();
        let (census, held_now) = hold(&mut self.readings, &delivered, interval);
        changed.extend(held_now);
        let health = match pass.outage {
            Some(outage) => {
                let before = match &self.health {
                    Health::Failing(before) => Some(before),
                    _ => None,
                };
                Health::Failing(lasting(before, &outage))
            }
            None => Health::Well { server_version, census },
        };
        let health_changed = health != self.health;
        self.health = health;
        let wake = self
            .interests
            .iter()
            .filter(|(_, interest)| interest.keys().any(|key| changed.contains(key)))
            .map(|(dependent, _)| dependent.clone())
            .collect();
        Merged { wake, health_changed }
    }

    fn reading(
        &self,
        before: Option<&Reading>,
        key: &RemoteKey,
        read: Read,
        explained: &mut BTreeMap<RemoteKey, Missing>,
        (asked, answered): (Timestamp, Timestamp),
        interval: Duration,
    ) -> Reading {
        let good = |answer| Reading { answer: Some(answer), failure: None, pass: self.pass };
        match read {
            Read::Found(document, source) => {
                // The same text is kept once: the one that is there already.
                let document = match before.and_then(|b| b.answer.as_ref()) {
                    Some(Answer::Found { document: held, .. }) if **held == *document => held.clone(),
                    _ => document,
                };
                good(Answer::Found { document, source })
            }
            Read::NotFound => {
                let missing = match before.and_then(|b| b.answer.as_ref()) {
                    Some(Answer::Absent(Absence { missing, .. })) => missing.clone(),
                    _ => explained.remove(key).unwrap_or_else(|| unexplained(key)),
                };
                good(Answer::Absent(absent(before, missing, asked, answered, interval)))
            }
            Read::StillAbsent => Reading { failure: None, pass: self.pass, ..before.cloned().unwrap_or_default() },
            Read::Failed(failure) => {
                let since = before.and_then(|b| b.failure.as_ref()).map_or(failure.since, |f| f.since);
                let before = before.cloned().unwrap_or_default();
                Reading { failure: Some(Failure { since, ..failure }), ..before }
            }
        }
    }

    /// The keys that some target holds.
    fn delivered(&self) -> BTreeSet<RemoteKey> {
        let held = |interest: &Interest| {
            interest.iter().filter(|(_, held)| **held).map(|(key, _)| key.clone()).collect::<Vec<_>>()
        };
        self.interests.values().flat_map(held).collect()
    }
}

/// The failure to tell of: of an outage that goes on for the same reason the first words stand, so that nobody is
/// woken because 502 became 503; and it lasts since its beginning.
fn lasting(before: Option<&Failure>, now: &Failure) -> Failure {
    match before {
        Some(before) if before.workspace_wide && before.reason == now.reason => before.clone(),
        Some(before) => Failure { since: before.since, ..now.clone() },
        None => now.clone(),
    }
}

/// The same as far as an object could tell.
fn same(before: &Reading, after: &Reading) -> bool {
    before.answer == after.answer && before.failure == after.failure
}

fn unexplained(key: &RemoteKey) -> Missing {
    match key {
        RemoteKey::Block { .. } => Missing::Block { near: None },
        RemoteKey::Variable { .. } => Missing::Variable { near: None },
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
