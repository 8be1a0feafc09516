//! Conditions as kstatus reads them: `Ready` always; `Stalled` and `Reconciling` only while they hold.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Reason, Timestamp};

/// The condition that people wait for.
pub const READY: &str = "Ready";
/// Being worked on: kstatus' `InProgress`.
pub const RECONCILING: &str = "Reconciling";
/// Hopeless until something is changed: kstatus' `Failed`.
pub const STALLED: &str = "Stalled";

/// The longest message that the API server takes is 32,768 bytes; a person reads far less.
const MAX_MESSAGE_CHARS: usize = 2000;

/// What `Ready` is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Ready or not.
    pub ready: bool,
    /// The cause.
    pub reason: Reason,
    /// What was tried and what to do next.
    pub message: String,
}

impl Verdict {
    /// Not ready.
    #[must_use]
    pub fn not_ready(reason: Reason, message: impl Into<String>) -> Self {
        Self { ready: false, reason, message: message.into() }
    }
}

/// The conditions after `verdict`. A transition time changes only when a condition's status does.
#[must_use]
pub fn conditions(
    previous: &[Condition],
    verdict: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let stalled = !verdict.ready && verdict.reason.is_stalled();
    let reconciling = !verdict.ready && !stalled && verdict.reason != Reason::Suspended;
    let message: String = verdict.message.chars().take(MAX_MESSAGE_CHARS).collect();
    [(READY, verdict.ready, true), (RECONCILING, true, reconciling), (STALLED, true, stalled)]
        .into_iter()
        .filter(|(_, _, present)| *present)
        .map(|(type_, status, _)| {
            let status = if status { "True" } else { "False" };
            let before = previous.iter().find(|c| c.type_ == type_ && c.status == status);
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.as_str().to_owned(),
                message: message.clone(),
                observed_generation: generation,
                last_transition_time: before.map_or(Time(now), |c| c.last_transition_time.clone()),
            }
        })
        .collect()
}

/// Two sentences as one message; the first may be a question.
#[must_use]
pub fn sentences(first: &str, next: &str) -> String {
    let stop = if first.ends_with('?') { "" } else { "." };
    format!("{first}{stop} {next}")
}

/// The `Ready` condition, if there is one.
#[must_use]
pub fn ready(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == READY)
}

/// Whether the conditions say that all is well.
#[must_use]
pub fn is_ready(conditions: &[Condition]) -> bool {
    ready(conditions).is_some_and(|c| c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_time_changes_only_on_transitions() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let first = conditions(&[], &Verdict::not_ready(Reason::KeyNotFound, "a"), Some(1), at(0));
        let again = conditions(&first, &Verdict::not_ready(Reason::ValueMasked, "b"), Some(2), at(10));
        assert_eq!(ready(&again).unwrap().last_transition_time.0, at(0), "False stays False");
        let good = Verdict { ready: true, reason: Reason::Synced, message: "c".into() };
        let then = conditions(&again, &good, Some(2), at(20));
        assert_eq!(ready(&then).unwrap().last_transition_time.0, at(20));
    }

    #[test]
    fn kstatus_sees_in_progress_failed_or_current() {
        let types = |verdict: &Verdict| {
            conditions(&[], verdict, None, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.type_).collect::<Vec<_>>()
        };
        assert_eq!(types(&Verdict::not_ready(Reason::PrefectUnreachable, "")), [READY, RECONCILING]);
        assert_eq!(types(&Verdict::not_ready(Reason::TargetConflict, "")), [READY, STALLED]);
        assert_eq!(types(&Verdict { ready: true, reason: Reason::Synced, message: String::new() }), [READY]);
    }
}
