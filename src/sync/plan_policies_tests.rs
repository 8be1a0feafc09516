//! Whose the target is, and what restarts because of it.

use std::collections::{BTreeMap, BTreeSet};

use zeroize::Zeroizing;

use super::world::{World, pairs};
use super::*;
use crate::api::{ACCEPTS_ANNOTATION, CreationPolicy, WorkloadKind};
use crate::sync::Target;
use crate::sync::restart::{Restart, Rolled};
use crate::sync::target::merger;

/// A target of someone else's with these keys.
fn foreign(keys: &[&str], accepts: &str) -> Target {
    let data: Data = keys.iter().map(|key| ((*key).to_owned(), Zeroizing::new(b"theirs".to_vec()))).collect();
    Target {
        name: "etl".into(),
        uid: "t0".into(),
        resource_version: "1".into(),
        r#type: Some("Opaque".into()),
        annotations: BTreeMap::from([(ACCEPTS_ANNOTATION.to_owned(), accepts.to_owned())]),
        managers: BTreeMap::from([("kubectl".to_owned(), data.keys().cloned().collect())]),
        data,
        ..Target::default()
    }
}

fn merging(keys: &[&str], target: Option<Target>) -> World {
    let mut world = World::new(keys);
    world.object.creation_policy = CreationPolicy::Merge;
    for key in keys {
        world.found(key, &format!("\"{key}-1\""));
    }
    world.target = target;
    world
}

#[test]
fn keys_are_merged_only_where_the_target_accepts_them() {
    let mut world = merging(&["A"], None);
    world.settle();
    assert_eq!(world.reason(), "TargetNotFound");
    assert!(world.target.is_none());

    world.target = Some(foreign(&["THEIRS"], "PrefectSecret/other"));
    world.settle();
    assert_eq!(world.reason(), "TargetConflict");
    assert!(
        world.message().ends_with(
            "kubectl annotate --overwrite secret etl -n flows prefect-sync.dev/accepts=PrefectSecret/other,PrefectSecret/etl"
        ),
        "{}",
        world.message()
    );

    world.target = Some(foreign(&["THEIRS"], "PrefectSecret/other, PrefectSecret/etl"));
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1"), ("THEIRS", "theirs")]));
    assert!(world.ready());
}

#[test]
fn a_key_of_someone_elses_is_never_taken_not_even_with_the_same_value() {
    let mut world = merging(&["A", "B"], Some(foreign(&["A"], "PrefectSecret/etl")));
    world.found("A", "\"theirs\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "theirs")]), "B is not written either: it is one snapshot");
    assert_eq!(world.reason(), "TargetConflict");
    assert_eq!(
        world.message(),
        "Secret flows/etl has keys of others that this object would write: A of kubectl; give them other names, or remove them there"
    );
}

#[test]
fn an_edit_of_our_key_is_reported_and_a_removal_repaired() {
    let mut world = merging(&["A", "B"], Some(foreign(&["THEIRS"], "PrefectSecret/etl")));
    world.settle();
    let target = world.target.as_mut().unwrap();
    target.data.insert("A".into(), Zeroizing::new(b"edited".to_vec()));
    target.managers.get_mut(&merger(&world.object.id)).unwrap().remove("A");
    target.managers.get_mut("kubectl").unwrap().insert("A".into());
    world.settle();
    assert_eq!(world.reason(), "TargetConflict");
    assert_eq!(world.data()["A"], "edited");
    let target = world.target.as_mut().unwrap();
    target.data.remove("A");
    target.managers.get_mut("kubectl").unwrap().remove("A");
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-1"), ("THEIRS", "theirs")]));
    assert!(world.ready());
}

#[test]
fn what_is_gone_leaves_a_merged_target_and_the_target_stays() {
    let mut world = merging(&["A"], Some(foreign(&["THEIRS"], "PrefectSecret/etl")));
    world.object.deletion_policy = DeletionPolicy::Delete;
    world.settle();
    world.gone("A", true, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("THEIRS", "theirs")]));
}

