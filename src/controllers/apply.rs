//! Carries out a plan's target action. Every write names the version that was seen; nothing is applied blindly.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;

use super::MANAGER;
use super::errors::{Error, describe_status, refusal};
use super::kind::TargetKind;
use crate::sync::Manifest;
use crate::sync::plan::{TargetAction, Version};

/// What came of it.
pub enum Applied {
    /// The target is as planned, in this version (`None` when it is gone, or was not touched).
    Done(Option<Version>),
    /// Someone changed or created it in between: observe and plan again.
    Outdated,
    /// The API server will not have it; the text says why.
    Refused(String),
}

/// Carries out `action`; `manager` is the field manager of the object's keys under Merge.
///
/// # Errors
/// When the API server could not be asked, or failed.
pub async fn apply<T: TargetKind>(api: &Api<T>, action: &TargetAction, manager: &str) -> Result<Applied, Error> {
    match action {
        TargetAction::Keep => Ok(Applied::Done(None)),
        TargetAction::Create(manifest) => create(api, manifest).await,
        TargetAction::Replace { manifest, version } => {
            let mut target = T::from_manifest(manifest);
            let metadata = target.meta_mut();
            metadata.uid = Some(version.uid.clone());
            metadata.resource_version = Some(version.resource_version.clone());
            let written = api.replace(&manifest.name, &parameters(), &target).await;
            outcome("replacing", manifest, written.map(|target| version_of(target.meta())))
        }
        TargetAction::Recreate { manifest, version } => recreate(api, manifest, version).await,
        TargetAction::Merge { manifest, version } => merge(api, manifest, version, manager).await,
        TargetAction::Delete { name, version } => delete(api, name, version).await,
    }
}

/// Deletes and creates. Tried first: a target that the API server will not have must not cost the one that is there.
async fn recreate<T: TargetKind>(api: &Api<T>, manifest: &Manifest, version: &Version) -> Result<Applied, Error> {
    let trial = PostParams { dry_run: true, ..parameters() };
    let tried = api.create(&trial, &T::from_manifest(manifest)).await;
    // That the name is taken is what the API server looks at last: all else is well.
    if let refused @ Applied::Refused(_) = outcome("trying", manifest, tried.map(|target| version_of(target.meta())))? {
        return Ok(refused);
    }
    match delete(api, &manifest.name, version).await? {
        Applied::Done(_) => create(api, manifest).await,
        other => Ok(other),
    }
}

/// Applies the object's keys, as a field manager of the object's own, to the version that was seen and no other; keys of
/// its that are not in the manifest go.
///
/// # Errors
/// When the API server could not be asked, or failed.
pub async fn merge<T: TargetKind>(
    api: &Api<T>,
    manifest: &Manifest,
    version: &Version,
    manager: &str,
) -> Result<Applied, Error> {
    let mut target = T::from_manifest(manifest);
    // To a target that is gone a plain apply would be a creation; with a UID it is a conflict.
    target.meta_mut().uid = Some(version.uid.clone());
    target.meta_mut().resource_version = Some(version.resource_version.clone());
    let parameters = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    match api.patch(&manifest.name, &parameters, &Patch::Apply(&target)).await {
        // Never forced: it is said whose the fields are. The message would show no value, but need not be trusted to.
        Err(kube::Error::Api(status)) if is_field_conflict(&status) => {
            Ok(Applied::Refused(format!("fields of others would be taken: {}", describe_status(&status))))
        }
        written => outcome("merging keys into", manifest, written.map(|target| version_of(target.meta()))),
    }
}

fn is_field_conflict(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.reason == "FieldManagerConflict")
}

async fn create<T: TargetKind>(api: &Api<T>, manifest: &Manifest) -> Result<Applied, Error> {
    let written = api.create(&parameters(), &T::from_manifest(manifest)).await;
    outcome("creating", manifest, written.map(|target| version_of(target.meta())))
}

/// Deletes the version that was seen, and no other.
///
/// # Errors
/// When the API server could not be asked, or failed.
pub async fn delete<T: TargetKind>(api: &Api<T>, name: &str, version: &Version) -> Result<Applied, Error> {
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(version.uid.clone()),
            resource_version: Some(version.resource_version.clone()),
        }),
        ..DeleteParams::default()
    };
    match api.delete(name, &parameters).await {
        Ok(_) => Ok(Applied::Done(None)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Applied::Done(None)),
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Applied::Outdated),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Applied::Refused(describe_status(&status))),
        Err(error) => Err(Error::kube(format!("deleting {} {name}", T::kind(&())), &error)),
    }
}

fn outcome(doing: &str, manifest: &Manifest, written: Result<Version, kube::Error>) -> Result<Applied, Error> {
    match written {
        Ok(version) => Ok(Applied::Done(Some(version))),
        // Exists after all, was changed, or (not found) was deleted in between.
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(Applied::Outdated),
        Err(kube::Error::Api(status)) if status.is_not_found() && doing == "replacing" => Ok(Applied::Outdated),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 404 | 413 | 422) => {
            Ok(Applied::Refused(refusal(&status, manifest)))
        }
        Err(error) => Err(Error::write(format!("{doing} {}/{}", manifest.namespace, manifest.name), &error)),
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

pub(super) fn version_of(metadata: &ObjectMeta) -> Version {
    Version {
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
    }
}
