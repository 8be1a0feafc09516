//! Gathers what a workspace names: its address, credentials, certificates and local secrets.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::Options;
use super::errors::Error;
use crate::api::{
    ApiSpec, KeyRef, OFFER_LABEL, OFFER_WORKSPACE, PREFECT1_API_URL, Prefect1Backend, Prefect1Spec, PrefectWorkspace,
};
use crate::prefect::{self, ApiUrl, Auth, Connection, ErrorKind, LocalSecrets, Prefect1Client, UrlError};
use crate::sync::suggest::nearest;
use crate::sync::{Failure, Reason, Timestamp};
use crate::workspace::failure::Credentials;
use crate::workspace::{Prefect1, Reader, Setup};

/// What a workspace comes to.
pub struct Gathered {
    /// Names this state of the workspace and of all that it names.
    pub fingerprint: String,
    /// The address as it is used; `None` with local secrets only, or when it can't be used.
    pub api_url: Option<String>,
    /// What to do with the session.
    pub setup: Setup,
}

/// The most names that a hint is chosen from.
const MOST_NAMES: u32 = 200;

/// Why a workspace can't be used.
type Problem = (Reason, String);

/// Where named objects are read from: the cluster, or the files given to `render`.
pub trait Named {
    /// A key of a Secret that offers itself, with the Secret's version.
    fn secret(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<Secret>, Error>> + Send;
    /// The same of a ConfigMap.
    fn config_map(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<ConfigMap>, Error>> + Send;
    /// The names of the Secrets or ConfigMaps that offer themselves, for hints; none where they can't be listed.
    fn offered(&self, kind: &str, namespace: &str) -> impl Future<Output = Vec<String>> + Send;
}

impl Named for Client {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
        let api: Api<Secret> = Api::namespaced(self.clone(), namespace);
        api.get_opt(name).await.map_err(|error| Error::kube(format!("reading Secret {namespace}/{name}"), &error))
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.clone(), namespace);
        api.get_opt(name).await.map_err(|error| Error::kube(format!("reading ConfigMap {namespace}/{name}"), &error))
    }

    async fn offered(&self, kind: &str, namespace: &str) -> Vec<String> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.clone(), namespace, &resource);
        let offered = ListParams::default().labels(&format!("{OFFER_LABEL}={OFFER_WORKSPACE}")).limit(MOST_NAMES);
        let found = api.list_metadata(&offered).await;
        found.map(|list| list.items.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
    }
}

/// Gathers. What is wrong with the workspace is in the result; an error is the API server's.
///
/// # Errors
/// When something it names could not be read from the API server.
pub async fn gather(
    workspace: &PrefectWorkspace,
    named: &impl Named,
    options: &Options,
    now: Timestamp,
) -> Result<Gathered, Error> {
    let mut gathering = Gathering {
        namespace: workspace.namespace().unwrap_or_default(),
        fingerprint: format!("{:?} {:?}", workspace.uid(), workspace.metadata.generation),
        named,
    };
    let reader = gathering.reader(workspace, options).await?;
    let (api_url, setup) = match reader {
        Ok((reader, api_url)) => {
            (api_url, Setup::Usable { reader: Box::new(reader), interval: workspace.spec.refresh_interval() })
        }
        Err((reason, message)) => {
            (None, Setup::Unusable(Failure { reason, message, since: now, workspace_wide: true }))
        }
    };
    Ok(Gathered { fingerprint: gathering.fingerprint, api_url, setup })
}

struct Gathering<'a, N> {
    namespace: String,
    fingerprint: String,
    named: &'a N,
}

/// A value, and where it was found, for messages.
struct Located {
    bytes: Zeroizing<Vec<u8>>,
    place: String,
}

