//! What listings find is asked for by whoever asks for the listing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::interest::Interest;
use super::snapshot::{Known, Snapshot};
use super::{Answer, RemoteKey};

impl Snapshot {
    /// What listings have found is asked for, too.
    pub(super) fn extend(&self, interest: &mut Interest) {
        let listings: Vec<RemoteKey> = interest.remote_keys().filter(|key| is_listing(key)).cloned().collect();
        for listing in listings {
            let Some(names) = self.listed(&listing) else { continue };
            let block_type = listing.block_type();
            let access = interest.access.clone();
            for name in names.iter().filter(|name| access.allows_named(block_type, name)).cloned() {
                interest.add(&RemoteKey::named(block_type, name));
            }
        }
    }

    /// The names that a listing has.
    fn listed(&self, listing: &RemoteKey) -> Option<Arc<BTreeSet<String>>> {
        match self.keys.get(listing).and_then(Known::answer) {
            Some(Answer::Listed(names)) => Some(Arc::clone(names)),
            _ => None,
        }
    }

    /// The keys that a listing has found.
    pub(super) fn members(&self, listing: &RemoteKey) -> impl Iterator<Item = RemoteKey> {
        let names = self.listed(listing);
        let block_type = listing.block_type();
        let named = |name: &String| RemoteKey::named(block_type, name.clone());
        names.iter().flat_map(|names| names.iter()).map(named).collect::<Vec<_>>().into_iter()
    }

    /// Whoever asks for a listing asks for what it finds.
    pub(super) fn enlist(&mut self, listing: &RemoteKey, names: &BTreeSet<String>) {
        let Some(known) = self.keys.get(listing) else { return };
        let users = known.users.clone();
        let held = self.listed(listing).unwrap_or_default();
        for name in names.difference(&held) {
            let member = RemoteKey::named(listing.block_type(), name.clone());
            for user in &users {
                if self.interests.get_mut(user).is_some_and(|interest| interest.add(&member)) {
                    let known = self.keys.entry(member.clone()).or_default();
                    known.add_user(user);
                    if known.reading.is_none() {
                        self.unread.insert(member.clone());
                    }
                }
            }
        }
    }
}

pub(super) fn is_listing(key: &RemoteKey) -> bool {
    matches!(key, RemoteKey::Listing(_))
}

#[cfg(test)]
#[path = "listings_tests.rs"]
mod tests;
