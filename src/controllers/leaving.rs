//! Objects under Merge: whose keys are in which target, and taking them out when an object goes.
//!
//! There is no finalizer, so that no object is stuck when the operator is gone. What was deleted while it was not running
//! is found at its start: the field manager of an object's keys is named after its UID.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::Scope;
use super::apply::{Applied, merge};
use super::errors::{Error, describe};
use super::kind::{SyncKind, managers};
use super::objects::Shared;
use crate::api::OWNED_BY_LABEL;
use crate::sync::plan::Version;
use crate::sync::target::{MERGER, merged_label, merger};
use crate::sync::{Dependent, Kind, Manifest, Object};

/// Targets in a page.
const PAGE: u32 = 500;
/// How often leaving is tried where others change the target in between.
const MOST_TRIES: usize = 5;

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

/// Takes the keys of an object that is gone out of a target.
pub(super) async fn leave<K: SyncKind>(client: &Client, namespace: &str, target: &str, uid: &str) {
    let (kind, manager) = (K::KIND.target(), merger(uid));
    match try_leave::<K>(client, namespace, target, &manager).await {
        Ok(true) => tracing::info!(namespace, target, kind, "took the keys of a deleted object out"),
        Ok(false) => {}
        Err(error) => tracing::warn!(
            namespace,
            target,
            kind,
            "taking the keys of a deleted object out: {error}; it is tried again at the next start"
        ),
    }
}

async fn try_leave<K: SyncKind>(client: &Client, namespace: &str, target: &str, manager: &str) -> Result<bool, Error> {
    let api: Api<K::Target> = Api::namespaced(client.clone(), namespace);
    let nothing = Manifest::nothing(namespace, target);
    for _ in 0..MOST_TRIES {
        let found = api.get_metadata_opt(target).await;
        let found = found.map_err(|error| Error::kube(format!("reading {} {target}", K::KIND.target()), &error))?;
        let Some(found) = found.filter(|found| managers(&found.metadata).contains_key(manager)) else {
            return Ok(false);
        };
        let version = Version {
            uid: found.uid().unwrap_or_default(),
            resource_version: found.resource_version().unwrap_or_default(),
        };
        match merge(&api, &nothing, &version, manager).await? {
            Applied::Done(_) => return Ok(true),
            Applied::Outdated => {}
            Applied::Refused(why) => {
                return Err(Error::Kube {
                    doing: format!("writing {} {target}", K::KIND.target()),
                    why,
                    retry_after: None,
                });
            }
        }
    }
    Err(Error::Contended(format!("{} {namespace}/{target}", K::KIND.target())))
}

/// Takes out the keys of objects that were deleted while the operator was not running. The objects have been listed.
pub(super) async fn sweep<K: SyncKind>(shared: &Shared<K>, scope: &Scope) {
    let client = &shared.context.client;
    let api: Api<K::Target> = scope.api(client.clone());
    let label = format!("{OWNED_BY_LABEL}={}", merged_label(K::KIND));
    let mut parameters = ListParams::default().labels(&label).limit(PAGE);
    loop {
        let page = match api.list_metadata(&parameters).await {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!("listing targets with keys of ours: {}", describe(&error));
                return;
            }
        };
        let known: HashSet<String> = shared.store.state().iter().filter_map(|object| object.uid()).collect();
        for target in page.items {
            let managers = managers(&target.metadata);
            let uids = managers.keys().filter_map(|manager| manager.strip_prefix(MERGER));
            for uid in uids.filter(|uid| !known.contains(*uid)) {
                leave::<K>(client, &target.namespace().unwrap_or_default(), &target.name_any(), uid).await;
            }
        }
        parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if parameters.continue_token.is_none() {
            return;
        }
    }
}
