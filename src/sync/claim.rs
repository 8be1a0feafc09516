//! Whose the target is, and so what may be done to it.

use std::collections::{BTreeMap, BTreeSet};

use super::Reason;
use super::lines::keys_of;
use super::planned::{Observed, Removal, TargetAction, Version};
use super::target::{Manifest, Ownership, Target, is_owned_by, is_reference_to, merger, ownership};
use crate::api::{ACCEPTS_ANNOTATION, CreationPolicy};

/// Why the target may not be written.
pub(super) fn conflict(observed: &Observed<'_>) -> Option<(Reason, String)> {
    let object = observed.object;
    let display = object.target_display();
    let Some(target) = observed.target else {
        let message = || {
            format!(
                "there is no {display} to merge keys into; create it and let it accept this object, or set spec.target.creationPolicy to Owner"
            )
        };
        return object.is_merge().then(|| (Reason::TargetNotFound, message()));
    };
    let other_name = "choose another spec.target.name";
    let owner = match ownership(object, target) {
        Ownership::Ours | Ownership::Accepted => return None,
        Ownership::Foreign(owner) => owner,
        Ownership::Whole(owner) => {
            let message = format!(
                "{display} belongs to {owner} as a whole, so no keys can be merged into it; {other_name}, or delete it and create one that accepts this object"
            );
            return Some((Reason::TargetConflict, message));
        }
        Ownership::Shared => {
            let message = format!(
                "{display} is someone else's, into which objects merge keys: taking it would cost the others theirs; {other_name}, or set creationPolicy to Merge"
            );
            return Some((Reason::TargetConflict, message));
        }
    };
    // Others that it accepts stay accepted.
    let before = target.annotations.get(ACCEPTS_ANNOTATION).filter(|_| object.is_merge());
    let accepts = before.map_or_else(|| object.owner_name(), |before| format!("{before},{}", object.owner_name()));
    let message = format!(
        "{display} exists and belongs to {owner}; choose spec.target.name, or let it accept this object: kubectl annotate --overwrite {} {} -n {} {}={accepts}",
        object.id.kind.target().to_lowercase(),
        object.target_name,
        object.id.namespace,
        ACCEPTS_ANNOTATION,
    );
    Some((Reason::TargetConflict, message))
}

/// Under Merge, keys that the target has from others: they are never taken, not even where the values are equal.
pub(super) fn foreign_keys(observed: &Observed<'_>, manifest: &Manifest) -> Option<(Reason, String)> {
    const MOST: usize = 5;
    let (object, target) = (observed.object, observed.target?);
    if !object.is_merge() {
        return None;
    }
    let foreign = manifest.foreign_keys(target, &merger(&object.id));
    let shown: Vec<String> = foreign.iter().take(MOST).map(|(key, owner)| format!("{key} of {owner}")).collect();
    let more = if foreign.len() > MOST { ", …" } else { "" };
    let message = format!(
        "{} has keys of others that this object would write: {}{more}; give them other names, or remove them there",
        object.target_display(),
        shown.join(", ")
    );
    (!foreign.is_empty()).then_some((Reason::TargetConflict, message))
}

/// What to do with the target from before a rename. One that is to outlive the object outlives a rename, too.
pub(super) fn removal(observed: &Observed<'_>) -> Option<Removal> {
    let (object, old) = (observed.object, observed.old_target?);
    let was_merged = observed.previous.target.as_ref().is_some_and(|target| target.merged == Some(true));
    if was_merged {
        let leaves = old.managers.contains_key(&merger(&object.id));
        let nothing = Manifest::nothing(&object.id.namespace, &old.name);
        return leaves.then(|| Removal::Leave(nothing, version(old)));
    }
    // An orphan has no owner reference, whatever the policy is now.
    let deletes = is_owned_by(object, old)
        && object.creation_policy != CreationPolicy::Orphan
        && old.owners.iter().any(|owner| is_reference_to(owner, object));
    deletes.then(|| Removal::Delete(old.name.clone(), version(old)))
}

/// The keys of an existing target whose content changes.
pub(super) fn changed_keys(observed: &Observed<'_>, action: &TargetAction) -> BTreeSet<String> {
    let (
        TargetAction::Replace { manifest, .. }
        | TargetAction::Recreate { manifest, .. }
        | TargetAction::Merge { manifest, .. },
        Some(target),
    ) = (action, observed.target)
    else {
        return BTreeSet::new();
    };
    let before: BTreeMap<_, _> = keys_of(observed.object, target, observed.object.is_merge()).collect();
    let keys = before.keys().copied().chain(manifest.data.keys());
    keys.filter(|key| before.get(*key).copied() != manifest.data.get(*key)).cloned().collect()
}

pub(super) fn action(observed: &Observed<'_>, manifest: Manifest, gone: bool) -> TargetAction {
    let Some(target) = observed.target else {
        return if gone { TargetAction::Keep } else { TargetAction::Create(manifest) };
    };
    let version = version(target);
    if observed.object.is_merge() {
        let is_right = manifest.is_merged_into(target, &merger(&observed.object.id));
        return if is_right { TargetAction::Keep } else { TargetAction::Merge { manifest, version } };
    }
    if gone {
        // One that only accepts us holds nothing of ours yet.
        return match ownership(observed.object, target) {
            Ownership::Ours if !target.deleting => TargetAction::Delete { name: target.name.clone(), version },
            _ => TargetAction::Keep,
        };
    }
    if manifest.matches(target) {
        return TargetAction::Keep;
    }
    // Of an immutable one not even a label can be changed without saying again that it is immutable.
    if manifest.r#type != target.r#type || target.immutable {
        return TargetAction::Recreate { manifest, version };
    }
    TargetAction::Replace { manifest, version }
}

/// Whether carrying this out on a late view of the object could cost a target. So it could where the action
///
/// - puts back what a deletion of the object takes: the target itself, or (under `--cascade=orphan`) its owner reference,
///   with which Kubernetes would delete it once the object is gone;
/// - deletes something, which the object may be asking to keep by now;
/// - is the first of this process on a target that another one wrote, which may have known more.
pub(super) fn needs_confirmation(observed: &Observed<'_>, action: &TargetAction, removes: bool) -> bool {
    let is_known = observed.previous.target.is_some();
    let is_late = match (action, observed.target) {
        (TargetAction::Keep, _) => false,
        (TargetAction::Create(_), _) => is_known || observed.written.is_some(),
        (TargetAction::Replace { manifest, .. }, Some(target)) => {
            let is_owned = manifest.owners.iter().all(|owner| target.owners.contains(owner));
            !is_owned || (is_known && observed.written.is_none())
        }
        (TargetAction::Merge { .. }, _) => is_known && observed.written.is_none(),
        _ => true,
    };
    is_late || removes
}

pub(super) fn version(target: &Target) -> Version {
    Version { uid: target.uid.clone(), resource_version: target.resource_version.clone() }
}
