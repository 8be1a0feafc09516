//! What becomes of each entry: the design's table of absence and failure.

use std::collections::{BTreeMap, HashMap, HashSet};

use zeroize::Zeroizing;

use super::absence::is_delivered;
use super::conditions::sentences;
use super::interest::found;
use super::layout::{as_held, stands_alone, tag};
use super::planned::Observed;
use super::reading::Failure;
use super::resolve::Outcome;
use super::target::{Ownership, Target, is_owned_by, merger, ownership};
use super::value::{Content, Form};
use super::{Entry, Object, Reason, RemoteKey};
use crate::api::{DeletionPolicy, EntryState, EntryStatus, Source};

/// What became of one entry, while the plan is made.
pub(super) struct Line {
    pub status: EntryStatus,
    /// What stands in the target for it.
    pub value: Option<Content>,
    /// Why the object is not Ready because of it.
    pub problem: Option<(Reason, String)>,
    /// Whether the target must stay as it is because of it.
    pub blocks: bool,
    /// Whether the target has it as asked for, once it is written.
    pub done: bool,
    /// Whether the status always lists it: the spec names it.
    pub listed: bool,
    /// What it was found in; for entries of `dataFrom`.
    pub member: Option<RemoteKey>,
}

/// What the target holds of an entry.
enum Held {
    /// Nothing.
    Nothing,
    /// This.
    Alone(Zeroizing<Vec<u8>>),
    /// Something that stands in it together with others, so that it can't be kept alone.
    Inside,
}

/// Keys of the target that are this object's, with what they hold.
pub(super) type Current<'a> = BTreeMap<&'a str, &'a Zeroizing<Vec<u8>>>;

/// What is observed, looked up once.
pub(super) struct Scene<'a> {
    pub observed: &'a Observed<'a>,
    /// What targets of this object hold now: the target, or else the one before a rename.
    pub current: Option<Current<'a>>,
    /// What `dataFrom` made entries of that the target holds.
    pub found: HashSet<RemoteKey>,
    /// Whether the target is laid out as it was.
    same_layout: bool,
    /// The entries of `data` as they stood.
    before: HashMap<&'a str, &'a EntryStatus>,
}

impl<'a> Scene<'a> {
    pub fn new(observed: &'a Observed<'a>) -> Self {
        let (object, previous) = (observed.object, observed.previous);
        let layout = previous.target.as_ref().and_then(|target| target.layout.clone());
        let before = observed.previous.entries.iter();
        Self {
            same_layout: layout == tag(object),
            observed,
            current: current(observed),
            found: found(observed.previous).collect(),
            before: before.map(|entry| (entry.key.as_str(), entry)).collect(),
        }
    }

    /// What the target holds of an entry, which `dataFrom` found in `member`.
    fn held(&self, key: &str, member: Option<&RemoteKey>) -> Held {
        let Some(current) = &self.current else { return Held::Nothing };
        if self.same_layout && stands_alone(self.observed.object, key) {
            return current.get(key).map_or(Held::Nothing, |value| Held::Alone((*value).clone()));
        }
        if self.is_delivered(key, member) { Held::Inside } else { Held::Nothing }
    }

    /// Whether the status says that the target has something for it.
    fn is_delivered(&self, key: &str, member: Option<&RemoteKey>) -> bool {
        match member {
            Some(member) => self.found.contains(member),
            None => self.before.get(key).is_some_and(|before| is_delivered(before) || is_default(before)),
        }
    }

    pub fn was_removed(&self, key: &str) -> bool {
        // Only the removal of a required key has a reason.
        self.before.get(key).is_some_and(|before| before.state == EntryState::Absent && before.reason.is_some())
    }
}

fn is_default(entry: &EntryStatus) -> bool {
    entry.source == Some(Source::Default)
}

/// What the former target holds is to be kept, but where the new one has it already; what the new one has of others is
/// nothing of the object's.
fn current<'a>(observed: &Observed<'a>) -> Option<Current<'a>> {
    let object = observed.object;
    let was_merged = observed.previous.target.as_ref().is_some_and(|target| target.merged == Some(true));
    let old = observed.old_target.filter(|old| was_merged || is_owned_by(object, old));
    let new = observed.target.filter(|target| match ownership(object, target) {
        Ownership::Ours => true,
        Ownership::Accepted => object.is_merge(),
        Ownership::Foreign(_) | Ownership::Whole(_) | Ownership::Shared => false,
    });
    if old.is_none() && new.is_none() {
        return None;
    }
    let old = old.into_iter().flat_map(|old| keys_of(object, old, was_merged));
    let new = new.into_iter().flat_map(|new| keys_of(object, new, object.is_merge()));
    Some(old.chain(new).map(|(key, value)| (key.as_str(), value)).collect())
}

