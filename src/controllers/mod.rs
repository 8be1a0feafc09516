//! Gather → plan → apply → status: once, generic over the two kinds.
//!
//! - [`kind`] says what differs between a PrefectSecret with its Secret and a PrefectKV with its ConfigMap.
//! - [`objects`] reconciles them; `bulk` compares many of them with their targets at once, as after a start;
//!   [`apply`] carries out a plan's target action; [`targets`] watches targets as
//!   metadata, by label, and wakes the object of one that someone else changed.
//! - `rollout` restarts workloads; [`leaving`] takes the keys of objects that are gone out of targets of others.
//! - [`workspaces`] reconciles workspaces of both kinds: gathers credentials and puts the session into that state.
//!   `directory` finds an object's workspace; `namespaces` watches who may use one of the whole cluster.
//! - [`lease`] says which of several replicas works, and keeps the others from writing.
//! - `watching` is what all watches have in common; [`live`] asks past them.
//! - [`context`] is what reconciles share; [`errors`] puts the API server's refusals into words.
//!
//! **Invariants.** Nothing is decided here that a pure function could decide. A write of a target or of an object's
//! status names the version that was seen. What a late cache could make destroy something is done only after the object
//! was read from the API server, and that after the target. No full Secret is kept. One object's failure delays no other.

pub mod apply;
mod bulk;
pub mod context;
pub mod credentials;
mod directory;
pub mod errors;
pub mod kind;
pub mod lease;
pub mod leaving;
pub mod live;
mod namespaces;
pub mod objects;
mod rollout;
pub mod status;
pub mod targets;
mod wakers;
mod watching;
pub mod workspaces;

use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::runtime::reflector::{Lookup, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{PrefectKV, PrefectSecret};
use crate::prefect::Budgets;
use crate::sync::Timestamp;
use crate::sync::plan::whole_seconds;
use crate::telemetry::Health;
use crate::workspace::Workspaces;
use context::Context;
use directory::{ClusterWorkspaces, Directory};
use lease::Leadership;
use wakers::Wakers;
use watching::Patience;

/// The name under which we write: field manager, Event reporter.
pub const MANAGER: &str = "prefect-sync";

/// What the operator may do, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The namespaces to work in; empty for all.
    pub namespaces: Vec<String>,
    /// Hosts (`name`, `name:port` or `*.domain`) that workspaces may point to; empty for all.
    pub allowed_api_hosts: Vec<String>,
    /// How much may be asked of each host.
    pub budgets: Budgets,
}

/// Where one set of watches looks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The whole cluster.
    Cluster,
    /// One namespace.
    Namespace(String),
}

impl Scope {
    /// An API of this scope.
    pub fn api<K>(&self, client: Client) -> kube::Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match self {
            Self::Cluster => kube::Api::all(client),
            Self::Namespace(namespace) => kube::Api::namespaced(client, namespace),
        }
    }

    /// Whether a namespace is looked at.
    #[must_use]
    pub fn covers(&self, namespace: &str) -> bool {
        match self {
            Self::Cluster => true,
            Self::Namespace(only) => only == namespace,
        }
    }

    fn all(options: &Options) -> Vec<Self> {
        if options.namespaces.is_empty() {
            return vec![Self::Cluster];
        }
        options.namespaces.iter().cloned().map(Self::Namespace).collect()
    }
}

