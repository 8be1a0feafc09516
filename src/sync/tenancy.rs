//! What several namespaces ask of one workspace: each what it may, each told what it may know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::snapshot::{Snapshot, release};
use super::{Access, Answer, Askers, Dependent, Read, Reading, RemoteKey};

impl Snapshot {
    /// Keys that `reads` finds missing for the first time, so that nothing explains them yet, each with who asks.
    #[must_use]
    pub fn unexplained(&self, reads: &BTreeMap<RemoteKey, Read>) -> BTreeMap<RemoteKey, Askers> {
        let missing = reads.iter().filter(|(_, read)| matches!(read, Read::NotFound));
        let known = missing.filter_map(|(key, _)| Some((key, self.keys.get(key).filter(|known| !known.is_absent())?)));
        known
            .map(|(key, known)| {
                let askers = known.users.iter().filter_map(|user| {
                    let access = self.interests.get(user)?.access.clone();
                    Some((user.namespace.as_str().into(), access))
                });
                (key.clone(), askers.collect())
            })
            .collect()
    }

    /// Notes that an object came from another workspace. What has long been absent here is news to it: nothing of it
    /// counts as confirmed before it is read again at `from`, which is an interval away.
    pub fn moved(&mut self, object: &Dependent, from: Duration) {
        self.moved.insert(object.clone(), from);
    }

    /// What is known of the keys of an object that came from another workspace, as far as it counts for it.
    pub(super) fn doubt(&self, object: &Dependent, readings: &mut BTreeMap<RemoteKey, Reading>) {
        let Some(from) = self.moved.get(object) else { return };
        for (key, reading) in readings {
            if let Some(Answer::Absent(absence)) = &mut reading.answer {
                absence.confirmed &= self.keys.get(key).is_some_and(|known| known.read_at >= *from);
            }
        }
    }

    /// The objects that came from another workspace all of whose keys have been read since: they are like others now.
    pub(super) fn settled(&mut self) -> BTreeSet<Dependent> {
        let (interests, keys) = (&self.interests, &self.keys);
        let is_settled = |object: &Dependent, from: Duration| {
            let is_read = |key| keys.get(key).is_some_and(|known| known.reading.is_some() && known.read_at >= from);
            interests.get(object).is_none_or(|interest| interest.remote_keys().all(is_read))
        };
        let settled: BTreeSet<Dependent> =
            self.moved.iter().filter(|(object, from)| is_settled(object, **from)).map(|(o, _)| o.clone()).collect();
        self.moved.retain(|object, _| !settled.contains(object));
        settled
    }

    /// Leaves an object what it may ask for from now on; what else it may ask for it is to say itself.
    pub fn limit(&mut self, object: &Dependent, access: Access) {
        let Some(interest) = self.interests.get_mut(object) else { return };
        for key in interest.limit(access) {
            release(&mut self.keys, &mut self.unread, &key, object);
        }
    }
}

#[cfg(test)]
#[path = "tenancy_tests.rs"]
mod tests;
