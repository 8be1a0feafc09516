//! CSRF tokens. A self-hosted Prefect may want one with every POST, reading ones included.

use reqwest::header::HeaderValue;
use tokio::sync::Mutex;

/// Header that carries the token.
pub(crate) const TOKEN_HEADER: &str = "prefect-csrf-token";
/// Header that carries the id that the token was fetched for.
pub(crate) const CLIENT_HEADER: &str = "prefect-csrf-client";

/// Whether the `detail` of a 403 is about the token.
pub(crate) fn is_csrf_detail(detail: &str) -> bool {
    detail.contains("CSRF") || detail == "Missing client identifier."
}

/// The token that a request was sent with, and its place in the sequence of tokens.
#[derive(Clone, Default)]
pub(crate) struct Token {
    pub(crate) header: Option<HeaderValue>,
    generation: u64,
}

/// The current token of one client id.
#[derive(Default)]
pub(crate) struct Csrf {
    // Held across a fetch: a second fetch for the same client id would invalidate the first
    // token, and whoever wants one meanwhile should have the new one.
    current: Mutex<Token>,
}

impl Csrf {
    /// The token to send, if one is known.
    pub(crate) async fn current(&self) -> Token {
        self.current.lock().await.clone()
    }

    /// A token other than `refused`: one that someone else fetched meanwhile, or the one that
    /// `fetch` gets (`None` where the server wants none).
    pub(crate) async fn renew<E>(
        &self,
        refused: &Token,
        fetch: impl Future<Output = Result<Option<HeaderValue>, E>>,
    ) -> Result<Token, E> {
        let mut current = self.current.lock().await;
        if current.generation == refused.generation {
            let header = fetch.await?;
            current.header = header;
            current.generation += 1;
        }
        Ok(current.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::join_all;
    use wiremock::matchers::{method, path, query_param_contains};
    use wiremock::{Mock, MockServer, Request};

    use super::super::client_tests::{client_of, json_answer, serve};
    use super::super::{Auth, ErrorKind};

    /// A server that wants CSRF tokens as Prefect does: a fetch replaces the token before.
    struct CsrfServer {
        server: MockServer,
        valid: Arc<AtomicUsize>,
        fetches: Arc<AtomicUsize>,
    }

    impl CsrfServer {
        async fn start() -> CsrfServer {
            let server = MockServer::start().await;
            let valid = Arc::new(AtomicUsize::new(0));
            let fetches = Arc::new(AtomicUsize::new(0));
            let (token, count) = (valid.clone(), fetches.clone());
            Mock::given(path("/prefect/api/csrf-token"))
                .and(query_param_contains("client", "-"))
                .respond_with(move |_: &Request| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let token = token.fetch_add(1, Ordering::SeqCst) + 1;
                    let body = format!(r#"{{"token":"t{token}","client":"c","expiration":"2026-11-24T07:31:48Z"}}"#);
                    json_answer(200, &body).set_delay(Duration::from_millis(50))
                })
                .mount(&server)
                .await;
            let token = valid.clone();
            Mock::given(method("POST"))
                .respond_with(move |request: &Request| {
                    let sent = request.headers.get("prefect-csrf-token");
                    let client = request.headers.get("prefect-csrf-client");
                    let wanted = format!("t{}", token.load(Ordering::SeqCst));
                    match (sent, client) {
                        (None, _) => json_answer(403, r#"{"detail":"Missing CSRF token."}"#),
                        (_, None) => json_answer(403, r#"{"detail":"Missing client identifier."}"#),
                        (Some(sent), _) if sent.as_bytes() == wanted.as_bytes() => json_answer(200, "[]"),
                        _ => json_answer(403, r#"{"detail":"Invalid CSRF token or client identifier."}"#),
                    }
                })
                .mount(&server)
                .await;
            CsrfServer { server, valid, fetches }
        }
    }

    #[tokio::test]
    async fn concurrent_requests_fetch_one_csrf_token_and_renew_it_once() {
        let csrf = CsrfServer::start().await;
        let client = client_of(&csrf.server, Auth::None);
        for fetches in [1, 2] {
            let calls = (0..8).map(|_| client.variable_names());
            for answer in join_all(calls).await {
                assert_eq!(answer, Ok(Vec::new()));
            }
            assert_eq!(csrf.fetches.load(Ordering::SeqCst), fetches);
            // As when the token has expired.
            csrf.valid.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_known_csrf_token_goes_with_every_later_request() {
        let csrf = CsrfServer::start().await;
        let client = client_of(&csrf.server, Auth::None);
        client.variable_names().await.unwrap();
        client.block_names("secret").await.unwrap();
        // Refused, fetch, again; then one.
        assert_eq!(csrf.server.received_requests().await.unwrap().len(), 4);
    }

    #[tokio::test]
    async fn wrong_credentials_show_behind_the_csrf_refusal() {
        let server = MockServer::start().await;
        serve(&server, "POST", "variables/filter", json_answer(403, r#"{"detail":"Missing CSRF token."}"#)).await;
        serve(&server, "GET", "csrf-token", json_answer(401, r#"{"exception_message":"Unauthorized"}"#)).await;
        let error = client_of(&server, Auth::None).variables(&["a"]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthorized);
    }

    #[tokio::test]
    async fn a_server_that_gives_no_csrf_token_but_wants_one_is_asked_once_more() {
        for status in [404, 422] {
            let server = MockServer::start().await;
            serve(&server, "POST", "variables/filter", json_answer(403, r#"{"detail":"Missing CSRF token."}"#)).await;
            serve(&server, "GET", "csrf-token", json_answer(status, r#"{"detail":"CSRF protection is disabled."}"#))
                .await;
            let error = client_of(&server, Auth::None).variables(&["a"]).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Rejected { status: 403 });
            assert_eq!(server.received_requests().await.unwrap().len(), 3);
        }
    }
}
