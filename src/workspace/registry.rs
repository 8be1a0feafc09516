//! The registry of sessions: who asks for what of which workspace.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::reader::Reader;
use super::session::{self, Session};
use super::slot::{Parent, Slot, State};
use super::timing::Clock;
use crate::api::{AccessRule, SyncStatus};
use crate::sync::access::{Labels, Tenant, Tenants};
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
    /// Names it (UID, generation, versions of the credentials): the same one again changes nothing, another begins a new
    /// epoch.
    pub fingerprint: &'a str,
    /// How long objects stay Ready through an outage.
    pub stale_after: Duration,
    /// The ClusterPrefectWorkspace that it puts local secrets of its own over.
    pub parent: Option<&'a str>,
    /// Whether it reads that one: not where the rules give its namespace nothing.
    pub reads_parent: bool,
}

#[derive(Default)]
struct Inner {
    slots: HashMap<WorkspaceKey, Slot>,
    assigned: HashMap<Dependent, WorkspaceKey>,
    /// Who may read what of the ClusterPrefectWorkspaces.
    tenants: Tenants,
    /// In which state each of these is now: part of the fingerprint of every session that reads it.
    states: BTreeMap<String, String>,
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

    /// What a namespace may read of a workspace; `None` while that is not known.
    fn access(&mut self, key: &WorkspaceKey, namespace: &str) -> Option<Access> {
        let parent = self.slots.get(key).and_then(|slot| slot.parent.clone());
        let workspace = match &parent {
            Some(parent) => WorkspaceKey::cluster(&parent.name),
            None => key.clone(),
        };
        let Some(tenant) = Tenant::of(&workspace, namespace) else { return Some(Access::default()) };
        let access = self.tenants.access(&tenant)?;
        let Some(parent) = parent else { return Some(access) };
        // A session without the parent has nothing to say of what the rules give by now; another is on its way.
        let is_behind = !parent.is_read && !access.is_nothing();
        (!is_behind).then(|| access.under(parent.own))
    }

    /// Whether a session with this fingerprint would read a ClusterPrefectWorkspace in a state that is past.
    fn is_past(&self, workspace: &str, fingerprint: &str) -> bool {
        self.states.get(workspace).is_none_or(|state| !fingerprint.contains(state))
    }

    /// Has all who use a workspace ask only for what they may.
    fn limit(&mut self, key: &WorkspaceKey, concerns: impl Fn(&Dependent) -> bool) -> Vec<Dependent> {
        let users = self.slots.get(key).into_iter().flat_map(|slot| slot.snapshot.dependents());
        let users: Vec<Dependent> = users.filter(|user| concerns(user)).cloned().collect();
        for user in &users {
            let access = self.access(key, &user.namespace).unwrap_or_else(Access::nothing);
            if let Some(slot) = self.slots.get_mut(key) {
                slot.snapshot.limit(user, access);
            }
        }
        users
    }

    /// Namespaces may read other keys than before. Returns whom that concerns.
    fn limit_tenants(&mut self, changed: &[Tenant]) -> Vec<Dependent> {
        let slots: Vec<(WorkspaceKey, String)> =
            self.ruled().map(|(key, by, _)| (key.clone(), by.to_owned())).collect();
        let mut concerned = Vec::new();
        for (key, workspace) in slots {
            let namespaces: HashSet<&str> =
                changed.iter().filter(|tenant| tenant.workspace == workspace).map(|t| t.namespace.as_str()).collect();
            if !namespaces.is_empty() {
                concerned.extend(self.limit(&key, |user| namespaces.contains(user.namespace.as_str())));
            }
        }
        concerned
    }

    /// The workspaces to which the rules of a ClusterPrefectWorkspace apply, each with its name.
    fn ruled(&self) -> impl Iterator<Item = (&WorkspaceKey, &str, &Slot)> {
        self.slots.iter().filter_map(|(key, slot)| {
            let own = key.is_cluster().then_some(key.name.as_str());
            Some((key, slot.parent.as_ref().map(|parent| parent.name.as_str()).or(own)?, slot))
        })
    }

