//! The two kinds as one: what an object asks for, with defaults applied.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::core::Duration as GoDuration;

use super::Timestamp;
use super::path::{Path, PathError};
use crate::api::{
    DeletionPolicy, KEY_PATTERN, LEAST_INTERVAL, PrefectKV, PrefectSecret, TemplateMetadata, WorkspaceKind,
    WorkspaceRef,
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
}

impl RemoteKey {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Block { name, .. } | Self::Variable { name } => name,
        }
    }
}

impl fmt::Display for RemoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { block_type, name } => write!(f, "{block_type} block {name:?}"),
            Self::Variable { name } => write!(f, "variable {name:?}"),
        }
    }
}

/// One entry of `spec.data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key in the target.
    pub key: String,
    /// What to read.
    pub remote: RemoteKey,
    /// Where in it to look.
    pub property: Option<Result<Path, PathError>>,
    /// `property` as it was written.
    pub property_text: Option<String>,
    /// Whether a confirmed absence is fine.
    pub optional: bool,
    /// What stands in for a confirmed absence.
    pub default: Option<String>,
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
    /// What to read.
    pub entries: Vec<Entry>,
    /// The target's name.
    pub target_name: String,
    /// The target's type; Secrets only.
    pub target_type: Option<String>,
    /// Labels and annotations for the target.
    pub template: TemplateMetadata,
    /// What a confirmed absence does.
    pub deletion_policy: DeletionPolicy,
    /// How often to read its keys; `None` for as often as the workspace says.
    pub refresh_interval: Option<Duration>,
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

    /// What the CRD's own validation also refuses. Checked here too, since a CRD on the server may be older, a
    /// file given to `render` meets no API server, and a wrong type gives power over the cluster.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to write instead.
    pub fn validate(&self) -> Result<(), String> {
        if self.entries.is_empty() {
            return Err("spec.data must have at least one entry".into());
        }
        let mut seen = BTreeSet::new();
        for entry in &self.entries {
            if !is_legal_key(&entry.key) {
                return Err(format!(
                    "spec.data key {:?} is no legal key of a {}: use letters, digits, '-', '_' and '.', neither \".\" nor starting with \"..\"",
                    entry.key,
                    self.id.kind.target()
                ));
            }
            if !seen.insert(&entry.key) {
                return Err(format!("spec.data has the key {:?} twice", entry.key));
            }
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

impl From<&PrefectSecret> for Object {
    fn from(object: &PrefectSecret) -> Self {
        let spec = &object.spec;
        let target = spec.target.clone().unwrap_or_default();
        let template = target.template.unwrap_or_default();
        let entries = spec.data.iter().map(|entry| {
            let remote = &entry.remote_ref;
            let remote_key = match (&remote.variable, &remote.key) {
                (Some(name), _) => RemoteKey::Variable { name: name.clone() },
                (None, key) => RemoteKey::Block {
                    block_type: remote.block_type.clone().unwrap_or_else(|| SECRET_BLOCK.to_owned()),
                    name: key.clone().unwrap_or_default(),
                },
            };
            new_entry(&entry.secret_key, remote_key, remote.property.as_ref(), entry.optional, entry.default.as_ref())
        });
        Self {
            target_type: template.r#type.or_else(|| Some("Opaque".to_owned())),
            ..new_object(
                Kind::PrefectSecret,
                object,
                spec.workspace_ref.as_ref(),
                entries.collect(),
                (target.name, template.metadata, target.deletion_policy, spec.refresh_interval, spec.suspend),
            )
        }
    }
}

impl From<&PrefectKV> for Object {
    fn from(object: &PrefectKV) -> Self {
        let spec = &object.spec;
        let target = spec.target.clone().unwrap_or_default();
        let entries = spec.data.iter().map(|entry| {
            let remote = &entry.remote_ref;
            let remote_key = RemoteKey::Variable { name: remote.key.clone() };
            new_entry(
                &entry.config_map_key,
                remote_key,
                remote.property.as_ref(),
                entry.optional,
                entry.default.as_ref(),
            )
        });
        new_object(
            Kind::PrefectKV,
            object,
            spec.workspace_ref.as_ref(),
            entries.collect(),
            (
                target.name,
                target.template.unwrap_or_default().metadata,
                target.deletion_policy,
                spec.refresh_interval,
                spec.suspend,
            ),
        )
    }
}

fn new_entry(
    key: &str,
    remote: RemoteKey,
    property: Option<&String>,
    optional: Option<bool>,
    default: Option<&String>,
) -> Entry {
    Entry {
        key: key.to_owned(),
        remote,
        property: property.map(|text| Path::parse(text)),
        property_text: property.cloned(),
        optional: optional.unwrap_or(false),
        default: default.cloned(),
    }
}

type Parts = (Option<String>, Option<TemplateMetadata>, Option<DeletionPolicy>, Option<GoDuration>, Option<bool>);

fn new_object<K: kube::Resource>(
    kind: Kind,
    object: &K,
    workspace_ref: Option<&WorkspaceRef>,
    entries: Vec<Entry>,
    (target_name, metadata, deletion_policy, refresh_interval, suspend): Parts,
) -> Object {
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    Object {
        workspace: WorkspaceKey::resolve(workspace_ref, &namespace),
        created: object.meta().creation_timestamp.as_ref().map(|time| time.0),
        uid: object.uid().unwrap_or_default(),
        generation: object.meta().generation,
        entries,
        target_name: target_name.unwrap_or_else(|| name.clone()),
        target_type: None,
        template: metadata.unwrap_or_default(),
        deletion_policy: deletion_policy.unwrap_or_default(),
        refresh_interval: refresh_interval.map(interval),
        suspend: suspend.unwrap_or(false),
        id: Dependent { kind, namespace, name },
    }
}

/// What the CRD refuses is read as the least that it allows.
fn interval(duration: GoDuration) -> Duration {
    if duration.is_negative() { LEAST_INTERVAL } else { Duration::from(duration).max(LEAST_INTERVAL) }
}

fn is_legal_key(key: &str) -> bool {
    debug_assert_eq!(KEY_PATTERN, r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$");
    let rest = key.strip_prefix('.').unwrap_or(key);
    !rest.is_empty()
        && !rest.starts_with('.')
        && key.len() <= 253
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
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
