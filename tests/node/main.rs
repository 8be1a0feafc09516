//! The operator as a platform runs it: its own image, installed by its own chart on a real node, with real pods and a
//! real Prefect worker. `make test-node` brings up the node around this binary.

// Outside of `#[test]` functions clippy does not know that this is a test; a fixture that fails should panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod fixture;

mod image;
mod install;
mod job_template;
mod pods;
mod readme;
mod takeover;
mod worker;
