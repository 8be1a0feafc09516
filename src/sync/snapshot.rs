//! What is known of one workspace: which object asks for which keys, what was read, and whom a change concerns.
//!
//! A **pass** reads a portion of the keys; passes may run side by side. Merging one compares it with what was known,
//! and names the objects one of whose readings changed. Readings are held here once, however many objects share them.

mod merge;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use uuid::Uuid;

pub use merge::{Merged, Numbers, Times};

use super::interest::Interest;
use super::reading::Before;
use super::{Answer, Askers, Dependent, Failure, Reading, RemoteKey, Timestamp};

/// One key that some object asks for.
#[derive(Default)]
pub(super) struct Known {
    pub(super) reading: Option<Reading>,
    ids: Box<[Uuid]>,
    /// In order.
    pub(super) users: Vec<Dependent>,
    /// The merge that brought the reading.
    merged: u64,
    /// When it was last read, since the session began.
    pub(super) read_at: Duration,
    /// The last pass that asked for it, whatever came of it.
    asked: u64,
    /// Whether its absence counts from the next answer on.
    anew: bool,
}

impl Known {
    /// Most keys have one user: a list grown for one would have room for four.
    pub(super) fn add_user(&mut self, user: &Dependent) {
        if let Err(at) = self.users.binary_search(user) {
            if self.users.is_empty() {
                self.users.reserve_exact(1);
            }
            self.users.insert(at, user.clone());
        }
    }

    /// Its absence is no longer confirmed, and counts from the next answer on; where it is held it stays held.
    fn begin_absence(&mut self) {
        if let Some(Answer::Absent(absence)) = self.reading.as_mut().and_then(|reading| reading.answer.as_mut()) {
            absence.confirmed = false;
            self.anew = true;
        }
    }

    /// The absence begins with an answer of this time, if it is to begin anew.
    fn renew(&mut self, at: Timestamp) {
        if let Some(Answer::Absent(absence)) = self.reading.as_mut().and_then(|reading| reading.answer.as_mut())
            && std::mem::take(&mut self.anew)
        {
            absence.since = at;
        }
    }

    pub(super) fn answer(&self) -> Option<&Answer> {
        self.reading.as_ref()?.answer.as_ref()
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self.answer(), Some(Answer::Absent(_)))
    }
}

/// Why nothing can be read, and which readings are from before.
struct Outage {
    failure: Failure,
    /// Readings of this merge and of earlier ones are from before it.
    before: u64,
}

/// What is known of one workspace in one epoch.
#[derive(Default)]
pub struct Snapshot {
    pub(super) interests: HashMap<Dependent, Interest>,
    pub(super) keys: BTreeMap<RemoteKey, Known>,
    pub(super) unread: BTreeSet<RemoteKey>,
    outage: Option<Outage>,
    passes: u64,
    merged: u64,
    /// Requests to read an object's keys at once.
    refreshing: BTreeMap<Dependent, Refreshing>,
    /// Keys that are to be read at once because of them.
    forced: BTreeSet<RemoteKey>,
}

/// A request to read an object's keys at once.
struct Refreshing {
    token: String,
    /// It is done when all keys are of later passes than this.
    after: u64,
    /// Whether the object was told that it is.
    told: bool,
}

/// What a pass reads.
#[derive(Debug, Default)]
pub struct Questions {
    /// The keys, each with what is known of it.
    pub keys: BTreeMap<RemoteKey, Before>,
    /// Who asks for the listings among them: what nobody who asks may read is not kept.
    pub askers: BTreeMap<RemoteKey, Askers>,
}

impl Snapshot {
    /// Notes what an object asks for, and says what is known of its keys, as [`Snapshot::readings`] does.
    pub fn observe(&mut self, object: &Dependent, mut interest: Interest) -> BTreeMap<RemoteKey, Reading> {
        self.extend(&mut interest);
        self.request_refresh(object, &interest);
        self.hold_interest(object, interest);
        let readings = self.readings(object);
        // It hears of the outage now, so it is to hear of its end.
        if readings.values().any(|reading| reading.failure.as_ref().is_some_and(|failure| failure.workspace_wide))
            && let Some(interest) = self.interests.get_mut(object)
        {
            interest.well = false;
        }
        readings
    }

    /// Notes a request to read the object's keys at once, if it is new.
    fn request_refresh(&mut self, object: &Dependent, interest: &Interest) {
        let Some(token) = &interest.refresh else {
            self.refreshing.remove(object);
            return;
        };
        if self.refreshing.get(object).is_none_or(|known| known.token != **token) {
            let request = Refreshing { token: token.to_string(), after: self.passes, told: false };
            self.refreshing.insert(object.clone(), request);
            self.forced.extend(interest.remote_keys().cloned());
        }
    }

    /// Whether the object asks for more than so many keys.
    #[must_use]
    pub fn asks_for_more_than(&self, object: &Dependent, keys: usize) -> bool {
        self.interests.get(object).is_some_and(|interest| interest.keys.len() > keys)
    }

