//! Objects under Merge: whose keys are in which target, and taking them out when an object goes.
//!
//! There is no finalizer, so that no object is stuck when the operator is gone. What was deleted while it was not running
//! is found at its start: the field manager of an object's keys is named after its UID.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::Notify;

use super::Scope;
use super::apply::{self, Applied};
use super::context::backoff;
use super::errors::{Error, describe};
use super::kind::{Guarded, SyncKind, managers};
use super::objects::Shared;
use crate::api::OWNED_BY_LABEL;
use crate::sync::target::{MERGER, merged_label, merger};
use crate::sync::{Dependent, Kind, Manifest, Object};

/// Targets in a page.
const PAGE: u32 = 500;
/// How often leaving is tried; after that the next listing of the objects finds it.
const MOST_TRIES: u32 = 6;

/// Which objects have keys in which target.
#[derive(Default)]
pub struct Merging(Mutex<HashMap<Dependent, String>>);

impl Merging {
    /// Notes where an object's keys are.
    pub(super) fn note(&self, object: &Object) {
        self.with(|targets| match object.is_merge() {
            true => targets.insert(object.id.clone(), object.target_name.clone()),
            false => targets.remove(&object.id),
        });
    }

    /// Forgets an object.
    pub(super) fn forget(&self, dependent: &Dependent) {
        self.with(|targets| targets.remove(dependent));
    }

    /// The objects with keys in a target.
    pub(super) fn of(&self, kind: Kind, namespace: &str, target: &str) -> Vec<Dependent> {
        let is_in = |(object, name): &(&Dependent, &String)| {
            object.kind == kind && object.namespace == namespace && *name == target
        };
        self.with(|targets| targets.iter().filter(is_in).map(|(object, _)| object.clone()).collect())
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Dependent, String>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes the keys of an object out of a target that is not its any more.
pub(super) async fn leave<K: SyncKind>(client: &Client, namespace: &str, target: &str, uid: &str) {
    let (kind, manager) = (K::KIND.target(), merger(uid));
    for tries in 0..MOST_TRIES {
        match try_leave::<K>(client, namespace, target, &manager).await {
            Ok(true) => {
                return tracing::info!(
                    namespace,
                    target,
                    kind,
                    "took the keys of an object out that are not its any more"
                );
            }
            Ok(false) => return,
            Err(error) => {
                let delay = backoff(tries, uid);
                tracing::warn!(namespace, target, kind, retry_in = ?delay, "taking the keys of a deleted object out: {error}");
                tokio::time::sleep(delay).await;
            }
        }
    }
}

async fn try_leave<K: SyncKind>(client: &Client, namespace: &str, target: &str, manager: &str) -> Result<bool, Error> {
    let api: Api<K::Target> = Api::namespaced(client.clone(), namespace);
    let found = api.get_metadata_opt(target).await;
    let found = found.map_err(|error| Error::kube(format!("reading {} {target}", K::KIND.target()), &error))?;
    let Some(found) = found.filter(|found| managers(&found.metadata).contains_key(manager)) else {
        return Ok(false);
    };
    let nothing = Manifest::nothing(namespace, target);
    match apply::leave(&api, &nothing, &found.uid().unwrap_or_default(), manager).await? {
        Applied::Done(_) => Ok(true),
        Applied::Outdated => Err(Error::Contended(format!("{} {namespace}/{target}", K::KIND.target()))),
        Applied::Refused(why) => {
            Err(Error::Kube { doing: format!("writing {} {target}", K::KIND.target()), why, retry_after: None })
        }
    }
}

/// Sweeps whenever the objects have been listed: what was deleted meanwhile was no event.
pub(super) fn spawn<K: SyncKind>(shared: Arc<Shared<K>>, scope: Scope, listed: Arc<Notify>) {
    // It ends with the process: what it leaves undone the next start does.
    tokio::spawn(async move {
        loop {
            listed.notified().await;
            let mut tries = 0;
            while let Err(error) = sweep(&shared, &scope).await {
                let delay = backoff(tries, "");
                tries = tries.saturating_add(1);
                tracing::debug!(retry_in = ?delay, "looking for keys of deleted objects: {}", describe(&error));
                tokio::time::sleep(delay).await;
            }
        }
    });
}

/// Takes out the keys of objects that are gone, and of those that have moved on.
async fn sweep<K: SyncKind>(shared: &Shared<K>, scope: &Scope) -> Result<(), kube::Error> {
    let client = &shared.context.client;
    let api: Api<K::Target> = scope.api(client.clone());
    let label = format!("{OWNED_BY_LABEL}={}", merged_label(K::KIND));
    let mut parameters = ListParams::default().labels(&label).limit(PAGE);
    loop {
        let page = api.list_metadata(&parameters).await?;
        let places: HashMap<String, Vec<String>> =
            shared.store.state().iter().filter_map(|object| Some((object.uid()?, targets(&**object)))).collect();
        for target in page.items {
            let name = target.name_any();
            let managers = managers(&target.metadata);
            for uid in managers.keys().filter_map(|manager| manager.strip_prefix(MERGER)) {
                let may_stay = places.get(uid).is_some_and(|targets| targets.is_empty() || targets.contains(&name));
                if !may_stay {
                    leave::<K>(client, &target.namespace().unwrap_or_default(), &name, uid).await;
                }
            }
        }
        parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if parameters.continue_token.is_none() {
            return Ok(());
        }
    }
}

/// Where an object's keys may be: where it asks for, and where they were. None for one that can't be parsed: anywhere.
pub(super) fn targets<K: SyncKind>(object: &Guarded<K>) -> Vec<String> {
    let Ok(resource) = &object.0 else { return Vec::new() };
    let before = resource.status().and_then(|status| status.target.as_ref()).map(|target| target.name.clone());
    [resource.object().target_name].into_iter().chain(before).collect()
}
