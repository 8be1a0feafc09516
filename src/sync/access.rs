//! Who may read what through a ClusterPrefectWorkspace.
//!
//! [`Rules`] are what its `spec.access` says; [`Access`] is what they come to for one namespace. What is not allowed is
//! not asked of Prefect for that namespace, not kept where a listing comes across it, and fails in the same words
//! whether it exists or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::core::{Expression, Selector, SelectorExt as _};
use wildmatch::WildMatchPattern;

use super::object::{SECRET_BLOCK, WorkspaceKey};
use super::reading::{Failure, Reading};
use super::{Reason, RemoteKey, Timestamp};
use crate::api::{AccessRule, LabelOperator, NAMESPACE_PLACEHOLDER, NamespaceSelector};

/// The labels of a namespace.
pub type Labels = BTreeMap<String, String>;

/// `*` stands for any text; no other character means anything but itself.
type Pattern = WildMatchPattern<'*', '\0'>;

/// The access rules of one ClusterPrefectWorkspace.
#[derive(Debug, PartialEq)]
pub struct Rules {
    workspace: String,
    rules: Vec<Rule>,
}

#[derive(Debug, PartialEq)]
struct Rule {
    who: Who,
    /// Patterns as written.
    keys: Vec<String>,
    /// Every type where there are none.
    block_types: BTreeSet<String>,
    variables: bool,
}

#[derive(Debug, PartialEq)]
enum Who {
    Named(BTreeSet<String>),
    Selected(Selector),
}

impl Who {
    fn is(&self, namespace: &str, labels: &Labels) -> bool {
        match self {
            Self::Named(names) => names.contains(namespace),
            Self::Selected(selector) => selector.matches(labels),
        }
    }
}

impl Rules {
    /// The rules of the workspace of this name.
    #[must_use]
    pub fn new(workspace: &str, access: &[AccessRule]) -> Self {
        let rule = |rule: &AccessRule| Rule {
            who: match &rule.namespace_selector {
                // The CRD lets no rule have both; of one that does, the names hold.
                Some(selector) if rule.namespaces.is_empty() => Who::Selected(labels_of(selector)),
                _ => Who::Named(rule.namespaces.iter().cloned().collect()),
            },
            keys: rule.keys.clone(),
            block_types: rule.block_types.iter().cloned().collect(),
            variables: rule.variables.unwrap_or(rule.block_types.is_empty()),
        };
        Self { workspace: workspace.to_owned(), rules: access.iter().map(rule).collect() }
    }

    /// Whether what `namespace` may read can depend on `other`, by the names alone.
    fn are_rivals(&self, namespace: &str, other: &str) -> bool {
        let mut keys = self.rules.iter().flat_map(|rule| &rule.keys).filter(|key| key.contains(NAMESPACE_PLACEHOLDER));
        other.len() >= namespace.len() && keys.any(|key| may_overlap(&expand(key, namespace), &expand(key, other)))
    }

    /// What they come to for `namespace`, which is one of `namespaces`.
    #[must_use]
    pub fn access(&self, namespace: &str, namespaces: &BTreeMap<String, Labels>) -> Access {
        let none = Labels::new();
        let labels = namespaces.get(namespace).unwrap_or(&none);
        let grant = |rule: &Rule| Grant {
            keys: rule.keys.iter().map(|key| self.claim(key, namespace, namespaces)).collect(),
            block_types: rule.block_types.clone(),
            variables: rule.variables,
        };
        let grants = self.rules.iter().filter(|rule| rule.who.is(namespace, labels)).map(grant).collect();
        let granted = Granted { workspace: self.workspace.clone(), namespace: namespace.to_owned(), grants };
        Access { granted: Some(Arc::new(granted)), own: None }
    }

