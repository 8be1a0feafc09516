//! `dataFrom`: what is found, what it is called, what overrides what, and that nothing goes before it is confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::world::{World, pairs, variable};
use super::*;
use crate::api::{Decoding, EntryState, Source as From};
use crate::sync::layout::Format;
use crate::sync::query::Query;
use crate::sync::source::{Rewrite, Selection, Source};
use crate::sync::template::Template;
use crate::sync::{Answer, Document, Reading, Shape};

fn find(regexp: &str) -> Source {
    let query = Query { block_type: None, regexp: Some(regexp.into()), tags: Vec::new() };
    Source {
        selection: Selection::Find(query),
        property: None,
        rewrite: Vec::new(),
        decoding: Decoding::None,
        optional: false,
    }
}

fn extract(name: &str, include: &[&str]) -> Source {
    let include = include.iter().map(|name| (*name).to_owned()).collect();
    Source { selection: Selection::Extract { remote: variable(name), include }, ..find("") }
}

fn regexp(source: &str, target: &str) -> Rewrite {
    Rewrite::Regexp { source: source.into(), target: target.into() }
}

/// Prefect has these variables, each with its name as its value.
fn listed(world: &mut World, source: &Source, names: &[&str]) {
    let listing = names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let reading = Reading { answer: Some(Answer::Listed(Arc::new(listing))), failure: None, passes: (1, 1) };
    world.readings.insert(source.remote(), reading);
    for name in names {
        world.found(name, &format!("\"{name}\""));
    }
}

fn world(sources: &[Source]) -> World {
    let mut world = World::new(&[]);
    world.object.sources = sources.to_vec();
    world
}

/// One entry that reads the variable of its name.
fn data(world: &mut World, key: &str) {
    world.object.entries.extend(World::new(&[key]).object.entries);
}

#[test]
fn what_matches_is_delivered_under_its_rewritten_name() {
    let source = Source { rewrite: vec![regexp("^etl-", ""), Rewrite::EnvName], ..find("^etl-") };
    let mut world = world(std::slice::from_ref(&source));
    listed(&mut world, &source, &["etl-db-url", "etl-user"]);
    world.found("other", "\"x\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("DB_URL", "etl-db-url"), ("USER", "etl-user")]));
    assert_eq!(world.status.keys.as_deref(), Some("2/2"));
    assert_eq!(world.status.found[0].names, ["etl-db-url", "etl-user"]);
    assert_eq!(world.status.entries[0].from.as_deref(), Some("variable \"etl-db-url\""));
}

#[test]
fn a_member_that_is_missing_stays_until_that_is_confirmed_also_after_a_restart() {
    let source = find("^etl-");
    let mut world = world(std::slice::from_ref(&source));
    listed(&mut world, &source, &["etl-a", "etl-b"]);
    world.settle();
    // After a restart nothing is known but what the status says.
    world.readings.clear();
    listed(&mut world, &source, &["etl-b"]);
    assert_eq!(world.plan().target, TargetAction::Keep, "etl-a was not asked for by name yet");
    world.gone("etl-a", false, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("etl-a", "etl-a"), ("etl-b", "etl-b")]));
    assert!(world.ready(), "{}", world.message());
    world.gone("etl-a", true, true);
    world.settle();
    assert_eq!(world.data().len(), 2, "most vanished together: it is held");
    assert_eq!(world.reason(), "KeysVanished");
    world.gone("etl-a", true, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("etl-b", "etl-b")]));
    assert!(world.ready(), "a member that is gone is no problem");
    assert_eq!(world.status.found[0].names, ["etl-b"]);
}

#[test]
fn a_page_that_shifted_loses_nothing() {
    let source = find("^etl-");
    let mut world = world(std::slice::from_ref(&source));
    listed(&mut world, &source, &["etl-a", "etl-b"]);
    world.settle();
    // The listing lacks it, and by name it is there.
    listed(&mut world, &source, &["etl-b"]);
    world.found("etl-a", "\"new\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("etl-a", "new"), ("etl-b", "etl-b")]));
}

#[test]
fn a_find_that_finds_nothing_is_a_condition_unless_that_may_be() {
    let mut source = find("^etl-");
    let mut unhappy = world(std::slice::from_ref(&source));
    listed(&mut unhappy, &source, &[]);
    unhappy.settle();
    assert!(unhappy.target.is_none());
    assert_eq!(unhappy.reason(), "NothingFound");
    assert_eq!(
        unhappy.message(),
        "there are no variables whose name matches \"^etl-\" in workspace default; correct find, or set find.optional if that may be. The target is not written until this is solved"
    );
    assert_eq!(unhappy.status.entries[0].key, "dataFrom[0]");

    source.optional = true;
    let mut happy = world(std::slice::from_ref(&source));
    data(&mut happy, "A");
    listed(&mut happy, &source, &[]);
    happy.found("A", "\"1\"");
    happy.settle();
    assert_eq!(happy.data(), pairs(&[("A", "1")]));
    assert!(happy.ready(), "{}", happy.message());
}

#[test]
fn when_the_last_member_goes_the_rest_follows_and_the_object_says_so() {
    let source = find("^etl-");
    let mut world = world(std::slice::from_ref(&source));
    data(&mut world, "A");
    listed(&mut world, &source, &["etl-a"]);
    world.found("A", "\"1\"");
    world.settle();
    listed(&mut world, &source, &[]);
    world.gone("etl-a", true, false);
    world.found("A", "\"2\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "2")]));
    world.target = None;
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "2")]), "it comes back though nothing is found");
    world.readings.remove(&variable("etl-a"));
    world.settle();
    assert_eq!(world.reason(), "NothingFound");
    assert_eq!(world.data(), pairs(&[("A", "2")]));
}

