//! The status of a workspace, from how its session does.

use super::absence::Census;
use super::conditions::{self, Verdict};
use super::reading::Failure;
use super::suggest::cluster_trouble;
use super::{PlannedEvent, Reason, Timestamp};
use crate::api::{EventsStatus, WorkspaceStatus};
use std::time::Duration;

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
        /// How changes are noticed; `None` while that is not known yet.
        events: Option<EventsStatus>,
    },
    /// It can't be read.
    Failing(Failure),
}

/// Of the Event of a ClusterPrefectWorkspace what others may read: having no namespace, it stands in `default`. Only that it
/// fails, and why in a word.
#[must_use]
pub fn in_public(event: PlannedEvent, name: &str) -> Option<PlannedEvent> {
    let note = cluster_trouble(name, event.reason);
    event.warning.then_some(PlannedEvent { note, ..event })
}

/// The status that `health` asks for, and the Event of a transition. `api_url` is the address as it is used;
/// `None` for a workspace with local secrets only. `interval` is the longest time between two tries.
#[must_use]
pub fn workspace_status(
    previous: &WorkspaceStatus,
    generation: Option<i64>,
    api_url: Option<&str>,
    health: &Health,
    interval: Duration,
    now: Timestamp,
) -> (WorkspaceStatus, Option<PlannedEvent>) {
    let mut server_version = previous.server_version.clone().filter(|_| api_url.is_some());
    let mut events = previous.events.clone().filter(|_| api_url.is_some());
    let verdict = match health {
        Health::Pending => return (previous.clone(), None),
        Health::Well { server_version: version, census, events: now } => {
            events = api_url.and(now.clone().or(events));
            server_version = api_url.map(|_| version.clone().unwrap_or_else(|| "cloud".to_owned()));
            if census.vanished > 0 {
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
                        format!("Prefect {version} answers and may be read")
                    }
                    (_, Some(_)) => "Prefect answers and may be read".to_owned(),
                    _ => "the local secrets were read".to_owned(),
                };
                Verdict { ready: true, reason: Reason::Connected, message }
            }
        }
        Health::Failing(failure) => {
            // The condition remembers since when, so that a restart of the operator does not change it.
            let before = conditions::ready(&previous.conditions).filter(|c| c.status == "False");
            let since = before.map_or(now, |c| c.last_transition_time.0);
            let mut kept =
                format!("Not ready since {}; targets keep what they hold", since.strftime("%Y-%m-%dT%H:%M:%SZ"));
            if failure.reason == Reason::PrefectUnreachable {
                kept.push_str(&format!("; tried again at least every {}", humantime::format_duration(interval)));
            }
            Verdict::not_ready(failure.reason, conditions::sentences(&failure.message, &kept))
        }
    };
    let event = super::events::transition(&previous.conditions, &verdict);
    let status = WorkspaceStatus {
        observed_generation: generation,
        conditions: conditions::conditions(&previous.conditions, &verdict, generation, now),
        api_url: api_url.map(str::to_owned),
        server_version,
        events,
    };
    (status, event)
}
