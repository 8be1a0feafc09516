//! The design's table of absence and failure, row by row, and that a plan carried out asks for nothing more.

use zeroize::Zeroizing;

use super::world::{STALE_AFTER, World, pairs, variable};
use super::*;
use crate::api::Source;
use crate::sync::{Answer, Target};

#[test]
fn a_first_success_creates_the_target_and_says_nothing() {
    let mut world = World::new(&["A", "B"]);
    world.found("A", "\"1\"");
    assert_eq!(world.plan().status, SyncStatus::default(), "B was not read yet: wait");
    world.found("B", "{\"x\":1.50}");
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Create(_)));
    assert!(plan.events.is_empty());
    assert_eq!(world.data(), pairs(&[("A", "1"), ("B", "{\"x\":1.50}")]));
    assert_eq!(world.status.keys.as_deref(), Some("2/2"));
    assert_eq!(world.message(), "2 of 2 keys synced to Secret flows/etl");
}

#[test]
fn an_error_for_any_entry_leaves_the_target_untouched() {
    for policy in [DeletionPolicy::Retain, DeletionPolicy::Delete] {
        let mut world = World::synced(&["A", "B"]);
        world.object.deletion_policy = policy;
        world.found("A", "\"changed\"");
        world.fails("B", false);
        world.settle();
        assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-1")]), "{policy:?}");
        assert_eq!(world.reason(), "PrefectRejected");
        assert!(world.message().ends_with(". Target unchanged since 2027-01-15T08:00:00Z"), "{}", world.message());
    }
}

#[test]
fn a_required_key_that_is_gone_keeps_its_last_value_under_retain_and_the_rest_follows() {
    let mut world = World::synced(&["A", "B"]);
    world.gone("A", true, false);
    world.found("B", "\"B-2\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-2")]));
    assert_eq!(world.reason(), "KeyNotFound");
    assert_eq!(
        world.message(),
        "no variable \"A\" in workspace default; create it in Prefect, or correct remoteRef. Key \"A\" keeps its last value"
    );
    assert_eq!(world.status.keys.as_deref(), Some("1/2"));
}

#[test]
fn a_required_key_that_is_gone_goes_under_delete_and_the_rest_follows_on() {
    let mut world = World::synced(&["A", "B"]);
    world.object.deletion_policy = DeletionPolicy::Delete;
    world.gone("A", false, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-1")]), "not confirmed: it stays");
    world.gone("A", true, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("B", "B-1")]));
    assert!(!world.ready());
    world.found("B", "\"B-2\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("B", "B-2")]), "the rest follows on");
    world.gone("B", true, false);
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Delete { .. }), "the object goes with its last key");
    assert!(world.target.is_none());
    world.found("A", "\"A-3\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-3")]), "what comes back is delivered");
}

#[test]
fn a_required_key_that_was_never_delivered_leaves_the_target_untouched() {
    for policy in [DeletionPolicy::Retain, DeletionPolicy::Delete] {
        let mut world = World::new(&["A", "B"]);
        world.object.deletion_policy = policy;
        world.found("A", "\"1\"");
        world.gone("B", true, false);
        let plan = world.settle();
        assert_eq!(plan.target, TargetAction::Keep, "{policy:?}");
        assert_eq!(plan.events.len(), 1, "a first failure is said");
        assert_eq!(
            world.message(),
            "no variable \"B\" in workspace default; create it in Prefect, or correct remoteRef. The target is not written until this is solved"
        );

        // And with a target that lacks the key.
        let mut world = World::synced(&["A"]);
        world.object.deletion_policy = policy;
        let mut more = World::new(&["A", "B"]).object.entries;
        world.object.entries.append(&mut more.split_off(1));
        world.object.generation = Some(2);
        world.found("A", "\"A-2\"");
        world.gone("B", true, false);
        world.settle();
        assert_eq!(world.data(), pairs(&[("A", "A-1")]), "{policy:?}");
    }
}

#[test]
fn an_optional_key_that_is_gone_goes_once_that_is_confirmed() {
    for policy in [DeletionPolicy::Retain, DeletionPolicy::Delete] {
        let mut world = World::synced(&["A", "B"]);
        world.object.deletion_policy = policy;
        world.object.entries[0].optional = true;
        world.gone("A", false, false);
        world.settle();
        assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-1")]), "not confirmed: it stays");
        assert!(world.ready());
        world.gone("A", true, false);
        world.settle();
        assert_eq!(world.data(), pairs(&[("B", "B-1")]));
        assert!(world.ready());
    }
}

