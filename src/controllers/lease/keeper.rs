//! Takes the Lease, keeps it, gives it back.

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::Leadership;
use crate::controllers::errors::describe;
use crate::controllers::watching::{Failures, Patience};
use crate::sync::Timestamp;
use crate::sync::election::{Election, LeaseOptions, RENEW_EVERY, Step};
use crate::telemetry::{Pulse, Pulses};

/// The longest that one request may take: after one that was lost there is time for another before the renew deadline.
const REQUEST: Duration = Duration::from_secs(2);
/// When to try again after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// The loop turns at least as often, or `/livez` fails.
const PULSE: Duration = Duration::from_secs(60);

/// Holds the Lease for this replica, or waits for it.
pub struct Keeper {
    api: Api<Lease>,
    options: LeaseOptions,
    leadership: Leadership,
    pulse: Pulse,
    election: Election,
    started: Instant,
    /// What the last try failed with: said once, as it is tried every second.
    trouble: Option<String>,
}

/// Another replica works, or may work.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("another replica ({0}) holds the Lease now; this one ends, to be started anew")]
    Taken(String),
    #[error("the Lease was taken from this replica; it ends, to be started anew")]
    Freed,
    #[error("the Lease was deleted and could not be made anew in time; this replica ends, to be started anew")]
    Deleted,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("no answer within {REQUEST:?}")]
    Timeout,
    #[error("{}", describe(.0))]
    Answer(#[from] kube::Error),
}