impl<N: Named> Gathering<'_, N> {
    async fn reader(
        &mut self,
        workspace: &PrefectWorkspace,
        options: &Options,
    ) -> Result<Result<(Reader, Option<String>), Problem>, Error> {
        let mut reader = Reader::default();
        if let Some(local) = &workspace.spec.local {
            match self.secret(&local.config_toml.secret_key_ref, "config.toml").await? {
                Ok(found) => match local_secrets(&found) {
                    Ok(secrets) => reader.local = Some(Arc::new(secrets)),
                    Err(problem) => return Ok(Err(problem)),
                },
                Err(problem) => return Ok(Err(problem)),
            }
        }
        if let Some(prefect1) = &workspace.spec.prefect1 {
            return self.prefect1(reader, workspace, prefect1, options).await;
        }
        let Some(api) = &workspace.spec.api else { return Ok(Ok((reader, None))) };
        let url = match api_url(api, options) {
            Ok(url) => url,
            Err(problem) => return Ok(Err(problem)),
        };
        let mut auth = Auth::None;
        if let Some(source) = &api.api_key {
            match self.secret(&source.secret_key_ref, "key").await?.and_then(text) {
                Ok((key, place)) => (auth, reader.credentials) = (Auth::ApiKey(key), Credentials::ApiKey(place)),
                Err(problem) => return Ok(Err(problem)),
            }
        } else if let Some(source) = &api.auth_string {
            match self.secret(&source.secret_key_ref, "auth-string").await?.and_then(text) {
                Ok((string, place)) => {
                    (auth, reader.credentials) = (Auth::AuthString(string), Credentials::AuthString(place));
                }
                Err(problem) => return Ok(Err(problem)),
            }
        }
        let mut ca_bundle = None;
        if let Some(source) = &api.ca_bundle {
            match self.config_map(&source.config_map_key_ref, "ca.crt").await? {
                Ok(found) => ca_bundle = Some(found.bytes.to_vec()),
                Err(problem) => return Ok(Err(problem)),
            }
        }
        let display = url.to_string();
        let rate = workspace.spec.requests_per_minute(url.is_cloud());
        let budget = options.budgets.budget(&url, rate, workspace.spec.refresh_interval());
        Ok(match crate::prefect::Client::new(Connection { url, auth, ca_bundle, budget }) {
            Ok(client) => {
                reader.client = Some(client);
                Ok((reader, Some(display)))
            }
            Err(error) => Err((Reason::WorkspaceInvalid, configuration(&error))),
        })
    }

    async fn prefect1(
        &mut self,
        mut reader: Reader,
        workspace: &PrefectWorkspace,
        prefect1: &Prefect1Spec,
        options: &Options,
    ) -> Result<Result<(Reader, Option<String>), Problem>, Error> {
        let source = match (prefect1.backend.unwrap_or_default(), &prefect1.api_key) {
            (Prefect1Backend::Cloud, Some(source)) => source,
            (Prefect1Backend::Cloud, None) => {
                return Ok(Err((Reason::WorkspaceInvalid, "spec.prefect1 needs apiKey".to_owned())));
            }
            (Prefect1Backend::Server, _) => {
                reader.prefect1 = Some(Prefect1::Server);
                return Ok(Ok((reader, None)));
            }
        };
        let text_of_url = prefect1.api_url.as_deref().unwrap_or(PREFECT1_API_URL);
        let url = ApiUrl::parse_prefect1(text_of_url).map_err(|error| (Reason::WorkspaceInvalid, error.to_string()));
        let url = match url.and_then(|url| allowed(url, "spec.prefect1.apiUrl", options)) {
            Ok(url) => url,
            Err(problem) => return Ok(Err(problem)),
        };
        let (key, place) = match self.secret(&source.secret_key_ref, "key").await?.and_then(text) {
            Ok(found) => found,
            Err(problem) => return Ok(Err(problem)),
        };
        reader.credentials = Credentials::ApiKey(place);
        let display = url.to_string();
        let rate = workspace.spec.requests_per_minute(true);
        let budget = options.budgets.budget(&url, rate, workspace.spec.refresh_interval());
        let connection = Connection { url, auth: Auth::ApiKey(key), ca_bundle: None, budget };
        Ok(match Prefect1Client::new(connection, prefect1.tenant_id.as_deref()) {
            Ok(client) => {
                reader.prefect1 = Some(Prefect1::Cloud(client));
                Ok((reader, Some(display)))
            }
            Err(error) => Err((Reason::WorkspaceInvalid, configuration(&error))),
        })
    }

    async fn secret(&mut self, reference: &KeyRef, default_key: &str) -> Result<Result<Located, Problem>, Error> {
        let found = self.named.secret(&self.namespace, &reference.name).await?;
        let key = reference.key.as_deref().unwrap_or(default_key);
        self.note(found.as_ref(), &reference.name);
        let named = Reference { kind: "Secret", namespace: &self.namespace, name: &reference.name, key };
        if found.is_none() {
            return Ok(Err(named.missing(&self.named.offered(named.kind, named.namespace).await)));
        }
        Ok(named.check(found.as_ref()).and_then(|()| {
            let data = found.and_then(|secret| secret.data).unwrap_or_default();
            let keys: Vec<String> = data.keys().cloned().collect();
            named.pick(data.into_iter().find(|(k, _)| k == key).map(|(_, value)| value.0), &keys)
        }))
    }

    async fn config_map(&mut self, reference: &KeyRef, default_key: &str) -> Result<Result<Located, Problem>, Error> {
        let found = self.named.config_map(&self.namespace, &reference.name).await?;
        let key = reference.key.as_deref().unwrap_or(default_key);
        self.note(found.as_ref(), &reference.name);
        let named = Reference { kind: "ConfigMap", namespace: &self.namespace, name: &reference.name, key };
        if found.is_none() {
            return Ok(Err(named.missing(&self.named.offered(named.kind, named.namespace).await)));
        }
        Ok(named.check(found.as_ref()).and_then(|()| {
            let data = found.and_then(|map| map.data).unwrap_or_default();
            let keys: Vec<String> = data.keys().cloned().collect();
            named.pick(data.into_iter().find(|(k, _)| k == key).map(|(_, value)| value.into_bytes()), &keys)
        }))
    }

    fn note<K: kube::Resource>(&mut self, found: Option<&K>, name: &str) {
        let version = found.map(|object| (object.uid(), object.resource_version()));
        self.fingerprint.push_str(&format!(" {name}={version:?}"));
    }
}

