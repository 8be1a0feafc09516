use std::sync::Arc;

use super::*;
use crate::sync::Timestamp;
use crate::sync::{Held, Hints};

const ASKING: Asking<'static> = Asking { workspace: "prod", namespace: "flows" };

fn entry(remote: RemoteKey, property: Option<&str>) -> Entry {
    Entry {
        key: "KEY".into(),
        remote,
        property: Property::of(property.map(str::to_owned).as_ref()),
        optional: false,
        default: None,
        decoding: Decoding::None,
    }
}

fn block(block_type: &str, name: &str) -> RemoteKey {
    RemoteKey::Block { block_type: block_type.into(), name: name.into() }
}

fn variable(name: &str) -> RemoteKey {
    RemoteKey::Variable { name: name.into() }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The outcome in a word: the value, or the reason and message.
fn outcome(remote: RemoteKey, property: Option<&str>, raw: &str, shape: Shape) -> String {
    let document = Document::new(Zeroizing::new(raw.to_owned()), shape);
    let answer = Answer::Found { document: Arc::new(document), source: Source::Api };
    show(resolve(&entry(remote, property), &answer, ASKING))
}

fn show(outcome: Outcome) -> String {
    match outcome {
        Outcome::Value { content, .. } => String::from_utf8(content.bytes.to_vec()).unwrap(),
        Outcome::Absent { reason, message, firm } => format!("absent {reason} firm={firm}: {message}"),
        Outcome::Failed { reason, message } => format!("failed {reason}: {message}"),
    }
}

fn secret(property: Option<&str>, raw: &str) -> String {
    let shape = Shape::Block { secret_fields: strings(&["value"]), fields: strings(&["value"]) };
    outcome(block("secret", "x"), property, raw, shape)
}

fn aws(property: Option<&str>, raw: &str) -> String {
    let shape = Shape::Block {
        secret_fields: strings(&["aws_secret_access_key"]),
        fields: strings(&["aws_access_key_id", "aws_secret_access_key", "region_name"]),
    };
    outcome(block("aws-credentials", "prod-aws"), property, raw, shape)
}

#[test]
fn a_secret_block_is_its_value_exactly() {
    assert_eq!(secret(None, r#"{"value":"hunter2"}"#), "hunter2");
    assert_eq!(secret(None, r#"{"value":1.50}"#), "1.50");
    assert_eq!(secret(None, r#"{"value":{"b":1,"a":1E5}}"#), r#"{"b":1,"a":1E5}"#);
    assert_eq!(secret(None, r#"{"value":null}"#), "null", "null as a whole value is the value null");
    assert_eq!(secret(Some("user"), r#"{"value":"{\"user\":\"bob\"}"}"#), "bob", "JSON in a string is looked into");
    assert_eq!(secret(None, "{}"), "failed ValueInvalid: secret block \"x\" has no value; set one in Prefect");
}

#[test]
fn another_block_is_all_of_its_fields_or_one() {
    let raw = r#"{"aws_access_key_id":"AKIA","aws_secret_access_key":"s","region_name":null}"#;
    assert_eq!(aws(None, raw), raw);
    assert_eq!(aws(Some("aws_secret_access_key"), raw), "s");
    assert_eq!(
        aws(Some("region_name"), raw),
        "absent PropertyNotFound firm=true: aws-credentials block \"prod-aws\" has no value at \"region_name\": it is unset in Prefect"
    );
    assert_eq!(
        aws(Some("secret_key"), raw),
        "failed PropertyNotFound: aws-credentials block \"prod-aws\" has no \"secret_key\"; it has aws_access_key_id, aws_secret_access_key, region_name"
    );
}

#[test]
fn names_inside_a_secret_are_never_told() {
    let told = secret(Some("missing"), r#"{"value":"{\"canary-name\":\"canary-value\"}"}"#);
    assert_eq!(
        told,
        "absent PropertyNotFound firm=true: secret block \"x\" has nothing at \"missing\"; correct remoteRef.property, or add it in Prefect"
    );
}

#[test]
fn a_masked_value_is_refused_and_its_unmasked_neighbour_is_not() {
    let masked = r#"{"aws_access_key_id":"AKIA","aws_secret_access_key":"********"}"#;
    let refused = "failed ValueMasked: Prefect returned ******** for aws-credentials block \"prod-aws\": these credentials may not see secret values; give their role that permission";
    assert_eq!(aws(None, masked), refused);
    assert_eq!(aws(Some("aws_secret_access_key"), masked), refused);
    assert_eq!(aws(Some("aws_access_key_id"), masked), "AKIA");
    assert!(secret(None, r#"{"value":"********"}"#).starts_with("failed ValueMasked"));
    assert!(secret(Some("user"), r#"{"value":"********"}"#).starts_with("failed ValueMasked"), "not NotJson");
    assert!(secret(Some("user"), r#"{"value":{"user":"********"}}"#).starts_with("failed ValueMasked"));
}

#[test]
fn a_variable_may_hold_eight_asterisks() {
    assert_eq!(outcome(variable("v"), None, r#""********""#, Shape::Value), "********");
}

#[test]
fn bad_paths_and_text_that_is_no_json_say_so() {
    assert!(
        secret(Some("a..b"), r#"{"value":"x"}"#).starts_with("failed PropertyInvalid: property \"a..b\" is no path")
    );
    assert_eq!(
        secret(Some("user"), r#"{"value":"plain"}"#),
        "failed NotJson: secret block \"x\" holds text that is no JSON, so there is nothing to look into at \"user\"; leave remoteRef.property out to take it whole"
    );
    assert!(secret(None, r#"{"value":"\ud800"}"#).starts_with("failed ValueInvalid"));
}

#[test]
fn what_is_not_there_says_what_may_have_been_meant() {
    let told = |remote: RemoteKey, missing: Missing| {
        let hints = Hints::new([(ASKING.namespace.into(), missing)]);
        let absence =
            Absence { hints, since: Timestamp::UNIX_EPOCH, exact: true, confirmed: false, held: Held::default() };
        show(resolve(&entry(remote, None), &Answer::Absent(absence), ASKING))
    };
    let near = Some("db-password".to_owned());
    assert_eq!(
        told(block("secret", "db_password"), Missing::Block { near: near.clone() }),
        "absent KeyNotFound firm=false: no secret block \"db_password\" in workspace prod; block names have no underscores, did you mean \"db-password\"?"
    );
    assert_eq!(
        told(block("secret", "db-pasword"), Missing::Block { near }),
        "absent KeyNotFound firm=false: no secret block \"db-pasword\" in workspace prod; did you mean \"db-password\"?"
    );
    assert_eq!(
        told(block("secret", "db-host"), Missing::IsAVariable),
        "absent IsAVariable firm=false: \"db-host\" is a Variable, not a block; use remoteRef.variable"
    );
    assert_eq!(
        told(block("aws-credential", "x"), Missing::BlockType { near: Some("aws-credentials".into()) }),
        "absent BlockTypeNotFound firm=false: no block type \"aws-credential\" in workspace prod; did you mean \"aws-credentials\"?"
    );
    assert_eq!(
        told(variable("nope"), Missing::Variable { near: None, no_dashes: false }),
        "absent KeyNotFound firm=false: no variable \"nope\" in workspace prod; create it in Prefect, or correct remoteRef"
    );
}

#[test]
fn a_hint_is_for_the_namespace_that_may_have_it() {
    let key = block("secret", "db-pasword");
    let hints = Hints::new([
        ("flows".into(), Missing::Block { near: Some("db-password".into()) }),
        ("web".into(), Missing::IsAVariable),
    ]);
    let told = |namespace| {
        let absence = Absence {
            hints: hints.clone(),
            since: Timestamp::UNIX_EPOCH,
            exact: true,
            confirmed: false,
            held: Held::default(),
        };
        show(resolve(&entry(key.clone(), None), &Answer::Absent(absence), Asking { workspace: "prod", namespace }))
    };
    assert!(told("flows").contains("did you mean \"db-password\"?"), "{}", told("flows"));
    assert!(told("web").contains("is a Variable"), "{}", told("web"));
    let other = "absent KeyNotFound firm=false: no secret block \"db-pasword\" in workspace prod; create it in Prefect, or correct remoteRef";
    assert_eq!(told("ops"), other);
}
