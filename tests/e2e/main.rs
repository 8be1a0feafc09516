//! The operator as users run it: the real binary under the roles that `deploy/` ships, against a real control plane
//! and a real Prefect server. Each test has its own namespace and its own operator, limited to it.

// Outside of `#[test]` functions clippy does not know that this is a test; a fixture that fails should panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

#[path = "../support/mod.rs"]
mod support;

mod fixture;

mod absence;
mod alerts;
mod auth;
mod bulk;
mod escalation;
mod events;
mod examples;
mod formats;
mod local;
mod messages;
mod messages_sources;
mod messages_workspace;
mod permissions;
mod policies;
mod prefect1;
mod prefect2;
mod promises;
mod promises_beside;
mod rbac;
mod reconciling;
mod refresh;
mod replica;
mod replicas;
mod resources;
mod restarts;
mod restored;
mod scale;
mod sessions;
mod smoke;
mod starting;
mod stored;
mod tenancy;
mod transitions;
mod upgrade;
mod validation;
mod validation_access;
mod validation_sources;
mod values;
