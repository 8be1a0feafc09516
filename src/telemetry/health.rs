//! `/livez`, `/readyz` and `/metrics`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Metrics, Pulses};

/// Ready once every cache has been filled.
#[derive(Clone, Default)]
pub struct Readiness {
    caches: Arc<Mutex<Vec<CancellationToken>>>,
    complete: CancellationToken,
}

impl Readiness {
    /// Expects one more cache; `listed` is cancelled when it has been filled.
    pub fn expect(&self, listed: CancellationToken) {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).push(listed);
    }

    /// There are no more.
    pub fn complete(&self) {
        self.complete.cancel();
    }

    /// Whether all caches are known and filled.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.complete.is_cancelled() && self.caches().iter().all(CancellationToken::is_cancelled)
    }

    /// Waits until all caches are filled.
    pub async fn ready(&self) {
        self.complete.cancelled().await;
        for cache in self.caches() {
            cache.cancelled().await;
        }
    }

    fn caches(&self) -> Vec<CancellationToken> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    let listener = listen(address).await.with_context(|| format!("listening on {address} for health checks"))?;
    axum::serve(listener, router(health))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("serving health checks")
}

/// On all addresses of IPv6 this listens to IPv4, too. Where the kernel has no IPv6, IPv4 alone is all that there is.
async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && has_no_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    }
}

/// With `ipv6.disable=1` there are no such sockets, with `disable_ipv6=1` no such address; a port that is taken is neither.
fn has_no_ipv6(error: &std::io::Error) -> bool {
    !matches!(error.kind(), std::io::ErrorKind::AddrInUse | std::io::ErrorKind::PermissionDenied)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_ipv4_too() {
        // Also where there is no IPv6.
        let listener = listen((Ipv6Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connected, accepted) =
            tokio::join!(tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        // The same port again is refused, not taken for a machine without IPv6.
        let taken = listen(address).await.unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn each_path_answers_for_what_it_is_there() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health::default();
        let app = router(health.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let get = async |path: &str| {
            let answer = reqwest::get(format!("http://{address}/{path}")).await.unwrap();
            (
                answer.status().as_u16(),
                answer.headers()["content-type"].to_str().unwrap().to_owned(),
                answer.text().await.unwrap(),
            )
        };
        assert_eq!(get("livez").await.0, 200);
        let pulse = health.pulses.register("session of flows/default", Duration::ZERO);
        let (status, _, text) = get("livez").await;
        assert_eq!((status, text.as_str()), (503, "session of flows/default has not turned for 0 s\n"));
        drop(pulse);
        assert_eq!(get("livez").await.2, "ok\n");
        let (status, kind, text) = get("metrics").await;
        assert_eq!((status, kind.as_str()), (200, OPEN_METRICS));
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
