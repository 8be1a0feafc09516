//! One HTTP exchange with Prefect: headers, limits, tries, CSRF tokens, and what a failure is.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client as Http, ClientBuilder, RequestBuilder, StatusCode, redirect};
use reqwest_websocket::{Upgrade as _, UpgradeResponse};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tungstenite::protocol::WebSocketConfig;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answer::{Answer, ReadError, retry_after};
use super::budget::{Budget, Lane, Outcome, Refused};
use super::csrf::{self, Csrf, Token};
use super::error::{CONNECT_TIMEOUT, HINT_NOT_TRUSTED, TOTAL_TIMEOUT, unreachable};
use super::jitter::random;
use super::wire::TokenWire;
use super::{ApiUrl, Error, ErrorKind};

const USER_AGENT: &str = concat!("prefect-sync/", env!("CARGO_PKG_VERSION"));

const RETRIES: u32 = 2;
const FIRST_BACKOFF: Duration = Duration::from_millis(150);
/// A longer `Retry-After` is the caller's to wait for.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// How long a websocket may take to open.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// No further try begins later than this after the first.
const RETRY_WINDOW: Duration = Duration::from_secs(10);

/// How to authenticate.
#[derive(Debug)]
pub enum Auth {
    /// Not at all.
    None,
    /// Prefect Cloud's API key, sent as a bearer token. White space around it is dropped: files
    /// end in a newline, keys don't.
    ApiKey(SecretString),
    /// A self-hosted server's auth string (`user:password`), sent as basic authentication. A
    /// newline at its end is dropped.
    AuthString(SecretString),
}

/// All that is needed to talk to one Prefect API.
#[derive(Debug)]
pub struct Connection {
    /// Where it is.
    pub url: ApiUrl,
    /// As whom.
    pub auth: Auth,
    /// PEM certificates to trust besides the platform's.
    pub ca_bundle: Option<Vec<u8>>,
    /// How much may be asked.
    pub budget: Budget,
}

/// Sends requests and returns whole answers.
pub(crate) struct Transport {
    http: Http,
    /// For connections that stay: HTTP/1.1, and without a limit on the whole.
    streaming: Http,
    /// What the stream of events wants to see.
    token: Option<SecretString>,
    url: ApiUrl,
    budget: Budget,
    client_id: HeaderValue,
    csrf: Csrf,
}

/// Why there is no answer to the question for a websocket.
pub(crate) enum UpgradeError {
    /// The budget does not allow it.
    NotNow,
    /// The server could not be asked.
    Unreachable,
}

/// Why one try gave no answer.
struct NoAnswer {
    kind: ErrorKind,
    /// The connection ended before any answer, as when the server drops an idle connection just
    /// as it is used again.
    dropped: bool,
}

impl Transport {
    pub(crate) fn new(connection: Connection) -> Result<Transport, Error> {
        let url = connection.url;
        let token = token(&connection.auth);
        let (http, streaming, client_id) =
            connect(&url, &connection.auth, connection.ca_bundle.as_deref()).map_err(|hint| Error {
                kind: ErrorKind::Configuration { hint },
                host: url.host_and_port(),
                retry_after: None,
                doing: "connect".to_owned(),
            })?;
        let budget = connection.budget;
        Ok(Transport { http, streaming, token, url, budget, client_id, csrf: Csrf::default() })
    }

    pub(crate) fn url(&self) -> &ApiUrl {
        &self.url
    }

    pub(crate) fn recoveries(&self) -> watch::Receiver<u64> {
        self.budget.recoveries()
    }

