//! # prefect-sync: the map
//!
//! A Kubernetes operator that keeps Secrets and ConfigMaps in step with what Prefect holds: from Prefect into
//! Kubernetes, never the other way.
//!
//! ```text
//!  what a user writes          what decides                    what does
//!  ┌─────────┐            ┌──────────────────┐      ┌──────────────────────────────┐
//!  │   api   │ ◄───────── │       sync       │ ◄─── │         controllers          │
//!  └─────────┘            │ readings in,     │      │ gather → plan → apply →      │
//!                         │ plan out; pure   │      │ status, once for both kinds  │
//!                         └──────────────────┘      └──────────────┬───────────────┘
//!                                  ▲                               │ observe, wake
//!                         ┌────────┴─────────┐      ┌──────────────▼───────────────┐
//!                         │     prefect      │ ◄─── │          workspace           │
//!                         │ REST, config.toml│      │ one session per workspace    │
//!                         └──────────────────┘      └──────────────────────────────┘
//! ```
//!
//! | room | what it is |
//! |---|---|
//! | [`api`] | the custom resource types and nothing else |
//! | [`sync`] | the pure core: every decision, no I/O, no clock |
//! | [`prefect`] | speaks to Prefect: REST, Prefect 1's GraphQL, events, errors, auth, request budget, `config.toml`, profiles |
//! | [`workspace`] | one session per workspace: reads, refreshes, listens to events |
//! | [`controllers`] | the Kubernetes side: watches, gather → plan → apply → status |
//! | [`offline`], [`render`], [`check`], [`exec`] | the same pipeline for files, without a cluster |
//! | [`job_template`] | edits a work pool's base job template |
//! | [`telemetry`] | logs and health |
//! | [`cli`] | flags |
//!
//! ## The way of a value
//! 1. A reconcile tells its workspace which keys the object asks for ([`workspace::Workspaces::observe`]) and gets
//!    what is known of them. What is not known yet is read; the object is woken when it is. What `find` looks for is a
//!    key, too: a listing, whose names become keys of all who ask for it.
//! 2. The session reads all keys of all objects of a workspace together, in batches of exact names: new ones at once,
//!    those that an event announces a moment later, all when they are due. It compares each with the reading before,
//!    and wakes only objects one of whose readings changed ([`sync::snapshot`]).
//!    Through a workspace of the whole cluster each object asks only for what [`sync::access`] gives its namespace; the
//!    rest stands for readings that failed, whether it exists or not.
//! 3. [`sync::plan()`] takes the object, its readings and the target as it exists, makes one line of each entry, lays
//!    them out ([`sync::layout`], [`sync::template`]), and says what to write, what to restart, which status, which
//!    Events, and when to look again.
//! 4. [`controllers::apply`] writes, naming the version that was seen; then workloads are restarted; then the status,
//!    only where it differs.
//!
//! ## Architecture invariants
//! - `api ← sync ← controllers`, `prefect ← workspace ← controllers`; nothing points back. `sync` knows no client,
//!   no async runtime, no clock; `tests/project.rs` reads the sources and holds this.
//! - Values live in zeroizing memory and leave it only into the target. No log, Event, status, error text or
//!   `Debug` shows one; response bodies are never logged.
//! - What the rules do not give a namespace is not asked for it, not kept for it, and not told to it.
//! - A failure removes nothing. What a confirmed absence does is a table in [`sync::plan()`].
//! - Every write of a target names the version that was seen, or is a create that fails where something exists (keys of
//!   our own are taken out of a target of others by its UID); an object's status replaces only the one that it was planned
//!   from.
//! - When nothing changes nothing is written.
//! - Of several replicas one works; what may no longer write is held back before it reaches the API server
//!   ([`controllers::lease`]).

pub mod api;
pub mod check;
pub mod cli;
pub mod controllers;
pub mod exec;
pub mod job_template;
pub mod offline;
pub mod prefect;
pub mod render;
pub mod sync;
pub mod telemetry;
pub mod workspace;
