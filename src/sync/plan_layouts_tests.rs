//! Templates, formats and decoding, and what they mean for a value that has to stay.

use std::collections::BTreeMap;

use super::world::{World, pairs};
use super::*;
use crate::api::Decoding;
use crate::sync::layout::Format;
use crate::sync::template::Template;

#[test]
fn what_a_file_holds_of_an_entry_that_is_gone_keeps_the_whole_file() {
    for optional in [false, true] {
        let mut world = World::new(&["A", "B"]);
        world.object.format = Format::Json { key: "settings.json".into() };
        world.object.entries[0].optional = optional;
        world.found("A", "\"1\"");
        world.found("B", "\"1\"");
        world.settle();
        let before = world.data();
        world.gone("A", false, false);
        world.found("B", "\"2\"");
        world.settle();
        assert_eq!(world.data(), before, "optional: {optional}");
        assert_eq!(world.ready(), optional, "{}", world.message());
        world.gone("A", true, false);
        world.settle();
        if optional {
            assert_eq!(world.data()["settings.json"], "{\n  \"B\": \"2\"\n}\n");
            assert!(world.ready());
        } else {
            assert_eq!(world.data(), before);
            assert!(!world.ready());
        }
    }
}

#[test]
fn templates_replace_the_entries_or_are_merged_with_them() {
    let mut world = World::new(&["USER", "PASSWORD"]);
    let templates = BTreeMap::from([("url".to_owned(), "db://{{ USER }}:{{ PASSWORD | urlencode }}@x".to_owned())]);
    world.object.templates = Some(Template { templates, ..Template::default() });
    world.found("USER", "\"u\"");
    world.found("PASSWORD", "\"p/w\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("url", "db://u:p%2Fw@x")]));
    world.object.templates.as_mut().unwrap().merge = true;
    world.settle();
    assert_eq!(world.data(), pairs(&[("url", "db://u:p%2Fw@x"), ("USER", "u"), ("PASSWORD", "p/w")]));
    // What is kept alone is still there for the template.
    world.gone("USER", true, false);
    world.found("PASSWORD", "\"new\"");
    world.settle();
    assert_eq!(world.data(), pairs(&[("url", "db://u:new@x"), ("USER", "u"), ("PASSWORD", "new")]));
}

#[test]
fn a_template_that_fails_leaves_the_target_untouched_and_says_where() {
    let mut world = World::synced(&["A"]);
    let templates = BTreeMap::from([("x".to_owned(), "{{ A }}{{ B }}".to_owned())]);
    world.object.templates = Some(Template { templates, ..Template::default() });
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1")]));
    assert_eq!(world.reason(), "TemplateFailed");
    assert!(
        world.message().starts_with("spec.target.template \"x\", line 1: there is no entry \"B\"; there is A."),
        "{}",
        world.message()
    );
}

#[test]
fn base64_is_decoded_and_what_is_none_fails() {
    let mut world = World::new(&["A"]);
    world.object.entries[0].decoding = Decoding::Base64;
    world.found("A", "\"_wA\"");
    world.settle();
    assert_eq!(*world.target.as_ref().unwrap().data["A"], vec![0xff, 0x00]);
    for bad in ["\"p/w:\"", "{}"] {
        world.found("A", bad);
        world.settle();
        assert_eq!(world.reason(), "DecodingFailed");
    }
    assert_eq!(*world.target.as_ref().unwrap().data["A"], vec![0xff, 0x00]);
}

#[test]
fn under_delete_the_object_goes_with_its_last_entry_whatever_the_layout() {
    let templates = BTreeMap::from([("x".to_owned(), "{{ A }}".to_owned())]);
    let layouts = [
        (Format::Json { key: "x".into() }, None),
        (Format::DockerConfigJson, None),
        (Format::Plain, Some(Template { templates, ..Template::default() })),
    ];
    for (format, templates) in layouts {
        let mut world = World::new(&["A", "username", "password", "registry_url"]);
        world.object.deletion_policy = DeletionPolicy::Delete;
        (world.object.format, world.object.templates) = (format.clone(), templates);
        for entry in world.object.entries.clone() {
            world.found(&entry.key, "\"1\"");
        }
        world.settle();
        for entry in world.object.entries.clone() {
            world.gone(&entry.key, true, false);
        }
        let plan = world.settle();
        assert!(matches!(plan.target, TargetAction::Delete { .. }), "{format:?}: {}", world.message());
        assert_eq!(world.reason(), "KeyNotFound");
    }
}

#[test]
fn a_value_of_another_layout_is_not_kept() {
    let mut world = World::synced(&["A"]);
    world.gone("A", true, false);
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1")]));
    world.object.format = Format::Prefect1Context;
    world.object.generation = Some(2);
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "A-1")]), "untouched: what it holds is not what Prefect 1 would read");
    assert!(!world.ready());
    world.found("A", "\"A-2\"");
    world.settle();
    assert_eq!(world.data()["A"], r#""\"\\\"A-2\\\"\"""#);
    world.gone("A", true, false);
    world.settle();
    assert_eq!(world.data()["A"], r#""\"\\\"A-2\\\"\"""#, "kept as it is");
}

#[test]
fn a_default_for_prefect_1_is_planned_once() {
    let mut world = World::new(&["A"]);
    world.object.format = Format::Prefect1Context;
    world.object.entries[0].default = Some("x".into());
    world.gone("A", false, false);
    world.settle();
    assert!(world.ready(), "{}", world.message());
    assert_eq!(world.data()["A"], r#""\"\\\"x\\\"\"""#);
}

#[test]
fn what_a_template_made_is_no_value_of_an_entry() {
    let mut world = World::synced(&["A", "B"]);
    let template = |key: &str| Template {
        templates: BTreeMap::from([(key.to_owned(), "x{{ B }}".to_owned())]),
        merge: true,
        brackets: false,
    };
    world.object.templates = Some(template("A"));
    world.settle();
    assert_eq!(world.data()["A"], "xB-1");
    world.object.templates = Some(template("C"));
    world.object.generation = Some(2);
    world.gone("A", true, false);
    world.settle();
    world.settle();
    assert_eq!(world.data(), pairs(&[("A", "xB-1"), ("B", "B-1")]), "untouched until A is there again");
}
