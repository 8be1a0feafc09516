//! Carries wake-ups from sessions and target watches to the controllers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use kube::runtime::reflector::{Lookup, ObjectRef};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior};

use super::Scope;
use super::kind::{ClusterWorkspace, Guarded, Workspace};
use crate::api::{PrefectKV, PrefectSecret};
use crate::sync::object::WorkspaceKey;
use crate::sync::{Dependent, Kind};
use crate::workspace::Wake;

/// From as many on objects are compared with their targets together.
pub(super) const MANY: usize = 50;
/// So many objects are woken at once where there is no hurry, and so often: 200 a second, of which each may write a
/// status. An API server takes a few times that.
const GENTLE: usize = 20;
const GENTLE_EVERY: Duration = Duration::from_millis(100);

/// A channel of names; the controller's queue keeps each name once, so it can't grow beyond the objects.
pub(super) type Woken<K> = UnboundedReceiver<ObjectRef<K>>;

/// The receiving ends of one kind of objects.
pub(super) struct KindWoken<K: Lookup>
where
    K::DynamicType: Default,
{
    /// Objects to reconcile.
    pub each: Woken<K>,
    /// Many that were woken together.
    pub many: UnboundedReceiver<Vec<Dependent>>,
    /// To wake those of the many that have to be reconciled.
    pub back: UnboundedSender<ObjectRef<K>>,
}

/// The receiving ends of one scope.
pub(super) struct Channels {
    pub workspaces: Woken<Workspace>,
    pub secrets: KindWoken<Guarded<PrefectSecret>>,
    pub kvs: KindWoken<Guarded<PrefectKV>>,
}

#[derive(Clone)]
struct KindSenders<K: Lookup + 'static>
where
    K::DynamicType: Clone + std::hash::Hash + Eq,
{
    each: UnboundedSender<ObjectRef<K>>,
    many: UnboundedSender<Vec<Dependent>>,
}

#[derive(Clone)]
struct Senders {
    workspaces: UnboundedSender<ObjectRef<Workspace>>,
    secrets: KindSenders<Guarded<PrefectSecret>>,
    kvs: KindSenders<Guarded<PrefectKV>>,
}

/// The sending ends of all scopes.
pub(super) struct Wakers {
    scopes: Scopes,
    cluster_workspaces: UnboundedSender<ObjectRef<ClusterWorkspace>>,
    gentle: UnboundedSender<Vec<Dependent>>,
}

#[derive(Clone)]
struct Scopes(HashMap<Scope, Senders>);

/// The receiving ends of all scopes.
pub(super) struct AllWoken {
    pub scopes: HashMap<Scope, Channels>,
    pub cluster_workspaces: Woken<ClusterWorkspace>,
}

impl Wakers {
    /// Channels for each scope.
    pub fn new(scopes: &[Scope]) -> (Self, AllWoken) {
        let mut senders = HashMap::new();
        let mut receivers = HashMap::new();
        for scope in scopes {
            let (workspaces, workspaces_woken) = unbounded_channel();
            let (secrets, secrets_woken) = kind_channels();
            let (kvs, kvs_woken) = kind_channels();
            senders.insert(scope.clone(), Senders { workspaces, secrets, kvs });
            let channels = Channels { workspaces: workspaces_woken, secrets: secrets_woken, kvs: kvs_woken };
            receivers.insert(scope.clone(), channels);
        }
        let scopes = Scopes(senders);
        let (gentle, paced) = unbounded_channel();
        let wake_each = scopes.clone();
        tokio::spawn(pace(paced, move |dependent| wake_each.each(dependent)));
        let (cluster_workspaces, cluster_woken) = unbounded_channel();
        let woken = AllWoken { scopes: receivers, cluster_workspaces: cluster_woken };
        (Self { scopes, cluster_workspaces, gentle }, woken)
    }
}

fn kind_channels<K: Lookup>() -> (KindSenders<K>, KindWoken<K>)
where
    K::DynamicType: Default + Clone + std::hash::Hash + Eq,
{
    let (each, each_woken) = unbounded_channel();
    let (many, many_woken) = unbounded_channel();
    let woken = KindWoken { each: each_woken, many: many_woken, back: each.clone() };
    (KindSenders { each, many }, woken)
}

