//! The channel: how carriers reach us. Those of our own browser connect to a loopback listener, one WebSocket
//! each; those of a browser elsewhere cannot, and speak over the link (see `link::binding`).
//!
//! [`Loopback::expect`] hands out an address that one page of one origin may use once; the [`Carrier`] that
//! comes out of the [`Invitation`] performs exchanges. What travels is none of this file's business.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use super::carrier::{Carrier, lock};
use super::link::{BINDING, Bound};
use crate::pipe::Ledger;

/// Bytes of body that the page may send for an exchange before it must wait: full speed needs about 64 KB.
pub const CREDIT: usize = 256 * 1024;
/// The most bytes that the page asks of one read.
const CHUNK: usize = 64 * 1024;
/// The page's gathering buffer, and so the largest message from it.
const PAGE_BUFFER: usize = 128 * 1024;
/// The most that is read from a carrier's socket at once.
const READ_BUFFER: usize = 32 * 1024;
/// How long a connection may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How much may be held for clients that read slowly.
#[derive(Clone, Debug)]
pub struct BufferLimits {
    /// Bytes for one exchange.
    pub exchange: usize,
    /// Bytes for all exchanges together.
    pub total: usize,
    /// How long a client may take nothing while its buffer is full.
    pub patience: Duration,
}

impl Default for BufferLimits {
    fn default() -> Self {
        BufferLimits { exchange: 4 << 20, total: 64 << 20, patience: Duration::from_secs(10) }
    }
}

struct Expected {
    origin: String,
    generation: u64,
    ready: oneshot::Sender<Carrier>,
}

struct Shared {
    expected: Mutex<HashMap<String, Expected>>,
    limits: BufferLimits,
    ledger: Arc<Ledger>,
}

/// How carriers reach us.
pub enum Channel {
    /// Each by a WebSocket to our own listener.
    Loopback(Loopback),
    /// Each by the link that it was opened over.
    Link(OverLink),
}

impl Channel {
    /// Bytes that are held for clients right now.
    pub fn buffered(&self) -> usize {
        match self {
            Channel::Loopback(it) => it.shared.ledger.total(),
            Channel::Link(it) => it.ledger.total(),
        }
    }
}

/// For carriers that speak over the link.
pub struct OverLink {
    limits: BufferLimits,
    ledger: Arc<Ledger>,
}

impl OverLink {
    /// With these limits for all of them.
    pub fn new(limits: BufferLimits) -> OverLink {
        OverLink { limits, ledger: Arc::default() }
    }

    /// The script for the carrier's document to evaluate.
    pub fn script(&self) -> String {
        script(&serde_json::json!({ "binding": BINDING }))
    }

    /// The carrier of a page that has said something.
    pub(super) fn carrier<O, I>(&self, bound: Bound<O, I>, generation: u64) -> Carrier
    where
        O: Sink<Bytes, Error: Display> + Unpin + Send + 'static,
        I: Stream<Item = Result<Bytes, String>> + Unpin + Send + 'static,
    {
        Carrier::start(
            bound.outlet,
            bound.inlet,
            (generation, true),
            self.limits.clone(),
            self.ledger.clone(),
        )
    }
}

/// The carrier's script, for a channel that is as `way` says.
fn script(way: &serde_json::Value) -> String {
    let mut config = serde_json::json!({ "credit": CREDIT, "chunk": CHUNK, "buffer": PAGE_BUFFER });
    if let (Some(config), Some(way)) = (config.as_object_mut(), way.as_object()) {
        config.extend(way.clone());
    }
    format!("{}({config})", include_str!("carrier.js").trim_end())
}

/// The listener that carriers connect to.
pub struct Loopback {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _accepting: DropGuard,
}

/// A carrier that has not connected yet. Dropping it takes its address back.
pub struct Invitation {
    path: String,
    addr: SocketAddr,
    shared: Arc<Shared>,
    ready: oneshot::Receiver<Carrier>,
}

impl Loopback {
    /// Listens on a loopback port that the system picks.
    pub async fn bind(limits: BufferLimits) -> io::Result<Loopback> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let shared =
            Arc::new(Shared { expected: Mutex::default(), limits, ledger: Arc::new(Ledger::default()) });
        let stop = CancellationToken::new();
        let accepting = accept(listener, shared.clone()).in_current_span();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Loopback { addr, shared, _accepting: stop.drop_guard() })
    }

    /// Prepares for one carrier of `origin`, to be known as `generation`.
    pub fn expect(&self, origin: &str, generation: u64) -> io::Result<Invitation> {
        let mut token = [0u8; 32];
        getrandom::fill(&mut token).map_err(io::Error::other)?;
        let path = token.iter().fold(String::from("/"), |path, byte| path + &format!("{byte:02x}"));
        let (ready, receiver) = oneshot::channel();
        let expected = Expected { origin: origin.to_owned(), generation, ready };
        lock(&self.shared.expected).insert(path.clone(), expected);
        Ok(Invitation { path, addr: self.addr, shared: self.shared.clone(), ready: receiver })
    }
}

impl Invitation {
    /// The script for the carrier's document to evaluate.
    pub fn script(&self) -> String {
        script(&serde_json::json!({ "url": self.url() }))
    }

    /// The address that the carrier connects to; good for one connection.
    pub fn url(&self) -> String {
        format!("ws://{}{}", self.addr, self.path)
    }

    /// Waits until the carrier has connected. `None` if it connected and was turned away.
    pub async fn accepted(mut self) -> Option<Carrier> {
        (&mut self.ready).await.ok()
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        lock(&self.shared.expected).remove(&self.path);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let welcome = tokio::time::timeout(HANDSHAKE, welcome(stream, shared.clone()));
                tokio::spawn(welcome.in_current_span());
            }
            Err(error) => {
                // Out of descriptors, most likely: nothing to gain from trying again at once.
                tracing::warn!(%error, "the channel cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What a message of the socket brings, if anything.
fn payload(message: Result<Message, tungstenite::Error>) -> Option<Result<Bytes, String>> {
    match message {
        Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
        Ok(Message::Close(_)) => Some(Err("the page closed the channel".into())),
        Ok(_) => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

async fn welcome(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut found = None;
    #[allow(clippy::result_large_err)]
    let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let origin = request.headers().get("origin").and_then(|value| value.to_str().ok());
        let mut expected = lock(&shared.expected);
        match expected.remove(request.uri().path()) {
            Some(it) if origin == Some(it.origin.as_str()) => {
                found = Some(it);
                Ok(response)
            }
            _ => {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = http::StatusCode::FORBIDDEN;
                Err(refusal)
            }
        }
    };
    let config = WebSocketConfig::default()
        // Filled with zeros before each read, so no larger than pays.
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(2 * PAGE_BUFFER))
        .max_frame_size(Some(2 * PAGE_BUFFER));
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(config)).await;
    match (socket, found) {
        (Ok(socket), Some(expected)) => {
            let limits = shared.limits.clone();
            let (sink, stream) = socket.split();
            // Made of functions, not boxed: this is the hot path, and costs nothing so.
            let outlet = sink.with(|bytes: Bytes| ready(Ok::<_, tungstenite::Error>(Message::Binary(bytes))));
            let inlet = stream.filter_map(|message| ready(payload(message)));
            let carrier =
                Carrier::start(outlet, inlet, (expected.generation, false), limits, shared.ledger.clone());
            // If nobody waits any more, the handle drops here and the socket closes.
            let _ = expected.ready.send(carrier);
        }
        _ => tracing::warn!("refused a connection to the channel that was not a carrier's"),
    }
}
