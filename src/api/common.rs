//! What the kinds share: references, targets, status.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::core::Duration;
use kube::{KubeSchema, core::cel::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::target::RestartStatus;

/// The most entries that `spec.data` may have.
pub const MAX_ENTRIES: usize = 512;

/// Which workspace to read from. Without it: the PrefectWorkspace `default` of the namespace, or else the
/// ClusterPrefectWorkspace `default`.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceRef {
    /// The workspace's kind. Default: PrefectWorkspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<WorkspaceKind>,
    /// The workspace's name; a PrefectWorkspace is in the namespace of this object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The workspace's kind. PrefectWorkspace: of the same namespace. ClusterPrefectWorkspace: of the whole cluster, as far
/// as its access rules allow. Default: PrefectWorkspace.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
pub enum WorkspaceKind {
    /// A workspace of one namespace.
    PrefectWorkspace,
    /// A workspace of the whole cluster.
    ClusterPrefectWorkspace,
}

impl WorkspaceKind {
    /// The kind as Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PrefectWorkspace => "PrefectWorkspace",
            Self::ClusterPrefectWorkspace => "ClusterPrefectWorkspace",
        }
    }
}

/// Labels and annotations for the target.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Labels of the target, besides the operator's own. Keys of Kubernetes and Argo CD (kubernetes.io, k8s.io, argoproj.io; but
    /// app.kubernetes.io is fine) and of prefect-sync.dev are refused, and so is owner: helm, by which Helm finds its releases.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = metadata_rule("labels must not use keys of kubernetes.io, k8s.io, argoproj.io or prefect-sync.dev: they steer controllers (app.kubernetes.io/... is fine)"), validation = Rule::new("!('owner' in self && self['owner'] == 'helm')").message("labels must not say owner: helm: Helm would take the target for a release, and do what it says"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the target, besides the operator's own. The same keys are refused as for labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = metadata_rule("annotations must not use keys of kubernetes.io, k8s.io, argoproj.io or prefect-sync.dev: they steer controllers (app.kubernetes.io/... is fine)"))]
    pub annotations: BTreeMap<String, String>,
}

fn metadata_rule(message: &str) -> Rule {
    Rule::new(
        "self.all(k, k.startsWith('app.kubernetes.io/') || !(k.contains('/') && (k.split('/')[0] == 'kubernetes.io' || k.split('/')[0].endsWith('.kubernetes.io') || k.split('/')[0] == 'k8s.io' || k.split('/')[0].endsWith('.k8s.io') || k.split('/')[0] == 'argoproj.io' || k.split('/')[0].endsWith('.argoproj.io') || k.split('/')[0].endsWith('prefect-sync.dev'))))",
    )
    .message(message)
}

/// To whom the target belongs. Owner: to this object, so its data is exactly what this object says, and Kubernetes
/// deletes it with the object. Orphan: the same, but it stays when the object is deleted. Merge: to someone else, who
/// accepts this object by the annotation prefect-sync.dev/accepts; only the keys of this object are written, and
/// removed when it goes. Default: Owner.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum CreationPolicy {
    /// To this object.
    #[default]
    Owner,
    /// To someone else, who accepts this object's keys.
    Merge,
    /// To this object, and it outlives it.
    Orphan,
}

/// How a value is written in Prefect. None: as it is. Base64: it is base64 (standard or URL-safe, with or without
/// padding), and what it stands for is delivered, binary or not.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Decoding {
    /// As it is.
    #[default]
    None,
    /// Base64.
    Base64,
}

/// What happens to a key of the target when Prefect confirms that its value is gone. Retain: it keeps its last
/// value, and the object is not Ready. Delete: it is removed, and the target with its last key. Default: Retain.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum DeletionPolicy {
    /// A required key keeps its last value, and the object is not Ready.
    #[default]
    Retain,
    /// The key is removed, and the target with its last key.
    Delete,
}

/// Who answered. Local: the workspace's local.configToml. Api: Prefect's API. Default: the entry's own default, as
/// Prefect confirmed that there is no value.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Source {
    /// The workspace's `local.configToml`.
    Local,
    /// Prefect's API.
    Api,
    /// The entry's own `default`: Prefect confirmed that there is no value.
    Default,
}

/// The state of one entry.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum EntryState {
    /// The target holds the current value.
    Synced,
    /// Prefect confirmed that there is no value, and the target has no such key.
    Absent,
    /// The target keeps the last good value; `reason` says why it is not current.
    Retained,
    /// There is no value to deliver; `reason` says why.
    Failed,
    /// Not yet read.
    Pending,
}

/// One entry: its state and where its value came from, never the value.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EntryStatus {
    /// The entry's key: in the target where the format is plain; dataFrom[0] for a source that gave no entries.
    pub key: String,
    /// What became of it. Synced: the target holds the current value. Absent: Prefect has none, nor has the target.
    /// Retained: the target keeps the last good value, see reason. Failed: there is no value to deliver, see reason.
    /// Pending: not read yet, or it waits for the other entries.
    pub state: EntryState,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The block or variable that it was found in; only for entries of dataFrom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Why it is not as asked for, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was tried and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The workspace that an object's `workspaceRef` led to.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedWorkspace {
    /// Its kind.
    pub kind: WorkspaceKind,
    /// Its name.
    pub name: String,
}