#[test]
fn another_target_is_left_before_the_object_settles_there() {
    let mut world = merging(&["A"], Some(foreign(&["THEIRS"], "PrefectSecret/etl")));
    world.settle();
    world.old_target = world.target.take();
    world.object.target_name = "new".into();
    world.object.creation_policy = CreationPolicy::Owner;
    let plan = world.step();
    assert!(
        matches!(&plan.remove, Some(Removal::Leave(manifest, _)) if manifest.name == "etl" && manifest.data.is_empty())
    );
    assert!(matches!(plan.target, TargetAction::Create(_)));
}

#[test]
fn two_objects_of_ours_never_share_a_target_that_one_owns() {
    let mut second = merging(&["B"], World::synced(&["A"]).target);
    second.object.uid = "uid-2".into();
    second.object.id.name = "second".into();
    second.target.as_mut().unwrap().annotations.insert(ACCEPTS_ANNOTATION.into(), "PrefectSecret/second".into());
    second.settle();
    assert_eq!(second.reason(), "TargetConflict");
    assert_eq!(second.data(), pairs(&[("A", "A-1")]), "B is not put into what another one owns");
    assert_eq!(
        second.message(),
        "Secret flows/etl belongs to PrefectSecret/etl as a whole, so no keys can be merged into it; choose another spec.target.name, or delete it and create one that accepts this object"
    );
}

#[test]
fn of_two_objects_that_a_target_accepts_the_first_one_keeps_it() {
    let mut first = World::new(&["A"]);
    first.found("A", "\"A-1\"");
    first.target = Some(foreign(&["THEIRS"], "PrefectSecret/etl,PrefectSecret/second"));
    first.settle();
    assert!(first.ready());
    let mut second = World::new(&["B"]);
    second.found("B", "\"B-1\"");
    second.object.uid = "uid-2".into();
    second.object.id.name = "second".into();
    second.target = first.target.clone();
    second.settle();
    assert_eq!(second.reason(), "TargetConflict");
    assert_eq!(second.data(), pairs(&[("A", "A-1")]), "it is not taken from the other");
    assert!(second.message().contains("prefect-sync.dev/accepts=PrefectSecret/second"), "{}", second.message());
    second.target.as_mut().unwrap().annotations.insert(ACCEPTS_ANNOTATION.into(), "PrefectSecret/second".into());
    second.settle();
    assert_eq!(second.data(), pairs(&[("B", "B-1")]), "handed over");
}

#[test]
fn what_could_cost_a_target_on_a_late_view_of_the_object_is_confirmed() {
    let mut world = World::new(&["A"]);
    world.object.deletion_policy = DeletionPolicy::Delete;
    world.found("A", "\"A-1\"");
    assert!(!world.settle().confirm, "the first target");
    world.found("A", "\"A-2\"");
    assert!(!world.settle().confirm, "a value");
    world.target.as_mut().unwrap().owners.clear();
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Replace { .. }) && plan.confirm, "its owner is gone");
    world.target = None;
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Create(_)) && plan.confirm, "it is gone");
    world.object.creation_policy = CreationPolicy::Orphan;
    assert!(!world.settle().confirm, "no owner is wanted");
    world.object.creation_policy = CreationPolicy::Owner;
    assert!(world.settle().confirm, "it gets an owner after all");
    world.object.immutable = true;
    world.settle();
    world.target.as_mut().unwrap().owners.clear();
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Recreate { .. }) && plan.confirm, "it is deleted for a moment");
    world.gone("A", true, false);
    let plan = world.step();
    assert!(matches!(plan.target, TargetAction::Delete { .. }) && plan.confirm, "it is deleted");

    let mut world = World::synced(&["A"]);
    world.written = None;
    assert!(!world.settle().confirm, "nothing is written");
    world.written = None;
    world.found("A", "\"A-2\"");
    assert!(world.settle().confirm, "another process wrote it last");
    world.old_target = world.target.take();
    world.object.target_name = "new".into();
    let plan = world.step();
    assert!(plan.remove.is_some() && plan.confirm, "the former target is deleted");
}

