//! One entry and its answer: a value, an absence, or a failure.

use zeroize::Zeroizing;

use super::conditions::sentences;
use super::object::Property;
use super::path::{Step, Walked};
use super::reading::{Absence, Answer, Document, Missing, Shape};
use super::value::{self, Content, Form};
use super::{Entry, Reason, RemoteKey};
use crate::api::{Decoding, Source};

/// What an entry comes to.
pub enum Outcome {
    /// A value to deliver.
    Value {
        /// The value.
        content: Content,
        /// Who answered.
        source: Source,
    },
    /// There is none.
    Absent {
        /// The cause.
        reason: Reason,
        /// What was looked for and what to do.
        message: String,
        /// Whether a key may be removed because of it.
        firm: bool,
    },
    /// The value can't be delivered.
    Failed {
        /// The cause.
        reason: Reason,
        /// What was looked for and what to do.
        message: String,
    },
}

/// Who asks, for messages.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The workspace's name.
    pub workspace: &'a str,
    /// The namespace of the object that asks.
    pub namespace: &'a str,
}

/// What `entry` comes to, given the answer for its key.
#[must_use]
pub fn resolve(entry: &Entry, answer: &Answer, asking: Asking<'_>) -> Outcome {
    match answer {
        Answer::Absent(absence) => absent(entry, absence, asking),
        Answer::Found { document, source } => found(entry, document, *source),
        // No entry asks for one.
        Answer::Listed(_) => Outcome::Failed { reason: Reason::ValueInvalid, message: "a listing is no value".into() },
    }
}

/// The members of the JSON object that `entry` leads to, each with what it comes to; those that are null are left out.
///
/// # Errors
/// Why there are none.
pub fn members(entry: &Entry, document: &Document, source: Source) -> Result<Vec<(String, Outcome)>, Outcome> {
    let Selected { raw, mut prefix } = select(entry, document)?;
    let text = raw.trim();
    // Most Secret blocks made by hand hold JSON as a string.
    let inner = if text.starts_with('"') { serde_json::from_str::<String>(text).ok() } else { None };
    let inner = inner.map(Zeroizing::new);
    let text = inner.as_ref().map_or(text, |inner| inner.trim());
    if masked(document, &raw, &prefix) && inner.is_some() {
        return Err(mask(entry));
    }
    let members: Option<std::collections::BTreeMap<String, &serde_json::value::RawValue>> =
        if value::is_too_deep(text) { None } else { serde_json::from_str(text).ok() };
    let Some(members) = members else {
        return Err(Outcome::Failed {
            reason: Reason::NotJson,
            message: format!("{} holds no JSON object, so there are no members to extract", entry.remote),
        });
    };
    let set = members.into_iter().filter(|(_, member)| member.get() != "null");
    let outcomes = set.map(|(name, member)| {
        prefix.push(name.clone());
        let outcome = deliver(entry, document, member.get(), &prefix, source);
        prefix.pop();
        (name, outcome)
    });
    Ok(outcomes.collect())
}

/// What to do about a name that is not there and not like any that is.
const CREATE: &str = "create it in Prefect, or correct remoteRef";

fn absent(entry: &Entry, absence: &Absence, Asking { workspace, namespace }: Asking<'_>) -> Outcome {
    let missing = absence.hints.of(namespace, &entry.remote);
    let (mut reason, mut message) = describe(&entry.remote, &missing, workspace);
    let is_held = absence.held.is_in(namespace);
    if is_held {
        reason = Reason::KeysVanished;
        let whose = if absence.held.everywhere { "delivered" } else { "delivered to this namespace" };
        message = sentences(
            &message,
            &format!(
                "Most of what workspace {workspace} {whose} vanished with it, as when a database is emptied or a permission lost: nothing is removed. To let it go, remove the entry"
            ),
        );
    }
    // Only a list lacks it: no default may stand in yet, and nothing may go.
    if !absence.exact {
        return Outcome::Failed { reason, message };
    }
    Outcome::Absent { reason, message, firm: absence.confirmed && !is_held }
}

