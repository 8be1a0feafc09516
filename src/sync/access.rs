//! Who may read what through a ClusterPrefectWorkspace.
//!
//! [`Rules`] are what its `spec.access` says; [`Access`] is what they come to for one namespace. What is not allowed is
//! never asked of Prefect for that namespace, and fails in the same words whether it exists or not.

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
    /// Patterns as written; every name where there are none.
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
                // The CRD lets no rule have both; one that does is for those that both select, which nobody is.
                Some(selector) if rule.namespaces.is_empty() => Who::Selected(labels_of(selector)),
                _ => Who::Named(rule.namespaces.iter().cloned().collect()),
            },
            keys: rule.keys.clone(),
            block_types: rule.block_types.iter().cloned().collect(),
            variables: rule.variables.unwrap_or(rule.block_types.is_empty()),
        };
        Self { workspace: workspace.to_owned(), rules: access.iter().map(rule).collect() }
    }

    /// Whether what one namespace may read depends on which others there are.
    #[must_use]
    pub fn depend_on_others(&self) -> bool {
        self.rules.iter().flat_map(|rule| &rule.keys).any(|key| key.contains(NAMESPACE_PLACEHOLDER))
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

    /// What one pattern gives a namespace: not what it gives to others of longer names, as `{namespace}-*` does where
    /// there are `data` and `data-science`.
    fn claim(&self, key: &str, namespace: &str, namespaces: &BTreeMap<String, Labels>) -> Claim {
        let pattern = key.replace(NAMESPACE_PLACEHOLDER, namespace);
        let mut closer = Vec::new();
        if pattern != key {
            let rivals = namespaces.iter().filter(|(rival, labels)| {
                rival.len() > namespace.len()
                    && self.rules.iter().any(|rule| rule.keys.iter().any(|of| of == key) && rule.who.is(rival, labels))
            });
            let theirs = rivals.map(|(rival, _)| key.replace(NAMESPACE_PLACEHOLDER, rival));
            closer =
                theirs.filter(|theirs| may_overlap(&pattern, theirs)).map(|theirs| Pattern::new(&theirs)).collect();
        }
        Claim { pattern: Pattern::new(&pattern), closer }
    }
}

/// Whether a name may match both patterns, by what they begin and end with.
fn may_overlap(one: &str, other: &str) -> bool {
    let (Some((head, _)), Some((other_head, _))) = (one.split_once('*'), other.split_once('*')) else { return true };
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
    /// What the same pattern gives to namespaces of longer names.
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
        self.has_type(block_type) && (self.keys.is_empty() || self.keys.iter().any(|claim| claim.is_of(name)))
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

    /// Whether it may be read.
    #[must_use]
    pub fn allows(&self, key: &RemoteKey) -> bool {
        let Some(granted) = &self.granted else { return true };
        if let (Some(own), Some(local)) = (&self.own, key.local_name())
            && own.contains(local)
        {
            return true;
        }
        let has = |name: &str| granted.grants.iter().any(|grant| grant.has(key.block_type(), name));
        match key {
            // The workspace's local secrets have names, too; but one's own are all that goes under another name there.
            RemoteKey::LocalSecret { name, local } => has(name) && (self.own.is_some() || has(local)),
            RemoteKey::Block { name, .. } | RemoteKey::Variable { name } => has(name),
            // What it finds is looked at one by one.
            RemoteKey::Listing(_) => self.allows_type(key.block_type()),
        }
    }

    /// Whether a block of that type, or a variable (`None`), of that name may be read.
    #[must_use]
    pub fn allows_named(&self, block_type: Option<&str>, name: &str) -> bool {
        !self.is_limited() || self.allows(&RemoteKey::named(block_type, name.to_owned()))
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
                "namespace {namespace:?} may not read {key} through ClusterPrefectWorkspace {workspace:?}; correct the name, or ask those who run it for a rule in its spec.access"
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
    /// By workspace and namespace; `None` while one of them is not known.
    known: BTreeMap<Tenant, Option<Access>>,
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
            return known.clone();
        }
        let access = self.resolve(tenant);
        self.known.insert(tenant.clone(), access.clone());
        access
    }

    fn resolve(&self, Tenant { workspace, namespace }: &Tenant) -> Option<Access> {
        let namespaces = self.namespaces.as_ref().filter(|namespaces| namespaces.contains_key(namespace))?;
        Some(self.rules.get(workspace)?.access(namespace, namespaces))
    }

    /// All namespaces there are. Returns whose access is another than before; so do the others.
    pub fn set_namespaces(&mut self, namespaces: BTreeMap<String, Labels>) -> Vec<Tenant> {
        self.namespaces = Some(namespaces);
        self.renew(|_| true)
    }

    /// A namespace is new, or has other labels; or it is gone, with `None`.
    pub fn set_namespace(&mut self, namespace: &str, labels: Option<Labels>) -> Vec<Tenant> {
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
        let dependent: BTreeSet<String> =
            self.rules.iter().filter(|(_, rules)| rules.depend_on_others()).map(|(name, _)| name.clone()).collect();
        self.renew(|tenant| tenant.namespace == namespace || dependent.contains(&tenant.workspace))
    }

    /// A workspace is new, or has other rules; or it is gone, with `None`.
    pub fn set_rules(&mut self, workspace: &str, access: Option<&[AccessRule]>) -> Vec<Tenant> {
        let Some(access) = access else {
            self.rules.remove(workspace);
            self.known.retain(|tenant, _| tenant.workspace != workspace);
            return Vec::new();
        };
        let rules = Rules::new(workspace, access);
        if self.rules.get(workspace) == Some(&rules) {
            return Vec::new();
        }
        self.rules.insert(workspace.to_owned(), rules);
        self.renew(|tenant| tenant.workspace == workspace)
    }

    fn renew(&mut self, concerns: impl Fn(&Tenant) -> bool) -> Vec<Tenant> {
        let mut changed = Vec::new();
        for (tenant, known) in std::mem::take(&mut self.known) {
            let access = if concerns(&tenant) { self.resolve(&tenant) } else { known.clone() };
            if access != known {
                changed.push(tenant.clone());
            }
            self.known.insert(tenant, access);
        }
        changed
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
