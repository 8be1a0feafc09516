use std::sync::Mutex as StdMutex;

use super::*;
use crate::api::{AccessRule, PrefectKV, SyncStatus};
use crate::sync::Reason;
use crate::sync::access::Labels;

/// Remembers whom it was to wake.
#[derive(Default)]
struct Woken(StdMutex<Vec<String>>);

impl Woken {
    fn take(&self) -> Vec<String> {
        let mut woken = std::mem::take(&mut *self.0.lock().unwrap());
        woken.sort();
        woken.dedup();
        woken
    }
}

impl Wake for Woken {
    fn dependents(&self, dependents: Vec<Dependent>) {
        self.0.lock().unwrap().extend(dependents.iter().map(ToString::to_string));
    }

    fn gently(&self, dependents: Vec<Dependent>) {
        self.dependents(dependents);
    }

    fn workspace(&self, key: &WorkspaceKey) {
        self.0.lock().unwrap().push(key.to_string());
    }
}

fn registry() -> (Workspaces, Arc<Woken>) {
    let woken = Arc::new(Woken::default());
    (Workspaces::new(woken.clone(), Pulses::default()), woken)
}

/// A PrefectKV of a namespace that asks for this variable through the ClusterPrefectWorkspace `prod`.
fn asking(namespace: &str, variable: &str) -> Object {
    let kv: PrefectKV = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "etl", "namespace": namespace},
        "spec": {
            "workspaceRef": {"kind": "ClusterPrefectWorkspace", "name": "prod"},
            "data": [{"configMapKey": "K", "remoteRef": {"key": variable}}],
        },
    }))
    .unwrap();
    Object::from(&kv)
}

fn rules(namespaces: &[&str], keys: &[&str]) -> Vec<AccessRule> {
    let text = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    vec![AccessRule { namespaces: text(namespaces), keys: text(keys), ..AccessRule::default() }]
}

/// What an object is told of its key: a reason, or that it waits.
fn told(workspaces: &Workspaces, object: &Object) -> Option<Reason> {
    let seen = workspaces.observe(object, &SyncStatus::default());
    let failure = seen.unusable.or_else(|| seen.readings.into_values().next()?.failure);
    failure.map(|failure| failure.reason)
}

fn usable() -> Setup {
    Setup::Usable { reader: Box::new(Reader::default()), interval: Duration::from_secs(600) }
}

fn situation<'a>(fingerprint: &'a str, parent: Option<&'a str>) -> Situation<'a> {
    Situation { fingerprint, stale_after: Duration::ZERO, parent, reads_parent: parent.is_some() }
}

fn two_namespaces(workspaces: &Workspaces) {
    workspaces.set_namespaces(["a", "b"].map(|name| (name.to_owned(), Labels::new())).into());
}

#[tokio::test(start_paused = true)]
async fn who_may_read_nothing_hears_that_the_workspace_can_be_used() {
    let (workspaces, woken) = registry();
    let prod = WorkspaceKey::cluster("prod");
    two_namespaces(&workspaces);
    workspaces.set_rules("prod", Some((&rules(&["a"], &["*"]), "one")));
    let failure = |reason| Failure { reason, message: "why".into(), since: Timestamp::now(), workspace_wide: true };
    workspaces.set(&prod, situation("one 1", None), Setup::Unusable(failure(Reason::CredentialsNotFound)));
    let (mine, theirs) = (asking("a", "x"), asking("b", "x"));
    assert_eq!(told(&workspaces, &theirs), Some(Reason::CredentialsNotFound));
    assert_eq!(told(&workspaces, &mine), Some(Reason::CredentialsNotFound));
    woken.take();
    workspaces.set(&prod, situation("one 2", None), usable());
    // It has no key that a first reading would wake it for.
    assert!(woken.take().contains(&theirs.id.to_string()));
    assert_eq!(told(&workspaces, &theirs), Some(Reason::NotAllowed));
}

