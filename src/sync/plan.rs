//! `plan`: what is observed in, what to do out.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::absence::elapsed;
use super::claim::{action, changed_keys, conflict, foreign_keys, needs_confirmation, removal};
use super::conditions::{self, Verdict, sentences};
use super::entries;
use super::events::{transition_event, workspace_event, written_events};
use super::interest::Interest;
use super::layout::{Contents, lay_out, tag};
use super::lines::{Line, Scene, done, keep_lines, unwritten};
pub use super::planned::{Observed, Plan, PlannedEvent, Removal, TargetAction, Version, WorkspaceView};
use super::reading::Failure;
use super::report::{self, report};
use super::restart::{self, Effect};
use super::suggest::{cluster_trouble, no_workspace};
use super::target::{Data, Manifest};
use super::value::MAX_TARGET_BYTES;
use super::{Object, Reason, Timestamp};
use crate::api::{DeletionPolicy, EntryState, ResolvedWorkspace, SyncStatus, TargetStatus};

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

/// Decides. The same input gives the same plan; carrying it out and planning again asks for no write.
#[must_use]
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let scene = Scene::new(observed);
    let mut plan = decide(&scene, now);
    plan_restarts(&mut plan, &scene, now);
    plan.events.extend(workspace_event(observed.previous, &plan.status));
    if let Some(token) = observed.refreshed {
        plan.status.last_handled_refresh = Some(token.to_owned());
    }
    plan
}

fn decide(scene: &Scene<'_>, now: Timestamp) -> Plan {
    let observed = scene.observed;
    let object = observed.object;
    if let Err((reason, problem)) = object.validate() {
        return keep(observed, now, Verdict::not_ready(reason, problem), None);
    }
    if object.suspend {
        let ready = conditions::is_ready(&observed.previous.conditions);
        let message = "spec.suspend is true: nothing is read or written until it is false";
        let verdict = Verdict { ready, reason: Reason::Suspended, message: message.into() };
        return keep(observed, now, verdict, None);
    }
    // One of its own namespace may be in the same file, and would go first.
    if object.names_no_workspace
        && object.workspace.is_cluster()
        && let Some(left) = left_of(NEIGHBOURS, observed, now)
    {
        return Plan { requeue_after: Some(left), ..wait(observed) };
    }
    match observed.workspace {
        WorkspaceView::Pending => pending(observed, now),
        WorkspaceView::Off { why } => {
            let message = sentences(why, &unchanged(scene, now));
            keep(observed, now, Verdict::not_ready(Reason::ClusterWorkspacesOff, message), None)
        }
        WorkspaceView::Missing { others, has_cluster } => {
            if let Some(left) = left_of(NEIGHBOURS, observed, now) {
                return Plan { requeue_after: Some(left), ..wait(observed) };
            }
            let mut message = no_workspace(object, others, has_cluster);
            if scene.current.is_some() {
                message = sentences(&message, &unchanged(scene, now));
            }
            keep(observed, now, Verdict::not_ready(Reason::WorkspaceNotFound, message), None)
        }
        WorkspaceView::Unusable(failure) => outage(scene, failure, keep_lines(scene, failure), now),
        WorkspaceView::Usable => with_readings(scene, now),
    }
}

/// Whether the plan depends on the targets; else there is no need to read them.
#[must_use]
pub fn depends_on_target(observed: &Observed<'_>) -> bool {
    let usable = observed.object.validate().is_ok() && !observed.object.suspend;
    usable
        && match observed.workspace {
            WorkspaceView::Pending => false,
            WorkspaceView::Missing { .. } | WorkspaceView::Off { .. } | WorkspaceView::Unusable(_) => true,
            WorkspaceView::Usable => !is_pending(observed),
        }
}

