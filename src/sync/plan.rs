//! `plan`: what is observed in, what to do out.

use std::collections::BTreeMap;
use std::time::Duration;

use super::absence::elapsed;
use super::conditions::{self, Verdict, sentences};
use super::events::{transition_event, written_events};
use super::lines::{Line, current_data, done, keep_lines, line, unwritten};
use super::reading::{Failure, Reading};
use super::resolve::resolve;
use super::suggest::no_workspace;
use super::target::{Data, Manifest, Ownership, Target, ownership};
use super::value::MAX_TARGET_BYTES;
use super::{Object, Reason, RemoteKey, Timestamp};
use crate::api::{DeletionPolicy, EntryState, ResolvedWorkspace, SyncStatus, TargetStatus};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// When to look again at a target that belongs to someone else.
const CONFLICT_RETRY: Duration = Duration::from_secs(10);

/// When to look again at a target that is being deleted; its end wakes the object before that.
const DELETING_RETRY: Duration = Duration::from_secs(5);

/// How long a new object may be without a status before it says that it is being worked on.
const SILENCE: Duration = Duration::from_secs(10);

/// How long a new object's workspace may be unknown: both may be of one file, and each kind has a watch of its own.
const NEIGHBOURS: Duration = Duration::from_secs(2);

/// What a message says of a target that does not exist yet.
pub const NOT_WRITTEN: &str = "The target is not written until this is solved";

/// How the object's workspace stands.
#[derive(Clone, Copy, Debug)]
pub enum WorkspaceView<'a> {
    /// There is none of that name.
    Missing {
        /// Those that the namespace has.
        others: &'a [String],
    },
    /// It has not been looked at yet: wait.
    Pending,
    /// It can't be used: nothing can be read.
    Unusable(&'a Failure),
    /// Its readings speak for it.
    Usable,
}

/// A version of a target that this process wrote or found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its UID.
    pub uid: String,
    /// Its resource version.
    pub resource_version: String,
}

/// All that a plan is made from.
pub struct Observed<'a> {
    /// What is asked for.
    pub object: &'a Object,
    /// The status as it stands.
    pub previous: &'a SyncStatus,
    /// The workspace.
    pub workspace: WorkspaceView<'a>,
    /// How long the object stays Ready through a failure of the whole workspace.
    pub stale_after: Duration,
    /// What is known of the keys.
    pub readings: &'a BTreeMap<RemoteKey, Reading>,
    /// What exists under the target's name.
    pub target: Option<&'a Target>,
    /// What exists under the name that the status still has, where that differs.
    pub old_target: Option<&'a Target>,
    /// The version of the target that this process left behind.
    pub written: Option<&'a Version>,
    /// When this process began: an older object is as new to it.
    pub started: Timestamp,
}

/// What to do with the target.
#[derive(Debug, PartialEq)]
pub enum TargetAction {
    /// Nothing.
    Keep,
    /// Create it; if one exists after all, observe again.
    Create(Manifest),
    /// Replace the version that was seen.
    Replace {
        /// What it is to be.
        manifest: Manifest,
        /// The version that was seen.
        version: Version,
    },
    /// Delete the version that was seen and create it anew: what changed can't be changed in place.
    Recreate {
        /// What it is to be.
        manifest: Manifest,
        /// The version that was seen.
        version: Version,
    },
    /// Delete the version that was seen.
    Delete {
        /// Its name.
        name: String,
        /// The version that was seen.
        version: Version,
    },
}

impl TargetAction {
    /// One word for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Create(_) => "create",
            Self::Replace { .. } => "replace",
            Self::Recreate { .. } => "recreate",
            Self::Delete { .. } => "delete",
        }
    }
}

/// An Event to publish on the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedEvent {
    /// Whether something is wrong.
    pub warning: bool,
    /// The cause.
    pub reason: Reason,
    /// What happened.
    pub note: String,
}