/// What a workspace names.
struct Reference<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    key: &'a str,
}

impl Reference<'_> {
    fn place(&self) -> String {
        format!("{} {}/{} key {:?}", self.kind, self.namespace, self.name, self.key)
    }

    /// It does not exist.
    fn missing(&self, offered: &[String]) -> Problem {
        let Self { kind, namespace, name, key } = self;
        let next = match nearest(name, offered.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("create it with the key {key:?} and the label {OFFER_LABEL}={OFFER_WORKSPACE}"),
        };
        (Reason::CredentialsNotFound, format!("no {kind} {namespace}/{name}; {next}"))
    }

    /// It exists and offers itself.
    fn check<K: kube::Resource>(&self, found: Option<&K>) -> Result<(), Problem> {
        let Self { kind, namespace, name, .. } = self;
        let label = format!(
            "kubectl label --overwrite {} {name} -n {namespace} {OFFER_LABEL}={OFFER_WORKSPACE}",
            kind.to_lowercase()
        );
        match found {
            None => Err(self.missing(&[])),
            Some(object) if object.labels().get(OFFER_LABEL).map(String::as_str) != Some(OFFER_WORKSPACE) => {
                Err((Reason::NotOffered, format!("{kind} {namespace}/{name} is not offered to workspaces; {label}")))
            }
            Some(_) => Ok(()),
        }
    }

    fn pick(&self, value: Option<Vec<u8>>, keys: &[String]) -> Result<Located, Problem> {
        match value {
            Some(value) => Ok(Located { bytes: Zeroizing::new(value), place: self.place() }),
            None => {
                let Self { kind, namespace, name, key } = self;
                let reference = if *kind == "Secret" { "secretKeyRef" } else { "configMapKeyRef" };
                let next = match keys {
                    [] => "it is empty".to_owned(),
                    keys => format!("it has {}: add it, or set {reference}.key", keys.join(", ")),
                };
                Err((Reason::CredentialsNotFound, format!("{kind} {namespace}/{name} has no key {key:?}; {next}")))
            }
        }
    }
}

