//! Compares many objects with their targets at once: after a start, the first readings of a workspace wake all of its
//! objects, whose targets most likely are as they should be. They are listed page by page, compared, and dropped; what
//! is right is remembered by its version, and only what is not is reconciled.
//!
//! **No edit is lost.** The listing begins after the watch of the targets has listed them once. What is edited before
//! that is in our page; what is edited later is an event that wakes the target's object, whether or not its version
//! has been remembered by then.

use std::collections::HashSet;
use std::sync::Arc;

use kube::Api;
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::errors::describe;
use super::kind::{Guarded, SyncKind, TargetKind};
use super::now;
use super::objects::{Shared, former_target, previous_status};
use super::targets::{owner, selector};
use super::wakers::MANY;
use crate::sync::plan::{self, Version};
use crate::sync::{Dependent, Target, TargetAction};

/// Targets in a page. One may be 1 MiB.
const PAGE: u32 = 100;
/// Listings at once.
const LISTINGS: usize = 2;

/// Starts the comparisons of one kind and scope. `many` are objects of one namespace; `each` reconciles one.
pub(super) fn spawn<K: SyncKind>(
    tasks: &mut JoinSet<()>,
    shared: Arc<Shared<K>>,
    mut many: UnboundedReceiver<Vec<Dependent>>,
    each: UnboundedSender<ObjectRef<Guarded<K>>>,
    targets_listed: CancellationToken,
    shutdown: &CancellationToken,
) {
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let places = Arc::new(Semaphore::new(LISTINGS));
        let mut listings = JoinSet::new();
        loop {
            let dependents = tokio::select! {
                dependents = many.recv() => dependents,
                Some(_) = listings.join_next() => continue,
                () = shutdown.cancelled() => return,
            };
            let Some(dependents) = dependents else { return };
            let each = each.clone();
            let wake = move |dependent: &Dependent| {
                let _ = each.send(ObjectRef::new(&dependent.name).within(&dependent.namespace));
            };
            let (candidates, others): (Vec<Dependent>, Vec<Dependent>) =
                dependents.into_iter().partition(|dependent| may_be_settled(&shared, dependent));
            others.iter().for_each(&wake);
            if candidates.len() < MANY {
                candidates.iter().for_each(&wake);
                continue;
            }
            let (shared, places, listed) = (shared.clone(), places.clone(), targets_listed.clone());
            listings.spawn(async move {
                listed.cancelled().await;
                let _place = places.acquire().await;
                settle(&shared, candidates, &wake).await.iter().for_each(&wake);
            });
        }
    });
}

/// Compares objects of one namespace; those that have to be reconciled are woken as they are found, or returned.
async fn settle<K: SyncKind>(
    shared: &Shared<K>,
    candidates: Vec<Dependent>,
    wake: &impl Fn(&Dependent),
) -> Vec<Dependent> {
    let namespace = candidates.first().map(|first| first.namespace.clone()).unwrap_or_default();
    let mut left: HashSet<Dependent> = candidates.into_iter().collect();
    let api: Api<K::Target> = Api::namespaced(shared.context.client.clone(), &namespace);
    let mut parameters = ListParams::default().labels(&selector::<K>()).limit(PAGE);
    while !left.is_empty() {
        let page = match api.list(&parameters).await {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(namespace, "listing targets to compare them: {}; each is read", describe(&error));
                break;
            }
        };
        for target in page.items {
            let Some(owner) = owner::<K, _>(&target) else { continue };
            if left.remove(&owner) && !is_settled(shared, &owner, target.into_target()) {
                wake(&owner);
            }
        }
        parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if parameters.continue_token.is_none() {
            break;
        }
    }
    left.into_iter().collect()
}

/// The object as it is in the cache now.
fn cached<K: SyncKind>(shared: &Shared<K>, dependent: &Dependent) -> Option<Arc<Guarded<K>>> {
    shared.store.get(&ObjectRef::new(&dependent.name).within(&dependent.namespace))
}

/// Whether the object has a target that this process knows nothing of yet.
fn may_be_settled<K: SyncKind>(shared: &Shared<K>, dependent: &Dependent) -> bool {
    let Some(object) = cached(shared, dependent) else { return false };
    let Ok(resource) = &object.0 else { return false };
    let has_target = resource
        .status()
        .is_some_and(|status| status.target.is_some() && former_target(&resource.object(), status).is_none());
    has_target && shared.context.written.get(dependent).is_none()
}

/// Whether there is nothing to do for the object. Then the target's version is remembered: its next change is someone
/// else's.
fn is_settled<K: SyncKind>(shared: &Shared<K>, dependent: &Dependent, target: Target) -> bool {
    // As it is now, not as it was when the listing began: it may have been changed or deleted since.
    let Some(cached_object) = cached(shared, dependent) else { return true };
    let Ok(resource) = &cached_object.0 else { return false };
    let object = shared.directory.resolve(resource.object());
    if resource.meta().deletion_timestamp.is_some() || object.suspend || object.target_name != target.name {
        return false;
    }
    let previous = previous_status(resource, &object, &shared.context).status;
    let gathered = shared.gather(&object, &previous);
    let plan = plan::plan(&gathered.observed(Some(&target), None), now());
    let nothing_to_do = plan.target == TargetAction::Keep
        && plan.target_is_right
        && plan.status == previous
        && plan.events.is_empty()
        && plan.remove.is_none()
        && plan.rollouts.is_empty()
        && plan.requeue_after.is_none();
    if nothing_to_do {
        let version = Version { uid: target.uid, resource_version: target.resource_version };
        // A reconcile that was faster knows better.
        shared.context.written.set_if_new(dependent, version);
    }
    if cached(shared, dependent).is_none() {
        shared.context.forget(dependent);
    }
    nothing_to_do
}
