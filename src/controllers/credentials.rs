//! Gathers what a workspace names: its address, credentials, certificates and local secrets.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::Options;
use super::errors::Error;
use crate::api::{
    self as spec, ApiSpec, KeyRef, OFFER_LABEL, OFFER_WORKSPACE, PREFECT1_API_URL, Prefect1Backend, Prefect1Spec,
};
use crate::prefect::{self, ApiUrl, Auth, Connection, ErrorKind, Limits, LocalSecrets, Prefect1Client, UrlError};
use crate::sync::suggest::{cluster_trouble, nearest};
use crate::sync::{Failure, Reason, Timestamp, is_legal_name};
use crate::workspace::failure::Credentials;
use crate::workspace::{Prefect1, Reader, Setup};

/// What a workspace comes to.
pub struct Gathered {
    /// Names this state of the workspace and of all that it names.
    pub fingerprint: String,
    /// The address as it is used; `None` with local secrets only, or when it can't be used.
    pub api_url: Option<String>,
    /// The longest time between refreshes.
    pub interval: Duration,
    /// How long objects stay Ready through an outage.
    pub stale_after: Duration,
    /// What to do with the session.
    pub setup: Setup,
}

/// A workspace, of either kind, as far as it is gathered for.
pub struct Subject<'a> {
    /// How it reaches Prefect.
    pub connection: spec::Connection<'a>,
    /// Where all that it names is; `None` where each reference says so itself.
    pub namespace: Option<&'a str>,
    /// Its name, if it is a ClusterPrefectWorkspace.
    pub shared_as: Option<&'a str>,
    /// Names the state of the workspace itself.
    pub state: String,
}

/// The most names that a hint is chosen from.
const MOST_NAMES: u32 = 200;

/// Why a workspace can't be used.
pub type Problem = (Reason, String);

/// Why gathering ended.
enum Trouble {
    /// It is the workspace's.
    Problem(Problem),
    /// It is the API server's.
    Error(Error),
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

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
    subject: &Subject<'_>,
    named: &impl Named,
    options: &Options,
    now: Timestamp,
) -> Result<Gathered, Error> {
    let mut gathering = Gathering::new(subject, named);
    let reader = gathering.reader(&subject.connection, options).await;
    gathering.gathered(subject.connection, reader, now)
}

/// The ClusterPrefectWorkspace that another one puts local secrets of its own over.
pub struct Above<'a> {
    /// Its name.
    pub name: &'a str,
    /// Itself, or why it can't be had.
    pub subject: Result<&'a Subject<'a>, Problem>,
    /// Whether its rules let the namespace read anything.
    pub is_allowed: bool,
}

/// Gathers for a workspace that puts local secrets of its own over another one.
///
/// # Errors
/// When something they name could not be read from the API server.
pub async fn gather_over(
    above: &Above<'_>,
    subject: &Subject<'_>,
    named: &impl Named,
    options: &Options,
    now: Timestamp,
) -> Result<Gathered, Error> {
    let mut gathering = Gathering::new(subject, named);
    let parent = match &above.subject {
        Ok(parent) => parent,
        Err(problem) => return gathering.gathered(subject.connection, Err(problem.clone().into()), now),
    };
    let connection = parent.connection.under(&subject.connection);
    let reader =
        gathering.reader_over(above.name, above.is_allowed, (parent, &connection), &subject.connection, options);
    let reader = reader.await;
    gathering.gathered(connection, reader, now)
}

struct Gathering<'a, N> {
    namespace: Option<&'a str>,
    shared_as: Option<&'a str>,
    fingerprint: String,
    named: &'a N,
}

/// A value, and where it was found, for messages.
struct Located {
    bytes: Zeroizing<Vec<u8>>,
    place: String,
}

impl<'a, N: Named> Gathering<'a, N> {
    fn new(subject: &Subject<'a>, named: &'a N) -> Self {
        Self { namespace: subject.namespace, shared_as: subject.shared_as, fingerprint: subject.state.clone(), named }
    }