/// What is wrong with what a connection was to be made from.
fn configuration(error: &prefect::Error) -> String {
    match &error.kind {
        ErrorKind::Configuration { hint } => (*hint).to_owned(),
        _ => error.to_string(),
    }
}

/// As text without the line end that `kubectl create secret --from-file` leaves.
fn text(found: Located) -> Result<(SecretString, String), Problem> {
    match std::str::from_utf8(&found.bytes) {
        Ok(text) if !text.trim().is_empty() && !text.trim().contains(char::is_control) => {
            Ok((SecretString::from(text.trim().to_owned()), found.place))
        }
        Ok(text) if text.trim().is_empty() => Err((Reason::CredentialsNotFound, format!("{} is empty", found.place))),
        _ => Err((Reason::WorkspaceInvalid, format!("{} is no text of one line", found.place))),
    }
}

fn local_secrets(found: &Located) -> Result<LocalSecrets, Problem> {
    let invalid = |why: String| (Reason::LocalInvalid, format!("{}: {why}", found.place));
    let text = std::str::from_utf8(&found.bytes).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
    LocalSecrets::parse(text).map_err(|error| invalid(error.to_string()))
}

/// The address as it is used, if it may be.
fn api_url(api: &ApiSpec, options: &Options) -> Result<ApiUrl, Problem> {
    let url = ApiUrl::parse(&api.url, api.account_id.as_deref(), api.workspace_id.as_deref()).map_err(|error| {
        let reason = match error {
            UrlError::CloudNeedsWorkspace => Reason::CloudNeedsWorkspace,
            _ => Reason::WorkspaceInvalid,
        };
        (reason, error.to_string())
    })?;
    allowed(url, "spec.api.url", options)
}

fn allowed(url: ApiUrl, field: &str, options: &Options) -> Result<ApiUrl, Problem> {
    if is_allowed(&url, &options.allowed_api_hosts) {
        return Ok(url);
    }
    Err((
        Reason::HostNotAllowed,
        format!(
            "{field} leads to {}, and this operator may only call {}; use one of them, or have it allowed (--allowed-api-hosts)",
            url.host_and_port(),
            options.allowed_api_hosts.join(", ")
        ),
    ))
}

/// An empty list allows every host.
fn is_allowed(url: &ApiUrl, allowed: &[String]) -> bool {
    allowed.is_empty()
        || allowed.iter().any(|pattern| {
            let pattern = pattern.to_lowercase();
            match pattern.strip_prefix("*.") {
                Some(domain) => {
                    url.host().strip_suffix(domain).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
                }
                None => pattern == url.host() || pattern == url.host_and_port(),
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_allowed_by_name_port_or_domain() {
        let url = |text| ApiUrl::parse(text, None, None).unwrap();
        let allowed = |text, patterns: &[&str]| {
            is_allowed(&url(text), &patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
        };
        assert!(allowed("http://prefect:4200/api", &[]));
        assert!(allowed("http://prefect:4200/api", &["prefect"]));
        assert!(allowed("http://prefect:4200/api", &["prefect:4200"]));
        assert!(!allowed("http://prefect:4201/api", &["prefect:4200"]));
        assert!(allowed("http://a.corp.example/api", &["*.corp.example"]));
        assert!(!allowed("http://corp.example/api", &["*.corp.example"]));
        assert!(!allowed("http://evilcorp.example/api", &["*.corp.example"]));
        assert!(!allowed("http://prefect.evil/api", &["prefect"]));
    }
}
