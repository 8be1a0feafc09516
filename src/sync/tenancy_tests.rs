//! What several namespaces may ask of one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::api::{AccessRule, Source};
use crate::sync::access::{Labels, Rules};
use crate::sync::interest::Interest;
use crate::sync::query::Query;
use crate::sync::snapshot::{Merged, Numbers, Snapshot, Times};
use crate::sync::suggest::hints;
use crate::sync::{
    Access, Answer, Askers, Dependent, Document, Hints, Kind, Missing, Read, RemoteKey, Shape, Timestamp,
};

const INTERVAL: Duration = Duration::from_secs(30);

fn key(name: &str) -> RemoteKey {
    RemoteKey::Variable { name: name.into() }
}

fn listing() -> RemoteKey {
    RemoteKey::Listing(Box::new(Query { block_type: None, regexp: None, tags: Vec::new() }))
}

fn of(namespace: &str) -> Dependent {
    Dependent { kind: Kind::PrefectKV, namespace: namespace.into(), name: "etl".into() }
}

/// What the names say that begin with the namespace's.
fn access(namespace: &str) -> Access {
    let rule = AccessRule {
        namespaces: vec!["a".into(), "b".into()],
        keys: vec!["{namespace}-*".into()],
        ..AccessRule::default()
    };
    let namespaces = BTreeMap::from([("a".to_owned(), Labels::new()), ("b".to_owned(), Labels::new())]);
    Rules::new("prod", &[rule]).access(namespace, &namespaces)
}

fn interest(keys: &[RemoteKey], namespace: &str) -> Interest {
    let mut keys: Vec<(RemoteKey, bool)> = keys.iter().map(|key| (key.clone(), true)).collect();
    keys.sort();
    let mut interest = Interest { keys, well: true, ..Interest::default() };
    interest.limit(access(namespace));
    interest
}

fn value() -> Read {
    let document = Arc::new(Document::new(Zeroizing::new("1".to_owned()), Shape::Value));
    Read::Found { document, source: Source::Api, ids: Box::default() }
}

fn merge(snapshot: &mut Snapshot, reads: &[(RemoteKey, Read)], second: u64) -> Merged {
    let reads: BTreeMap<RemoteKey, Read> = reads.iter().cloned().collect();
    let (pass, _) = snapshot.begin_pass(&reads.keys().cloned().collect());
    let now = Timestamp::from_second(1_800_000_000 + i64::try_from(second).unwrap()).unwrap();
    let times = Times { asked: now, answered: now, at: Duration::from_secs(second) };
    snapshot.merge(&Numbers::only(pass), reads, BTreeMap::new(), times, INTERVAL)
}