    fn gathered(
        self,
        connection: spec::Connection<'_>,
        reader: Result<(Reader, Option<String>), Trouble>,
        now: Timestamp,
    ) -> Result<Gathered, Error> {
        let (interval, stale_after) = (connection.refresh_interval(), connection.stale_after());
        let (api_url, setup) = match reader {
            Ok((reader, api_url)) => (api_url, Setup::Usable { reader: Box::new(reader), interval }),
            Err(Trouble::Problem((reason, message))) => {
                (None, Setup::Unusable(Failure { reason, message, since: now, workspace_wide: true }))
            }
            Err(Trouble::Error(error)) => return Err(error),
        };
        Ok(Gathered { fingerprint: self.fingerprint, api_url, interval, stale_after, setup })
    }

    /// The parent's reader, with local secrets of the workspace's own before it. Whoever may read nothing through the
    /// parent has only these; and whatever is wrong with the parent is told to those who run it.
    async fn reader_over(
        &mut self,
        name: &str,
        is_allowed: bool,
        (parent, connection): (&Subject<'_>, &spec::Connection<'_>),
        own: &spec::Connection<'_>,
        options: &Options,
    ) -> Result<(Reader, Option<String>), Trouble> {
        let own = self.local(own).await?.unwrap_or_default();
        if !is_allowed {
            self.fingerprint.push_str(&format!(" under {}", parent.state));
            return Ok((Reader::default().under(own), None));
        }
        let mut above = Gathering::new(parent, self.named);
        let read = above.reader(connection, options).await;
        self.fingerprint.push_str(&format!(" over {}", above.fingerprint));
        match read {
            Ok((reader, api_url)) => {
                let credentials = reader.credentials.of_workspace(name);
                Ok((Reader { credentials, shared_as: Some(name.into()), ..reader.under(own) }, api_url))
            }
            Err(Trouble::Problem((reason, _))) => Err(Trouble::Problem((reason, cluster_trouble(name, reason)))),
            Err(error) => Err(error),
        }
    }

    async fn local(&mut self, connection: &spec::Connection<'_>) -> Result<Option<LocalSecrets>, Trouble> {
        let Some(local) = connection.local else { return Ok(None) };
        let found = self.secret(&local.config_toml.secret_key_ref, "config.toml").await?;
        Ok(Some(local_secrets(&found)?))
    }

    async fn reader(
        &mut self,
        connection: &spec::Connection<'_>,
        options: &Options,
    ) -> Result<(Reader, Option<String>), Trouble> {
        let local = self.local(connection).await?.map(Arc::new);
        let mut reader = Reader { local, shared_as: self.shared_as.map(Arc::from), ..Reader::default() };
        if let Some(prefect1) = connection.prefect1 {
            return self.prefect1(reader, connection, prefect1, options).await;
        }
        let Some(api) = connection.api else { return Ok((reader, None)) };
        let url = api_url(api, options)?;
        let mut auth = Auth::None;
        if let Some(source) = &api.api_key {
            let (key, place) = text(self.secret(&source.secret_key_ref, "key").await?)?;
            (auth, reader.credentials) = (Auth::ApiKey(key), Credentials::ApiKey(place));
        } else if let Some(source) = &api.auth_string {
            let (string, place) = text(self.secret(&source.secret_key_ref, "auth-string").await?)?;
            (auth, reader.credentials) = (Auth::AuthString(string), Credentials::AuthString(place));
        }
        let mut ca_bundle = None;
        if let Some(source) = &api.ca_bundle {
            ca_bundle = Some(self.config_map(&source.config_map_key_ref, "ca.crt").await?.bytes.to_vec());
        }
        let display = url.to_string();
        let budget = options.budgets.budget(&url, self.limits(connection, url.is_cloud()));
        let client =
            prefect::Client::new(Connection { url, auth, ca_bundle, budget }).map_err(|e| configuration(&e))?;
        reader.client = Some(client);
        Ok((reader, Some(display)))
    }

