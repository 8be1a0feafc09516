//! The loop of one session: when to read, what to do with what came back.
//!
//! ```text
//! demand (a new key) ───────┐                    ┌─► refresh portions, two at a time, in the background
//! events (a changed key) ───┼─► what is to do ───┼─► urgent portions, at once
//! schedule (keys are due) ──┘                    └─► check (a new or failing server)
//!                                  ▲                          │
//!                                  └── merge, wake, schedule ─┘
//! ```
//! Reads run beside the loop, so that a new object waits for no refresh, and the loop itself never waits for Prefect.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::pass::{self, Passed};
use super::reader::Reader;
use super::registry::Workspaces;
use super::slot::Slot;
use super::stream::{self, News};
use super::timing::{Clock, spread};
use crate::prefect::Change;
use crate::sync::absence::Census;
use crate::sync::object::WorkspaceKey;
use crate::sync::schedule::{Ladder, Schedule};
use crate::sync::server::Server;
use crate::sync::snapshot::matching;
use crate::sync::subscription::Subscription;
use crate::sync::workspace::Health;
use crate::sync::{Dependent, Failure, RemoteKey, Timestamp};

/// How long the first demand waits for company, so that many objects become one batch, and how long at most.
const GATHER: Duration = Duration::from_millis(20);
const LONGEST_GATHER: Duration = Duration::from_millis(250);
/// How long the first read waits for the stream of events: what is read after it opened need not be read once more.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Portions read at once: of urgent keys, and of a refresh.
const URGENT: usize = 4;
const REFRESHING: usize = 2;
/// The longest that the loop sleeps: it shows that it is alive.
const PULSE: Duration = Duration::from_secs(10);
/// A loop that has not turned for this long stands still.
pub(super) const STALLED: Duration = Duration::from_secs(120);
/// How long a session rests after a panic, which is a bug: others go on, and it is tried again.
const AFTER_PANIC: Duration = Duration::from_secs(10);
/// News of the stream that may wait for the loop.
const MOST_NEWS: usize = 256;

/// What a session is made of.
#[derive(Clone)]
pub(super) struct Session {
    pub key: WorkspaceKey,
    pub epoch: u64,
    pub reader: Arc<Reader>,
    pub interval: Duration,
    pub stale_after: Duration,
    pub clock: Clock,
}

/// Runs the session until it is aborted, or until the workspace is in another state than its epoch.
pub(super) async fn supervise(workspaces: Workspaces, session: Session) {
    loop {
        let run = Run::new(workspaces.clone(), session.clone());
        match AbortOnDropHandle::new(tokio::spawn(run.run())).await {
            Ok(()) => return,
            Err(_) => {
                tracing::error!(workspace = %session.key, "the session panicked; it starts again in {AFTER_PANIC:?}");
            }
        }
        workspaces.in_epoch(&session.key, session.epoch, |slot| slot.streaming = false);
        tokio::time::sleep(AFTER_PANIC).await;
    }
}

/// A refresh under way.
struct Refresh {
    intervals: BTreeSet<Duration>,
    began: Duration,
    left: VecDeque<BTreeSet<RemoteKey>>,
    running: usize,
    number: u64,
}

/// What a pass is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Somebody waits for it.
    Urgent,
    /// The refresh of this number.
    Refresh(u64),
}

enum Done {
    Checked(Result<Option<String>, Failure>),
    Passed(Option<Passed>, Lane),
}

/// One run of a session. All times are since its clock started.
struct Run {
    workspaces: Workspaces,
    session: Session,
    clock: Clock,
    server: Server,
    subscription: Subscription,
    census: Census,
    schedule: Schedule,
    ladder: Ladder,
    /// Announced keys that are to be read.
    announced: BTreeSet<RemoteKey>,
    /// Portions of keys that nobody may wait for, and those of them that were never read.
    urgent: VecDeque<BTreeSet<RemoteKey>>,
    first_reads: BTreeSet<RemoteKey>,
    urgent_running: usize,
    refresh: Option<Refresh>,
    refreshes: u64,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Since when and until when demands are gathered.
    gathering: Option<(Duration, Duration)>,
    /// Whether everything is being read after an outage: demands wait for that.
    recovering: bool,
    /// When the objects that were well are told of an outage.
    stale: Option<Duration>,
    /// The failure that was logged last.
    said: Option<String>,
}

