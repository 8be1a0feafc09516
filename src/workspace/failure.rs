//! Prefect's errors in the words of conditions.

use crate::api::{EventsMode, EventsStatus};
use crate::prefect::{Error, ErrorKind, EventsError};
use crate::sync::{Failure, Reason, RemoteKey, Timestamp};

/// How a workspace presents itself to Prefect, for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// It names none.
    #[default]
    None,
    /// An API key; the text says where it is, such as `Secret flows/prefect-api-key key "key"`.
    ApiKey(String),
    /// A self-hosted server's auth string.
    AuthString(String),
}

impl Credentials {
    /// The same in the words of those who may not know where they are.
    #[must_use]
    pub fn of_workspace(&self, cluster_workspace: &str) -> Self {
        let place = || format!("the credentials of ClusterPrefectWorkspace {cluster_workspace:?}");
        match self {
            Self::None => Self::None,
            Self::ApiKey(_) => Self::ApiKey(place()),
            Self::AuthString(_) => Self::AuthString(place()),
        }
    }

    fn place(&self) -> &str {
        match self {
            Self::None => "a workspace without credentials",
            Self::ApiKey(place) | Self::AuthString(place) => place,
        }
    }
}

/// What the workspace's status says where no events are heard.
#[must_use]
pub fn polling(error: &EventsError) -> EventsStatus {
    let message = match error {
        EventsError::Unsupported => {
            "this server has no stream of events (Prefect 3.7.4 and later have one, unless it is turned off): changes are seen at the next refresh"
        }
        EventsError::NotPermitted => {
            "Prefect does not let these credentials listen to events: changes are seen at the next refresh"
        }
        EventsError::Broken(_) => {
            "the stream of events is cut and is tried again: changes are seen at the next refresh"
        }
    };
    EventsStatus { mode: EventsMode::Polling, message: Some(message.to_owned()) }
}

/// What the workspace's status says of Prefect 1.
#[must_use]
pub fn no_events_in_prefect1() -> EventsStatus {
    let message = "Prefect 1 has no stream of events: changes are seen at the next refresh";
    EventsStatus { mode: EventsMode::Polling, message: Some(message.to_owned()) }
}

const NO_CREDENTIALS: &str = "set spec.api.apiKey (Prefect Cloud) or spec.api.authString (self-hosted)";

/// The failure that `error` means for a workspace that presents `credentials`. `key` is what was read, where the
/// error is about one key only.
#[must_use]
pub fn failure(error: &Error, credentials: &Credentials, key: Option<&RemoteKey>, now: Timestamp) -> Failure {
    let host = &error.host;
    let reading = key.map_or_else(String::new, |key| format!(" for {key}"));
    let (reason, message) = match &error.kind {
        ErrorKind::Unauthorized => {
            let hint = match credentials {
                Credentials::None => NO_CREDENTIALS,
                Credentials::ApiKey(_) => {
                    "is it expired or mistyped, or is this a self-hosted Prefect (then set spec.api.authString instead)?"
                }
                Credentials::AuthString(_) => {
                    "is it the server's PREFECT_SERVER_API_AUTH_STRING, or is this Prefect Cloud (then set spec.api.apiKey instead)?"
                }
            };
            (Reason::CredentialsRefused, format!("Prefect at {host} answered 401 to {}; {hint}", credentials.place()))
        }
        ErrorKind::Forbidden => {
            let hint = match credentials {
                Credentials::None => NO_CREDENTIALS,
                _ => "give its role permission to read blocks and variables",
            };
            (
                Reason::CredentialsRefused,
                format!("Prefect at {host} answered 403 to {}{reading}; {hint}", credentials.place()),
            )
        }
        ErrorKind::NotPrefectApi => (
            Reason::NotPrefectApi,
            format!(
                "{host} answered, but not as Prefect's API; is spec.api.url what PREFECT_API_URL holds (status.apiUrl is what was asked), and is no login page in between?"
            ),
        ),
        ErrorKind::Unreachable { hint } => (
            Reason::PrefectUnreachable,
            match hint {
                Some(hint) => format!("cannot reach {host}: {hint}"),
                None => format!("cannot reach {host}"),
            },
        ),
        ErrorKind::Throttled => (
            Reason::PrefectThrottled,
            format!("Prefect at {host} answered 429: too many requests; it is asked again later"),
        ),
        ErrorKind::Server { status } => {
            (Reason::PrefectUnreachable, format!("Prefect at {host} answered {status}{reading}; its own log says why"))
        }
        ErrorKind::Rejected { status } => (
            Reason::PrefectRejected,
            format!("Prefect at {host} answered {status}{reading}; is the name as Prefect writes it?"),
        ),
        ErrorKind::Malformed => (
            Reason::PrefectRejected,
            format!("Prefect at {host} answered{reading} in a shape that is not known; is its version 2 or 3?"),
        ),
        ErrorKind::Configuration { hint } => (Reason::WorkspaceInvalid, (*hint).to_owned()),
        ErrorKind::TooLarge => (
            Reason::PrefectRejected,
            format!("Prefect at {host} answered with more than 16 MiB{reading}; make it smaller"),
        ),
    };
    Failure { reason, message, since: now, workspace_wide: key.is_none() }
}
