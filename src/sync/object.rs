//! The two kinds as one: what an object asks for, with defaults applied.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::core::Duration as GoDuration;

use super::layout::{DOCKER_CONFIG_TYPE, Format, known_keys};
use super::path::{Path, PathError};
use super::query::Query;
use super::restart::Restart;
use super::source::{Selection, Source};
use super::template::Template;
use super::{Reason, Timestamp};
use crate::api::{
    self, CreationPolicy, Decoding, DeletionPolicy, Delimiters, KEY_PATTERN, LEAST_INTERVAL, MergePolicy, PrefectKV,
    PrefectSecret, REFRESH_ANNOTATION, TemplateMetadata, WorkspaceKind, WorkspaceRef,
};

/// The block type that `remoteRef.key` means when `blockType` is left out.
pub const SECRET_BLOCK: &str = "secret";

/// The kinds that sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Blocks and variables into a Secret.
    PrefectSecret,
    /// Variables into a ConfigMap.
    PrefectKV,
}

impl Kind {
    /// The kind as Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PrefectSecret => "PrefectSecret",
            Self::PrefectKV => "PrefectKV",
        }
    }

    /// The kind of its target.
    #[must_use]
    pub fn target(self) -> &'static str {
        match self {
            Self::PrefectSecret => "Secret",
            Self::PrefectKV => "ConfigMap",
        }
    }
}

/// An object that depends on a workspace: who is woken when a reading changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dependent {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Dependent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// Names one workspace object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceKey {
    /// Its kind.
    pub kind: WorkspaceKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl WorkspaceKey {
    /// Where a reference in `namespace` leads; no reference means the namespace's `default`.
    #[must_use]
    pub fn resolve(reference: Option<&WorkspaceRef>, namespace: &str) -> Self {
        Self {
            kind: reference.and_then(|r| r.kind).unwrap_or(WorkspaceKind::PrefectWorkspace),
            namespace: namespace.to_owned(),
            name: reference.map_or_else(|| "default".to_owned(), |r| r.name.clone()),
        }
    }
}

impl fmt::Display for WorkspaceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// What is read from Prefect in one piece.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RemoteKey {
    /// A block.
    Block {
        /// Its type's slug.
        block_type: String,
        /// Its name.
        name: String,
    },
    /// A variable.
    Variable {
        /// Its name.
        name: String,
    },
    /// The names that match; those names are keys of their own.
    Listing(Box<Query>),
}

impl RemoteKey {
    /// Its name; of a listing the expression.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Block { name, .. } | Self::Variable { name } => name,
            Self::Listing(query) => query.regexp.as_deref().unwrap_or_default(),
        }
    }

    /// The type of the blocks it is about; `None` for variables.
    #[must_use]
    pub fn block_type(&self) -> Option<&str> {
        match self {
            Self::Block { block_type, .. } => Some(block_type),
            Self::Variable { .. } => None,
            Self::Listing(query) => query.block_type.as_deref(),
        }
    }

    /// The block of that type, or the variable where there is none, of this name.
    #[must_use]
    pub fn named(block_type: Option<&str>, name: String) -> Self {
        match block_type {
            Some(block_type) => Self::Block { block_type: block_type.to_owned(), name },
            None => Self::Variable { name },
        }
    }
}

impl fmt::Display for RemoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { block_type, name } => write!(f, "{block_type} block {name:?}"),
            Self::Variable { name } => write!(f, "variable {name:?}"),
            Self::Listing(query) => query.fmt(f),
        }
    }
}

/// `property`: where in a value to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// As it was written.
    pub text: String,
    /// The path that it is.
    pub path: Result<Path, PathError>,
}

