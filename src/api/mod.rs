//! The custom resource types, group `prefect-sync.dev/v1alpha1`, and nothing else.
//!
//! These types are what a user writes and what the API server stores. The CRDs in `crds/` are generated from
//! them (`make crds`; a test fails when they are stale), so every doc comment here is what `kubectl explain` says.
//!
//! **Invariant:** no field has a schema default: a GitOps tool would see a diff. Defaults are applied by
//! [`sync`](crate::sync), where they are documented on the field.

// The docs are what `kubectl explain` says, where addresses and brackets are plain text.
#![allow(rustdoc::bare_urls, rustdoc::broken_intra_doc_links)]

mod access;
mod cluster_workspace;
mod common;
mod data_from;
mod kv;
mod secret;
mod target;
mod workspace;

pub use access::*;
pub use cluster_workspace::*;
pub use common::*;
pub use data_from::*;
pub use kv::*;
pub use secret::*;
pub use target::*;
pub use workspace::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt as _;

/// The API group of all kinds, and the prefix of our labels and annotations.
pub const GROUP: &str = "prefect-sync.dev";

/// Label by which a Secret (or a ConfigMap with a CA bundle) offers itself to workspaces; its value is
/// [`OFFER_WORKSPACE`]. Without it, whoever may create a workspace could send any Secret to a server of theirs.
pub const OFFER_LABEL: &str = "prefect-sync.dev/offer";
/// The value of [`OFFER_LABEL`] that workspaces look for.
pub const OFFER_WORKSPACE: &str = "workspace";

/// Label on every target: the kind that owns it (`PrefectSecret` or `PrefectKV`). Targets are watched by it.
pub const OWNED_BY_LABEL: &str = "prefect-sync.dev/owned-by";
/// Annotation on every target: `KIND/NAME` of the object that owns it.
pub const OWNER_ANNOTATION: &str = "prefect-sync.dev/owner";
/// Annotation by which an existing Secret or ConfigMap accepts an object (`KIND/NAME`, several separated by commas) as
/// its new owner, or under Merge its keys.
pub const ACCEPTS_ANNOTATION: &str = "prefect-sync.dev/accepts";
/// Annotation on a target: which labels and annotations came from `template.metadata`, so that those that are
/// taken out of the template can be removed again.
pub const TEMPLATE_ANNOTATION: &str = "prefect-sync.dev/template-metadata";

/// Annotation on an object: another value than the one before has its keys read at once.
pub const REFRESH_ANNOTATION: &str = "prefect-sync.dev/refresh";
/// Annotation in the pod template of a workload that was restarted: for which object and revision.
pub const RESTARTED_ANNOTATION: &str = "prefect-sync.dev/restarted-for";

/// All definitions, by file name.
#[must_use]
pub fn definitions() -> Vec<(&'static str, CustomResourceDefinition)> {
    let mut definitions = vec![
        ("prefectworkspaces.yaml", PrefectWorkspace::crd()),
        ("clusterprefectworkspaces.yaml", ClusterPrefectWorkspace::crd()),
        ("prefectsecrets.yaml", PrefectSecret::crd()),
        ("prefectkvs.yaml", PrefectKV::crd()),
    ];
    for (_, definition) in &mut definitions {
        let is_cluster = definition.spec.scope == "Cluster";
        for version in &mut definition.spec.versions {
            if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
                unwrap_descriptions(schema);
                place_references(schema, is_cluster);
            }
        }
    }
    definitions
}

/// Doc comments are wrapped at the width of the sources; `kubectl explain` wraps at the terminal's.
fn unwrap_descriptions(schema: &mut JSONSchemaProps) {
    if let Some(description) = &mut schema.description {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    schema.properties.iter_mut().flatten().for_each(|(_, property)| unwrap_descriptions(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        unwrap_descriptions(items);
    }
}

/// References of a cluster-scoped kind name a namespace; those of a namespaced kind can't.
fn place_references(schema: &mut JSONSchemaProps, is_cluster: bool) {
    for (name, property) in schema.properties.iter_mut().flatten() {
        if !matches!(name.as_str(), "secretKeyRef" | "configMapKeyRef") {
            place_references(property, is_cluster);
        } else if is_cluster {
            property.required.get_or_insert_default().push("namespace".to_owned());
            let namespace = property.properties.iter_mut().flatten().find(|(field, _)| *field == "namespace");
            if let Some((_, namespace)) = namespace {
                namespace.description = Some("The object's namespace.".to_owned());
                namespace.nullable = None;
            }
        } else if let Some(properties) = &mut property.properties {
            properties.remove("namespace");
        }
    }
}
