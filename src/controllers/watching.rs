//! Watches that fail: tried again ever more slowly, said without flooding the log, and no hindrance to a shutdown.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use kube::ResourceExt;
use kube::core::Status;
use kube::runtime::utils::Backoff;
use kube::runtime::{controller, watcher};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::errors::describe;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// After this long without a failure the next one counts as the first.
const FORGIVEN: Duration = Duration::from_secs(120);
/// How often a failure that goes on is said again.
const REMINDER: Duration = Duration::from_secs(300);

/// How long a watch goes on before it begins anew where it was. One whose connection died without a word hears nothing
/// until a moment after that, and kube's own five minutes are long for access rules and deletions.
const WATCH_SECONDS: u32 = 60;

/// How all is watched.
pub(super) fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// From a second to half a minute.
///
/// Not kube's default, which begins anew whenever a watch yields anything, and a watch that may not list yields that
/// it begins before each failure.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.replace(Instant::now()).is_none_or(|last| last.elapsed() > FORGIVEN) {
            self.failures = 0;
        }
        let delay = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(self.failures)).min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        Some(delay)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {}
}

/// Says that watches fail: each failure at once, and now and then while it goes on.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<String, Instant>);

impl Failures {
    /// Logs `error`, if that is news.
    pub fn say(&mut self, error: &watcher::Error) {
        let text = why(error);
        if self.is_news(&text, Instant::now()) {
            tracing::warn!("a watch failed and is tried again: {text}");
        }
    }

    fn is_news(&mut self, text: &str, now: Instant) -> bool {
        self.0.retain(|_, said| now.duration_since(*said) < REMINDER);
        let news = !self.0.contains_key(text);
        if news {
            self.0.insert(text.to_owned(), now);
        }
        news
    }
}

/// Why a watch failed. Its objects are our own kinds, or metadata: the API server's own words hold no value.
fn why(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            let hint = if matches!(error, kube::Error::Api(status) if status.is_forbidden()) {
                "; give it that permission, as deploy/manifests/10-rbac.yaml does"
            } else {
                ""
            };
            format!("{}{hint}", describe(error))
        }
        watcher::Error::WatchError(status) => answered(status),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

fn answered(status: &Status) -> String {
    format!("the API server answered {}: {}", status.code, status.message)
}

/// What a cached object need not keep: who set which field, and the copy that kubectl made of it.
pub(super) fn slim<K: ResourceExt>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove(LAST_APPLIED);
}

/// Runs a controller until it ends. One that still waits for a list that it needs has nothing under way, and would
/// wait on although it was told to stop.
pub(super) fn spawn<T: Send, E: std::error::Error + Send + 'static>(
    tasks: &mut JoinSet<()>,
    controller: impl Stream<Item = Result<T, controller::Error<E, watcher::Error>>> + Send + 'static,
    needed: impl AsRef<[CancellationToken]> + Send + Sync + 'static,
    shutdown: CancellationToken,
) {
    tasks.spawn(async move {
        let mut failures = Failures::default();
        let work = controller.for_each(|result| {
            // What a reconcile failed with is said where its retry is decided.
            if let Err(controller::Error::QueueError(error)) = result {
                failures.say(&error);
            }
            std::future::ready(())
        });
        let idle = async {
            shutdown.cancelled().await;
            if needed.as_ref().iter().all(CancellationToken::is_cancelled) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = work => {}
            () = idle => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_goes_on_failing_is_tried_ever_more_slowly_though_it_begins_anew_each_time() {
        let mut patience = Patience::default();
        let delays: Vec<u64> = (0..7)
            .map(|_| {
                patience.reset();
                patience.next().unwrap().as_secs()
            })
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_failure_is_news_once_and_again_after_a_while() {
        let mut failures = Failures::default();
        let start = Instant::now();
        let told: Vec<bool> = [("a", 0), ("a", 1), ("b", 2), ("a", 299), ("a", 300), ("b", 301)]
            .map(|(text, second)| failures.is_news(text, start + Duration::from_secs(second)))
            .into();
        assert_eq!(told, [true, false, true, false, true, false]);
    }
}