#[test]
fn an_orphan_has_no_owner_and_outlives_a_rename() {
    let mut world = World::new(&["A"]);
    world.object.creation_policy = CreationPolicy::Orphan;
    world.found("A", "\"1\"");
    world.settle();
    assert_eq!(world.target.as_ref().unwrap().owners, []);
    world.object.creation_policy = CreationPolicy::Owner;
    world.settle();
    assert_eq!(world.target.as_ref().unwrap().owners.len(), 1);
    world.object.creation_policy = CreationPolicy::Orphan;
    world.settle();
    assert_eq!(world.target.as_ref().unwrap().owners, []);
    world.old_target = world.target.take();
    world.object.target_name = "new".into();
    assert_eq!(world.step().remove, None);
}

#[test]
fn an_immutable_target_is_replaced_when_its_content_changes() {
    let mut world = World::new(&["A"]);
    world.object.immutable = true;
    world.found("A", "\"1\"");
    world.settle();
    world.found("A", "\"2\"");
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Recreate { .. }));
    assert!(plan.events.iter().any(|event| event.reason == Reason::TargetReplaced));
    assert_eq!(world.data(), pairs(&[("A", "2")]));
}

fn restarting(keys: &[&str], min_interval: Duration) -> World {
    let mut world = World::synced(&["A", "B"]);
    world.object.restarts = vec![Restart {
        kind: WorkloadKind::Deployment,
        name: "agent".into(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        min_interval,
    }];
    world
}

fn rolls(plan: &Plan) -> usize {
    plan.rollouts.len()
}

#[test]
fn a_workload_restarts_when_content_changed_and_for_nothing_else() {
    let mut world = restarting(&[], Duration::ZERO);
    assert_eq!(rolls(&world.settle()), 0, "restart was only added");
    world.found("A", "\"A-2\"");
    let plan = world.settle();
    assert_eq!(rolls(&plan), 1);
    let intent = plan.intent.expect("it is written down first");
    assert_eq!(intent.restarts[0].pending_revision, Some(1));
    assert_eq!(plan.rollouts[0].mark, "PrefectSecret/etl/uid-1/1");
    assert!(plan.events.iter().any(|event| event.reason == Reason::Restarted));
    // The operator starts again: nothing is known but the status.
    world.written = None;
    assert_eq!(rolls(&world.settle()), 0);
    // Someone deletes the target: what comes back is what was there.
    world.target = None;
    assert_eq!(rolls(&world.settle()), 0);
    // A label is no content.
    world.object.template.labels.insert("team".into(), "data".into());
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Replace { .. }), "the label is written");
    assert_eq!(rolls(&plan), 0);
}

#[test]
fn a_restart_that_was_interrupted_is_done_once() {
    let mut world = restarting(&[], Duration::ZERO);
    world.settle();
    world.found("A", "\"A-2\"");
    let plan = world.plan();
    // Killed after the intent: all is done again, and is the same restart.
    let before = world.status.clone();
    world.status = plan.intent.clone().unwrap();
    let again = world.plan();
    assert_eq!((rolls(&again), again.rollouts[0].mark.as_str()), (1, "PrefectSecret/etl/uid-1/1"));
    // Killed after the target was written: the restart is still due, and is the same one.
    world.status = before;
    world.step();
    world.status = plan.intent.unwrap();
    let again = world.plan();
    assert_eq!(again.target, TargetAction::Keep);
    assert_eq!(again.rollouts, plan.rollouts);
    world.settle();
}