impl Run {
    fn new(workspaces: Workspaces, session: Session) -> Self {
        Self {
            schedule: Schedule::new(spread(&session.key)),
            workspaces,
            clock: session.clock,
            session,
            server: Server::default(),
            subscription: Subscription::default(),
            census: Census::default(),
            ladder: Ladder::default(),
            announced: BTreeSet::new(),
            urgent: VecDeque::new(),
            first_reads: BTreeSet::new(),
            urgent_running: 0,
            refresh: None,
            refreshes: 0,
            running: FuturesUnordered::new(),
            gathering: None,
            recovering: false,
            stale: None,
            said: None,
        }
    }

    async fn run(mut self) {
        let Some(demand) = self.slot(|slot| slot.demand.clone()) else { return };
        let (news_in, mut news) = mpsc::channel(MOST_NEWS);
        let (may_connect, gate) = watch::channel(true);
        let listener = stream::supervise(self.session.reader.clone(), news_in, gate);
        let _listener = AbortOnDropHandle::new(tokio::spawn(listener));
        let mut recoveries = self.session.reader.recoveries();
        let mut hears = self.session.reader.client.is_some() || self.session.reader.prefect1.is_some();
        let pulse = self.workspaces.pulse(&self.session.key);
        loop {
            pulse.beat();
            if self.start_work().is_none() {
                return;
            }
            may_connect.send_if_modified(|may| {
                let well = self.server.may_connect();
                std::mem::replace(may, well) != well
            });
            let wake_up = self.clock.at(self.next_deadline());
            let failing = self.server.is_failing();
            let went_on = tokio::select! {
                Some(done) = self.running.next(), if !self.running.is_empty() => self.finish(done),
                () = demand.notified() => self.gather(),
                heard = news.recv(), if hears => match heard {
                    Some(heard) => self.hear(heard),
                    None => { hears = false; Some(()) }
                },
                () = change(&mut recoveries), if failing => {
                    self.server.retry_by(self.clock.elapsed());
                    Some(())
                }
                () = tokio::time::sleep_until(wake_up) => Some(()),
            };
            if went_on.is_none() {
                return;
            }
        }
    }

    /// As long as the workspace is still in the state of this session.
    fn slot<T>(&self, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.workspaces.in_epoch(&self.session.key, self.session.epoch, f)
    }

    /// What is read once events are heard need not be read again because they were not.
    fn waits_for_events(&self, now: Duration) -> bool {
        self.subscription.is_opening() && self.session.reader.client.is_some() && now < FIRST_WAIT
    }

    fn next_deadline(&self) -> Duration {
        let now = self.clock.elapsed();
        let well = self.server.is_well() && !self.waits_for_events(now);
        let deadlines = [
            self.schedule.next().filter(|_| well && self.refresh.is_none()),
            self.ladder.next().filter(|_| well),
            self.gathering.map(|(_, until)| until).filter(|_| well && !self.recovering),
            Some(FIRST_WAIT).filter(|wait| *wait > now),
            self.subscription.deadline(),
            self.stale,
            self.server.retry(),
        ];
        deadlines.into_iter().flatten().min().unwrap_or(now + PULSE).min(now + PULSE)
    }

    /// Starts what is to do now. `None` when the session is over.
    fn start_work(&mut self) -> Option<()> {
        let now = self.clock.elapsed();
        if self.stale.is_some_and(|stale| stale <= now) {
            self.stale = None;
            let well: Vec<Dependent> = self.slot(|slot| slot.snapshot.dependents_that_are(true).cloned().collect())?;
            self.workspaces.wake().gently(well);
        }
        if self.subscription.gives_up(now) {
            self.say_health()?;
        }
        if self.server.is_well() {
            self.start_reads(now)?;
        } else if self.server.is_to_be_asked(now) {
            self.check();
        }
        Some(())
    }