#[test]
fn a_default_stands_in_at_once_where_nothing_shrinks_and_after_confirmation_elsewhere() {
    let mut world = World::new(&["A"]);
    world.object.entries[0].default = Some("fallback".into());
    world.gone("A", false, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "fallback")]), "never delivered: one answer is enough");
    assert_eq!(world.status.entries[0].source, Some(Source::Default));

    let mut world = World::synced(&["A"]);
    world.object.entries[0].default = Some("fallback".into());
    world.gone("A", false, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1")]));
    world.gone("A", true, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "fallback")]));
    assert!(world.ready());
}

#[test]
fn a_default_never_stands_in_for_an_error() {
    let mut world = World::new(&["A"]);
    world.object.entries[0].default = Some("fallback".into());
    world.fails("A", false);
    let plan = world.settle();
    assert_eq!(plan.target, TargetAction::Keep);
    assert!(world.target.is_none());
}

#[test]
fn nothing_shrinks_while_most_keys_vanished_together() {
    let mut world = World::synced(&["A", "B"]);
    world.object.deletion_policy = DeletionPolicy::Delete;
    world.object.entries[0].optional = true;
    world.object.entries[1].default = Some("fallback".into());
    world.gone("A", true, true);
    world.gone("B", true, true);
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-1")]));
    assert_eq!(world.reason(), "KeysVanished");
}

#[test]
fn an_outage_leaves_the_object_ready_until_it_is_stale() {
    let mut world = World::synced(&["A", "B"]);
    let before = world.status.clone();
    world.fails("A", true);
    world.fails("B", true);
    let plan = world.settle();
    assert_eq!(world.status, before, "no status is written because of an outage");
    assert!(plan.requeue_after.is_some_and(|after| after >= STALE_AFTER && after <= STALE_AFTER * 2));
    world.now = 2000;
    let plan = world.settle();
    assert_eq!(world.reason(), "PrefectUnreachable");
    assert_eq!(world.message(), "cannot reach prefect. Target unchanged since 2027-01-15T08:00:00Z");
    assert_eq!(plan.events.len(), 1);
    world.found("A", "\"A-1\"");
    world.found("B", "\"B-1\"");
    let plan = world.settle();
    assert!(world.ready());
    assert!(world.status.failing_since.is_none());
    assert_eq!(plan.target, TargetAction::Keep);
    assert!(!plan.events[0].warning, "recovery is said");
}

#[test]
fn a_target_deleted_during_an_outage_comes_back_from_one_snapshot_only() {
    let mut world = World::synced(&["A", "B"]);
    world.fails("A", true);
    world.fails("B", true);
    world.target = None;
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-1")]));

    // A was refreshed after B: together they never were.
    let mut world = World::synced(&["A", "B"]);
    world.found("A", "\"A-2\"");
    world.readings.get_mut(&variable("A")).unwrap().passes = (2, 2);
    world.fails("A", true);
    world.fails("B", true);
    world.target = None;
    let plan = world.step();
    assert_eq!(plan.target, TargetAction::Keep);
}

#[test]
fn a_foreign_target_is_refused_unless_it_accepts_us() {
    let mut world = World::new(&["A"]);
    world.found("A", "\"1\"");
    let data = BTreeMap::from([("theirs".to_owned(), Zeroizing::new(b"x".to_vec()))]);
    world.target =
        Some(Target { name: "etl".into(), uid: "t".into(), data, r#type: Some("Opaque".into()), ..Target::default() });
    let plan = world.settle();
    assert_eq!(plan.target, TargetAction::Keep);
    assert_eq!(
        world.message(),
        "Secret flows/etl exists and belongs to someone else; choose spec.target.name, or let it accept this object: kubectl annotate --overwrite secret etl -n flows prefect-sync.dev/accepts=PrefectSecret/etl"
    );
    let accepts = crate::api::ACCEPTS_ANNOTATION.to_owned();
    world.target.as_mut().unwrap().annotations.insert(accepts, "PrefectSecret/etl".into());
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "1")]));
    assert!(world.ready());
}

#[test]
fn a_target_that_only_accepts_us_is_not_deleted_for_holding_nothing_of_ours() {
    let mut world = World::new(&["A"]);
    world.object.deletion_policy = DeletionPolicy::Delete;
    world.object.entries[0].optional = true;
    world.gone("A", true, false);
    let data = BTreeMap::from([("theirs".to_owned(), Zeroizing::new(b"x".to_vec()))]);
    let annotations = BTreeMap::from([(crate::api::ACCEPTS_ANNOTATION.to_owned(), "PrefectSecret/etl".to_owned())]);
    world.target = Some(Target { name: "etl".into(), uid: "t".into(), data, annotations, ..Target::default() });
    let plan = world.settle();
    assert_eq!(plan.target, TargetAction::Keep);
    assert_eq!(world.data(), pairs(&[("theirs", "x")]));
}

