//! The Secret or ConfigMap: what exists, whose it is, and what it should be.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::layout::fnv;
use super::{Dependent, Kind, Object};
use crate::api::{self, CreationPolicy};

/// Keys and values, zeroized on drop.
pub type Data = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// A Secret or ConfigMap that exists.
#[derive(Clone, Default)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The version that was read; writes name it, so that nothing unseen is overwritten.
    pub resource_version: String,
    /// Its type; Secrets only.
    pub r#type: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Its keys and values, binary ones of a ConfigMap included.
    pub data: Data,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Whether Kubernetes refuses changes of its data.
    pub immutable: bool,
    /// Whether it is marked for deletion, and waits for its finalizers.
    pub deleting: bool,
    /// Which keys of its data belong to which field manager.
    pub managers: BTreeMap<String, BTreeSet<String>>,
}

/// A Secret or ConfigMap as it should be.
#[derive(Clone, PartialEq)]
pub struct Manifest {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its type; Secrets only.
    pub r#type: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Its finalizers, all of others.
    pub finalizers: Vec<String>,
    /// Its keys and values; under Merge those of this object only.
    pub data: Data,
    /// Whether Kubernetes is to refuse changes of its data.
    pub immutable: bool,
}

/// Keys and sizes, never values.
fn sizes(data: &Data) -> BTreeMap<&str, usize> {
    data.iter().map(|(key, value)| (key.as_str(), value.len())).collect()
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).field("sizes", &sizes(&self.data)).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest")
            .field("name", &self.name)
            .field("type", &self.r#type)
            // Annotations of others may hold data: kubectl keeps what it applied last.
            .field("labels", &self.labels.keys())
            .field("annotations", &self.annotations.keys())
            .field("sizes", &sizes(&self.data))
            .finish_non_exhaustive()
    }
}

/// Whose an existing target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// This object's: it may be written and deleted.
    Ours,
    /// Somebody else's, who accepts this object as the new owner: it may be written.
    Accepted,
    /// Somebody else's; the text names them.
    Foreign(String),
    /// Under Merge: it belongs as a whole to the object named.
    Whole(String),
    /// Objects have keys in it, so nobody may own it as a whole.
    Shared,
}

impl Ownership {
    /// Whether the object may write it.
    #[must_use]
    pub fn allows(&self) -> bool {
        matches!(self, Self::Ours | Self::Accepted)
    }
}

/// What the field managers of objects under Merge are called, before the object's kind and name.
pub const MERGER: &str = "prefect-sync/";
/// The longest name of a field manager.
const MAX_MANAGER: usize = 128;

/// The field manager of an object under Merge: named after it, so that a recreated object, or a restored one, finds its
/// own keys again. (It writes to targets of its own namespace only.)
#[must_use]
pub fn merger(object: &Dependent) -> String {
    let name = format!("{MERGER}{}/{}", object.kind.as_str(), object.name);
    if name.len() <= MAX_MANAGER {
        return name;
    }
    // Names are ASCII.
    format!("{}~{:016x}", &name[..MAX_MANAGER - 17], fnv([&object.name]))
}

/// Whether a field manager does not tell its object's name whole.
#[must_use]
pub fn is_shortened(merger: &str) -> bool {
    // No name of an object has it.
    merger.contains('~')
}

/// The value of the label on a target in which objects of `kind` have keys.
#[must_use]
pub fn merged_label(kind: Kind) -> String {
    format!("{}.keys", kind.as_str())
}

/// Whose `target` is. Ours is known by the owner annotation, so that a restored cluster or a recreated object
/// finds its own again, or by the owner reference; never against another controller. Under Merge it is always someone
/// else's, and never one of our own kinds', which keep their targets' data as a whole.
#[must_use]
pub fn ownership(object: &Object, target: &Target) -> Ownership {
    let annotated = target.annotations.get(api::OWNER_ANNOTATION);
    let accepts = |owner: &str| {
        let accepted = target.annotations.get(api::ACCEPTS_ANNOTATION);
        accepted.is_some_and(|accepted| accepted.split(',').any(|name| name.trim() == owner))
    };
    let accepted = accepts(&object.owner_name());
    if object.is_merge() {
        return match annotated {
            Some(owner) => Ownership::Whole(owner.clone()),
            None if accepted => Ownership::Accepted,
            None => Ownership::Foreign("someone else".to_owned()),
        };
    }
    if is_owned_by(object, target) {
        return Ownership::Ours;
    }
    // That it accepts our keys is no leave to take the others'.
    let has_keys = |(manager, keys): (&String, &BTreeSet<String>)| manager.starts_with(MERGER) && !keys.is_empty();
    if target.managers.iter().any(has_keys) {
        return Ownership::Shared;
    }
    if accepted {
        // Of two that it accepts the first one keeps it: else they would take it from each other without end.
        return match annotated.filter(|owner| **owner != object.owner_name() && accepts(owner)) {
            Some(owner) => Ownership::Foreign(format!("{owner}, which it accepts, too")),
            None => Ownership::Accepted,
        };
    }
    if let Some(owner) = foreign_controller(object, target) {
        return Ownership::Foreign(format!("{} {:?}", owner.kind, owner.name));
    }
    Ownership::Foreign(annotated.map_or_else(|| "someone else".to_owned(), Clone::clone))
}

/// Whether the target belongs to the object as a whole.
#[must_use]
pub fn is_owned_by(object: &Object, target: &Target) -> bool {
    let annotated = target.annotations.get(api::OWNER_ANNOTATION).is_some_and(|owner| *owner == object.owner_name());
    let marked = annotated || target.owners.iter().any(|owner| owner.uid == object.uid);
    marked && foreign_controller(object, target).is_none()
}

