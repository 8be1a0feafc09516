//! `PrefectWorkspace`: how to reach Prefect, and with which credentials.

use std::num::NonZeroU32;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::Duration as GoDuration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{LEAST_INTERVAL, duration_or, duration_rule, duration_schema, interval_rule, name_rule};

/// Default of `spec.refreshInterval`.
pub const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// Default of `spec.rateLimit.requestsPerMinute` on Prefect Cloud, whose smallest plan allows 250.
pub const DEFAULT_CLOUD_RATE: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// The same for a self-hosted server.
pub const DEFAULT_RATE: NonZeroU32 = NonZeroU32::new(600).unwrap();
/// Default of `spec.prefect1.apiUrl`.
pub const PREFECT1_API_URL: &str = "https://api.prefect.io";
/// Default of `spec.staleAfter`.
pub const DEFAULT_STALE_AFTER: Duration = Duration::from_secs(600);

/// How to reach one Prefect workspace, and with which credentials. Values flow from Prefect into Kubernetes;
/// nothing is ever written to Prefect.
#[derive(CustomResource, Deserialize, Serialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[kube(
    group = "prefect-sync.dev",
    version = "v1alpha1",
    kind = "PrefectWorkspace",
    plural = "prefectworkspaces",
    shortname = "pws",
    category = "prefect",
    namespaced,
    status = "WorkspaceStatus",
    doc = "How to reach one Prefect workspace (Cloud or self-hosted) and with which credentials.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Server", type_ = "string", json_path = ".status.serverVersion"),
    printcolumn(name = "Changes", type_ = "string", json_path = ".status.events.mode"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.apiUrl", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.api) || has(self.local) || has(self.prefect1) || has(self.parent)").message("set spec.api (a Prefect server or Cloud), spec.local (a config.toml), or both; or spec.prefect1; or spec.parent"),
    validation = Rule::new("!has(self.parent) || !(has(self.api) || has(self.prefect1) || has(self.rateLimit))").message("spec.parent brings its own Prefect: leave spec.api, spec.prefect1 and spec.rateLimit out"),
    validation = Rule::new("!(has(self.api) && has(self.prefect1))").message("set spec.api (Prefect 2 and 3) or spec.prefect1, not both: a workspace is one Prefect"),
    validation = Rule::new("!(has(self.prefect1) && has(self.prefect1.backend) && self.prefect1.backend == 'Server') || has(self.local)").message("Prefect 1's Server keeps no secrets: set spec.local, or prefect1.backend: Cloud")
)]
pub struct PrefectWorkspaceSpec {
    /// Prefect's API, versions 2 and 3, Cloud or self-hosted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiSpec>,
    /// Prefect 1: its secrets are read as Secret blocks, its key-value pairs as variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefect1: Option<Prefect1Spec>,
    /// Local secrets, consulted before the API, as Prefect itself does. Alone it needs no Prefect at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalSpec>,
    /// A workspace of the whole cluster that is read where local has nothing, as far as its access rules allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentRef>,
    /// The longest a change in Prefect may go unseen, from 1s to 24h, such as 30s or 5m; not shorter than the parent's.
    /// Default: the parent's, or 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    #[x_kube(validation = interval_rule())]
    pub refresh_interval: Option<GoDuration>,
    /// How much may be asked of Prefect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// How long the objects of this workspace stay Ready on their last good values while Prefect can't be read.
    /// The workspace itself says so at once. At most 720h. Default: the parent's, or 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    #[x_kube(validation = duration_rule("duration(self) <= duration('720h')", "staleAfter must be a duration of at most 720h, such as 10m or 1h30m; 0s for none"))]
    pub stale_after: Option<GoDuration>,
}

impl PrefectWorkspaceSpec {
    /// How Prefect is reached; of a workspace with a parent what it says itself.
    #[must_use]
    pub fn connection(&self) -> Connection<'_> {
        Connection {
            api: self.api.as_ref(),
            prefect1: self.prefect1.as_ref(),
            local: self.local.as_ref(),
            refresh_interval: self.refresh_interval,
            rate_limit: self.rate_limit.as_ref(),
            stale_after: self.stale_after,
        }
    }
}

/// A ClusterPrefectWorkspace by name.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// The name of the ClusterPrefectWorkspace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What the two kinds of workspaces say alike.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Prefect 2 and 3.
    pub api: Option<&'a ApiSpec>,
    /// Prefect 1.
    pub prefect1: Option<&'a Prefect1Spec>,
    /// Local secrets.
    pub local: Option<&'a LocalSpec>,
    /// `refreshInterval`, as written.
    pub refresh_interval: Option<GoDuration>,
    /// `rateLimit`, as written.
    pub rate_limit: Option<&'a RateLimit>,
    /// `staleAfter`, as written.
    pub stale_after: Option<GoDuration>,
}

impl<'a> Connection<'a> {
    /// `refreshInterval`, or its default.
    #[must_use]
    pub fn refresh_interval(&self) -> Duration {
        duration_or(self.refresh_interval, DEFAULT_REFRESH_INTERVAL).max(LEAST_INTERVAL)
    }

    /// `rateLimit.requestsPerMinute`, or its default.
    #[must_use]
    pub fn requests_per_minute(&self, is_cloud: bool) -> NonZeroU32 {
        let default = if is_cloud { DEFAULT_CLOUD_RATE } else { DEFAULT_RATE };
        let asked = self.rate_limit.and_then(|limit| u32::try_from(limit.requests_per_minute).ok());
        asked.and_then(NonZeroU32::new).unwrap_or(default)
    }

    /// `staleAfter`, or its default.
    #[must_use]
    pub fn stale_after(&self) -> Duration {
        duration_or(self.stale_after, DEFAULT_STALE_AFTER)
    }