#[test]
fn later_ones_override_earlier_ones_and_data_overrides_all() {
    let (first, second) = (find("^etl-"), extract("config", &[]));
    let mut world = world(&[first.clone(), second]);
    data(&mut world, "etl-b");
    world.object.entries[0].remote = variable("mine");
    listed(&mut world, &first, &["etl-a", "etl-b", "etl-c"]);
    world.found("config", r#"{"etl-c": "from config", "port": 5432, "unset": null}"#);
    world.found("mine", "\"mine\"");
    world.settle();
    let expected = [("etl-a", "etl-a"), ("etl-b", "mine"), ("etl-c", "from config"), ("port", "5432")];
    assert_eq!(world.data(), pairs(&expected));
    // What may be absent, and is, overrides nothing.
    world.object.entries[0].optional = true;
    world.gone("mine", true, false);
    world.settle();
    assert_eq!(world.data()["etl-b"], "etl-b");
    assert_eq!(world.status.keys.as_deref(), Some("4/4"));
}

#[test]
fn a_clash_inside_one_source_names_both_and_an_illegal_key_names_the_entry() {
    let source = Source { rewrite: vec![Rewrite::EnvName], ..find("^etl") };
    let mut clash = world(std::slice::from_ref(&source));
    listed(&mut clash, &source, &["etl-a", "etl_a"]);
    clash.settle();
    assert_eq!(clash.reason(), "KeyClash");
    assert!(
        clash.message().starts_with(
            "variable \"etl-a\" and variable \"etl_a\" both become the key \"ETL_A\"; correct dataFrom[].rewrite."
        ),
        "{}",
        clash.message()
    );
    assert!(clash.target.is_none());

    let source = extract("config", &[]);
    let mut illegal = world(&[source]);
    illegal.found("config", r#"{"a b": 1}"#);
    illegal.settle();
    assert_eq!(illegal.reason(), "KeyInvalid");
    assert!(
        illegal.message().starts_with("\"a b\" in variable \"config\" gives \"a b\" is no legal key"),
        "{}",
        illegal.message()
    );
}

#[test]
fn an_included_member_is_like_an_entry_of_its_own() {
    let mut world = world(&[extract("config", &["user", "password"])]);
    world.found("config", r#"{"user": "u", "password": "p", "more": 1}"#);
    world.settle();
    assert_eq!(world.data(), pairs(&[("user", "u"), ("password", "p")]));
    world.found("config", r#"{"user": "u2", "password": null}"#);
    world.settle();
    assert_eq!(world.data(), pairs(&[("user", "u2"), ("password", "p")]), "it keeps its last value, the rest follows");
    assert_eq!(world.reason(), "PropertyNotFound");
    world.object.sources[0].optional = true;
    world.settle();
    assert_eq!(world.data(), pairs(&[("user", "u2")]));
    assert!(world.ready());
}

#[test]
fn an_object_to_extract_from_that_is_gone_leaves_the_target_as_it_is_under_retain() {
    let mut world = world(&[extract("config", &[])]);
    data(&mut world, "A");
    world.found("A", "\"1\"");
    world.found("config", r#"{"x": "1"}"#);
    world.settle();
    world.gone("config", true, false);
    world.found("A", "\"2\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "1"), ("x", "1")]));
    assert_eq!(world.reason(), "KeyNotFound");
    // Back, and then gone where that may be: not before it is confirmed.
    world.found("config", r#"{"x": "1"}"#);
    world.object.sources[0].optional = true;
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "2"), ("x", "1")]));
    world.gone("config", false, false);
    world.found("A", "\"3\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "2"), ("x", "1")]));
    assert!(world.ready());
    world.gone("config", true, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "3")]));
    assert!(world.ready());
}

#[test]
fn under_delete_the_members_of_an_object_that_is_gone_go() {
    let mut world = world(&[extract("config", &[])]);
    world.object.deletion_policy = DeletionPolicy::Delete;
    data(&mut world, "A");
    world.found("A", "\"1\"");
    world.found("config", r#"{"x": "1"}"#);
    world.settle();
    world.gone("config", false, false);
    world.settle();
    assert_eq!(world.data().len(), 2);
    world.gone("config", true, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "1")]));
    assert_eq!(world.reason(), "KeyNotFound");
}

