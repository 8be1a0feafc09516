//! What a plan is made from, and what it is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::conditions::{self, Verdict};
use super::events::transition;
use super::reading::{Failure, Reading};
use super::restart::{self, Rolled, Rollout};
use super::target::{Manifest, Target};
use super::{Object, Reason, RemoteKey, Timestamp};
use crate::api::{RestartStatus, SyncStatus};

/// When to try again to restart a workload.
const RESTART_RETRY: Duration = Duration::from_secs(30);
/// When to try again to remove a former target.
const REMOVAL_RETRY: Duration = Duration::from_secs(10);

/// How the object's workspace stands.
#[derive(Clone, Copy, Debug)]
pub enum WorkspaceView<'a> {
    /// There is none of that name.
    Missing {
        /// Those of its kind that the namespace may use.
        others: &'a [String],
        /// Whether those of the whole cluster are read.
        has_cluster: bool,
    },
    /// It can't be used here, whatever it is.
    Off {
        /// Why not, and what to do.
        why: &'a str,
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
    /// The request to read at once that has been done.
    pub refreshed: Option<&'a str>,
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
    /// Make the object's keys in the version that was seen, which is someone else's, these and no other.
    Merge {
        /// The keys.
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

/// What to do with the former target.
#[derive(Debug, PartialEq)]
pub enum Removal {
    /// Delete it.
    Delete(String, Version),
    /// Take the object's keys out of it.
    Leave(Manifest, Version),
}

impl Removal {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Delete(name, _) => name,
            Self::Leave(manifest, _) => &manifest.name,
        }
    }
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
            Self::Merge { .. } => "merge",
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

/// What to do about one object. Carry out in this order: `confirm`, `intent`, `target`, `remove`, `rollouts` (and tell
/// [`Plan::rolled`] what came of them), `status`, `events`.
#[derive(Debug)]
pub struct Plan {
    /// Whether to read the object from the API server before anything is done, and to do nothing if it has changed: the
    /// cache may be behind, and the plan could cost a target.
    pub confirm: bool,
    /// The status to write before anything else: which workloads are to be restarted because of it.
    pub intent: Option<SyncStatus>,
    /// What to do with the target.
    pub target: TargetAction,
    /// Whether the target that was seen is just as it should be.
    pub target_is_right: bool,
    /// The object's former target, to delete once the new one stands.
    pub remove: Option<Removal>,
    /// Workloads to restart.
    pub rollouts: Vec<Rollout>,
    /// The status as it is to be; equal to the previous one where nothing is to be written.
    pub status: SyncStatus,
    /// Events to publish.
    pub events: Vec<PlannedEvent>,
    /// When to look again though nothing wakes us.
    pub requeue_after: Option<Duration>,
}

impl Plan {
    /// Takes in that the former target could not be removed; the new one stands.
    pub fn left_behind(&mut self, why: &str, object: &Object, previous: &SyncStatus, now: Timestamp) {
        let Some(former) = &previous.target else { return };
        let message = format!(
            "{} is as it should be, but the former target {} could not be removed: {why}",
            object.target_display(),
            former.name
        );
        // So that it is tried again.
        self.status.target = previous.target.clone();
        self.requeue_after = Some(REMOVAL_RETRY);
        self.say_instead(Verdict::not_ready(Reason::TargetRefused, message), object, previous, now);
    }

    /// Something went wrong after all.
    fn say_instead(&mut self, verdict: Verdict, object: &Object, previous: &SyncStatus, now: Timestamp) {
        self.status.conditions = conditions::conditions(&previous.conditions, &verdict, object.generation, now);
        // That all is well again was too early.
        self.events.retain(|event| event.reason != Reason::Synced);
        self.events.extend(transition(&previous.conditions, &verdict));
    }

    /// Takes in what came of the restarts, one result for each of `rollouts`.
    pub fn rolled(&mut self, results: &[Rolled], object: &Object, previous: &SyncStatus, now: Timestamp) {
        let mut refused = None;
        for (rollout, rolled) in self.rollouts.iter().zip(results) {
            let is_it = |status: &&mut RestartStatus| status.kind == rollout.kind && status.name == rollout.name;
            let Some(status) = self.status.restarts.iter_mut().find(is_it) else { continue };
            restart::settle(status, rolled, object, now);
            match rolled {
                Rolled::Done => self.events.push(PlannedEvent {
                    warning: false,
                    reason: Reason::Restarted,
                    note: format!(
                        "{} {}/{} is restarted: what it uses of {} changed",
                        rollout.kind.as_str(),
                        object.id.namespace,
                        rollout.name,
                        object.target_display()
                    ),
                }),
                Rolled::Missing => {}
                Rolled::Refused(_) => refused = refused.or(status.message.clone()),
            }
        }
        let Some(message) = refused else { return };
        self.requeue_after = Some(self.requeue_after.map_or(RESTART_RETRY, |after| after.min(RESTART_RETRY)));
        if conditions::is_ready(&self.status.conditions) {
            self.say_instead(Verdict::not_ready(Reason::RestartFailed, message), object, previous, now);
        }
    }
}
