//! Reconciles PrefectWorkspaces: gathers what they name, puts their session into that state, says how it does.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt as _, predicates};
use kube::{Resource, ResourceExt as _};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::context::{Context, RECONCILE_TIMEOUT};
use super::credentials::{Gathered, gather};
use super::errors::Error;
use super::kind::{Workspace, place};
use super::wakers::Woken;
use super::watching::{self, Patience};
use super::{Cache, Scope, now, on, status};
use crate::api::{OFFER_LABEL, OFFER_WORKSPACE, PrefectWorkspace, WorkspaceKind, WorkspaceStatus};
use crate::sync::object::WorkspaceKey;
use crate::sync::workspace::workspace_status;
use crate::sync::{Failure, Reason};
use crate::workspace::Setup;

const CONCURRENCY: u16 = 8;
/// When to look again at a workspace that can't be used: a Secret without the label can't be watched.
const UNUSABLE_RETRY: Duration = Duration::from_secs(30);
/// When to look again at one that can: what a watch missed, such as a label taken off meanwhile, is found then.
const USABLE_RETRY: Duration = Duration::from_secs(600);

/// Starts the controller; returns its cache.
pub(super) fn spawn(
    tasks: &mut JoinSet<()>,
    scope: &Scope,
    context: &Arc<Context>,
    woken: Woken<Workspace>,
    shutdown: &CancellationToken,
) -> Cache<Workspace> {
    let client = &context.client;
    let (store, writer) = reflector::store();
    let listed = CancellationToken::new();
    let filled = listed.clone();
    let (forgetting, cache, of) = (context.workspaces.clone(), store.clone(), scope.clone());
    let stream = watcher(scope.api::<Workspace>(client.clone()), watcher::Config::default())
        .backoff(Patience::default())
        .modify(watching::slim)
        .reflect(writer)
        // After the cache: the objects that are woken must not find it there any more.
        .inspect_ok(move |event| match event {
            Event::Delete(object) => forgetting.remove(&key(object)),
            Event::InitDone => {
                filled.cancel();
                // Deleted while we were not watching.
                let known = forgetting.keys();
                known
                    .iter()
                    .filter(|known| of.covers(&known.namespace))
                    .filter(|known| cache.get(&ObjectRef::new(&known.name).within(&known.namespace)).is_none())
                    .for_each(|gone| forgetting.remove(gone));
            }
            _ => {}
        })
        .applied_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    let offered = watcher::Config::default().labels(&format!("{OFFER_LABEL}={OFFER_WORKSPACE}"));
    let by_secret = store.clone();
    let by_map = store.clone();
    let controller = Controller::for_stream(stream, store.clone())
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY))
        .watches(scope.api::<PartialObjectMeta<Secret>>(client.clone()), offered.clone(), move |secret| {
            users(&by_secret, &secret, |workspace, name| workspace.spec.secrets().any(|secret| secret == name))
        })
        .watches(scope.api::<PartialObjectMeta<ConfigMap>>(client.clone()), offered, move |map| {
            users(&by_map, &map, |workspace, name| workspace.spec.config_maps().any(|map| map == name))
        })
        .reconcile_on(UnboundedReceiverStream::new(woken))
        .graceful_shutdown_on(on(shutdown))
        .run(reconcile, error_policy, Arc::new(Shared { context: context.clone(), store: store.clone() }));
    watching::spawn(tasks, controller, [listed.clone()], shutdown.clone());
    Cache { store, listed }
}

struct Shared {
    context: Arc<Context>,
    store: Store<Workspace>,
}

fn key(object: &Workspace) -> WorkspaceKey {
    let (namespace, name) = place(object);
    WorkspaceKey { kind: WorkspaceKind::PrefectWorkspace, namespace, name }
}

/// The workspaces of its namespace that name an offered object.
fn users<K: Resource>(
    store: &Store<Workspace>,
    offered: &K,
    names: impl Fn(&PrefectWorkspace, &str) -> bool,
) -> Vec<ObjectRef<Workspace>> {
    let (namespace, name) = place(offered);
    store
        .state()
        .into_iter()
        .filter(|object| object.namespace().as_ref() == Some(&namespace))
        .filter(|object| object.0.as_ref().is_ok_and(|workspace| names(workspace, &name)))
        .map(|object| ObjectRef::from_obj(&*object))
        .collect()
}

fn error_policy(object: Arc<Workspace>, error: &Error, shared: Arc<Shared>) -> Action {
    let key = key(&object);
    let delay = error.retry_in(shared.context.workspace_tries.count(&key), &key.to_string());
    tracing::warn!(workspace = %key, retry_in = ?delay, "{error}");
    Action::requeue(delay)
}

async fn reconcile(object: Arc<Workspace>, shared: Arc<Shared>) -> Result<Action, Error> {
    let (key, context) = (key(&object), &shared.context);
    let work = async {
        match &object.0 {
            Ok(workspace) => reconcile_workspace(workspace, &key, context).await,
            Err(invalid) => report_invalid(invalid, &key, context).await,
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

async fn reconcile_workspace(
    workspace: &PrefectWorkspace,
    key: &WorkspaceKey,
    context: &Context,
) -> Result<Action, Error> {
    let now = now();
    let Gathered { fingerprint, api_url, setup } = gather(workspace, &context.client, &context.options, now).await?;
    let usable = matches!(setup, Setup::Usable { .. });
    context.workspaces.set(key, &fingerprint, workspace.spec.stale_after(), setup);

    let previous = workspace.status.clone().unwrap_or_default();
    let health = context.workspaces.health(key);
    let interval = workspace.spec.refresh_interval();
    let generation = workspace.metadata.generation;
    let (after, event) = workspace_status(&previous, generation, api_url.as_deref(), &health, interval, now);
    if after != previous {
        status::write::<PrefectWorkspace, _>(&context.client, workspace.meta(), &after).await?;
        context.publish(event.into_iter().collect(), &workspace.object_ref(&())).await;
    }
    Ok(Action::requeue(if usable { USABLE_RETRY } else { UNUSABLE_RETRY }))
}

async fn report_invalid(invalid: &InvalidObject, key: &WorkspaceKey, context: &Context) -> Result<Action, Error> {
    let message = status::report_invalid::<PrefectWorkspace, WorkspaceStatus>(&context.client, invalid).await?;
    let now = now();
    let failure = Failure { reason: Reason::ObjectInvalid, message, since: now, workspace_wide: true };
    let fingerprint = format!("invalid {:?} {:?}", invalid.metadata.uid, invalid.metadata.generation);
    context.workspaces.set(key, &fingerprint, Duration::ZERO, Setup::Unusable(failure));
    Ok(Action::await_change())
}
