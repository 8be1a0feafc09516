//! What listings find is asked for by whoever asks for the listing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::interest::Interest;
use super::snapshot::{Known, Snapshot};
use super::{Answer, RemoteKey};

impl Snapshot {
    /// What listings have found is asked for, too.
    pub(super) fn extend(&self, interest: &mut Interest) {
        let listings: Vec<&RemoteKey> = interest.remote_keys().filter(|key| is_listing(key)).collect();
        let members: Vec<RemoteKey> = listings.into_iter().flat_map(|listing| self.members(listing)).collect();
        for member in &members {
            interest.add(member);
        }
    }

    /// The keys that a listing has found.
    pub(super) fn members(&self, listing: &RemoteKey) -> impl Iterator<Item = RemoteKey> {
        let names = match self.keys.get(listing).and_then(Known::answer) {
            Some(Answer::Listed(names)) => Some(Arc::clone(names)),
            _ => None,
        };
        let block_type = listing.block_type();
        let named = |name: &String| RemoteKey::named(block_type, name.clone());
        names.iter().flat_map(|names| names.iter()).map(named).collect::<Vec<_>>().into_iter()
    }

    /// Whoever asks for a listing asks for what it finds.
    pub(super) fn enlist(&mut self, listing: &RemoteKey, names: &BTreeSet<String>) {
        let Some(known) = self.keys.get(listing) else { return };
        if matches!(known.answer(), Some(Answer::Listed(held)) if **held == *names) {
            return;
        }
        let users = known.users.clone();
        for name in names {
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