    /// What one pattern gives a namespace: not what it would give to others of longer names, as `{namespace}-*` does where
    /// there are `data` and `data-science`; nor what it would give to one of a name as long. Whether those may read it is
    /// no matter: what is taken from one namespace must not fall to another.
    fn claim(&self, key: &str, namespace: &str, namespaces: &BTreeMap<String, Labels>) -> Claim {
        let pattern = expand(key, namespace);
        let mut closer = Vec::new();
        if pattern != key {
            let longer = namespaces.keys().filter(|rival| *rival != namespace && rival.len() >= namespace.len());
            closer = longer
                .map(|rival| expand(key, rival))
                .filter(|theirs| may_overlap(&pattern, theirs))
                .map(|theirs| Pattern::new(&theirs))
                .collect();
        }
        Claim { pattern: Pattern::new(&pattern), closer }
    }
}

fn expand(key: &str, namespace: &str) -> String {
    key.replace(NAMESPACE_PLACEHOLDER, namespace)
}

/// Whether a name may match both patterns, by what they begin and end with.
fn may_overlap(one: &str, other: &str) -> bool {
    let (Some((head, _)), Some((other_head, _))) = (one.split_once('*'), other.split_once('*')) else {
        return one == other;
    };
    let tail = one.rsplit('*').next().unwrap_or_default();
    let other_tail = other.rsplit('*').next().unwrap_or_default();
    (head.starts_with(other_head) || other_head.starts_with(head))
        && (tail.ends_with(other_tail) || other_tail.ends_with(tail))
}

fn labels_of(selector: &NamespaceSelector) -> Selector {
    let equal = selector.match_labels.iter().map(|(key, value)| Expression::Equal(key.clone(), value.clone()));
    let expressions = selector.match_expressions.iter().map(|requirement| {
        let key = requirement.key.clone();
        let values = || requirement.values.iter().cloned().collect();
        match requirement.operator {
            LabelOperator::In => Expression::In(key, values()),
            LabelOperator::NotIn => Expression::NotIn(key, values()),
            LabelOperator::Exists => Expression::Exists(key),
            LabelOperator::DoesNotExist => Expression::DoesNotExist(key),
        }
    });
    equal.chain(expressions).collect()
}

/// What one namespace may read of one workspace. The default is everything: a workspace of one's own. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    granted: Option<Arc<Granted>>,
    /// The local secrets that the namespace itself has put over the workspace.
    own: Option<Arc<BTreeSet<String>>>,
}

#[derive(Debug, PartialEq)]
struct Granted {
    workspace: String,
    namespace: String,
    grants: Vec<Grant>,
}

#[derive(Debug, PartialEq)]
struct Grant {
    keys: Vec<Claim>,
    block_types: BTreeSet<String>,
    variables: bool,
}

#[derive(Debug, PartialEq)]
struct Claim {
    pattern: Pattern,
    /// What the same pattern would give to namespaces of names at least as long.
    closer: Vec<Pattern>,
}

impl Claim {
    fn is_of(&self, name: &str) -> bool {
        self.pattern.matches(name) && !self.closer.iter().any(|closer| closer.matches(name))
    }
}

impl Grant {
    fn has_type(&self, block_type: Option<&str>) -> bool {
        match block_type {
            Some(block_type) => self.block_types.is_empty() || self.block_types.contains(block_type),
            None => self.variables,
        }
    }

    fn has(&self, block_type: Option<&str>, name: &str) -> bool {
        self.has_type(block_type) && self.keys.iter().any(|claim| claim.is_of(name))
    }
}

impl Access {
    /// Nothing at all: what is not known to be allowed is not asked for.
    #[must_use]
    pub fn nothing() -> Self {
        let granted = Granted { workspace: String::new(), namespace: String::new(), grants: Vec::new() };
        Self { granted: Some(Arc::new(granted)), own: None }
    }

    /// The same over which the namespace has put local secrets of its own.
    #[must_use]
    pub fn under(self, own: Arc<BTreeSet<String>>) -> Self {
        Self { own: Some(own), ..self }
    }

    /// Whether the namespace has put a local secret of that name over the workspace.
    #[must_use]
    pub fn has_own(&self, local: &str) -> bool {
        self.own.as_ref().is_some_and(|own| own.contains(local))
    }

