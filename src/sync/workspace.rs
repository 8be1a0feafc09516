//! The status of a workspace, from how its session does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::absence::Census;
use super::conditions::{self, Verdict};
use super::reading::Failure;
use super::{PlannedEvent, Reason, Timestamp};
use crate::api::WorkspaceStatus;

/// How a workspace does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not tried yet.
    Pending,
    /// It answers.
    Well {
        /// The version that the server says it is; `None` where it says none, as Cloud.
        server_version: Option<String>,
        /// How many keys that targets hold vanished together.
        census: Census,
    },
    /// It can't be read.
    Failing(Failure),
}

/// The status that `health` asks for, and the Event of a transition. `api_url` is the address as it is used;
/// `None` for a workspace with local secrets only.
#[must_use]
pub fn workspace_status(
    previous: &WorkspaceStatus,
    generation: Option<i64>,
    api_url: Option<&str>,
    health: &Health,
    now: Timestamp,
) -> (WorkspaceStatus, Option<PlannedEvent>) {
    let mut server_version = previous.server_version.clone().filter(|_| api_url.is_some());
    let verdict = match health {
        Health::Pending => return (previous.clone(), None),
        Health::Well { server_version: version, census } => {
            server_version = api_url.map(|_| version.clone().unwrap_or_else(|| "cloud".to_owned()));
            if census.holds() {
                Verdict::not_ready(
                    Reason::KeysVanished,
                    format!(
                        "{} of the {} keys that targets hold vanished from Prefect together, as when a database is emptied or a permission lost: targets keep them. Restore them, or remove their entries",
                        census.vanished, census.delivered
                    ),
                )
            } else {
                let message = match (&server_version, api_url) {
                    (Some(version), Some(_)) if version != "cloud" => {
                        format!("Prefect {version} answers and accepts the credentials")
                    }
                    (_, Some(_)) => "Prefect answers and accepts the credentials".to_owned(),
                    _ => "the local secrets were read".to_owned(),
                };
                Verdict { ready: true, reason: Reason::Connected, message }
            }
        }
        Health::Failing(failure) => {
            let message = format!(
                "{}. Last good values are kept since {}",
                failure.message,
                failure.since.strftime("%Y-%m-%dT%H:%M:%SZ")
            );
            Verdict::not_ready(failure.reason, message)
        }
    };
    let event = transition(&previous.conditions, &verdict);
    let status = WorkspaceStatus {
        observed_generation: generation,
        conditions: conditions::conditions(&previous.conditions, &verdict, generation, now),
        api_url: api_url.map(str::to_owned),
        server_version,
    };
    (status, event)
}

/// The Event of a transition; none for a first success.
pub(super) fn transition(previous: &[Condition], verdict: &Verdict) -> Option<PlannedEvent> {
    let before = conditions::ready(previous);
    let same_reason = before.is_some_and(|c| c.reason == verdict.reason.as_str());
    match (before.map(|c| c.status == "True"), verdict.ready) {
        (Some(false), true) => {
            Some(PlannedEvent { warning: false, reason: verdict.reason, note: verdict.message.clone() })
        }
        (Some(false), false) if same_reason => None,
        (_, false) => Some(PlannedEvent { warning: true, reason: verdict.reason, note: verdict.message.clone() }),
        (_, true) => None,
    }
}
