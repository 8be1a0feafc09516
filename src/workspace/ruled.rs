//! The registry's part in who may read what: the rules of ClusterPrefectWorkspaces, and to whom they apply.
//!
//! What they come to is decided in [`sync::access`](crate::sync::access). Here it is seen to that each object asks only
//! for what it may, that a change of rules or namespaces reaches whom it concerns at once, and that rules never apply to
//! what was read in another state of their workspace.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::registry::{Inner, Workspaces};
use super::slot::{Slot, State};
use crate::api::AccessRule;
use crate::sync::access::{Labels, Tenant, Tenants};
use crate::sync::object::WorkspaceKey;
use crate::sync::{Access, Dependent};

impl Inner {
    /// What a namespace may read of a workspace; `None` while that is not known.
    pub(super) fn access(&mut self, key: &WorkspaceKey, namespace: &str) -> Option<Access> {
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
    pub(super) fn is_past(&self, workspace: &str, fingerprint: &str) -> bool {
        self.states.get(workspace).is_none_or(|state| !fingerprint.contains(state))
    }

    /// Has all who use a workspace ask only for what they may.
    pub(super) fn limit(&mut self, key: &WorkspaceKey, concerns: impl Fn(&Dependent) -> bool) -> Vec<Dependent> {
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
    pub(super) fn children(&self, key: &WorkspaceKey) -> Vec<WorkspaceKey> {
        let is_child = |slot: &Slot| key.is_cluster() && slot.parent.as_ref().is_some_and(|p| p.name == key.name);
        self.slots.iter().filter(|(_, slot)| is_child(slot)).map(|(key, _)| key.clone()).collect()
    }
}

impl Workspaces {
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
        self.wake().dependents(concerned);
        children.iter().for_each(|child| self.wake().workspace(child));
    }

    /// Whether a namespace may read anything through a workspace.
    #[must_use]
    pub fn may_use(&self, key: &WorkspaceKey, namespace: &str) -> bool {
        self.lock().access(key, namespace).is_some_and(|access| !access.is_nothing())
    }
}