impl Property {
    /// Parses it, if there is one.
    #[must_use]
    pub fn of(text: Option<&String>) -> Option<Self> {
        text.map(|text| Self { text: text.clone(), path: Path::parse(text) })
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key in the target.
    pub key: String,
    /// What to read.
    pub remote: RemoteKey,
    /// Where in it to look.
    pub property: Option<Property>,
    /// Whether a confirmed absence is fine.
    pub optional: bool,
    /// What stands in for a confirmed absence.
    pub default: Option<String>,
    /// How the value is written.
    pub decoding: Decoding,
}

/// What one object asks for, whichever its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Kind, namespace and name.
    pub id: Dependent,
    /// Its UID.
    pub uid: String,
    /// The generation of its spec.
    pub generation: Option<i64>,
    /// The workspace to read from.
    pub workspace: WorkspaceKey,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// What to read, one by one.
    pub entries: Vec<Entry>,
    /// What to read, many at once.
    pub sources: Vec<Source>,
    /// The target's name.
    pub target_name: String,
    /// The target's type; Secrets only.
    pub target_type: Option<String>,
    /// Labels and annotations for the target.
    pub template: TemplateMetadata,
    /// How the entries are laid out.
    pub format: Format,
    /// What templates make of them.
    pub templates: Option<Template>,
    /// Whether Kubernetes is to refuse changes of the target.
    pub immutable: bool,
    /// To whom the target belongs.
    pub creation_policy: CreationPolicy,
    /// What to restart when the content changes.
    pub restarts: Vec<Restart>,
    /// What a confirmed absence does.
    pub deletion_policy: DeletionPolicy,
    /// How often to read its keys; `None` for as often as the workspace says.
    pub refresh_interval: Option<Duration>,
    /// The value of the annotation that asks for a refresh.
    pub refresh: Option<String>,
    /// Whether to leave everything alone.
    pub suspend: bool,
}

impl Object {
    /// `KIND/NAME`, as the target's annotations name it.
    #[must_use]
    pub fn owner_name(&self) -> String {
        format!("{}/{}", self.id.kind.as_str(), self.id.name)
    }

    /// `Secret flows/etl`, for messages.
    #[must_use]
    pub fn target_display(&self) -> String {
        format!("{} {}/{}", self.id.kind.target(), self.id.namespace, self.target_name)
    }

    /// Whether its keys are to be in a target of someone else's.
    #[must_use]
    pub fn is_merge(&self) -> bool {
        self.creation_policy == CreationPolicy::Merge
    }

    /// What the CRD's own validation also refuses, and what only we can see. Checked here too, since a CRD on the
    /// server may be older, a file given to `render` meets no API server, and a wrong type gives power over the cluster.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to write instead.
    pub fn validate(&self) -> Result<(), (Reason, String)> {
        self.validate_shape().map_err(|problem| (Reason::ObjectInvalid, problem))?;
        for (at, source) in self.sources.iter().enumerate() {
            source.validate().map_err(|problem| (Reason::RegexpInvalid, format!("spec.dataFrom[{at}]: {problem}")))?;
        }
        if let Some(template) = &self.templates {
            template.validate().map_err(|problem| (Reason::TemplateInvalid, format!("spec.target.{problem}")))?;
        }
        Ok(())
    }

    fn validate_shape(&self) -> Result<(), String> {
        if self.entries.is_empty() && self.sources.is_empty() {
            return Err("spec.data or spec.dataFrom must have at least one entry".into());
        }
        let mut seen = BTreeSet::new();
        for entry in &self.entries {
            if !is_legal_key(&entry.key) {
                return Err(format!("spec.data key {}", illegal(&entry.key, self.id.kind)));
            }
            if !seen.insert(&entry.key) {
                return Err(format!("spec.data has the key {:?} twice", entry.key));
            }
        }
        let workloads = self.restarts.iter().map(|restart| &restart.name);
        if let Some(name) = workloads.chain([&self.target_name]).find(|name| !is_legal_name(name)) {
            return Err(format!(
                "{name:?} is no name of an object: use lower-case letters, digits, '-' and '.', and begin and end with a letter or digit"
            ));
        }
        if let Some(known) = known_keys(self)
            && let Some(key) =
                self.restarts.iter().flat_map(|restart| &restart.keys).find(|key| !known.contains(&key.as_str()))
        {
            return Err(format!(
                "spec.restart keys has {key:?}, which the target never has: as it is laid out it has {}",
                known.join(", ")
            ));
        }
        let empty = |source: &Source| matches!(&source.selection, Selection::Find(query) if query.regexp.is_none() && query.tags.is_empty());
        if self.sources.iter().any(empty) {
            return Err(
                "find in spec.dataFrom needs name.regexp or tags; to take everything write name: {regexp: '.'}".into(),
            );
        }
        let file = match &self.format {
            Format::Json { key } | Format::DotEnv { key } | Format::Prefect1ConfigToml { key } => Some(key),
            Format::Plain | Format::DockerConfigJson | Format::Prefect1Context => None,
        };
        let made = self.templates.iter().flat_map(|template| template.templates.keys()).chain(file);
        if let Some(key) = made.into_iter().find(|key| !is_legal_key(key)) {
            return Err(format!("spec.target key {}", illegal(key, self.id.kind)));
        }
        if let Some(secret_type) = &self.target_type
            && !is_allowed_type(secret_type)
        {
            return Err(format!(
                "spec.target.template.type {secret_type:?} is not allowed: it gives power over the cluster; use Opaque, kubernetes.io/dockerconfigjson, tls, basic-auth or ssh-auth, or a type outside kubernetes.io"
            ));
        }
        for key in self.template.labels.keys().chain(self.template.annotations.keys()) {
            if !is_allowed_metadata(key) {
                return Err(format!(
                    "spec.target.template.metadata must not set {key:?}: keys of kubernetes.io, k8s.io and prefect-sync.dev steer controllers"
                ));
            }
        }
        Ok(())
    }
}

