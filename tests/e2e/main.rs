//! The operator as users run it: the real binary under the roles that `deploy/` ships, against a real control plane
//! and a real Prefect server. Each test has its own namespace and its own operator, limited to it.

#[path = "../support/mod.rs"]
mod support;

mod fixture;

mod smoke;
