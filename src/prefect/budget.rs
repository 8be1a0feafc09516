//! How much may be asked of one host: a rate, pauses that it asks for, and a breaker for when it is dead.
//!
//! All who talk to one host under one account share one budget, whatever their credentials: it is the host that
//! suffers, and Prefect Cloud counts by account.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::jitter::random;
use super::{ApiUrl, ErrorKind};
use crate::telemetry::Metrics;

/// Requests under way at once, of those that somebody waits for and of refreshes. A refresh of thousands of keys must
/// not fill the server's queue in front of a new object's one request.
const FOREGROUND: usize = 4;
const BACKGROUND: usize = 2;
/// A longer pause is the caller's to wait for.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// The pause after a 429 that names none.
const UNNAMED_PAUSE: Duration = Duration::from_secs(1);
/// Failures in a row after which a server counts as dead.
const FAILURES: u32 = 3;
/// How long a dead server is left alone: doubled each time, up to the last.
const FIRST_REST: Duration = Duration::from_secs(1);
const LAST_REST: Duration = Duration::from_secs(60);

/// All budgets of the process: one for each host and account.
#[derive(Clone, Default)]
pub struct Budgets {
    budgets: Arc<Mutex<HashMap<String, Weak<Shared>>>>,
    metrics: Metrics,
}

/// A share in the budget of one host and account.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Shared>,
    _share: Arc<Share>,
}

/// What one workspace asks for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests a minute.
    pub rate: NonZeroU32,
    /// How long it may take to notice that a dead server is back.
    pub interval: Duration,
    /// Whether its rate holds whatever others ask for: it is set for all who share the host, not by one of them.
    pub binding: bool,
}

/// Who waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// An object that has nothing yet, or a change that was announced.
    Foreground,
    /// Nobody in particular.
    Background,
}

/// Why a request may not be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub kind: ErrorKind,
    pub left: Duration,
}

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server is there, whatever it said.
    Answered(&'static str),
    /// It asks to be left alone, for this long if it says so.
    Pause(Option<Duration>),
    /// It is dead, or as good as.
    Dead(ErrorKind, &'static str),
    /// What says nothing of the server, but of the one who asks.
    Aside(&'static str),
}

/// Permission for one try; what came of it must be reported.
pub(crate) struct Permit {
    shared: Arc<Shared>,
    is_probe: bool,
    reported: bool,
    _place: Option<OwnedSemaphorePermit>,
}

struct Shared {
    host: String,
    metrics: Metrics,
    state: Mutex<State>,
    foreground: Arc<Semaphore>,
    background: Arc<Semaphore>,
    recovered: watch::Sender<u64>,
}

struct State {
    /// What each share asks for.
    shares: BTreeMap<u64, Limits>,
    next_share: u64,
    limiter: Limiter,
    clock: TokioClock,
    rate: NonZeroU32,
    paused_until: Option<Instant>,
    failures: u32,
    /// Since when the server counts as dead, for how long it is left alone, and why.
    open: Option<Open>,
}

struct Open {
    until: Instant,
    rest: Duration,
    kind: ErrorKind,
    probing: bool,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Duration>>;

/// The async runtime's clock, which tests can pause.
#[derive(Clone)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A rate that counts as long as somebody holds it.
struct Share {
    of: Arc<Shared>,
    number: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        state.shares.remove(&self.number);
        state.follow_shares();
    }
}

impl Budgets {
    /// No budgets yet; requests are counted in `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { budgets: Arc::default(), metrics }
    }

    /// A share in the budget of the host and account of `url`. The lowest rate of all shares holds, or of the binding
    /// ones where there are some, and a minute's worth may be spent at once.
    #[must_use]
    pub fn budget(&self, url: &ApiUrl, limits: Limits) -> Budget {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.retain(|_, budget| budget.strong_count() > 0);
        let key = url.host_and_account();
        let shared = budgets.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let shared = Arc::new(Shared::new(url.host_and_port(), self.metrics.clone(), limits.rate));
            budgets.insert(key, Arc::downgrade(&shared));
            shared
        });
        let number = {
            let mut state = shared.lock();
            state.next_share += 1;
            let number = state.next_share;
            state.shares.insert(number, limits);
            state.follow_shares();
            number
        };
        Budget { _share: Arc::new(Share { of: shared.clone(), number }), shared }
    }
}

impl std::fmt::Debug for Budgets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budgets").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("host", &self.shared.host).finish_non_exhaustive()
    }
}

impl Budget {
    /// A budget of nobody else's, without a limit.
    #[must_use]
    pub fn unlimited(url: &ApiUrl) -> Self {
        Budgets::default().budget(url, Limits { rate: NonZeroU32::MAX, interval: LAST_REST, binding: false })
    }

    /// Waits for permission to send one request.
    pub(crate) async fn acquire(&self, lane: Lane) -> Result<Permit, Refused> {
        let places = match lane {
            Lane::Foreground => &self.shared.foreground,
            Lane::Background => &self.shared.background,
        };
        // They are never closed.
        let place = places.clone().acquire_owned().await.ok();
        let is_probe = self.shared.lock().enter()?;
        // From here on a permit that is dropped gives the probe back.
        let permit = Permit { shared: self.shared.clone(), is_probe, reported: false, _place: place };
        loop {
            let wait = {
                let state = self.shared.lock();
                // It may have paused, or died, meanwhile.
                state.may_pass(is_probe)?;
                match state.pause() {
                    Duration::ZERO => match state.limiter.check() {
                        Ok(()) => break,
                        Err(not_until) => not_until.wait_time_from(state.clock.now()),
                    },
                    pause => pause,
                }
            };
            tokio::time::sleep(wait).await;
        }
        Ok(permit)
    }