#[test]
fn a_target_that_is_being_deleted_is_waited_for() {
    let mut world = World::synced(&["A"]);
    world.found("A", "\"A-2\"");
    world.target.as_mut().unwrap().deleting = true;
    let plan = world.settle();
    assert_eq!(plan.target, TargetAction::Keep);
    assert_eq!(plan.requeue_after, Some(DELETING_RETRY));
    assert_eq!(world.reason(), "Progressing");
    world.target = None;
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-2")]));
}

#[test]
fn a_target_that_alone_holds_a_value_is_not_replaced() {
    let mut world = World::synced(&["A", "B"]);
    world.gone("A", true, false);
    world.settle();
    world.object.target_type = Some("example.com/custom".into());
    let plan = world.settle();
    assert_eq!(plan.target, TargetAction::Keep);
    assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-1")]));
    world.found("A", "\"A-3\"");
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Recreate { .. }));
}

#[test]
fn a_key_that_was_removed_is_remembered_through_an_outage() {
    let mut world = World::synced(&["A", "B"]);
    world.object.deletion_policy = DeletionPolicy::Delete;
    world.gone("A", true, false);
    world.settle();
    world.now = 5000;
    world.fails("A", true);
    world.fails("B", true);
    world.settle();
    assert_eq!(world.reason(), "PrefectUnreachable");
    world.gone("A", false, false);
    world.found("B", "\"B-2\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("B", "B-2")]), "the rest follows on");
}

#[test]
fn a_default_that_stands_in_through_an_outage_does_not_count_as_delivered() {
    let mut world = World::new(&["A"]);
    world.object.entries[0].default = Some("fallback".into());
    world.gone("A", false, false);
    world.settle();
    world.fails("A", true);
    world.now = 5000;
    world.settle();
    assert_eq!(world.status.entries[0].state, EntryState::Retained);
    assert!(!crate::sync::absence::is_delivered(&world.status.entries[0]));
}

#[test]
fn a_key_that_another_one_blocks_from_going_is_still_there() {
    let mut world = World::synced(&["A", "B"]);
    world.object.deletion_policy = DeletionPolicy::Delete;
    world.gone("A", true, false);
    world.fails("B", false);
    world.settle();
    assert_eq!(world.status.entries[0].state, EntryState::Retained);
    assert!(world.data().contains_key("A"));
}

#[test]
fn a_workspace_that_comes_with_its_objects_is_not_missed_at_once() {
    let mut world = World::new(&["A"]);
    let plan = |world: &World| world.plan_with(WorkspaceView::Missing { others: &[], has_cluster: false });
    let waiting = plan(&world);
    assert_eq!((waiting.status, waiting.events.len()), (SyncStatus::default(), 0));
    assert_eq!(waiting.requeue_after, Some(NEIGHBOURS));
    world.now = 2;
    assert_eq!(plan(&world).events[0].reason, Reason::WorkspaceNotFound);
    // One that had a workspace misses it at once.
    world.now = 1;
    world.found("A", "\"1\"");
    world.settle();
    assert_eq!(plan(&world).events[0].reason, Reason::WorkspaceNotFound);
}

#[test]
fn a_new_object_that_waits_says_so_after_a_while() {
    let mut world = World::new(&["A"]);
    let plan = world.settle();
    assert_eq!(plan.requeue_after, Some(SILENCE));
    assert!(world.status.conditions.is_empty());
    world.now = 10;
    world.started = 4;
    assert_eq!(world.settle().requeue_after, Some(Duration::from_secs(4)), "to a new process it is new as well");
    world.now = 14;
    world.settle();
    assert_eq!(world.reason(), "Progressing");
    world.found("A", "\"1\"");
    assert!(world.settle().events.is_empty(), "it is still an ordinary first success");
    assert!(world.ready());
}

#[test]
fn a_recreated_object_finds_its_own_target_again() {
    let mut world = World::synced(&["A"]);
    world.object.uid = "uid-2".into();
    world.status = SyncStatus::default();
    world.written = None;
    world.settle();
    assert!(world.ready());
    let owners = &world.target.as_ref().unwrap().owners;
    assert_eq!(owners.len(), 1);
    assert_eq!(owners[0].uid, "uid-2");
}

#[test]
fn drift_is_repaired_and_said() {
    let mut world = World::synced(&["A"]);
    let target = world.target.as_mut().unwrap();
    target.data.insert("added".into(), Zeroizing::new(b"x".to_vec()));
    target.resource_version = "99".into();
    let plan = world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1")]));
    assert_eq!(plan.events[0].reason, Reason::DriftRepaired);
    world.target = None;
    let plan = world.settle();
    assert_eq!(plan.events[0].reason, Reason::DriftRepaired);
    assert_eq!(world.data(), pairs(&[("A", "A-1")]));
}

#[test]
fn labels_that_others_put_on_the_target_stay_and_those_taken_out_of_the_template_go() {
    let mut world = World::synced(&["A"]);
    world.object.template.labels.insert("team".into(), "data".into());
    world.settle();
    world.target.as_mut().unwrap().labels.insert("theirs".into(), "x".into());
    world.settle();
    world.object.template.labels.clear();
    world.settle();
    let labels = &world.target.as_ref().unwrap().labels;
    assert!(labels.contains_key("theirs"));
    assert!(!labels.contains_key("team"));
}

#[test]
fn a_renamed_target_is_written_before_the_old_one_goes() {
    let mut world = World::synced(&["A"]);
    world.object.target_name = "new".into();
    world.object.generation = Some(2);
    world.old_target = world.target.take();
    world.written = None;
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Create(_)));
    assert_eq!(plan.remove.unwrap().name(), "etl");
    assert_eq!(world.status.target.as_ref().unwrap().name, "new");
}

