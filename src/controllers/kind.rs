//! What differs between the kinds, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::{DeserializeGuard, NamespaceResourceScope, ObjectMeta};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::Scope;
use super::credentials::Subject;
use crate::api::{
    ClusterPrefectWorkspace, Connection, PrefectKV, PrefectSecret, PrefectWorkspace, SyncStatus, WorkspaceKind,
    WorkspaceStatus,
};
use crate::sync::{Kind, Manifest, Object, Target};

/// An object that the current types may not be able to parse: one such object harms no other.
pub type Guarded<K> = DeserializeGuard<K>;
/// A guarded workspace of one namespace.
pub type Workspace = DeserializeGuard<PrefectWorkspace>;
/// A guarded workspace of the whole cluster.
pub type ClusterWorkspace = DeserializeGuard<ClusterPrefectWorkspace>;

/// A kind that syncs into a kind of target.
pub trait SyncKind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Which one it is.
    const KIND: Kind;
    /// What it writes.
    type Target: TargetKind;

    /// What it asks for.
    fn object(&self) -> Object;
    /// Its status.
    fn status(&self) -> Option<&SyncStatus>;
    /// Gives back the room that parsing left in its lists: for one item it takes that of four.
    fn compact(&mut self);
}

/// A kind of target.
pub trait TargetKind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// The object to write.
    fn from_manifest(manifest: &Manifest) -> Self;
    /// What was read. Consumes it, so that no second copy of the values stays.
    fn into_target(self) -> Target;
}

/// A kind of workspace.
pub trait WorkspaceResource:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Which one it is.
    const KIND: WorkspaceKind;

    /// The API of all that a scope has of them.
    fn api(client: Client, scope: &Scope) -> Api<Guarded<Self>>;
    /// How it reaches Prefect.
    fn connection(&self) -> Connection<'_>;
    /// Itself, as far as it is gathered for. `namespace` is its own.
    fn subject<'a>(&'a self, namespace: &'a str) -> Subject<'a>;
    /// The ClusterPrefectWorkspace that it puts local secrets of its own over.
    fn parent(&self) -> Option<&str>;
    /// Its status.
    fn status(&self) -> Option<&WorkspaceStatus>;
}

impl WorkspaceResource for PrefectWorkspace {
    const KIND: WorkspaceKind = WorkspaceKind::PrefectWorkspace;

    fn api(client: Client, scope: &Scope) -> Api<Guarded<Self>> {
        scope.api(client)
    }

    fn connection(&self) -> Connection<'_> {
        self.spec.connection()
    }

    fn subject<'a>(&'a self, namespace: &'a str) -> Subject<'a> {
        let state = format!("{:?} {:?}", self.uid(), self.metadata.generation);
        Subject { connection: self.connection(), namespace: Some(namespace), shared_as: None, state }
    }

    fn parent(&self) -> Option<&str> {
        self.spec.parent.as_ref().map(|parent| parent.name.as_str())
    }

    fn status(&self) -> Option<&WorkspaceStatus> {
        self.status.as_ref()
    }
}

impl WorkspaceResource for ClusterPrefectWorkspace {
    const KIND: WorkspaceKind = WorkspaceKind::ClusterPrefectWorkspace;

    fn api(client: Client, _: &Scope) -> Api<Guarded<Self>> {
        Api::all(client)
    }

    fn connection(&self) -> Connection<'_> {
        self.spec.connection()
    }

    fn subject<'a>(&'a self, _: &'a str) -> Subject<'a> {
        let connection = self.connection();
        // Not the generation: who may read what is no other state of the session.
        let state = format!("{:?} {connection:?}", self.uid());
        Subject { connection, namespace: None, shared_as: self.metadata.name.as_deref(), state }
    }

    fn parent(&self) -> Option<&str> {
        None
    }

    fn status(&self) -> Option<&WorkspaceStatus> {
        self.status.as_ref()
    }
}

impl SyncKind for PrefectSecret {
    const KIND: Kind = Kind::PrefectSecret;
    type Target = Secret;

    fn object(&self) -> Object {
        Object::from(self)
    }

    fn status(&self) -> Option<&SyncStatus> {
        self.status.as_ref()
    }

