//! Reconciles PrefectSecrets and PrefectKVs: gather, plan, apply, status.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::runtime::controller::{Action, Config as ControllerConfig};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{Event, watcher};
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt as _, predicates};
use kube::{Api, ResourceExt as _};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::apply::{self, Applied, delete};
use super::bulk;
use super::context::{Context, RECONCILE_TIMEOUT, StatusAt, backoff};
use super::directory::{Directory, Standing};
use super::errors::Error;
use super::kind::{Guarded, SyncKind, TargetKind, place};
use super::wakers::KindWoken;
use super::watching::{self, Patience};
use super::{Scope, leaving, live, now, on, rollout, status};
use crate::api::{OWNER_ANNOTATION, REFRESH_ANNOTATION, SyncStatus};
use crate::sync::conditions;
use crate::sync::plan::{self, Observed, Plan, Version};
use crate::sync::target::merger;
use crate::sync::{Dependent, Object, Reading, Reason, RemoteKey, Removal, Target, TargetAction, Timestamp};
use crate::workspace::Observation;

/// Reconciles under way at once, of one kind and scope.
const CONCURRENCY: u16 = 64;
/// How often a plan is made anew because someone changed the target in between.
const MOST_PLANS: usize = 5;

/// What the reconciles of one kind and scope share.
pub(super) struct Shared<K: SyncKind> {
    pub context: Arc<Context>,
    pub directory: Directory,
    /// When all objects have said what they ask for.
    announced: CancellationToken,
    /// When the targets have been listed, or can't be.
    targets_listed: CancellationToken,
    pub store: Store<Guarded<K>>,
}

/// Starts the controller of one kind.
pub(super) fn spawn<K: SyncKind>(
    tasks: &mut JoinSet<()>,
    scope: &Scope,
    context: &Arc<Context>,
    directory: &Directory,
    woken: KindWoken<Guarded<K>>,
    targets_listed: CancellationToken,
    shutdown: &CancellationToken,
) -> CancellationToken {
    let api: Api<Guarded<K>> = scope.api(context.client.clone());
    let (store, writer) = reflector::store();
    let listed = CancellationToken::new();
    let filled = listed.clone();
    let (forgetting, cache, of) = (context.clone(), store.clone(), scope.clone());
    let sweep = Arc::new(Notify::new());
    let sweeping = sweep.clone();
    let stream = watcher(api, watching::config())
        .backoff(Patience::default())
        .modify(|object: &mut Guarded<K>| {
            watching::slim(object);
            if let Ok(object) = &mut object.0 {
                object.compact();
            }
        })
        .reflect(writer)
        .inspect_ok(move |event| match event {
            Event::Delete(object) => {
                forgetting.forget(&dependent(object));
                leave(&forgetting, &cache, object);
                if object.0.is_err() {
                    sweeping.notify_one();
                }
            }
            // Now the cache has what was written.
            Event::Apply(object) => forgetting
                .statuses
                .remove_if(&dependent(object), |written| object.resource_version().as_ref() == Some(&written.version)),
            Event::InitDone => {
                filled.cancel();
                sweeping.notify_one();
                // Deleted while we were not watching.
                let known = forgetting.workspaces.dependents().into_iter().chain(forgetting.written.keys(|_| true));
                let known: BTreeSet<Dependent> = known.collect();
                known
                    .iter()
                    .filter(|known| known.kind == K::KIND && of.covers(&known.namespace))
                    .filter(|known| cache.get(&ObjectRef::new(&known.name).within(&known.namespace)).is_none())
                    .for_each(|gone| forgetting.forget(gone));
            }
            _ => {}
        })
        .applied_objects()
        .predicate_filter(asked_for, PredicateConfig::default());
    let shared = Arc::new(Shared {
        context: context.clone(),
        directory: directory.clone(),
        announced: CancellationToken::new(),
        targets_listed: targets_listed.clone(),
        store: store.clone(),
    });
    tokio::spawn(announce_all(shared.clone(), listed.clone()));
    let counted = store.clone();
    context.watch_census(move |census| {
        for object in counted.state() {
            let status = object.0.as_ref().ok().and_then(|object| object.status());
            let (ready, reason) = status::standing(status.map(|status| status.conditions.as_slice()));
            *census.objects.entry((K::KIND.as_str(), ready, reason)).or_default() += 1;
        }
    });
    let controller = Controller::for_stream(stream, store.clone())
        .with_config(ControllerConfig::default().concurrency(CONCURRENCY))
        .reconcile_on(UnboundedReceiverStream::new(woken.each))
        .reconcile_all_on(context.leadership.regained())
        .graceful_shutdown_on(on(shutdown))
        .run(reconcile::<K>, error_policy::<K>, shared.clone());
    leaving::spawn(shared.clone(), scope.clone(), sweep);
    bulk::spawn(tasks, shared, woken.many, woken.back, targets_listed, shutdown);
    let needed = [listed.clone(), directory.namespaced.listed.clone()];
    watching::spawn(tasks, controller, needed, shutdown.clone());
    listed
}

