//! Reconciles workspaces of both kinds: gathers what they name, puts their session into that state, says how it does.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store};
use kube::runtime::watcher::{Event, watcher};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt as _, predicates};
use kube::{Resource, ResourceExt};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::context::{Context, RECONCILE_TIMEOUT};
use super::credentials::{Above, Gathered, gather, gather_over};
use super::directory::ClusterWorkspaces;
use super::errors::Error;
use super::kind::{ClusterWorkspace, Guarded, Workspace, WorkspaceResource, place};
use super::wakers::Woken;
use super::watching::{self, Patience};
use super::{Cache, Scope, live, now, on, status};
use crate::api::{
    ClusterPrefectWorkspace, Connection, KeyRef, OFFER_LABEL, OFFER_WORKSPACE, PrefectWorkspace, WorkspaceStatus,
};
use crate::sync::object::{DEFAULT_WORKSPACE, WorkspaceKey};
use crate::sync::suggest::cluster_trouble;
use crate::sync::workspace::{in_public, workspace_status};
use crate::sync::{Failure, Reason};
use crate::workspace::{Setup, Situation, Workspaces};

const CONCURRENCY: u16 = 8;
/// How the fingerprint of a workspace that can't be parsed begins.
const INVALID: &str = "invalid";
/// When to look again at a workspace that can't be used: a Secret without the label can't be watched.
const UNUSABLE_RETRY: Duration = Duration::from_secs(30);
/// When to look again at one that can: what a watch missed, such as a label taken off meanwhile, is found then.
const USABLE_RETRY: Duration = Duration::from_secs(600);
/// When to look again at one that is another by now; its change wakes it before that.
const LATE_RETRY: Duration = Duration::from_secs(5);

/// Starts the controller of a scope's PrefectWorkspaces; returns its cache.
pub(super) fn spawn(
    tasks: &mut JoinSet<()>,
    scope: &Scope,
    context: &Arc<Context>,
    cluster: &ClusterWorkspaces,
    woken: Woken<Workspace>,
    shutdown: &CancellationToken,
) -> Arc<Cache<Workspace>> {
    let registry = context.workspaces.clone();
    // Those that had used the cluster's for want of their namespace's.
    let seen = move |event: &Event<Workspace>, cache: &Store<Workspace>| {
        let is_there = |namespace: &str| cache.get(&ObjectRef::new(DEFAULT_WORKSPACE).within(namespace)).is_some();
        let of_cluster = WorkspaceKey::cluster(DEFAULT_WORKSPACE);
        match event {
            Event::Apply(object) if place(object).1 == DEFAULT_WORKSPACE => {
                let (namespace, _) = place(object);
                registry.wake_users(|user, key| *key == of_cluster && user.namespace == namespace);
            }
            Event::InitDone => registry.wake_users(|user, key| *key == of_cluster && is_there(&user.namespace)),
            _ => {}
        }
    };
    spawn_kind::<PrefectWorkspace>(tasks, scope, context, cluster, (woken, |_, _| {}, seen), shutdown)
}

/// Starts the controller of the ClusterPrefectWorkspaces; returns its cache.
pub(super) fn spawn_cluster(
    tasks: &mut JoinSet<()>,
    context: &Arc<Context>,
    woken: Woken<ClusterWorkspace>,
    shutdown: &CancellationToken,
) -> Arc<Cache<ClusterWorkspace>> {
    let registry = context.workspaces.clone();
    let ruling = move |event: &Event<ClusterWorkspace>, cache: &Store<ClusterWorkspace>| match event {
        Event::Apply(object) => allow(&registry, object),
        Event::Delete(object) => registry.set_rules(&place(object).1, None),
        Event::InitDone => {
            cache.state().iter().for_each(|object| allow(&registry, object));
            let is_gone = |name: &String| cache.get(&ObjectRef::new(name)).is_none();
            registry.with_rules().iter().filter(|name| is_gone(name)).for_each(|gone| registry.set_rules(gone, None));
        }
        Event::Init | Event::InitApply(_) => {}
    };
    let registry = context.workspaces.clone();
    let seen = move |event: &Event<ClusterWorkspace>, _: &Store<ClusterWorkspace>| match event {
        Event::Apply(object) if place(object).1 == DEFAULT_WORKSPACE => wake_without_default(&registry),
        Event::InitDone => {
            // Also those that were told that there is none, or that none is read.
            registry.wake_users(|_, key| key.is_cluster());
            wake_without_default(&registry);
        }
        _ => {}
    };
    // None is any other's child.
    let none = ClusterWorkspaces::Off("it has no parent".into());
    spawn_kind::<ClusterPrefectWorkspace>(tasks, &Scope::Cluster, context, &none, (woken, ruling, seen), shutdown)
}

/// Makes the access rules known before any object asks. One that can't be parsed allows nothing.
fn allow(registry: &Workspaces, object: &ClusterWorkspace) {
    match &object.0 {
        Ok(workspace) => {
            let state = workspace.subject("").state;
            registry.set_rules(&place(object).1, Some((&workspace.spec.access, &state)));
        }
        Err(_) => registry.set_rules(&place(object).1, Some((&[], INVALID))),
    }
}

