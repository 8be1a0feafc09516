//! Prefect's events over a websocket: what changed, within milliseconds, and nothing to rely on.
//!
//! An event precedes the commit of what it announces, may announce what is never committed, and may be lost: whoever
//! hears one looks for itself. The payload of a variable's event holds its value; only names and ids are read.

use std::borrow::Cow;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use reqwest::StatusCode;
use reqwest_websocket::{Bytes, CloseCode, Message, UpgradeResponse, WebSocket};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};
use tungstenite::protocol::WebSocketConfig;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::transport::UpgradeError;
use super::{Client, Error, ErrorKind};

/// How long connecting, authenticating and subscribing may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After this much silence the server is asked whether it is there, and after this much more it is not.
const PING_AFTER: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(40);
/// The largest message that is read, in bytes. An event is a few thousand.
const MAX_MESSAGE: usize = 1024 * 1024;
/// The subprotocol without which a server does not ask who we are.
const SUBPROTOCOL: &str = "prefect";
/// Earlier servers have the stream, but announce neither blocks nor variables.
const FIRST_VERSION: [u64; 3] = [3, 7, 4];
/// Without an end the server takes the present for it, and sends nothing.
const UNTIL: &str = "2999-12-31T23:59:59Z";
const SINCE: &str = "2000-01-01T00:00:00Z";
const BLOCK: &str = "prefect.block-document.";
const BLOCK_TYPE: &str = "prefect.block-type.";
const VARIABLE: &str = "prefect.variable.";

/// What an event announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something about a block, whatever its type.
    Block {
        /// The id of the document.
        id: Uuid,
        /// Its name; after a rename the new one.
        name: String,
    },
    /// Something about a variable.
    Variable {
        /// Its id.
        id: Uuid,
        /// Its name; after a rename the new one.
        name: String,
    },
    /// Something that names no document, such as the end of a block type: anything may have changed.
    Unknown,
}

/// Why no events are heard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// The server has no such stream: Prefect before 3.7.4, or it is turned off.
    #[error("the server has no stream of events")]
    Unsupported,
    /// The credentials may not listen.
    #[error("these credentials may not listen to events")]
    NotPermitted,
    /// It is cut, silent or out of reach: another try may help.
    #[error("the stream of events {0}")]
    Broken(&'static str),
}

/// An open stream. Dropping it closes the connection.
pub struct Events {
    socket: WebSocket,
    heard: Instant,
    /// When the server was asked whether it is there, and has not answered since.
    pinged: Option<Instant>,
}

impl Client {
    /// Opens the stream of events about blocks, block types and variables. What happened before is not heard.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn events(&self) -> Result<Events, EventsError> {
        // Cloud does not say which version it is.
        if let Some(version) = self.server_version().await.map_err(|error| unreachable(&error))?
            && is_before(&version, FIRST_VERSION)
        {
            return Err(EventsError::Unsupported);
        }
        let response = self.transport().upgrade(&["events", "out"], SUBPROTOCOL, config()).await;
        let response = response.map_err(|error| match error {
            UpgradeError::NotNow => EventsError::Broken("has to wait"),
            UpgradeError::Unreachable => EventsError::Broken("can't be reached"),
        })?;
        let greeting = async { self.greet(accept(response).await?).await };
        timeout(HANDSHAKE, greeting).await.unwrap_or(Err(EventsError::Broken("does not open in time")))
    }

    async fn greet(&self, mut socket: WebSocket) -> Result<Events, EventsError> {
        let token = self.transport().token().map(|token| token.expose_secret());
        // One copy, which goes to the connection; what its buffers keep can't be wiped.
        let hello = serde_json::to_string(&Hello { kind: "auth", token });
        send(&mut socket, hello.map_err(|_| EventsError::Broken("can't be asked for"))?).await?;
        let answer = receive(&mut socket).await?;
        if kind_of(&answer).as_deref() != Some("auth_success") {
            return Err(EventsError::Broken("is not as agreed"));
        }
        let filter = json!({"type": "filter", "backfill": false, "filter": {
            "event": {"prefix": [BLOCK, BLOCK_TYPE, VARIABLE]},
            "occurred": {"since": SINCE, "until": UNTIL},
        }});
        send(&mut socket, filter.to_string()).await?;
        Ok(Events { socket, heard: Instant::now(), pinged: None })
    }
}