    /// Whether it may be read.
    #[must_use]
    pub fn allows(&self, key: &RemoteKey) -> bool {
        let has = |name: &str| self.gives(key.block_type(), name);
        match key {
            _ if key.local_name().is_some_and(|local| self.has_own(local)) => true,
            // The workspace's local secrets have names, too; but one's own are all that goes under another name there.
            RemoteKey::LocalSecret { name, local } => has(name) && (self.own.is_some() || has(local)),
            RemoteKey::Block { name, .. } | RemoteKey::Variable { name } => has(name),
            // What it finds is looked at one by one.
            RemoteKey::Listing(_) => self.allows_type(key.block_type()),
        }
    }

    /// Whether what has that name may be read: a block of that type, or a variable (`None`).
    #[must_use]
    pub fn allows_named(&self, block_type: Option<&str>, name: &str) -> bool {
        self.gives(block_type, name) || (block_type == Some(SECRET_BLOCK) && self.has_own(name))
    }

    /// Whether the rules give a block of that type, or a variable (`None`), of that name: one's own local secrets are
    /// another matter.
    #[must_use]
    pub fn gives(&self, block_type: Option<&str>, name: &str) -> bool {
        let Some(granted) = &self.granted else { return true };
        granted.grants.iter().any(|grant| grant.has(block_type, name))
    }

    /// Whether any block of a type, or any variable (`None`), may be read.
    #[must_use]
    pub fn allows_type(&self, block_type: Option<&str>) -> bool {
        let Some(granted) = &self.granted else { return true };
        (self.own.is_some() && block_type == Some(SECRET_BLOCK))
            || granted.grants.iter().any(|grant| grant.has_type(block_type))
    }

    /// Whether nothing at all may be read.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.own.is_none() && self.granted.as_ref().is_some_and(|granted| granted.grants.is_empty())
    }

    /// Whether some keys may not be read.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.granted.is_some()
    }

    /// What stands for the readings of keys that are not allowed.
    pub fn refusals<'a>(
        &'a self,
        keys: &'a [RemoteKey],
        now: Timestamp,
    ) -> impl Iterator<Item = (RemoteKey, Reading)> + 'a {
        keys.iter().map(move |key| (key.clone(), self.refused(key, now)))
    }

    /// What stands for the reading of a key that is not allowed.
    #[must_use]
    pub fn refused(&self, key: &RemoteKey, now: Timestamp) -> Reading {
        let (namespace, workspace) = match &self.granted {
            Some(granted) => (granted.namespace.as_str(), granted.workspace.as_str()),
            None => ("", ""),
        };
        let message = if self.is_nothing() {
            format!(
                "namespace {namespace:?} may not read anything through ClusterPrefectWorkspace {workspace:?}; ask those who run it for a rule in its spec.access, or use a workspace of your own"
            )
        } else {
            format!(
                "namespace {namespace:?} may not read {key} through ClusterPrefectWorkspace {workspace:?}; correct the name (or narrow find), or ask those who run it for a rule in its spec.access"
            )
        };
        let failure = Failure { reason: Reason::NotAllowed, message, since: now, workspace_wide: false };
        Reading { failure: Some(failure), ..Reading::default() }
    }
}

/// What every namespace may read of every ClusterPrefectWorkspace, as far as somebody asked.
#[derive(Debug, Default)]
pub struct Tenants {
    /// `None` until they have been listed.
    namespaces: Option<BTreeMap<String, Labels>>,
    rules: BTreeMap<String, Rules>,
    /// Of those that exist, as far as somebody asked.
    known: BTreeMap<Tenant, Access>,
}

/// A namespace that uses a ClusterPrefectWorkspace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenant {
    /// The workspace's name.
    pub workspace: String,
    /// The namespace's name.
    pub namespace: String,
}

impl Tenants {
    /// What a namespace may read; `None` while the namespace or the workspace is not known.
    pub fn access(&mut self, tenant: &Tenant) -> Option<Access> {
        if let Some(known) = self.known.get(tenant) {
            return Some(known.clone());
        }
        let access = self.resolve(tenant)?;
        self.known.insert(tenant.clone(), access.clone());
        Some(access)
    }

