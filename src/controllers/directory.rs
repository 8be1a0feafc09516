//! Where an object's workspace is: in its namespace, or in the whole cluster where the operator works there.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use tokio_util::sync::CancellationToken;

use super::Cache;
use super::kind::{ClusterWorkspace, Workspace, place};
use crate::api::ClusterPrefectWorkspace;
use crate::sync::object::WorkspaceKey;
use crate::sync::plan::WorkspaceView;
use crate::sync::{Object, Reason};
use crate::workspace::{Observation, Workspaces};

/// How long the lists of the cluster's workspaces and namespaces may keep the first questions waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// The workspaces of the whole cluster.
#[derive(Clone)]
pub(super) enum ClusterWorkspaces {
    /// They are read.
    On(Arc<Cache<ClusterWorkspace>>),
    /// They are not, and why.
    Off(Arc<str>),
}

impl ClusterWorkspaces {
    /// A workspace by name, or why it can't be used.
    pub fn get(&self, name: &str) -> Result<Arc<ClusterWorkspace>, (Reason, String)> {
        let cache = match self {
            Self::On(cache) => cache,
            Self::Off(why) => {
                let message = format!("ClusterPrefectWorkspace {name:?} is not read: {why}; use a PrefectWorkspace");
                return Err((Reason::ClusterWorkspacesOff, message));
            }
        };
        let missing = || (Reason::WorkspaceNotFound, format!("there is no ClusterPrefectWorkspace {name:?}"));
        cache.store.get(&ObjectRef::new(name)).ok_or_else(missing)
    }

    /// Cancelled once they have been listed.
    pub fn listed(&self) -> CancellationToken {
        match self {
            Self::On(cache) => cache.listed.clone(),
            Self::Off(_) => {
                let listed = CancellationToken::new();
                listed.cancel();
                listed
            }
        }
    }
}

/// All workspaces that the objects of one scope may use.
#[derive(Clone)]
pub(super) struct Directory {
    pub namespaced: Arc<Cache<Workspace>>,
    pub cluster: ClusterWorkspaces,
    /// Cancelled once the namespaces have been listed.
    pub namespaces_listed: CancellationToken,
}

/// How an object's workspace stands, as far as the caches say.
pub(super) enum Standing {
    /// It exists.
    Exists,
    /// There is none of that name, but these.
    Missing(Vec<String>),
    /// It can't be used here, and why.
    Off(String),
}

impl Directory {
    /// The object with the workspace that the default rule leads to.
    pub fn resolve(&self, object: Object) -> Object {
        object.with_default_workspace(|key| self.exists(key))
    }

    fn exists(&self, key: &WorkspaceKey) -> bool {
        match &self.cluster {
            _ if !key.is_cluster() => self.get(&key.namespace, &key.name),
            ClusterWorkspaces::On(cache) => cache.store.get(&ObjectRef::new(&key.name)).is_some(),
            ClusterWorkspaces::Off(_) => false,
        }
    }

    fn get(&self, namespace: &str, name: &str) -> bool {
        self.namespaced.store.get(&ObjectRef::new(name).within(namespace)).is_some()
    }

    /// Waits until it is known which workspace the object uses.
    pub async fn knows(&self, object: &Object) {
        // Before the workspaces are listed none would be found.
        self.namespaced.listed.cancelled().await;
        if object.workspace.is_cluster() || (object.names_no_workspace && !self.exists(&object.workspace)) {
            self.cluster.listed().cancelled().await;
        }
    }

    /// Waits until all lists are there, or some can't be had.
    pub async fn is_listed(&self) {
        self.namespaced.listed.cancelled().await;
        let cluster = self.cluster.listed();
        let others = async { tokio::join!(cluster.cancelled(), self.namespaces_listed.cancelled()) };
        let _ = tokio::time::timeout(PATIENCE, others).await;
    }

    /// How the object's workspace stands; names only what its namespace may use.
    pub fn standing(&self, object: &Object, workspaces: &Workspaces) -> Standing {
        if self.exists(&object.workspace) {
            return Standing::Exists;
        }
        let (key, namespace) = (&object.workspace, &object.id.namespace);
        let mut others: Vec<String> = match &self.cluster {
            _ if !key.is_cluster() => self.names_in(&key.namespace),
            ClusterWorkspaces::On(cache) => {
                let names = cache.store.state().into_iter().map(|workspace| place(&*workspace).1);
                names.filter(|name| workspaces.may_use(&WorkspaceKey::cluster(name), namespace)).collect()
            }
            ClusterWorkspaces::Off(_) => match self.cluster.get(&key.name) {
                Err((_, why)) => return Standing::Off(why),
                Ok(_) => Vec::new(),
            },
        };
        others.sort_unstable();
        Standing::Missing(others)
    }

    fn names_in(&self, namespace: &str) -> Vec<String> {
        let all = self.namespaced.store.state().into_iter().map(|workspace| place(&*workspace));
        all.filter(|(of, _)| of == namespace).map(|(_, name)| name).collect()
    }

    /// Whether the cluster's workspaces are read.
    pub fn has_cluster(&self) -> bool {
        matches!(self.cluster, ClusterWorkspaces::On(_))
    }
}

impl Standing {
    /// What a plan is to know of it.
    pub fn view<'a>(&'a self, observation: Option<&'a Observation>, has_cluster: bool) -> WorkspaceView<'a> {
        match (self, observation) {
            (Self::Missing(others), _) => WorkspaceView::Missing { others, has_cluster },
            (Self::Off(why), _) => WorkspaceView::Off { why },
            (Self::Exists, None) => WorkspaceView::Pending,
            (Self::Exists, Some(seen)) => match &seen.unusable {
                Some(failure) => WorkspaceView::Unusable(failure),
                None if seen.usable => WorkspaceView::Usable,
                None => WorkspaceView::Pending,
            },
        }
    }
}

/// The workspaces of the cluster in their cache.
pub(super) fn parsed(object: &ClusterWorkspace) -> Option<&ClusterPrefectWorkspace> {
    object.0.as_ref().ok()
}
