//! Writes a status where it differs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::core::error_boundary::InvalidObject;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::errors::Error;
use super::{MANAGER, now};
use crate::sync::Reason;
use crate::sync::conditions::{Verdict, conditions, ready};

/// Makes `after` the status of the object that `of` is the metadata of.
///
/// A JSON patch that tests the UID, not a server-side apply: an apply is refused whole when the CRDs on the server are
/// older than this operator and lack a field, and then no object would say anything at all; and a UID in an apply or a
/// merge patch of a status is no precondition.
///
/// Returns the version of the object that has it; `None` when the object is gone, or is another of the same name.
///
/// # Errors
/// When the API server could not be asked, or failed.
pub async fn write<K, S>(client: &Client, of: &ObjectMeta, after: &S) -> Result<Option<String>, Error>
where
    K: Resource<DynamicType = ()>,
    S: Serialize,
{
    let namespace = of.namespace.as_deref().unwrap_or_default();
    let name = of.name.as_deref().unwrap_or_default();
    let doing = || format!("writing the status of {}", display::<K>(namespace, name));
    let patch = json!([
        { "op": "test", "path": "/metadata/uid", "value": of.uid },
        { "op": "add", "path": "/status", "value": after },
    ]);
    let patch: json_patch::Patch = serde_json::from_value(patch).map_err(|error| Error::Kube {
        doing: doing(),
        why: error.to_string(),
        retry_after: None,
    })?;
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let api = api::<K>(client, namespace);
    match api.patch_status(name, &parameters, &Patch::<()>::Json(patch)).await {
        Ok(written) => Ok(written.metadata.resource_version),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(None),
        Err(error) => {
            // A failed test and a refused status are answered alike.
            let stored = api.get_metadata_opt(name).await.map_err(|error| Error::kube(doing(), &error))?;
            let same = stored.is_some_and(|stored| stored.metadata.uid == of.uid);
            if same { Err(Error::kube(doing(), &error)) } else { Ok(None) }
        }
    }
}

fn display<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> String {
    let kind = K::kind(&());
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// Whether an object is ready (`true`, `false` or `unknown`) and the reason, as its stored conditions say. One without a
/// status says nothing yet, or can't be parsed.
pub(super) fn standing(stored: Option<&[Condition]>) -> (String, String) {
    match stored.and_then(ready) {
        Some(ready) => (ready.status.to_lowercase(), ready.reason.clone()),
        None => ("unknown".to_owned(), String::new()),
    }
}

/// A status that has conditions.
pub trait Conditions: Serialize + DeserializeOwned + Clone + Default + PartialEq {
    /// The status with these conditions, speaking of this generation.
    #[must_use]
    fn with(self, conditions: Vec<Condition>, generation: Option<i64>) -> Self;
    /// Its conditions.
    fn conditions(&self) -> &[Condition];
}

/// Says on an object that the current types can't parse that it is left alone; returns the message.
///
/// # Errors
/// When the API server could not be asked, or failed.
pub async fn report_invalid<K, S>(client: &Client, invalid: &InvalidObject) -> Result<String, Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
    S: Conditions,
{
    let namespace = invalid.metadata.namespace.clone().unwrap_or_default();
    let name = invalid.metadata.name.clone().unwrap_or_default();
    let stored = api::<K>(client, &namespace)
        .get_opt(&name)
        .await
        .map_err(|error| Error::kube(format!("reading {}", display::<K>(&namespace, &name)), &error))?;
    // The guard's own error does not say where.
    let problem = stored
        .as_ref()
        .and_then(|stored| serde_path_to_error::deserialize::<_, K>(json!(stored)).err())
        .map_or_else(|| invalid.error.clone(), |error| error.to_string());
    let message = format!(
        "{} as it is stored does not fit the types of prefect-sync {} and is left alone: {problem}; mend it, or run the version that it was written for",
        display::<K>(&namespace, &name),
        env!("CARGO_PKG_VERSION")
    );
    if let Some(stored) = stored {
        let status = stored.data.get("status").cloned();
        let before: S = status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default();
        let verdict = Verdict::not_ready(Reason::ObjectInvalid, message.clone());
        let generation = invalid.metadata.generation;
        let now = now();
        let after = before.clone().with(conditions(before.conditions(), &verdict, generation, now), generation);
        if after != before {
            write::<K, S>(client, &stored.metadata, &after).await?;
        }
    }
    Ok(message)
}

/// The API of a kind in a namespace; in none of those of the whole cluster.
fn api<K: Resource<DynamicType = ()>>(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<K>(&());
    if namespace.is_empty() {
        return Api::all_with(client.clone(), &resource);
    }
    Api::namespaced_with(client.clone(), namespace, &resource)
}

impl Conditions for crate::api::SyncStatus {
    fn with(self, conditions: Vec<Condition>, observed_generation: Option<i64>) -> Self {
        Self { conditions, observed_generation, ..self }
    }

    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl Conditions for crate::api::WorkspaceStatus {
    fn with(self, conditions: Vec<Condition>, observed_generation: Option<i64>) -> Self {
        Self { conditions, observed_generation, ..self }
    }

    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}