#[test]
fn tags_decide_who_is_a_member() {
    let source = Source {
        selection: Selection::Find(Query { block_type: None, regexp: None, tags: vec!["etl".into()] }),
        ..find("")
    };
    let mut world = world(std::slice::from_ref(&source));
    listed(&mut world, &source, &["a", "b"]);
    let tagged = |tags: &[&str]| {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let document = Arc::new(Document::new(Zeroizing::new("\"1\"".to_owned()), Shape::Tagged { tags }));
        Reading { answer: Some(Answer::Found { document, source: From::Api }), failure: None, passes: (1, 1) }
    };
    world.readings.insert(variable("a"), tagged(&["etl", "x"]));
    world.readings.insert(variable("b"), tagged(&["etl"]));
    world.settle();
    assert_eq!(world.data(), pairs(&[("a", "1"), ("b", "1")]));
    // It lost its tag: by name it is there, but it is no member.
    listed(&mut world, &source, &["a"]);
    world.readings.insert(variable("a"), tagged(&["etl", "x"]));
    world.readings.insert(variable("b"), tagged(&["x"]));
    world.settle();
    assert_eq!(world.data(), pairs(&[("a", "1")]));
}

#[test]
fn thousands_of_entries_keep_the_status_small_and_what_is_wrong_is_said() {
    let source = find("^k");
    let mut world = world(std::slice::from_ref(&source));
    let names: Vec<String> = (0..3000).map(|n| format!("k{n:04}")).collect();
    listed(&mut world, &source, &names.iter().map(String::as_str).collect::<Vec<_>>());
    world.settle();
    assert_eq!(world.status.keys.as_deref(), Some("3000/3000"));
    assert_eq!(world.status.counts.unwrap().synced, 3000);
    assert_eq!(world.status.entries.len(), 100);
    let size = serde_json::to_string(&world.status).unwrap().len();
    assert!(size < 100_000, "{size} bytes");
    world.object.sources[0].decoding = Decoding::Base64;
    for n in 0..3000 {
        world.found(&format!("k{n:04}"), if n < 2990 { "\"aGk=\"" } else { "\"-\"" });
    }
    world.settle();
    assert_eq!(world.status.keys.as_deref(), Some("0/3000"));
    assert_eq!(world.status.counts.unwrap().retained, 3000, "the target keeps them all");
    let wrong = world.status.entries.iter().take(10).filter(|entry| entry.reason.as_deref() == Some("DecodingFailed"));
    assert_eq!(wrong.count(), 10, "what is wrong first");
    assert!(world.status.entries.iter().all(|entry| entry.state == EntryState::Retained));
}

#[test]
fn more_than_five_thousand_entries_are_too_many() {
    let source = find("^k");
    let mut world = world(std::slice::from_ref(&source));
    let names: Vec<String> = (0..5001).map(|n| format!("k{n:04}")).collect();
    listed(&mut world, &source, &names.iter().map(String::as_str).collect::<Vec<_>>());
    world.settle();
    assert_eq!(world.reason(), "TargetTooLarge");
    assert!(world.message().contains("5001 entries"), "{}", world.message());
}

