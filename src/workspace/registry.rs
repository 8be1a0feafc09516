//! The registry of sessions: who asks for what of which workspace.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::reader::Reader;
use super::session::{self, Session};
use super::slot::{Slot, State};
use crate::api::SyncStatus;
use crate::sync::interest::Interest;
use crate::sync::object::WorkspaceKey;
use crate::sync::workspace::Health;
use crate::sync::{Dependent, Failure, Object, Reading, RemoteKey};
use crate::telemetry::{Pulse, Pulses, SessionState};

/// Who is told that something changed. Implemented by the controllers.
pub trait Wake: Send + Sync + 'static {
    /// One of these objects' readings, or their workspace, changed.
    fn dependents(&self, dependents: Vec<Dependent>);
    /// The same where there is no hurry: many of them are spread over time.
    fn gently(&self, dependents: Vec<Dependent>);
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
    /// The request to read its keys at once that has been done.
    pub refreshed: Option<String>,
}

/// All sessions. Cheap to clone; the lock is held for moments only, never across I/O.
#[derive(Clone)]
pub struct Workspaces {
    inner: Arc<Mutex<Inner>>,
    wake: Arc<dyn Wake>,
    pulses: Pulses,
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
        if self.slots.get(key).is_some_and(Slot::is_idle) {
            self.slots.remove(key);
        }
    }

    fn forget(&mut self, dependent: &Dependent, key: &WorkspaceKey) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.snapshot.forget(dependent);
            slot.changed.remove(dependent);
            self.tidy(key);
        }
    }
}

