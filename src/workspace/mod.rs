//! One session per workspace: what its objects ask for is read together, kept, compared and shared.
//!
//! ```text
//! objects ── observe(keys) ─► Workspaces ─► session task ─ pass ─ Reader ─► Prefect
//!        ◄── wake (only those whose readings changed) ──┘ ◄────── stream ◄─ events
//! ```
//!
//! - [`reader`] reads a set of keys once, in batches of exact names; it remembers nothing.
//! - `session` is the loop that decides when to read, and merges what came back; what it decides by is in
//!   [`sync::schedule`](crate::sync::schedule), [`sync::server`](crate::sync::server),
//!   [`sync::subscription`](crate::sync::subscription) and [`sync::snapshot`](crate::sync::snapshot).
//! - `pass` reads one portion of the keys, `listing` what `find` looks for, `prefect1` what Prefect 1 has; `stream` listens to Prefect's events.
//! - [`Workspaces`] is the registry: which objects ask for which keys, and what is known of them; `ruled` sees to it that
//!   they ask only for what they may.
//! - [`failure`] puts Prefect's errors into the words of conditions.
//!
//! **Invariants.** Readings are never shared between workspace objects. A session belongs to one workspace in one
//! state (its spec and the versions of its credentials); another state is a new epoch that knows nothing of the
//! last one's absences. A failure never removes the last good answer.

pub mod failure;
mod listing;
mod pass;
mod prefect1;
pub mod reader;
mod registry;
mod ruled;
mod session;
mod slot;
mod stream;
mod timing;

pub use prefect1::Prefect1;
pub use reader::Reader;
pub use registry::{Observation, Setup, Situation, Wake, Workspaces};