    /// The same for a workspace that puts local secrets of its own over it, and may say how often to read.
    #[must_use]
    pub fn under(self, own: &Self) -> Self {
        Self {
            // What all share is not read more often than whoever runs it says.
            refresh_interval: own
                .refresh_interval
                .filter(|_| own.refresh_interval() > self.refresh_interval())
                .or(self.refresh_interval),
            stale_after: own.stale_after.or(self.stale_after),
            ..self
        }
    }

    /// The Secrets that it reads.
    pub fn secrets(self) -> impl Iterator<Item = &'a KeyRef> {
        let api = self.api.into_iter().flat_map(|api| api.api_key.iter().chain(&api.auth_string));
        let prefect1 = self.prefect1.and_then(|prefect1| prefect1.api_key.as_ref());
        let local = self.local.map(|local| &local.config_toml);
        api.chain(prefect1).chain(local).map(|source| &source.secret_key_ref)
    }

    /// The ConfigMaps that it reads.
    pub fn config_maps(self) -> impl Iterator<Item = &'a KeyRef> {
        self.api.into_iter().flat_map(|api| &api.ca_bundle).map(|source| &source.config_map_key_ref)
    }
}

/// How much may be asked of Prefect. All workspaces of one host (on Prefect Cloud: of one account) share their budget,
/// and the lowest of their limits holds, or of those of ClusterPrefectWorkspaces where there are some.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Requests in a minute, from 1 to 100000; a minute's worth may be spent at once. One request reads up to 200
    /// keys, and with Prefect 1 one. Default: 200 for Prefect Cloud, 600 for a server of your own.
    #[schemars(range(min = 1, max = 100_000))]
    pub requests_per_minute: i32,
}

/// Where Prefect's API is, and what it wants to see.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.accountId) == has(self.workspaceId)").message("set accountId and workspaceId together, or neither; both are in the address that the browser shows"),
    validation = Rule::new("!(has(self.apiKey) && has(self.authString))").message("set apiKey (Prefect Cloud) or authString (self-hosted), not both")
)]
pub struct ApiSpec {
    /// What PREFECT_API_URL holds, such as http://prefect-server:4200/api or https://api.prefect.cloud/api; the
    /// address copied from the browser is fine too.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')").message("url must start with http:// or https://, such as http://prefect-server:4200/api"))]
    pub url: String,
    /// Prefect Cloud's account ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub account_id: Option<String>,
    /// Prefect Cloud's workspace ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub workspace_id: Option<String>,
    /// Prefect Cloud's API key. The Secret needs the label prefect-sync.dev/offer=workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretSource>,
    /// The PREFECT_API_AUTH_STRING of a self-hosted server, such as admin:pass. The Secret needs the label
    /// prefect-sync.dev/offer=workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_string: Option<SecretSource>,
    /// Certificates (PEM) to trust besides the public ones. The ConfigMap needs the label
    /// prefect-sync.dev/offer=workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<ConfigMapSource>,
}

/// Which Prefect 1. Cloud: it has secrets and key-value pairs. Server: it has neither, only what is local. Default:
/// Cloud.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Prefect1Backend {
    /// Prefect 1 Cloud.
    #[default]
    Cloud,
    /// Prefect Server.
    Server,
}

/// Prefect 1's API, which is GraphQL.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.apiKey) || (has(self.backend) && self.backend == 'Server')").message("set prefect1.apiKey; only backend: Server needs none"))]
pub struct Prefect1Spec {
    /// What cloud.api is in Prefect 1's config.toml. Default: https://api.prefect.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')").message("apiUrl must start with http:// or https://, such as https://api.prefect.io"))]
    pub api_url: Option<String>,
    /// The tenant's ID. Default: the API key's own tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub tenant_id: Option<String>,
    /// The API key. The Secret needs the label prefect-sync.dev/offer=workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretSource>,
    /// Cloud: secrets and key-value pairs. Server: neither, only what is local. Default: Cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Prefect1Backend>,
}

/// Local secrets, as Prefect 1 keeps them.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalSpec {
    /// A Prefect 1 config.toml whose [context.secrets] are consulted first. The Secret needs the label
    /// prefect-sync.dev/offer=workspace.
    pub config_toml: SecretSource,
}

/// A value that a Secret holds.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// Which key of which Secret.
    pub secret_key_ref: KeyRef,
}

/// A value that a ConfigMap holds.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapSource {
    /// Which key of which ConfigMap.
    pub config_map_key_ref: KeyRef,
}

/// A key of a Secret or ConfigMap.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// The object's namespace. Only in a ClusterPrefectWorkspace; a PrefectWorkspace reads of its own namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = name_rule("the namespace of a reference", "platform"))]
    pub namespace: Option<String>,
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = name_rule("the name of a reference", "prefect-api-key"))]
    pub name: String,
    /// The key in it. Defaults: `key` for apiKey, `auth-string` for authString, `ca.crt` for caBundle,
    /// `config.toml` for configToml (the first two as in Prefect's own Helm chart).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// What the operator last saw of the workspace.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` says whether Prefect answers and the credentials work; `Reconciling` and `Stalled` while they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The API's address as it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    /// The version that the server says it is; `cloud` where it says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// How changes in Prefect are noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<EventsStatus>,
}

/// How changes in Prefect are noticed.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventsStatus {
    /// Streaming: Prefect's events announce them within a second. Polling: they are seen at the next refresh.
    pub mode: EventsMode,
    /// Why there is no stream of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Streaming: Prefect's events announce changes within a second. Polling: changes are seen at the next refresh.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum EventsMode {
    /// Events announce changes.
    Streaming,
    /// Changes are seen at the next refresh.
    Polling,
}
