//! What several namespaces ask of one workspace: each what it may, each told what it may know.

use std::collections::{BTreeMap, BTreeSet};

use super::interest::Interest;
use super::listings::is_listing;
use super::snapshot::{Snapshot, release};
use super::{Access, Answer, Askers, Dependent, Read, RemoteKey};

impl Snapshot {
    /// Keys that `reads` finds missing, each with those who ask and whom nothing was explained to yet.
    #[must_use]
    pub fn unexplained(&self, reads: &BTreeMap<RemoteKey, Read>) -> BTreeMap<RemoteKey, Askers> {
        let missing = reads.iter().filter(|(_, read)| matches!(read, Read::NotFound | Read::StillAbsent));
        let askers = |key: &RemoteKey| -> Option<Askers> {
            let known = self.keys.get(key)?;
            let told = |namespace: &str| match known.answer() {
                Some(Answer::Absent(absence)) => absence.hints.has(namespace),
                _ => false,
            };
            Some(self.askers_of(&known.users, |namespace| !told(namespace)))
        };
        let unexplained = missing.filter_map(|(key, _)| Some((key.clone(), askers(key)?)));
        unexplained.filter(|(_, askers)| !askers.is_empty()).collect()
    }

    /// Who asks for the listings among `keys`.
    pub(super) fn askers(&self, keys: &BTreeSet<RemoteKey>) -> BTreeMap<RemoteKey, Askers> {
        let listings = keys.iter().filter(|key| is_listing(key));
        let known = listings.filter_map(|key| Some((key, self.keys.get(key)?)));
        known.map(|(key, known)| (key.clone(), self.askers_of(&known.users, |_| true))).collect()
    }

    fn askers_of(&self, users: &[Dependent], select: impl Fn(&str) -> bool) -> Askers {
        let mut askers = Askers::new();
        for user in users.iter().filter(|user| select(&user.namespace)) {
            if !askers.contains_key(user.namespace.as_str())
                && let Some(interest) = self.interests.get(user)
            {
                askers.insert(user.namespace.as_str().into(), interest.access.clone());
            }
        }
        askers
    }

    /// Leaves an object what it may ask for from now on; what else it may ask for it is to say itself.
    pub fn limit(&mut self, object: &Dependent, access: Access) {
        let Some(interest) = self.interests.get_mut(object) else { return };
        for key in interest.limit(access) {
            release(&mut self.keys, &mut self.unread, &key, object);
        }
        // What was told may name what may not be read any more.
        for key in self.interests.get(object).into_iter().flat_map(Interest::remote_keys) {
            let reading = self.keys.get_mut(key).and_then(|known| known.reading.as_mut());
            if let Some(Answer::Absent(absence)) = reading.and_then(|reading| reading.answer.as_mut()) {
                absence.hints.forget(&object.namespace);
            }
        }
    }
}

#[cfg(test)]
#[path = "tenancy_tests.rs"]
mod tests;