    /// Changes whenever a server that counted as dead is found to be back.
    pub(crate) fn recoveries(&self) -> watch::Receiver<u64> {
        self.shared.recovered.subscribe()
    }
}

impl Permit {
    /// Takes note of what came of the try.
    pub(crate) fn report(mut self, outcome: &Outcome) {
        self.reported = true;
        let word = match outcome {
            Outcome::Answered(word) | Outcome::Dead(_, word) | Outcome::Aside(word) => word,
            Outcome::Pause(_) => "throttled",
        };
        self.shared.metrics.prefect_request(&self.shared.host, word);
        let mut state = self.shared.lock();
        let is_back = match outcome {
            Outcome::Answered(_) => state.alive(),
            Outcome::Pause(asked) => {
                let asked = asked.filter(|asked| !asked.is_zero()).unwrap_or(UNNAMED_PAUSE);
                let until = Instant::now() + asked.min(LONGEST_PAUSE);
                state.paused_until = Some(state.paused_until.map_or(until, |before| before.max(until)));
                state.alive()
            }
            Outcome::Dead(kind, _) => {
                state.dead(kind, self.is_probe);
                false
            }
            Outcome::Aside(_) => {
                state.give_back(self.is_probe);
                false
            }
        };
        if is_back {
            self.shared.recovered.send_modify(|count| *count += 1);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Given up before anything was learned.
        if !self.reported {
            self.shared.lock().give_back(self.is_probe);
        }
    }
}

impl Shared {
    fn new(host: String, metrics: Metrics, rate: NonZeroU32) -> Self {
        let clock = TokioClock(Instant::now());
        Self {
            host,
            metrics,
            state: Mutex::new(State {
                shares: BTreeMap::new(),
                next_share: 0,
                limiter: RateLimiter::direct_with_clock(Quota::per_minute(rate), clock.clone()),
                clock,
                rate,
                paused_until: None,
                failures: 0,
                open: None,
            }),
            foreground: Arc::new(Semaphore::new(FOREGROUND)),
            background: Arc::new(Semaphore::new(BACKGROUND)),
            recovered: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn follow_shares(&mut self) {
        let binding = self.shares.values().filter(|limits| limits.binding).map(|limits| limits.rate).min();
        let lowest = binding.or_else(|| self.shares.values().map(|limits| limits.rate).min());
        if let Some(lowest) = lowest.filter(|lowest| *lowest != self.rate) {
            self.rate = lowest;
            self.limiter = RateLimiter::direct_with_clock(Quota::per_minute(lowest), self.clock.clone());
        }
    }

    /// Whether the one who enters is the probe that finds out whether a dead server is back.
    fn enter(&mut self) -> Result<bool, Refused> {
        let may_probe = self.open.as_ref().is_some_and(|open| open.until <= Instant::now() && !open.probing);
        self.may_pass(may_probe)?;
        if let Some(open) = self.open.as_mut().filter(|_| may_probe) {
            open.probing = true;
        }
        Ok(may_probe)
    }

    fn may_pass(&self, is_probe: bool) -> Result<(), Refused> {
        let pause = self.pause();
        if pause > LONGEST_WAIT {
            return Err(Refused { kind: ErrorKind::Throttled, left: pause });
        }
        match &self.open {
            Some(open) if !is_probe => {
                // While another looks, for about as long as that may take.
                let left = open.until.duration_since(Instant::now()).max(FIRST_REST);
                Err(Refused { kind: open.kind.clone(), left })
            }
            _ => Ok(()),
        }
    }

    fn pause(&self) -> Duration {
        self.paused_until.map_or(Duration::ZERO, |until| until.duration_since(Instant::now()))
    }

    /// Nothing was learned: the next one may try, after as long a rest.
    fn give_back(&mut self, is_probe: bool) {
        if let Some(open) = self.open.as_mut().filter(|_| is_probe) {
            open.probing = false;
            open.until = Instant::now() + spread(open.rest);
        }
    }

    /// Whether that is news.
    fn alive(&mut self) -> bool {
        self.failures = 0;
        self.open.take().is_some()
    }

    fn dead(&mut self, kind: &ErrorKind, is_probe: bool) {
        self.failures = self.failures.saturating_add(1);
        // What was under way when it opened tells nothing new.
        if self.failures < FAILURES || (self.open.is_some() && !is_probe) {
            return;
        }
        let longest = self.shares.values().map(|limits| limits.interval).min().unwrap_or(LAST_REST).min(LAST_REST);
        let rest = self.open.as_ref().map_or(FIRST_REST, |open| open.rest.saturating_mul(2)).min(longest);
        self.open = Some(Open { until: Instant::now() + spread(rest), rest, kind: kind.clone(), probing: false });
    }
}

/// Up to a tenth less, so that the operators of many clusters do not come back in step.
fn spread(rest: Duration) -> Duration {
    rest - rest.mul_f64(random() / 10.0)
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
