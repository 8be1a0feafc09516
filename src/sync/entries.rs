//! From `dataFrom` and `data` to one line an entry: what is selected, what it is called, what overrides what.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::lines::{Line, Scene, line};
use super::object::Property;
use super::path::Path;
use super::query::Query;
use super::reading::{Answer, Document};
use super::resolve::{Asking, Outcome, members, resolve};
use super::source::{Rewriter, Selection, Source};
use super::validate::{illegal, is_legal_key};
use super::{Entry, Reason, RemoteKey};
use crate::api::{DeletionPolicy, EntryState, EntryStatus};

/// One line for each entry, and for each source that gives none. Later ones override earlier ones.
pub(super) fn lines(scene: &Scene<'_>) -> Vec<Line> {
    let object = scene.observed.object;
    let mut placed: Vec<Option<Line>> = Vec::new();
    let mut at: HashMap<String, usize> = HashMap::new();
    let mut place = |line: Line| {
        if let Some(before) = at.get(&line.status.key).copied() {
            // What is confirmed to be absent, and may be, overrides nothing.
            let is_nothing = line.value.is_none() && line.done && !line.blocks;
            let earlier_has_value = placed[before].as_ref().is_some_and(|earlier| earlier.value.is_some());
            if is_nothing && earlier_has_value {
                return;
            }
            placed[before] = None;
        }
        at.insert(line.status.key.clone(), placed.len());
        placed.push(Some(line));
    };
    for (number, source) in object.sources.iter().enumerate() {
        source_lines(scene, number, source).into_iter().for_each(&mut place);
    }
    for entry in &object.entries {
        if let Some(outcome) = outcome(scene, entry) {
            place(Line { listed: true, ..line(scene, entry, outcome, None) });
        }
    }
    placed.into_iter().flatten().collect()
}

fn answer<'a>(scene: &Scene<'a>, key: &RemoteKey) -> Option<&'a Answer> {
    scene.observed.readings.get(key)?.answer.as_ref()
}

fn outcome(scene: &Scene<'_>, entry: &Entry) -> Option<Outcome> {
    let answer = answer(scene, &entry.remote)?;
    Some(resolve(entry, answer, asking(scene)))
}

fn asking<'a>(scene: &Scene<'a>) -> Asking<'a> {
    let object = scene.observed.object;
    Asking { workspace: &object.workspace.name, namespace: &object.id.namespace }
}

/// What a source gives: entries under the names that they have in Prefect.
struct Given<'a> {
    entry: Entry,
    outcome: Outcome,
    /// Whether `include` names it.
    listed: bool,
    name: Cow<'a, str>,
}

fn source_lines(scene: &Scene<'_>, number: usize, source: &Source) -> Vec<Line> {
    // Checked before.
    let Ok(rewriter) = source.rewriter() else { return Vec::new() };
    let whole = |outcome: Outcome| whole(scene, number, source, outcome);
    let given = match &source.selection {
        Selection::Find(query) => find(scene, source, query),
        Selection::Extract { remote, include } if !include.is_empty() => included(scene, source, remote, include),
        Selection::Extract { remote, .. } => match answer(scene, remote) {
            Some(Answer::Found { document, source: from }) => {
                match members(&entry(source, remote.clone(), None), document, *from) {
                    Ok(members) if members.is_empty() => {
                        let message = format!(
                            "{remote} has no members to extract; add some in Prefect, or set extract.optional if that may be"
                        );
                        let outcome = Outcome::Absent { reason: Reason::PropertyNotFound, message, firm: true };
                        return absent(scene, number, source, outcome);
                    }
                    Ok(members) => extracted(source, remote, members),
                    Err(outcome) => return absent(scene, number, source, outcome),
                }
            }
            Some(answer) => {
                let outcome = resolve(&entry(source, remote.clone(), None), answer, asking(scene));
                return absent(scene, number, source, outcome);
            }
            None => return Vec::new(),
        },
    };
    let is_nothing = given.is_empty();
    let mut lines = named(scene, &rewriter, given);
    if let Selection::Find(query) = &source.selection
        && is_nothing
        && !source.optional
    {
        let message = format!(
            "there are no {query} in workspace {}; correct find, or set find.optional if that may be",
            scene.observed.object.workspace.name
        );
        let failed = whole(Outcome::Failed { reason: Reason::NothingFound, message });
        // Where all that it had found is confirmed to be gone the rest follows on; a mistyped expression removes nothing.
        let is_gone = |key: &RemoteKey| {
            let answer = answer(scene, key);
            let namespace = &scene.observed.object.id.namespace;
            let absent =
                matches!(answer, Some(Answer::Absent(absence)) if absence.confirmed && !absence.held.is_in(namespace));
            absent && key.block_type() == query.block_type.as_deref() && query.matches(key.name())
        };
        let follows = scene.was_removed(&failed.status.key) || scene.found.iter().any(is_gone);
        lines.push(if follows { gone(failed) } else { failed });
    }
    lines
}

/// The line of a source that gives no entries.
fn whole(scene: &Scene<'_>, number: usize, source: &Source, outcome: Outcome) -> Line {
    let entry = Entry { key: format!("dataFrom[{number}]"), ..entry(source, source.remote(), None) };
    Line { member: None, ..line(scene, &entry, outcome, Some(&source.remote())) }
}

fn entry(source: &Source, remote: RemoteKey, name: Option<&str>) -> Entry {
    Entry {
        key: name.unwrap_or_default().to_owned(),
        remote,
        property: source.property.clone(),
        optional: source.optional,
        default: None,
        decoding: source.decoding,
    }
}

