//! A small proxy in front of a real Prefect or API server, for what a healthy server can't be made to do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

/// How the proxy behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the server behind it.
    Pass,
    /// As a server that may not show secrets: `include_secrets` is taken out of every request, so that the real
    /// server masks them.
    Masked,
    /// Answers every request so, without asking the server: status, further headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Answers requests whose path or body contains the text so, and passes the others.
    AnswerWhere(String, u16, String),
    /// Never answers requests whose path or body contains the text, and passes the others.
    HangWhere(String),
    /// Passes all requests, but sends no more of the answers to those whose path contains the text, also where an
    /// answer has begun, until it behaves in another way.
    StallWhere(String),
    /// Sends half an answer and cuts the connection.
    Cut,
    /// Takes the request and never answers.
    Hang,
    /// Answers after this long.
    Slow(Duration),
}

/// A request that came in.
struct Seen {
    /// Method and path.
    request: String,
    authorization: Option<String>,
    /// Of its answer, once there is one.
    status: Option<StatusCode>,
}

struct State {
    upstream: String,
    mode: watch::Sender<Mode>,
    seen: Mutex<Vec<Seen>>,
    client: reqwest::Client,
}

/// A running proxy; it ends with the async runtime that started it.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// Starts in front of `upstream`, a Prefect's base address such as `http://127.0.0.1:4200/api`.
    pub async fn start(upstream: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self::start_with(client, upstream.trim_end_matches("/api")).await
    }

    /// Starts in front of the server at `origin`, which that client reaches.
    pub async fn start_with(client: reqwest::Client, origin: &str) -> Self {
        let (mode, _) = watch::channel(Mode::Pass);
        let state = Arc::new(State { upstream: origin.to_owned(), mode, seen: Mutex::default(), client });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = state.clone();
        let app = axum::Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            handle(shared.clone(), method, uri, headers, body)
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { port, state }
    }

    /// What `spec.api.url` should hold.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/api", self.port)
    }

    /// `127.0.0.1:PORT`, as messages name it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Behaves so from now on.
    pub fn set(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
    }

    /// All requests so far, `POST /api/variables/filter` each.
    pub fn requests(&self) -> Vec<String> {
        self.state.seen().iter().map(|seen| seen.request.clone()).collect()
    }

    /// How many GET requests whose path contains the text there were so far.
    pub fn gets(&self, part: &str) -> usize {
        let is_one = |seen: &&Seen| seen.request.starts_with("GET ") && seen.request.contains(part);
        self.state.seen().iter().filter(is_one).count()
    }

    /// Those after the first `count` that were answered, without those that a busy server failed: they are asked again.
    pub fn answered_since(&self, count: usize) -> Vec<String> {
        let counts = |seen: &&Seen| seen.status.is_some_and(|status| !status.is_server_error());
        self.state.seen().iter().skip(count).filter(counts).map(|seen| seen.request.clone()).collect()
    }

    /// The `Authorization` of every request so far that had one.
    pub fn credentials(&self) -> Vec<String> {
        self.state.seen().iter().filter_map(|seen| seen.authorization.clone()).collect()
    }
}

impl State {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn handle(state: Arc<State>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let number = {
        let mut seen = state.seen();
        seen.push(Seen { request: format!("{method} {path}"), authorization, status: None });
        seen.len() - 1
    };
    let response = answer(&state, method, path, headers, body).await;
    state.seen()[number].status = Some(response.status());
    response
}

async fn answer(state: &State, method: Method, path: String, headers: HeaderMap, body: Bytes) -> Response {
    if headers.contains_key(header::UPGRADE) {
        // It passes requests only; so answers a server without a stream of events.
        return StatusCode::NOT_FOUND.into_response();
    }
    let mode = state.mode.borrow().clone();
    match mode {
        Mode::Pass | Mode::StallWhere(_) => forward(state, method, &path, headers, body).await,
        Mode::Masked => {
            let path = path.replace("include_secrets=true", "include_secrets=false");
            let text = String::from_utf8_lossy(&body).replace("\"include_secrets\":true", "\"include_secrets\":false");
            forward(state, method, &path, headers, text.into()).await
        }
        Mode::Answer(status, extra, text) => {
            let mut response = (StatusCode::from_u16(status).expect("a status"), text).into_response();
            for (name, value) in extra {
                response.headers_mut().insert(name, value.parse().expect("a header value"));
            }
            response
        }
        Mode::AnswerWhere(part, status, text) => {
            if path.contains(&part) || String::from_utf8_lossy(&body).contains(&part) {
                return (StatusCode::from_u16(status).expect("a status"), text).into_response();
            }
            forward(state, method, &path, headers, body).await
        }
        Mode::HangWhere(part) => {
            if path.contains(&part) || String::from_utf8_lossy(&body).contains(&part) {
                return std::future::pending().await;
            }
            forward(state, method, &path, headers, body).await
        }
        Mode::Cut => {
            let chunks = [Ok(Bytes::from_static(b"[{\"name\": \"ha")), Err(std::io::Error::other("cut"))];
            let body = Body::from_stream(futures::stream::iter(chunks));
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Mode::Hang => std::future::pending().await,
        Mode::Slow(delay) => {
            tokio::time::sleep(delay).await;
            forward(state, method, &path, headers, body).await
        }
    }
}

async fn forward(state: &State, method: Method, path: &str, mut headers: HeaderMap, body: Bytes) -> Response {
    for name in [header::HOST, header::CONTENT_LENGTH, header::ACCEPT_ENCODING, header::CONNECTION] {
        headers.remove(name);
    }
    let request = state.client.request(method, format!("{}{path}", state.upstream)).headers(headers).body(body);
    match request.send().await {
        Ok(answer) => {
            let status = answer.status();
            let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
            let mut response = (status, unless_stalled(state, path, answer)).into_response();
            if let Some(kind) = kind {
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            response
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// The rest of an answer, as it comes, but for what is held back.
fn unless_stalled(state: &State, path: &str, answer: reqwest::Response) -> Body {
    let begun = (answer, state.mode.subscribe(), path.to_owned());
    Body::from_stream(futures::stream::unfold(begun, async |(mut answer, mut modes, path)| {
        let chunk = answer.chunk().await.transpose()?;
        let _ = modes.wait_for(|mode| !matches!(mode, Mode::StallWhere(part) if path.contains(part))).await;
        Some((chunk, (answer, modes, path)))
    }))
}
