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
use crate::sync::{Access, Answer, Askers, Dependent, Document, Kind, Missing, Read, RemoteKey, Shape, Timestamp};

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
fn what_was_long_absent_is_news_to_an_object_that_comes_from_another_workspace() {
    let mut snapshot = Snapshot::default();
    let gone = |snapshot: &mut Snapshot, read: Read, second| merge(snapshot, &[(key("a-x"), read)], second);
    snapshot.observe(&of("a"), interest(&[key("a-x")], "a"));
    gone(&mut snapshot, Read::NotFound, 0);
    gone(&mut snapshot, Read::NotFound, 40);
    assert!(confirmed(&snapshot, &of("a"), "a-x"));
    let other = Dependent { name: "other".into(), ..of("a") };
    snapshot.moved(&other, Duration::from_secs(50) + INTERVAL);
    snapshot.observe(&other, interest(&[key("a-x")], "a"));
    assert!(!confirmed(&snapshot, &other, "a-x"), "read before it came");
    assert!(gone(&mut snapshot, Read::StillAbsent, 79).wake.is_empty());
    assert!(!confirmed(&snapshot, &other, "a-x"), "29 s after it came");
    let merged = gone(&mut snapshot, Read::StillAbsent, 80);
    assert_eq!(merged.wake, BTreeSet::from([other.clone()]), "it is told once it may be believed");
    assert!(confirmed(&snapshot, &other, "a-x") && confirmed(&snapshot, &of("a"), "a-x"));
}

#[test]
fn a_hint_is_the_nearest_name_that_the_asker_may_read_whatever_else_there_is() {
    let askers: Askers = ["a", "b"].into_iter().map(|namespace| (namespace.into(), access(namespace))).collect();
    let told = |names: &[&str]| {
        let may = |access: &Access, near: &str| access.allows_named(None, near);
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