/// The blocks or variables that match, as far as something is known of them: found ones, and those that the target
/// holds and that are missing.
fn find<'a>(scene: &Scene<'a>, source: &Source, query: &Query) -> Vec<Given<'a>> {
    let Ok(matcher) = query.matcher() else { return Vec::new() };
    let matching = scene.observed.readings.iter().filter(|(key, reading)| {
        let is_member = match &reading.answer {
            Some(Answer::Found { document, .. }) => has_tags(document, &query.tags),
            Some(Answer::Absent(_)) => scene.found.contains(*key),
            Some(Answer::Listed(_)) | None => false,
        };
        is_member && key.block_type() == query.block_type.as_deref() && matcher.matches(key.name())
    });
    let given = matching.filter_map(|(key, _)| {
        // A member that is gone is no problem of the others'.
        let entry = Entry { optional: true, ..entry(source, key.clone(), None) };
        // One that is confirmed to be gone is no member any more.
        let outcome =
            outcome(scene, &entry).filter(|outcome| !matches!(outcome, Outcome::Absent { firm: true, .. }))?;
        Some(Given { entry, outcome, listed: false, name: Cow::Borrowed(key.name()) })
    });
    given.collect()
}

fn has_tags(document: &Document, tags: &[String]) -> bool {
    tags.iter().all(|tag| document.tags().contains(tag))
}

fn extracted<'a>(source: &Source, remote: &RemoteKey, members: Vec<(String, Outcome)>) -> Vec<Given<'a>> {
    let given = members.into_iter().map(|(name, outcome)| Given {
        entry: entry(source, remote.clone(), Some(&name)),
        outcome,
        listed: false,
        name: Cow::Owned(name),
    });
    given.collect()
}

/// Members that `include` names: entries like those of `data`.
fn included<'a>(scene: &Scene<'_>, source: &Source, remote: &RemoteKey, include: &'a [String]) -> Vec<Given<'a>> {
    let given = include.iter().filter_map(|name| {
        let mut entry = entry(source, remote.clone(), Some(name));
        entry.property = Some(match &source.property {
            None => Property { text: name.clone(), path: Ok(Path::member(None, name)) },
            Some(Property { text, path }) => Property {
                text: format!("{text}.{name}"),
                path: path.clone().map(|parent| Path::member(Some(&parent), name)),
            },
        });
        let outcome = outcome(scene, &entry)?;
        Some(Given { entry, outcome, listed: true, name: Cow::Borrowed(name) })
    });
    given.collect()
}

/// An object to extract from that is not there: its members are not known, so nothing of it can go by itself.
fn absent(scene: &Scene<'_>, number: usize, source: &Source, outcome: Outcome) -> Vec<Line> {
    let held = scene.found.contains(&source.remote());
    let line = whole(scene, number, source, Outcome::Failed { reason: Reason::KeyNotFound, message: String::new() });
    match outcome {
        Outcome::Absent { firm: true, .. } if source.optional => Vec::new(),
        Outcome::Absent { firm: false, .. } if source.optional && !held => Vec::new(),
        // Not confirmed: the target waits, and there is nothing to say yet.
        Outcome::Absent { firm: false, reason, .. } if source.optional && reason != Reason::KeysVanished => {
            let status = EntryStatus { state: EntryState::Retained, reason: None, message: None, ..line.status };
            vec![Line { status, problem: None, blocks: true, done: true, ..line }]
        }
        Outcome::Absent { reason, message, firm } => {
            let failed = whole(scene, number, source, Outcome::Failed { reason, message });
            let deletes = scene.observed.object.deletion_policy == DeletionPolicy::Delete;
            let goes = deletes && ((firm && held) || scene.was_removed(&failed.status.key));
            vec![if goes { gone(failed) } else { failed }]
        }
        outcome => vec![whole(scene, number, source, outcome)],
    }
}

/// What a source had is gone: that is said and remembered, and the rest follows on.
fn gone(line: Line) -> Line {
    let status = EntryStatus { state: EntryState::Absent, ..line.status };
    Line { status, blocks: false, listed: true, ..line }
}

/// The lines of one source under their final keys; an illegal key, or the same key twice, is an error.
fn named(scene: &Scene<'_>, rewriter: &Rewriter<'_>, given: Vec<Given<'_>>) -> Vec<Line> {
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    let kind = scene.observed.object.id.kind;
    let lines = given.into_iter().map(|Given { mut entry, mut outcome, listed, name }| {
        entry.key = rewriter.key(&name);
        let is_gone = matches!(outcome, Outcome::Absent { .. });
        if !is_legal_key(&entry.key) {
            let message = format!(
                "{} gives {}; correct dataFrom[].rewrite (envName makes legal keys)",
                of(&entry.remote, &name),
                illegal(&entry.key, kind)
            );
            outcome = Outcome::Failed { reason: Reason::KeyInvalid, message };
        } else if !is_gone && let Some(other) = taken.insert(entry.key.clone(), of(&entry.remote, &name)) {
            let message = format!(
                "{other} and {} both become the key {:?}; correct dataFrom[].rewrite",
                of(&entry.remote, &name),
                entry.key
            );
            outcome = Outcome::Failed { reason: Reason::KeyClash, message };
        }
        let remote = entry.remote.clone();
        Line { listed, member: Some(remote.clone()), ..line(scene, &entry, outcome, Some(&remote)) }
    });
    lines.collect()
}

/// What a name is the name of.
fn of(remote: &RemoteKey, name: &str) -> String {
    if remote.name() == name { remote.to_string() } else { format!("{name:?} in {remote}") }
}
