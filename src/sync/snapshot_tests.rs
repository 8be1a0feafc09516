use std::sync::Arc;

use zeroize::Zeroizing;

use super::*;
use crate::api::Source;
use crate::sync::absence::Census;
use crate::sync::portions::PORTION;
use crate::sync::{Absence, Document, Kind, Read, Reason, Shape};

const INTERVAL: Duration = Duration::from_secs(30);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(name: &str) -> RemoteKey {
    RemoteKey::Variable { name: name.into() }
}

fn keys(names: &[&str]) -> BTreeSet<RemoteKey> {
    names.iter().map(|name| key(name)).collect()
}

fn object(name: &str) -> Dependent {
    Dependent { kind: Kind::PrefectKV, namespace: "flows".into(), name: name.into() }
}

/// An interest in the keys named, all of them delivered, of an object that is well.
fn interest(names: &[&str]) -> Interest {
    let keys = keys(names).into_iter().map(|key| (key, true)).collect();
    Interest { keys, well: true, ..Interest::default() }
}

fn snapshot(interests: &[(&str, &[&str])]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, keys) in interests {
        snapshot.observe(&object(name), interest(keys));
    }
    snapshot
}

fn found(raw: &str) -> Read {
    found_with(raw, &[])
}

fn found_with(raw: &str, ids: &[Uuid]) -> Read {
    let document = Arc::new(Document::new(Zeroizing::new(raw.to_owned()), Shape::Value));
    Read::Found { document, source: Source::Api, ids: ids.into() }
}

fn failure(reason: Reason, second: i64) -> Failure {
    Failure { reason, message: "why".into(), since: at(second), workspace_wide: reason == Reason::PrefectUnreachable }
}

fn reads(reads: Vec<(&str, Read)>) -> BTreeMap<RemoteKey, Read> {
    reads.into_iter().map(|(name, read)| (key(name), read)).collect()
}

/// A pass that begins and ends at `second`.
fn merge(snapshot: &mut Snapshot, read: Vec<(&str, Read)>, second: i64) -> Merged {
    let read = reads(read);
    let (pass, _) = snapshot.begin_pass(&read.keys().cloned().collect());
    merge_pass(snapshot, pass, read, second)
}

fn merge_pass(snapshot: &mut Snapshot, pass: u64, read: BTreeMap<RemoteKey, Read>, second: i64) -> Merged {
    let since_start = Duration::from_secs(second.unsigned_abs());
    let times = Times { asked: at(second), answered: at(second), at: since_start };
    snapshot.merge(&Numbers::only(pass), read, BTreeMap::new(), times, INTERVAL)
}

fn names(dependents: &BTreeSet<Dependent>) -> Vec<&str> {
    dependents.iter().map(|dependent| dependent.name.as_str()).collect()
}

fn woken(merged: &Merged) -> Vec<&str> {
    names(&merged.wake)
}

fn document(snapshot: &Snapshot, name: &str) -> Arc<Document> {
    match snapshot.reading(&key(name)).unwrap().answer {
        Some(Answer::Found { document, .. }) => document,
        other => panic!("{name} is {other:?}"),
    }
}