/// Tells the sessions which keys all objects ask for before any of them is reconciled, so that these are read together.
async fn announce_all<K: SyncKind>(shared: Arc<Shared<K>>, listed: CancellationToken) {
    // Whatever becomes of this, nobody waits for it for ever.
    let _announced = shared.announced.clone().drop_guard();
    shared.context.leadership.granted().await;
    listed.cancelled().await;
    shared.directory.is_listed().await;
    for cached in shared.store.state() {
        let Ok(resource) = &cached.0 else { continue };
        let object = shared.directory.resolve(resource.object());
        if resource.meta().deletion_timestamp.is_some() || object.suspend || object.validate().is_err() {
            continue;
        }
        let _ = shared.context.workspaces.observe(&object, &resource.status().cloned().unwrap_or_default());
        // Deleted meanwhile: nobody would forget it any more.
        if shared.store.get(&ObjectRef::from_obj(&*cached)).is_none() {
            shared.context.forget(&object.id);
        }
    }
}

/// What a user changes: the spec, or the annotation that asks for a refresh.
fn asked_for<K: SyncKind>(object: &Guarded<K>) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    (predicates::generation(object), object.annotations().get(REFRESH_ANNOTATION)).hash(&mut hasher);
    Some(hasher.finish())
}

pub(super) fn dependent<K: SyncKind>(object: &Guarded<K>) -> Dependent {
    let (namespace, name) = place(object);
    Dependent { kind: K::KIND, namespace, name }
}

fn error_policy<K: SyncKind>(object: Arc<Guarded<K>>, error: &Error, shared: Arc<Shared<K>>) -> Action {
    let id = dependent(&object);
    if shared.store.get(&ObjectRef::from_obj(&*object)).is_none() {
        return Action::await_change();
    }
    let delay = error.retry_in(shared.context.tries.count(&id), &id.to_string());
    tracing::warn!(object = %id, retry_in = ?delay, "{error}");
    Action::requeue(delay)
}

async fn reconcile<K: SyncKind>(object: Arc<Guarded<K>>, shared: Arc<Shared<K>>) -> Result<Action, Error> {
    let Some(object) = shared.context.once_leading(&shared.store, object).await else {
        return Ok(Action::await_change());
    };
    let began = Instant::now();
    let work = async {
        match &object.0 {
            Ok(object) => reconcile_object(object, &shared).await,
            Err(invalid) => {
                status::report_invalid::<K, SyncStatus>(&shared.context.client, invalid).await?;
                Ok(Action::await_change())
            }
        }
    };
    let done = tokio::time::timeout(RECONCILE_TIMEOUT, work).await.unwrap_or(Err(Error::Timeout(RECONCILE_TIMEOUT)));
    let outcome = if done.is_ok() { "ok" } else { "error" };
    shared.context.metrics.reconciled(K::KIND.as_str(), outcome, began.elapsed());
    // It may have been deleted while it was worked on, and nobody would forget it any more.
    if shared.store.get(&ObjectRef::from_obj(&*object)).is_none() {
        shared.context.forget(&dependent(&object));
        leave(&shared.context, &shared.store, &object);
    }
    done
}

/// An object that is gone takes its keys out of targets of others.
fn leave<K: SyncKind>(context: &Arc<Context>, store: &Store<Guarded<K>>, object: &Guarded<K>) {
    let Ok(resource) = &object.0 else { return };
    // Who comes to lead looks for such keys first.
    if !context.leadership.is_granted() {
        return;
    }
    let was_merged =
        resource.status().and_then(|status| status.target.as_ref()).is_some_and(|target| target.merged == Some(true));
    if was_merged || resource.object().is_merge() {
        for target in leaving::targets(object) {
            let (context, store, object) = (context.clone(), store.clone(), dependent(object));
            tokio::spawn(async move { leaving::leave(&context, &store, &object, &target).await });
        }
    }
}