#[test]
fn only_the_keys_that_count_restart_and_not_too_often() {
    let mut world = restarting(&["B"], Duration::from_secs(600));
    world.settle();
    world.found("A", "\"A-2\"");
    assert_eq!(rolls(&world.settle()), 0);
    world.found("B", "\"B-2\"");
    assert_eq!(rolls(&world.settle()), 1);
    world.now += 60;
    world.found("B", "\"B-3\"");
    let plan = world.settle();
    assert_eq!((rolls(&plan), plan.requeue_after), (0, Some(Duration::from_secs(540))));
    world.now += 540;
    assert_eq!(rolls(&world.settle()), 1);
    assert_eq!(world.status.revision, Some(3));
}

#[test]
fn a_restart_that_is_refused_is_a_condition_and_is_tried_again() {
    let mut world = restarting(&[], Duration::ZERO);
    world.settle();
    world.found("A", "\"A-2\"");
    let mut plan = world.step_with(&[Rolled::Refused("forbidden".into())]);
    assert!(!world.ready());
    assert_eq!(world.message(), "restarting Deployment flows/agent: forbidden");
    assert_eq!(world.data()["A"], "A-2");
    assert!(plan.events.iter().any(|event| event.warning && event.reason == Reason::RestartFailed));
    assert!(plan.requeue_after.is_some(), "it is tried again though nothing else happens");
    let before = world.status.clone();
    plan = world.step_with(&[Rolled::Refused("forbidden".into())]);
    assert_eq!((world.status.clone(), plan.events.len()), (before, 0), "said once");
    assert!(plan.requeue_after.is_some());
    plan = world.step_with(&[Rolled::Missing]);
    assert_eq!(rolls(&plan), 1);
    assert!(world.ready(), "{}", world.message());
    assert_eq!(
        world.status.restarts[0].message.as_deref(),
        Some("there is no Deployment flows/agent; it will start with the new content")
    );
    assert_eq!(rolls(&world.plan()), 0);
}

#[test]
fn a_target_with_keys_of_others_is_never_taken_as_a_whole() {
    let mut world = merging(&["A"], Some(foreign(&["THEIRS"], "PrefectSecret/etl")));
    world.settle();
    for policy in [CreationPolicy::Owner, CreationPolicy::Orphan] {
        world.object.creation_policy = policy;
        world.settle();
        assert_eq!(world.reason(), "TargetConflict");
        assert_eq!(world.data(), pairs(&[("A", "A-1"), ("THEIRS", "theirs")]));
    }
}

#[test]
fn a_rename_keeps_what_the_former_target_held_and_nothing_of_the_new_ones() {
    let mut world = World::synced(&["A", "B"]);
    world.gone("B", true, false);
    world.settle();
    world.old_target = world.target.take();
    world.object.target_name = "new".into();
    let mut new = foreign(&["B"], "PrefectSecret/etl");
    new.name = "new".into();
    world.target = Some(new);
    world.step();
    assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-1")]));
    // Nor does an unconfirmed absence lose what it held.
    let mut world = World::synced(&["A", "B"]);
    world.object.entries[1].optional = true;
    world.gone("B", false, false);
    world.old_target = world.target.take();
    world.object.target_name = "new".into();
    world.target = Some(Target { name: "new".into(), ..foreign(&[], "PrefectSecret/etl") });
    world.step();
    assert_eq!(world.data(), pairs(&[("A", "A-1"), ("B", "B-1")]));
}

#[test]
fn what_went_and_came_back_restarts_once_it_is_there() {
    let mut world = World::synced(&["A"]);
    world.object.deletion_policy = DeletionPolicy::Delete;
    world.object.restarts = restarting(&[], Duration::ZERO).object.restarts;
    world.settle();
    world.gone("A", true, false);
    let plan = world.settle();
    assert!(matches!(plan.target, TargetAction::Delete { .. }));
    assert_eq!(rolls(&plan), 0, "no pod could start");
    assert_eq!(rolls(&world.plan()), 0);
    world.found("A", "\"A-2\"");
    assert_eq!(rolls(&world.settle()), 1);
}