    pub(crate) fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }

    /// The answer to the question for a websocket.
    pub(crate) async fn upgrade(
        &self,
        segments: &[&str],
        protocol: &str,
        config: WebSocketConfig,
    ) -> Result<UpgradeResponse, UpgradeError> {
        let request = self.streaming.get(self.url.endpoint(segments)).upgrade();
        let permit = self.budget.acquire(Lane::Foreground).await.map_err(|_| UpgradeError::NotNow)?;
        let request = request.protocols([protocol]).web_socket_config(config).send();
        let answer = tokio::time::timeout(UPGRADE_TIMEOUT, request).await;
        permit.report(&match &answer {
            // Its status is an answer, whatever it means for the stream.
            Ok(Ok(answer)) => of_status(answer.status(), retry_after(answer)),
            Ok(Err(reqwest_websocket::Error::Reqwest(error))) => {
                of_failure(&unreachable(error, self.url.is_loopback()))
            }
            Ok(Err(_)) => Outcome::Answered("malformed"),
            Err(_) => of_failure(&ErrorKind::Unreachable { hint: None }),
        });
        answer.map_err(|_| UpgradeError::Unreachable)?.map_err(|_| UpgradeError::Unreachable)
    }

    /// An answer of any status to a GET.
    pub(crate) async fn get(
        &self,
        lane: Lane,
        doing: &str,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Answer, Error> {
        let mut url = self.url.endpoint(segments);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(lane, doing, || self.http.get(url.clone())).await
    }

    /// An answer of any status to a POST, with a CSRF token where the server wants one.
    pub(crate) async fn post(
        &self,
        lane: Lane,
        doing: &str,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<Answer, Error> {
        let url = self.url.endpoint(segments);
        let body = serde_json::to_vec(body).map_err(|_| self.error(doing, ErrorKind::Malformed))?;
        let request = |token: &Token| {
            let mut request = self.http.post(url.clone()).header(CONTENT_TYPE, "application/json").body(body.clone());
            if let Some(header) = &token.header {
                request = request
                    .header(csrf::TOKEN_HEADER, header.clone())
                    .header(csrf::CLIENT_HEADER, self.client_id.clone());
            }
            request
        };

        let token = self.csrf.current().await;
        let answer = self.send(lane, doing, || request(&token)).await?;
        if !answer.is_csrf_refusal() {
            return Ok(answer);
        }
        let token = self.csrf.renew(&token, self.fetch_token(lane, doing)).await?;
        let answer = self.send(lane, doing, || request(&token)).await?;
        if answer.is_csrf_refusal() {
            return Err(self.error(doing, ErrorKind::Rejected { status: 403 }));
        }
        Ok(answer)
    }

    /// An answer of any status to a POST to the address itself.
    pub(crate) async fn post_root(
        &self,
        lane: Lane,
        doing: &str,
        headers: HeaderMap,
        body: &impl Serialize,
    ) -> Result<Answer, Error> {
        let body = serde_json::to_vec(body).map_err(|_| self.error(doing, ErrorKind::Malformed))?;
        let request = || {
            let request = self.http.post(self.url.endpoint(&[])).headers(headers.clone());
            request.header(CONTENT_TYPE, "application/json").body(body.clone())
        };
        self.send(lane, doing, request).await
    }

    /// The failure that an answer is, or what it says.
    pub(crate) fn parse<'a, T: Deserialize<'a>>(&self, doing: &str, answer: &'a Answer) -> Result<T, Error> {
        answer.parse().map_err(|kind| Error { retry_after: answer.retry_after, ..self.error(doing, kind) })
    }

    pub(crate) fn error(&self, doing: &str, kind: ErrorKind) -> Error {
        Error { kind, host: self.url.host_and_port(), retry_after: None, doing: doing.to_owned() }
    }

    pub(crate) fn refused(&self, doing: &str, refused: Refused) -> Error {
        Error { retry_after: Some(refused.left), ..self.error(doing, refused.kind) }
    }

    async fn fetch_token(&self, lane: Lane, doing: &str) -> Result<Option<HeaderValue>, Error> {
        let client = self.client_id.to_str().unwrap_or_default();
        let answer = self.get(lane, doing, &["csrf-token"], &[("client", client)]).await?;
        if matches!(answer.status.as_u16(), 404 | 422) {
            return Ok(None);
        }
        let wire: TokenWire<'_> = self.parse(doing, &answer)?;
        let mut header = HeaderValue::from_str(&wire.token).map_err(|_| self.error(doing, ErrorKind::Malformed))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }

    /// Tries, and tries again while the server is only busy. All requests here are reads, so a
    /// second one does no harm.
    async fn send(&self, lane: Lane, doing: &str, request: impl Fn() -> RequestBuilder) -> Result<Answer, Error> {
        let started = Instant::now();
        let mut tries = 0;
        loop {
            let permit = self.budget.acquire(lane).await.map_err(|refused| self.refused(doing, refused))?;
            let outcome = self.try_once(request()).await;
            permit.report(&match &outcome {
                Ok(answer) => of_status(answer.status, answer.retry_after),
                Err(failed) => of_failure(&failed.kind),
            });
            let wait = match &outcome {
                Ok(answer) if matches!(answer.status.as_u16(), 429 | 502..=504) => {
                    Some(answer.retry_after.unwrap_or_default())
                }
                Err(NoAnswer { dropped: true, .. }) => Some(Duration::ZERO),
                _ => None,
            };
            let wait = wait.filter(|wait| *wait <= MAX_WAIT);
            let in_time = tries < RETRIES && started.elapsed() <= RETRY_WINDOW;
            let Some(wait) = wait.filter(|_| in_time) else {
                return outcome.map_err(|failed| self.error(doing, failed.kind));
            };
            tokio::time::sleep(wait.max(backoff(tries))).await;
            tries += 1;
        }
    }

    async fn try_once(&self, request: RequestBuilder) -> Result<Answer, NoAnswer> {
        let no_answer = |error: reqwest::Error| unreachable(&error, self.url.is_loopback());
        let response = request.send().await.map_err(|error| NoAnswer {
            dropped: !error.is_connect() && !error.is_timeout(),
            kind: no_answer(error),
        })?;
        Answer::read(response).await.map_err(|error| NoAnswer {
            kind: match error {
                ReadError::TooLarge => ErrorKind::TooLarge,
                ReadError::Cut(error) => no_answer(error),
            },
            dropped: false,
        })
    }
}

/// What an answer says of the server, and the word for it in metrics.
fn of_status(status: StatusCode, retry_after: Option<Duration>) -> Outcome {
    match status.as_u16() {
        429 => Outcome::Pause(retry_after),
        503 if retry_after.is_some() => Outcome::Pause(retry_after),
        // The latter are a proxy's words for an origin that does not answer.
        502..=504 | 520..=530 => Outcome::Dead(ErrorKind::Server { status: status.as_u16() }, "server_error"),
        500..=599 => Outcome::Answered("server_error"),
        401 => Outcome::Answered("unauthorized"),
        403 => Outcome::Answered("forbidden"),
        404 => Outcome::Answered("not_found"),
        400..=499 => Outcome::Answered("rejected"),
        _ => Outcome::Answered("ok"),
    }
}

fn of_failure(kind: &ErrorKind) -> Outcome {
    match kind {
        ErrorKind::TooLarge => Outcome::Answered("too_large"),
        // Whom one trusts is the matter of each who talks to it.
        ErrorKind::Unreachable { hint: Some(HINT_NOT_TRUSTED) } => Outcome::Aside("unreachable"),
        kind => Outcome::Dead(kind.clone(), "unreachable"),
    }
}

/// The HTTP clients, for requests and for streams, and the id under which CSRF tokens are fetched; or what is wrong.
fn connect(url: &ApiUrl, auth: &Auth, ca_bundle: Option<&[u8]>) -> Result<(Http, Http, HeaderValue), &'static str> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err("the process has no TLS provider; install one before connecting");
    }
    let certificates = match ca_bundle {
        Some(pem) => Certificate::from_pem_bundle(pem)
            .ok()
            .filter(|found| !found.is_empty())
            .ok_or("spec.api.caBundle holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")?,
        None => Vec::new(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(value) = authorization(auth)? {
        headers.insert(AUTHORIZATION, value);
    }
    let builder = || {
        Http::builder()
            .user_agent(USER_AGENT)
            .default_headers(headers.clone())
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
    };
    let build = |with: fn(ClientBuilder) -> ClientBuilder| {
        // Plain HTTP needs no certificates, and the platform's take room in each client; redirects are not followed.
        let trusting = if url.is_https() || is_proxied_by_tls() {
            with(builder()).tls_certs_merge(certificates.clone())
        } else {
            with(builder()).tls_certs_only([])
        };
        trusting.build().map_err(|_| match ca_bundle {
            Some(_) => "the CA bundle holds something that is no certificate",
            None => "no trusted certificates were found; set spec.api.caBundle",
        })
    };
    let http = build(|builder| builder.timeout(TOTAL_TIMEOUT).gzip(true))?;
    let streaming = build(|builder| builder.http1_only().gzip(false))?;
    let client_id = HeaderValue::try_from(Uuid::new_v4().to_string()).map_err(|_| "no client id could be made")?;
    Ok((http, streaming, client_id))
}

/// Whether plain HTTP may go through a proxy that is spoken to by TLS.
fn is_proxied_by_tls() -> bool {
    let proxies = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].into_iter().filter_map(std::env::var_os);
    proxies.into_iter().any(|proxy| proxy.to_string_lossy().starts_with("https://"))
}

