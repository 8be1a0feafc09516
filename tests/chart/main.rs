//! The Helm chart of `deploy/`, with the real Helm against a real API server.

// Outside of `#[test]` functions clippy does not know that this is a test; a fixture that fails should panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

#[path = "../support/mod.rs"]
mod support;

mod fixture;

mod gitops;
mod lifecycle;
mod limited;
mod monitoring;
mod notes;
mod rendering;
mod values;