fn foreign_controller<'a>(object: &Object, target: &'a Target) -> Option<&'a OwnerReference> {
    target.owners.iter().find(|owner| owner.controller == Some(true) && !is_reference_to(owner, object))
}

/// Whether an owner reference means this object, also under a UID from before a restore.
pub(super) fn is_reference_to(owner: &OwnerReference, object: &Object) -> bool {
    owner.uid == object.uid
        || (owner.kind == object.id.kind.as_str()
            && owner.name == object.id.name
            && owner.api_version.starts_with(&format!("{}/", api::GROUP)))
}

/// Which labels and annotations of a target came from the template.
#[derive(Serialize, Deserialize, Default)]
struct TemplateKeys {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    labels: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    annotations: BTreeSet<String>,
}

impl Manifest {
    /// What the target should be: data exactly `data`; labels, annotations and owners that others put on
    /// `existing` stay.
    #[must_use]
    pub fn new(object: &Object, existing: Option<&Target>, data: Data) -> Self {
        if object.is_merge() {
            return Self::keys(object, data);
        }
        let mut labels = existing.map(|t| t.labels.clone()).unwrap_or_default();
        let mut annotations = existing.map(|t| t.annotations.clone()).unwrap_or_default();
        let mut owners = existing.map(|t| t.owners.clone()).unwrap_or_default();
        if let Some(before) =
            annotations.get(api::TEMPLATE_ANNOTATION).and_then(|text| serde_json::from_str::<TemplateKeys>(text).ok())
        {
            labels.retain(|key, _| !before.labels.contains(key));
            annotations.retain(|key, _| !before.annotations.contains(key));
        }
        let keys = TemplateKeys {
            labels: object.template.labels.keys().cloned().collect(),
            annotations: object.template.annotations.keys().cloned().collect(),
        };
        labels.extend(object.template.labels.clone());
        annotations.extend(object.template.annotations.clone());
        labels.insert(api::OWNED_BY_LABEL.to_owned(), object.id.kind.as_str().to_owned());
        annotations.insert(api::OWNER_ANNOTATION.to_owned(), object.owner_name());
        match serde_json::to_string(&keys) {
            Ok(text) if !keys.labels.is_empty() || !keys.annotations.is_empty() => {
                annotations.insert(api::TEMPLATE_ANNOTATION.to_owned(), text);
            }
            _ => {
                annotations.remove(api::TEMPLATE_ANNOTATION);
            }
        }
        owners.retain(|owner| !is_reference_to(owner, object) && owner.controller != Some(true));
        // Without a reference Kubernetes leaves it when the object goes.
        let owner = (object.creation_policy != CreationPolicy::Orphan).then(|| OwnerReference {
            api_version: format!("{}/v1alpha1", api::GROUP),
            kind: object.id.kind.as_str().to_owned(),
            name: object.id.name.clone(),
            uid: object.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        });
        owners.extend(owner);
        Self {
            namespace: object.id.namespace.clone(),
            name: object.target_name.clone(),
            r#type: object.target_type.clone(),
            labels,
            annotations,
            owners,
            finalizers: existing.map(|t| t.finalizers.clone()).unwrap_or_default(),
            data,
            immutable: object.immutable,
        }
    }

    /// Nothing, to be applied to a target that an object's keys are to leave.
    #[must_use]
    pub fn nothing(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            r#type: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            owners: Vec::new(),
            finalizers: Vec::new(),
            data: Data::new(),
            immutable: false,
        }
    }

    /// What the object applies to a target of someone else's: its keys, and the label by which the target is watched.
    #[must_use]
    pub fn keys(object: &Object, data: Data) -> Self {
        let label = (api::OWNED_BY_LABEL.to_owned(), merged_label(object.id.kind));
        let labels = if data.is_empty() { BTreeMap::new() } else { BTreeMap::from([label]) };
        Self { labels, data, ..Self::nothing(&object.id.namespace, &object.target_name) }
    }

    /// The sum of the values' sizes in bytes, as Kubernetes limits it.
    #[must_use]
    pub fn size(&self) -> usize {
        self.data.values().map(|value| value.len()).sum()
    }

    /// Whether `existing` is already like this.
    #[must_use]
    pub fn matches(&self, existing: &Target) -> bool {
        self.r#type == existing.r#type
            && self.data == existing.data
            && self.labels == existing.labels
            && self.annotations == existing.annotations
            && self.owners == existing.owners
            && self.immutable == existing.immutable
    }

    /// Whether `existing` already has these keys, and no other, from the object of this field manager.
    #[must_use]
    pub fn is_merged_into(&self, existing: &Target, manager: &str) -> bool {
        let is_ours = match existing.managers.get(manager) {
            Some(keys) => keys.iter().eq(self.data.keys()),
            None => self.data.is_empty(),
        };
        is_ours
            && self.labels.iter().all(|(key, value)| existing.labels.get(key) == Some(value))
            && self.data.iter().all(|(key, value)| existing.data.get(key) == Some(value))
    }

    /// The keys of these that `existing` has from someone else, each with its field manager.
    #[must_use]
    pub fn foreign_keys<'a>(&'a self, existing: &'a Target, manager: &str) -> Vec<(&'a str, &'a str)> {
        let ours = existing.managers.get(manager);
        let there = self.data.keys().filter(|key| existing.data.contains_key(*key));
        let foreign = there.filter_map(|key| {
            let other = existing.managers.iter().find(|(name, keys)| *name != manager && keys.contains(key));
            let is_ours = ours.is_some_and(|keys| keys.contains(key));
            match other {
                Some((name, _)) => Some((key.as_str(), name.as_str())),
                None => (!is_ours).then_some((key.as_str(), "someone else")),
            }
        });
        foreign.collect()
    }
}
