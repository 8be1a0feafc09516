//! The registry of sessions: who asks for what of which workspace.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::reader::Reader;
use super::session::{self, Session};
use super::slot::{Parent, Slot, State};
use super::timing::Clock;
use crate::api::SyncStatus;
use crate::sync::access::Tenants;
use crate::sync::interest::Interest;
use crate::sync::object::WorkspaceKey;
use crate::sync::workspace::Health;
use crate::sync::{Access, Dependent, Failure, Object, Reading, RemoteKey, Timestamp};
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

/// Which state a workspace is in.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Names it: UID, specification and versions of the credentials (but not who may read what, which takes effect without
    /// a new session). The same one again changes nothing, another begins a new epoch.
    pub fingerprint: &'a str,
    /// How long objects stay Ready through an outage.
    pub stale_after: Duration,
    /// The ClusterPrefectWorkspace that it puts local secrets of its own over.
    pub parent: Option<&'a str>,
    /// Whether it reads that one: not where the rules give its namespace nothing.
    pub reads_parent: bool,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) slots: HashMap<WorkspaceKey, Slot>,
    assigned: HashMap<Dependent, WorkspaceKey>,
    /// Who may read what of the ClusterPrefectWorkspaces.
    pub(super) tenants: Tenants,
    /// In which state each of these is now: part of the fingerprint of every session that reads it.
    pub(super) states: BTreeMap<String, String>,
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

    /// Puts a workspace into a state.
    pub fn set(&self, key: &WorkspaceKey, situation: Situation<'_>, setup: Setup) {
        let Situation { fingerprint, stale_after, parent, reads_parent } = situation;
        let ruled_by = parent.or(key.is_cluster().then_some(key.name.as_str()));
        let (woken, children) = {
            let mut inner = self.lock();
            // It was changed while this was gathered: its rules hold already, and are not for this state.
            if matches!(setup, Setup::Usable { .. }) && ruled_by.is_some_and(|by| inner.is_past(by, fingerprint)) {
                drop(inner);
                self.wake.workspace(key);
                return;
            }
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
            let own = match &setup {
                Setup::Usable { reader, .. } => reader.own.clone().unwrap_or_default(),
                Setup::Unusable(_) => Arc::default(),
            };
            let is_limited = slot.parent.is_some() || parent.is_some();
            slot.parent = parent.map(|name| Parent { name: name.to_owned(), own, is_read: reads_parent });
            let is_usable = matches!(setup, Setup::Usable { .. });
            match setup {
                Setup::Unusable(mut failure) => {
                    if let Health::Failing(before) = &slot.health {
                        failure.since = before.since;
                    }
                    slot.health = Health::Failing(failure.clone());
                    slot.state = State::Unusable(failure);
                }
                Setup::Usable { reader, interval } => {
                    slot.interval = interval;
                    slot.health = Health::Pending;
                    slot.refreshed = Instant::now();
                    let session = Session {
                        key: key.clone(),
                        epoch: slot.epoch,
                        reader: Arc::from(reader),
                        interval,
                        stale_after,
                        clock: Clock::start(),
                    };
                    let task = AbortOnDropHandle::new(tokio::spawn(session::supervise(self.clone(), session)));
                    slot.state = State::Running(task);
                }
            }
            let mut users = inner.limit(key, |_| true);
            // They hear of it with the first readings, but for those who may read nothing, or something else than before.
            if is_usable && !is_limited {
                let slot = inner.slots.get(key);
                users.retain(|user| slot.is_some_and(|slot| !slot.snapshot.asks_for_more_than(user, 0)));
            }
            let children = inner.children(key);
            // The rules changed while this was gathered.
            let is_behind = parent.is_some() && is_usable && inner.access(key, &key.namespace).is_none();
            (users, children.into_iter().chain(is_behind.then(|| key.clone())).collect::<Vec<_>>())
        };
        self.wake.gently(woken);
        children.iter().for_each(|child| self.wake.workspace(child));
    }

    /// Forgets a workspace that is gone; its objects are told.
    pub fn remove(&self, key: &WorkspaceKey) {
        let (woken, children): (Vec<Dependent>, _) = {
            let mut inner = self.lock();
            let children = inner.children(key);
            let Some(slot) = inner.slots.get_mut(key) else { return };
            slot.parent = None;
            slot.end();
            let woken = slot.snapshot.dependents().cloned().collect();
            inner.tidy(key);
            (woken, children)
        };
        self.wake.gently(woken);
        children.iter().for_each(|child| self.wake.workspace(child));
    }

    /// Tells the objects for which `select` holds to look again for their workspace.
    pub fn wake_users(&self, select: impl Fn(&Dependent, &WorkspaceKey) -> bool) {
        let inner = self.lock();
        let users =
            inner.assigned.iter().filter(|(user, key)| select(user, key)).map(|(user, _)| user.clone()).collect();
        drop(inner);
        self.wake.gently(users);
    }

    /// Notes what `object` asks for, and says what is known. Keys that were not read yet are read at once, and the
    /// object is woken when they are.
    #[must_use]
    pub fn observe(&self, object: &Object, status: &SyncStatus) -> Observation {
        // Not under the lock: it compiles the object's expressions.
        let mut interest = Interest::of(object, status);
        let mut inner = self.lock();
        let before = inner.assigned.insert(object.id.clone(), object.workspace.clone());
        if let Some(former) = before.filter(|before| *before != object.workspace) {
            inner.forget(&object.id, &former);
        }
        let access = inner.access(&object.workspace, &object.id.namespace);
        let refused = interest.limit(access.clone().unwrap_or_else(Access::nothing));
        let slot = inner.slots.entry(object.workspace.clone()).or_default();
        let mut readings = slot.snapshot.observe(&object.id, interest);
        // Also in an outage, which may be over.
        let is_unread = slot.snapshot.asks_for_more_than(&object.id, readings.len());
        if is_unread || readings.values().any(|reading| reading.answer.is_none()) || slot.snapshot.has_forced() {
            slot.demand.notify_one();
        }
        let unusable = match &slot.state {
            State::Unusable(failure) => Some(failure.clone()),
            _ => None,
        };
        let usable = matches!(slot.state, State::Running(_)) && access.is_some();
        let (stale_after, refreshed) = (slot.stale_after, slot.snapshot.refreshed(&object.id));
        drop(inner);
        readings.extend(access.iter().flat_map(|access| access.refusals(&refused, Timestamp::now())));
        Observation { unusable, usable, stale_after, readings, refreshed }
    }

    /// Notes what the target of `object` holds now: what counts as having vanished later.
    pub fn note(&self, object: &Object, status: &SyncStatus) {
        let mut interest = Interest::of(object, status);
        let mut inner = self.lock();
        let access = inner.access(&object.workspace, &object.id.namespace);
        interest.limit(access.unwrap_or_else(Access::nothing));
        if let Some(slot) = inner.slots.get_mut(&object.workspace) {
            slot.snapshot.note(&object.id, interest);
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

    /// The workspaces that exist, as far as they have been looked at.
    #[must_use]
    pub fn keys_in_use(&self) -> HashSet<WorkspaceKey> {
        let inner = self.lock();
        inner
            .slots
            .iter()
            .filter(|(_, slot)| !matches!(slot.state, State::Unknown))
            .map(|(key, _)| key.clone())
            .collect()
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
                interval: slot.interval,
                streaming: slot.streaming,
            })
            .collect()
    }

    pub(super) fn pulse(&self, key: &WorkspaceKey) -> Pulse {
        self.pulses.register(format!("session of {key}"), session::STALLED)
    }

    /// Whether a workspace is in that state already.
    #[must_use]
    pub fn is_in(&self, key: &WorkspaceKey, fingerprint: &str) -> bool {
        self.lock().slots.get(key).is_some_and(|slot| slot.fingerprint == fingerprint)
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
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
