//! Carries wake-ups from sessions and target watches to the controllers.

use std::collections::HashMap;

use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Scope;
use super::kind::{Guarded, Workspace};
use crate::api::{PrefectKV, PrefectSecret};
use crate::sync::object::WorkspaceKey;
use crate::sync::{Dependent, Kind};
use crate::workspace::Wake;

/// A channel of names; the controller's queue keeps each name once, so it can't grow beyond the objects.
pub(super) type Woken<K> = UnboundedReceiver<ObjectRef<K>>;

/// The receiving ends of one scope.
pub(super) struct Channels {
    pub workspaces: Woken<Workspace>,
    pub secrets: Woken<Guarded<PrefectSecret>>,
    pub kvs: Woken<Guarded<PrefectKV>>,
}

struct Senders {
    workspaces: UnboundedSender<ObjectRef<Workspace>>,
    secrets: UnboundedSender<ObjectRef<Guarded<PrefectSecret>>>,
    kvs: UnboundedSender<ObjectRef<Guarded<PrefectKV>>>,
}

/// The sending ends of all scopes.
pub(super) struct Wakers(HashMap<Scope, Senders>);

impl Wakers {
    /// Channels for each scope.
    pub fn new(scopes: &[Scope]) -> (Self, HashMap<Scope, Channels>) {
        let mut senders = HashMap::new();
        let mut receivers = HashMap::new();
        for scope in scopes {
            let (workspaces, workspaces_woken) = unbounded_channel();
            let (secrets, secrets_woken) = unbounded_channel();
            let (kvs, kvs_woken) = unbounded_channel();
            senders.insert(scope.clone(), Senders { workspaces, secrets, kvs });
            let channels = Channels { workspaces: workspaces_woken, secrets: secrets_woken, kvs: kvs_woken };
            receivers.insert(scope.clone(), channels);
        }
        (Self(senders), receivers)
    }

    fn of(&self, namespace: &str) -> Option<&Senders> {
        self.0.get(&Scope::Cluster).or_else(|| self.0.get(&Scope::Namespace(namespace.to_owned())))
    }
}

impl Wake for Wakers {
    fn dependents(&self, dependents: Vec<Dependent>) {
        for Dependent { kind, namespace, name } in dependents {
            let Some(senders) = self.of(&namespace) else { continue };
            // A closed channel means that the controller is shutting down.
            let _ = match kind {
                Kind::PrefectSecret => senders.secrets.send(ObjectRef::new(&name).within(&namespace)).is_ok(),
                Kind::PrefectKV => senders.kvs.send(ObjectRef::new(&name).within(&namespace)).is_ok(),
            };
        }
    }

    fn gently(&self, dependents: Vec<Dependent>) {
        self.dependents(dependents);
    }

    fn workspace(&self, key: &WorkspaceKey) {
        if let Some(senders) = self.of(&key.namespace) {
            let _ = senders.workspaces.send(ObjectRef::new(&key.name).within(&key.namespace));
        }
    }
}
