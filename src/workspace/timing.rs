//! A session's clock, and what tells it from others.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::Timestamp;
use crate::sync::object::WorkspaceKey;

/// Times of one epoch that only go forward, so that a clock that is set confirms no absence.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    began: Timestamp,
    since: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { began: Timestamp::now(), since: Instant::now() }
    }

    pub fn now(&self) -> Timestamp {
        self.began.checked_add(self.elapsed()).unwrap_or(self.began)
    }

    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    pub fn at(&self, elapsed: Duration) -> Instant {
        self.since + elapsed
    }
}

/// Tells workspaces apart, from 0 to 1.
pub(super) fn spread(key: &WorkspaceKey) -> f64 {
    let text = key.to_string();
    let hash = text.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(16_777_619) ^ u32::from(byte));
    f64::from(hash % 1_000) / 1_000.0
}