fn describe(remote: &RemoteKey, missing: &Missing, workspace: &str) -> (Reason, String) {
    let name = remote.name();
    let did_you_mean =
        |near: &Option<String>| near.as_ref().map_or_else(String::new, |near| format!("did you mean {near:?}?"));
    let block_type = remote.block_type().unwrap_or_default();
    let sentence = |head: String, rules: &str, near: &Option<String>, otherwise: &str| {
        let near = did_you_mean(near);
        match (rules.is_empty(), near.is_empty()) {
            (true, true) => format!("{head}; {otherwise}"),
            (true, false) => format!("{head}; {near}"),
            (false, true) => format!("{head}; {rules}"),
            (false, false) => format!("{head}; {rules}, {near}"),
        }
    };
    match missing {
        Missing::IsAVariable => {
            (Reason::IsAVariable, format!("{name:?} is a Variable, not a block; use remoteRef.variable"))
        }
        Missing::BlockType { near } => (
            Reason::BlockTypeNotFound,
            sentence(
                format!("no block type {block_type:?} in workspace {workspace}"),
                "",
                near,
                "`prefect block type ls` shows what there is",
            ),
        ),
        Missing::Block { near } => {
            let rules = if name.contains('_') {
                "block names have no underscores"
            } else if name.chars().any(char::is_uppercase) {
                "block names have no capitals"
            } else {
                ""
            };
            (
                Reason::KeyNotFound,
                sentence(format!("no {block_type} block {name:?} in workspace {workspace}"), rules, near, CREATE),
            )
        }
        Missing::Variable { near, no_dashes } => {
            let rules = if *no_dashes { "Prefect 2 has no dashes in the names of variables" } else { "" };
            (
                Reason::KeyNotFound,
                sentence(format!("no variable {name:?} in workspace {workspace}"), rules, near, CREATE),
            )
        }
        Missing::Local { near } => (
            Reason::KeyNotFound,
            sentence(
                format!("no {remote} in workspace {workspace}, which has local secrets only (spec.api is not set)"),
                "",
                near,
                "add it to the config.toml, or set spec.api",
            ),
        ),
    }
}

fn found(entry: &Entry, document: &Document, source: Source) -> Outcome {
    match select(entry, document) {
        Ok(Selected { raw, prefix }) => deliver(entry, document, &raw, &prefix, source),
        Err(outcome) => outcome,
    }
}

/// What an entry leads to: raw JSON, and where in the block it was.
struct Selected {
    raw: Zeroizing<String>,
    prefix: Vec<String>,
}

fn select(entry: &Entry, document: &Document) -> Result<Selected, Outcome> {
    let path = match &entry.property {
        Some(Property { path: Err(error), .. }) => {
            return Err(Outcome::Failed { reason: Reason::PropertyInvalid, message: error.to_string() });
        }
        Some(Property { path: Ok(path), text }) => Some((path, text)),
        None => None,
    };
    if value::is_too_deep(document.raw()) {
        return Err(Outcome::Failed {
            reason: Reason::ValueInvalid,
            message: format!("{} is nested more than {} levels deep; store it as text", entry.remote, value::MAX_DEPTH),
        });
    }
    // A Secret block is its `value`; every other block type is all of its fields.
    let is_secret_block = entry.remote.block_type() == Some(super::object::SECRET_BLOCK);
    let (root, mut prefix) = match document.shape() {
        Shape::Block { .. } if is_secret_block => match secret_value(document.raw()) {
            Some(value) => (value, vec!["value".to_owned()]),
            None => {
                return Err(Outcome::Failed {
                    reason: Reason::ValueInvalid,
                    message: format!("{} has no value; set one in Prefect", entry.remote),
                });
            }
        },
        _ => (Zeroizing::new(document.raw().to_owned()), Vec::new()),
    };
    let Some((path, text)) = path else { return Ok(Selected { raw: root, prefix }) };
    match path.walk(&root) {
        Walked::Found(raw) => {
            prefix.extend(path.steps().iter().map(|step| match step {
                Step::Member(name) => name.clone(),
                Step::Index(_) => "*".to_owned(),
            }));
            Ok(Selected { raw, prefix })
        }
        Walked::Null => Err(unset(entry, text)),
        Walked::NotJson if masked(document, &root, &prefix) => Err(mask(entry)),
        Walked::NotJson => Err(Outcome::Failed {
            reason: Reason::NotJson,
            message: format!(
                "{} holds text that is no JSON, so there is nothing to look into at {text:?}; leave remoteRef.property out to take it whole",
                entry.remote
            ),
        }),
        Walked::Missing { depth } => Err(no_such_property(entry, document, path.steps(), text, depth, is_secret_block)),
    }
}

