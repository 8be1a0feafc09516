//! What one object asks of its workspace.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::absence::is_delivered;
use super::conditions::is_ready;
use super::source::Selection;
use super::{Access, Object, RemoteKey};
use crate::api::SyncStatus;

/// What one object asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interest {
    /// Its keys in order, each with whether its target holds a value of it. Most objects have few, and a map of one
    /// takes the room of eleven.
    pub keys: Vec<(RemoteKey, bool)>,
    /// Its own refresh interval; `None` for the workspace's.
    pub interval: Option<Duration>,
    /// Whether it is Ready in its present generation, so that an outage is no news to it until it is stale.
    pub well: bool,
    /// The request to read its keys at once that was not heard yet.
    pub refresh: Option<Box<str>>,
    /// What it may ask for.
    pub access: Access,
}

impl Interest {
    /// What `object`, whose status is `status`, asks for: of what `find` finds, what its target holds. Whether it may is
    /// another question: [`Interest::limit`].
    #[must_use]
    pub fn of(object: &Object, status: &SyncStatus) -> Self {
        let delivered: HashSet<&str> = status
            .entries
            .iter()
            .filter(|entry| entry.from.is_none() && is_delivered(entry))
            .map(|entry| entry.key.as_str())
            .collect();
        let mut keys: BTreeMap<RemoteKey, bool> = BTreeMap::new();
        let found: HashSet<RemoteKey> = found(status).collect();
        for entry in &object.entries {
            let is_held = delivered.contains(entry.key.as_str()) || found.contains(&entry.remote);
            *keys.entry(entry.remote.clone()).or_default() |= is_held;
        }
        for source in &object.sources {
            let remote = source.remote();
            if let Selection::Find(query) = &source.selection {
                // What does not match any more is nobody's concern.
                let matcher = query.matcher().ok();
                let matches = |key: &&RemoteKey| {
                    key.block_type() == query.block_type.as_deref()
                        && matcher.as_ref().is_some_and(|matcher| matcher.matches(key.name()))
                };
                keys.extend(found.iter().filter(matches).map(|key| (key.clone(), true)));
            }
            *keys.entry(remote.clone()).or_default() |= found.contains(&remote);
        }
        let keys = keys.into_iter().collect();
        let well = is_ready(&status.conditions) && status.observed_generation == object.generation;
        let refresh = object.refresh.as_deref().filter(|token| status.last_handled_refresh.as_deref() != Some(token));
        Self {
            keys,
            interval: object.refresh_interval,
            well,
            refresh: refresh.map(Box::from),
            access: Access::default(),
        }
    }

    /// Leaves it what it may ask for, now and later, and returns the other keys.
    pub fn limit(&mut self, access: Access) -> Vec<RemoteKey> {
        let refused = self.keys.extract_if(.., |(key, _)| !access.allows(key)).map(|(key, _)| key).collect();
        self.access = access;
        refused
    }

    /// How often its keys are to be read; `default` is the workspace's, than which nobody who shares it reads more often.
    #[must_use]
    pub fn interval(&self, default: Duration) -> Duration {
        match self.interval {
            Some(own) if self.access.is_limited() => own.max(default),
            own => own.unwrap_or(default),
        }
    }

    /// Its keys.
    pub fn remote_keys(&self) -> impl Iterator<Item = &RemoteKey> {
        self.keys.iter().map(|(key, _)| key)
    }

    /// Whether its target holds a value of the key; `None` if it does not ask for it.
    #[must_use]
    pub fn holds(&self, key: &RemoteKey) -> Option<bool> {
        let at = self.keys.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        Some(self.keys[at].1)
    }

    /// Asks for one more key, of which the target holds nothing, if it may; whether it is new.
    pub fn add(&mut self, key: &RemoteKey) -> bool {
        if !self.access.allows(key) {
            return false;
        }
        match self.keys.binary_search_by(|(known, _)| known.cmp(key)) {
            Ok(_) => false,
            Err(at) => {
                self.keys.insert(at, (key.clone(), false));
                true
            }
        }
    }
}

/// The blocks and variables of which `dataFrom` made entries that the target holds.
pub fn found(status: &SyncStatus) -> impl Iterator<Item = RemoteKey> {
    status
        .found
        .iter()
        .flat_map(|found| found.names.iter().map(|name| RemoteKey::named(found.block_type.as_deref(), name.clone())))
}