    async fn prefect1(
        &mut self,
        mut reader: Reader,
        spec: &spec::Connection<'_>,
        prefect1: &Prefect1Spec,
        options: &Options,
    ) -> Result<(Reader, Option<String>), Trouble> {
        let invalid = |problem: &str| (Reason::WorkspaceInvalid, problem.to_owned());
        let source = match (prefect1.backend.unwrap_or_default(), &prefect1.api_key) {
            (Prefect1Backend::Cloud, Some(source)) => source,
            (Prefect1Backend::Cloud, None) => return Err(invalid("spec.prefect1 needs apiKey").into()),
            (Prefect1Backend::Server, _) => {
                reader.prefect1 = Some(Prefect1::Server);
                return Ok((reader, None));
            }
        };
        let text_of_url = prefect1.api_url.as_deref().unwrap_or(PREFECT1_API_URL);
        let url = ApiUrl::parse_prefect1(text_of_url).map_err(|error| invalid(&error.to_string()))?;
        let url = allowed(url, "spec.prefect1.apiUrl", options)?;
        let (key, place) = text(self.secret(&source.secret_key_ref, "key").await?)?;
        reader.credentials = Credentials::ApiKey(place);
        let display = url.to_string();
        let budget = options.budgets.budget(&url, self.limits(spec, true));
        let connection = Connection { url, auth: Auth::ApiKey(key), ca_bundle: None, budget };
        let client = Prefect1Client::new(connection, prefect1.tenant_id.as_deref()).map_err(|e| configuration(&e))?;
        reader.prefect1 = Some(Prefect1::Cloud(client));
        Ok((reader, Some(display)))
    }

    /// What whoever runs a workspace of the whole cluster allows holds for all who share its host.
    fn limits(&self, connection: &spec::Connection<'_>, is_cloud: bool) -> Limits {
        Limits {
            rate: connection.requests_per_minute(is_cloud),
            interval: connection.refresh_interval(),
            binding: self.namespace.is_none(),
        }
    }

    async fn secret(&mut self, reference: &KeyRef, default_key: &str) -> Result<Located, Trouble> {
        let named = self.reference("Secret", reference, default_key)?;
        let found = self.named.secret(&named.namespace, &named.name).await?;
        self.note(found.as_ref(), &named);
        if found.is_none() {
            return Err(named.missing(&self.named.offered(named.kind, &named.namespace).await).into());
        }
        named.check(found.as_ref())?;
        let data = found.and_then(|secret| secret.data).unwrap_or_default();
        let keys: Vec<String> = data.keys().cloned().collect();
        Ok(named.pick(data.into_iter().find(|(k, _)| *k == named.key).map(|(_, value)| value.0), &keys)?)
    }

    async fn config_map(&mut self, reference: &KeyRef, default_key: &str) -> Result<Located, Trouble> {
        let named = self.reference("ConfigMap", reference, default_key)?;
        let found = self.named.config_map(&named.namespace, &named.name).await?;
        self.note(found.as_ref(), &named);
        if found.is_none() {
            return Err(named.missing(&self.named.offered(named.kind, &named.namespace).await).into());
        }
        named.check(found.as_ref())?;
        let data = found.and_then(|map| map.data).unwrap_or_default();
        let keys: Vec<String> = data.keys().cloned().collect();
        Ok(named.pick(data.into_iter().find(|(k, _)| *k == named.key).map(|(_, value)| value.into_bytes()), &keys)?)
    }

    /// What a reference names: a namespaced workspace's is in its own namespace, whatever it says.
    fn reference(&self, kind: &'static str, reference: &KeyRef, default_key: &str) -> Result<Reference, Problem> {
        let name = reference.name.clone();
        let Some(namespace) = self.namespace.or(reference.namespace.as_deref()) else {
            return Err((Reason::WorkspaceInvalid, format!("the reference to {kind} {name} needs a namespace")));
        };
        // They stand in an address of the API server's: what is no name could lead elsewhere.
        if let Some(wrong) = [name.as_str(), namespace].into_iter().find(|name| !is_legal_name(name)) {
            let message = format!(
                "{wrong:?} is no name of a {kind} or a namespace: use lower-case letters, digits, '-' and '.', and begin and end with a letter or digit"
            );
            return Err((Reason::WorkspaceInvalid, message));
        }
        let key = reference.key.as_deref().unwrap_or(default_key).to_owned();
        Ok(Reference { kind, namespace: namespace.to_owned(), name, key })
    }

    fn note<K: kube::Resource>(&mut self, found: Option<&K>, named: &Reference) {
        let version = found.map(|object| (object.uid(), object.resource_version()));
        self.fingerprint.push_str(&format!(" {}/{}={version:?}", named.namespace, named.name));
    }
}

/// What a workspace names.
struct Reference {
    kind: &'static str,
    namespace: String,
    name: String,
    key: String,
}

impl Reference {
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
fn configuration(error: &prefect::Error) -> Problem {
    let message = match &error.kind {
        ErrorKind::Configuration { hint } => (*hint).to_owned(),
        _ => error.to_string(),
    };
    (Reason::WorkspaceInvalid, message)
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
