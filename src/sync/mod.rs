//! The pure core: readings in, plan out. No client, no async runtime, no clock; time is an argument.
//!
//! ```text
//! Object (what the user asks)  ─┐
//! Readings (what Prefect says) ─┼─► plan() ─► Plan: target action, status, events, when to look again
//! Target (what exists)         ─┘
//! ```
//!
//! Everything that decides lives here, so that a decision can be tested without a cluster:
//! [`resolve`] turns one entry and its reading into a value, an absence or a failure; [`plan()`] puts the
//! design's table of absence and failure over them; [`conditions`] and [`reason`] say it.
//!
//! **Invariants.** Nothing here does I/O. No `Debug`, `Display`, status, event or message holds a value.
//! Planning again after a plan was carried out asks for no write.

pub mod absence;
pub mod access;
mod claim;
pub mod conditions;
pub mod election;
mod entries;
mod events;
pub mod interest;
pub mod layout;
mod lines;
mod listings;
pub mod object;
pub mod path;
pub mod plan;
mod planned;
mod portions;
pub mod prefect1;
pub mod query;
pub mod reading;
pub mod reason;
mod report;
pub mod resolve;
pub mod restart;
pub mod schedule;
pub mod server;
pub mod snapshot;
pub mod source;
pub mod subscription;
pub mod suggest;
pub mod target;
pub mod template;
mod tenancy;
mod validate;
pub mod value;
pub mod workspace;

pub use access::Access;
pub use object::{Dependent, Entry, Kind, Object, RemoteKey};
pub use plan::plan;
pub use planned::{Observed, Plan, PlannedEvent, Removal, TargetAction};
pub use reading::{Absence, Answer, Askers, Document, Failure, Held, Hints, Missing, Read, Reading, Shape};
pub use reason::Reason;
pub use target::{Manifest, Target};
pub use validate::is_legal_name;

/// A point in time, as Kubernetes writes it.
pub type Timestamp = k8s_openapi::jiff::Timestamp;
