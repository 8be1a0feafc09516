//! The real parts that the integration tests and the demo run against: a Kubernetes control plane,
//! Prefect servers, and the operator itself as a process. Everything is started on free loopback
//! ports with its data in a scratch folder, and dies with the process that started it.
//!
//! A fixture that can't start panics: the message names the part, its last log lines and where the
//! whole log is.

// Each test binary compiles this tree for itself and uses a part of it.
#![allow(dead_code, unused_imports)]
// A fixture has no caller that could go on without it: panicking with a clear text is its error
// handling. (clippy.toml allows this in `#[test]` functions only.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod control_plane;
pub mod operator;
pub mod ports;
pub mod prefect;
pub mod prefect1_server;
pub mod prefect_client;
pub mod process;
pub mod proxy;
pub mod python;
pub mod scratch;
pub mod tools;
pub mod wait;

pub use control_plane::ControlPlane;
pub use operator::{Operator, OperatorOptions};
pub use prefect::{Prefect, PrefectOptions};
pub use prefect1_server::Prefect1Server;
pub use process::Leashed;
pub use proxy::{Mode, Proxy};
pub use scratch::Scratch;
pub use wait::{eventually, try_eventually};

/// Installs the process-wide TLS provider. `reqwest` panics when a client is built before there is
/// one.
pub fn install_crypto_provider() {
    rustls::crypto::ring::default_provider().install_default().ok();
}
