//! Reconciles PrefectSecrets and PrefectKVs: gather, plan, apply, status.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt as _, predicates};
use kube::{Api, ResourceExt as _};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::apply::{Applied, apply, delete};
use super::context::{Context, RECONCILE_TIMEOUT, backoff};
use super::errors::Error;
use super::kind::{Guarded, SyncKind, TargetKind, Workspace, place};
use super::wakers::Woken;
use super::{Scope, on, status};
use crate::api::SyncStatus;
use crate::sync::plan::{self, Observed, Plan, Version, WorkspaceView, whole_seconds};
use crate::sync::{Dependent, Object, Target, TargetAction, Timestamp};

/// Reconciles under way at once, of one kind and scope.
const CONCURRENCY: u16 = 32;
/// How often a plan is made anew because someone changed the target in between.
const MOST_PLANS: usize = 5;

struct Shared {
    context: Arc<Context>,
    workspaces: Store<Workspace>,
}

/// Starts the controller of one kind.
pub(super) fn spawn<K: SyncKind>(
    tasks: &mut JoinSet<()>,
    scope: &Scope,
    context: &Arc<Context>,
    workspaces: &Store<Workspace>,
    woken: Woken<Guarded<K>>,
    shutdown: &CancellationToken,
) -> Store<Guarded<K>> {
    let api: Api<Guarded<K>> = scope.api(context.client.clone());
    let (store, writer) = reflector::store();
    let (forgetting, cache, of) = (context.clone(), store.clone(), scope.clone());
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object| {
            object.managed_fields_mut().clear();
        })
        .reflect(writer)
        .inspect_ok(move |event| match event {
            Event::Delete(object) => forgetting.forget(&dependent(object)),
            // Deleted while we were not watching.
            Event::InitDone => forgetting
                .workspaces
                .dependents()
                .iter()
                .filter(|known| known.kind == K::KIND && of.covers(&known.namespace))
                .filter(|known| cache.get(&ObjectRef::new(&known.name).within(&known.namespace)).is_none())
                .for_each(|gone| forgetting.forget(gone)),
            _ => {}
        })
        .applied_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    let shared = Arc::new(Shared { context: context.clone(), workspaces: workspaces.clone() });
    let controller = Controller::for_stream(stream, store.clone())
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY))
        .reconcile_on(UnboundedReceiverStream::new(woken))
        .graceful_shutdown_on(on(shutdown))
        .run(reconcile::<K>, error_policy::<K>, shared);
    tasks.spawn(controller.for_each(|_| std::future::ready(())));
    store
}

fn dependent<K: SyncKind>(object: &Guarded<K>) -> Dependent {
    let (namespace, name) = place(object);
    Dependent { kind: K::KIND, namespace, name }
}

fn error_policy<K: SyncKind>(object: Arc<Guarded<K>>, error: &Error, shared: Arc<Shared>) -> Action {
    let id = dependent(&object);
    // Someone else was faster: at once, and without counting it as a failure.
    if matches!(error, Error::Contended(_)) {
        return Action::requeue(Duration::from_millis(50));
    }
    let delay = backoff(shared.context.tries.count(&id), &id.to_string());
    tracing::warn!(object = %id, retry_in = ?delay, "{error}");
    Action::requeue(delay)
}

async fn reconcile<K: SyncKind>(object: Arc<Guarded<K>>, shared: Arc<Shared>) -> Result<Action, Error> {
    let work = async {
        match &object.0 {
            Ok(object) => reconcile_object(object, &shared).await,
            Err(invalid) => {
                status::report_invalid::<K, SyncStatus>(&shared.context.client, invalid).await?;
                Ok(Action::await_change())
            }
        }
    };
    tokio::time::timeout(RECONCILE_TIMEOUT, work).await.map_err(|_| Error::Timeout(RECONCILE_TIMEOUT))?
}

async fn reconcile_object<K: SyncKind>(resource: &K, shared: &Shared) -> Result<Action, Error> {
    let context = &*shared.context;
    let object = resource.object();
    // Under a foreground deletion Kubernetes removes the target first: it must not come back.
    if resource.meta().deletion_timestamp.is_some() {
        context.forget(&object.id);
        return Ok(Action::await_change());
    }
    // Before the workspaces are listed none would be found.
    if shared.workspaces.wait_until_ready().await.is_err() {
        return Ok(Action::await_change());
    }
    let previous = previous_status(resource, &object, context);
    let api: Api<K::Target> = Api::namespaced(context.client.clone(), &object.id.namespace);
    // A target that was never written is created without a look: the API server finds the conflict.
    let mut look = previous.target.is_some();
    for _ in 0..MOST_PLANS {
        let target = if look { get(&api, &object.target_name).await? } else { None };
        let old_name = previous.target.as_ref().map(|t| t.name.as_str()).filter(|name| *name != object.target_name);
        let old_target = match old_name {
            Some(name) => get(&api, name).await?,
            None => None,
        };
        let plan = gather_and_plan(&object, &previous, target.as_ref(), old_target.as_ref(), shared);
        match carry_out(&api, &object, &plan, target.as_ref(), context).await? {
            Applied::Outdated => look = true,
            Applied::Refused(why) => {
                let refused = plan::refused(&object, &previous, &why, whole_seconds(Timestamp::now()));
                finish(resource, &object, &previous, refused, context).await?;
                let delay = backoff(context.tries.count(&object.id), &object.id.to_string());
                return Ok(Action::requeue(delay));
            }
            Applied::Done(_) => {
                let action = plan.requeue_after.map_or_else(Action::await_change, Action::requeue);
                finish(resource, &object, &previous, plan, context).await?;
                context.tries.remove(&object.id);
                return Ok(action);
            }
        }
    }
    Err(Error::Contended(object.target_display()))
}