#[tokio::test(start_paused = true)]
async fn other_rules_do_not_open_what_was_read_in_another_state_of_the_workspace() {
    let (workspaces, woken) = registry();
    let (prod, child) = (WorkspaceKey::cluster("prod"), WorkspaceKey::namespaced("b", "default"));
    two_namespaces(&workspaces);
    workspaces.set_rules("prod", Some((&rules(&["a"], &["*"]), "one")));
    workspaces.set(&prod, situation("one 1", None), usable());
    workspaces.set(&child, situation("child over one 1", Some("prod")), usable());
    let (mine, theirs) = (asking("a", "x"), asking("b", "x"));
    let _ = workspaces.observe(&mine, &SyncStatus::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let is_read = |object: &Object| {
        let seen = workspaces.observe(object, &SyncStatus::default());
        seen.usable && seen.readings.values().any(|reading| reading.answer.is_some())
    };
    assert!(is_read(&mine));
    assert_eq!(told(&workspaces, &theirs), Some(Reason::NotAllowed));
    woken.take();
    // One edit brings another address and allows everybody: what was read at the old one is not theirs.
    workspaces.set_rules("prod", Some((&rules(&["a", "b"], &["*"]), "two")));
    let concerned = woken.take();
    assert!(concerned.contains(&theirs.id.to_string()) && concerned.contains(&child.to_string()), "{concerned:?}");
    assert!(!is_read(&theirs) && !is_read(&mine));
    assert!(workspaces.states().is_empty(), "its session has ended, and its child's");
    workspaces.set(&prod, situation("two 1", None), usable());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(is_read(&theirs) && is_read(&mine));
    // The same edit without another address keeps the session.
    workspaces.set_rules("prod", Some((&rules(&["b"], &["*"]), "two")));
    assert!(is_read(&theirs));
    assert_eq!(told(&workspaces, &mine), Some(Reason::NotAllowed));
}

#[tokio::test(start_paused = true)]
async fn a_workspace_that_is_recreated_is_asked_only_for_what_its_own_rules_allow() {
    let (workspaces, _) = registry();
    let prod = WorkspaceKey::cluster("prod");
    two_namespaces(&workspaces);
    workspaces.set_rules("prod", Some((&rules(&["a"], &["*"]), "one")));
    workspaces.set(&prod, situation("one 1", None), usable());
    let mine = asking("a", "x");
    let _ = workspaces.observe(&mine, &SyncStatus::default());
    workspaces.set_rules("prod", None);
    workspaces.remove(&prod);
    workspaces.set_rules("prod", Some((&rules(&["b"], &["*"]), "two")));
    workspaces.set(&prod, situation("two 1", None), usable());
    let unread = workspaces.lock().slots[&prod].snapshot.unread().len();
    assert_eq!(unread, 0, "it has not said yet what it asks for now");
    assert_eq!(told(&workspaces, &mine), Some(Reason::NotAllowed));
}

#[tokio::test(start_paused = true)]
async fn a_session_shows_that_it_lives_and_how_old_its_snapshot_is_until_it_is_gone() {
    let pulses = Pulses::default();
    let workspaces = Workspaces::new(Arc::new(Woken::default()), pulses.clone());
    let key = WorkspaceKey::namespaced("flows", "default");
    let reader = Box::new(Reader::default());
    let interval = Duration::from_secs(600);
    let situation = situation("1", None);
    workspaces.set(&key, situation, Setup::Usable { reader, interval });
    // Longer than the loop may stand still, and much longer than it has anything to do.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(pulses.stalled(), []);
        let age = workspaces.states()[0].age;
        assert!(age <= interval, "{age:?}");
    }
    assert!(matches!(workspaces.health(&key), Health::Well { .. }));
    workspaces.remove(&key);
    tokio::time::sleep(session::STALLED * 2).await;
    assert_eq!(pulses.stalled(), [], "what is gone is missed by nobody");
    assert_eq!(workspaces.states(), []);
}

#[tokio::test(start_paused = true)]
async fn what_was_gathered_of_a_state_that_is_past_starts_no_session() {
    let (workspaces, woken) = registry();
    let prod = WorkspaceKey::cluster("prod");
    two_namespaces(&workspaces);
    workspaces.set_rules("prod", Some((&rules(&["a"], &["*"]), "two")));
    woken.take();
    workspaces.set(&prod, situation("one 1", None), usable());
    assert!(workspaces.states().is_empty());
    assert_eq!(woken.take(), [prod.to_string()], "it is gathered anew");
    workspaces.set(&prod, situation("two 1", None), usable());
    assert_eq!(workspaces.states().len(), 1);
    workspaces.set_rules("prod", None);
    workspaces.remove(&prod);
    workspaces.set(&prod, situation("two 1", None), usable());
    assert!(workspaces.states().is_empty(), "it is gone");
}

#[tokio::test(start_paused = true)]
async fn a_session_without_its_parent_says_nothing_of_what_the_rules_give_by_now() {
    let (workspaces, woken) = registry();
    let child = WorkspaceKey::namespaced("b", "default");
    two_namespaces(&workspaces);
    workspaces.set_rules("prod", Some((&rules(&["a"], &["*"]), "one")));
    let alone = Situation { reads_parent: false, ..situation("child under one", Some("prod")) };
    workspaces.set(&child, alone, usable());
    let mut object = asking("b", "x");
    object.workspace = child.clone();
    assert_eq!(told(&workspaces, &object), Some(Reason::NotAllowed));
    woken.take();
    workspaces.set_rules("prod", Some((&rules(&["a", "b"], &["*"]), "one")));
    let woken_then = woken.take();
    assert!(woken_then.contains(&child.to_string()) && woken_then.contains(&object.id.to_string()), "{woken_then:?}");
    let seen = workspaces.observe(&object, &SyncStatus::default());
    assert!(!seen.usable && seen.readings.is_empty(), "it waits for the session that reads the parent");
    // Also where that came about while the other was gathered.
    workspaces.set(&child, Situation { fingerprint: "child 2 under one", ..alone }, usable());
    assert!(woken.take().contains(&child.to_string()));
    workspaces.set(&child, situation("child over one", Some("prod")), usable());
    assert!(workspaces.observe(&object, &SyncStatus::default()).usable);
}
