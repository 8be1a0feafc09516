//! Reconciles PrefectWorkspaces: gathers what they name, puts their session into that state, says how it does.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt as _, predicates};
use kube::{Api, Resource, ResourceExt as _};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::context::{Context, RECONCILE_TIMEOUT, backoff};
use super::credentials::{Gathered, gather};
use super::errors::Error;
use super::kind::{Workspace, place};
use super::wakers::Woken;
use super::{MANAGER, Scope, on};
use crate::api::{OFFER_LABEL, OFFER_WORKSPACE, PrefectWorkspace, WorkspaceKind, WorkspaceStatus};
use crate::sync::conditions::Verdict;
use crate::sync::object::WorkspaceKey;
use crate::sync::plan::whole_seconds;
use crate::sync::workspace::workspace_status;
use crate::sync::{Failure, Reason, Timestamp};
use crate::workspace::Setup;

const CONCURRENCY: u16 = 8;
/// When to look again at a workspace that can't be used: a Secret without the label can't be watched.
const UNUSABLE_RETRY: Duration = Duration::from_secs(30);

/// Starts the controller; returns its cache.
pub(super) fn spawn(
    tasks: &mut JoinSet<()>,
    scope: &Scope,
    context: &Arc<Context>,
    woken: Woken<Workspace>,
    shutdown: &CancellationToken,
) -> Store<Workspace> {
    let client = &context.client;
    let (store, writer) = reflector::store();
    let forgetting = context.clone();
    let stream = watcher(scope.api::<Workspace>(client.clone()), watcher::Config::default())
        .default_backoff()
        .modify(|object| {
            object.managed_fields_mut().clear();
        })
        .reflect(writer)
        // After the cache: the objects that are woken must not find it there any more.
        .inspect_ok(move |event| {
            if let Event::Delete(object) = event {
                forgetting.workspaces.remove(&key(object));
            }
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
        .run(reconcile, error_policy, context.clone());
    tasks.spawn(controller.for_each(|_| std::future::ready(())));
    store
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

fn error_policy(object: Arc<Workspace>, error: &Error, context: Arc<Context>) -> Action {
    let key = key(&object);
    let delay = backoff(context.workspace_tries.count(&key), &key.to_string());
    tracing::warn!(workspace = %key, retry_in = ?delay, "{error}");
    Action::requeue(delay)
}

async fn reconcile(object: Arc<Workspace>, context: Arc<Context>) -> Result<Action, Error> {
    let key = key(&object);
    let work = async {
        match &object.0 {
            Ok(workspace) => reconcile_workspace(workspace, &key, &context).await,
            Err(invalid) => report_invalid(invalid, &key, &context).await,
        }
    };
    let action =
        tokio::time::timeout(RECONCILE_TIMEOUT, work).await.map_err(|_| Error::Timeout(RECONCILE_TIMEOUT))??;
    context.workspace_tries.remove(&key);
    Ok(action)
}

async fn reconcile_workspace(
    workspace: &PrefectWorkspace,
    key: &WorkspaceKey,
    context: &Context,
) -> Result<Action, Error> {
    let now = whole_seconds(Timestamp::now());
    let Gathered { fingerprint, api_url, setup } = gather(workspace, &context.client, &context.options, now).await?;
    let usable = matches!(setup, Setup::Usable { .. });
    context.workspaces.set(key, &fingerprint, workspace.spec.stale_after(), setup);

    let previous = workspace.status.clone().unwrap_or_default();
    let health = context.workspaces.health(key);
    let (status, event) = workspace_status(&previous, workspace.metadata.generation, api_url.as_deref(), &health, now);
    if status != previous {
        write_status(context, key, &status).await?;
        context.publish(event.into_iter().collect(), &workspace.object_ref(&())).await;
    }
    Ok(if usable { Action::await_change() } else { Action::requeue(UNUSABLE_RETRY) })
}

async fn report_invalid(invalid: &InvalidObject, key: &WorkspaceKey, context: &Context) -> Result<Action, Error> {
    let now = whole_seconds(Timestamp::now());
    let message = format!("the stored workspace does not fit this version's types: {}", invalid.error);
    let failure = Failure { reason: Reason::ObjectInvalid, message: message.clone(), since: now, workspace_wide: true };
    let fingerprint = format!("invalid {:?} {:?}", invalid.metadata.uid, invalid.metadata.generation);
    context.workspaces.set(key, &fingerprint, Duration::ZERO, Setup::Unusable(failure));
    let api = dynamic(context, key);
    let stored = api.get_opt(&key.name).await.map_err(|error| Error::kube(format!("reading {key}"), &error))?;
    let Some(stored) = stored else { return Ok(Action::await_change()) };
    let previous: WorkspaceStatus =
        stored.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok()).unwrap_or_default();
    let verdict = Verdict::not_ready(Reason::ObjectInvalid, message);
    let conditions =
        crate::sync::conditions::conditions(&previous.conditions, &verdict, invalid.metadata.generation, now);
    let status = WorkspaceStatus { observed_generation: invalid.metadata.generation, conditions, ..previous.clone() };
    if status != previous {
        write_status(context, key, &status).await?;
    }
    Ok(Action::await_change())
}

fn dynamic(context: &Context, key: &WorkspaceKey) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), &key.namespace, &ApiResource::erase::<PrefectWorkspace>(&()))
}

async fn write_status(context: &Context, key: &WorkspaceKey, status: &WorkspaceStatus) -> Result<(), Error> {
    let patch = json!({
        "apiVersion": PrefectWorkspace::api_version(&()),
        "kind": PrefectWorkspace::kind(&()),
        "status": status,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    match dynamic(context, key).patch_status(&key.name, &parameters, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(Error::kube(format!("writing the status of {key}"), &error)),
    }
}