/// What to do about one object. Carry out in this order: `target`, `remove`, `status`, `events`.
#[derive(Debug)]
pub struct Plan {
    /// What to do with the target.
    pub target: TargetAction,
    /// Whether the target that was seen is just as it should be.
    pub target_is_right: bool,
    /// The object's former target, to delete once the new one stands.
    pub remove: Option<(String, Version)>,
    /// The status as it is to be; equal to the previous one where nothing is to be written.
    pub status: SyncStatus,
    /// Events to publish.
    pub events: Vec<PlannedEvent>,
    /// When to look again though nothing wakes us.
    pub requeue_after: Option<Duration>,
}

/// Decides. The same input gives the same plan; carrying it out and planning again asks for no write.
#[must_use]
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let object = observed.object;
    if let Err(problem) = object.validate() {
        return keep(observed, now, Verdict::not_ready(Reason::ObjectInvalid, problem), None);
    }
    if object.suspend {
        let ready = conditions::is_ready(&observed.previous.conditions);
        let message = "spec.suspend is true: nothing is read or written until it is false";
        let verdict = Verdict { ready, reason: Reason::Suspended, message: message.into() };
        return keep(observed, now, verdict, None);
    }
    match observed.workspace {
        WorkspaceView::Pending => pending(observed, now),
        WorkspaceView::Missing { others } => {
            if let Some(left) = left_of(NEIGHBOURS, observed, now) {
                return Plan { requeue_after: Some(left), ..wait(observed) };
            }
            let mut message = no_workspace(object, others);
            if current_data(observed).is_some() {
                message = sentences(&message, &unchanged(observed, now));
            }
            keep(observed, now, Verdict::not_ready(Reason::WorkspaceNotFound, message), None)
        }
        WorkspaceView::Unusable(failure) => outage(observed, failure, keep_lines(observed, failure), now),
        WorkspaceView::Usable => with_readings(observed, now),
    }
}

/// Whether the plan depends on the targets; else there is no need to read them.
#[must_use]
pub fn depends_on_target(observed: &Observed<'_>) -> bool {
    let usable = observed.object.validate().is_ok() && !observed.object.suspend;
    usable
        && match observed.workspace {
            WorkspaceView::Pending => false,
            WorkspaceView::Missing { .. } | WorkspaceView::Unusable(_) => true,
            WorkspaceView::Usable => !is_pending(observed),
        }
}

/// Whether something was not read yet, and nothing failed.
fn is_pending(observed: &Observed<'_>) -> bool {
    let readings = || observed.object.entries.iter().map(|entry| observed.readings.get(&entry.remote));
    let failed = readings().flatten().any(|reading| reading.failure.is_some());
    !failed && readings().any(|reading| reading.is_none_or(|reading| reading.answer.is_none()))
}

/// What is left of `grace` for an object that is new and has said nothing yet.
fn left_of(grace: Duration, observed: &Observed<'_>, now: Timestamp) -> Option<Duration> {
    let said = observed.previous.observed_generation.is_some();
    let age = observed.object.created.filter(|_| !said).map(|created| elapsed(created.max(observed.started), now))?;
    grace.checked_sub(age).filter(|left| !left.is_zero())
}

