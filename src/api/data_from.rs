//! `spec.dataFrom`: many entries at once, and what their keys are called.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Decoding, block_type_rule};

/// The most items that `spec.dataFrom` may have.
pub const MAX_SOURCES: usize = 32;
/// The most names that `extract.include` may have.
pub const MAX_INCLUDED: usize = 64;
/// The most steps that `rewrite` may have.
pub const MAX_REWRITES: usize = 8;

const EXACTLY_ONE: &str = "has(self.find) != has(self.extract)";
const ONE_SOURCE: &str = "set find (many blocks or variables) or extract (the members of one JSON object), exactly one of them in each item of dataFrom";

/// Many entries at once, from blocks or variables.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(EXACTLY_ONE).message(ONE_SOURCE))]
pub struct SecretDataFrom {
    /// All blocks of a type, or all variables, whose name matches: one entry each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub find: Option<SecretFind>,
    /// The members of one JSON object, or the fields of one block: one entry each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<SecretExtract>,
    /// How names become keys of the Secret, step after step. Without it: the names as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = MAX_REWRITES))]
    pub rewrite: Vec<Rewrite>,
}

/// Many entries at once, from variables.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(EXACTLY_ONE).message(ONE_SOURCE))]
pub struct KVDataFrom {
    /// All variables whose name matches: one entry each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub find: Option<KVFind>,
    /// The members of one variable that holds a JSON object: one entry each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<KVExtract>,
    /// How names become keys of the ConfigMap, step after step. Without it: the names as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = MAX_REWRITES))]
    pub rewrite: Vec<Rewrite>,
}

/// What `find` looks through. Default: Block.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum FindKind {
    /// Blocks of one type.
    #[default]
    Block,
    /// Variables.
    Variable,
}

/// All blocks of a type, or all variables, that match.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) || has(self.tags)").message("set find.name.regexp, or find.tags for variables; to take everything write name: {regexp: '.'}"),
    validation = Rule::new("!has(self.tags) || (has(self.kind) && self.kind == 'Variable')").message("find.tags goes with kind: Variable; blocks have no tags"),
    validation = Rule::new("!(has(self.blockType) && has(self.kind) && self.kind == 'Variable')").message("find.blockType goes with kind: Block; a variable has no block type")
)]
pub struct SecretFind {
    /// Block: blocks of one type. Variable: variables. Default: Block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FindKind>,
    /// The blocks' type as in its address, such as `aws-credentials`. Default: `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = block_type_rule("find.blockType"))]
    pub block_type: Option<String>,
    /// Which names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<FindName>,
    /// Only variables that have all of these tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 255)))]
    pub tags: Vec<String>,
    /// What to take of each, as in remoteRef.property. Without it: a Secret block's value, a variable's value, or
    /// another block's fields as one JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub property: Option<String>,
    /// How each value is written in Prefect. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
    /// When true, the object is Ready also when nothing matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// All variables that match.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) || has(self.tags)").message("set find.name.regexp or find.tags; to take everything write name: {regexp: '.'}"))]
pub struct KVFind {
    /// Which names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<FindName>,
    /// Only variables that have all of these tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 255)))]
    pub tags: Vec<String>,
    /// What to take of each, as in remoteRef.property. Without it: the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub property: Option<String>,
    /// How each value is written in Prefect. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
    /// When true, the object is Ready also when nothing matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// Which names.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindName {
    /// A regular expression, taken as it is written: it matches anywhere in the name unless it has ^ and $. The
    /// syntax is that of Rust's regex crate, as good as RE2's: no look-around, no backreferences.
    #[schemars(length(min = 1, max = 1024))]
    pub regexp: String,
}

/// The members of one JSON object, or the fields of one block.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.key) != has(self.variable)").message("set extract.key (a block) or extract.variable, exactly one of them"),
    validation = Rule::new("!(has(self.blockType) && has(self.variable))").message("extract.blockType goes with extract.key; a variable has no block type")
)]
pub struct SecretExtract {
    /// The block's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub key: Option<String>,
    /// The block's type as in its address, such as `aws-credentials`. Default: `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = block_type_rule("extract.blockType"))]
    pub block_type: Option<String>,
    /// The variable's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub variable: Option<String>,
    /// Where in the value the object stands. Without it: the whole value, or the block's fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub property: Option<String>,
    /// Only these members, each of which must then be there. Without it: all that are not null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = MAX_INCLUDED), inner(length(min = 1, max = 253)))]
    pub include: Vec<String>,
    /// How each value is written in Prefect. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
    /// When true and Prefect confirms that there is no such block or variable, or an included member is not there, it
    /// is left out and the object stays Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// The members of one variable that holds a JSON object.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KVExtract {
    /// The variable's name.
    #[schemars(length(min = 1, max = 255))]
    pub key: String,
    /// Where in the value the object stands. Without it: the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub property: Option<String>,
    /// Only these members, each of which must then be there. Without it: all that are not null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = MAX_INCLUDED), inner(length(min = 1, max = 253)))]
    pub include: Vec<String>,
    /// How each value is written in Prefect. Default: None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
    /// When true and Prefect confirms that there is no such variable, or an included member is not there, it is left
    /// out and the object stays Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// One step from names to keys.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.regexp) ? 1 : 0) + (has(self.rename) ? 1 : 0) + (has(self.envName) ? 1 : 0) == 1").message("set regexp, rename or envName, exactly one of them in each step of rewrite"))]
pub struct Rewrite {
    /// Replaces what matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regexp: Option<RewriteRegexp>,
    /// Gives names, from old to new; others stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minProperties" = 1, "maxProperties" = 256))]
    pub rename: Option<BTreeMap<String, String>>,
    /// Makes names as environment variables have them: capitals, digits and underscores, such as ETL_DB_URL for
    /// etl-db-url; a digit in front gets an underscore before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_name: Option<EnvName>,
}

/// Replaces what matches.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewriteRegexp {
    /// A regular expression; every match in the name is replaced.
    #[schemars(length(min = 1, max = 1024))]
    pub source: String,
    /// What stands there instead; ${1} or ${name} for what a group matched (the braces matter where a letter, a digit
    /// or _ follows), $$ for a dollar sign.
    #[schemars(length(max = 1024))]
    pub target: String,
}

/// Nothing to set as yet.
#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct EnvName {}