    fn compact(&mut self) {
        self.spec.data.shrink_to_fit();
        compact(self.status.as_mut());
    }
}

impl SyncKind for PrefectKV {
    const KIND: Kind = Kind::PrefectKV;
    type Target = ConfigMap;

    fn object(&self) -> Object {
        Object::from(self)
    }

    fn status(&self) -> Option<&SyncStatus> {
        self.status.as_ref()
    }

    fn compact(&mut self) {
        self.spec.data.shrink_to_fit();
        compact(self.status.as_mut());
    }
}

fn compact(status: Option<&mut SyncStatus>) {
    if let Some(status) = status {
        status.entries.shrink_to_fit();
        status.conditions.shrink_to_fit();
    }
}

impl TargetKind for Secret {
    fn from_manifest(manifest: &Manifest) -> Self {
        let data: BTreeMap<String, ByteString> =
            manifest.data.iter().map(|(key, value)| (key.clone(), ByteString(value.to_vec()))).collect();
        Self {
            metadata: metadata(manifest),
            type_: manifest.r#type.clone(),
            data: some(&data),
            immutable: manifest.immutable.then_some(true),
            ..Self::default()
        }
    }

    fn into_target(self) -> Target {
        let data =
            self.data.into_iter().flatten().map(|(key, ByteString(value))| (key, Zeroizing::new(value))).collect();
        let managers = managers(&self.metadata);
        Target { r#type: self.type_, data, immutable: self.immutable == Some(true), managers, ..target(self.metadata) }
    }
}

impl TargetKind for ConfigMap {
    fn from_manifest(manifest: &Manifest) -> Self {
        let immutable = manifest.immutable.then_some(true);
        let mut map = Self { metadata: metadata(manifest), immutable, ..Self::default() };
        for (key, value) in &manifest.data {
            match String::from_utf8(value.to_vec()) {
                Ok(text) => map.data.get_or_insert_default().insert(key.clone(), text).is_none(),
                Err(error) => {
                    let bytes = ByteString(error.into_bytes());
                    map.binary_data.get_or_insert_default().insert(key.clone(), bytes).is_none()
                }
            };
        }
        map
    }

    fn into_target(self) -> Target {
        let text = self.data.into_iter().flatten().map(|(key, value)| (key, Zeroizing::new(value.into_bytes())));
        let binary =
            self.binary_data.into_iter().flatten().map(|(key, ByteString(value))| (key, Zeroizing::new(value)));
        let data = text.chain(binary).collect();
        let managers = managers(&self.metadata);
        Target { data, immutable: self.immutable == Some(true), managers, ..target(self.metadata) }
    }
}

fn metadata(manifest: &Manifest) -> ObjectMeta {
    ObjectMeta {
        name: Some(manifest.name.clone()),
        namespace: Some(manifest.namespace.clone()),
        labels: some(&manifest.labels),
        annotations: some(&manifest.annotations),
        owner_references: some(&manifest.owners),
        finalizers: some(&manifest.finalizers),
        ..ObjectMeta::default()
    }
}

/// What is empty is not said: an apply would claim it.
fn some<T: Clone + Default + PartialEq>(value: &T) -> Option<T> {
    (*value != T::default()).then(|| value.clone())
}

/// Which keys of the data belong to which field manager.
pub(super) fn managers(metadata: &ObjectMeta) -> BTreeMap<String, BTreeSet<String>> {
    let mut managers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in metadata.managed_fields.iter().flatten() {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let of = |field: &str| fields.and_then(|fields| fields.get(field)?.as_object());
        let keys = ["f:data", "f:binaryData"].into_iter().filter_map(of).flat_map(|keys| keys.keys());
        let keys = keys.filter_map(|key| key.strip_prefix("f:").map(str::to_owned));
        managers.entry(entry.manager.clone().unwrap_or_default()).or_default().extend(keys);
    }
    managers
}

fn target(metadata: ObjectMeta) -> Target {
    Target {
        name: metadata.name.unwrap_or_default(),
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
        owners: metadata.owner_references.unwrap_or_default(),
        finalizers: metadata.finalizers.unwrap_or_default(),
        deleting: metadata.deletion_timestamp.is_some(),
        ..Target::default()
    }
}

/// The object's place, whatever its kind.
pub fn place<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}