async fn reconcile_object<K: SyncKind>(resource: &K, shared: &Shared<K>) -> Result<Action, Error> {
    let context = &*shared.context;
    let object = resource.object();
    // Under a foreground deletion Kubernetes removes the target first: it must not come back.
    if resource.meta().deletion_timestamp.is_some() {
        context.forget(&object.id);
        return Ok(Action::await_change());
    }
    shared.announced.cancelled().await;
    let object = shared.directory.resolve(object);
    let mut previous = previous_status(resource, &object, context);
    let api: Api<K::Target> = Api::namespaced(context.client.clone(), &object.id.namespace);
    // A target that was never written is created without a look: the API server finds the conflict.
    let conflict = |ready: &Condition| ready.reason == Reason::TargetConflict.as_str();
    let mut look = object.is_merge()
        || previous.status.target.is_some()
        || conditions::ready(&previous.status.conditions).is_some_and(conflict);
    context.merging.note(&object);
    for _ in 0..MOST_PLANS {
        let gathered = shared.gather(&object, &previous.status);
        let (mut target, mut old_target) = (None, None);
        if plan::depends_on_target(&gathered.observed(None, None)) {
            if look {
                // What is edited between the first list and this look is an event then.
                shared.targets_listed.cancelled().await;
                target = get(&api, &object.target_name).await?;
            }
            if let Some(name) = former_target(&object, &previous.status) {
                old_target = get(&api, name).await?;
            }
        }
        let mut plan = plan::plan(&gathered.observed(target.as_ref(), old_target.as_ref()), now());
        drop(gathered);
        // One that was recreated or restored may have a target that the status knows nothing of.
        if !look && plan.target == TargetAction::Keep && plan.status != previous.status {
            look = true;
            continue;
        }
        if plan.confirm && !live::is_current::<K>(&context.client, resource.meta()).await? {
            // The cache hears of it soon.
            return Ok(Action::await_change());
        }
        let restarts = previous.status.restarts.clone();
        if let Some(intent) = &plan.intent {
            previous = write_status(resource, &object, previous, intent, context).await?;
        }
        match carry_out(&api, &object, &mut plan, (target.as_ref(), &previous.status), context).await? {
            Applied::Outdated => look = true,
            Applied::Refused(why) => {
                let mut refused = plan::refused(&object, &previous.status, &why, now());
                // Nothing was written that anything would be restarted for.
                refused.status.restarts = restarts;
                finish(resource, &object, previous, refused, context).await?;
                let delay = backoff(context.tries.count(&object.id), &object.id.to_string());
                return Ok(Action::requeue(delay));
            }
            Applied::Done(_) => {
                let rolled = rollout::carry_out(&context.client, &object.id.namespace, &plan.rollouts).await;
                plan.rolled(&rolled, &object, &previous.status, now());
                let action = plan.requeue_after.map_or_else(Action::await_change, Action::requeue);
                finish(resource, &object, previous, plan, context).await?;
                context.tries.remove(&object.id);
                return Ok(action);
            }
        }
    }
    Err(Error::Contended(object.target_display()))
}

/// The status as it stands: the one that was written last, where the cache has not seen it yet.
pub(super) fn previous_status<K: SyncKind>(resource: &K, object: &Object, context: &Context) -> StatusAt {
    let cached = resource.resource_version().unwrap_or_default();
    match context.statuses.get(&object.id) {
        Some(written) if written.older.contains(&cached) => written,
        _ => {
            context.statuses.remove(&object.id);
            StatusAt { older: Vec::new(), version: cached, status: resource.status().cloned().unwrap_or_default() }
        }
    }
}

/// The target's name before it was renamed.
pub(super) fn former_target<'a>(object: &Object, previous: &'a SyncStatus) -> Option<&'a str> {
    previous.target.as_ref().map(|target| target.name.as_str()).filter(|name| *name != object.target_name)
}

/// All that a plan is made from but the targets.
pub(super) struct Gathered<'a> {
    object: &'a Object,
    previous: &'a SyncStatus,
    standing: Standing,
    has_cluster: bool,
    observation: Option<Observation>,
    readings: BTreeMap<RemoteKey, Reading>,
    written: Option<Version>,
    started: Timestamp,
    refreshed: Option<String>,
}

