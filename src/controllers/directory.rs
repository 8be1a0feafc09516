//! Where an object's workspace is: in its namespace, or in the whole cluster where the operator works there.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use tokio_util::sync::CancellationToken;

use super::Cache;
use super::kind::{ClusterWorkspace, Workspace, place};
use crate::sync::object::WorkspaceKey;
use crate::sync::plan::WorkspaceView;
use crate::sync::suggest::cluster_off;
use crate::sync::{Object, Reason};
use crate::workspace::{Observation, Workspaces};

/// How long the lists of the cluster's workspaces and namespaces may keep objects waiting.
const PATIENCE: Duration = Duration::from_secs(10);
/// Why nothing is read where one of them can't be had.
const NO_LISTS: &str =
    "the operator can't list them, or the namespaces; give it that permission, as deploy/manifests/10-rbac.yaml does";

/// The workspaces of the whole cluster.
#[derive(Clone)]
pub(super) enum ClusterWorkspaces {
    /// They are read.
    On {
        cache: Arc<Cache<ClusterWorkspace>>,
        /// Cancelled once the namespaces have been listed.
        namespaces: CancellationToken,
        /// Cancelled once both have been listed, or were waited for long enough.
        settled: CancellationToken,
    },
    /// They are not, and why.
    Off(Arc<str>),
}

impl ClusterWorkspaces {
    /// They are read as soon as they and the namespaces have been listed.
    pub fn on(cache: Arc<Cache<ClusterWorkspace>>, namespaces: CancellationToken) -> Self {
        let settled = CancellationToken::new();
        let (listed, others, settle) = (cache.listed.clone(), namespaces.clone(), settled.clone().drop_guard());
        tokio::spawn(async move {
            let both = async { tokio::join!(listed.cancelled(), others.cancelled()) };
            let _ = tokio::time::timeout(PATIENCE, both).await;
            drop(settle);
        });
        Self::On { cache, namespaces, settled }
    }

    /// Why they can't be read now.
    fn why_off(&self) -> Option<&str> {
        match self {
            Self::On { cache, namespaces, .. } if cache.listed.is_cancelled() && namespaces.is_cancelled() => None,
            Self::On { .. } => Some(NO_LISTS),
            Self::Off(why) => Some(why),
        }
    }

    /// A workspace by name, or why it can't be used.
    pub fn get(&self, name: &str) -> Result<Arc<ClusterWorkspace>, (Reason, String)> {
        match (self, self.why_off()) {
            (Self::On { cache, .. }, None) => cache
                .store
                .get(&ObjectRef::new(name))
                .ok_or_else(|| (Reason::WorkspaceNotFound, format!("there is no ClusterPrefectWorkspace {name:?}"))),
            (_, why) => Err((Reason::ClusterWorkspacesOff, cluster_off(name, why.unwrap_or_default()))),
        }
    }

    /// Cancelled when it is known what there is, or that it can't be.
    pub fn settles(&self) -> Option<&CancellationToken> {
        match self {
            Self::On { settled, .. } => Some(settled),
            Self::Off(_) => None,
        }
    }

    /// Waits for that.
    pub async fn settled(&self) {
        if let Some(settled) = self.settles() {
            settled.cancelled().await;
        }
    }
}

/// All workspaces that the objects of one scope may use.
#[derive(Clone)]
pub(super) struct Directory {
    pub namespaced: Arc<Cache<Workspace>>,
    pub cluster: ClusterWorkspaces,
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
        if key.is_cluster() {
            return self.cluster.get(&key.name).is_ok();
        }
        self.namespaced.store.get(&ObjectRef::new(&key.name).within(&key.namespace)).is_some()
    }

    /// Waits until the lists are there, or some of the cluster's can't be had.
    pub async fn is_listed(&self) {
        self.namespaced.listed.cancelled().await;
        self.cluster.settled().await;
    }

    /// How the object's workspace stands; names only what its namespace may use.
    pub fn standing(&self, object: &Object, workspaces: &Workspaces) -> Standing {
        let (key, namespace) = (&object.workspace, &object.id.namespace);
        if self.exists(key) {
            return Standing::Exists;
        }
        let mut others: Vec<String> = match &self.cluster {
            _ if !key.is_cluster() => self.names_in(&key.namespace),
            ClusterWorkspaces::On { cache, .. } if self.has_cluster() => {
                let names = cache.store.state().into_iter().map(|workspace| place(&*workspace).1);
                names.filter(|name| workspaces.may_use(&WorkspaceKey::cluster(name), namespace)).collect()
            }
            off => return Standing::Off(cluster_off(&key.name, off.why_off().unwrap_or_default())),
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
        self.cluster.why_off().is_none()
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