fn confirmed(snapshot: &Snapshot, object: &Dependent, name: &str) -> bool {
    match &snapshot.readings(object)[&key(name)].answer {
        Some(Answer::Absent(absence)) => absence.confirmed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_what_a_listing_finds_each_namespace_gets_what_it_may_read() {
    let mut snapshot = Snapshot::default();
    for namespace in ["a", "b"] {
        snapshot.observe(&of(namespace), interest(&[listing()], namespace));
    }
    let names = ["a-x", "b-x", "c-x"];
    let mut reads: Vec<(RemoteKey, Read)> = names.iter().map(|name| (key(name), value())).collect();
    reads.push((listing(), Read::Listed(names.iter().map(|name| (*name).to_owned()).collect())));
    merge(&mut snapshot, &reads, 0);
    let readings = |of: &Dependent, snapshot: &Snapshot| -> BTreeSet<RemoteKey> {
        snapshot.readings(of).into_keys().filter(|key| *key != listing()).collect()
    };
    assert_eq!(readings(&of("a"), &snapshot), BTreeSet::from([key("a-x")]));
    assert_eq!(readings(&of("b"), &snapshot), BTreeSet::from([key("b-x")]));
    // Also one that comes when the listing is known; and what nobody may read is kept for nobody.
    snapshot.observe(&of("a"), interest(&[listing()], "a"));
    assert_eq!(readings(&of("a"), &snapshot), BTreeSet::from([key("a-x")]));
    assert!(!snapshot.due(&BTreeSet::from([INTERVAL]), INTERVAL).contains(&key("c-x")));
}

#[test]
fn what_may_not_be_read_any_more_is_forgotten_at_once() {
    let mut snapshot = Snapshot::default();
    snapshot.observe(&of("a"), interest(&[key("a-x"), key("a-y")], "a"));
    merge(&mut snapshot, &[(key("a-x"), value()), (key("a-y"), value())], 0);
    snapshot.limit(&of("a"), Access::nothing());
    assert!(snapshot.readings(&of("a")).is_empty());
    assert!(snapshot.due(&BTreeSet::from([INTERVAL]), INTERVAL).is_empty(), "nobody asks for it any more");
}

#[test]
fn what_was_long_absent_is_news_to_an_object_whose_target_holds_it() {
    let mut snapshot = Snapshot::default();
    let gone = |snapshot: &mut Snapshot, read: Read, second| merge(snapshot, &[(key("a-x"), read)], second);
    let other = Dependent { name: "other".into(), ..of("a") };
    let asking = |held: bool| {
        let mut interest = Interest { keys: vec![(key("a-x"), held)], well: true, ..Interest::default() };
        interest.limit(access("a"));
        interest
    };
    snapshot.observe(&of("a"), asking(false));
    gone(&mut snapshot, Read::NotFound, 0);
    gone(&mut snapshot, Read::NotFound, 40);
    assert!(confirmed(&snapshot, &of("a"), "a-x"));
    // One that holds nothing of it may believe it; one that does waits for two answers of its own.
    snapshot.observe(&other, asking(false));
    assert!(confirmed(&snapshot, &other, "a-x"));
    snapshot.forget(&other);
    snapshot.observe(&other, asking(true));
    assert!(!confirmed(&snapshot, &other, "a-x"));
    assert!(snapshot.take_forced().contains(&key("a-x")), "it is read at once");
    gone(&mut snapshot, Read::NotFound, 50);
    assert!(!confirmed(&snapshot, &other, "a-x"), "the absence is as old as this answer");
    let merged = gone(&mut snapshot, Read::NotFound, 80);
    assert!(merged.wake.contains(&other), "it is told once it may be believed");
    assert!(confirmed(&snapshot, &other, "a-x") && confirmed(&snapshot, &of("a"), "a-x"));
}

#[test]
fn what_vanished_together_stays_held_for_others_when_one_leaves_and_comes_back() {
    let mut snapshot = Snapshot::default();
    let names = ["a-1", "a-2", "a-3", "a-4"];
    let asking = |names: &[&str]| {
        let keys = names.iter().map(|name| (key(name), true)).collect();
        Interest { keys, well: true, ..Interest::default() }
    };
    let other = Dependent { name: "other".into(), ..of("b") };
    snapshot.observe(&of("a"), asking(&names));
    snapshot.observe(&other, asking(&names[..1]));
    let gone: Vec<(RemoteKey, Read)> = names.iter().map(|name| (key(name), Read::NotFound)).collect();
    for second in [0, 40, 3600] {
        merge(&mut snapshot, &gone, second);
    }
    let held = |snapshot: &Snapshot, name: &str| match &snapshot.readings(&of("a"))[&key(name)].answer {
        Some(Answer::Absent(absence)) => absence.held.is_in("a"),
        other => panic!("{other:?}"),
    };
    assert!(names.iter().all(|name| held(&snapshot, name)));
    snapshot.forget(&other);
    snapshot.observe(&other, asking(&names[..1]));
    for second in [3601, 3640, 3680] {
        merge(&mut snapshot, &gone, second);
        assert!(names.iter().all(|name| held(&snapshot, name)), "{second}");
    }
    // Who had gone finds it held, too: it is for all of them.
    assert!(
        matches!(&snapshot.readings(&other)[&key("a-1")].answer, Some(Answer::Absent(absence)) if absence.held.is_in("b"))
    );
}

#[test]
fn a_listing_wakes_those_who_may_read_what_came_or_went() {
    let mut snapshot = Snapshot::default();
    for namespace in ["a", "b"] {
        snapshot.observe(&of(namespace), interest(&[listing()], namespace));
    }
    let listed = |snapshot: &mut Snapshot, names: &[&str], second| {
        let mut reads: Vec<(RemoteKey, Read)> = names.iter().map(|name| (key(name), value())).collect();
        reads.push((listing(), Read::Listed(names.iter().map(|name| (*name).to_owned()).collect())));
        merge(snapshot, &reads, second).wake
    };
    assert_eq!(listed(&mut snapshot, &["a-x", "b-x"], 0), BTreeSet::from([of("a"), of("b")]));
    assert_eq!(listed(&mut snapshot, &["a-x", "a-y", "b-x"], 1), BTreeSet::from([of("a")]));
    assert_eq!(listed(&mut snapshot, &["a-x", "a-y"], 2), BTreeSet::from([of("b")]));
    // And so does what is asked: a pass names who looks.
    let (_, questions) = snapshot.begin_pass(&BTreeSet::from([listing(), key("a-x")]));
    let namespaces: Vec<&str> = questions.askers[&listing()].keys().map(|namespace| &**namespace).collect();
    assert_eq!((questions.askers.len(), namespaces), (1, vec!["a", "b"]));
}

#[test]
fn who_comes_later_is_told_what_was_meant_too_and_who_may_read_less_is_not_told_any_more() {
    let mut snapshot = Snapshot::default();
    snapshot.observe(&of("a"), interest(&[key("a-x")], "a"));
    let missing = BTreeMap::from([(key("a-x"), Read::NotFound)]);
    let asked = |snapshot: &Snapshot| -> Vec<String> {
        let askers = snapshot.unexplained(&missing).remove(&key("a-x")).unwrap_or_default();
        askers.keys().map(ToString::to_string).collect()
    };
    let explain = |snapshot: &mut Snapshot, namespace: &str, second: u64| {
        let (pass, _) = snapshot.begin_pass(&BTreeSet::from([key("a-x")]));
        let near = Missing::Variable { near: Some(format!("near-{namespace}")), no_dashes: false };
        let explained = BTreeMap::from([(key("a-x"), Hints::new([(namespace.into(), near)]))]);
        let now = Timestamp::from_second(1_800_000_000 + i64::try_from(second).unwrap()).unwrap();
        let times = Times { asked: now, answered: now, at: Duration::from_secs(second) };
        snapshot.merge(&Numbers::only(pass), missing.clone(), explained, times, INTERVAL)
    };
    assert_eq!(asked(&snapshot), ["a"]);
    explain(&mut snapshot, "a", 0);
    assert_eq!(asked(&snapshot), [""; 0], "asked for once");
    let mut whole = Interest { keys: vec![(key("a-x"), false)], ..Interest::default() };
    whole.limit(Access::default());
    snapshot.observe(&of("b"), whole);
    assert_eq!(asked(&snapshot), ["b"]);
    assert!(explain(&mut snapshot, "b", 1).wake.contains(&of("b")));
    let hints = |snapshot: &Snapshot| match &snapshot.readings(&of("a"))[&key("a-x")].answer {
        Some(Answer::Absent(absence)) => ["a", "b"].map(|namespace| absence.hints.has(namespace)),
        other => panic!("{other:?}"),
    };
    assert_eq!(hints(&snapshot), [true, true]);
    snapshot.limit(&of("a"), access("a"));
    assert_eq!(hints(&snapshot), [false, true]);
}

#[test]
fn a_hint_is_the_nearest_name_that_the_asker_may_read_whatever_else_there_is() {
    let askers: Askers = ["a", "b"].into_iter().map(|namespace| (namespace.into(), access(namespace))).collect();
    let told = |names: &[&str]| {
        let may = |access: &Access, near: &str| access.gives(None, near);
        let hints = hints(&askers, "a-password", names.iter().copied(), may, |_, near| Missing::Variable {
            near,
            no_dashes: false,
        });
        ["a", "b"].map(|namespace| match hints.of(namespace, &key("a-password")) {
            Missing::Variable { near, .. } => near,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(told(&["a-pasword"]), [Some("a-pasword".to_owned()), None]);
    // A nearer name that another may read changes nothing.
    assert_eq!(told(&["a-passwort-x", "b-password"]), [Some("a-passwort-x".to_owned()), Some("b-password".to_owned())]);
    assert_eq!(told(&["b-password"]), [None, Some("b-password".to_owned())]);
}