fn deliver(entry: &Entry, document: &Document, raw: &str, prefix: &[String], source: Source) -> Outcome {
    if masked(document, raw, prefix) {
        return mask(entry);
    }
    let Some(content) = value::delivered(raw) else {
        return Outcome::Failed {
            reason: Reason::ValueInvalid,
            message: format!("{} holds text that is no valid Unicode (half of a surrogate pair)", entry.remote),
        };
    };
    match entry.decoding {
        Decoding::None => Outcome::Value { content, source },
        Decoding::Base64 => match decoded(&content) {
            Some(content) => Outcome::Value { content, source },
            None => Outcome::Failed {
                reason: Reason::DecodingFailed,
                message: format!(
                    "{} holds no base64, as decoding says; correct it in Prefect, or leave decoding out",
                    entry.remote
                ),
            },
        },
    }
}

fn decoded(content: &Content) -> Option<Content> {
    let bytes = (content.form == Form::Text).then(|| value::decode_base64(&content.bytes))??;
    let form = if std::str::from_utf8(&bytes).is_ok() { Form::Text } else { Form::Binary };
    Some(Content { bytes, form })
}

fn masked(document: &Document, raw: &str, prefix: &[String]) -> bool {
    match document.shape() {
        Shape::Block { secret_fields, .. } => value::is_masked(raw, prefix, secret_fields),
        Shape::Value | Shape::Tagged { .. } => false,
    }
}

fn mask(entry: &Entry) -> Outcome {
    Outcome::Failed {
        reason: Reason::ValueMasked,
        message: format!(
            "Prefect returned {} for {}: these credentials may not see secret values; give their role that permission",
            value::MASK,
            entry.remote
        ),
    }
}

fn unset(entry: &Entry, text: &str) -> Outcome {
    Outcome::Absent {
        reason: Reason::PropertyNotFound,
        message: format!("{} has no value at {text:?}: it is unset in Prefect", entry.remote),
        firm: true,
    }
}

fn no_such_property(
    entry: &Entry,
    document: &Document,
    steps: &[Step],
    text: &str,
    depth: usize,
    is_secret_block: bool,
) -> Outcome {
    if let (Shape::Block { fields, .. }, 0, false) = (document.shape(), depth, is_secret_block) {
        // The type's own field names are no secret; names inside a value are.
        let known = matches!(steps.first(), Some(Step::Member(name)) if fields.contains(name));
        if known {
            // Left out where it was never set; Prefect's own client stores null instead.
            return unset(entry, text);
        }
        let has = if fields.is_empty() { String::new() } else { format!("; it has {}", fields.join(", ")) };
        return Outcome::Failed {
            reason: Reason::PropertyNotFound,
            message: format!("{} has no {text:?}{has}", entry.remote),
        };
    }
    Outcome::Absent {
        reason: Reason::PropertyNotFound,
        message: format!("{} has nothing at {text:?}; correct remoteRef.property, or add it in Prefect", entry.remote),
        firm: true,
    }
}

/// `data.value` of a Secret block, raw.
fn secret_value(raw: &str) -> Option<Zeroizing<String>> {
    let members: std::collections::HashMap<String, &serde_json::value::RawValue> = serde_json::from_str(raw).ok()?;
    members.get("value").map(|value| Zeroizing::new(value.get().to_owned()))
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