    fn start_reads(&mut self, now: Duration) -> Option<()> {
        if self.waits_for_events(now) {
            return Some(());
        }
        let interval = self.session.interval;
        self.recovering = self.slot(|slot| slot.snapshot.outage().is_some())?;
        // After an outage everything is read anyway.
        if !self.recovering && self.gathering.is_none_or(|(_, until)| until <= now) {
            self.gathering = None;
            let forced = self.slot(|slot| slot.snapshot.take_forced())?;
            self.announced.extend(forced);
            let portions = self.slot(|slot| {
                let new: BTreeSet<RemoteKey> = slot.snapshot.unread().difference(&self.first_reads).cloned().collect();
                let portions = slot.snapshot.portions(&new, true);
                (new, portions)
            })?;
            self.first_reads.extend(portions.0);
            // The newest first: the others are being read already.
            portions.1.into_iter().rev().for_each(|portion| self.urgent.push_front(portion));
        }
        self.announced.extend(self.ladder.climb(now));
        while self.urgent_running < URGENT {
            // Each once, however often it is announced while others are read.
            if self.urgent.is_empty() && !self.announced.is_empty() {
                let announced = std::mem::take(&mut self.announced);
                self.urgent.extend(self.slot(|slot| slot.snapshot.portions(&announced, true))?);
            }
            let Some(portion) = self.urgent.pop_front() else { break };
            self.urgent_running += 1;
            self.read(portion, Lane::Urgent);
        }
        let intervals = self.slot(|slot| slot.snapshot.intervals(interval))?;
        self.schedule.keep(&intervals, now);
        let due = if self.recovering { intervals } else { self.schedule.due(now) };
        if self.refresh.is_none() && !due.is_empty() {
            let left: VecDeque<_> = self
                .slot(|slot| {
                    let keys = slot.snapshot.due(&due, interval);
                    slot.snapshot.portions(&keys, false)
                })?
                .into();
            // Where there is nothing to read the server is asked all the same how it does.
            let proven = self.server.was_checked_since(now.saturating_sub(interval / 2));
            if left.is_empty() && due.contains(&interval) && !proven {
                self.check();
                return Some(());
            }
            self.refreshes += 1;
            self.refresh = Some(Refresh { intervals: due, began: now, left, running: 0, number: self.refreshes });
        }
        while let Some(refresh) = &mut self.refresh
            && refresh.running < REFRESHING
            && let Some(portion) = refresh.left.pop_front()
        {
            refresh.running += 1;
            let lane = Lane::Refresh(refresh.number);
            self.read(portion, lane);
        }
        if self.refresh.as_ref().is_some_and(|refresh| refresh.running == 0) {
            self.refreshed()?;
        }
        Some(())
    }

    fn read(&mut self, portion: BTreeSet<RemoteKey>, lane: Lane) {
        let (workspaces, session, clock) = (self.workspaces.clone(), self.session.clone(), self.clock);
        self.running.push(Box::pin(async move {
            let background = lane != Lane::Urgent;
            Done::Passed(pass::read(&workspaces, &session, clock, portion, background).await, lane)
        }));
    }

    fn check(&mut self) {
        self.server.asked();
        let reader = self.session.reader.clone();
        self.running.push(Box::pin(async move { Done::Checked(reader.check(Timestamp::now()).await) }));
    }

    /// Demands wait a moment for company.
    fn gather(&mut self) -> Option<()> {
        let now = self.clock.elapsed();
        let (since, _) = *self.gathering.get_or_insert((now, now));
        self.gathering = Some((since, (now + GATHER).min(since + LONGEST_GATHER)));
        self.server.demanded();
        Some(())
    }

    fn hear(&mut self, news: News) -> Option<()> {
        let now = self.clock.elapsed();
        match news {
            News::Listening => {
                self.subscription.open();
                let is_reading = self.urgent_running > 0 || self.refresh.is_some();
                let has_read = is_reading || self.slot(|slot| slot.snapshot.has_read_before(now))?;
                self.schedule.events_are_heard(has_read, now);
                self.say_health()?;
            }
            News::Silent { status, for_good } => {
                self.subscription.close(status, for_good, now);
                self.say_health()?;
            }
            News::Change(Change::Unknown) => self.schedule.anything_changed(now),
            News::Change(Change::Block { id, name }) => {
                let keys = self.slot(|slot| slot.snapshot.announced(true, &name, id))?;
                let keys = matching(keys, &name);
                self.ladder.announce(keys, now);
            }
            News::Change(Change::Variable { id, name }) => {
                let keys = self.slot(|slot| slot.snapshot.announced(false, &name, id))?;
                let keys = matching(keys, &name);
                self.ladder.announce(keys, now);
            }
        }
        self.slot(|slot| slot.streaming = self.subscription.is_open())
    }