fn with_readings(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let object = observed.object;
    let readings: Vec<Option<&Reading>> =
        object.entries.iter().map(|entry| observed.readings.get(&entry.remote)).collect();
    let failure = readings
        .iter()
        .filter_map(|reading| reading.and_then(|r| r.failure.as_ref()))
        .min_by_key(|failure| failure.workspace_wide);
    let known: Vec<_> = readings
        .iter()
        .filter_map(|reading| reading.and_then(|r| r.answer.as_ref().map(|answer| (answer, r.passes))))
        .collect();
    if is_pending(observed) {
        return pending(observed, now);
    }
    let mut requeue_after = None;
    if let Some(failure) = failure {
        let lines = keep_lines(observed, failure);
        if !failure.workspace_wide {
            let message = sentences(&failure.message, &unchanged(observed, now));
            return keep(observed, now, Verdict::not_ready(failure.reason, message), Some(lines));
        }
        // Through an outage the last answers still make one consistent snapshot if there was a time when all of them
        // held: then a target that someone deleted can come back. Only for an object that was well and is not stale,
        // so that nothing new is ever made from old answers.
        let latest_first = known.iter().map(|(_, (first, _))| first).max();
        let earliest_last = known.iter().map(|(_, (_, last))| last).min();
        let consistent = known.len() == object.entries.len() && latest_first <= earliest_last;
        requeue_after = time_to_stale(observed, failure, now);
        if !consistent || requeue_after.is_none() {
            return outage(observed, failure, lines, now);
        }
    }

    let current = current_data(observed);
    let lines: Vec<Line> = object
        .entries
        .iter()
        .zip(&known)
        .map(|(entry, (answer, _))| line(observed, entry, resolve(entry, answer, &object.workspace.name), current))
        .collect();
    let problem = lines
        .iter()
        .filter_map(|line| line.problem.as_ref().map(|problem| (line.blocks, problem)))
        // What blocks the target is said first.
        .min_by_key(|(blocks, _)| !*blocks)
        .map(|(_, problem)| problem.clone());
    let others = lines.iter().filter(|line| line.problem.is_some()).count().saturating_sub(1);
    let more = if others == 0 { String::new() } else { format!(" (and {others} more: see status.entries)") };

    if let Some(failure) = failure
        && problem.is_some()
    {
        return outage(observed, failure, keep_lines(observed, failure), now);
    }
    if lines.iter().any(|line| line.blocks) {
        let (reason, message) = problem.unwrap_or((Reason::Progressing, String::new()));
        let message = sentences(&format!("{message}{more}"), &unchanged(observed, now));
        return keep(observed, now, Verdict::not_ready(reason, message), Some(unwritten(lines, current)));
    }
    if let Some(Ownership::Foreign(owner)) = observed.target.map(|target| ownership(object, target)) {
        let message = format!(
            "{} exists and belongs to {owner}; choose spec.target.name, or let it accept this object: kubectl annotate --overwrite {} {} -n {} {}={}",
            object.target_display(),
            object.id.kind.target().to_lowercase(),
            object.target_name,
            object.id.namespace,
            crate::api::ACCEPTS_ANNOTATION,
            object.owner_name()
        );
        let verdict = Verdict::not_ready(Reason::TargetConflict, message);
        // Targets of others are not watched, so nothing wakes the object when its owner lets it in or goes.
        let requeue_after = Some(CONFLICT_RETRY);
        return Plan { requeue_after, ..keep(observed, now, verdict, Some(unwritten(lines, None))) };
    }

    let data: Data =
        lines.iter().filter_map(|line| line.value.clone().map(|value| (line.status.key.clone(), value))).collect();
    let gone = data.is_empty() && object.deletion_policy == DeletionPolicy::Delete;
    if observed.target.is_some_and(|target| target.deleting) && !gone {
        let message = format!("{} is being deleted; it is written anew when it is gone", object.target_display());
        let verdict = Verdict::not_ready(Reason::Progressing, message);
        return Plan {
            requeue_after: Some(DELETING_RETRY),
            ..keep(observed, now, verdict, Some(unwritten(lines, None)))
        };
    }

    let manifest = Manifest::new(object, observed.target, data);
    if manifest.size() > MAX_TARGET_BYTES {
        let message = format!(
            "the values together have {} bytes, and Kubernetes takes at most {MAX_TARGET_BYTES} in one {}; split the object",
            manifest.size(),
            object.id.kind.target()
        );
        let message = sentences(&message, &unchanged(observed, now));
        return keep(
            observed,
            now,
            Verdict::not_ready(Reason::TargetTooLarge, message),
            Some(unwritten(lines, current)),
        );
    }
    let action = action(observed, manifest, gone);
    if matches!(action, TargetAction::Recreate { .. }) && lines.iter().any(|l| l.status.state == EntryState::Retained) {
        // Between deletion and creation a value that Prefect no longer has would exist nowhere.
        let message = format!(
            "{} has to be deleted and created anew, and holds values that Prefect does not have any more: restore them in Prefect, or delete it yourself",
            object.target_display()
        );
        return keep(
            observed,
            now,
            Verdict::not_ready(Reason::TargetRefused, message),
            Some(unwritten(lines, current)),
        );
    }
    let verdict = match problem {
        Some((reason, message)) => Verdict::not_ready(reason, format!("{message}{more}")),
        None => {
            let message = if gone {
                format!("Prefect has none of the keys, so there is no {}", object.target_display())
            } else {
                format!("{} of {} keys synced to {}", done(&lines), lines.len(), object.target_display())
            };
            Verdict { ready: true, reason: Reason::Synced, message }
        }
    };
    let removed = observed
        .old_target
        .filter(|old| ownership(object, old) == Ownership::Ours)
        .map(|old| (old.name.clone(), version(old)));
    let mut events = written_events(observed, &action, removed.as_ref().map(|(name, _)| name.as_str()));
    events.extend(transition_event(observed, &verdict));
    let mut status = status(observed, now, &verdict, Some(lines), None);
    status.target = Some(TargetStatus { name: object.target_name.clone() });
    if action != TargetAction::Keep {
        status.last_change_time = Some(Time(now));
    }
    let target_is_right = action == TargetAction::Keep && observed.target.is_some();
    Plan { target: action, target_is_right, remove: removed, status, events, requeue_after }
}

