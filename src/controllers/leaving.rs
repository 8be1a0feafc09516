//! Objects under Merge: whose keys are in which target, and taking them out when an object goes.
//!
//! There is no finalizer, so that no object is stuck when the operator is gone. What was deleted while it was not running
//! is found at its start: the field manager of an object's keys is named after it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::api::ListParams;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt as _};
use tokio::sync::Notify;

use super::apply::{self, Applied};
use super::context::{Context, backoff};
use super::errors::{Error, describe};
use super::kind::{Guarded, SyncKind, managers};
use super::objects::{Shared, dependent};
use super::{Scope, live};
use crate::api::OWNED_BY_LABEL;
use crate::sync::target::{MERGER, is_shortened, merged_label, merger};
use crate::sync::{Dependent, Kind, Manifest, Object};

/// Targets in a page.
const PAGE: u32 = 500;
/// How often leaving is tried in a row: for two minutes, so that a watch that hears nothing begins anew meanwhile.
const MOST_TRIES: u32 = 8;

/// How long a target that could not be left is left alone.
const LATER: Duration = Duration::from_secs(600);

/// Which objects have keys in which target.
#[derive(Default)]
pub struct Merging {
    targets: Mutex<HashMap<Dependent, String>>,
    /// Kinds some of whose targets could not be left.
    undone: Mutex<HashSet<Kind>>,
}

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

    fn undone(&self) -> MutexGuard<'_, HashSet<Kind>> {
        self.undone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Dependent, String>) -> T) -> T {
        f(&mut self.targets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes the keys of an object out of a target that is not its any more.
pub(super) async fn leave<K: SyncKind>(context: &Context, store: &Store<Guarded<K>>, object: &Dependent, target: &str) {
    let (kind, manager) = (K::KIND.target(), merger(object));
    for tries in 0..MOST_TRIES {
        match try_leave::<K>(&context.client, store, object, (target, &manager)).await {
            Ok(true) => return tracing::info!(%object, target, kind, "took the object's keys out"),
            Ok(false) => return,
            Err(error) => {
                let is_last = tries + 1 == MOST_TRIES;
                let delay = if is_last { LATER } else { backoff(tries, target) };
                tracing::warn!(%object, target, kind, retry_in = ?delay, "taking the object's keys out: {error}");
                if !is_last {
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
    context.merging.undone().insert(K::KIND);
}

async fn try_leave<K: SyncKind>(
    client: &Client,
    store: &Store<Guarded<K>>,
    object: &Dependent,
    (target, manager): (&str, &str),
) -> Result<bool, Error> {
    let Dependent { namespace, name, .. } = object;
    let stored = || store.get(&ObjectRef::new(name).within(namespace));
    if may_be_in(stored().as_deref(), target) {
        return Ok(false);
    }
    let api: Api<K::Target> = Api::namespaced(client.clone(), namespace);
    let doing = || format!("leaving {} {namespace}/{target}", K::KIND.target());
    let found = api.get_metadata_opt(target).await.map_err(|error| Error::kube(doing(), &error))?;
    let Some(found) = found.filter(|found| managers(&found.metadata).contains_key(manager)) else {
        return Ok(false);
    };
    let cached = stored();
    // It may be back, under the same name.
    if may_be_in(cached.as_deref(), target) {
        return Ok(false);
    }
    if !live::agrees::<K>(client, (namespace, name), cached.as_deref().map(Resource::meta)).await? {
        let why = format!("{object} has changed meanwhile");
        return Err(Error::Kube { doing: doing(), why, retry_after: None });
    }
    let nothing = Manifest::nothing(namespace, target);
    match apply::merge(&api, &nothing, &apply::version_of(&found.metadata), manager).await? {
        Applied::Done(_) => Ok(true),
        Applied::Outdated => Err(Error::Contended(doing())),
        Applied::Refused(why) => Err(Error::Kube { doing: doing(), why, retry_after: None }),
    }
}

/// Sweeps whenever the objects have been listed, since what was deleted meanwhile was no event; and again where a target
/// could not be left.
pub(super) fn spawn<K: SyncKind>(shared: Arc<Shared<K>>, scope: Scope, listed: Arc<Notify>) {
    // It ends with the process: what it leaves undone the next start does.
    tokio::spawn(async move {
        shared.context.leadership.granted().await;
        loop {
            if tokio::time::timeout(LATER, listed.notified()).await.is_err()
                && !shared.context.merging.undone().remove(&K::KIND)
            {
                continue;
            }
            let mut tries = 0;
            while let Err(error) = sweep(&shared, &scope).await {
                let delay = backoff(tries, "");
                tries = tries.saturating_add(1);
                tracing::warn!(retry_in = ?delay, "looking for keys of objects that are gone: {}", describe(&error));
                tokio::time::sleep(delay).await;
            }
        }
    });
}

/// The object of a shortened field manager, which does not tell its name, as the API server knows it.
async fn named<K: SyncKind>(
    context: &Context,
    namespace: &str,
    manager: &str,
) -> Result<Option<Dependent>, kube::Error> {
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let all = api.list_metadata(&ListParams::default()).await?.items.into_iter();
    let mut all = all.map(|o| Dependent { kind: K::KIND, namespace: namespace.to_owned(), name: o.name_any() });
    Ok(all.find(|object| merger(object) == manager))
}

/// Takes out the keys of objects that are gone, and of those that have moved on.
async fn sweep<K: SyncKind>(shared: &Shared<K>, scope: &Scope) -> Result<(), kube::Error> {
    let context = &shared.context;
    let api: Api<K::Target> = scope.api(context.client.clone());
    let label = format!("{OWNED_BY_LABEL}={}", merged_label(K::KIND));
    let mut parameters = ListParams::default().labels(&label).limit(PAGE);
    let prefix = format!("{MERGER}{}/", K::KIND.as_str());
    loop {
        let page = api.list_metadata(&parameters).await?;
        for target in page.items {
            let (namespace, name) = (target.namespace().unwrap_or_default(), target.name_any());
            let there = shared.store.state().into_iter().map(|object| dependent(&*object));
            let known: HashMap<String, Dependent> =
                there.filter(|object| object.namespace == namespace).map(|object| (merger(&object), object)).collect();
            for manager in managers(&target.metadata).into_keys().filter(|manager| manager.starts_with(&prefix)) {
                let gone = || Dependent {
                    kind: K::KIND,
                    namespace: namespace.clone(),
                    name: manager[prefix.len()..].to_owned(),
                };
                let object = match known.get(&manager) {
                    Some(object) => object.clone(),
                    None if is_shortened(&manager) => {
                        named::<K>(context, &namespace, &manager).await?.unwrap_or_else(gone)
                    }
                    None => gone(),
                };
                leave(context, &shared.store, &object, &name).await;
            }
        }
        parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if parameters.continue_token.is_none() {
            return Ok(());
        }
    }
}

/// Whether an object's keys may be in a target: it is there, and asks for it, or had them there, or can't be parsed.
fn may_be_in<K: SyncKind>(object: Option<&Guarded<K>>, target: &str) -> bool {
    let Some(object) = object else { return false };
    let targets = targets(object);
    targets.is_empty() || targets.iter().any(|name| name == target)
}

/// Where an object's keys may be: where it asks for, and where they were. None for one that can't be parsed.
pub(super) fn targets<K: SyncKind>(object: &Guarded<K>) -> Vec<String> {
    let Ok(resource) = &object.0 else { return Vec::new() };
    let before = resource.status().and_then(|status| status.target.as_ref()).map(|target| target.name.clone());
    [resource.object().target_name].into_iter().chain(before).collect()
}
