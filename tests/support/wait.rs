//! Waiting for something to become true, without sleeping longer than needed.

use std::time::Duration;

use tokio::time::Instant;

/// How long to wait between two looks.
pub const POLL: Duration = Duration::from_millis(50);

/// Calls `probe` until it answers `Ok`. Panics after `timeout`, saying what was awaited and the
/// last reason against it. A look that itself hangs counts as a reason, so the timeout holds even
/// then.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    timeout: Duration,
    probe: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = T> {
    // Taken here, as an `async fn` would report a line of this file instead of the test's.
    let caller = std::panic::Location::caller();
    async move {
        match try_eventually(timeout, probe).await {
            Ok(value) => value,
            Err(reason) => {
                panic!("{caller}: waited {timeout:?} for {what}, in vain; last reason: {reason}")
            }
        }
    }
}

/// Like [`eventually`], but hands the last reason back.
pub async fn try_eventually<T>(
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + timeout;
    let mut last = None;
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = Some(reason),
            Err(_) => {
                return Err(last.unwrap_or_else(|| "the first look did not return".to_owned()));
            }
        }
        if Instant::now() + POLL >= deadline {
            return Err(last.unwrap_or_default());
        }
        tokio::time::sleep(POLL).await;
    }
}