/// Whether something was not read yet, and nothing failed.
fn is_pending(observed: &Observed<'_>) -> bool {
    let interest = Interest::of(observed.object, observed.previous);
    let failed = observed.readings.values().any(|reading| reading.failure.is_some());
    let unread = |key| observed.readings.get(key).is_none_or(|reading| reading.answer.is_none());
    !failed && interest.remote_keys().any(unread)
}

/// What is left of `grace` for an object that is new and has said nothing yet.
fn left_of(grace: Duration, observed: &Observed<'_>, now: Timestamp) -> Option<Duration> {
    let said = observed.previous.observed_generation.is_some();
    let age = observed.object.created.filter(|_| !said).map(|created| elapsed(created.max(observed.started), now))?;
    grace.checked_sub(age).filter(|left| !left.is_zero())
}

fn with_readings(scene: &Scene<'_>, now: Timestamp) -> Plan {
    let observed = scene.observed;
    let object = observed.object;
    if is_pending(observed) {
        return pending(observed, now);
    }
    let failures = observed.readings.values().filter_map(|reading| reading.failure.as_ref());
    let failure = failures.min_by_key(|failure| failure.workspace_wide);
    let mut requeue_after = None;
    if let Some(failure) = failure {
        let lines = keep_lines(scene, failure);
        if !failure.workspace_wide {
            let message = sentences(&failure.message, &unchanged(scene, now));
            return keep(observed, now, Verdict::not_ready(failure.reason, message), Some(lines));
        }
        // Through an outage the last answers still make one consistent snapshot if there was a time when all of them
        // held: then a target that someone deleted can come back. Only for an object that was well and is not stale,
        // so that nothing new is ever made from old answers.
        let known = || observed.readings.values().filter(|reading| reading.answer.is_some());
        let latest_first = known().map(|reading| reading.passes.0).max();
        let earliest_last = known().map(|reading| reading.passes.1).min();
        let interest = Interest::of(object, observed.previous);
        let all_known = interest
            .remote_keys()
            .all(|key| observed.readings.get(key).is_some_and(|reading| reading.answer.is_some()));
        requeue_after = time_to_stale(observed, failure, now);
        if !all_known || latest_first > earliest_last || requeue_after.is_none() {
            return outage(scene, failure, lines, now);
        }
    }

    let lines = entries::lines(scene);
    let (problem, more) = problem_of(&lines);
    if let Some(failure) = failure
        && problem.is_some()
    {
        return outage(scene, failure, keep_lines(scene, failure), now);
    }
    let blocked = |reason, message: String, lines, holds_nothing| {
        let lines = unwritten(lines, scene, holds_nothing);
        keep(observed, now, Verdict::not_ready(reason, message), Some(lines))
    };
    if lines.iter().any(|line| line.blocks) {
        // An absence that is not confirmed is no problem yet.
        let Some((reason, message)) = problem else { return wait(observed) };
        return blocked(reason, sentences(&format!("{message}{more}"), &unchanged(scene, now)), lines, false);
    }
    if let Some((reason, message)) = conflict(observed) {
        // Targets of others are not watched, so nothing wakes the object when its owner lets it in or goes.
        return Plan { requeue_after: Some(CONFLICT_RETRY), ..blocked(reason, message, lines, true) };
    }

    let found = report::found(&lines);
    let contents: Contents =
        lines.iter().filter_map(|line| Some((line.status.key.clone(), line.value.clone()?))).collect();
    // Whatever a format or a template would make of nothing.
    let gone = contents.is_empty() && object.deletion_policy == DeletionPolicy::Delete;
    let laid_out = if gone { Ok(Data::new()) } else { lay_out(object, contents) };
    let data = match limits(object, &lines, report::size(&found)).and(laid_out) {
        Ok(data) => data,
        Err(why) => {
            // What is missing is most likely why.
            let (reason, message) = problem.unwrap_or(why);
            return blocked(reason, sentences(&message, &unchanged(scene, now)), lines, false);
        }
    };
    if observed.target.is_some_and(|target| target.deleting) && (!gone || object.is_merge()) {
        let message = format!("{} is being deleted; it is written anew when it is gone", object.target_display());
        return Plan { requeue_after: Some(DELETING_RETRY), ..blocked(Reason::Progressing, message, lines, true) };
    }

    let manifest = Manifest::new(object, observed.target, data);
    if manifest.size() > MAX_TARGET_BYTES {
        let message = format!(
            "the values together have {} bytes, and Kubernetes takes at most {MAX_TARGET_BYTES} in one {}; split the object",
            manifest.size(),
            object.id.kind.target()
        );
        return blocked(Reason::TargetTooLarge, sentences(&message, &unchanged(scene, now)), lines, false);
    }
    if let Some((reason, message)) = foreign_keys(observed, &manifest) {
        return Plan { requeue_after: Some(CONFLICT_RETRY), ..blocked(reason, message, lines, false) };
    }
    let action = action(observed, manifest, gone);
    if matches!(action, TargetAction::Recreate { .. }) && lines.iter().any(|l| l.status.state == EntryState::Retained) {
        // Between deletion and creation a value that Prefect no longer has would exist nowhere.
        let message = format!(
            "{} has to be deleted and created anew, and holds values that Prefect does not have any more: restore them in Prefect, or delete it yourself",
            object.target_display()
        );
        return blocked(Reason::TargetRefused, message, lines, false);
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
    let remove = removal(observed);
    let mut events = written_events(observed, &action, remove.as_ref().map(Removal::name));
    events.extend(transition_event(observed, &verdict));
    let mut status = status(observed, now, &verdict, Some(lines), None);
    let merged = object.is_merge().then_some(true);
    status.target = Some(TargetStatus { name: object.target_name.clone(), merged, layout: tag(object) });
    status.found = found;
    if action != TargetAction::Keep {
        status.last_change_time = Some(Time(whole_seconds(now)));
    }
    // One that waits for its finalizers to go is not what pods should start with.
    let is_going = gone && !object.is_merge();
    let target_is_right = action == TargetAction::Keep && observed.target.is_some() && !is_going;
    let confirm = needs_confirmation(observed, &action, remove.is_some());
    Plan { confirm, target: action, target_is_right, remove, status, events, requeue_after, ..wait(observed) }
}

/// The first problem, and how many more there are.
fn problem_of(lines: &[Line]) -> (Option<(Reason, String)>, String) {
    let problems = lines.iter().filter_map(|line| line.problem.as_ref().map(|problem| (line.blocks, problem)));
    // What blocks the target is said first.
    let problem = problems.clone().min_by_key(|(blocks, _)| !*blocks).map(|(_, problem)| problem.clone());
    let others = problems.count().saturating_sub(1);
    let more = if others == 0 { String::new() } else { format!(" (and {others} more: see status.entries)") };
    (problem, more)
}

fn limits(object: &Object, lines: &[Line], names: usize) -> Result<(), (Reason, String)> {
    if lines.len() <= report::MAX_LINES && names <= report::MAX_NAMES {
        return Ok(());
    }
    let message = format!(
        "there are {} entries, whose names have {names} bytes; one {} takes at most {} entries and {} bytes of names: narrow find, or split the object",
        lines.len(),
        object.id.kind.as_str(),
        report::MAX_LINES,
        report::MAX_NAMES
    );
    Err((Reason::TargetTooLarge, message))
}

/// Which workloads to restart, given what the plan writes.
fn plan_restarts(plan: &mut Plan, scene: &Scene<'_>, now: Timestamp) {
    let observed = scene.observed;
    let (object, previous) = (observed.object, observed.previous);
    if object.suspend {
        return;
    }
    let effect = match &plan.target {
        TargetAction::Keep if plan.target_is_right => Effect::Stands,
        // Nothing that pods could start with.
        TargetAction::Keep => Effect::Unknown,
        TargetAction::Delete { .. } => Effect::Goes,
        TargetAction::Create(_) => Effect::Stands,
        TargetAction::Replace { .. } | TargetAction::Recreate { .. } | TargetAction::Merge { .. } => {
            match changed_keys(observed, &plan.target) {
                changed if changed.is_empty() => Effect::Stands,
                changed => Effect::Changes(changed),
            }
        }
    };
    let is_pending = previous.restarts.iter().any(|restart| restart.pending_revision.is_some());
    if matches!(effect, Effect::Unknown) && !is_pending {
        return;
    }
    let decision = restart::decide(object, previous, &effect, now);
    let is_news = decision.pending.iter().any(|status| status.pending_revision.is_some());
    if matches!(effect, Effect::Changes(_)) && is_news && decision.pending != previous.restarts {
        plan.intent = Some(SyncStatus { restarts: decision.pending.clone(), ..previous.clone() });
    }
    plan.status.restarts = decision.pending;
    plan.status.revision = decision.revision;
    plan.rollouts = decision.due;
    plan.requeue_after = [plan.requeue_after, decision.next].into_iter().flatten().min();
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
        refreshed: None,
    };
    let message = format!("the API server refused {}: {why}", object.target_display());
    keep(&observed, now, Verdict::not_ready(Reason::TargetRefused, message), None)
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
        confirm: false,
        target: TargetAction::Keep,
        target_is_right: false,
        intent: None,
        remove: None,
        rollouts: Vec::new(),
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
fn outage(scene: &Scene<'_>, failure: &Failure, lines: Vec<Line>, now: Timestamp) -> Plan {
    let observed = scene.observed;
    if let Some(left) = time_to_stale(observed, failure, now) {
        return Plan { requeue_after: Some(left), ..wait(observed) };
    }
    let workspace = &observed.object.workspace;
    let why = match workspace.is_cluster() {
        true => cluster_trouble(&workspace.name, failure.reason),
        false => failure.message.clone(),
    };
    let message = sentences(&why, &unchanged_since(scene, Some(failure), now));
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

fn unchanged(scene: &Scene<'_>, now: Timestamp) -> String {
    unchanged_since(scene, None, now)
}

fn unchanged_since(scene: &Scene<'_>, failure: Option<&Failure>, now: Timestamp) -> String {
    if scene.current.is_some() {
        format!("Target unchanged since {}", since(scene.observed, failure, now).0.strftime("%Y-%m-%dT%H:%M:%SZ"))
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
    let report = lines.map(report);
    SyncStatus {
        observed_generation: object.generation,
        conditions: conditions::conditions(&previous.conditions, verdict, object.generation, now),
        workspace: match observed.workspace {
            _ if object.suspend => previous.workspace.clone(),
            WorkspaceView::Missing { .. } | WorkspaceView::Off { .. } => previous.workspace.clone(),
            _ => Some(ResolvedWorkspace { kind: object.workspace.kind, name: object.workspace.name.clone() }),
        },
        target: previous.target.clone(),
        keys: report.as_ref().map_or_else(|| previous.keys.clone(), |report| Some(report.keys.clone())),
        counts: report.as_ref().map_or(previous.counts, |report| Some(report.counts)),
        entries: report.map_or_else(|| previous.entries.clone(), |report| report.entries),
        found: previous.found.clone(),
        revision: previous.revision,
        restarts: previous.restarts.clone(),
        last_handled_refresh: previous.last_handled_refresh.clone(),
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
#[path = "plan_world.rs"]
mod world;

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "plan_sources_tests.rs"]
mod sources_tests;

#[cfg(test)]
#[path = "plan_layouts_tests.rs"]
mod layouts_tests;

#[cfg(test)]
#[path = "plan_workspace_tests.rs"]
mod workspace_tests;

#[cfg(test)]
#[path = "plan_policies_tests.rs"]
mod policies_tests;