    /// The keys that are to be read at once because somebody asked for it.
    pub fn take_forced(&mut self) -> BTreeSet<RemoteKey> {
        std::mem::take(&mut self.forced)
    }

    /// Whether there are keys that are to be read at once because somebody asked for it.
    #[must_use]
    pub fn has_forced(&self) -> bool {
        !self.forced.is_empty()
    }

    /// The request to read the object's keys that has been done.
    #[must_use]
    pub fn refreshed(&self, object: &Dependent) -> Option<String> {
        let request = self.refreshing.get(object)?;
        self.is_read_since(object, request.after).then(|| request.token.clone())
    }

    fn is_read_since(&self, object: &Dependent, pass: u64) -> bool {
        let is_read = |key| self.outage.is_none() && self.keys.get(key).is_some_and(|known| known.asked > pass);
        self.interests.get(object).is_some_and(|interest| interest.remote_keys().all(is_read))
    }

    fn hold_interest(&mut self, object: &Dependent, interest: Interest) {
        let before = self.interests.insert(object.clone(), interest);
        for key in before.iter().flat_map(Interest::remote_keys) {
            if self.interests[object].holds(key).is_none() {
                release(&mut self.keys, &mut self.unread, key, object);
            }
        }
        let interest = &self.interests[object];
        let known = before.as_ref();
        for key in interest.remote_keys().filter(|key| known.is_none_or(|known| known.holds(key).is_none())) {
            let known = self.keys.entry(key.clone()).or_default();
            known.add_user(object);
            // What was long absent is news to an object whose target holds it, as when it comes from another
            // workspace: that counts from now on.
            if known.is_absent() && interest.holds(key) == Some(true) {
                known.begin_absence();
                self.forced.insert(key.clone());
            }
            if known.reading.is_none() {
                self.unread.insert(key.clone());
            }
        }
    }

    /// What is known of the keys that an object asks for; one that is not there was not read yet.
    #[must_use]
    pub fn readings(&self, object: &Dependent) -> BTreeMap<RemoteKey, Reading> {
        let keys = self.interests.get(object).into_iter().flat_map(Interest::remote_keys);
        keys.filter_map(|key| Some((key.clone(), self.reading(key)?))).collect()
    }

    /// Notes anew what an object's target holds, if the object asks for anything.
    pub fn note(&mut self, object: &Dependent, mut interest: Interest) {
        self.extend(&mut interest);
        let Some(noted) = self.interests.get(object) else { return };
        if interest.remote_keys().all(|key| noted.holds(key).is_some()) {
            self.request_refresh(object, &interest);
            self.hold_interest(object, interest);
        }
    }

    /// Forgets an object, and the keys that nobody else asks for.
    pub fn forget(&mut self, object: &Dependent) {
        self.refreshing.remove(object);
        for (key, _) in self.interests.remove(object).into_iter().flat_map(|interest| interest.keys) {
            release(&mut self.keys, &mut self.unread, &key, object);
        }
    }

    /// Forgets all readings, and keeps who asks for what: another epoch begins.
    pub fn begin_epoch(&mut self) {
        self.outage = None;
        for (key, known) in &mut self.keys {
            known.reading = None;
            known.ids = Box::default();
            self.unread.insert(key.clone());
        }
    }