/// Those that have no workspace may use the cluster's now.
pub(super) fn wake_without_default(registry: &Workspaces) {
    let known = registry.keys_in_use();
    registry.wake_users(|_, key| !key.is_cluster() && key.name == DEFAULT_WORKSPACE && !known.contains(key));
}

fn spawn_kind<K: WorkspaceResource>(
    tasks: &mut JoinSet<()>,
    scope: &Scope,
    context: &Arc<Context>,
    cluster: &ClusterWorkspaces,
    (woken, before, after): (Woken<Guarded<K>>, impl Seen<K>, impl Seen<K>),
    shutdown: &CancellationToken,
) -> Arc<Cache<Guarded<K>>> {
    let client = &context.client;
    let (store, writer) = reflector::store();
    let listed = CancellationToken::new();
    let filled = listed.clone();
    let (forgetting, cache, of) = (context.workspaces.clone(), store.clone(), scope.clone());
    let stream = watcher(K::api(client.clone(), scope), watching::config())
        .backoff(Patience::default())
        .modify(watching::slim)
        .reflect(writer)
        // After the cache: the objects that are woken must not find it there any more.
        .inspect_ok(move |event| {
            before(event, &cache);
            match event {
                Event::Delete(object) => forgetting.remove(&key(object)),
                Event::InitDone => {
                    filled.cancel();
                    // Deleted while we were not watching.
                    let known = forgetting.keys();
                    known
                        .iter()
                        .filter(|known| known.kind == K::KIND && (known.is_cluster() || of.covers(&known.namespace)))
                        .filter(|known| cache.get(&reference(known)).is_none())
                        .for_each(|gone| forgetting.remove(gone));
                }
                _ => {}
            }
            after(event, &cache);
        })
        .applied_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    let offered = watching::config().labels(&format!("{OFFER_LABEL}={OFFER_WORKSPACE}"));
    let by_secret = store.clone();
    let by_map = store.clone();
    let shared = Shared { context: context.clone(), store: store.clone(), cluster: cluster.clone() };
    let counted = store.clone();
    context.watch_census(move |census| {
        for object in counted.state() {
            let status = object.0.as_ref().ok().and_then(|workspace| workspace.status());
            let (ready, reason) = status::standing(status.map(|status| status.conditions.as_slice()));
            let (namespace, name) = place(&*object);
            census.workspaces.insert((namespace, name, reason), ready == "true");
        }
    });
    let controller = Controller::for_stream(stream, store.clone())
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY))
        .watches(scope.api::<PartialObjectMeta<Secret>>(client.clone()), offered.clone(), move |secret| {
            users(&by_secret, &place(&secret), |connection| connection.secrets().collect())
        })
        .watches(scope.api::<PartialObjectMeta<ConfigMap>>(client.clone()), offered, move |map| {
            users(&by_map, &place(&map), |connection| connection.config_maps().collect())
        })
        .reconcile_on(UnboundedReceiverStream::new(woken))
        .reconcile_all_on(context.leadership.regained())
        .graceful_shutdown_on(on(shutdown))
        .run(reconcile::<K>, error_policy::<K>, Arc::new(shared));
    watching::spawn(tasks, controller, [listed.clone()], shutdown.clone());
    Arc::new(Cache { store, listed })
}

/// What a change of the cache is for, before and after it is acted upon.
trait Seen<K: WorkspaceResource>: Fn(&Event<Guarded<K>>, &Store<Guarded<K>>) + Send + Sync + 'static {}

impl<K: WorkspaceResource, F: Fn(&Event<Guarded<K>>, &Store<Guarded<K>>) + Send + Sync + 'static> Seen<K> for F {}

struct Shared<K: WorkspaceResource> {
    context: Arc<Context>,
    store: Store<Guarded<K>>,
    cluster: ClusterWorkspaces,
}

fn key<K: WorkspaceResource>(object: &Guarded<K>) -> WorkspaceKey {
    let (namespace, name) = place(object);
    WorkspaceKey { kind: K::KIND, namespace, name }
}

/// The object of that key in a cache.
fn reference<K: Lookup<DynamicType = ()>>(key: &WorkspaceKey) -> ObjectRef<K> {
    let of = ObjectRef::new(&key.name);
    if key.is_cluster() { of } else { of.within(&key.namespace) }
}

/// The workspaces that name an offered object.
fn users<K: WorkspaceResource>(
    store: &Store<Guarded<K>>,
    (namespace, name): &(String, String),
    names: impl for<'a> Fn(Connection<'a>) -> Vec<&'a KeyRef>,
) -> Vec<ObjectRef<Guarded<K>>> {
    let names_it = |object: &Guarded<K>| {
        let Ok(workspace) = &object.0 else { return false };
        let own = ResourceExt::namespace(object);
        names(workspace.connection()).into_iter().any(|reference| {
            let of = own.as_ref().or(reference.namespace.as_ref());
            of == Some(namespace) && reference.name == *name
        })
    };
    store.state().into_iter().filter(|object| names_it(object)).map(|object| ObjectRef::from_obj(&*object)).collect()
}

