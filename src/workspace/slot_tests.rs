use zeroize::Zeroizing;

use super::*;
use crate::api::Source;
use crate::sync::{Document, Kind, Reason, Shape};

const INTERVAL: Duration = Duration::from_secs(30);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(name: &str) -> RemoteKey {
    RemoteKey::Variable { name: name.into() }
}

fn object(name: &str) -> Dependent {
    Dependent { kind: Kind::PrefectKV, namespace: "flows".into(), name: name.into() }
}

/// A slot in which each object asks for the keys named, all of them delivered.
fn slot(interests: &[(&str, &[&str])]) -> Slot {
    let mut slot = Slot::default();
    for (name, keys) in interests {
        slot.interests.insert(object(name), keys.iter().map(|name| (key(name), true)).collect());
    }
    slot
}

fn found(raw: &str) -> Read {
    Read::Found(Arc::new(Document::new(Zeroizing::new(raw.to_owned()), Shape::Value)), Source::Api)
}

fn failing(reason: Reason, second: i64) -> Failure {
    Failure { reason, message: "why".into(), since: at(second), workspace_wide: reason == Reason::PrefectUnreachable }
}

fn merge(slot: &mut Slot, reads: Vec<(&str, Read)>, outage: Option<Failure>, second: i64) -> Merged {
    let reads = reads.into_iter().map(|(name, read)| (key(name), read)).collect();
    slot.merge(Pass { reads, outage, retry_after: None }, BTreeMap::new(), None, (at(second), at(second)), INTERVAL)
}

fn woken(merged: &Merged) -> Vec<&str> {
    let mut names: Vec<&str> = merged.wake.iter().map(|dependent| dependent.name.as_str()).collect();
    names.sort_unstable();
    names
}

