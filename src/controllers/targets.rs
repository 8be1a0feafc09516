//! Watches our targets as metadata, by label: an edit or a deletion by someone else wakes the target's object.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Event, watcher};
use kube::{Api, ResourceExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Scope;
use super::apply::version_of;
use super::context::Context;
use super::kind::{SyncKind, TargetKind};
use super::watching::{self, Failures, Patience};
use crate::api::{OWNED_BY_LABEL, OWNER_ANNOTATION};
use crate::sync::Dependent;
use crate::sync::target::merged_label;

/// How long the first list may keep objects waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the watch of one kind of targets. What it returns is cancelled when they have been listed once: a target that
/// is read after that is either as it was listed, or its change is an event.
pub(super) fn spawn<K, T>(
    tasks: &mut JoinSet<()>,
    scope: &Scope,
    context: &Arc<Context>,
    shutdown: &CancellationToken,
) -> CancellationToken
where
    K: SyncKind<Target = T>,
    T: TargetKind,
{
    let api: Api<PartialObjectMeta<T>> = scope.api(context.client.clone());
    let selector = format!("{OWNED_BY_LABEL} in ({},{})", K::KIND.as_str(), merged_label(K::KIND));
    let config = watching::config().labels(&selector);
    let (context, shutdown, scope) = (context.clone(), shutdown.clone(), scope.clone());
    let first_list = CancellationToken::new();
    let listed_once = first_list.clone();
    let given_up = first_list.clone();
    // No controller: it ends by itself.
    tokio::spawn(async move {
        // Where it may not list at all, objects go on without.
        let _ = tokio::time::timeout(PATIENCE, given_up.cancelled()).await;
        given_up.cancel();
    });
    tasks.spawn(async move {
        let events = watcher(api, config).backoff(Patience::default());
        let mut events = std::pin::pin!(events.take_until(shutdown.cancelled_owned()));
        let mut listed = HashSet::new();
        let mut failures = Failures::default();
        loop {
            match events.try_next().await {
                Ok(Some(event)) => {
                    let is_end = matches!(event, Event::InitDone);
                    let woken = handle::<K, T>(&context, &scope, &mut listed, !first_list.is_cancelled(), event);
                    context.workspaces.wake_dependents(woken);
                    if is_end {
                        first_list.cancel();
                    }
                }
                Ok(None) => return,
                Err(error) => failures.say(&error),
            }
        }
    });
    listed_once
}

/// The label of all targets that belong to objects of a kind.
pub(super) fn selector<K: SyncKind>() -> String {
    format!("{OWNED_BY_LABEL}={}", K::KIND.as_str())
}

/// Whom an event wakes: nobody for what we wrote ourselves.
fn handle<K: SyncKind, T: TargetKind>(
    context: &Context,
    scope: &Scope,
    listed: &mut HashSet<Dependent>,
    is_first_list: bool,
    event: Event<PartialObjectMeta<T>>,
) -> Vec<Dependent> {
    match event {
        Event::Init => {
            listed.clear();
            Vec::new()
        }
        Event::InitApply(target) => {
            let mut seen = seen::<K, T>(context, &target);
            // In the first list all are new to us: their objects are woken by their sessions, and compared then.
            seen.retain(|owner| !is_first_list || context.written.get(owner).is_some());
            listed.extend(owners::<K, _>(context, &target));
            seen
        }
        Event::Apply(target) => seen::<K, T>(context, &target),
        Event::Delete(target) => owners::<K, _>(context, &target),
        // Deleted while we were not watching.
        Event::InitDone => {
            let listed = std::mem::take(listed);
            context.written.keys(|dependent| {
                dependent.kind == K::KIND && scope.covers(&dependent.namespace) && !listed.contains(dependent)
            })
        }
    }
}

/// The owners of a target that is not as this process left it for them.
fn seen<K: SyncKind, T: TargetKind>(context: &Context, target: &PartialObjectMeta<T>) -> Vec<Dependent> {
    let version = version_of(&target.metadata);
    let mut owners = owners::<K, _>(context, target);
    owners.retain(|owner| context.written.get(owner).as_ref() != Some(&version));
    owners
}

/// The object that a target belongs to, and those that have keys in it.
fn owners<K: SyncKind, R: ResourceExt>(context: &Context, target: &R) -> Vec<Dependent> {
    let merged = context.merging.of(K::KIND, &target.namespace().unwrap_or_default(), &target.name_any());
    owner::<K, R>(target).into_iter().chain(merged).collect()
}

/// The object that a target belongs to, by its annotation or else by its owner reference.
pub(super) fn owner<K: SyncKind, R: ResourceExt>(target: &R) -> Option<Dependent> {
    let kind = K::KIND;
    let annotated = target
        .annotations()
        .get(OWNER_ANNOTATION)
        .and_then(|owner| owner.split_once('/'))
        .filter(|(of, _)| *of == kind.as_str())
        .map(|(_, name)| name.to_owned());
    let referenced = || {
        let owner = target.owner_references().iter().find(|owner| owner.kind == kind.as_str())?;
        Some(owner.name.clone())
    };
    Some(Dependent { kind, namespace: target.namespace()?, name: annotated.or_else(referenced)? })
}
