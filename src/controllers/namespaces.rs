//! Watches the namespaces' labels: they say who may use a ClusterPrefectWorkspace.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Event, watcher};
use kube::{Api, ResourceExt as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::watching::{self, Failures, Patience};
use super::workspaces::wake_without_default;

/// Starts the watch. What it returns is cancelled when they have been listed once.
pub(super) fn spawn(
    tasks: &mut JoinSet<()>,
    context: &Arc<Context>,
    shutdown: &CancellationToken,
) -> CancellationToken {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(context.client.clone());
    let (context, shutdown) = (context.clone(), shutdown.clone());
    let listed = CancellationToken::new();
    let filled = listed.clone();
    tasks.spawn(async move {
        let events = watcher(api, watching::config()).backoff(Patience::default());
        let mut events = std::pin::pin!(events.take_until(shutdown.cancelled_owned()));
        let mut list = BTreeMap::new();
        let mut failures = Failures::default();
        loop {
            match events.try_next().await {
                Ok(Some(Event::Init)) => list.clear(),
                Ok(Some(Event::InitApply(namespace))) => {
                    list.insert(namespace.name_any(), namespace.labels().clone());
                }
                Ok(Some(Event::InitDone)) => {
                    context.workspaces.set_namespaces(std::mem::take(&mut list));
                    filled.cancel();
                    // Also those that were told that none is read.
                    context.workspaces.wake_users(|_, key| key.is_cluster());
                    wake_without_default(&context.workspaces);
                }
                Ok(Some(Event::Apply(namespace))) => {
                    context.workspaces.set_namespace(&namespace.name_any(), Some(namespace.labels().clone()));
                }
                Ok(Some(Event::Delete(namespace))) => context.workspaces.set_namespace(&namespace.name_any(), None),
                Ok(None) => return,
                Err(error) => failures.say(&error),
            }
        }
    });
    listed
}