impl Workspaces {
    /// An empty registry that tells `wake`; its sessions show in `pulses` that they are alive.
    pub fn new(wake: Arc<dyn Wake>, pulses: Pulses) -> Self {
        Self { inner: Arc::default(), wake, pulses }
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
            slot.snapshot.begin_epoch();
            slot.changed.clear();
            slot.streaming = false;
            slot.stale_after = stale_after;
            match setup {
                Setup::Unusable(mut failure) => {
                    if let Health::Failing(before) = &slot.health {
                        failure.since = before.since;
                    }
                    slot.health = Health::Failing(failure.clone());
                    slot.state = State::Unusable(failure);
                    slot.snapshot.dependents().cloned().collect()
                }
                Setup::Usable { reader, interval } => {
                    slot.health = Health::Pending;
                    slot.refreshed = Instant::now();
                    let session = Session {
                        key: key.clone(),
                        epoch: slot.epoch,
                        reader: Arc::from(reader),
                        interval,
                        stale_after,
                    };
                    let task = session::supervise(self.clone(), session);
                    slot.state = State::Running(AbortOnDropHandle::new(tokio::spawn(task)));
                    // Its objects hear of it with the first readings; those it had none for ask anew.
                    Vec::new()
                }
            }
        };
        self.wake.gently(woken);
    }

    /// Forgets a workspace that is gone; its objects are told.
    pub fn remove(&self, key: &WorkspaceKey) {
        let woken: Vec<Dependent> = {
            let mut inner = self.lock();
            let Some(slot) = inner.slots.get_mut(key) else { return };
            let mut snapshot = std::mem::take(&mut slot.snapshot);
            snapshot.begin_epoch();
            let woken = snapshot.dependents().cloned().collect();
            *slot = Slot { snapshot, ..Slot::default() };
            inner.tidy(key);
            woken
        };
        self.wake.gently(woken);
    }

    /// Notes what `object` asks for, and says what is known. Keys that were not read yet are read at once, and the
    /// object is woken when they are.
    #[must_use]
    pub fn observe(&self, object: &Object, status: &SyncStatus) -> Observation {
        let interest = Interest::of(object, status);
        let mut inner = self.lock();
        let before = inner.assigned.insert(object.id.clone(), object.workspace.clone());
        if let Some(before) = before.filter(|before| *before != object.workspace) {
            inner.forget(&object.id, &before);
        }
        let slot = inner.slots.entry(object.workspace.clone()).or_default();
        let readings = slot.snapshot.observe(&object.id, interest);
        // Also in an outage, which may be over.
        let is_unread = slot.snapshot.asks_for_more_than(&object.id, readings.len());
        if is_unread || readings.values().any(|reading| reading.answer.is_none()) || slot.snapshot.has_forced() {
            slot.demand.notify_one();
        }
        Observation {
            unusable: match &slot.state {
                State::Unusable(failure) => Some(failure.clone()),
                _ => None,
            },
            usable: matches!(slot.state, State::Running(_)),
            stale_after: slot.stale_after,
            refreshed: slot.snapshot.refreshed(&object.id),
            readings,
        }
    }

    /// Notes what the target of `object` holds now: what counts as having vanished later.
    pub fn note(&self, object: &Object, status: &SyncStatus) {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.get_mut(&object.workspace) {
            slot.snapshot.note(&object.id, Interest::of(object, status));
        }
    }

    /// The target of `object` follows: how long that took since Prefect's change was seen or, where no event announced
    /// it, at most took since the read before; `None` when it was no change of Prefect's.
    pub fn delivered(&self, object: &Object) -> Option<Duration> {
        let mut inner = self.lock();
        let changed = inner.slots.get_mut(&object.workspace)?.changed.remove(&object.id)?;
        Some(changed.elapsed())
    }

    /// Forgets an object that is gone, or that is suspended.
    pub fn forget(&self, dependent: &Dependent) {
        let mut inner = self.lock();
        if let Some(key) = inner.assigned.remove(dependent) {
            inner.forget(dependent, &key);
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

    /// How all sessions do, for metrics.
    #[must_use]
    pub fn states(&self) -> Vec<SessionState> {
        let inner = self.lock();
        let running = inner.slots.iter().filter(|(_, slot)| matches!(slot.state, State::Running(_)));
        running
            .map(|(key, slot)| SessionState {
                namespace: key.namespace.clone(),
                workspace: key.name.clone(),
                age: slot.refreshed.elapsed(),
                streaming: slot.streaming,
            })
            .collect()
    }

    pub(super) fn pulse(&self, key: &WorkspaceKey) -> Pulse {
        self.pulses.register(format!("session of {key}"), session::STALLED)
    }

    /// How a workspace does.
    #[must_use]
    pub fn health(&self, key: &WorkspaceKey) -> Health {
        self.lock().slots.get(key).map_or(Health::Pending, |slot| slot.health.clone())
    }

    /// Looks at a workspace, as long as it is still in the state of `epoch`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkspaceKind;

    struct Nobody;

    impl Wake for Nobody {
        fn dependents(&self, _: Vec<Dependent>) {}
        fn gently(&self, _: Vec<Dependent>) {}
        fn workspace(&self, _: &WorkspaceKey) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_shows_that_it_lives_and_how_old_its_snapshot_is_until_it_is_gone() {
        let pulses = Pulses::default();
        let workspaces = Workspaces::new(Arc::new(Nobody), pulses.clone());
        let key =
            WorkspaceKey { kind: WorkspaceKind::PrefectWorkspace, namespace: "flows".into(), name: "default".into() };
        let reader = Box::new(Reader::default());
        let interval = Duration::from_secs(600);
        workspaces.set(&key, "1", Duration::ZERO, Setup::Usable { reader, interval });
        // Longer than the loop may stand still, and much longer than it has anything to do.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(pulses.stalled(), []);
            let age = workspaces.states()[0].age;
            assert!(age <= interval, "{age:?}");
        }
        assert!(matches!(workspaces.health(&key), Health::Well { .. }));
        workspaces.remove(&key);
        tokio::time::sleep(session::STALLED * 2).await;
        assert_eq!(pulses.stalled(), [], "what is gone is missed by nobody");
        assert_eq!(workspaces.states(), []);
    }
}