#[test]
fn a_changed_type_replaces_the_target() {
    let mut world = World::synced(&["A"]);
    world.object.target_type = Some("example.com/custom".into());
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Recreate { .. }));
    assert_eq!(plan.events[0].reason, Reason::TargetReplaced);
}

#[test]
fn values_over_one_mebibyte_are_refused() {
    let mut world = World::synced(&["A"]);
    world.found("A", &format!("\"{}\"", "x".repeat(MAX_TARGET_BYTES + 1)));
    world.settle();
    assert_eq!(world.reason(), "TargetTooLarge");
    assert_eq!(world.data(), pairs(&[("A", "A-1")]));
}

#[test]
fn a_suspended_object_is_left_alone_and_stays_as_ready_as_it_was() {
    let mut world = World::synced(&["A"]);
    world.object.suspend = true;
    world.target = None;
    let plan = world.settle();
    assert_eq!(plan.target, TargetAction::Keep);
    assert!(world.ready());
    assert_eq!(world.reason(), "Suspended");
}

#[test]
fn no_debug_output_shows_a_value() {
    let mut world = World::new(&["A"]);
    world.found("A", "\"canary-5a1c\"");
    let plan = world.settle();
    let shown = format!("{plan:?} {:?} {:?} {:?}", world.readings, world.target, world.status);
    assert!(!shown.contains("canary-5a1c"), "{shown}");
}

proptest::proptest! {
    /// Whatever happens in whatever order, a plan carried out asks for nothing more, and a failure or an
    /// unconfirmed absence never removes a key that the target holds.
    #[test]
    fn planning_again_asks_for_nothing_and_failure_never_destroys(
        events in proptest::collection::vec((0_usize..3, 0_u8..6), 1..40),
        delete in proptest::bool::ANY,
        optional in proptest::bool::ANY,
    ) {
        let keys = ["A", "B", "C"];
        let mut world = World::new(&keys);
        if delete { world.object.deletion_policy = DeletionPolicy::Delete; }
        world.object.entries[0].optional = optional;
        world.object.entries[1].default = Some("fallback".into());
        for key in keys { world.found(key, "\"first\""); }
        world.settle();
        for (which, what) in events {
            world.now += 100;
            let key = keys[which];
            let confirmed = what == 4;
            match what {
                0 | 1 => world.found(key, &format!("\"{}\"", world.now)),
                2 => world.fails(key, false),
                3 => world.gone(key, false, false),
                4 => world.gone(key, true, false),
                _ => world.gone(key, true, true),
            }
            let before = world.data();
            world.settle();
            let any_confirmed = world.readings.values().any(|r| {
                matches!(&r.answer, Some(Answer::Absent(a)) if a.confirmed && !a.held.everywhere)
            });
            if !confirmed && !any_confirmed {
                for key in before.keys() {
                    assert!(world.data().contains_key(key), "{key} was lost");
                }
            }
        }
    }
}

#[test]
fn a_target_is_only_read_where_the_plan_depends_on_it() {
    let mut world = World::synced(&["A", "B"]);
    assert!(depends_on_target(&world.observed(WorkspaceView::Usable)));
    assert!(!depends_on_target(&world.observed(WorkspaceView::Pending)));
    world.readings.remove(&variable("B"));
    assert!(!depends_on_target(&world.observed(WorkspaceView::Usable)), "B is not known yet");
    world.plan();
    world.fails("A", true);
    assert!(depends_on_target(&world.observed(WorkspaceView::Usable)), "what is kept is to be said");
    world.object.suspend = true;
    assert!(!depends_on_target(&world.observed(WorkspaceView::Usable)));
    world.plan();
}
