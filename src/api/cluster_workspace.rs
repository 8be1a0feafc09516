//! `ClusterPrefectWorkspace`: one Prefect workspace for many namespaces.

use kube::core::Duration as GoDuration;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::access::{AccessRule, MAX_RULES};
use super::common::{duration_rule, duration_schema, interval_rule};
use super::workspace::{ApiSpec, Connection, LocalSpec, Prefect1Spec, RateLimit, WorkspaceStatus};

/// How to reach one Prefect workspace, with which credentials, and which namespaces may read what through it. Values
/// flow from Prefect into Kubernetes; nothing is ever written to Prefect.
#[derive(CustomResource, Deserialize, Serialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[kube(
    group = "prefect-sync.dev",
    version = "v1alpha1",
    kind = "ClusterPrefectWorkspace",
    plural = "clusterprefectworkspaces",
    shortname = "cpws",
    category = "prefect",
    status = "WorkspaceStatus",
    doc = "How to reach one Prefect workspace (Cloud or self-hosted), with which credentials, and which namespaces may read what through it.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Server", type_ = "string", json_path = ".status.serverVersion"),
    printcolumn(name = "Changes", type_ = "string", json_path = ".status.events.mode"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.apiUrl", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.api) || has(self.local) || has(self.prefect1)").message("set spec.api (a Prefect server or Cloud), spec.local (a config.toml), or both; or spec.prefect1"),
    validation = Rule::new("!(has(self.api) && has(self.prefect1))").message("set spec.api (Prefect 2 and 3) or spec.prefect1, not both: a workspace is one Prefect"),
    validation = Rule::new("!(has(self.prefect1) && has(self.prefect1.backend) && self.prefect1.backend == 'Server') || has(self.local)").message("Prefect 1's Server keeps no secrets: set spec.local, or prefect1.backend: Cloud")
)]
pub struct ClusterPrefectWorkspaceSpec {
    /// Prefect's API, versions 2 and 3, Cloud or self-hosted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiSpec>,
    /// Prefect 1: its secrets are read as Secret blocks, its key-value pairs as variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefect1: Option<Prefect1Spec>,
    /// Local secrets, consulted before the API, as Prefect itself does. Alone it needs no Prefect at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalSpec>,
    /// Which namespaces may read which keys. Nothing is allowed that no rule allows; without rules nobody reads
    /// anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_RULES))]
    pub access: Vec<AccessRule>,
    /// The longest a change in Prefect may go unseen, from 1s to 24h, such as 30s or 5m. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    #[x_kube(validation = interval_rule())]
    pub refresh_interval: Option<GoDuration>,
    /// How much may be asked of Prefect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// How long the objects of this workspace stay Ready on their last good values while Prefect can't be read.
    /// The workspace itself says so at once. At most 720h. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    #[x_kube(validation = duration_rule("duration(self) <= duration('720h')", "staleAfter must be a duration of at most 720h, such as 10m or 1h30m; 0s for none"))]
    pub stale_after: Option<GoDuration>,
}

impl ClusterPrefectWorkspaceSpec {
    /// How Prefect is reached.
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
