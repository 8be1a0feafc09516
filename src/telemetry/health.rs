//! `/livez` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use kube::runtime::reflector::{Lookup, Store};
use tokio_util::sync::CancellationToken;

/// Ready once every cache has been filled.
#[derive(Clone, Default)]
pub struct Readiness {
    caches: Arc<AtomicUsize>,
    missing: Arc<AtomicUsize>,
}

impl Readiness {
    /// Waits for one more cache.
    pub fn expect<K>(&self, store: Store<K>)
    where
        K: Lookup + Clone + Send + Sync + 'static,
        K::DynamicType: Eq + std::hash::Hash + Clone + Send + Sync,
    {
        self.caches.fetch_add(1, Ordering::Relaxed);
        self.missing.fetch_add(1, Ordering::Relaxed);
        let missing = self.missing.clone();
        tokio::spawn(async move {
            if store.wait_until_ready().await.is_ok() {
                missing.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }

    /// Whether there are caches, and all of them are filled.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.caches.load(Ordering::Relaxed) > 0 && self.missing.load(Ordering::Relaxed) == 0
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