/// The status as it stands: the one that was written last, where the cache has not seen it yet.
fn previous_status<K: SyncKind>(resource: &K, object: &Object, context: &Context) -> SyncStatus {
    let cached = resource.resource_version().unwrap_or_default();
    match context.statuses.get(&object.id) {
        Some((seen, status)) if seen == cached => status,
        _ => resource.status().cloned().unwrap_or_default(),
    }
}

fn gather_and_plan(
    object: &Object,
    previous: &SyncStatus,
    target: Option<&Target>,
    old_target: Option<&Target>,
    shared: &Shared,
) -> Plan {
    let context = &*shared.context;
    if object.suspend {
        context.workspaces.forget(&object.id);
    }
    let observation = (!object.suspend).then(|| context.workspaces.observe(object, previous));
    let workspace = ObjectRef::new(&object.workspace.name).within(&object.workspace.namespace);
    let exists = shared.workspaces.get(&workspace).is_some();
    let view = match &observation {
        _ if !exists => WorkspaceView::Missing,
        Some(seen) => match &seen.unusable {
            Some(failure) => WorkspaceView::Unusable(failure),
            None if seen.usable => WorkspaceView::Usable,
            None => WorkspaceView::Pending,
        },
        None => WorkspaceView::Pending,
    };
    let written = context.written.get(&object.id);
    let nothing = std::collections::BTreeMap::new();
    let observed = Observed {
        object,
        previous,
        workspace: view,
        stale_after: observation.as_ref().map_or(Duration::ZERO, |seen| seen.stale_after),
        readings: observation.as_ref().map_or(&nothing, |seen| &seen.readings),
        target,
        old_target,
        written: written.as_ref(),
    };
    plan::plan(&observed, whole_seconds(Timestamp::now()))
}

async fn carry_out<T: TargetKind>(
    api: &Api<T>,
    object: &Object,
    plan: &Plan,
    seen: Option<&Target>,
    context: &Context,
) -> Result<Applied, Error> {
    let applied = apply(api, &plan.target).await?;
    let Applied::Done(version) = &applied else { return Ok(applied) };
    match (&plan.target, version, seen) {
        (TargetAction::Delete { .. }, _, _) => {
            context.written.remove(&object.id);
        }
        (_, Some(version), _) => context.written.set(&object.id, version.clone()),
        // Found as it should be: its next change is someone else's.
        (TargetAction::Keep, None, Some(seen)) if plan.target_is_right => context
            .written
            .set(&object.id, Version { uid: seen.uid.clone(), resource_version: seen.resource_version.clone() }),
        _ => {}
    }
    if plan.target != TargetAction::Keep {
        tracing::info!(object = %object.id, wrote = %object.target_display(), action = plan.target.name(), "wrote target");
    }
    if let Some((name, version)) = &plan.remove {
        return delete(api, name, version).await;
    }
    Ok(applied)
}

async fn get<T: TargetKind>(api: &Api<T>, name: &str) -> Result<Option<Target>, Error> {
    match api.get_opt(name).await {
        Ok(found) => Ok(found.map(TargetKind::into_target)),
        Err(error) => Err(Error::kube(format!("reading {} {name}", T::kind(&())), &error)),
    }
}

/// Writes the status where it differs, then publishes the Events.
async fn finish<K: SyncKind>(
    resource: &K,
    object: &Object,
    previous: &SyncStatus,
    plan: Plan,
    context: &Context,
) -> Result<(), Error> {
    if plan.status != *previous {
        let (namespace, name) = (&object.id.namespace, &object.id.name);
        status::write::<K, _>(&context.client, namespace, name, previous, &plan.status).await?;
        let seen = resource.resource_version().unwrap_or_default();
        context.statuses.set(&object.id, (seen, plan.status));
    }
    context.publish(plan.events, &resource.object_ref(&())).await;
    Ok(())
}
