//! What one object asks of its workspace.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::absence::is_delivered;
use super::conditions::is_ready;
use super::{Object, RemoteKey};
use crate::api::SyncStatus;

/// What one object asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Its keys in order, each with whether its target holds a value of it. Most objects have few, and a map of one
    /// takes the room of eleven.
    pub keys: Vec<(RemoteKey, bool)>,
    /// Its own refresh interval; `None` for the workspace's.
    pub interval: Option<Duration>,
    /// Whether it is Ready in its present generation, so that an outage is no news to it until it is stale.
    pub well: bool,
}

impl Interest {
    /// What `object`, whose status is `status`, asks for.
    #[must_use]
    pub fn of(object: &Object, status: &SyncStatus) -> Self {
        let delivered: HashSet<&str> =
            status.entries.iter().filter(|entry| is_delivered(entry)).map(|entry| entry.key.as_str()).collect();
        let mut keys: BTreeMap<RemoteKey, bool> = BTreeMap::new();
        for entry in &object.entries {
            *keys.entry(entry.remote.clone()).or_default() |= delivered.contains(entry.key.as_str());
        }
        let keys = keys.into_iter().collect();
        let well = is_ready(&status.conditions) && status.observed_generation == object.generation;
        Self { keys, interval: object.refresh_interval, well }
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
}
