//! Which keys are read together: portions that a request can hold, and what an object's snapshot needs besides.

use std::collections::{BTreeMap, BTreeSet};

use super::interest::Interest;
use super::listings::is_listing;
use super::snapshot::{Known, Snapshot};
use super::{Answer, Read, RemoteKey};

/// The most keys of one kind in a portion: as many as Prefect takes in one request.
pub(super) const PORTION: usize = 200;
/// With more users than this a key calls for no other: their objects' other keys call for it.
const MOST_USERS: usize = 16;

impl Snapshot {
    /// `keys` in portions that can be read one after the other. Of an object's keys those that are asked for are in
    /// one portion, so that its target is one snapshot; `with_companions` adds the object's others.
    #[must_use]
    pub fn portions<'a>(&'a self, keys: &'a BTreeSet<RemoteKey>, with_companions: bool) -> Vec<BTreeSet<RemoteKey>> {
        let mut portions = Vec::new();
        let mut placed: BTreeSet<&RemoteKey> = BTreeSet::new();
        let mut portion: BTreeSet<RemoteKey> = BTreeSet::new();
        let mut sizes: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        // A listing first, with all that it finds: reading it reads them.
        for key in keys.iter().filter(|key| is_listing(key)).chain(keys) {
            if placed.contains(key) {
                continue;
            }
            let members: BTreeSet<RemoteKey> = self.members(key).collect();
            let users = self.keys.get(key).map(|known| &known.users);
            let users = users.into_iter().filter(|users| users.len() <= MOST_USERS).flatten();
            let companions = users
                .filter_map(|user| self.interests.get(user))
                .flat_map(Interest::remote_keys)
                // A listing may be many requests: it is read for its own sake only.
                .filter(|companion| (with_companions && !is_listing(companion)) || keys.contains(*companion));
            let members = members.iter().filter_map(|member| keys.get(member));
            let group: BTreeSet<&RemoteKey> = companions.chain(members).chain([key]).collect();
            let with = |sizes: &BTreeMap<Option<&'a str>, usize>, portion: &BTreeSet<RemoteKey>| {
                let mut sizes = sizes.clone();
                for key in group.iter().filter(|key| !portion.contains(**key)) {
                    *sizes.entry(key.block_type()).or_default() += 1;
                }
                sizes
            };
            let mut grown = with(&sizes, &portion);
            if !portion.is_empty() && grown.values().any(|size| *size > PORTION) {
                portions.push(std::mem::take(&mut portion));
                grown = with(&BTreeMap::new(), &portion);
            }
            sizes = grown;
            portion.extend(group.iter().map(|key| (*key).clone()));
            placed.extend(group);
        }
        portions.extend(Some(portion).filter(|portion| !portion.is_empty()));
        portions
    }

    /// The keys to read in the same pass as `reads`, because an object one of whose keys changed has them too.
    #[must_use]
    pub fn companions(&self, reads: &BTreeMap<RemoteKey, Read>) -> BTreeSet<RemoteKey> {
        let is_other = |known: &Known, read: &Read| match (read, known.answer()) {
            (Read::Found { document, .. }, Some(Answer::Found { document: held, .. })) => **document != **held,
            (Read::Found { .. }, _) => true,
            (Read::Listed(names), Some(Answer::Listed(held))) => *names != **held,
            (Read::Listed(_), _) => true,
            _ => false,
        };
        // What everybody shares is as fresh as its interval says; else all would be read with it.
        let users = reads
            .iter()
            .filter_map(|(key, read)| self.keys.get(key).filter(|known| is_other(known, read)))
            .filter(|known| known.users.len() <= MOST_USERS)
            .flat_map(|known| &known.users);
        let keys = users.filter_map(|user| self.interests.get(user)).flat_map(Interest::remote_keys);
        keys.filter(|key| !reads.contains_key(*key) && !is_listing(key)).cloned().collect()
    }
}