/// Runs all controllers until `shutdown`. Work under way is finished first.
///
/// Until `leadership` is granted the caches are filled and kept, and nothing else: no credential is read, nothing is
/// asked of Prefect, nothing is written.
///
/// # Errors
/// When the CRDs are missing, or a controller ended by itself.
pub async fn run(
    client: Client,
    options: Options,
    health: Health,
    leadership: Leadership,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Some(served) = shutdown.run_until_cancelled(served_kinds(&client)).await else { return Ok(()) };
    let served = served?;
    let scopes = Scope::all(&options);
    let (wakers, mut woken) = Wakers::new(&scopes);
    let Health { readiness, pulses, metrics } = health;
    let workspaces = Workspaces::new(Arc::new(wakers), pulses);
    let sessions = workspaces.clone();
    metrics.watch_sessions(Arc::new(move || sessions.states()));
    let context = Arc::new(Context::new(client, workspaces, options, metrics, leadership, shutdown.clone()));
    let mut tasks = JoinSet::new();
    let cluster = if let Some(why) = why_no_cluster(&context.options, &served) {
        tracing::info!("no ClusterPrefectWorkspace is read: {why}");
        ClusterWorkspaces::Off(why.into())
    } else {
        let cache = workspaces::spawn_cluster(&mut tasks, &context, woken.cluster_workspaces, &shutdown);
        let listed = namespaces::spawn(&mut tasks, &context, &shutdown);
        let cluster = ClusterWorkspaces::on(cache, listed);
        if let Some(settled) = cluster.settles() {
            readiness.expect(settled.clone());
        }
        cluster
    };
    for scope in scopes {
        let channels = woken.scopes.remove(&scope).with_context(|| format!("no wake channels for {scope:?}"))?;
        let cache = workspaces::spawn(&mut tasks, &scope, &context, &cluster, channels.workspaces, &shutdown);
        readiness.expect(cache.listed.clone());
        let directory = Directory { namespaced: cache, cluster: cluster.clone() };
        let listed = targets::spawn::<PrefectSecret, Secret>(&mut tasks, &scope, &context, &shutdown);
        readiness.expect(listed.clone());
        let woken = channels.secrets;
        readiness.expect(objects::spawn::<PrefectSecret>(
            &mut tasks, &scope, &context, &directory, woken, listed, &shutdown,
        ));
        let listed = targets::spawn::<PrefectKV, ConfigMap>(&mut tasks, &scope, &context, &shutdown);
        readiness.expect(listed.clone());
        let woken = channels.kvs;
        readiness
            .expect(objects::spawn::<PrefectKV>(&mut tasks, &scope, &context, &directory, woken, listed, &shutdown));
    }
    readiness.complete();
    let namespaces = match context.options.namespaces.as_slice() {
        [] => "all".to_owned(),
        some => some.join(", "),
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), namespaces, "watching");
    while let Some(ended) = tasks.join_next().await {
        ended.context("a controller panicked")?;
        anyhow::ensure!(shutdown.is_cancelled(), "a controller ended by itself");
    }
    Ok(())
}

/// Why the ClusterPrefectWorkspaces are not read, if they are not.
fn why_no_cluster(options: &Options, served: &[String]) -> Option<String> {
    if !options.namespaces.is_empty() {
        let namespaces = options.namespaces.join(", ");
        return Some(format!("this operator works in some namespaces only ({namespaces}), not in the whole cluster"));
    }
    let is_served = served.iter().any(|kind| kind == "ClusterPrefectWorkspace");
    (!is_served).then(|| "the API server does not serve the kind; install the CRDs (kubectl apply -f crds/), and restart the operator".to_owned())
}

/// The kinds of ours that the API server has; a clear word instead of watches that fail for ever.
async fn served_kinds(client: &Client) -> anyhow::Result<Vec<String>> {
    let group = format!("{}/v1alpha1", crate::api::GROUP);
    let mut patience = Patience::default();
    let served = loop {
        match client.list_api_group_resources(&group).await {
            Ok(list) => break list.resources.into_iter().map(|resource| resource.kind).collect::<Vec<_>>(),
            // Of a group that it does not know it says so in plain text, so the answer has no `reason`.
            Err(kube::Error::Api(status)) if status.code == 404 => break Vec::new(),
            Err(error) => {
                let why = errors::describe(&error);
                let Some(delay) = patience.next().filter(|_| errors::is_outage(&error)) else {
                    anyhow::bail!("asking the API server which kinds it serves: {why}");
                };
                tracing::warn!(retry_in = ?delay, "asking the API server which kinds it serves: {why}");
                tokio::time::sleep(delay).await;
            }
        }
    };
    let missing: Vec<&str> = ["PrefectWorkspace", "PrefectSecret", "PrefectKV"]
        .into_iter()
        .filter(|kind| !served.iter().any(|s| s == kind))
        .collect();
    anyhow::ensure!(
        missing.is_empty(),
        "the API server does not serve {} ({group}): install the CRDs first, kubectl apply -f crds/",
        missing.join(", ")
    );
    Ok(served)
}

/// A cache of objects, and when it has been filled.
///
/// `Store::wait_until_ready` is of no use for that: it wakes only the task that asked last, and the controller is one
/// of those that ask.
pub(crate) struct Cache<K: Lookup + Clone + 'static>
where
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    /// The objects.
    pub(crate) store: Store<K>,
    /// Cancelled when they have been listed once.
    pub(crate) listed: CancellationToken,
}

/// The present as statuses keep it: in whole seconds.
fn now() -> Timestamp {
    whole_seconds(Timestamp::now())
}

/// A future that ends with the shutdown, for `graceful_shutdown_on`.
fn on(shutdown: &CancellationToken) -> impl Future<Output = ()> + Send + Sync + 'static + use<> {
    shutdown.clone().cancelled_owned().map(|()| ())
}