fn error_policy<K: WorkspaceResource>(object: Arc<Guarded<K>>, error: &Error, shared: Arc<Shared<K>>) -> Action {
    let key = key(&object);
    let delay = error.retry_in(shared.context.workspace_tries.count(&key), &key.to_string());
    tracing::warn!(workspace = %key, retry_in = ?delay, "{error}");
    Action::requeue(delay)
}

async fn reconcile<K: WorkspaceResource>(object: Arc<Guarded<K>>, shared: Arc<Shared<K>>) -> Result<Action, Error> {
    let context = &shared.context;
    let Some(object) = context.once_leading(&shared.store, object).await else { return Ok(Action::await_change()) };
    let key = key(&object);
    let work = async {
        match &object.0 {
            Ok(workspace) => reconcile_workspace(workspace, &key, &shared).await,
            Err(invalid) => report_invalid::<K>(invalid, &key, context).await,
        }
    };
    let done = tokio::time::timeout(RECONCILE_TIMEOUT, work).await.unwrap_or(Err(Error::Timeout(RECONCILE_TIMEOUT)));
    if done.is_ok() {
        context.workspace_tries.remove(&key);
    }
    // It may have been deleted while it was worked on: its session must not outlive it.
    if shared.store.get(&ObjectRef::from_obj(&*object)).is_none() {
        context.workspaces.remove(&key);
        context.workspace_tries.remove(&key);
    }
    done
}

async fn reconcile_workspace<K: WorkspaceResource>(
    workspace: &K,
    key: &WorkspaceKey,
    shared: &Shared<K>,
) -> Result<Action, Error> {
    let (now, context) = (now(), &shared.context);
    let subject = workspace.subject(&key.namespace);
    let (gathered, reads_parent, parent) = match workspace.parent() {
        None => (gather(&subject, &context.client, &context.options, now).await?, false, None),
        Some(name) => {
            shared.cluster.settled().await;
            let parent = shared.cluster.get(name);
            let above = parent.as_ref().map_err(Clone::clone).and_then(|parent| match &parent.0 {
                Ok(parent) => Ok(parent.subject("")),
                Err(_) => Err((Reason::ObjectInvalid, cluster_trouble(name, Reason::ObjectInvalid))),
            });
            let is_allowed = context.workspaces.may_use(&WorkspaceKey::cluster(name), &key.namespace);
            let above = Above { name, subject: above.as_ref().map_err(Clone::clone), is_allowed };
            let gathered = gather_over(&above, &subject, &context.client, &context.options, now).await?;
            (gathered, is_allowed, parent.ok())
        }
    };
    let Gathered { fingerprint, api_url, interval, stale_after, setup } = gathered;
    let usable = matches!(setup, Setup::Usable { .. });
    // A key that came with another address, of which the cache has not heard yet, must not go to the one before.
    if usable && !context.workspaces.is_in(key, &fingerprint) {
        let is_current = live::is_current::<K>(&context.client, workspace.meta()).await?
            && match &parent {
                Some(parent) => live::is_current::<ClusterPrefectWorkspace>(&context.client, parent.meta()).await?,
                None => true,
            };
        if !is_current {
            return Ok(Action::requeue(LATE_RETRY));
        }
    }
    let situation = Situation { fingerprint: &fingerprint, stale_after, parent: workspace.parent(), reads_parent };
    context.workspaces.set(key, situation, setup);

    let previous = workspace.status().cloned().unwrap_or_default();
    let health = context.workspaces.health(key);
    let generation = workspace.meta().generation;
    let (after, event) = workspace_status(&previous, generation, api_url.as_deref(), &health, interval, now);
    if after != previous {
        // It notes nothing that would be lost: whoever leads says what it finds.
        status::write::<K, _>(&context.client, workspace.meta(), None, &after).await?;
        let event = event.and_then(|event| if key.is_cluster() { in_public(event, &key.name) } else { Some(event) });
        context.publish(event.into_iter().collect(), &workspace.object_ref(&())).await;
    }
    Ok(Action::requeue(if usable { USABLE_RETRY } else { UNUSABLE_RETRY }))
}

async fn report_invalid<K: WorkspaceResource>(
    invalid: &InvalidObject,
    key: &WorkspaceKey,
    context: &Context,
) -> Result<Action, Error> {
    let message = status::report_invalid::<K, WorkspaceStatus>(&context.client, invalid).await?;
    let now = now();
    let failure = Failure { reason: Reason::ObjectInvalid, message, since: now, workspace_wide: true };
    let fingerprint = format!("{INVALID} {:?} {:?}", invalid.metadata.uid, invalid.metadata.generation);
    let situation =
        Situation { fingerprint: &fingerprint, stale_after: Duration::ZERO, parent: None, reads_parent: false };
    context.workspaces.set(key, situation, Setup::Unusable(failure));
    Ok(Action::await_change())
}