/// The secret as the stream of events wants it: as it is, not encoded.
fn token(auth: &Auth) -> Option<SecretString> {
    match auth {
        Auth::None => None,
        Auth::ApiKey(key) => Some(key.expose_secret().trim().into()),
        Auth::AuthString(pair) => Some(pair.expose_secret().trim_end_matches(['\r', '\n']).into()),
    }
}

fn authorization(auth: &Auth) -> Result<Option<HeaderValue>, &'static str> {
    let text = match auth {
        Auth::None => return Ok(None),
        Auth::ApiKey(key) => match key.expose_secret().trim() {
            "" => return Err("the API key is empty"),
            key => Zeroizing::new(format!("Bearer {key}")),
        },
        Auth::AuthString(pair) => match pair.expose_secret().trim_end_matches(['\r', '\n']) {
            "" => return Err("the auth string is empty"),
            pair => {
                let encoded = Zeroizing::new(BASE64.encode(pair));
                Zeroizing::new(format!("Basic {}", *encoded))
            }
        },
    };
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| "the API key holds characters that no key has; store it again")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Three times as long at every try, and up to twice that, so that clients don't come in step.
fn backoff(tries: u32) -> Duration {
    let base = FIRST_BACKOFF * 3u32.pow(tries);
    base + base.mul_f64(random())
}
