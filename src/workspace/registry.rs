//! The registry of sessions: who asks for what of which workspace.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::reader::Reader;
use super::session;
use super::slot::{Interest, Slot, State};
use crate::api::SyncStatus;
use crate::sync::absence::is_delivered;
use crate::sync::object::WorkspaceKey;
use crate::sync::workspace::Health;
use crate::sync::{Dependent, Failure, Object, Reading, RemoteKey};

/// Who is told that something changed. Implemented by the controllers.
pub trait Wake: Send + Sync + 'static {
    /// One of these objects' readings, or their workspace, changed.
    fn dependents(&self, dependents: Vec<Dependent>);
    /// This workspace's health changed.
    fn workspace(&self, key: &WorkspaceKey);
}

/// A state of a workspace.
pub enum Setup {
    /// It can't be used.
    Unusable(Failure),
    /// It can be read.
    Usable {
        /// What reads it.
        reader: Box<Reader>,
        /// The longest time between refreshes.
        interval: Duration,
    },
}

/// What a workspace says to one object.
pub struct Observation {
    /// Why the workspace can't be used.
    pub unusable: Option<Failure>,
    /// Whether it has a session.
    pub usable: bool,
    /// How long objects stay Ready through an outage.
    pub stale_after: Duration,
    /// What is known of the object's keys; one that is not there has not been read yet.
    pub readings: BTreeMap<RemoteKey, Reading>,
}

/// All sessions. Cheap to clone; the lock is held for moments only, never across I/O.
#[derive(Clone)]
pub struct Workspaces {
    inner: Arc<Mutex<Inner>>,
    wake: Arc<dyn Wake>,
}

#[derive(Default)]
struct Inner {
    slots: HashMap<WorkspaceKey, Slot>,
    assigned: HashMap<Dependent, WorkspaceKey>,
    /// Never used twice, so that a session of another state is never taken for this one's.
    last_epoch: u64,
}

impl Inner {
    /// Drops a slot that nobody asks and that does nothing.
    fn tidy(&mut self, key: &WorkspaceKey) {
        if self.slots.get(key).is_some_and(|slot| slot.interests.is_empty() && matches!(slot.state, State::Unknown)) {
            self.slots.remove(key);
        }
    }
}

impl Workspaces {
    /// An empty registry that tells `wake`.
    pub fn new(wake: Arc<dyn Wake>) -> Self {
        Self { inner: Arc::default(), wake }
    }

    /// Puts a workspace into a state. `fingerprint` names the state (UID, generation, versions of the
    /// credentials): the same one again changes nothing, another begins a new epoch.
    pub fn set(&self, key: &WorkspaceKey, fingerprint: &str, stale_after: Duration, setup: Setup) {
        let woken = {
            let mut inner = self.lock();
            let Inner { slots, last_epoch, .. } = &mut *inner;
            let slot = slots.entry(key.clone()).or_default();
            if let (Setup::Unusable(new), State::Unusable(old)) = (&setup, &slot.state)
                && slot.fingerprint == fingerprint
                && (new.reason, &new.message) == (old.reason, &old.message)
            {
                return;
            }
            if matches!((&setup, &slot.state), (Setup::Usable { .. }, State::Running(_)))
                && slot.fingerprint == fingerprint
            {
                return;
            }
            slot.fingerprint = fingerprint.to_owned();
            *last_epoch += 1;
            slot.epoch = *last_epoch;
            slot.readings.clear();
            slot.stale_after = stale_after;
            match setup {
                Setup::Unusable(mut failure) => {
                    if let Health::Failing(before) = &slot.health {
                        failure.since = before.since;
                    }
                    slot.health = Health::Failing(failure.clone());
                    slot.state = State::Unusable(failure);
                    slot.interests.keys().cloned().collect()
                }
                Setup::Usable { reader, interval } => {
                    slot.health = Health::Pending;
                    let task = session::supervise(self.clone(), key.clone(), slot.epoch, Arc::from(reader), interval);
                    slot.state = State::Running(AbortOnDropHandle::new(tokio::spawn(task)));
                    // Its objects hear of it with the first readings; those it had none for ask anew.
                    Vec::new()
                }
            }
        };
        self.wake.dependents(woken);
    }