#[test]
fn an_outage_restarts_nothing_that_was_not_written() {
    let mut world = restarting(&[], Duration::ZERO);
    world.settle();
    world.found("A", "\"A-2\"");
    // Killed after the intent, and then nothing can be read.
    world.status = world.plan().intent.unwrap();
    world.fails("A", false);
    assert_eq!(rolls(&world.plan()), 0);
}

#[test]
fn keys_that_the_target_never_has_restart_nothing_and_that_is_said() {
    let mut world = restarting(&["A"], Duration::ZERO);
    world.object.format = crate::sync::layout::Format::Json { key: "settings.json".into() };
    world.settle();
    assert_eq!(world.reason(), "ObjectInvalid");
    assert!(world.message().ends_with("as it is laid out it has settings.json"), "{}", world.message());
    world.found("A", "\"A-2\"");
    assert_eq!(rolls(&world.settle()), 0);
}

#[test]
fn a_former_target_that_can_not_be_removed_is_said_and_tried_again() {
    let mut world = World::synced(&["A"]);
    world.old_target = world.target.take();
    world.object.target_name = "new".into();
    let mut plan = world.plan();
    plan.left_behind("the API server answered 403", &world.object, &world.status, at_second(0));
    assert_eq!(plan.status.target.as_ref().unwrap().name, "etl");
    let ready = conditions::ready(&plan.status.conditions).unwrap();
    assert_eq!(
        ready.message,
        "Secret flows/new is as it should be, but the former target etl could not be removed: the API server answered 403"
    );
    assert!(plan.requeue_after.is_some());
}

fn at_second(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

#[test]
fn a_former_target_that_stays_behind_does_not_decide_what_is_kept() {
    let mut world = World::synced(&["A"]);
    world.old_target = world.target.clone();
    world.object.target_name = "new".into();
    world.target.as_mut().unwrap().name = "new".into();
    world.found("A", "\"A-2\"");
    world.step();
    assert_eq!(world.data()["A"], "A-2");
    // The former one could not be removed, and Prefect loses the key.
    let mut former = World::synced(&["A"]).target.unwrap();
    former.name = "etl".into();
    world.old_target = Some(former);
    world.gone("A", true, false);
    world.step();
    assert_eq!(world.data()["A"], "A-2", "the last value, not the former target's");
}

#[test]
fn an_orphan_is_not_deleted_when_name_and_policy_change_at_once() {
    let mut world = World::new(&["A"]);
    world.object.creation_policy = CreationPolicy::Orphan;
    world.found("A", "\"1\"");
    world.settle();
    world.old_target = world.target.take();
    world.object.target_name = "new".into();
    world.object.creation_policy = CreationPolicy::Owner;
    assert_eq!(world.plan().remove, None);
}

proptest::proptest! {
    /// Whatever keys others have, Merge leaves each of them as it is.
    #[test]
    fn merge_never_takes_a_foreign_key(
        theirs in proptest::collection::btree_set("[A-F]", 0..5),
        steps in proptest::collection::vec((proptest::collection::btree_set("[A-F]", 1..5), proptest::bool::ANY), 1..6),
    ) {
        let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
        let mut world = merging(&["Z"], Some(foreign(&theirs, "PrefectSecret/etl")));
        for (keys, delete) in steps {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            world.object.entries = World::new(&keys).object.entries;
            world.object.deletion_policy = if delete { DeletionPolicy::Delete } else { DeletionPolicy::Retain };
            for key in &keys {
                world.found(key, "\"ours\"");
            }
            world.settle();
            let data = world.data();
            for key in &theirs {
                assert_eq!(data.get(*key).map(String::as_str), Some("theirs"));
            }
            let clashes = keys.iter().any(|key| theirs.contains(key));
            assert_eq!(world.ready(), !clashes);
            if !clashes {
                let expected: BTreeSet<&str> = theirs.iter().chain(&keys).copied().collect();
                assert_eq!(data.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
            }
        }
    }
}