/// What the status says when the API server refused the target; `why` holds no value.
#[must_use]
pub fn refused(object: &Object, previous: &SyncStatus, why: &str, now: Timestamp) -> Plan {
    let observed = Observed {
        object,
        previous,
        workspace: WorkspaceView::Pending,
        stale_after: Duration::ZERO,
        readings: &BTreeMap::new(),
        target: None,
        old_target: None,
        written: None,
        started: now,
    };
    let message = format!("the API server refused {}: {why}", object.target_display());
    keep(&observed, now, Verdict::not_ready(Reason::TargetRefused, message), None)
}

fn action(observed: &Observed<'_>, manifest: Manifest, gone: bool) -> TargetAction {
    let Some(target) = observed.target else {
        return if gone { TargetAction::Keep } else { TargetAction::Create(manifest) };
    };
    let version = version(target);
    if gone {
        // One that only accepts us holds nothing of ours yet.
        return match ownership(observed.object, target) {
            Ownership::Ours if !target.deleting => TargetAction::Delete { name: target.name.clone(), version },
            _ => TargetAction::Keep,
        };
    }
    if manifest.matches(target) {
        return TargetAction::Keep;
    }
    // Of an immutable one not even a label can be changed without saying again that it is immutable.
    if manifest.r#type != target.r#type || target.immutable {
        return TargetAction::Recreate { manifest, version };
    }
    TargetAction::Replace { manifest, version }
}

pub(super) fn version(target: &Target) -> Version {
    Version { uid: target.uid.clone(), resource_version: target.resource_version.clone() }
}

/// Not everything is known yet. An object that has said nothing yet says so after a while: without any condition it
/// would be taken for finished.
fn pending(observed: &Observed<'_>, now: Timestamp) -> Plan {
    if observed.previous.observed_generation.is_some() {
        return wait(observed);
    }
    if let Some(left) = left_of(SILENCE, observed, now) {
        return Plan { requeue_after: Some(left), ..wait(observed) };
    }
    let message = format!("waiting for the first answers of {}", observed.object.workspace);
    let verdict = Verdict::not_ready(Reason::Progressing, message);
    Plan { status: status(observed, now, &verdict, None, None), ..wait(observed) }
}

/// Nothing is known that would change anything.
fn wait(observed: &Observed<'_>) -> Plan {
    Plan {
        target: TargetAction::Keep,
        target_is_right: false,
        remove: None,
        status: observed.previous.clone(),
        events: Vec::new(),
        requeue_after: None,
    }
}