impl Events {
    /// The next change. It may be dropped and called again: no event is lost by that.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn next(&mut self) -> Result<Change, EventsError> {
        loop {
            let deadline = self.pinged.map_or(self.heard + PING_AFTER, |pinged| pinged + SILENCE);
            let message = match timeout_at(deadline, self.socket.next()).await {
                Ok(message) => message,
                Err(_) if self.pinged.is_some() => return Err(EventsError::Broken("is silent")),
                Err(_) => {
                    let ping = self.socket.send(Message::Ping(Bytes::new()));
                    match timeout(HANDSHAKE, ping).await {
                        Ok(Ok(())) => self.pinged = Some(Instant::now()),
                        _ => return Err(EventsError::Broken("is cut")),
                    }
                    continue;
                }
            };
            (self.heard, self.pinged) = (Instant::now(), None);
            match message {
                Some(Ok(Message::Text(text))) => {
                    let text = Zeroizing::new(text);
                    if let Some(change) = read(&text) {
                        return Ok(change);
                    }
                }
                Some(Ok(Message::Close { code: CloseCode::Policy, .. })) => return Err(EventsError::NotPermitted),
                Some(Ok(Message::Close { .. })) | None => return Err(EventsError::Broken("was closed")),
                Some(Ok(_)) => {}
                Some(Err(_)) => return Err(EventsError::Broken("is cut")),
            }
        }
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE))
}

async fn accept(response: UpgradeResponse) -> Result<WebSocket, EventsError> {
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            response.into_websocket().await.map_err(|_| EventsError::Broken("is not as agreed"))
        }
        StatusCode::UNAUTHORIZED => Err(EventsError::NotPermitted),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(EventsError::Broken("can't be opened now")),
        status if status.is_server_error() => Err(EventsError::Broken("can't be opened now")),
        // Also 403: so a server answers that does not know the path.
        _ => Err(EventsError::Unsupported),
    }
}

fn unreachable(error: &Error) -> EventsError {
    match error.kind {
        ErrorKind::Unauthorized | ErrorKind::Forbidden => EventsError::NotPermitted,
        _ => EventsError::Broken("can't be reached"),
    }
}

async fn send(socket: &mut WebSocket, text: String) -> Result<(), EventsError> {
    socket.send(Message::Text(text)).await.map_err(|_| EventsError::Broken("is cut"))
}

/// The next text.
async fn receive(socket: &mut WebSocket) -> Result<Zeroizing<String>, EventsError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(Zeroizing::new(text)),
            Some(Ok(Message::Close { code: CloseCode::Policy, .. })) => return Err(EventsError::NotPermitted),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => {}
            Some(Ok(Message::Close { .. }) | Err(_)) | None => return Err(EventsError::Broken("is cut")),
        }
    }
}

#[derive(Serialize)]
struct Hello<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    token: Option<&'a str>,
}

#[derive(Deserialize)]
struct MessageWire<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    event: Option<EventWire<'a>>,
}

#[derive(Deserialize)]
struct EventWire<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    resource: ResourceWire<'a>,
}

#[derive(Deserialize)]
struct ResourceWire<'a> {
    #[serde(rename = "prefect.resource.id", borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "prefect.resource.name", borrow, default)]
    name: Cow<'a, str>,
}

fn kind_of(text: &str) -> Option<String> {
    serde_json::from_str::<MessageWire<'_>>(text).ok().map(|message| message.kind.into_owned())
}

/// What a message announces, if anything that matters here.
fn read(text: &str) -> Option<Change> {
    let Ok(message) = serde_json::from_str::<MessageWire<'_>>(text) else { return Some(Change::Unknown) };
    if message.kind != "event" {
        return None;
    }
    let Some(EventWire { event, resource }) = message.event else { return Some(Change::Unknown) };
    let id = |prefix: &str| resource.id.strip_prefix(prefix).and_then(|id| Uuid::parse_str(id).ok());
    let name = resource.name.clone().into_owned();
    if event.starts_with(BLOCK) {
        return Some(id(BLOCK).map_or(Change::Unknown, |id| Change::Block { id, name }));
    }
    if event.starts_with(VARIABLE) {
        return Some(id(VARIABLE).map_or(Change::Unknown, |id| Change::Variable { id, name }));
    }
    // A server registers its block types when it starts; only their end takes blocks with it.
    event.starts_with(BLOCK_TYPE).then_some(Change::Unknown).filter(|_| event.ends_with("deleted"))
}

/// Whether a version such as `3.7.3.dev1` is before another. One that is not understood is not.
fn is_before(version: &str, other: [u64; 3]) -> bool {
    let numbers: Vec<u64> = version.split('.').map_while(|part| part.parse().ok()).take(3).collect();
    !numbers.is_empty() && numbers.as_slice() < &other[..numbers.len()]
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