/// That a key is illegal, and what is not.
#[must_use]
pub fn illegal(key: &str, kind: Kind) -> String {
    format!(
        "{key:?} is no legal key of a {}: use letters, digits, '-', '_' and '.', neither \".\" nor starting with \"..\", at most 253",
        kind.target()
    )
}

/// The type that is meant by `blockType`.
pub(super) fn block_type(written: Option<&String>) -> String {
    written.cloned().unwrap_or_else(|| SECRET_BLOCK.to_owned())
}

/// What a reference leads to.
pub(super) fn remote(variable: Option<String>, key: Option<String>, written_type: Option<&String>) -> RemoteKey {
    match variable {
        Some(name) => RemoteKey::Variable { name },
        None => RemoteKey::Block { block_type: block_type(written_type), name: key.unwrap_or_default() },
    }
}

impl From<&PrefectSecret> for Object {
    fn from(object: &PrefectSecret) -> Self {
        let spec = &object.spec;
        let target = spec.target.clone().unwrap_or_default();
        let template = target.template.unwrap_or_default();
        let format = target.format.as_ref().map(Format::from).unwrap_or_default();
        let default_type = if format == Format::DockerConfigJson { DOCKER_CONFIG_TYPE } else { "Opaque" };
        let entry = |entry: &api::SecretEntry| {
            let reference = entry.remote_ref.clone();
            Entry {
                key: entry.secret_key.clone(),
                remote: remote(reference.variable, reference.key, reference.block_type.as_ref()),
                property: Property::of(reference.property.as_ref()),
                optional: entry.optional.unwrap_or(false),
                default: entry.default.clone(),
                decoding: entry.decoding.unwrap_or_default(),
            }
        };
        Self {
            entries: spec.data.iter().map(entry).collect(),
            sources: spec.data_from.iter().map(Source::from).collect(),
            target_type: template.r#type.or_else(|| Some(default_type.to_owned())),
            template: template.metadata.unwrap_or_default(),
            format,
            templates: templates(template.data, template.merge_policy, template.delimiters),
            immutable: target.immutable.unwrap_or(false),
            creation_policy: target.creation_policy.unwrap_or_default(),
            deletion_policy: target.deletion_policy.unwrap_or_default(),
            restarts: spec.restart.iter().map(Restart::from).collect(),
            refresh_interval: spec.refresh_interval.map(interval),
            suspend: spec.suspend.unwrap_or(false),
            ..named(Kind::PrefectSecret, object, spec.workspace_ref.as_ref(), target.name)
        }
    }
}

impl From<&PrefectKV> for Object {
    fn from(object: &PrefectKV) -> Self {
        let spec = &object.spec;
        let target = spec.target.clone().unwrap_or_default();
        let template = target.template.unwrap_or_default();
        let entry = |entry: &api::KVEntry| Entry {
            key: entry.config_map_key.clone(),
            remote: RemoteKey::Variable { name: entry.remote_ref.key.clone() },
            property: Property::of(entry.remote_ref.property.as_ref()),
            optional: entry.optional.unwrap_or(false),
            default: entry.default.clone(),
            decoding: entry.decoding.unwrap_or_default(),
        };
        Self {
            entries: spec.data.iter().map(entry).collect(),
            sources: spec.data_from.iter().map(Source::from).collect(),
            template: template.metadata.unwrap_or_default(),
            format: target.format.as_ref().map(Format::from).unwrap_or_default(),
            templates: templates(template.data, template.merge_policy, template.delimiters),
            immutable: target.immutable.unwrap_or(false),
            creation_policy: target.creation_policy.unwrap_or_default(),
            deletion_policy: target.deletion_policy.unwrap_or_default(),
            restarts: spec.restart.iter().map(Restart::from).collect(),
            refresh_interval: spec.refresh_interval.map(interval),
            suspend: spec.suspend.unwrap_or(false),
            ..named(Kind::PrefectKV, object, spec.workspace_ref.as_ref(), target.name)
        }
    }
}

