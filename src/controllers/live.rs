//! Asks the API server itself, where what the cache says could do harm if it is behind: each kind has a watch of its own,
//! and one whose connection died without a word hears nothing for a while.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Resource};

use super::errors::Error;
use super::status::{api, display};

/// Whether the object is still the one in the cache, with the same spec. A deletion that has begun is a change, as it counts
/// up the generation, too.
///
/// Read first what the answer is to vouch for, such as the target: it says that the object was the same after that.
///
/// # Errors
/// When the API server could not be asked, or failed.
pub async fn is_current<K: Resource<DynamicType = ()>>(client: &Client, cached: &ObjectMeta) -> Result<bool, Error> {
    let place = (cached.namespace.as_deref().unwrap_or_default(), cached.name.as_deref().unwrap_or_default());
    agrees::<K>(client, place, Some(cached)).await
}

/// The same for a namespace and a name; `None` is current as long as there is no such object.
///
/// # Errors
/// When the API server could not be asked, or failed.
pub async fn agrees<K: Resource<DynamicType = ()>>(
    client: &Client,
    (namespace, name): (&str, &str),
    cached: Option<&ObjectMeta>,
) -> Result<bool, Error> {
    let found = api::<K>(client, namespace).get_metadata_opt(name).await;
    let found = found.map_err(|error| Error::kube(format!("reading {}", display::<K>(namespace, name)), &error))?;
    let state = |metadata: &ObjectMeta| (metadata.uid.clone(), metadata.generation);
    Ok(found.map(|found| state(&found.metadata)) == cached.map(state))
}