/// How many entries are in which state.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EntryCounts {
    /// All of them.
    pub total: i32,
    /// The target holds the current value.
    pub synced: i32,
    /// Prefect has none, nor has the target.
    pub absent: i32,
    /// The target keeps the last good value.
    pub retained: i32,
    /// There is no value to deliver.
    pub failed: i32,
    /// Not read yet, or waiting for the others.
    pub pending: i32,
}

/// Names that `find` found and the target holds. A name that is missing later is not believed to be gone before Prefect
/// confirms it, also after a restart of the operator.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FoundStatus {
    /// The type of the blocks; none for variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_type: Option<String>,
    /// The names.
    pub names: Vec<String>,
}

/// The target that was written last.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Its name, in the namespace of this object.
    pub name: String,
    /// Whether it is someone else's, in which this object has keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged: Option<bool>,
    /// How the entries are laid out in it, where that is not plain: under another layout no value of it can be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
}

/// What the operator last saw and did. It holds no value and no hash of one.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`; `Reconciling` and `Stalled` while they hold, as kstatus reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The workspace that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<ResolvedWorkspace>,
    /// The target that was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetStatus>,
    /// How many of the entries are as asked for, `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// How many of the entries are in which state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<EntryCounts>,
    /// Each entry of `spec.data` in order, and of `spec.dataFrom` what is wrong first, then the others as far as there
    /// is room: `counts` has them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<EntryStatus>,
    /// What `find` found and the target holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<FoundStatus>,
    /// How often the content of the target has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// How the workloads of `spec.restart` stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<RestartStatus>,
    /// The value of the annotation prefect-sync.dev/refresh for which all keys have been asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_refresh: Option<String>,
    /// Since when the target could not follow Prefect; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Time>,
    /// When the target's content last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change_time: Option<Time>,
}

/// The shape of a legal key of a Secret or ConfigMap: letters, digits, `-`, `_`, `.`, at most 253, neither `.`
/// nor starting with `..`.
pub const KEY_PATTERN: &str = r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$";

/// [`KEY_PATTERN`] in words: the API server's own message would show the pattern only.
pub(crate) fn key_rule(field: &str) -> Rule {
    let message = format!(
        "{field} must be letters, digits, '-', '_' and '.', such as DB_PASSWORD, and neither be \".\" nor begin with \"..\""
    );
    Rule::new(format!("self.matches(r'{KEY_PATTERN}')")).message(message.as_str())
}

/// A block type's name in words.
pub(crate) fn block_type_rule(field: &str) -> Rule {
    Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message(
        format!("{field} must be the type's name in its address, such as aws-credentials: lower-case letters, digits and '-'").as_str(),
    )
}

/// The shape of the name of a Secret or ConfigMap.
pub const NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// [`NAME_PATTERN`] in words, of `what`, such as `example`.
pub(crate) fn name_rule(what: &str, example: &str) -> Rule {
    let message = format!(
        "{what} must be lower-case letters, digits, '-' and '.', such as {example}, and begin and end with a letter or digit"
    );
    Rule::new(format!("self.matches(r'{NAME_PATTERN}')")).message(message.as_str())
}

/// What can't be set on a target that is someone else's.
pub(crate) fn merge_rule(set: &str, field: &str) -> Rule {
    Rule::new(format!("!(has(self.creationPolicy) && self.creationPolicy == 'Merge' && {set})"))
        .message(format!("{field} can't be set under creationPolicy Merge: the target is someone else's").as_str())
}

/// Fields that only templates have a use for.
pub(crate) fn template_rule() -> Rule {
    Rule::new("has(self.data) || !(has(self.mergePolicy) || has(self.delimiters))")
        .message("template.mergePolicy and template.delimiters go with template.data")
}

/// Go's duration syntax without sign: `500ms`, `30s`, `1h30m`. So few digits that no sum of them overflows, which
/// CEL would answer with an error of its own instead of the rule's message.
pub const DURATION_PATTERN: &str = r"^([0-9]{1,5}(\.[0-9]{1,3})?h|[0-9]{1,7}(\.[0-9]{1,3})?(ms|s|m))+$";

/// A duration within limits. The pattern stands in the rule too: `duration()` of anything else is an error of CEL's.
pub(crate) fn duration_rule(limits: &str, message: &str) -> Rule {
    Rule::new(format!("self.matches(r'{DURATION_PATTERN}') && {limits}")).message(message)
}

/// The least of a refresh interval.
pub const LEAST_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// The rule of every refresh interval.
pub(crate) fn interval_rule() -> Rule {
    duration_rule(
        "duration(self) >= duration('1s') && duration(self) <= duration('24h')",
        "refreshInterval must be a duration from 1s to 24h, such as 30s, 5m or 1h30m",
    )
}

pub(crate) fn duration_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": DURATION_PATTERN, "maxLength": 32, "nullable": true })
}

/// A duration of the spec, or `default`.
#[must_use]
pub fn duration_or(value: Option<Duration>, default: std::time::Duration) -> std::time::Duration {
    value.map_or(default, |d| if d.is_negative() { default } else { d.into() })
}