/// The keys of a target that are the object's.
pub(super) fn keys_of<'a>(
    object: &Object,
    target: &'a Target,
    is_merged: bool,
) -> impl Iterator<Item = (&'a String, &'a Zeroizing<Vec<u8>>)> {
    let merged = is_merged.then(|| target.managers.get(&merger(&object.id)));
    target.data.iter().filter(move |(key, _)| match merged {
        Some(keys) => keys.is_some_and(|keys| keys.contains(*key)),
        None => true,
    })
}

/// What one entry comes to under the design's table of absence and failure.
pub(super) fn line(scene: &Scene<'_>, entry: &Entry, outcome: Outcome, member: Option<&RemoteKey>) -> Line {
    let object = scene.observed.object;
    let held = scene.held(&entry.key, member);
    let is_held = !matches!(held, Held::Nothing);
    let status = |state, source, why: Option<(Reason, String)>| EntryStatus {
        key: entry.key.clone(),
        state,
        source,
        from: member.map(ToString::to_string),
        reason: why.as_ref().map(|(reason, _)| reason.to_string()),
        message: why.map(|(_, message)| message),
    };
    let line = |status, value: Option<Content>, problem: Option<(Reason, String)>| Line {
        status,
        done: problem.is_none(),
        value,
        problem,
        blocks: false,
        listed: false,
        member: member.cloned(),
    };
    let (reason, message, firm) = match outcome {
        Outcome::Value { content, source } => {
            return line(status(EntryState::Synced, Some(source), None), Some(content), None);
        }
        Outcome::Failed { reason, message } => {
            let state = if is_held { EntryState::Retained } else { EntryState::Failed };
            let status = status(state, None, Some((reason, message.clone())));
            return Line { blocks: true, ..line(status, None, Some((reason, message))) };
        }
        Outcome::Absent { reason, message, firm } => (reason, message, firm),
    };
    // What the target holds and the status does not speak of, as after a restore, nobody has waited to be confirmed.
    let firm = firm && (!is_held || scene.is_delivered(&entry.key, member));
    let why = Some((reason, message.clone()));
    // Whose value it is that stays.
    let source = scene.before.get(entry.key.as_str()).and_then(|before| before.source);
    let alarm = (reason == Reason::KeysVanished).then(|| (reason, message.clone()));
    // What can't be kept alone keeps the whole target as it is.
    let retained = |problem: Option<(Reason, String)>| {
        let value = match &held {
            Held::Alone(bytes) => Some(Content { bytes: bytes.clone(), form: Form::Kept }),
            Held::Inside | Held::Nothing => None,
        };
        let blocks = value.is_none();
        Line { blocks, ..line(status(EntryState::Retained, source, why.clone()), value, problem) }
    };
    // An absence that is not confirmed shrinks nothing and changes nothing that is there.
    if let Some(default) = &entry.default {
        let standing_in = Content { bytes: Zeroizing::new(default.clone().into_bytes()), form: Form::Text };
        let is_default_already = match &held {
            Held::Alone(held) => as_held(object, &standing_in).as_ref() == Some(held),
            Held::Inside => source == Some(Source::Default),
            Held::Nothing => true,
        };
        if firm || is_default_already {
            let status = status(EntryState::Synced, Some(Source::Default), None);
            return Line { done: true, ..line(status, Some(standing_in), alarm) };
        }
        return retained(alarm);
    }
    if entry.optional {
        if firm || !is_held {
            return Line { done: true, ..line(status(EntryState::Absent, None, None), None, alarm) };
        }
        return retained(alarm);
    }
    let problem = |what: &str| Some((reason, sentences(&message, what)));
    let removed = || {
        let problem = problem(&format!("Key {:?} was removed, as spec.target.deletionPolicy says", entry.key));
        line(status(EntryState::Absent, None, why.clone()), None, problem)
    };
    match (object.deletion_policy, is_held) {
        (DeletionPolicy::Delete, true) if firm => removed(),
        (_, true) => retained(problem(&format!("Key {:?} keeps its last value", entry.key))),
        // Removed earlier under Delete: the rest follows on.
        (DeletionPolicy::Delete, false) if scene.was_removed(&entry.key) => removed(),
        (_, false) => {
            Line { blocks: true, ..line(status(EntryState::Failed, None, why), None, Some((reason, message))) }
        }
    }
}

