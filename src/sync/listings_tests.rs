//! What `find` finds, and requests to read at once, in the snapshot of a workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::api::Source;
use crate::sync::interest::Interest;
use crate::sync::query::Query;
use crate::sync::snapshot::{Merged, Numbers, Snapshot, Times, matching};
use crate::sync::{Answer, Dependent, Document, Failure, Kind, Read, Reason, RemoteKey, Shape, Timestamp};

const INTERVAL: Duration = Duration::from_secs(30);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(name: &str) -> RemoteKey {
    RemoteKey::Variable { name: name.into() }
}

fn listing(regexp: &str) -> RemoteKey {
    RemoteKey::Listing(Box::new(Query { block_type: None, regexp: Some(regexp.into()), tags: Vec::new() }))
}

fn object(name: &str) -> Dependent {
    Dependent { kind: Kind::PrefectSecret, namespace: "flows".into(), name: name.into() }
}

/// An interest in a listing, and in these keys, which the target holds.
fn interest(regexp: &str, delivered: &[&str]) -> Interest {
    let mut keys: Vec<(RemoteKey, bool)> = delivered.iter().map(|name| (key(name), true)).collect();
    keys.push((listing(regexp), false));
    keys.sort();
    Interest { keys, well: true, ..Interest::default() }
}

fn value(raw: &str) -> Read {
    let document = Arc::new(Document::new(Zeroizing::new(raw.to_owned()), Shape::Value));
    Read::Found { document, source: Source::Api, ids: Box::default() }
}

fn listed(regexp: &str, names: &[&str]) -> BTreeMap<RemoteKey, Read> {
    let mut reads: BTreeMap<RemoteKey, Read> = names.iter().map(|name| (key(name), value("1"))).collect();
    reads.insert(listing(regexp), Read::Listed(names.iter().map(|name| (*name).to_owned()).collect()));
    reads
}

fn merge(snapshot: &mut Snapshot, reads: BTreeMap<RemoteKey, Read>, second: i64) -> Merged {
    let (pass, _) = snapshot.begin_pass(&reads.keys().cloned().collect());
    let times = Times { asked: at(second), answered: at(second), at: Duration::from_secs(second.unsigned_abs()) };
    snapshot.merge(&Numbers::only(pass), reads, BTreeMap::new(), times, INTERVAL)
}

#[test]
fn what_a_listing_finds_is_asked_for_by_all_who_ask_for_the_listing() {
    let mut snapshot = Snapshot::default();
    for name in ["a", "b"] {
        assert!(snapshot.observe(&object(name), interest("^etl", &[])).is_empty());
    }
    let merged = merge(&mut snapshot, listed("^etl", &["etl1", "etl2"]), 0);
    assert_eq!(merged.wake, BTreeSet::from([object("a"), object("b")]));
    assert!(snapshot.unread().is_empty(), "what was found was read with it");
    assert_eq!(snapshot.readings(&object("a")).len(), 3);
    // One that comes later has them at once.
    assert_eq!(snapshot.observe(&object("c"), interest("^etl", &[])).len(), 3);
    // The same again wakes nobody; one more wakes all.
    assert!(merge(&mut snapshot, listed("^etl", &["etl1", "etl2"]), 1).wake.is_empty());
    assert_eq!(merge(&mut snapshot, listed("^etl", &["etl1", "etl2", "etl3"]), 2).wake.len(), 3);
    for name in ["a", "b", "c"] {
        snapshot.forget(&object(name));
    }
    assert!(snapshot.keys.is_empty(), "nobody asks for anything any more");
}

#[test]
fn what_is_missing_in_a_listing_is_a_key_as_long_as_the_target_holds_it() {
    let mut snapshot = Snapshot::default();
    snapshot.observe(&object("a"), interest("^etl", &["etl1", "etl2"]));
    let mut reads = listed("^etl", &["etl1"]);
    reads.insert(key("etl2"), Read::NotFound);
    merge(&mut snapshot, reads, 0);
    assert!(matches!(snapshot.readings(&object("a"))[&key("etl2")].answer, Some(Answer::Absent(_))));
    // Let go, once the target does not hold it.
    snapshot.note(&object("a"), interest("^etl", &["etl1"]));
    assert!(!snapshot.keys.contains_key(&key("etl2")));
    assert!(snapshot.keys.contains_key(&key("etl1")), "it is still found");
}

