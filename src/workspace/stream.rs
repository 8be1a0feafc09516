//! Listens to Prefect's events: connects, connects again, and tells the session what it hears.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::failure::{no_events_in_prefect1, polling};
use super::reader::Reader;
use crate::api::EventsStatus;
use crate::prefect::jitter::random;
use crate::prefect::{Change, EventsError};

/// The first wait after a cut; doubled each time, up to the last.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A stream that lived this long was well: the next cut counts as the first.
const LASTING: Duration = Duration::from_secs(60);
/// When to ask again a server that has no stream, or does not let us listen: it may have been upgraded.
const NONE_RETRY: Duration = Duration::from_secs(600);

/// News of the stream.
#[derive(Debug)]
pub(super) enum News {
    /// From now on events are heard. What happened before was not.
    Listening,
    /// Something changed, or is about to.
    Change(Change),
    /// No events are heard any more. `for_good` if another try would not help soon.
    Silent {
        /// What to say in the workspace's status.
        status: EventsStatus,
        /// Whether that is worth saying at once.
        for_good: bool,
    },
}

/// Listens, also after a panic, which is a bug.
pub(super) async fn supervise(reader: Arc<Reader>, news: mpsc::Sender<News>, may_connect: watch::Receiver<bool>) {
    loop {
        let listening = tokio::spawn(listen(reader.clone(), news.clone(), may_connect.clone()));
        if AbortOnDropHandle::new(listening).await.is_ok() {
            return;
        }
        let status = polling(&EventsError::Broken("was lost"));
        if news.send(News::Silent { status, for_good: false }).await.is_err() {
            return;
        }
        tokio::time::sleep(LAST_RETRY).await;
    }
}

/// Listens until nobody hears it any more. `may_connect` is false while the server is known to be unwell: whoever
/// finds out when it is back is the session.
async fn listen(reader: Arc<Reader>, news: mpsc::Sender<News>, mut may_connect: watch::Receiver<bool>) {
    let Some(client) = &reader.client else {
        if reader.prefect1.is_some() {
            let _ = news.send(News::Silent { status: no_events_in_prefect1(), for_good: true }).await;
        }
        return;
    };
    let mut cuts = 0;
    loop {
        if may_connect.wait_for(|may| *may).await.is_err() {
            return;
        }
        let error = match client.events().await {
            Ok(mut events) => {
                let since = tokio::time::Instant::now();
                if news.send(News::Listening).await.is_err() {
                    return;
                }
                let error = loop {
                    match events.next().await {
                        Ok(change) => {
                            if news.send(News::Change(change)).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => break error,
                    }
                };
                if since.elapsed() >= LASTING {
                    cuts = 0;
                }
                error
            }
            Err(error) => error,
        };
        let for_good = !matches!(error, EventsError::Broken(_));
        let silent = News::Silent { status: polling(&error), for_good };
        if news.send(silent).await.is_err() {
            return;
        }
        let wait = if for_good { NONE_RETRY } else { retry_delay(cuts) };
        cuts = cuts.saturating_add(1);
        tracing::debug!(host = client.url().host_and_port(), retry_in = ?wait, "no events: {error:?}");
        tokio::time::sleep(wait).await;
    }
}

/// Exponential, and up to a half longer, so that the listeners of one server do not come back in step.
fn retry_delay(cuts: u32) -> Duration {
    let base = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(cuts)).min(LAST_RETRY);
    base + base.mul_f64(random() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_slow_down_to_half_a_minute_and_are_spread() {
        for (cuts, base) in [(0, 500), (1, 1_000), (5, 16_000), (6, 30_000), (99, 30_000)] {
            let delay = retry_delay(cuts).as_millis();
            assert!((base..=base + base / 2).contains(&delay), "{delay} ms after {cuts} cuts");
        }
    }
}