    fn finish(&mut self, done: Done) -> Option<()> {
        match done {
            Done::Checked(Ok(version)) => {
                self.server.answered(version, self.clock.elapsed());
                self.say_health()
            }
            Done::Checked(Err(failure)) => self.failed(&failure, None),
            Done::Passed(passed, lane) => {
                match (lane, &mut self.refresh) {
                    (Lane::Urgent, _) => self.urgent_running -= 1,
                    (Lane::Refresh(number), Some(refresh)) if refresh.number == number => refresh.running -= 1,
                    // Of a refresh that an outage ended.
                    (Lane::Refresh(_), _) => {}
                }
                let passed = passed?;
                self.first_reads.retain(|key| !passed.reads.contains_key(key));
                match passed.outage {
                    Some(failure) => self.failed(&failure, passed.retry_after),
                    None => self.merge(passed),
                }
            }
        }
    }

    fn merge(&mut self, passed: Passed) -> Option<()> {
        let Passed { numbers, reads, explained, times, .. } = passed;
        let keys = reads.len();
        let interval = self.session.interval;
        let merged = self.slot(|slot| slot.snapshot.merge(&numbers, reads, explained, times, interval))?;
        let now = self.clock.elapsed();
        if merged.vanishing {
            // Whether it is most of them is to be known before any absence is confirmed.
            self.schedule.all_due(now);
        }
        self.census = merged.census;
        let since = merged.changed.iter().map(|(key, read_at)| self.ladder.announced(key).unwrap_or(*read_at)).min();
        if let Some(since) = since.map(|since| self.clock.at(since)) {
            self.slot(|slot| {
                for dependent in &merged.wake {
                    slot.changed.entry(dependent.clone()).or_insert(since);
                }
            })?;
        }
        tracing::debug!(workspace = %self.session.key, keys, changed = merged.wake.len(), "read");
        let recovered = merged.recovered.difference(&merged.wake).cloned().collect();
        self.workspaces.wake().dependents(merged.wake.into_iter().collect());
        self.workspaces.wake().gently(recovered);
        self.say_health()
    }

    /// A refresh is complete.
    fn refreshed(&mut self) -> Option<()> {
        let Some(refresh) = self.refresh.take() else { return Some(()) };
        let now = self.clock.elapsed();
        self.schedule.read(&refresh.intervals, refresh.began, now);
        self.slot(|slot| {
            slot.refreshed = Instant::now();
            slot.snapshot.end_outage();
        })?;
        self.server.refreshed();
        self.recovering = false;
        self.stale = None;
        if self.said.take().is_some() {
            tracing::info!(workspace = %self.session.key, "can be read again");
        }
        self.say_health()
    }

    /// Nothing can be read.
    fn failed(&mut self, failure: &Failure, retry_after: Option<Duration>) -> Option<()> {
        let now = self.clock.elapsed();
        let delay = self.server.failed(failure.reason, retry_after, self.session.interval, now);
        self.refresh = None;
        self.urgent.clear();
        self.first_reads.clear();
        // Once: an outage may last, and the workspace's condition says that it does.
        let (workspace, reason, message) = (&self.session.key, failure.reason, &failure.message);
        if self.said.replace(message.clone()).as_ref() == Some(message) {
            tracing::debug!(%workspace, %reason, retry_in = ?delay, "{message}");
        } else {
            tracing::warn!(%workspace, %reason, retry_in = ?delay, "{message}");
        }
        let news = self.slot(|slot| slot.snapshot.begin_outage(failure.clone()))?;
        // Again and again, as some may have recovered meanwhile: only those that are well are told.
        self.stale.get_or_insert(now + self.session.stale_after);
        if news {
            let unwell: Vec<Dependent> =
                self.slot(|slot| slot.snapshot.dependents_that_are(false).cloned().collect())?;
            self.workspaces.wake().gently(unwell);
        }
        self.say_health()
    }

    /// Has the workspace's status written if it differs.
    fn say_health(&mut self) -> Option<()> {
        let well = || Health::Well {
            server_version: self.server.version().cloned(),
            census: self.census,
            events: self.subscription.status().cloned(),
        };
        let changed = self.slot(|slot| {
            let health = match (slot.snapshot.outage(), &slot.health) {
                (Some(failure), _) => Health::Failing(failure.clone()),
                // Only reading shows that it may be read.
                (None, Health::Pending) if !self.server.is_well() => return false,
                (None, Health::Pending) if !slot.snapshot.is_empty() && !slot.snapshot.has_read() => return false,
                (None, _) => well(),
            };
            let changed = health != slot.health;
            slot.health = health;
            changed
        })?;
        if changed {
            self.workspaces.wake().workspace(&self.session.key);
        }
        Some(())
    }
}

/// Waits for the next change, for ever if there is none.
async fn change(changes: &mut Option<watch::Receiver<u64>>) {
    if let Some(changes) = changes
        && changes.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