    /// Whether nobody asks for anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.interests.is_empty()
    }

    /// Who asks for something.
    pub fn dependents(&self) -> impl Iterator<Item = &Dependent> {
        self.interests.keys()
    }

    /// Who asks for something and is well, or is not.
    pub fn dependents_that_are(&self, well: bool) -> impl Iterator<Item = &Dependent> {
        self.interests.iter().filter(move |(_, interest)| interest.well == well).map(|(dependent, _)| dependent)
    }

    /// The keys that have neither an answer nor a failure of their own.
    #[must_use]
    pub fn unread(&self) -> &BTreeSet<RemoteKey> {
        &self.unread
    }

    /// Whether any key was read that was asked for before `at`, since the session began.
    #[must_use]
    pub fn has_read_before(&self, at: Duration) -> bool {
        self.keys.values().any(|known| known.reading.is_some() && known.read_at < at)
    }

    /// Whether any key was read.
    #[must_use]
    pub fn has_read(&self) -> bool {
        self.keys.values().any(|known| known.reading.is_some())
    }

    /// Whether any key has an answer.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        self.keys.values().any(|known| known.answer().is_some())
    }

    /// The intervals at which keys are to be read; `default` is the workspace's.
    #[must_use]
    pub fn intervals(&self, default: Duration) -> BTreeSet<Duration> {
        let own = self.interests.values().map(|interest| interest.interval(default));
        own.chain([default]).collect()
    }

    /// The keys that are to be read at one of `intervals`: a key at the shortest that one of its users asks for.
    #[must_use]
    pub fn due(&self, intervals: &BTreeSet<Duration>, default: Duration) -> BTreeSet<RemoteKey> {
        let interval =
            |user: &Dependent| self.interests.get(user).map_or(default, |interest| interest.interval(default));
        let due = self.keys.iter().filter(|(_, known)| {
            known.users.iter().map(interval).min().is_some_and(|shortest| intervals.contains(&shortest))
        });
        due.map(|(key, _)| key.clone()).collect()
    }

    /// The keys that an announcement of Prefect's may concern: those of that name, those that are or contain the document
    /// of that id, and listings that do not have the name: of these [`matching`] says which look for it.
    #[must_use]
    pub fn announced(&self, is_block: bool, name: &str, id: Uuid) -> BTreeSet<RemoteKey> {
        let concerns = |key: &RemoteKey, known: &Known| match key {
            RemoteKey::Listing(query) => {
                // A name that it has is a key of its own, and says itself which tags it has.
                let has_it = matches!(known.answer(), Some(Answer::Listed(names)) if names.contains(name));
                let fails = known.reading.as_ref().is_some_and(|reading| reading.failure.is_some());
                query.block_type.is_some() == is_block && !has_it && !fails
            }
            key => (key.block_type().is_some() == is_block && key.name() == name) || known.ids.contains(&id),
        };
        self.keys.iter().filter(|(key, known)| concerns(key, known)).map(|(key, _)| key.clone()).collect()
    }

    /// Begins a pass: its number, what is known of the keys that it reads, and who asks for the listings among them.
    pub fn begin_pass(&mut self, keys: &BTreeSet<RemoteKey>) -> (u64, Questions) {
        self.passes += 1;
        (self.passes, Questions { keys: self.before(keys), askers: self.askers(keys) })
    }

    /// What is known of `keys` before they are read.
    #[must_use]
    pub fn before(&self, keys: &BTreeSet<RemoteKey>) -> BTreeMap<RemoteKey, Before> {
        let before = |key: &RemoteKey| match self.keys.get(key).and_then(Known::answer) {
            // After a start: what a target holds is most likely there.
            None if self.is_delivered(key) => Before::Answered,
            None => Before::Nothing,
            Some(Answer::Absent(absence)) if absence.confirmed => Before::Absent,
            Some(_) => Before::Answered,
        };
        keys.iter().map(|key| (key.clone(), before(key))).collect()
    }

    /// Nothing can be read any more, or still not. The first words of an outage that goes on for the same reason stand,
    /// so that nobody is woken because 502 became 503; and it lasts since its beginning.
    ///
    /// Returns whether that is news.
    pub fn begin_outage(&mut self, failure: Failure) -> bool {
        let before = self.outage.take();
        let failure = match &before {
            Some(before) if before.failure.reason == failure.reason => before.failure.clone(),
            Some(before) => Failure { since: before.failure.since, ..failure },
            None => failure,
        };
        let news = before.is_none_or(|before| before.failure != failure);
        self.outage = Some(Outage { failure, before: self.merged });
        news
    }

    /// Everything has been read again.
    pub fn end_outage(&mut self) {
        self.outage = None;
    }

    /// Why nothing can be read.
    #[must_use]
    pub fn outage(&self) -> Option<&Failure> {
        self.outage.as_ref().map(|outage| &outage.failure)
    }

    /// What is known of a key, and of the outage since it was read.
    fn reading(&self, key: &RemoteKey) -> Option<Reading> {
        let known = self.keys.get(key)?;
        let outage = self.outage.as_ref().filter(|outage| known.merged <= outage.before);
        match (outage, &known.reading) {
            (None, reading) => reading.clone(),
            (Some(outage), reading) => {
                let reading = reading.clone().unwrap_or_default();
                let since = reading.failure.map_or(outage.failure.since, |own| own.since.min(outage.failure.since));
                Some(Reading { failure: Some(Failure { since, ..outage.failure.clone() }), ..reading })
            }
        }
    }

    fn is_delivered(&self, key: &RemoteKey) -> bool {
        self.keys.get(key).is_some_and(|known| delivers(&self.interests, key, &known.users))
    }
}

/// Of keys that an announcement of `name` may concern, those that it does. Apart, since it compiles expressions.
#[must_use]
pub fn matching(mut keys: BTreeSet<RemoteKey>, name: &str) -> BTreeSet<RemoteKey> {
    keys.retain(|key| match key {
        RemoteKey::Listing(query) => query.matches(name),
        _ => true,
    });
    keys
}

/// Whether a target holds the key.
fn delivers(interests: &HashMap<Dependent, Interest>, key: &RemoteKey, users: &[Dependent]) -> bool {
    users.iter().filter_map(|user| interests.get(user)?.holds(key)).any(|held| held)
}

pub(super) fn release(
    keys: &mut BTreeMap<RemoteKey, Known>,
    unread: &mut BTreeSet<RemoteKey>,
    key: &RemoteKey,
    object: &Dependent,
) {
    if let Some(known) = keys.get_mut(key) {
        if let Ok(at) = known.users.binary_search(object) {
            known.users.remove(at);
        }
        if known.users.is_empty() {
            keys.remove(key);
            unread.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
