//! What reconciles share.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{Lookup, Store};
use tokio_util::sync::CancellationToken;

use super::lease::Leadership;
use super::leaving::Merging;
use super::{MANAGER, Options};
use crate::api::SyncStatus;
use crate::sync::object::WorkspaceKey;
use crate::sync::plan::Version;
use crate::sync::{Dependent, PlannedEvent};
use crate::telemetry::{Census, Metrics};
use crate::workspace::Workspaces;

/// The longest that one reconcile may take; then it is tried again.
pub const RECONCILE_TIMEOUT: Duration = Duration::from_secs(60);

/// An object's status, and which versions of the object have it.
#[derive(Clone)]
pub struct StatusAt {
    /// Those that do not have it yet.
    pub older: Vec<String>,
    /// The one that has it.
    pub version: String,
    /// The status.
    pub status: SyncStatus,
}

/// Shared by all controllers.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// All sessions.
    pub workspaces: Workspaces,
    /// What the operator may do.
    pub options: Options,
    /// The version of each target that this process left behind or found right.
    pub written: Memory<Dependent, Version>,
    /// The status that was written last, which the cache may not have seen yet.
    pub statuses: Memory<Dependent, StatusAt>,
    /// Failed tries in a row, of objects.
    pub tries: Memory<Dependent, u32>,
    /// Failed tries in a row, of workspaces.
    pub workspace_tries: Memory<WorkspaceKey, u32>,
    /// Objects with keys in targets of others.
    pub merging: Merging,
    /// Whether this replica works.
    pub leadership: Leadership,
    /// What is counted.
    pub metrics: Metrics,
    recorder: Recorder,
    shutdown: CancellationToken,
}

impl Context {
    /// A fresh context.
    #[must_use]
    pub fn new(
        client: Client,
        workspaces: Workspaces,
        options: Options,
        metrics: Metrics,
        leadership: Leadership,
        shutdown: CancellationToken,
    ) -> Self {
        let reporter = Reporter { controller: MANAGER.into(), instance: std::env::var("HOSTNAME").ok() };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            workspaces,
            options,
            written: Memory::default(),
            statuses: Memory::default(),
            tries: Memory::default(),
            workspace_tries: Memory::default(),
            merging: Merging::default(),
            leadership,
            shutdown,
            metrics,
        }
    }

    /// Waits until this replica works; the object as it is then, unless it is gone or the operator is to stop.
    pub(super) async fn once_leading<K>(&self, store: &Store<K>, object: Arc<K>) -> Option<Arc<K>>
    where
        K: Lookup<DynamicType = ()> + Clone + 'static,
    {
        if self.leadership.is_granted() {
            return Some(object);
        }
        tokio::select! {
            () = self.leadership.granted() => store.get(&object.to_object_ref(())),
            () = self.shutdown.cancelled() => None,
        }
    }

    /// Has in each scrape what `count` adds, of the replica that works: the others hold the same objects.
    pub(super) fn watch_census(&self, count: impl Fn(&mut Census) + Send + Sync + 'static) {
        let leadership = self.leadership.clone();
        self.metrics.watch_census(Box::new(move |census| {
            if leadership.may_write() {
                count(census);
            }
        }));
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, dependent: &Dependent) {
        self.workspaces.forget(dependent);
        self.written.remove(dependent);
        self.statuses.remove(dependent);
        self.tries.remove(dependent);
        self.merging.forget(dependent);
    }

    /// Publishes Events. One that can't be published is logged; it fails nothing.
    pub async fn publish(&self, events: Vec<PlannedEvent>, about: &ObjectReference) {
        for event in events {
            // For those who read logs: what has no Event is no news.
            let (kind, namespace) =
                (about.kind.as_deref().unwrap_or_default(), about.namespace.as_deref().unwrap_or_default());
            let name = about.name.as_deref().unwrap_or_default();
            let slash = if namespace.is_empty() { "" } else { "/" };
            tracing::info!(object = %format_args!("{kind} {namespace}{slash}{name}"), reason = %event.reason, "{}", event.note);
            let event = Event {
                type_: if event.warning { EventType::Warning } else { EventType::Normal },
                reason: event.reason.to_string(),
                // The API server takes 1,024 bytes.
                note: Some(event.note.chars().take(500).collect()),
                action: "Sync".into(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, about).await {
                tracing::warn!(reason = event.reason, "publishing an Event: {}", super::errors::describe(&error));
            }
        }
    }
}

/// Exponential from a second to five minutes, spread by up to a quarter so that objects do not march in step.
#[must_use]
pub fn backoff(tries: u32, seed: &str) -> Duration {
    let base = Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(tries)).min(Duration::from_secs(300));
    let spread = seed.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 100;
    base + base / 400 * spread
}

/// A small map that is remembered between reconciles.
pub struct Memory<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Memory<K, V> {
    /// What is remembered.
    pub fn get(&self, key: &K) -> Option<V> {
        self.with(|map| map.get(key).cloned())
    }

    /// Remembers.
    pub fn set(&self, key: &K, value: V) {
        self.with(|map| map.insert(key.clone(), value));
    }

    /// Remembers, unless something is remembered already.
    pub fn set_if_new(&self, key: &K, value: V) {
        self.with(|map| {
            map.entry(key.clone()).or_insert(value);
        });
    }

    /// Forgets, and returns what was remembered.
    pub fn remove(&self, key: &K) -> Option<V> {
        self.with(|map| map.remove(key))
    }

    /// Forgets what was remembered, if it is so.
    pub fn remove_if(&self, key: &K, is_so: impl FnOnce(&V) -> bool) {
        self.with(|map| {
            if map.get(key).is_some_and(is_so) {
                map.remove(key);
            }
        });
    }

    /// The keys for which `select` holds.
    pub fn keys(&self, select: impl Fn(&K) -> bool) -> Vec<K> {
        self.with(|map| map.keys().filter(|key| select(key)).cloned().collect())
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<K, V>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<K: Eq + Hash + Clone> Memory<K, u32> {
    /// Counts one more, and says how many there were before.
    pub fn count(&self, key: &K) -> u32 {
        self.with(|map| {
            let tries = map.entry(key.clone()).or_default();
            *tries = tries.saturating_add(1);
            *tries - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_five_minutes_and_is_spread() {
        assert_eq!(backoff(0, ""), Duration::from_secs(1));
        assert_eq!(backoff(3, ""), Duration::from_secs(8));
        assert!(backoff(40, "x") >= Duration::from_secs(300));
        assert!(backoff(40, "flows/etl") <= Duration::from_secs(375));
        assert_ne!(backoff(4, "a"), backoff(4, "b"));
    }
}
