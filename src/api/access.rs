//! Who may use a ClusterPrefectWorkspace, and for what.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most rules that `spec.access` may have.
pub const MAX_RULES: usize = 128;
/// The most namespaces that one rule may name.
pub const MAX_NAMESPACES: usize = 256;
/// The most key patterns, and the most block types, that one rule may name.
pub const MAX_PATTERNS: usize = 64;
/// What stands for the asking namespace's name in a key pattern.
pub const NAMESPACE_PLACEHOLDER: &str = "{namespace}";

/// Allows namespaces to read keys. Nothing is allowed that no rule allows.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.namespaces) != has(self.namespaceSelector)").message("set namespaces or namespaceSelector, exactly one of them"))]
pub struct AccessRule {
    /// The namespaces that the rule is for, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = MAX_NAMESPACES), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(n, n.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))").message("namespaces are whole names, without wildcards; namespaceSelector selects by label"))]
    pub namespaces: Vec<String>,
    /// The namespaces that the rule is for, by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<NamespaceSelector>,
    /// Names of blocks and variables, where * stands for any text and {namespace} for the asking namespace's name. What
    /// one pattern would give to several namespaces is the one's with the longest name: data-science-db is not data's under
    /// {namespace}-* where there is a namespace data-science. Every name: ["*"].
    #[schemars(length(min = 1, max = MAX_PATTERNS), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = Rule::new("self.all(k, !k.replace('{namespace}', '').contains('{') && !k.replace('{namespace}', '').contains('}'))").message("keys are names with * for any text and {namespace} for the asking namespace's name; there is no other placeholder"), validation = Rule::new("self.all(k, !k.matches('[*].*[{]namespace[}].*[*]'))").message("in keys * stands before {namespace} or after it, not both: anybody's name may be somewhere in a name"))]
    pub keys: Vec<String>,
    /// The types of blocks, such as secret or aws-credentials; with Prefect 1 its secrets are of the type secret.
    /// Default: every type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = MAX_PATTERNS), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = Rule::new("self.all(t, t.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))").message("blockTypes are whole names as in the type's address, such as aws-credentials"))]
    pub block_types: Vec<String>,
    /// Whether variables (with Prefect 1 key-value pairs) of these names may be read, too. Default: true, but false where
    /// blockTypes is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variables: Option<bool>,
}

/// Selects namespaces by their labels: all of what is said must hold.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.matchLabels) && size(self.matchLabels) > 0 || has(self.matchExpressions) && size(self.matchExpressions) > 0").message("set matchLabels or matchExpressions; all namespaces have the label kubernetes.io/metadata.name (operator: Exists)"))]
pub struct NamespaceSelector {
    /// Labels that must have these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A condition on one label.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.values) == (self.operator in ['In', 'NotIn'])").message("In and NotIn need values; Exists and DoesNotExist take none"))]
pub struct LabelRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// In and NotIn: its value is one of values, or is not; Exists and DoesNotExist: it is there, or is not.
    pub operator: LabelOperator,
    /// The values of In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is compared. In and NotIn: its value is one of values, or is not; Exists and DoesNotExist: it is there, or
/// is not.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum LabelOperator {
    /// Its value is one of these.
    In,
    /// Its value is none of these, or it is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}
