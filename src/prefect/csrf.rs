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
