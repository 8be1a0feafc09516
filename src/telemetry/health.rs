//! `/livez` and `/readyz`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

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

/// Serves until `shutdown`.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve(address: SocketAddr, readiness: Readiness, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} for health checks"))?;
    let ready = move || {
        let code = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        std::future::ready(code)
    };
    // Answering at all shows that the runtime turns.
    let router = Router::new().route("/livez", get(|| std::future::ready(StatusCode::OK))).route("/readyz", get(ready));
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("serving health checks")
}