    /// Forgets a workspace that is gone; its objects are told.
    pub fn remove(&self, key: &WorkspaceKey) {
        let woken: Vec<Dependent> = {
            let mut inner = self.lock();
            let Some(slot) = inner.slots.get_mut(key) else { return };
            let interests = std::mem::take(&mut slot.interests);
            let woken = interests.keys().cloned().collect();
            *slot = Slot { interests, ..Slot::default() };
            inner.tidy(key);
            woken
        };
        self.wake.dependents(woken);
    }

    /// Notes what `object` asks for, and says what is known. Keys that were not read yet are read at once, and the
    /// object is woken when they are.
    #[must_use]
    pub fn observe(&self, object: &Object, status: &SyncStatus) -> Observation {
        let interest = interest(object, status);
        let mut inner = self.lock();
        let before = inner.assigned.insert(object.id.clone(), object.workspace.clone());
        if let Some(before) = before.filter(|before| *before != object.workspace)
            && let Some(slot) = inner.slots.get_mut(&before)
        {
            slot.interests.remove(&object.id);
            inner.tidy(&before);
        }
        let slot = inner.slots.entry(object.workspace.clone()).or_default();
        let readings: BTreeMap<RemoteKey, Reading> = interest
            .keys()
            .filter_map(|key| slot.readings.get(key).map(|reading| (key.clone(), reading.clone())))
            .collect();
        if readings.len() < interest.len() {
            slot.demand.notify_one();
        }
        slot.interests.insert(object.id.clone(), interest);
        Observation {
            unusable: match &slot.state {
                State::Unusable(failure) => Some(failure.clone()),
                _ => None,
            },
            usable: matches!(slot.state, State::Running(_)),
            stale_after: slot.stale_after,
            readings,
        }
    }

    /// Notes what the target of `object` holds now: what counts as having vanished later.
    pub fn note(&self, object: &Object, status: &SyncStatus) {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.get_mut(&object.workspace)
            && let Some(noted) = slot.interests.get_mut(&object.id)
        {
            *noted = interest(object, status);
        }
    }

    /// Forgets an object that is gone, or that is suspended.
    pub fn forget(&self, dependent: &Dependent) {
        let mut inner = self.lock();
        if let Some(key) = inner.assigned.remove(dependent)
            && let Some(slot) = inner.slots.get_mut(&key)
        {
            slot.interests.remove(dependent);
            inner.tidy(&key);
        }
    }

    /// The workspaces that are known of.
    #[must_use]
    pub fn keys(&self) -> Vec<WorkspaceKey> {
        self.lock().slots.keys().cloned().collect()
    }

    /// The objects that ask for something.
    #[must_use]
    pub fn dependents(&self) -> Vec<Dependent> {
        self.lock().assigned.keys().cloned().collect()
    }

    /// Tells objects to look again.
    pub fn wake_dependents(&self, dependents: Vec<Dependent>) {
        self.wake.dependents(dependents);
    }

    /// How a workspace does.
    #[must_use]
    pub fn health(&self, key: &WorkspaceKey) -> Health {
        self.lock().slots.get(key).map_or(Health::Pending, |slot| slot.health.clone())
    }

    pub(super) fn with<T>(&self, key: &WorkspaceKey, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.lock().slots.get_mut(key).map(f)
    }

    /// As `with`, but only while the workspace is still in the state of `epoch`.
    pub(super) fn in_epoch<T>(&self, key: &WorkspaceKey, epoch: u64, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.lock().slots.get_mut(key).filter(|slot| slot.epoch == epoch).map(f)
    }

    pub(super) fn wake(&self) -> &dyn Wake {
        &*self.wake
    }

    /// A panic while the lock was held leaves maps that are whole: every change to them is a single insert.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of `object`, each with whether its target holds a value of it.
fn interest(object: &Object, status: &SyncStatus) -> Interest {
    let mut interest: Interest = object.remote_keys().into_iter().map(|key| (key, false)).collect();
    for entry in &object.entries {
        let delivered = status.entries.iter().any(|before| before.key == entry.key && is_delivered(before));
        if delivered && let Some(held) = interest.get_mut(&entry.remote) {
            *held = true;
        }
    }
    interest
}
