//! The two kinds as one: what an object asks for, with defaults applied.

use std::fmt;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::core::Duration as GoDuration;

use super::Timestamp;
use super::layout::{DOCKER_CONFIG_TYPE, Format};
use super::path::{Path, PathError};
use super::query::Query;
use super::restart::Restart;
use super::source::Source;
use super::template::Template;
use crate::api::{
    self, CreationPolicy, Decoding, DeletionPolicy, Delimiters, LEAST_INTERVAL, MergePolicy, PrefectKV, PrefectSecret,
    REFRESH_ANNOTATION, TemplateMetadata, WorkspaceKind, WorkspaceRef,
};

/// The block type that `remoteRef.key` means when `blockType` is left out.
pub const SECRET_BLOCK: &str = "secret";
/// The name of the workspace that is meant where none is named.
pub const DEFAULT_WORKSPACE: &str = "default";

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
    /// Its namespace; empty for one of the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl WorkspaceKey {
    /// The workspace of a namespace.
    #[must_use]
    pub fn namespaced(namespace: &str, name: &str) -> Self {
        Self { kind: WorkspaceKind::PrefectWorkspace, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The workspace of the whole cluster.
    #[must_use]
    pub fn cluster(name: &str) -> Self {
        Self { kind: WorkspaceKind::ClusterPrefectWorkspace, namespace: String::new(), name: name.to_owned() }
    }

    /// Whether it is one of the whole cluster.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.kind == WorkspaceKind::ClusterPrefectWorkspace
    }

    /// Where a reference in `namespace` leads; no reference means the namespace's `default`.
    #[must_use]
    pub fn of(reference: Option<&WorkspaceRef>, namespace: &str) -> Self {
        let name = reference.map_or(DEFAULT_WORKSPACE, |reference| reference.name.as_str());
        match reference.and_then(|reference| reference.kind) {
            Some(WorkspaceKind::ClusterPrefectWorkspace) => Self::cluster(name),
            Some(WorkspaceKind::PrefectWorkspace) | None => Self::namespaced(namespace, name),
        }
    }
}

impl fmt::Display for WorkspaceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            WorkspaceKind::PrefectWorkspace => write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name),
            WorkspaceKind::ClusterPrefectWorkspace => write!(f, "{} {}", self.kind.as_str(), self.name),
        }
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
    /// A Secret block that the local secrets call otherwise.
    LocalSecret {
        /// The block's name.
        name: String,
        /// The local secret's.
        local: String,
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
            Self::Block { name, .. } | Self::LocalSecret { name, .. } | Self::Variable { name } => name,
            Self::Listing(query) => query.regexp.as_deref().unwrap_or_default(),
        }
    }

    /// The type of the blocks it is about; `None` for variables.
    #[must_use]
    pub fn block_type(&self) -> Option<&str> {
        match self {
            Self::Block { block_type, .. } => Some(block_type),
            Self::LocalSecret { .. } => Some(SECRET_BLOCK),
            Self::Variable { .. } => None,
            Self::Listing(query) => query.block_type.as_deref(),
        }
    }

    /// What is asked of Prefect for it.
    #[must_use]
    pub fn in_prefect(&self) -> Self {
        match self {
            Self::LocalSecret { name, .. } => Self::named(Some(SECRET_BLOCK), name.clone()),
            other => other.clone(),
        }
    }

    /// The local secret that goes first, if there is one of that name.
    #[must_use]
    pub fn local_name(&self) -> Option<&str> {
        match self {
            Self::LocalSecret { local, .. } => Some(local),
            Self::Block { block_type, name } if block_type == SECRET_BLOCK => Some(name),
            _ => None,
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
            Self::LocalSecret { name, local } => write!(f, "secret block {name:?} (locally {local:?})"),
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
    /// Whether it names none.
    pub names_no_workspace: bool,
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

    /// Lets an object that names no workspace use the cluster's `default` where its namespace has none of that name.
    #[must_use]
    pub fn with_default_workspace(mut self, exists: impl Fn(&WorkspaceKey) -> bool) -> Self {
        let of_cluster = WorkspaceKey::cluster(DEFAULT_WORKSPACE);
        if self.names_no_workspace && !exists(&self.workspace) && exists(&of_cluster) {
            self.workspace = of_cluster;
        }
        self
    }

    /// Whether its keys are to be in a target of someone else's.
    #[must_use]
    pub fn is_merge(&self) -> bool {
        self.creation_policy == CreationPolicy::Merge
    }
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
        let target = spec.target.as_deref().cloned().unwrap_or_default();
        let template = target.template.unwrap_or_default();
        let format = target.format.as_ref().map(Format::from).unwrap_or_default();
        let default_type = if format == Format::DockerConfigJson { DOCKER_CONFIG_TYPE } else { "Opaque" };
        let entry = |entry: &api::SecretEntry| {
            let reference = entry.remote_ref.clone();
            Entry {
                key: entry.secret_key.clone(),
                remote: match (reference.local_key, reference.key) {
                    (Some(local), Some(name)) => RemoteKey::LocalSecret { name, local },
                    (_, key) => remote(reference.variable, key, reference.block_type.as_ref()),
                },
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
        let target = spec.target.as_deref().cloned().unwrap_or_default();
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
        workspace: WorkspaceKey::of(workspace_ref, &namespace),
        names_no_workspace: workspace_ref.is_none(),
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
