//! Which workspace an object uses, and what that changes.

use super::world::{World, variable};
use super::*;
use crate::api::EntryState;
use crate::sync::Access;
use crate::sync::object::WorkspaceKey;

#[test]
fn an_object_that_names_no_workspace_uses_the_clusters_default_where_its_namespace_has_none() {
    let own = WorkspaceKey::namespaced("flows", "default");
    let cluster = WorkspaceKey::cluster("default");
    let resolved = |there: &[&WorkspaceKey], names_none: bool| {
        let object = Object { names_no_workspace: names_none, ..World::new(&["A"]).object };
        object.with_default_workspace(|key| there.contains(&key)).workspace
    };
    assert_eq!(resolved(&[&own, &cluster], true), own);
    assert_eq!(resolved(&[&cluster], true), cluster);
    assert_eq!(resolved(&[], true), own, "its message names the nearer one first");
    assert_eq!(resolved(&[&cluster], false), own, "who names one means that one");
}

#[test]
fn another_workspace_is_an_event_and_removes_nothing_by_itself() {
    let mut world = World::synced(&["A", "B"]);
    world.object.workspace = WorkspaceKey::cluster("default");
    world.object.entries[1].optional = true;
    // Nothing is known of the other one yet.
    world.readings.clear();
    let waiting = world.plan();
    assert_eq!((waiting.target, waiting.events.len()), (TargetAction::Keep, 0));
    world.found("A", "\"1\"");
    world.gone("B", false, false);
    let plan = world.step();
    let told: Vec<&str> = plan.events.iter().map(|event| event.note.as_str()).collect();
    assert_eq!(
        told,
        [
            r#"ClusterPrefectWorkspace "default" is read now, and no longer PrefectWorkspace "default"; what it lacks is removed only once it confirms that"#
        ]
    );
    assert!(world.data().contains_key("B"));
    assert!(world.step().events.is_empty(), "said once");
    world.gone("B", true, false);
    world.settle();
    assert!(!world.data().contains_key("B"));
}

#[test]
fn a_new_object_gives_a_workspace_of_its_own_namespace_a_moment_to_come() {
    let mut world = World::new(&["A"]);
    world.object.workspace = WorkspaceKey::cluster("default");
    world.found("A", "\"1\"");
    assert_eq!(world.plan().requeue_after, Some(NEIGHBOURS));
    assert_eq!(world.plan().target, TargetAction::Keep);
    world.now = 2;
    assert!(matches!(world.plan().target, TargetAction::Create(_)));
    world.now = 0;
    world.object.names_no_workspace = false;
    assert!(matches!(world.plan().target, TargetAction::Create(_)), "who names it need not wait");
}

#[test]
fn a_key_that_is_not_allowed_leaves_the_target_untouched_in_the_same_words_whatever_it_is() {
    let mut world = World::synced(&["A", "B"]);
    world.found("A", "\"2\"");
    let refused = Access::nothing().refused(&variable("B"), Timestamp::UNIX_EPOCH);
    world.readings.insert(variable("B"), refused);
    world.settle();
    assert_eq!(world.data()["A"], "A-1", "all of it or none");
    assert_eq!(world.reason(), "NotAllowed");
    let [a, b] = [0, 1].map(|n| &world.status.entries[n]);
    assert_eq!((a.state, a.reason.as_deref()), (EntryState::Retained, None));
    assert_eq!((b.state, b.reason.as_deref()), (EntryState::Retained, Some("NotAllowed")));
    // One that never was delivered is told so at once, also while nothing else has been read.
    let mut world = World::new(&["A", "B"]);
    let refused = Access::nothing().refused(&variable("B"), Timestamp::UNIX_EPOCH);
    world.readings.insert(variable("B"), refused);
    world.settle();
    assert_eq!((world.reason(), world.status.entries[1].state), ("NotAllowed", EntryState::Failed));
}

#[test]
fn where_cluster_workspaces_are_off_or_missing_the_object_says_so() {
    let mut world = World::synced(&["A"]);
    world.object.workspace = WorkspaceKey::cluster("prod");
    world.object.names_no_workspace = false;
    let message =
        |world: &World, view| conditions::ready(&world.plan_with(view).status.conditions).unwrap().message.clone();
    let off = message(&world, WorkspaceView::Off { why: "it is not read: why" });
    assert!(off.starts_with("it is not read: why. Target unchanged since "), "{off}");
    let others = ["prof".to_owned()];
    let missing = message(&world, WorkspaceView::Missing { others: &others, has_cluster: true });
    assert!(missing.starts_with("no ClusterPrefectWorkspace \"prod\"; did you mean \"prof\"?"), "{missing}");
    world.object.workspace = WorkspaceKey::namespaced("flows", "default");
    world.object.names_no_workspace = true;
    let neither = message(&world, WorkspaceView::Missing { others: &[], has_cluster: true });
    let expected = "no PrefectWorkspace \"default\" in \"flows\" and no ClusterPrefectWorkspace \"default\"; create one or set spec.workspaceRef.";
    assert!(neither.starts_with(expected), "{neither}");
}

#[test]
fn an_event_that_others_may_read_says_the_reason_only() {
    let event =
        |warning| PlannedEvent { warning, reason: Reason::CredentialsRefused, note: "Secret platform/key".into() };
    let told = crate::sync::workspace::in_public(event(true), "prod").unwrap();
    assert_eq!(
        told.note,
        r#"ClusterPrefectWorkspace "prod" can't be read (CredentialsRefused); its own status tells those who run it why"#
    );
    assert_eq!(crate::sync::workspace::in_public(event(false), "prod"), None, "that all is well is no news to them");
}