#[test]
fn an_object_that_became_empty_is_a_condition_and_empties_nothing() {
    for (policy, left) in [(DeletionPolicy::Retain, 1), (DeletionPolicy::Delete, 0)] {
        let mut world = world(&[extract("config", &[])]);
        world.object.deletion_policy = policy;
        world.found("config", r#"{"x": "1"}"#);
        world.settle();
        world.found("config", r#"{"x": null}"#);
        world.settle();
        assert_eq!(world.reason(), "PropertyNotFound", "{policy:?}");
        assert_eq!(world.data().len(), left, "{policy:?}");
    }
}

#[test]
fn a_mistyped_source_removes_nothing() {
    for policy in [DeletionPolicy::Retain, DeletionPolicy::Delete] {
        let good = find("^etl-");
        let mut world = world(std::slice::from_ref(&good));
        world.object.deletion_policy = policy;
        listed(&mut world, &good, &["etl-a", "etl-b"]);
        world.settle();
        let mistyped = find("^elt-");
        world.object.sources = vec![mistyped.clone()];
        listed(&mut world, &mistyped, &[]);
        world.settle();
        assert_eq!(world.reason(), "NothingFound");
        assert_eq!(world.data().len(), 2, "{policy:?}");
        world.object.sources = vec![extract("nope", &[])];
        world.gone("nope", true, false);
        world.settle();
        assert_eq!(world.reason(), "KeyNotFound");
        assert_eq!(world.data().len(), 2, "{policy:?}");
    }
}

#[test]
fn a_name_that_is_not_looked_for_any_more_is_not_read() {
    let source = find("^etl-");
    let mut world = world(std::slice::from_ref(&source));
    listed(&mut world, &source, &["etl-a", "etl-x"]);
    world.settle();
    world.object.sources = vec![find("^etl-a")];
    let interest = Interest::of(&world.object, &world.status);
    assert!(interest.remote_keys().all(|key| *key != variable("etl-x")));
}

#[test]
fn what_an_outage_interrupts_is_remembered() {
    let mut world = world(&[extract("config", &["a", "b"])]);
    world.object.deletion_policy = DeletionPolicy::Delete;
    world.found("config", r#"{"a": "1", "b": "1"}"#);
    world.settle();
    world.found("config", r#"{"a": "1"}"#);
    world.settle();
    assert_eq!(world.data(), pairs(&[("a", "1")]));
    world.fails("config", true);
    world.settle();
    world.found("config", r#"{"a": "2"}"#);
    world.settle();
    assert_eq!(world.data(), pairs(&[("a", "2")]), "the rest follows on");
}

#[test]
fn what_the_status_does_not_speak_of_is_confirmed_before_it_goes() {
    // A restored cluster: the target is ours, the status is empty.
    for optional in [false, true] {
        let mut world = World::synced(&["A", "B"]);
        world.object.deletion_policy = DeletionPolicy::Delete;
        world.object.entries[0].optional = optional;
        world.status = SyncStatus::default();
        world.gone("A", true, false);
        world.step();
        assert_eq!(world.data().len(), 2, "optional: {optional}");
        let interest = Interest::of(&world.object, &world.status);
        assert_eq!(interest.holds(&variable("A")), Some(true), "now it is known to be there");
    }
}

#[test]
fn an_unconfirmed_absence_gives_nothing_to_what_it_overrides() {
    let source = find("^A$");
    let mut world = world(std::slice::from_ref(&source));
    world.object.format = Format::Json { key: "x".into() };
    data(&mut world, "A");
    world.object.entries[0].remote = variable("own");
    world.object.entries[0].optional = true;
    listed(&mut world, &source, &["A"]);
    world.found("own", "\"mine\"");
    world.settle();
    world.gone("own", false, false);
    world.settle();
    assert!(world.data()["x"].contains("mine"));
    world.gone("own", true, false);
    world.settle();
    assert_eq!(world.data()["x"], "{\n  \"A\": \"A\"\n}\n", "what it overrode comes through");
}

proptest::proptest! {
    /// Rendering is deterministic, and planning again after writing asks for nothing, whatever is found.
    #[test]
    fn rendering_is_deterministic_and_planning_again_is_empty(
        values in proptest::collection::btree_map("[a-c]{1,2}-[a-c]{1,2}", "\\PC{0,12}", 0..12),
        format in 0_usize..5,
        env in proptest::bool::ANY,
        template in proptest::bool::ANY,
    ) {
        let source = Source { rewrite: if env { vec![Rewrite::EnvName] } else { Vec::new() }, optional: true, ..find(".") };
        let mut world = world(std::slice::from_ref(&source));
        data(&mut world, "own");
        world.found("own", "\"own\"");
        listed(&mut world, &source, &values.keys().map(String::as_str).collect::<Vec<_>>());
        for (name, value) in &values {
            world.found(name, &serde_json::to_string(value).unwrap());
        }
        let key = "file".to_owned();
        world.object.format = [
            Format::Plain,
            Format::Json { key: key.clone() },
            Format::DotEnv { key: key.clone() },
            Format::Prefect1Context,
            Format::Prefect1ConfigToml { key },
        ][format].clone();
        if template {
            let templates = BTreeMap::from([("all".to_owned(), "{% for name, value in data | items %}{{ name }}={{ value | tojson }}\n{% endfor %}".to_owned())]);
            world.object.templates = Some(Template { templates, merge: true, brackets: false });
        }
        let (one, other) = (format!("{:?}", world.plan()), format!("{:?}", world.plan()));
        assert_eq!(one, other);
        world.settle();
        let before = world.data();
        world.target = None;
        world.settle();
        assert_eq!(world.data(), before, "the same again");
    }
}
