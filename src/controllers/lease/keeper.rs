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
use crate::sync::Timestamp;
use crate::sync::election::{Election, LeaseOptions, RENEW_EVERY, Step};
use crate::telemetry::{Pulse, Pulses};

/// The longest that one request may take: three of them fit into the renew deadline.
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

/// Another replica works.
#[derive(Debug, thiserror::Error)]
#[error("another replica ({0}) holds the Lease now; this one ends, to be started anew")]
struct Lost(String);

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

    /// Waits for the Lease and keeps it, until `stopped`; then gives it back, so that another replica works at once.
    ///
    /// # Errors
    /// When it was lost to another replica.
    pub async fn run(mut self, stopped: CancellationToken) -> anyhow::Result<()> {
        {
            let work = pin!(self.work());
            tokio::select! {
                never = work => return Err(never.into()),
                () = stopped.cancelled() => {}
            }
        }
        self.give_back().await;
        Ok(())
    }

    async fn work(&mut self) -> Lost {
        self.wait_for_it().await;
        tracing::info!(identity = self.options.identity, "leading: this replica works");
        loop {
            let renewed = self.attempt().await;
            if !self.election.is_ours() {
                return Lost(self.election.holder().unwrap_or("nobody").to_owned());
            }
            tokio::time::sleep(self.said(renewed).unwrap_or(RENEW_EVERY)).await;
        }
    }

    /// Waits for the Lease, warm: its changes are watched, so that one that is given back is taken at once.
    async fn wait_for_it(&mut self) {
        let watch = watcher::watch_object(self.api.clone(), &self.options.name).default_backoff();
        let mut watch = pin!(watch);
        let mut told = None;
        let mut wait = Some(Duration::ZERO);
        while !self.leadership.is_granted() {
            self.pulse.beat();
            if self.election.holder() != told.as_deref() {
                told = self.election.holder().map(str::to_owned);
                let holder = told.as_deref().unwrap_or("nobody");
                tracing::info!(holder, identity = self.options.identity, "standing by: another replica works");
            }
            tokio::select! {
                seen = watch.next() => match seen {
                    Some(Ok(lease)) => {
                        self.election.see(lease, self.now());
                        wait = None;
                    }
                    Some(Err(error)) => tracing::warn!("watching the Lease {}: {error}", self.name()),
                    None => tokio::time::sleep(RETRY).await,
                },
                () = tokio::time::sleep(wait.unwrap_or_else(|| self.left())) => {
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

    /// Does what is to be done now. Who leads only renews: where the Lease is another's or nobody's any more, someone else
    /// may have worked meanwhile.
    async fn attempt(&mut self) -> Result<(), String> {
        self.pulse.beat();
        // A first look: the watch has seen nothing yet.
        if self.election.step(self.now()) == Step::Create && !self.leadership.is_granted() {
            self.look().await?;
        }
        let step = self.election.step(self.now());
        if matches!(step, Step::Wait(_)) || (self.leadership.is_granted() && step != Step::Renew) {
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
            // Someone else wrote it, or ours arrived though its answer did not.
            Err(why) => {
                self.look().await?;
                Err(why)
            }
        }
    }

    async fn look(&mut self) -> Result<(), String> {
        let found = request(self.api.get_opt(&self.options.name)).await?;
        self.election.see(found, self.now());
        Ok(())
    }

    /// Says what a try failed with, if that is news; returns when to try again.
    fn said(&mut self, tried: Result<(), String>) -> Option<Duration> {
        let trouble = tried.err();
        if trouble != self.trouble {
            match &trouble {
                Some(why) => tracing::warn!("taking or renewing the Lease {}: {why}", self.name()),
                None => tracing::info!("the Lease {} can be renewed again", self.name()),
            }
            self.trouble.clone_from(&trouble);
        }
        trouble.map(|_| RETRY)
    }

    async fn give_back(&mut self) {
        let Some(lease) = self.election.given_back() else { return };
        match request(self.api.replace(&self.options.name, &PostParams::default(), &lease)).await {
            Ok(_) => tracing::info!("gave the Lease back: another replica may work"),
            Err(why) => tracing::warn!("giving the Lease {} back: {why}", self.name()),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.options.namespace, self.options.name)
    }
}

async fn request<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(REQUEST, asked).await {
        Ok(answer) => answer.map_err(|error| describe(&error)),
        Err(_) => Err(format!("no answer within {REQUEST:?}")),
    }
}

/// The namespace of the pod that this is, as its service account's files say.
#[must_use]
pub fn own_namespace() -> Option<String> {
    let namespace = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok()?;
    Some(namespace.trim().to_owned()).filter(|namespace| !namespace.is_empty())
}