fn absence(snapshot: &Snapshot, name: &str) -> Absence {
    match snapshot.reading(&key(name)).unwrap().answer {
        Some(Answer::Absent(absence)) => absence,
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn only_objects_one_of_whose_readings_changed_are_woken() {
    let mut snapshot = snapshot(&[("one", &["a"]), ("two", &["a", "b"]), ("three", &["b"])]);
    let first = merge(&mut snapshot, vec![("a", found("1")), ("b", found("2"))], 0);
    assert_eq!(woken(&first), ["one", "three", "two"]);
    assert!(first.changed.is_empty(), "what was never there before did not change in Prefect");
    let same = merge(&mut snapshot, vec![("a", found("1")), ("b", found("2"))], 30);
    assert!(woken(&same).is_empty());
    let changed = merge(&mut snapshot, vec![("a", found("1")), ("b", found("3"))], 60);
    assert_eq!(woken(&changed), ["three", "two"]);
    assert_eq!(changed.changed, [(key("b"), Duration::from_secs(30))]);
}

#[test]
fn a_value_is_held_once_however_often_it_is_read() {
    let mut snapshot = snapshot(&[("one", &["a"])]);
    merge(&mut snapshot, vec![("a", found("1"))], 0);
    let before = document(&snapshot, "a");
    merge(&mut snapshot, vec![("a", found("1"))], 30);
    assert!(Arc::ptr_eq(&before, &document(&snapshot, "a")));
}

#[test]
fn what_a_pass_that_began_later_has_brought_stands() {
    let mut snapshot = snapshot(&[("one", &["a"])]);
    merge(&mut snapshot, vec![("a", found("1"))], 0);
    let (slow, _) = snapshot.begin_pass(&keys(&["a"]));
    let (fast, _) = snapshot.begin_pass(&keys(&["a"]));
    assert_eq!(woken(&merge_pass(&mut snapshot, fast, reads(vec![("a", found("3"))]), 31)), ["one"]);
    assert!(woken(&merge_pass(&mut snapshot, slow, reads(vec![("a", found("2"))]), 32)).is_empty());
    assert_eq!(document(&snapshot, "a").raw(), "3");
}

#[test]
fn what_a_pass_was_extended_by_is_as_new_as_its_extension() {
    let mut snapshot = snapshot(&[("one", &["a", "b"])]);
    let (first, _) = snapshot.begin_pass(&keys(&["a"]));
    let (other, _) = snapshot.begin_pass(&keys(&["b"]));
    let (extension, _) = snapshot.begin_pass(&keys(&["b"]));
    merge_pass(&mut snapshot, other, reads(vec![("b", found("1"))]), 0);
    let numbers = Numbers { first, later: BTreeMap::from([(key("b"), extension)]) };
    let times = Times { asked: at(0), answered: at(0), at: Duration::ZERO };
    let read = reads(vec![("a", found("2")), ("b", found("2"))]);
    snapshot.merge(&numbers, read, BTreeMap::new(), times, INTERVAL);
    assert_eq!((document(&snapshot, "a").raw(), document(&snapshot, "b").raw()), ("2", "2"));
}

#[test]
fn an_answer_knows_the_first_and_the_last_pass_that_gave_it() {
    let mut snapshot = snapshot(&[("one", &["a"])]);
    for (second, raw) in [(0, "1"), (30, "1"), (60, "2"), (90, "2")] {
        merge(&mut snapshot, vec![("a", found(raw))], second);
    }
    assert_eq!(snapshot.reading(&key("a")).unwrap().passes, (3, 4));
    merge(&mut snapshot, vec![("a", Read::Failed(failure(Reason::PrefectRejected, 120)))], 120);
    assert_eq!(snapshot.reading(&key("a")).unwrap().passes, (3, 4), "a failure is no answer");
}

#[test]
fn an_outage_keeps_every_answer_and_ends_for_each_key_when_it_is_read_again() {
    let mut snapshot = snapshot(&[("one", &["a"]), ("two", &["b"])]);
    merge(&mut snapshot, vec![("a", found("1")), ("b", found("2"))], 0);
    assert!(snapshot.begin_outage(failure(Reason::PrefectUnreachable, 30)));
    let failing = |snapshot: &Snapshot, name: &str| snapshot.reading(&key(name)).unwrap().failure.map(|f| f.since);
    assert_eq!(failing(&snapshot, "a"), Some(at(30)));
    assert_eq!(document(&snapshot, "a").raw(), "1");
    assert!(!snapshot.begin_outage(failure(Reason::PrefectUnreachable, 60)), "the same outage is no news");
    assert!(snapshot.begin_outage(failure(Reason::CredentialsRefused, 90)));
    assert_eq!(failing(&snapshot, "b"), Some(at(30)), "it lasts since its beginning");
    let back = merge(&mut snapshot, vec![("a", found("1"))], 120);
    assert!(woken(&back).is_empty() && back.recovered.is_empty(), "nothing that was well hears of it");
    assert_eq!((failing(&snapshot, "a"), failing(&snapshot, "b")), (None, Some(at(30))));
    snapshot.end_outage();
    assert_eq!(failing(&snapshot, "b"), None);
}

#[test]
fn an_object_that_an_outage_made_not_ready_hears_of_its_end_and_one_that_is_new_hears_of_it() {
    let mut snapshot = snapshot(&[("one", &["a"]), ("two", &["b"])]);
    merge(&mut snapshot, vec![("a", found("1")), ("b", found("2"))], 0);
    snapshot.begin_outage(failure(Reason::PrefectUnreachable, 30));
    snapshot.note(&object("one"), Interest { well: false, ..interest(&["a"]) });
    assert_eq!(snapshot.dependents_that_are(false).collect::<Vec<_>>(), [&object("one")]);
    let new = snapshot.observe(&object("new"), interest(&["c"]));
    assert_eq!(new[&key("c")].failure.as_ref().unwrap().reason, Reason::PrefectUnreachable);
    let back = merge(&mut snapshot, vec![("a", found("1")), ("b", found("2")), ("c", found("3"))], 60);
    assert_eq!(names(&back.recovered), ["new", "one"], "two heard of nothing");
    // And only once.
    assert!(merge(&mut snapshot, vec![("a", found("1"))], 90).recovered.is_empty());
}

#[test]
fn a_failure_of_one_key_leaves_the_others_and_its_own_last_answer() {
    let mut snapshot = snapshot(&[("one", &["a"]), ("two", &["b"])]);
    merge(&mut snapshot, vec![("a", found("1")), ("b", found("2"))], 0);
    let failed = |second| vec![("a", Read::Failed(failure(Reason::PrefectRejected, second))), ("b", found("2"))];
    assert_eq!(woken(&merge(&mut snapshot, failed(30), 30)), ["one"]);
    assert_eq!(document(&snapshot, "a").raw(), "1");
    assert!(woken(&merge(&mut snapshot, failed(60), 60)).is_empty(), "it fails since the first time");
}

#[test]
fn an_absence_is_confirmed_an_interval_later_and_wakes_twice() {
    let mut snapshot = snapshot(&[("one", &["a"]), ("two", &["b"]), ("three", &["c"])]);
    let rest = || vec![("b", found("2")), ("c", found("3"))];
    let with = |read: Read| rest().into_iter().chain([("a", read)]).collect::<Vec<_>>();
    merge(&mut snapshot, with(found("1")), 0);
    assert_eq!(snapshot.before(&keys(&["a"]))[&key("a")], Before::Answered);
    assert_eq!(woken(&merge(&mut snapshot, with(Read::NotFound), 30)), ["one"]);
    assert_eq!(snapshot.before(&keys(&["a"]))[&key("a")], Before::Answered);
    assert_eq!(woken(&merge(&mut snapshot, with(Read::NotFound), 60)), ["one"]);
    assert_eq!(snapshot.before(&keys(&["a"]))[&key("a")], Before::Absent);
    assert!(woken(&merge(&mut snapshot, with(Read::StillAbsent), 90)).is_empty());
}

#[test]
fn what_only_a_list_lacks_is_missing_but_not_exactly() {
    let mut snapshot = snapshot(&[("one", &["a"]), ("two", &["b"]), ("three", &["c"])]);
    merge(&mut snapshot, vec![("a", found("1")), ("b", found("2")), ("c", found("3"))], 0);
    merge(&mut snapshot, vec![("a", Read::Unlisted)], 30);
    assert!(!absence(&snapshot, "a").exact);
    merge(&mut snapshot, vec![("a", Read::Unlisted)], 90);
    assert!(!absence(&snapshot, "a").confirmed);
    merge(&mut snapshot, vec![("a", Read::NotFound)], 120);
    assert!(absence(&snapshot, "a").exact && absence(&snapshot, "a").confirmed);
}

#[test]
fn most_keys_gone_together_are_held_and_one_that_goes_has_all_others_looked_at() {
    let mut snapshot = snapshot(&[("one", &["a", "b", "c"])]);
    merge(&mut snapshot, vec![("a", found("1")), ("b", found("2")), ("c", found("3"))], 0);
    assert!(!merge(&mut snapshot, vec![("a", Read::NotFound)], 30).vanishing, "one alone was deleted");
    let second = merge(&mut snapshot, vec![("b", Read::NotFound)], 31);
    assert!(second.vanishing);
    assert_eq!(second.census, Census { delivered: 3, vanished: 2 });
    let confirmed = merge(&mut snapshot, vec![("a", Read::NotFound), ("b", Read::NotFound), ("c", found("3"))], 90);
    assert!(!confirmed.vanishing, "nothing is newly gone");
    assert_eq!(woken(&confirmed), ["one"]);
    for name in ["a", "b"] {
        assert!(absence(&snapshot, name).held.everywhere && absence(&snapshot, name).confirmed, "{name}");
    }
}

#[test]
fn a_key_that_nobody_asks_for_any_more_is_forgotten() {
    let mut snapshot = snapshot(&[("one", &["a", "b"]), ("two", &["b", "c"])]);
    merge(&mut snapshot, vec![("a", found("1")), ("b", found("2")), ("c", found("3"))], 0);
    snapshot.observe(&object("one"), interest(&["a"]));
    assert!(snapshot.reading(&key("b")).is_some(), "two still asks for it");
    snapshot.forget(&object("two"));
    assert!(snapshot.reading(&key("b")).is_none() && snapshot.reading(&key("c")).is_none());
    assert!(snapshot.reading(&key("a")).is_some());
    // A pass that was under way brings it no more.
    merge(&mut snapshot, vec![("b", found("2"))], 30);
    assert!(snapshot.reading(&key("b")).is_none());
}

#[test]
fn a_key_that_was_asked_for_anew_while_its_absence_was_looked_at_is_read_again() {
    let mut snapshot = snapshot(&[("one", &["a"])]);
    merge(&mut snapshot, vec![("a", Read::NotFound)], 0);
    merge(&mut snapshot, vec![("a", Read::NotFound)], 30);
    let (pass, before) = snapshot.begin_pass(&keys(&["a"]));
    assert_eq!(before.keys[&key("a")], Before::Absent);
    snapshot.forget(&object("one"));
    snapshot.observe(&object("one"), interest(&["a"]));
    merge_pass(&mut snapshot, pass, reads(vec![("a", Read::StillAbsent)]), 60);
    assert_eq!(*snapshot.unread(), keys(&["a"]));
}

#[test]
fn what_a_target_holds_is_not_asked_for_by_name_key_by_key_after_a_start() {
    let mut snapshot = snapshot(&[("one", &["held"])]);
    let never = Interest { keys: vec![(key("never"), false)], ..Interest::default() };
    snapshot.observe(&object("two"), never);
    let before = snapshot.before(&keys(&["held", "never"]));
    assert_eq!(before.into_values().collect::<Vec<_>>(), [Before::Answered, Before::Nothing]);
}

#[test]
fn another_epoch_knows_who_asks_and_nothing_else() {
    let mut snapshot = snapshot(&[("one", &["a"])]);
    merge(&mut snapshot, vec![("a", found("1"))], 0);
    assert!(snapshot.unread().is_empty() && snapshot.has_read());
    snapshot.begin_outage(failure(Reason::PrefectUnreachable, 30));
    snapshot.begin_epoch();
    assert!(snapshot.readings(&object("one")).is_empty() && snapshot.outage().is_none() && !snapshot.has_read());
    assert_eq!(*snapshot.unread(), keys(&["a"]));
}

#[test]
fn a_pass_is_extended_by_what_shares_an_object_with_a_changed_key() {
    let mut snapshot = snapshot(&[("one", &["user", "password"]), ("two", &["user", "host"]), ("else", &["other"])]);
    let all = || ["user", "password", "host", "other"].map(|name| (name, found("1"))).into();
    merge(&mut snapshot, all(), 0);
    assert!(snapshot.companions(&reads(vec![("user", found("1"))])).is_empty(), "nothing changed");
    assert_eq!(snapshot.companions(&reads(vec![("user", found("2"))])), keys(&["password", "host"]));
    assert_eq!(snapshot.companions(&reads(vec![("password", found("2"))])), keys(&["user"]));
    let both = reads(vec![("password", found("2")), ("user", found("1"))]);
    assert!(snapshot.companions(&both).is_empty());
}

#[test]
fn a_change_of_what_everybody_shares_does_not_have_everything_read() {
    let own: Vec<String> = (0..300).map(|n| format!("own-{n}")).collect();
    let mut snapshot = Snapshot::default();
    for name in &own {
        snapshot.observe(&object(name), interest(&[name, "shared"]));
    }
    let all = own.iter().map(|name| (name.as_str(), found("1"))).chain([("shared", found("1"))]).collect();
    merge(&mut snapshot, all, 0);
    assert!(snapshot.companions(&reads(vec![("shared", found("2"))])).is_empty());
}

#[test]
fn portions_keep_the_keys_of_an_object_together_and_fill_requests() {
    let names: Vec<String> = (0..1000).map(|n| format!("k{n:03}")).collect();
    let mut snapshot = Snapshot::default();
    for three in names.chunks(3) {
        let three: Vec<&str> = three.iter().map(String::as_str).collect();
        snapshot.observe(&object(three[0]), interest(&three));
    }
    let portions = snapshot.portions(snapshot.unread(), true);
    assert_eq!(portions.len(), 6, "1,000 keys in objects of three are six requests of at most 200");
    assert!(portions.iter().all(|portion| portion.len() <= PORTION));
    let whole = |portion: &BTreeSet<RemoteKey>, three: &[String]| {
        let held = three.iter().filter(|name| portion.contains(&key(name))).count();
        held == 0 || held == three.len()
    };
    assert!(names.chunks(3).all(|three| portions.iter().all(|portion| whole(portion, three))));
    assert_eq!(portions.iter().map(BTreeSet::len).sum::<usize>(), 1000);
}

#[test]
fn a_portion_of_blocks_and_variables_fills_a_request_of_each() {
    let mut snapshot = Snapshot::default();
    for n in 0..200 {
        let name = format!("k{n:03}");
        let block = RemoteKey::Block { block_type: "secret".into(), name: name.clone() };
        let keys = vec![(block, false), (key(&name), false)];
        snapshot.observe(&object(&name), Interest { keys, ..Interest::default() });
    }
    let portions = snapshot.portions(snapshot.unread(), true);
    assert_eq!(portions.iter().map(BTreeSet::len).collect::<Vec<_>>(), [400]);
}

#[test]
fn a_portion_has_an_objects_other_keys_only_when_asked() {
    let snapshot = snapshot(&[("one", &["user", "password"]), ("else", &["other"])]);
    assert_eq!(snapshot.portions(&keys(&["user"]), true), [keys(&["password", "user"])]);
    assert_eq!(snapshot.portions(&keys(&["user"]), false), [keys(&["user"])]);
    assert!(snapshot.portions(&BTreeSet::new(), true).is_empty());
}

#[test]
fn a_key_is_due_at_the_shortest_interval_that_one_of_its_users_asks_for() {
    let mut snapshot = snapshot(&[("one", &["a", "b"])]);
    let often = Duration::from_secs(2);
    snapshot.observe(&object("often"), Interest { interval: Some(often), ..interest(&["b"]) });
    assert_eq!(snapshot.intervals(INTERVAL), BTreeSet::from([often, INTERVAL]));
    assert_eq!(snapshot.due(&BTreeSet::from([INTERVAL]), INTERVAL), keys(&["a"]));
    assert_eq!(snapshot.due(&BTreeSet::from([often]), INTERVAL), keys(&["b"]));
    snapshot.forget(&object("often"));
    assert_eq!(snapshot.due(&BTreeSet::from([INTERVAL]), INTERVAL), keys(&["a", "b"]));
}

#[test]
fn an_event_concerns_keys_of_its_name_and_those_that_contain_its_document() {
    let mut snapshot = snapshot(&[("one", &["db"])]);
    let block = |block_type: &str, name: &str| RemoteKey::Block { block_type: block_type.into(), name: name.into() };
    let [bucket, credentials, same_name] = [block("s3-bucket", "data"), block("aws", "prod"), block("secret", "db")];
    let blocks = [&credentials, &bucket, &same_name].map(|key| (key.clone(), false));
    let mut blocks = blocks.to_vec();
    blocks.sort();
    snapshot.observe(&object("two"), Interest { keys: blocks, ..Interest::default() });
    let [aws, s3] = [1, 2].map(Uuid::from_u128);
    let (pass, _) = snapshot.begin_pass(&BTreeSet::new());
    let read = BTreeMap::from([
        (bucket.clone(), found_with("{}", &[s3, aws])),
        (credentials.clone(), found_with("{}", &[aws])),
    ]);
    merge_pass(&mut snapshot, pass, read, 0);
    assert_eq!(snapshot.announced(true, "prod", aws), BTreeSet::from([bucket.clone(), credentials]));
    assert_eq!(snapshot.announced(true, "renamed", s3), BTreeSet::from([bucket]));
    assert_eq!(snapshot.announced(true, "db", Uuid::nil()), BTreeSet::from([same_name]));
    assert_eq!(snapshot.announced(false, "db", Uuid::nil()), keys(&["db"]));
}