    /// Who asks for something to which such rules apply.
    fn asking(&self) -> Vec<Tenant> {
        let tenant = |workspace: &str, namespace: &str| Tenant {
            workspace: workspace.to_owned(),
            namespace: namespace.to_owned(),
        };
        let mut asking = BTreeSet::new();
        for (key, by, slot) in self.ruled() {
            let users: HashSet<&str> = slot.snapshot.dependents().map(|user| user.namespace.as_str()).collect();
            asking.extend(users.into_iter().map(|namespace| tenant(by, namespace)));
            // One that has no users yet has a session all the same.
            asking.extend((!key.is_cluster()).then(|| tenant(by, &key.namespace)));
        }
        asking.into_iter().collect()
    }

    /// Ends the sessions to which other rules are about to apply, as far as they are of another state of their workspace:
    /// what was read in that one is for those who might read it then.
    fn end_others(&mut self, workspace: &str, state: &str) {
        let others: Vec<WorkspaceKey> = self
            .ruled()
            .filter(|(_, by, slot)| *by == workspace && matches!(slot.state, State::Running(_)))
            .filter(|(_, _, slot)| !slot.fingerprint.contains(state))
            .map(|(key, ..)| key.clone())
            .collect();
        for key in others {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.end();
            }
        }
    }

    /// The workspaces that put local secrets over this one.
    fn children(&self, key: &WorkspaceKey) -> Vec<WorkspaceKey> {
        let is_child = |slot: &Slot| key.is_cluster() && slot.parent.as_ref().is_some_and(|p| p.name == key.name);
        self.slots.iter().filter(|(_, slot)| is_child(slot)).map(|(key, _)| key.clone()).collect()
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

    /// The access rules of a ClusterPrefectWorkspace, and how the fingerprint of a session in its present state begins;
    /// `None` when it is gone.
    pub fn set_rules(&self, workspace: &str, rules: Option<(&[AccessRule], &str)>) {
        let access = rules.map(|(access, _)| access);
        self.change_tenants(
            |inner| match rules {
                Some((_, state)) => {
                    inner.states.insert(workspace.to_owned(), state.to_owned());
                    inner.end_others(workspace, state);
                }
                None => drop(inner.states.remove(workspace)),
            },
            |tenants, asking| tenants.set_rules(workspace, access, asking),
        );
    }

    /// The ClusterPrefectWorkspaces whose rules are known.
    #[must_use]
    pub fn with_rules(&self) -> Vec<String> {
        self.lock().tenants.workspaces()
    }

    /// All namespaces there are, with their labels.
    pub fn set_namespaces(&self, namespaces: BTreeMap<String, Labels>) {
        self.change_tenants(|_| {}, |tenants, asking| tenants.set_namespaces(namespaces, asking));
    }

    /// A namespace and its labels; `None` when it is gone.
    pub fn set_namespace(&self, namespace: &str, labels: Option<Labels>) {
        self.change_tenants(|_| {}, |tenants, asking| tenants.set_namespace(namespace, labels, asking));
    }

    fn change_tenants(
        &self,
        before: impl FnOnce(&mut Inner),
        change: impl FnOnce(&mut Tenants, Vec<Tenant>) -> Vec<Tenant>,
    ) {
        let (concerned, children) = {
            let mut inner = self.lock();
            before(&mut inner);
            let asking = inner.asking();
            let changed = change(&mut inner.tenants, asking);
            let is_of = |(key, by, _): &(&WorkspaceKey, &str, &Slot)| {
                let is_changed = |tenant: &Tenant| tenant.workspace == *by && tenant.namespace == key.namespace;
                !key.is_cluster() && changed.iter().any(is_changed)
            };
            let children: Vec<WorkspaceKey> = inner.ruled().filter(is_of).map(|(key, ..)| key.clone()).collect();
            (if changed.is_empty() { Vec::new() } else { inner.limit_tenants(&changed) }, children)
        };
        // At once: whoever takes a key away means now.
        self.wake.dependents(concerned);
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

    /// Whether a namespace may read anything through a workspace.
    #[must_use]
    pub fn may_use(&self, key: &WorkspaceKey, namespace: &str) -> bool {
        self.lock().access(key, namespace).is_some_and(|access| !access.is_nothing())
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
#[path = "registry_tests.rs"]
mod tests;
