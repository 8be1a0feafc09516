//! Installs the TLS provider, parses, dispatches.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use prefect_sync::cli::{Cli, Command, CrdsArgs, RunArgs};
use prefect_sync::controllers::lease::{FenceLayer, Keeper, Leadership, own_namespace};
use prefect_sync::controllers::{self, Options};
use prefect_sync::prefect::Budgets;
use prefect_sync::sync::election::LeaseOptions;
use prefect_sync::{api, check, exec, job_template, render, telemetry};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = async {
        telemetry::init(&cli.log, cli.log_format)?;
        // Before any client is built: reqwest has no provider of its own.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider was installed before");
        }
        match cli.command {
            Command::Run(args) => run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Render(args) => render::render(&args).await,
            Command::Check(files) => check::check(&files).await,
            Command::Exec(args) => exec::exec(&args).await.map(|never| match never {}),
            Command::Crds(args) => crds(&args).map(|()| ExitCode::SUCCESS),
            Command::Completions(args) => {
                clap_complete::generate(args.shell, &mut Cli::command(), "prefect-sync", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
            Command::JobTemplate(args) => job_template::job_template(&args).map(|()| ExitCode::SUCCESS),
        }
    };
    match done.await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("prefect-sync: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The whole chain of causes, each once: some of the libraries repeat the cause in their own text.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        told if told.contains(&cause) => told.to_owned(),
        told => format!("{told}: {cause}"),
    })
}

/// How long a replica that can fill its caches has time to do so before it stands for election nevertheless.
const WARM_UP: Duration = Duration::from_secs(10);
/// How long what is under way may take after the operator was asked to stop.
const DRAIN: Duration = Duration::from_secs(15);

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let mut config = kube::Config::infer().await.context(
        "finding the cluster: there must be a service account (in a cluster) or a kubeconfig (KUBECONFIG, ~/.kube/config)",
    )?;
    let cluster = config.cluster_url.to_string();
    // The client's own retries can take minutes, also for writes; ours are per object and bounded.
    config.default_retry = false;
    let shutdown = CancellationToken::new();
    let health = telemetry::Health::default();
    let leadership = if args.leader_elect { Leadership::candidate() } else { Leadership::alone() };
    let leads = leadership.clone();
    health.metrics.watch_leadership(Arc::new(move || leads.may_write()));
    let keeper = if args.leader_elect {
        let unfenced = kube::Client::try_from(config.clone()).context("connecting to the cluster")?;
        Some(Keeper::new(unfenced, lease(&args)?, leadership.clone(), &health.pulses))
    } else {
        None
    };
    let client = kube::client::ClientBuilder::try_from(config).context("connecting to the cluster")?;
    let client = client.with_layer(&FenceLayer(leadership.clone())).build();
    let readiness = health.readiness.clone();
    let mut served = tokio::spawn(telemetry::serve(args.health_address, health.clone(), shutdown.clone()));
    let options = Options {
        namespaces: listed(args.namespaces),
        allowed_api_hosts: listed(args.allowed_api_hosts),
        budgets: Budgets::new(health.metrics.clone()),
    };
    let mut controllers = tokio::spawn(controllers::run(client, options, health, leadership, shutdown.clone()));
    let finished = CancellationToken::new();
    let (asked, until) = (shutdown.clone(), finished.clone());
    let mut kept = tokio::spawn(async move {
        match keeper {
            Some(keeper) => {
                // One that is cold, or can't work at all, should not be faster than one that is warm.
                let warm = async { drop(tokio::time::timeout(WARM_UP, readiness.ready()).await) };
                keeper.run(warm, asked, until).await
            }
            None => {
                until.cancelled().await;
                Ok(())
            }
        }
    });
    let ended = tokio::select! {
        signal = signalled() => signal,
        // Any of them ending by itself is an error that ends the process, so that it is restarted.
        ended = &mut served => result(ended, "the health server"),
        ended = &mut controllers => result(ended, "the controllers").with_context(|| format!("cluster {cluster}")),
        ended = &mut kept => return result(ended, "leader election"),
    };
    if ended.is_ok() {
        tracing::info!("asked to stop; finishing what is under way");
    }
    shutdown.cancel();
    let mut drained = Ok(());
    if !controllers.is_finished() {
        tokio::select! {
            ended = &mut controllers => drained = result(ended, "the controllers"),
            // The Lease was lost meanwhile, or this replica only waited for it: nothing is under way that may be written.
            kept = &mut kept => return ended.and(result(kept, "leader election")),
            () = tokio::time::sleep(DRAIN) => {
                tracing::warn!("not finished within {DRAIN:?}; what is left undone is done by who works next");
                controllers.abort();
            }
        }
    }
    // Only now may another replica work.
    finished.cancel();
    ended.and(drained).and(result(kept.await, "leader election"))
}

/// What a task came to.
fn result(ended: Result<anyhow::Result<()>, JoinError>, what: &str) -> anyhow::Result<()> {
    ended.with_context(|| format!("{what} panicked"))?
}

/// Which Lease to hold, and as whom.
fn lease(args: &RunArgs) -> anyhow::Result<LeaseOptions> {
    let namespace = args
        .lease_namespace
        .clone()
        .or_else(own_namespace)
        .context("leader election outside of a pod: say in which namespace the Lease is, with --lease-namespace")?;
    let identity = args.identity.clone().unwrap_or_else(|| {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "prefect-sync".to_owned());
        format!("{host}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
    });
    Ok(LeaseOptions { namespace, name: args.lease_name.clone(), identity })
}

/// A list without blanks and repetitions: an empty variable means that nothing was listed.
fn listed(values: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let values = values.into_iter().map(|value| value.trim().to_owned());
    values.filter(|value| !value.is_empty() && seen.insert(value.clone())).collect()
}

/// Waits for SIGTERM or SIGINT.
async fn signalled() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}

fn crds(args: &CrdsArgs) -> anyhow::Result<()> {
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    for (file, definition) in api::definitions() {
        let yaml = serde_saphyr::to_string(&definition)?;
        match &args.output {
            Some(folder) => {
                let path = folder.join(file);
                std::fs::write(&path, yaml).with_context(|| format!("writing {}", path.display()))?;
            }
            None => println!("---\n{yaml}"),
        }
    }
    Ok(())
}