impl Scopes {
    fn of(&self, namespace: &str) -> Option<&Senders> {
        self.0.get(&Scope::Cluster).or_else(|| self.0.get(&Scope::Namespace(namespace.to_owned())))
    }

    fn each(&self, Dependent { kind, namespace, name }: Dependent) {
        let Some(senders) = self.of(&namespace) else { return };
        // A closed channel means that the controller is shutting down.
        let _ = match kind {
            Kind::PrefectSecret => senders.secrets.each.send(ObjectRef::new(&name).within(&namespace)).is_ok(),
            Kind::PrefectKV => senders.kvs.each.send(ObjectRef::new(&name).within(&namespace)).is_ok(),
        };
    }
}

impl Wake for Wakers {
    fn dependents(&self, dependents: Vec<Dependent>) {
        if dependents.len() < MANY {
            dependents.into_iter().for_each(|dependent| self.scopes.each(dependent));
            return;
        }
        let mut many: HashMap<(Kind, String), Vec<Dependent>> = HashMap::new();
        for dependent in dependents {
            many.entry((dependent.kind, dependent.namespace.clone())).or_default().push(dependent);
        }
        for ((kind, namespace), dependents) in many {
            if dependents.len() < MANY {
                dependents.into_iter().for_each(|dependent| self.scopes.each(dependent));
                continue;
            }
            let Some(senders) = self.scopes.of(&namespace) else { continue };
            let _ = match kind {
                Kind::PrefectSecret => senders.secrets.many.send(dependents).is_ok(),
                Kind::PrefectKV => senders.kvs.many.send(dependents).is_ok(),
            };
        }
    }

    fn gently(&self, dependents: Vec<Dependent>) {
        if !dependents.is_empty() {
            let _ = self.gentle.send(dependents);
        }
    }

    fn workspace(&self, key: &WorkspaceKey) {
        if key.is_cluster() {
            let _ = self.cluster_workspaces.send(ObjectRef::new(&key.name));
        } else if let Some(senders) = self.scopes.of(&key.namespace) {
            let _ = senders.workspaces.send(ObjectRef::new(&key.name).within(&key.namespace));
        }
    }
}

/// Wakes a few at a time, each once.
async fn pace(mut woken: UnboundedReceiver<Vec<Dependent>>, wake: impl Fn(Dependent)) {
    let mut queue = VecDeque::new();
    let mut queued = HashSet::new();
    let mut ticks = tokio::time::interval_at(Instant::now(), GENTLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            dependents = woken.recv() => match dependents {
                Some(dependents) => {
                    for dependent in dependents {
                        if queued.insert(dependent.clone()) {
                            queue.push_back(dependent);
                        }
                    }
                }
                None => return,
            },
            _ = ticks.tick(), if !queue.is_empty() => {
                for dependent in queue.drain(..GENTLE.min(queue.len())) {
                    queued.remove(&dependent);
                    wake(dependent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_hurry_objects_are_woken_a_few_at_a_time_and_each_once() {
        let (send, receive) = unbounded_channel();
        let woken: Arc<Mutex<Vec<(Dependent, Duration)>>> = Arc::default();
        let (record, start) = (woken.clone(), Instant::now());
        tokio::spawn(pace(receive, move |dependent| record.lock().unwrap().push((dependent, start.elapsed()))));
        let object = |n: usize| Dependent { kind: Kind::PrefectKV, namespace: "flows".into(), name: n.to_string() };
        send.send((0..1000).map(object).collect()).unwrap();
        send.send((0..1000).map(object).collect()).unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let woken = woken.lock().unwrap();
        assert_eq!(woken.len(), 1000, "each once");
        assert!(woken[GENTLE - 1].1 <= GENTLE_EVERY, "a few are woken at once");
        let last = woken[999].1.as_secs_f64();
        assert!((4.5..=5.5).contains(&last), "1,000 objects at 200 a second took {last} s");
    }
}
