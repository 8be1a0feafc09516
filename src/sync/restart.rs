//! Which workloads to restart: those whose content changed, and no other.
//!
//! **A restart is remembered before it is due.** When the content of the target is about to change, the status says so
//! first (`pendingRevision`), then the target is written, then the workload is restarted, then the status says that it
//! was. Whatever is interrupted goes on from the status; what is only new in `spec.restart`, or stripped from a
//! workload by others, is no reason.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::absence::elapsed;
use super::plan::whole_seconds;
use super::{Object, Timestamp};
use crate::api::{self, RestartStatus, SyncStatus, WorkloadKind, duration_or};

/// An item of `spec.restart`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The workload's kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// Only when one of these keys changed; any if there are none.
    pub keys: Vec<String>,
    /// At most once in this time.
    pub min_interval: Duration,
}

impl From<&api::Restart> for Restart {
    fn from(restart: &api::Restart) -> Self {
        Self {
            kind: restart.kind,
            name: restart.name.clone(),
            keys: restart.keys.clone(),
            min_interval: duration_or(restart.min_interval, Duration::ZERO),
        }
    }
}

/// A workload to restart now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// What its pod template is marked with: the same restart twice is one.
    pub mark: String,
}

/// What came of a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rolled {
    /// It is under way.
    Done,
    /// There is no such workload: it will start with the new content.
    Missing,
    /// It could not be; the text says why.
    Refused(String),
}

/// What is to be restarted.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decision {
    /// How the restarts stand, and the content's revision, before anything is written.
    pub pending: Vec<RestartStatus>,
    pub revision: Option<i64>,
    /// What is due.
    pub due: Vec<Rollout>,
    /// When more is.
    pub next: Option<Duration>,
}

/// What a plan does to the content of the target.
pub(super) enum Effect {
    /// It is, or will be, as it should be, and is no other than before.
    Stands,
    /// These keys change.
    Changes(BTreeSet<String>),
    /// All of it goes.
    Goes,
    /// It is not looked at now.
    Unknown,
}

/// Decides.
pub(super) fn decide(object: &Object, previous: &SyncStatus, effect: &Effect, now: Timestamp) -> Decision {
    let before = previous.revision.unwrap_or(0);
    let pending = previous.restarts.iter().filter_map(|restart| restart.pending_revision).max();
    // What was announced and interrupted is the same revision still.
    let next = pending.unwrap_or(0).max(before + 1);
    let revision = match effect {
        Effect::Changes(_) => Some(next),
        // Raised when there is content again.
        Effect::Goes => previous.revision,
        // Announced, and the target is as it should be: it was written.
        Effect::Stands => pending.max(previous.revision),
        Effect::Unknown => previous.revision,
    };
    let mut decision = Decision { revision, ..Decision::default() };
    for restart in &object.restarts {
        let is_same = |status: &&RestartStatus| status.kind == restart.kind && status.name == restart.name;
        let mut status = previous.restarts.iter().find(is_same).cloned().unwrap_or_else(|| RestartStatus {
            kind: restart.kind,
            name: restart.name.clone(),
            ..RestartStatus::default()
        });
        let concerns = match effect {
            Effect::Changes(keys) => restart.keys.is_empty() || restart.keys.iter().any(|key| keys.contains(key)),
            Effect::Goes => true,
            Effect::Stands | Effect::Unknown => false,
        };
        if concerns {
            status.pending_revision = Some(next);
        }
        // Not before the content is there: without it no pod could start.
        if let Some(pending) = status.pending_revision.filter(|pending| Some(*pending) <= revision) {
            let since = status.last_restart_time.as_ref().map(|last| elapsed(last.0, now));
            match since.and_then(|since| restart.min_interval.checked_sub(since)).filter(|left| !left.is_zero()) {
                Some(left) => decision.next = Some(decision.next.map_or(left, |next| next.min(left))),
                None => decision.due.push(Rollout {
                    kind: restart.kind,
                    name: restart.name.clone(),
                    mark: format!("{}/{}/{pending}", object.owner_name(), object.uid),
                }),
            }
        }
        decision.pending.push(status);
    }
    decision
}

/// How a workload's restarts stand after one was tried.
pub(super) fn settle(status: &mut RestartStatus, rolled: &Rolled, object: &Object, now: Timestamp) {
    let display = || format!("{} {}/{}", status.kind.as_str(), object.id.namespace, status.name);
    match rolled {
        Rolled::Done => {
            status.message = None;
            status.last_restart_time = Some(Time(whole_seconds(now)));
            status.pending_revision = None;
        }
        Rolled::Missing => {
            status.message = Some(format!("there is no {}; it will start with the new content", display()));
            status.pending_revision = None;
        }
        Rolled::Refused(why) => status.message = Some(format!("restarting {}: {why}", display())),
    }
}