impl Trouble {
    /// Someone else wrote or deleted the Lease, or our own write arrived though its answer did not.
    fn is_surprise(&self) -> bool {
        matches!(self, Self::Answer(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }

    /// When to try again: what was waited for has been waited for enough.
    fn retry_in(&self) -> Duration {
        match self {
            Self::Timeout => Duration::ZERO,
            Self::Answer(_) => RETRY,
        }
    }
}

impl Keeper {
    /// For a client without the fence: the Lease itself is written when nothing else may be.
    #[must_use]
    pub fn new(client: Client, options: LeaseOptions, leadership: Leadership, pulses: &Pulses) -> Self {
        Self {
            api: Api::namespaced(client, &options.namespace),
            election: Election::new(options.clone()),
            options,
            leadership,
            pulse: pulses.register("leader election", PULSE),
            started: Instant::now(),
            trouble: None,
        }
    }

    /// Waits for the Lease, which it does not take before this replica is `warm` nor after it is `asked` to stop, and keeps
    /// it until all that is under way has `finished`; then gives it back, so that another replica works at once.
    ///
    /// # Errors
    /// When it was lost to another replica.
    pub async fn run(
        mut self,
        warm: impl Future<Output = ()>,
        asked: CancellationToken,
        finished: CancellationToken,
    ) -> anyhow::Result<()> {
        asked.run_until_cancelled(self.wait_for_it(warm)).await;
        let kept = if self.leadership.is_granted() { self.keep(&finished).await } else { Ok(()) };
        // First: who takes it writes at once.
        self.leadership.close();
        kept?;
        self.give_back().await;
        Ok(())
    }

    /// A request under way is finished first: afterwards it is known what the Lease is.
    async fn keep(&mut self, stopped: &CancellationToken) -> Result<(), Lost> {
        tracing::info!(identity = self.options.identity, "leading: this replica works");
        while !stopped.is_cancelled() {
            let renewed = self.attempt().await;
            if !self.keeps() {
                return Err(self.lost());
            }
            let pause = self.said(renewed).unwrap_or(RENEW_EVERY);
            stopped.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        Ok(())
    }

    /// Waits for the Lease: its changes are watched, so that one that is given back is taken at once.
    async fn wait_for_it(&mut self, warm: impl Future<Output = ()>) {
        let mut warm = pin!(warm);
        let mut is_warm = false;
        let watch = watcher::watch_object(self.api.clone(), &self.options.name).backoff(Patience::default());
        let mut watch = pin!(watch);
        let mut failures = Failures::default();
        let mut told = (None, false);
        let mut wait = Some(Duration::ZERO);
        while !self.leadership.is_granted() {
            self.pulse.beat();
            let stands = (self.election.holder().map(str::to_owned), self.election.was_deleted());
            if stands != told {
                let (identity, lease) = (&self.options.identity, self.name());
                match &stands {
                    (Some(holder), false) => {
                        tracing::info!(holder, identity, lease, "standing by: another replica works");
                    }
                    (Some(holder), true) => {
                        tracing::warn!(holder, identity, lease, "the Lease was deleted; who held it may still write");
                    }
                    (None, _) => {}
                }
                told = stands;
            }
            tokio::select! {
                () = &mut warm, if !is_warm => is_warm = true,
                Some(seen) = watch.next() => match seen {
                    Ok(lease) => {
                        self.election.see(lease, self.now());
                        wait = None;
                    }
                    Err(error) => failures.say(&error),
                },
                () = tokio::time::sleep(wait.unwrap_or_else(|| self.left())), if is_warm => {
                    let tried = self.attempt().await;
                    wait = self.said(tried);
                }
            }
        }
    }

    /// For how long there is nothing to do but to watch.
    fn left(&self) -> Duration {
        match self.election.step(self.now()) {
            Step::Wait(left) => left.min(PULSE / 4),
            Step::Create | Step::Take | Step::Renew => Duration::ZERO,
        }
    }

    /// Whether a replica that leads still does.
    fn keeps(&self) -> bool {
        self.election.keeps(self.leadership.may_write())
    }

    fn lost(&self) -> Lost {
        match self.election.holder() {
            _ if self.election.was_deleted() => Lost::Deleted,
            Some(holder) => Lost::Taken(holder.to_owned()),
            None => Lost::Freed,
        }
    }

    /// Does what is to be done now.
    async fn attempt(&mut self) -> Result<(), Trouble> {
        self.pulse.beat();
        let leads = self.leadership.is_granted();
        // The watch may have seen nothing yet. One that was given back it has seen.
        if !leads && self.election.step(self.now()) == Step::Create {
            self.look().await?;
        }
        let step = self.election.step(self.now());
        if matches!(step, Step::Wait(_)) || (leads && !self.keeps()) {
            return Ok(());
        }
        let asked = (Instant::now(), SystemTime::now());
        let lease = self.election.held(Timestamp::now());
        let parameters = PostParams::default();
        let written = match step {
            Step::Create => request(self.api.create(&parameters, &lease)).await,
            _ => request(self.api.replace(&self.options.name, &parameters, &lease)).await,
        };
        match written {
            Ok(written) => {
                self.election.see(Some(written), self.now());
                self.leadership.extend(asked);
                Ok(())
            }
            Err(trouble) => {
                if trouble.is_surprise() {
                    self.look().await?;
                }
                Err(trouble)
            }
        }
    }

    async fn look(&mut self) -> Result<(), Trouble> {
        let found = request(self.api.get_opt(&self.options.name)).await?;
        self.election.see(found, self.now());
        Ok(())
    }

    /// Says what a try failed with, if that is news; returns when to try again.
    fn said(&mut self, tried: Result<(), Trouble>) -> Option<Duration> {
        let trouble = tried.err();
        let why = trouble.as_ref().map(ToString::to_string);
        if why != self.trouble {
            match &why {
                Some(why) => tracing::warn!("taking or renewing the Lease {}: {why}", self.name()),
                None => tracing::info!("the Lease {} can be renewed again", self.name()),
            }
            self.trouble = why;
        }
        trouble.map(|trouble| trouble.retry_in())
    }

    async fn give_back(&mut self) {
        // Asked for, and stopped before the answer.
        if self.election.may_be_ours() && !self.election.is_ours() && self.look().await.is_err() {
            return;
        }
        // Written meanwhile, by us or with a label: once more.
        for _ in 0..2 {
            let Some(lease) = self.election.given_back() else { return };
            match request(self.api.replace(&self.options.name, &PostParams::default(), &lease)).await {
                Ok(_) => return tracing::info!("gave the Lease back: another replica may work"),
                Err(trouble) => tracing::warn!("giving the Lease {} back: {trouble}", self.name()),
            }
            if self.look().await.is_err() {
                return;
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.options.namespace, self.options.name)
    }
}

async fn request<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
    tokio::time::timeout(REQUEST, asked).await.map_or(Err(Trouble::Timeout), |answer| Ok(answer?))
}

/// The namespace of the pod that this is, as its service account's files say.
#[must_use]
pub fn own_namespace() -> Option<String> {
    let namespace = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok()?;
    Some(namespace.trim().to_owned()).filter(|namespace| !namespace.is_empty())
}