#[test]
fn an_announced_name_has_the_listing_read_only_where_it_is_new_to_it() {
    let mut snapshot = Snapshot::default();
    snapshot.observe(&object("a"), interest("^etl", &[]));
    merge(&mut snapshot, listed("^etl", &["etl1"]), 0);
    let announced = |name| matching(snapshot.announced(false, name, Uuid::nil()), name);
    assert_eq!(announced("etl1"), BTreeSet::from([key("etl1")]));
    assert_eq!(announced("etl2"), BTreeSet::from([listing("^etl")]));
    assert_eq!(announced("other"), BTreeSet::new());
    assert_eq!(snapshot.announced(true, "etl2", Uuid::nil()), BTreeSet::new(), "a block is no variable");
    // The others of the object are read with it, but the listing is not.
    let portions = snapshot.portions(&BTreeSet::from([key("etl1")]), true);
    assert_eq!(portions, [BTreeSet::from([key("etl1")])]);
}

#[test]
fn a_listing_and_what_it_finds_are_one_portion_however_many_share_them() {
    let mut snapshot = Snapshot::default();
    for n in 0..40 {
        snapshot.observe(&object(&format!("o{n}")), interest("^etl", &[]));
    }
    let names: Vec<String> = (0..500).map(|n| format!("etl{n:03}")).collect();
    merge(&mut snapshot, listed("^etl", &names.iter().map(String::as_str).collect::<Vec<_>>()), 0);
    let due = snapshot.due(&BTreeSet::from([INTERVAL]), INTERVAL);
    assert_eq!(due.len(), 501);
    assert_eq!(snapshot.portions(&due, false), std::slice::from_ref(&due));
}

#[test]
fn a_request_to_read_at_once_is_done_when_all_keys_were_asked_for_again() {
    let mut snapshot = Snapshot::default();
    let keys = vec![(key("a"), true), (key("b"), true)];
    let asking =
        |token: Option<&str>| Interest { keys: keys.clone(), refresh: token.map(Box::from), ..Interest::default() };
    snapshot.observe(&object("o"), asking(None));
    let both = || BTreeMap::from([(key("a"), value("1")), (key("b"), value("1"))]);
    merge(&mut snapshot, both(), 0);
    assert!(!snapshot.has_forced());
    let (under_way, _) = snapshot.begin_pass(&both().into_keys().collect());
    snapshot.observe(&object("o"), asking(Some("now")));
    let times = Times { asked: at(0), answered: at(1), at: Duration::from_secs(1) };
    snapshot.merge(&Numbers::only(under_way), both(), BTreeMap::new(), times, INTERVAL);
    assert_eq!(snapshot.refreshed(&object("o")), None, "that pass began before the request");
    assert_eq!(snapshot.take_forced(), BTreeSet::from([key("a"), key("b")]));
    assert_eq!(snapshot.refreshed(&object("o")), None);
    // Observed again it is the same request.
    snapshot.observe(&object("o"), asking(Some("now")));
    assert!(!snapshot.has_forced());
    assert!(merge(&mut snapshot, BTreeMap::from([(key("a"), value("1"))]), 1).wake.is_empty());
    // A key that can't be read was asked for all the same.
    let failure =
        Failure { reason: Reason::PrefectRejected, message: String::new(), since: at(2), workspace_wide: false };
    let merged = merge(&mut snapshot, BTreeMap::from([(key("b"), Read::Failed(failure))]), 2);
    assert!(merged.wake.contains(&object("o")));
    assert_eq!(snapshot.refreshed(&object("o")).as_deref(), Some("now"));
    // Said once (b can be read again, which wakes it); and forgotten when the status has it.
    merge(&mut snapshot, both(), 3);
    assert!(merge(&mut snapshot, both(), 4).wake.is_empty(), "said once");
    snapshot.note(&object("o"), asking(None));
    assert_eq!(snapshot.refreshed(&object("o")), None);
}

#[test]
fn through_an_outage_a_request_waits() {
    let mut snapshot = Snapshot::default();
    let asking = Interest { keys: vec![(key("a"), true)], refresh: Some("now".into()), ..Interest::default() };
    snapshot.observe(&object("o"), asking);
    let failure =
        Failure { reason: Reason::PrefectUnreachable, message: String::new(), since: at(0), workspace_wide: true };
    snapshot.begin_outage(failure);
    assert_eq!(snapshot.refreshed(&object("o")), None);
    merge(&mut snapshot, BTreeMap::from([(key("a"), value("1"))]), 1);
    snapshot.end_outage();
    assert_eq!(snapshot.refreshed(&object("o")).as_deref(), Some("now"));
}