/// Entries as they stand while nothing can be read.
pub(super) fn keep_lines(scene: &Scene<'_>, failure: &Failure) -> Vec<Line> {
    let own = |remote: &RemoteKey| {
        let own = scene.observed.readings.get(remote).and_then(|reading| reading.failure.as_ref());
        own.or(if failure.workspace_wide { Some(failure) } else { None })
    };
    // The whole workspace's message stands once, in the condition.
    let message = |why: &Failure| (!why.workspace_wide).then(|| why.message.clone());
    let kept = |key: &str, why: Option<&Failure>, is_held: bool, before: Option<&EntryStatus>| {
        let state = match (is_held, why) {
            (true, _) => EntryState::Retained,
            (false, Some(_)) => EntryState::Failed,
            (false, None) => EntryState::Pending,
        };
        Line {
            status: EntryStatus {
                key: key.to_owned(),
                state,
                source: before.filter(|_| is_held).and_then(|before| before.source),
                from: before.and_then(|before| before.from.clone()),
                reason: why.map(|why| why.reason.to_string()),
                message: why.and_then(message),
            },
            value: None,
            problem: None,
            blocks: true,
            done: is_held && why.is_none(),
            listed: true,
            member: None,
        }
    };
    let object = scene.observed.object;
    let before = scene.observed.previous.entries.iter();
    let from_sources: Vec<&EntryStatus> = before.clone().filter(|before| before.from.is_some()).collect();
    let mut lines = Vec::new();
    for (number, source) in object.sources.iter().enumerate() {
        if let Some(why) = own(&source.remote()).filter(|why| !why.workspace_wide) {
            lines.push(kept(&format!("dataFrom[{number}]"), Some(why), false, None));
        }
    }
    let wide = failure.workspace_wide.then_some(failure);
    lines.extend(from_sources.iter().filter_map(|before| {
        let line = kept(&before.key, wide, is_delivered(before), Some(before));
        if before.state == EntryState::Absent && before.reason.is_some() {
            // What was removed is remembered, so that the rest follows on later.
            return Some(Line { status: (*before).clone(), done: false, ..line });
        }
        (!before.key.starts_with("dataFrom[")).then(|| Line { listed: false, ..line })
    }));
    // Those that the status had no room for.
    let data = before.clone().filter(|before| before.from.is_none()).count();
    let known = from_sources.len() + data;
    let total = scene.observed.previous.counts.map_or(0, |counts| usize::try_from(counts.total).unwrap_or(0));
    lines.extend((known..total).map(|_| Line { listed: false, ..kept("", wide, true, None) }));
    lines.extend(object.entries.iter().map(|entry| {
        let is_held = !matches!(scene.held(&entry.key, None), Held::Nothing);
        let before = scene.before.get(entry.key.as_str()).copied();
        if let Some(before) = before.filter(|before| !is_held && before.state == EntryState::Absent) {
            // What was removed is remembered, so that the rest follows on later.
            let line = kept(&entry.key, None, false, Some(before));
            return Line { status: before.clone(), ..line };
        }
        kept(&entry.key, own(&entry.remote), is_held, before)
    }));
    lines
}

/// The target is not written: entries whose value it does not hold are not synced.
pub(super) fn unwritten(lines: Vec<Line>, scene: &Scene<'_>, holds_nothing: bool) -> Vec<Line> {
    let lines = lines.into_iter().map(|mut line| {
        let held = if holds_nothing { Held::Nothing } else { scene.held(&line.status.key, line.member.as_ref()) };
        if line.status.state == EntryState::Absent && !matches!(held, Held::Nothing) {
            line.status.state = EntryState::Retained;
            line.done = false;
        }
        if line.status.state == EntryState::Synced {
            line.status.state = match (&held, &line.value) {
                (Held::Alone(held), Some(value)) if as_held(scene.observed.object, value).as_ref() == Some(held) => {
                    EntryState::Synced
                }
                (Held::Alone(_) | Held::Inside, _) => EntryState::Retained,
                (Held::Nothing, _) => EntryState::Pending,
            };
            line.done = line.status.state == EntryState::Synced;
        }
        line
    });
    lines.collect()
}

pub(super) fn done(lines: &[Line]) -> usize {
    lines.iter().filter(|line| line.done).count()
}