/// The target stays as it is, and the status says why.
fn keep(observed: &Observed<'_>, now: Timestamp, verdict: Verdict, lines: Option<Vec<Line>>) -> Plan {
    let events = transition_event(observed, &verdict).into_iter().collect();
    let failing_since = (!verdict.ready && verdict.reason != Reason::Suspended).then(|| since(observed, None, now));
    let status = status(observed, now, &verdict, lines, failing_since);
    Plan { status, events, ..wait(observed) }
}

/// The whole workspace fails: the target stays, and the object stays Ready on it until it is stale.
fn outage(observed: &Observed<'_>, failure: &Failure, lines: Vec<Line>, now: Timestamp) -> Plan {
    if let Some(left) = time_to_stale(observed, failure, now) {
        return Plan { requeue_after: Some(left), ..wait(observed) };
    }
    let message = sentences(&failure.message, &unchanged_since(observed, Some(failure), now));
    let verdict = Verdict::not_ready(failure.reason, message);
    let events = transition_event(observed, &verdict).into_iter().collect();
    let failing_since = Some(since(observed, Some(failure), now));
    let status = status(observed, now, &verdict, Some(lines), failing_since);
    Plan { status, events, ..wait(observed) }
}

/// How long an object that is well outlives a failure of its workspace: until `staleAfter`, a little spread so that
/// many objects do not turn at one instant. `None` when it is stale, or was not well in its present generation.
fn time_to_stale(observed: &Observed<'_>, failure: &Failure, now: Timestamp) -> Option<Duration> {
    let was_well = conditions::is_ready(&observed.previous.conditions)
        && observed.previous.observed_generation == observed.object.generation;
    let spread: u32 = observed.object.uid.bytes().map(u32::from).sum::<u32>() % 100;
    let limit = observed.stale_after + observed.stale_after / 1000 * spread;
    let age = elapsed(failure.since, now);
    (was_well && age < limit).then(|| limit - age + Duration::from_millis(10))
}

/// Since when the target does not follow: kept in the status, so that a restart does not change it.
fn since(observed: &Observed<'_>, failure: Option<&Failure>, now: Timestamp) -> Time {
    observed.previous.failing_since.clone().unwrap_or_else(|| Time(failure.map_or(now, |f| f.since)))
}

fn unchanged(observed: &Observed<'_>, now: Timestamp) -> String {
    unchanged_since(observed, None, now)
}

fn unchanged_since(observed: &Observed<'_>, failure: Option<&Failure>, now: Timestamp) -> String {
    if current_data(observed).is_some() {
        format!("Target unchanged since {}", since(observed, failure, now).0.strftime("%Y-%m-%dT%H:%M:%SZ"))
    } else {
        NOT_WRITTEN.to_owned()
    }
}

fn status(
    observed: &Observed<'_>,
    now: Timestamp,
    verdict: &Verdict,
    lines: Option<Vec<Line>>,
    failing_since: Option<Time>,
) -> SyncStatus {
    let object = observed.object;
    let previous = observed.previous;
    let (keys, entries) = match lines {
        Some(lines) => {
            (Some(format!("{}/{}", done(&lines), lines.len())), lines.into_iter().map(|line| line.status).collect())
        }
        None => (previous.keys.clone(), previous.entries.clone()),
    };
    SyncStatus {
        observed_generation: object.generation,
        conditions: conditions::conditions(&previous.conditions, verdict, object.generation, now),
        workspace: match observed.workspace {
            WorkspaceView::Missing { .. } => None,
            _ => Some(ResolvedWorkspace { kind: object.workspace.kind, name: object.workspace.name.clone() }),
        },
        target: previous.target.clone(),
        keys,
        entries,
        // Whole seconds, as the API server keeps them: else every comparison would see a difference.
        failing_since: failing_since.map(|Time(at)| Time(whole_seconds(at))),
        last_change_time: previous.last_change_time.clone(),
    }
}

/// The same time without its fraction.
#[must_use]
pub fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
