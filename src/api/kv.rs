//! `PrefectKV`: variables that become a ConfigMap.

use std::collections::BTreeMap;

use kube::core::Duration as GoDuration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{
    CreationPolicy, Decoding, DeletionPolicy, KEY_PATTERN, MAX_ENTRIES, NAME_PATTERN, SyncStatus, TemplateMetadata,
    WorkspaceRef, duration_schema, interval_rule, key_rule, merge_rule, name_rule, template_rule,
};
use super::data_from::{KVDataFrom, MAX_SOURCES};
use super::target::{ConfigMapFormat, Delimiters, MAX_RESTARTS, MAX_TEMPLATES, MergePolicy, Restart, Templates};

/// Prefect variables that become one ConfigMap. It reads variables only, so that nothing secret ends in a
/// ConfigMap.
#[derive(CustomResource, Deserialize, Serialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[kube(
    group = "prefect-sync.dev",
    version = "v1alpha1",
    kind = "PrefectKV",
    plural = "prefectkvs",
    shortname = "pkv",
    category = "prefect",
    namespaced,
    status = "SyncStatus",
    doc = "Prefect variables that become one ConfigMap, kept up to date.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Keys", type_ = "string", json_path = ".status.keys"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target.name"),
    printcolumn(name = "Workspace", type_ = "string", json_path = ".status.workspace.name"),
    printcolumn(name = "WorkspaceKind", type_ = "string", json_path = ".status.workspace.kind", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.data) || has(self.dataFrom)").message("set spec.data, spec.dataFrom, or both"))]
pub struct PrefectKVSpec {
    /// Which workspace to read from. Default: the PrefectWorkspace `default` of this namespace, or else the
    /// ClusterPrefectWorkspace `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_ref: Option<WorkspaceRef>,
    /// What to read, one key of the ConfigMap each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = MAX_ENTRIES))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["configMapKey".into()]))]
    pub data: Vec<KVEntry>,
    /// Many entries at once. Later items override earlier ones, and data overrides dataFrom.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = MAX_SOURCES))]
    pub data_from: Vec<KVDataFrom>,
    /// The ConfigMap to write. Default: one of the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Box<ConfigMapTarget>>,
    /// The longest a change in Prefect may go unseen, from 1s to 24h, shorter or longer than the workspace's. A key
    /// that several objects ask for is read as often as one of them needs; through a ClusterPrefectWorkspace not more often
    /// than that says. Default: the workspace's refreshInterval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    #[x_kube(validation = interval_rule())]
    pub refresh_interval: Option<GoDuration>,
    /// Workloads to restart when the content of the target changed; never because the operator was restarted or this was
    /// added. The operator needs the roles of deploy/manifests-optional/11-restarts.yaml.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_RESTARTS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub restart: Vec<Restart>,
    /// While true nothing is read or written for this object, and its ConfigMap stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// One key of the ConfigMap.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.optional) && self.optional && has(self.default))").message("set optional or default, not both: a default already stands in where Prefect has no value"))]
pub struct KVEntry {
    /// The key in the ConfigMap: letters, digits, '-', '_' and '.'.
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY_PATTERN))]
    #[x_kube(validation = key_rule("configMapKey"))]
    pub config_map_key: String,
    /// What to read from Prefect.
    pub remote_ref: KVRemoteRef,
    /// When true and Prefect confirms that there is no value, the key is left out and the object stays Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// The value when Prefect confirms that there is none; never used because of an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub default: Option<String>,
    /// How the value is written in Prefect; a default is taken as it is. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
}

/// A variable, or a part of one.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KVRemoteRef {
    /// The variable's name.
    #[schemars(length(min = 1, max = 255))]
    pub key: String,
    /// A path into the value, such as `a.b[0].c` or `a["b.c"]`. It also looks inside a string that holds JSON.
    /// Without it: the whole value; strings as they are, everything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub property: Option<String>,
}

/// The ConfigMap to write.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = merge_rule("has(self.immutable)", "immutable"),
    validation = merge_rule("has(self.template) && has(self.template.metadata)", "template.metadata")
)]
pub struct ConfigMapTarget {
    /// Its name. Default: the name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME_PATTERN))]
    #[x_kube(validation = name_rule("the target's name", "etl-secrets"))]
    pub name: Option<String>,
    /// To whom it belongs. Default: Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_policy: Option<CreationPolicy>,
    /// What happens to a key when Prefect confirms that its value is gone. Default: Retain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// When true, Kubernetes refuses every change of the data; the operator then replaces the whole ConfigMap when the
    /// content changes. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
    /// How the entries are laid out. Default: plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ConfigMapFormat>,
    /// Its labels and annotations, and templates of its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ConfigMapTemplate>,
}

/// What the ConfigMap looks like besides its data.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = template_rule())]
pub struct ConfigMapTemplate {
    /// Labels and annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// Templates in the language of Jinja, by key of the target: entries are variables there, {{ DB_PASSWORD }}, or
    /// {{ data["tls.crt"] }} where the name is no identifier. Besides: if, for, and the filters urlencode, tojson,
    /// fromjson, b64encode, b64decode, quote, upper, lower, trim and default. Nothing is escaped unasked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = MAX_TEMPLATES))]
    pub data: Templates,
    /// Replace: only what the templates make is in the target. Merge: the entries are, too. Default: Replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_policy: Option<MergePolicy>,
    /// Braces for {{ x }}, Brackets for [[ x ]], [% if x %] and [# comment #]: Helm takes braces for its own.
    /// Default: Braces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiters: Option<Delimiters>,
}
