//! Restarts workloads as `kubectl rollout restart` does: by an annotation in the pod template.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use kube::api::{Patch, PatchParams};
use kube::core::ApiResource;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::json;

use super::MANAGER;
use super::errors::describe;
use crate::api::{RESTARTED_ANNOTATION, WorkloadKind};
use crate::sync::restart::{Rolled, Rollout};

/// Restarts them; the results are in the same order.
pub(super) async fn carry_out(client: &Client, namespace: &str, rollouts: &[Rollout]) -> Vec<Rolled> {
    let mut results = Vec::with_capacity(rollouts.len());
    for rollout in rollouts {
        results.push(restart(client, namespace, rollout).await);
    }
    results
}

async fn restart(client: &Client, namespace: &str, rollout: &Rollout) -> Rolled {
    let resource = match rollout.kind {
        WorkloadKind::Deployment => ApiResource::erase::<Deployment>(&()),
        WorkloadKind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        WorkloadKind::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let annotations = json!({ RESTARTED_ANNOTATION: rollout.mark });
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_metadata(&rollout.name, &parameters, &Patch::Merge(patch)).await {
        Ok(_) => {
            tracing::info!(namespace, kind = rollout.kind.as_str(), name = rollout.name, "restarted");
            Rolled::Done
        }
        Err(kube::Error::Api(status)) if status.is_not_found() => Rolled::Missing,
        Err(kube::Error::Api(status)) if status.code == 403 => Rolled::Refused(format!(
            "{}; the chart's restarts.enabled, or kubectl apply -f deploy/manifests-optional/11-restarts.yaml, allows it",
            describe(&kube::Error::Api(status))
        )),
        Err(error) => Rolled::Refused(describe(&error)),
    }
}
