//! Speaks to Prefect: the REST API of Prefect 2 and 3, Cloud or self-hosted, and the local files
//! that Prefect's own clients read.
//!
//! - [`ApiUrl`]: the address, from whatever a user wrote.
//! - [`Client`]: one connection; reads blocks and variables and never writes.
//! - [`Budgets`]: how much may be asked of each host: rate, pauses, breaker.
//! - [`Events`]: what changed, as Prefect announces it; nothing to rely on.
//! - [`Error`]: what was being done, to which host, what kind of failure.
//! - [`LocalSecrets`]: `[context.secrets]` of Prefect 1's `config.toml`.
//! - [`discover`]: the connection outside a cluster, found as Prefect's client finds it.
//!
//! Invariants:
//! - A value is carried as the raw JSON text that was served. It never passes through a number
//!   type, a map or `serde_json::Value`.
//! - No error, `Debug` or log line holds a value or any part of an answer.
//! - Absence is only what Prefect says in its exact words; any other 404 is an error.
//! - Knows nothing of Kubernetes.

mod answer;
mod budget;
mod client;
mod config_toml;
mod csrf;
mod error;
mod events;
pub(crate) mod jitter;
mod prefect1;
mod profiles;
mod transport;
mod url;
mod wire;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod tls_tests;
#[cfg(test)]
mod transport_tests;
#[cfg(test)]
mod url_tests;

pub use answer::MAX_BODY;
pub use budget::{Budget, Budgets, Limits};
pub use client::{Client, MAX_LISTED, MAX_LISTED_BYTES, MAX_NAMES};
pub use config_toml::{ConfigTomlError, LocalSecrets};
pub(crate) use error::is_about_tls;
pub use error::{Error, ErrorKind};
pub use events::{Change, Events, EventsError};
pub use prefect1::Prefect1Client;
pub use profiles::{DiscoverError, Discovered, discover};
pub use transport::{Auth, Connection};
pub use url::{ApiUrl, UrlError};
pub use wire::{Block, Variable};
