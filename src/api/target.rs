//! What both kinds of target share: formats, templates, restarts.

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Duration as GoDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{KEY_PATTERN, NAME_PATTERN, duration_rule, duration_schema, key_rule, name_rule};

/// The most templates of one target.
pub const MAX_TEMPLATES: usize = 64;
/// The most workloads that one object may restart.
pub const MAX_RESTARTS: usize = 16;

/// How the entries are laid out in a Secret. Default: plain.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.plain) ? 1 : 0) + (has(self.json) ? 1 : 0) + (has(self.dotEnv) ? 1 : 0) + (has(self.dockerConfigJson) ? 1 : 0) + (has(self.prefect1Context) ? 1 : 0) + (has(self.prefect1ConfigToml) ? 1 : 0) == 1").message("set exactly one format: plain, json, dotEnv, dockerConfigJson, prefect1Context or prefect1ConfigToml"))]
pub struct SecretFormat {
    /// One key of the Secret for each entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<Plain>,
    /// One JSON file of all entries. Text is a JSON string there, everything else stays the JSON that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<FileFormat>,
    /// One .env file of all entries, quoted so that shells and dotenv readers take the same from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dot_env: Option<FileFormat>,
    /// A key .dockerconfigjson for imagePullSecrets, from the entries username, password and registry_url, which a
    /// docker-registry-credentials block has (extract it). The Secret's type is kubernetes.io/dockerconfigjson.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_config_json: Option<Plain>,
    /// One key for each entry, written so that Prefect 1 reads exactly the value when the Secret is mounted with
    /// envFrom and the prefix PREFECT__CONTEXT__SECRETS__.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefect1_context: Option<Plain>,
    /// A config.toml with the entries as [context.secrets], from which Prefect 1 reads exactly the values when
    /// PREFECT__USER_CONFIG_PATH leads to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefect1_config_toml: Option<FileFormat>,
}

/// How the entries are laid out in a ConfigMap. Default: plain.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.plain) ? 1 : 0) + (has(self.json) ? 1 : 0) + (has(self.dotEnv) ? 1 : 0) == 1").message("set exactly one format: plain, json or dotEnv"))]
pub struct ConfigMapFormat {
    /// One key of the ConfigMap for each entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<Plain>,
    /// One JSON file of all entries. Text is a JSON string there, everything else stays the JSON that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<FileFormat>,
    /// One .env file of all entries, quoted so that shells and dotenv readers take the same from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dot_env: Option<FileFormat>,
}

/// Nothing to set as yet.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct Plain {}

/// A file of all entries.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileFormat {
    /// The key of the target that is the file, such as settings.json, .env or config.toml.
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY_PATTERN))]
    #[x_kube(validation = key_rule("key"))]
    pub key: String,
}

/// What becomes of the entries where there are templates. Replace: only what the templates make is in the target.
/// Merge: the entries are, too. Default: Replace.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum MergePolicy {
    /// Only what the templates make is in the target.
    #[default]
    Replace,
    /// The entries are in the target too.
    Merge,
}

/// What marks expressions in templates. Braces: {{ x }}, {% if x %}, {# comment #}. Brackets: [[ x ]], [% if x %],
/// [# comment #], for manifests that pass through Helm. Default: Braces.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Delimiters {
    /// `{{ x }}`.
    #[default]
    Braces,
    /// `[[ x ]]`.
    Brackets,
}

/// A workload to restart.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
pub enum WorkloadKind {
    /// A Deployment.
    #[default]
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A DaemonSet.
    DaemonSet,
}

impl WorkloadKind {
    /// The kind as Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }
}

/// A workload that is restarted, as `kubectl rollout restart` does, when the content of the target changed.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// Deployment, StatefulSet or DaemonSet.
    pub kind: WorkloadKind,
    /// Its name, in the namespace of this object.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME_PATTERN))]
    #[x_kube(validation = name_rule("the workload's name", "agent"))]
    pub name: String,
    /// Only when one of these keys of the target changed. Without it: any key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)))]
    pub keys: Vec<String>,
    /// At most once in this time, up to 24h; a change in between restarts it at the end. Default: 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    #[x_kube(validation = duration_rule("duration(self) <= duration('24h')", "minInterval must be a duration of at most 24h, such as 10m or 1h"))]
    pub min_interval: Option<GoDuration>,
}

/// How a workload's restarts stand.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartStatus {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// The revision of the content that it is to be restarted for, until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_revision: Option<i64>,
    /// When it was last restarted by this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restart_time: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    /// Why it could not be restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Templates by key of the target.
pub type Templates = BTreeMap<String, String>;
