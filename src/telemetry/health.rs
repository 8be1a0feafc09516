//! `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use super::{Metrics, Pulses};

/// Ready once every cache has been filled.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<CancellationToken>>>);

impl Readiness {
    /// Expects one more cache; `listed` is cancelled when it has been filled.
    pub fn expect(&self, listed: CancellationToken) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(listed);
    }

    /// Whether there are caches, and all of them are filled.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !caches.is_empty() && caches.iter().all(CancellationToken::is_cancelled)
    }
}

/// What is served.
#[derive(Clone, Default)]
pub struct Health {
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/livez`.
    pub pulses: Pulses,
    /// For `/metrics`.
    pub metrics: Metrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until `shutdown`.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve(address: SocketAddr, health: Health, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} for health checks"))?;
    axum::serve(listener, router(health))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("serving health checks")
}

fn router(health: Health) -> Router {
    let Health { readiness, pulses, metrics } = health;
    let ready = move || {
        let code = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        std::future::ready(code)
    };
    let live = move || {
        let stalled = pulses.stalled();
        let answer = if stalled.is_empty() {
            // Answering at all shows that the runtime turns.
            (StatusCode::OK, "ok\n".to_owned())
        } else {
            let names =
                stalled.iter().map(|(name, since)| format!("{name} has not turned for {} s\n", since.as_secs()));
            (StatusCode::SERVICE_UNAVAILABLE, names.collect())
        };
        std::future::ready(answer)
    };
    let scrape = move || {
        let answer = match metrics.encode() {
            Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, OPEN_METRICS)], text),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], String::new()),
        };
        std::future::ready(answer)
    };
    Router::new().route("/livez", get(live)).route("/readyz", get(ready)).route("/metrics", get(scrape))
}
