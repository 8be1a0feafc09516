//! Which Events a plan publishes: transitions and what was done to targets, never an ordinary success.

use super::Reason;
use super::claim::version;
use super::conditions::{self, Verdict};
use super::planned::{Observed, PlannedEvent, TargetAction};
use crate::api::{ResolvedWorkspace, SyncStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

pub(super) fn transition_event(observed: &Observed<'_>, verdict: &Verdict) -> Option<PlannedEvent> {
    (verdict.reason != Reason::Suspended).then(|| transition(&observed.previous.conditions, verdict))?
}

pub(super) fn written_events(
    observed: &Observed<'_>,
    action: &TargetAction,
    removed: Option<&str>,
) -> Vec<PlannedEvent> {
    let target = observed.object.target_display();
    let normal = |reason, note| PlannedEvent { warning: false, reason, note };
    let mut events = Vec::new();
    // What was written may be another target, from before a rename.
    let same_name = observed.previous.target.as_ref().is_some_and(|before| before.name == observed.object.target_name);
    let edited = same_name
        && observed.written.is_some_and(|written| observed.target.is_none_or(|target| version(target) != *written));
    match action {
        TargetAction::Create(_) if edited => {
            events.push(normal(Reason::DriftRepaired, format!("{target} was deleted by someone, and is back")));
        }
        TargetAction::Replace { .. } if edited => {
            events.push(normal(
                Reason::DriftRepaired,
                format!("{target} was edited by someone, and is as it should be again"),
            ));
        }
        TargetAction::Recreate { .. } => events.push(normal(
            Reason::TargetReplaced,
            format!("{target} was deleted and created anew: its type changed, or it was immutable"),
        )),
        TargetAction::Delete { .. } => events.push(PlannedEvent {
            warning: true,
            reason: Reason::TargetRemoved,
            note: format!(
                "{target} was removed: nothing that it held is in Prefect, and spec.target.deletionPolicy is Delete"
            ),
        }),
        _ => {}
    }
    if let Some(name) = removed {
        events.push(normal(Reason::TargetRemoved, format!("{name} was removed: the target is now {target}")));
    }
    events
}

/// That another workspace is read than before.
pub(super) fn workspace_event(before: &SyncStatus, after: &SyncStatus) -> Option<PlannedEvent> {
    let (before, after) = (before.workspace.as_ref()?, after.workspace.as_ref()?);
    (before != after).then(|| {
        let display = |workspace: &ResolvedWorkspace| format!("{} {:?}", workspace.kind.as_str(), workspace.name);
        let (before, after) = (display(before), display(after));
        let note =
            format!("{after} is read now, and no longer {before}; what it lacks is removed only once it confirms that");
        PlannedEvent { warning: false, reason: Reason::WorkspaceChanged, note }
    })
}

/// The Event of a transition; none for a first success.
pub(super) fn transition(previous: &[Condition], verdict: &Verdict) -> Option<PlannedEvent> {
    let before = conditions::ready(previous);
    let same_reason = before.is_some_and(|c| c.reason == verdict.reason.as_str());
    match (before.map(|c| c.status == "True"), verdict.ready) {
        // What had only been waited for is a first success.
        (Some(false), true) if before.is_some_and(|c| c.reason == Reason::Progressing.as_str()) => None,
        (Some(false), true) => {
            Some(PlannedEvent { warning: false, reason: verdict.reason, note: verdict.message.clone() })
        }
        (Some(false), false) if same_reason => None,
        (_, false) => Some(PlannedEvent { warning: true, reason: verdict.reason, note: verdict.message.clone() }),
        (_, true) => None,
    }
}
