//! Writes a status where it differs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::core::error_boundary::InvalidObject;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::errors::Error;
use super::{MANAGER, now};
use crate::sync::Reason;
use crate::sync::conditions::{Verdict, conditions, ready};

/// How often a status is written anew because something else of its object changed in between.
const MOST_TRIES: usize = 5;

/// Makes `after` the status of the object that `of` is the metadata of. Where `before` is given, only instead of that: a
/// replica that was told too late that it leads no more must not undo what the next one noted.
///
/// A JSON patch that tests the UID, and with `before` the version, not a server-side apply: an apply is refused whole when
/// the CRDs on the server are older than this operator and lack a field, and then no object would say anything at all; and
/// a UID in an apply or a merge patch of a status is no precondition.
///
/// Returns the version of the object that has it; `None` when the object is gone, or is another of the same name.
///
/// # Errors
/// When the status is another one by now, and when the API server could not be asked, or failed.
pub async fn write<K, S>(
    client: &Client,
    of: &ObjectMeta,
    before: Option<&S>,
    after: &S,
) -> Result<Option<String>, Error>
where
    K: Resource<DynamicType = ()>,
    S: Conditions,
{
    let namespace = of.namespace.as_deref().unwrap_or_default();
    let name = of.name.as_deref().unwrap_or_default();
    let doing = || format!("writing the status of {}", display::<K>(namespace, name));
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let api = api::<K>(client, namespace);
    let mut version = of.resource_version.clone();
    for _ in 0..MOST_TRIES {
        let seen = before.map(|_| json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }));
        let patch = [
            json!({ "op": "test", "path": "/metadata/uid", "value": of.uid }),
            json!({ "op": "add", "path": "/status", "value": after }),
        ];
        let patch: Vec<Value> = seen.into_iter().chain(patch).collect();
        let patch: json_patch::Patch = serde_json::from_value(patch.into()).map_err(|error| Error::Kube {
            doing: doing(),
            why: error.to_string(),
            retry_after: None,
        })?;
        let error = match api.patch_status(name, &parameters, &Patch::<()>::Json(patch)).await {
            Ok(written) => return Ok(written.metadata.resource_version),
            Err(kube::Error::Api(answer)) if answer.is_not_found() => return Ok(None),
            // A failed test and a refused status are answered alike.
            Err(kube::Error::Api(answer)) if answer.code == 422 => kube::Error::Api(answer),
            Err(error) => return Err(Error::kube(doing(), &error)),
        };
        let stored = api.get_opt(name).await.map_err(|error| Error::kube(doing(), &error))?;
        let Some(stored) = stored.filter(|stored| stored.metadata.uid == of.uid) else { return Ok(None) };
        let Some(before) = before.filter(|_| stored.metadata.resource_version != version) else {
            return Err(Error::kube(doing(), &error));
        };
        let found: S = status_of(&stored);
        version = stored.metadata.resource_version;
        // Ours arrived before, though its answer did not.
        if found == *after {
            return Ok(version);
        }
        if found != *before {
            break;
        }
    }
    Err(Error::Contended(format!("the status of {}", display::<K>(namespace, name))))
}

/// What there is; nothing, where it does not fit the type.
fn status_of<S: Conditions>(stored: &DynamicObject) -> S {
    let status = stored.data.get("status").cloned();
    status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default()
}

pub(super) fn display<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> String {
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
        let before: S = status_of(&stored);
        let verdict = Verdict::not_ready(Reason::ObjectInvalid, message.clone());
        let generation = invalid.metadata.generation;
        let now = now();
        let after = before.clone().with(conditions(before.conditions(), &verdict, generation, now), generation);
        if after != before {
            write::<K, S>(client, &stored.metadata, Some(&before), &after).await?;
        }
    }
    Ok(message)
}

/// The API of a kind in a namespace; in none of those of the whole cluster.
pub(super) fn api<K: Resource<DynamicType = ()>>(client: &Client, namespace: &str) -> Api<DynamicObject> {
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