impl<K: SyncKind> Shared<K> {
    pub(super) fn gather<'a>(&self, object: &'a Object, previous: &'a SyncStatus) -> Gathered<'a> {
        let workspaces = &self.context.workspaces;
        // What is wrong in itself asks for nothing: it could spoil the requests of others.
        let asks = !object.suspend && object.validate().is_ok();
        if !asks {
            workspaces.forget(&object.id);
        }
        let mut observation = asks.then(|| workspaces.observe(object, previous));
        Gathered {
            object,
            previous,
            standing: self.directory.standing(object, workspaces),
            has_cluster: self.directory.has_cluster(),
            readings: observation.as_mut().map(|seen| std::mem::take(&mut seen.readings)).unwrap_or_default(),
            refreshed: observation.as_mut().and_then(|seen| seen.refreshed.take()),
            observation,
            written: self.context.written.get(&object.id),
            started: self.context.leadership.since(),
        }
    }
}

impl Gathered<'_> {
    pub(super) fn observed<'a>(&'a self, target: Option<&'a Target>, old_target: Option<&'a Target>) -> Observed<'a> {
        Observed {
            object: self.object,
            previous: self.previous,
            workspace: self.standing.view(self.observation.as_ref(), self.has_cluster),
            stale_after: self.observation.as_ref().map_or(Duration::ZERO, |seen| seen.stale_after),
            readings: &self.readings,
            target,
            old_target,
            written: self.written.as_ref(),
            started: self.started,
            refreshed: self.refreshed.as_deref(),
        }
    }
}

async fn carry_out<T: TargetKind>(
    api: &Api<T>,
    object: &Object,
    plan: &mut Plan,
    (seen, previous): (Option<&Target>, &SyncStatus),
    context: &Context,
) -> Result<Applied, Error> {
    let manager = merger(&object.id);
    let applied = apply::apply(api, &plan.target, &manager).await?;
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
    // Another of our objects that had it before should say so.
    let former =
        seen.and_then(|seen| seen.annotations.get(OWNER_ANNOTATION)).filter(|owner| **owner != object.owner_name());
    if let Some((_, name)) =
        former.and_then(|owner| owner.split_once('/')).filter(|_| plan.target != TargetAction::Keep)
    {
        context.workspaces.wake_dependents(vec![Dependent { name: name.to_owned(), ..object.id.clone() }]);
    }
    if plan.target != TargetAction::Keep {
        if let Some(lag) = context.workspaces.delivered(object) {
            context.metrics.target_followed(lag);
        }
        tracing::info!(object = %object.id, wrote = %object.target_display(), action = plan.target.name(), "wrote target");
    }
    let removed = match &plan.remove {
        Some(Removal::Delete(name, version)) => delete(api, name, version).await?,
        Some(Removal::Leave(manifest, version)) => apply::merge(api, manifest, version, &manager).await?,
        None => return Ok(applied),
    };
    if let Applied::Refused(why) = removed {
        plan.left_behind(&why, object, previous, now());
        return Ok(applied);
    }
    Ok(removed)
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
    previous: StatusAt,
    plan: Plan,
    context: &Context,
) -> Result<(), Error> {
    if plan.status != previous.status {
        write_status(resource, object, previous, &plan.status, context).await?;
    }
    context.publish(plan.events, &resource.object_ref(&())).await;
    Ok(())
}

/// Returns it with the version that has it, for a write that follows before the cache has seen this one.
async fn write_status<K: SyncKind>(
    resource: &K,
    object: &Object,
    previous: StatusAt,
    status: &SyncStatus,
    context: &Context,
) -> Result<StatusAt, Error> {
    let of = ObjectMeta { resource_version: Some(previous.version.clone()), ..resource.meta().clone() };
    let written = status::write::<K, _>(&context.client, &of, Some(&previous.status), status).await?;
    // What the target holds now counts when keys vanish.
    context.workspaces.note(object, status);
    // Nothing changed after all, or the object is gone.
    let Some(version) = written.filter(|version| *version != previous.version) else {
        return Ok(StatusAt { status: status.clone(), ..previous });
    };
    let older = previous.older.into_iter().chain([previous.version]).collect();
    let written = StatusAt { older, version, status: status.clone() };
    context.statuses.set(&object.id, written.clone());
    Ok(written)
}
