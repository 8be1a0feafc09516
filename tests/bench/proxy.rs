//! Counts what is asked of Prefect, and can keep its events from being heard. It looks at the heads of HTTP/1.1
//! requests and copies everything else, websockets included.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};

const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A running proxy.
#[derive(Clone)]
pub struct CountingProxy {
    port: u16,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    events: Arc<AtomicBool>,
}

impl CountingProxy {
    /// Starts in front of the server at `127.0.0.1:upstream`.
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let proxy = Self { port, counts: Arc::default(), events: Arc::new(AtomicBool::new(true)) };
        let shared = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = shared.clone();
                tokio::spawn(async move {
                    // Either side may go away at any time.
                    let _ = proxy.serve(client, upstream).await;
                });
            }
        });
        proxy
    }

    /// What `spec.api.url` should hold.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/api", self.port)
    }

    /// Whether the stream of events may be opened from now on.
    pub fn allow_events(&self, allow: bool) {
        self.events.store(allow, Ordering::Relaxed);
    }

    /// Requests so far, by kind.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn serve(&self, client: TcpStream, upstream: u16) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let (mut from_client, mut to_client) = client.into_split();
        let mut buffer = Vec::with_capacity(64 * 1024);
        let Some(mut head) = Head::read(&mut from_client, &mut buffer).await? else { return Ok(()) };
        // A websocket has a connection of its own, so it is the first request on it.
        if head.is_websocket && !self.events.load(Ordering::Relaxed) {
            self.count(&head);
            return to_client.write_all(NOT_FOUND).await;
        }
        let server = TcpStream::connect(("127.0.0.1", upstream)).await?;
        server.set_nodelay(true)?;
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            let _ = to_client.shutdown().await;
        });
        loop {
            self.count(&head);
            if head.is_websocket {
                to_server.write_all(&buffer).await?;
                tokio::io::copy(&mut from_client, &mut to_server).await?;
                return to_server.shutdown().await;
            }
            while buffer.len() < head.total {
                if from_client.read_buf(&mut buffer).await? == 0 {
                    return to_server.shutdown().await;
                }
            }
            to_server.write_all(&buffer[..head.total]).await?;
            buffer.drain(..head.total);
            match Head::read(&mut from_client, &mut buffer).await? {
                Some(next) => head = next,
                None => return to_server.shutdown().await,
            }
        }
    }

    fn count(&self, head: &Head) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(head.kind.to_owned()).or_default() += 1;
    }
}

/// The head of a request, which is the first in the buffer.
struct Head {
    kind: &'static str,
    is_websocket: bool,
    /// Its length and its body's.
    total: usize,
}

impl Head {
    async fn read(from: &mut OwnedReadHalf, buffer: &mut Vec<u8>) -> std::io::Result<Option<Self>> {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if from.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
        let length = head.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let body = length.and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or_default();
        let is_websocket = head.contains("\r\nupgrade: websocket");
        Ok(Some(Self { kind: kind(path), is_websocket, total: end + body }))
    }
}

fn kind(path: &str) -> &'static str {
    match path {
        path if path.ends_with("/filter") => "read a batch",
        path if path.contains("/block_documents/name/") || path.contains("/variables/name/") => "read one by name",
        path if path.ends_with("/events/out") => "open the stream of events",
        path if path.contains("csrf") => "fetch a CSRF token",
        _ => "check the server",
    }
}