fn document(slot: &Slot, name: &str) -> Arc<Document> {
    match &slot.readings[&key(name)].answer {
        Some(Answer::Found { document, .. }) => document.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn only_objects_one_of_whose_readings_changed_are_woken() {
    let mut slot = slot(&[("one", &["a"]), ("two", &["a", "b"]), ("three", &["b"])]);
    let first = merge(&mut slot, vec![("a", found("1")), ("b", found("2"))], None, 0);
    assert_eq!(woken(&first), ["one", "three", "two"]);
    let same = merge(&mut slot, vec![("a", found("1")), ("b", found("2"))], None, 30);
    assert!(woken(&same).is_empty() && !same.health_changed);
    let changed = merge(&mut slot, vec![("a", found("1")), ("b", found("3"))], None, 60);
    assert_eq!(woken(&changed), ["three", "two"]);
}

#[test]
fn a_value_is_held_once_however_often_it_is_read() {
    let mut slot = slot(&[("one", &["a"])]);
    merge(&mut slot, vec![("a", found("1"))], None, 0);
    let before = document(&slot, "a");
    merge(&mut slot, vec![("a", found("1"))], None, 30);
    assert!(Arc::ptr_eq(&before, &document(&slot, "a")));
}

#[test]
fn an_outage_keeps_every_answer_and_says_since_when_it_lasts() {
    let mut slot = slot(&[("one", &["a"]), ("two", &["b"])]);
    merge(&mut slot, vec![("a", found("1")), ("b", found("2"))], None, 0);
    let out = merge(&mut slot, vec![], Some(failing(Reason::PrefectUnreachable, 30)), 30);
    assert_eq!(woken(&out), ["one", "two"]);
    assert!(out.health_changed);
    let still = merge(&mut slot, vec![], Some(failing(Reason::PrefectUnreachable, 60)), 60);
    assert!(woken(&still).is_empty() && !still.health_changed, "the same outage wakes nobody again");
    assert_eq!(slot.readings[&key("a")].failure.as_ref().unwrap().since, at(30));
    assert_eq!(document(&slot, "a").raw(), "1");
    let back = merge(&mut slot, vec![("a", found("1")), ("b", found("2"))], None, 90);
    assert_eq!(woken(&back), ["one", "two"]);
    assert!(slot.readings[&key("a")].failure.is_none());
}

#[test]
fn a_failure_of_one_key_leaves_the_others_and_its_own_last_answer() {
    let mut slot = slot(&[("one", &["a"]), ("two", &["b"])]);
    merge(&mut slot, vec![("a", found("1")), ("b", found("2"))], None, 0);
    let reads = vec![("a", Read::Failed(failing(Reason::PrefectRejected, 30))), ("b", found("2"))];
    let merged = merge(&mut slot, reads, None, 30);
    assert_eq!(woken(&merged), ["one"]);
    assert_eq!(document(&slot, "a").raw(), "1");
    assert!(matches!(slot.health, Health::Well { .. }));
}

#[test]
fn an_absence_is_confirmed_an_interval_later_and_wakes_twice() {
    let mut slot = slot(&[("one", &["a"]), ("two", &["b"]), ("three", &["c"])]);
    let all = || vec![("a", found("1")), ("b", found("2")), ("c", found("3"))];
    merge(&mut slot, all(), None, 0);
    let gone = || vec![("a", Read::NotFound), ("b", found("2")), ("c", found("3"))];
    assert_eq!(woken(&merge(&mut slot, gone(), None, 30)), ["one"]);
    assert!(slot.confirmed_absent().is_empty());
    assert_eq!(woken(&merge(&mut slot, gone(), None, 60)), ["one"]);
    assert_eq!(slot.confirmed_absent(), BTreeSet::from([key("a")]));
    let listed = vec![("a", Read::StillAbsent), ("b", found("2")), ("c", found("3"))];
    assert!(woken(&merge(&mut slot, listed, None, 90)).is_empty());
}

#[test]
fn most_keys_gone_together_are_held_and_the_workspace_says_so() {
    let mut slot = slot(&[("one", &["a", "b", "c"])]);
    merge(&mut slot, vec![("a", found("1")), ("b", found("2")), ("c", found("3"))], None, 0);
    let gone = || vec![("a", Read::NotFound), ("b", Read::NotFound), ("c", found("3"))];
    merge(&mut slot, gone(), None, 30);
    let merged = merge(&mut slot, gone(), None, 60);
    assert_eq!(woken(&merged), ["one"]);
    for name in ["a", "b"] {
        match &slot.readings[&key(name)].answer {
            Some(Answer::Absent(absence)) => assert!(absence.held && absence.confirmed, "{name}"),
            other => panic!("{name} is {other:?}"),
        }
    }
    assert!(matches!(slot.health, Health::Well { census, .. } if census.vanished == 2));
}

#[test]
fn a_key_that_nobody_asks_for_any_more_is_forgotten() {
    let mut slot = slot(&[("one", &["a", "b"])]);
    merge(&mut slot, vec![("a", found("1")), ("b", found("2"))], None, 0);
    slot.interests.insert(object("one"), BTreeMap::from([(key("a"), true)]));
    merge(&mut slot, vec![("a", found("1"))], None, 30);
    assert!(!slot.readings.contains_key(&key("b")));
}

#[test]
fn a_new_key_is_read_with_all_that_shares_an_object_with_it() {
    let mut slot = slot(&[("one", &["user", "password"]), ("two", &["user", "host"]), ("else", &["other"])]);
    let all = || ["user", "password", "host", "other"].map(|name| (name, found("1"))).into();
    merge(&mut slot, all(), None, 0);
    assert!(slot.unread().is_empty());
    slot.interests.insert(object("new"), BTreeMap::from([(key("password"), false), (key("token"), false)]));
    let expected: BTreeSet<RemoteKey> = ["token", "password", "user", "host"].map(key).into();
    assert_eq!(slot.unread(), expected, "but not what has nothing to do with it");
}