    fn resolve(&self, Tenant { workspace, namespace }: &Tenant) -> Option<Access> {
        let namespaces = self.namespaces.as_ref().filter(|namespaces| namespaces.contains_key(namespace))?;
        Some(self.rules.get(workspace)?.access(namespace, namespaces))
    }

    /// All namespaces there are. Returns whose access is another than before, of those who ask; so do the others.
    pub fn set_namespaces(&mut self, namespaces: BTreeMap<String, Labels>, asking: Vec<Tenant>) -> Vec<Tenant> {
        if self.namespaces.as_ref() == Some(&namespaces) {
            return Vec::new();
        }
        self.namespaces = Some(namespaces);
        let asking_still: BTreeSet<&Tenant> = asking.iter().collect();
        self.known.retain(|tenant, _| asking_still.contains(tenant));
        self.renew(asking)
    }

    /// A namespace is new, or has other labels; or it is gone, with `None`.
    pub fn set_namespace(&mut self, namespace: &str, labels: Option<Labels>, asking: Vec<Tenant>) -> Vec<Tenant> {
        let Some(namespaces) = &mut self.namespaces else { return Vec::new() };
        if namespaces.get(namespace) == labels.as_ref() {
            return Vec::new();
        }
        match labels {
            Some(labels) => drop(namespaces.insert(namespace.to_owned(), labels)),
            None => {
                namespaces.remove(namespace);
                self.known.retain(|tenant, _| tenant.namespace != namespace);
            }
        }
        let are_rivals = |tenant: &Tenant| {
            self.rules.get(&tenant.workspace).is_some_and(|rules| rules.are_rivals(&tenant.namespace, namespace))
        };
        let is_concerned = |tenant: &Tenant| tenant.namespace == namespace || are_rivals(tenant);
        let unasked: Vec<Tenant> = self.known.keys().filter(|tenant| is_concerned(tenant)).cloned().collect();
        let concerned: Vec<Tenant> = asking.into_iter().filter(|tenant| is_concerned(tenant)).collect();
        // Of the others nothing stale is to be found later.
        let stale = unasked.into_iter().filter(|tenant| !concerned.contains(tenant));
        for tenant in stale.collect::<Vec<_>>() {
            self.known.remove(&tenant);
        }
        self.renew(concerned)
    }

    /// The workspaces whose rules are known.
    #[must_use]
    pub fn workspaces(&self) -> Vec<String> {
        self.rules.keys().cloned().collect()
    }

    /// A workspace is new, or has other rules; or it is gone, with `None`.
    pub fn set_rules(
        &mut self,
        workspace: &str,
        access: Option<&[AccessRule]>,
        mut asking: Vec<Tenant>,
    ) -> Vec<Tenant> {
        let rules = access.map(|access| Rules::new(workspace, access));
        if self.rules.get(workspace) == rules.as_ref() {
            return Vec::new();
        }
        match rules {
            Some(rules) => drop(self.rules.insert(workspace.to_owned(), rules)),
            None => drop(self.rules.remove(workspace)),
        }
        asking.retain(|tenant| tenant.workspace == workspace);
        self.known.retain(|tenant, _| tenant.workspace != workspace || asking.contains(tenant));
        self.renew(asking)
    }

    /// Of these, those whose access is another than before.
    fn renew(&mut self, mut concerned: Vec<Tenant>) -> Vec<Tenant> {
        concerned.retain(|tenant| {
            let access = self.resolve(tenant);
            // The same again is the one that is held already.
            let is_other = self.known.get(tenant) != access.as_ref();
            if is_other {
                self.known.remove(tenant);
                self.known.extend(access.map(|access| (tenant.clone(), access)));
            }
            is_other
        });
        concerned
    }
}

impl Tenant {
    /// The namespace as a user of the workspace, if that is one of the whole cluster.
    #[must_use]
    pub fn of(workspace: &WorkspaceKey, namespace: &str) -> Option<Self> {
        workspace.is_cluster().then(|| Self { workspace: workspace.name.clone(), namespace: namespace.to_owned() })
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
