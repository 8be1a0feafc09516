//! What becomes of each entry: the design's table of absence and failure.

use super::conditions::sentences;
use super::plan::Observed;
use super::reading::Failure;
use super::resolve::Outcome;
use super::target::{Data, Ownership, ownership};
use super::{Entry, Reason};
use crate::api::{DeletionPolicy, EntryState, EntryStatus, Source};

/// What became of one entry, while the plan is made.
pub(super) struct Line {
    pub status: EntryStatus,
    /// What stands in the target's data for it.
    pub value: Option<zeroize::Zeroizing<Vec<u8>>>,
    /// Why the object is not Ready because of it.
    pub problem: Option<(Reason, String)>,
    /// Whether the target must stay as it is because of it.
    pub blocks: bool,
    /// Whether the target has it as asked for, once it is written.
    pub done: bool,
}

/// What one entry comes to under the design's table of absence and failure.
pub(super) fn line(observed: &Observed<'_>, entry: &Entry, outcome: Outcome, current: Option<&Data>) -> Line {
    let held = current.and_then(|data| data.get(&entry.key)).cloned();
    let status = |state, source, why: Option<(Reason, String)>| EntryStatus {
        key: entry.key.clone(),
        state,
        source,
        reason: why.as_ref().map(|(reason, _)| reason.to_string()),
        message: why.map(|(_, message)| message),
    };
    let (reason, message, firm) = match outcome {
        Outcome::Value { bytes, source } => {
            let status = status(EntryState::Synced, Some(source), None);
            return Line { status, value: Some(bytes), problem: None, blocks: false, done: true };
        }
        Outcome::Failed { reason, message } => {
            let state = if held.is_some() { EntryState::Retained } else { EntryState::Failed };
            let status = status(state, None, Some((reason, message.clone())));
            return Line { status, value: held, problem: Some((reason, message)), blocks: true, done: false };
        }
        Outcome::Absent { reason, message, firm } => (reason, message, firm),
    };
    let why = Some((reason, message.clone()));
    // Whose value it is that stays.
    let source = previous_entry(observed, entry).and_then(|before| before.source);
    let alarm = (reason == Reason::KeysVanished).then(|| (reason, message.clone()));
    let retained = |problem: Option<(Reason, String)>| Line {
        status: status(EntryState::Retained, source, why.clone()),
        value: held.clone(),
        done: problem.is_none(),
        problem,
        blocks: false,
    };
    // An absence that is not confirmed shrinks nothing and changes nothing that is there.
    if let Some(default) = &entry.default {
        let value = Some(zeroize::Zeroizing::new(default.clone().into_bytes()));
        if firm || held.is_none() || held == value {
            let status = status(EntryState::Synced, Some(Source::Default), None);
            return Line { status, value, problem: alarm, blocks: false, done: true };
        }
        return retained(alarm);
    }
    if entry.optional {
        if firm || held.is_none() {
            let status = status(EntryState::Absent, None, None);
            return Line { status, value: None, problem: alarm, blocks: false, done: true };
        }
        return retained(alarm);
    }
    let problem = |what: &str| Some((reason, sentences(&message, what)));
    match (observed.object.deletion_policy, held.is_some()) {
        (DeletionPolicy::Delete, true) if firm => Line {
            status: status(EntryState::Absent, None, why),
            value: None,
            problem: problem(&format!("Key {:?} was removed, as spec.target.deletionPolicy says", entry.key)),
            blocks: false,
            done: false,
        },
        (_, true) => retained(problem(&format!("Key {:?} keeps its last value", entry.key))),
        // Removed earlier under Delete: the rest follows on.
        (DeletionPolicy::Delete, false) if was_removed(observed, entry) => Line {
            status: status(EntryState::Absent, None, why),
            value: None,
            problem: problem(&format!("Key {:?} was removed, as spec.target.deletionPolicy says", entry.key)),
            blocks: false,
            done: false,
        },
        (_, false) => {
            let status = status(EntryState::Failed, None, why);
            Line { status, value: None, problem: Some((reason, message)), blocks: true, done: false }
        }
    }
}

fn was_removed(observed: &Observed<'_>, entry: &Entry) -> bool {
    // Only the removal of a required key has a reason.
    previous_entry(observed, entry).is_some_and(|before| before.state == EntryState::Absent && before.reason.is_some())
}

fn previous_entry<'a>(observed: &Observed<'a>, entry: &Entry) -> Option<&'a EntryStatus> {
    observed.previous.entries.iter().find(|before| before.key == entry.key)
}

/// The data that targets of this object hold now: of the target, or else of the one before a rename.
pub(super) fn current_data<'a>(observed: &Observed<'a>) -> Option<&'a Data> {
    [observed.target, observed.old_target]
        .into_iter()
        .flatten()
        .find(|target| !matches!(ownership(observed.object, target), Ownership::Foreign(_)))
        .map(|target| &target.data)
}

/// Entries as they stand while nothing can be read.
pub(super) fn keep_lines(observed: &Observed<'_>, failure: &Failure) -> Vec<Line> {
    let current = current_data(observed);
    observed
        .object
        .entries
        .iter()
        .map(|entry| {
            let own = observed.readings.get(&entry.remote).and_then(|reading| reading.failure.as_ref());
            let why = own.or(if failure.workspace_wide { Some(failure) } else { None });
            let held = current.is_some_and(|data| data.contains_key(&entry.key));
            let before = previous_entry(observed, entry);
            if let Some(before) = before.filter(|before| !held && before.state == EntryState::Absent) {
                // What was removed is remembered, so that the rest follows on later.
                return Line { status: before.clone(), value: None, problem: None, blocks: true, done: false };
            }
            let state = match (held, why) {
                (true, _) => EntryState::Retained,
                (false, Some(_)) => EntryState::Failed,
                (false, None) => EntryState::Pending,
            };
            Line {
                status: EntryStatus {
                    key: entry.key.clone(),
                    state,
                    source: before.filter(|_| held).and_then(|before| before.source),
                    reason: why.map(|f| f.reason.to_string()),
                    // The whole workspace's message stands once, in the condition.
                    message: why.filter(|f| !f.workspace_wide).map(|f| f.message.clone()),
                },
                value: None,
                problem: None,
                blocks: true,
                done: held && why.is_none(),
            }
        })
        .collect()
}

/// The target is not written: entries whose value it does not hold are not synced.
pub(super) fn unwritten(lines: Vec<Line>, current: Option<&Data>) -> Vec<Line> {
    lines
        .into_iter()
        .map(|mut line| {
            let held = current.is_some_and(|data| data.contains_key(&line.status.key));
            if line.status.state == EntryState::Absent && held {
                line.status.state = EntryState::Retained;
                line.done = false;
            }
            if line.status.state == EntryState::Synced {
                line.status.state = match current.and_then(|data| data.get(&line.status.key)) {
                    Some(held) if Some(held) == line.value.as_ref() => EntryState::Synced,
                    Some(_) => EntryState::Retained,
                    None => EntryState::Pending,
                };
                line.done = line.status.state == EntryState::Synced;
            }
            line
        })
        .collect()
}

pub(super) fn done(lines: &[Line]) -> usize {
    lines.iter().filter(|line| line.done).count()
}