fn templates(
    templates: api::Templates,
    merge_policy: Option<MergePolicy>,
    delimiters: Option<Delimiters>,
) -> Option<Template> {
    let template = Template {
        templates,
        merge: merge_policy == Some(MergePolicy::Merge),
        brackets: delimiters == Some(Delimiters::Brackets),
    };
    Some(template).filter(|template| !template.templates.is_empty())
}

/// An object that asks for nothing yet.
fn named<K: kube::Resource>(
    kind: Kind,
    object: &K,
    workspace_ref: Option<&WorkspaceRef>,
    target_name: Option<String>,
) -> Object {
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    Object {
        workspace: WorkspaceKey::resolve(workspace_ref, &namespace),
        created: object.meta().creation_timestamp.as_ref().map(|time| time.0),
        uid: object.uid().unwrap_or_default(),
        generation: object.meta().generation,
        refresh: object.annotations().get(REFRESH_ANNOTATION).cloned(),
        target_name: target_name.unwrap_or_else(|| name.clone()),
        id: Dependent { kind, namespace, name },
        entries: Vec::new(),
        sources: Vec::new(),
        target_type: None,
        template: TemplateMetadata::default(),
        format: Format::default(),
        templates: None,
        immutable: false,
        creation_policy: CreationPolicy::default(),
        restarts: Vec::new(),
        deletion_policy: DeletionPolicy::default(),
        refresh_interval: None,
        suspend: false,
    }
}

/// What the CRD refuses is read as the least that it allows.
fn interval(duration: GoDuration) -> Duration {
    if duration.is_negative() { LEAST_INTERVAL } else { Duration::from(duration).max(LEAST_INTERVAL) }
}

pub(super) fn is_legal_key(key: &str) -> bool {
    debug_assert_eq!(KEY_PATTERN, r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$");
    let rest = key.strip_prefix('.').unwrap_or(key);
    !rest.is_empty()
        && !rest.starts_with('.')
        && key.len() <= 253
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The name of an object, as it may stand in an address.
fn is_legal_name(name: &str) -> bool {
    let is_end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            let bytes = label.as_bytes();
            matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if is_end(*first) && is_end(*last))
                && bytes.iter().all(|byte| is_end(*byte) || *byte == b'-')
        })
}

fn is_allowed_type(secret_type: &str) -> bool {
    const ALLOWED: [&str; 5] = [
        "Opaque",
        "kubernetes.io/dockerconfigjson",
        "kubernetes.io/tls",
        "kubernetes.io/basic-auth",
        "kubernetes.io/ssh-auth",
    ];
    let domain = secret_type.split('/').next().unwrap_or_default();
    ALLOWED.contains(&secret_type) || !domain.ends_with("kubernetes.io")
}

fn is_allowed_metadata(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    domain == "app.kubernetes.io"
        || !(within("kubernetes.io") || within("k8s.io") || domain.ends_with("prefect-sync.dev"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    #[test]
    fn the_key_check_and_the_crds_pattern_agree() {
        let pattern = Regex::new(KEY_PATTERN).unwrap();
        for key in ["A", "a.b", ".dockerconfigjson", "-x", "_", ".", "..", "..a", "a..b", "", "a/b", "ä", "a b", ".a."]
        {
            assert_eq!(is_legal_key(key), pattern.is_match(key), "{key:?}");
        }
    }

    #[test]
    fn the_name_check_and_the_crds_pattern_agree() {
        let pattern = Regex::new(api::NAME_PATTERN).unwrap();
        for name in ["a", "a-b.c1", "", "-a", "a-", "a..b", ".a", "A", "a_b", "a/b", "web?dryRun=All", "../x", "ä"] {
            assert_eq!(is_legal_name(name), pattern.is_match(name), "{name:?}");
        }
    }

    #[test]
    fn types_and_metadata_that_give_power_over_the_cluster_are_refused() {
        for bad in ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token", "kubernetes.io/dockercfg"] {
            assert!(!is_allowed_type(bad), "{bad}");
        }
        for good in ["Opaque", "kubernetes.io/tls", "example.com/custom", "custom"] {
            assert!(is_allowed_type(good), "{good}");
        }
        for bad in [
            "kubernetes.io/service-account.name",
            "control-plane.alpha.kubernetes.io/leader",
            "x.k8s.io/y",
            "prefect-sync.dev/owner",
        ] {
            assert!(!is_allowed_metadata(bad), "{bad}");
        }
        for good in ["app.kubernetes.io/name", "team", "example.com/x"] {
            assert!(is_allowed_metadata(good), "{good}");
        }
    }
}
