//! The Helm chart, with the real Helm against a real API server.
#[path = "../support/mod.rs"]
mod support;
