//! The channel: one loopback WebSocket between each carrier and us.
//!
//! [`Channel`] listens; [`Channel::expect`] hands out an address that one carrier may use once; the
//! [`Carrier`] that comes out performs exchanges. Two tasks serve a carrier, whatever the number of
//! exchanges: a reader that takes every frame at once into the exchange's [`Pipe`] (so that one slow
//! client never holds up another), and a writer that interleaves requests, credits and cancels.
//!
//! A carrier is one generation: its exchanges live in its own table, so a frame can never reach an
//! exchange of another one, and when its socket goes, all of them end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::frame::{self, FromPage, PageFailure};
use crate::error::{Fault, FaultKind};
use crate::exchange::{Exchange, PageRequest, Valve};
use crate::flow::Window;
use crate::pipe::{Ledger, Pipe};

/// Bytes of body that the page may send for an exchange before it must wait: full speed needs about 64 KB.
pub const CREDIT: usize = 256 * 1024;
/// The most bytes that the page asks of one read.
const CHUNK: usize = 64 * 1024;
/// The page's gathering buffer, and so the largest message from it.
const PAGE_BUFFER: usize = 128 * 1024;
/// The largest piece of a request body in one message; pieces of several uploads take turns.
const PIECE: usize = 64 * 1024;
/// How long a connection may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often readers that stand still are looked for.
const SWEEP: Duration = Duration::from_secs(1);

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

type Socket = WebSocketStream<TcpStream>;

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

/// The listener that carriers connect to.
pub struct Channel {
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

impl Channel {
    /// Listens on a loopback port that the system picks.
    pub async fn bind(limits: BufferLimits) -> io::Result<Channel> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let shared =
            Arc::new(Shared { expected: Mutex::default(), limits, ledger: Arc::new(Ledger::default()) });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, shared.clone())));
        Ok(Channel { addr, shared, _accepting: stop.drop_guard() })
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

    /// Bytes that are held for clients right now.
    pub fn buffered(&self) -> usize {
        self.shared.ledger.total()
    }
}

impl Invitation {
    /// The script for the carrier's document to evaluate.
    pub fn script(&self) -> String {
        let config = serde_json::json!({
            "url": self.url(), "credit": CREDIT, "chunk": CHUNK, "buffer": PAGE_BUFFER,
        });
        format!("{}({config})", include_str!("carrier.js").trim_end())
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
                tokio::spawn(tokio::time::timeout(HANDSHAKE, welcome(stream, shared.clone())));
            }
            Err(error) => {
                // Out of descriptors, most likely: nothing to gain from trying again at once.
                tracing::warn!(%error, "the channel cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
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
        .read_buffer_size(PAGE_BUFFER)
        .max_message_size(Some(2 * PAGE_BUFFER))
        .max_frame_size(Some(2 * PAGE_BUFFER));
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(config)).await;
    match (socket, found) {
        (Ok(socket), Some(expected)) => {
            let carrier = Carrier::start(socket, expected.generation, &shared);
            // If nobody waits any more, the handle drops here and the socket closes.
            let _ = expected.ready.send(carrier);
        }
        _ => tracing::warn!("refused a connection to the channel that was not a carrier's"),
    }
}

enum Out {
    Request(u32, PageRequest, Arc<Pipe>),
    Credit(u32, u32),
    Cancel(u32),
    Echo(u32),
}

struct Inner {
    generation: u64,
    out: mpsc::UnboundedSender<Out>,
    next: AtomicU32,
    exchanges: Mutex<HashMap<u32, Arc<Pipe>>>,
    echoes: Mutex<HashMap<u32, oneshot::Sender<()>>>,
    redirects: Mutex<Redirects>,
    closed: CancellationToken,
    limits: BufferLimits,
    ledger: Arc<Ledger>,
}

/// Redirects to other origins that the browser stopped, by the address that was fetched.
#[derive(Default)]
struct Redirects {
    /// Where they led, as far as the link has told.
    known: HashMap<String, String>,
    /// Exchanges that the page says were stopped, and whose target is not known yet.
    waiting: HashMap<String, Vec<Arc<Pipe>>>,
}

/// A connected carrier. Clones are handles to the same one; the last handle that drops closes it.
#[derive(Clone)]
pub struct Carrier {
    inner: Arc<Inner>,
    _close: Arc<DropGuard>,
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carrier").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Carrier {
    fn start(socket: Socket, generation: u64, shared: &Shared) -> Carrier {
        let (out, commands) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            generation,
            out,
            next: AtomicU32::new(1),
            exchanges: Mutex::default(),
            echoes: Mutex::default(),
            redirects: Mutex::default(),
            closed: CancellationToken::new(),
            limits: shared.limits.clone(),
            ledger: shared.ledger.clone(),
        });
        let (sink, stream) = socket.split();
        tokio::spawn(serve(inner.clone(), sink, stream, commands));
        let close = Arc::new(inner.closed.clone().drop_guard());
        Carrier { inner, _close: close }
    }

    /// The number of this carrier, larger than that of every one before it.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Exchanges that are running in it.
    pub fn running(&self) -> usize {
        lock(&self.inner.exchanges).len()
    }

    /// Starts a request. The exchange's faults say whether it may have been sent.
    pub fn fetch(&self, request: PageRequest) -> Exchange {
        let inner = &self.inner;
        let id = inner.next.fetch_add(1, Ordering::Relaxed);
        let window = Window::new(CREDIT, inner.limits.exchange);
        let pipe = Arc::new(Pipe::new(window, inner.ledger.clone(), Instant::now()));
        lock(&inner.exchanges).insert(id, pipe.clone());
        // Checked after the insert: whoever closes the carrier ends what it finds in the table after that.
        if inner.closed.is_cancelled() || inner.out.send(Out::Request(id, request, pipe.clone())).is_err() {
            lock(&inner.exchanges).remove(&id);
            pipe.finish(Err(lost(&pipe, "the carrier was closed")));
        }
        Exchange::new(id, pipe, inner.clone())
    }

    /// A round trip to the page's event loop and back. Pending for as long as the page does not answer.
    pub async fn echo(&self) -> bool {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = oneshot::channel();
        lock(&self.inner.echoes).insert(id, answered);
        let sent = self.inner.out.send(Out::Echo(id)).is_ok();
        let ok = sent && answer.await.is_ok();
        lock(&self.inner.echoes).remove(&id);
        ok
    }

    /// The browser stopped a redirect of our fetch of `from` on its way to the origin `to`. It tells the page
    /// only that it was stopped, and us, over the link, where it led: the two meet here.
    pub fn redirect_stopped(&self, from: String, to: String) {
        let mut redirects = lock(&self.inner.redirects);
        for pipe in redirects.waiting.remove(&from).unwrap_or_default() {
            pipe.finish(Err(redirected_away(Some(&to))));
        }
        redirects.known.insert(from, to);
    }

    /// Closes the socket; the page stops its fetches, and exchanges still in it fail.
    pub fn close(&self) {
        self.inner.closed.cancel();
    }

    /// Whether the socket is gone.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.is_cancelled()
    }

    /// Resolves when the socket is gone, for whatever reason.
    pub async fn closed(&self) {
        self.inner.closed.cancelled().await;
    }
}

impl Valve for Inner {
    fn grant(&self, id: u32, bytes: u32) {
        let _ = self.out.send(Out::Credit(id, bytes));
    }

    fn cancel(&self, id: u32) {
        if lock(&self.exchanges).remove(&id).is_some() {
            let _ = self.out.send(Out::Cancel(id));
        }
    }
}

/// Serves a carrier until either direction fails or it is closed, then ends what is left in it.
async fn serve(
    inner: Arc<Inner>,
    sink: SplitSink<Socket, Message>,
    stream: SplitStream<Socket>,
    commands: mpsc::UnboundedReceiver<Out>,
) {
    let cause = tokio::select! {
        cause = write(&inner, sink, commands) => cause,
        cause = read(&inner, stream) => cause,
        () = sweep(&inner) => String::new(),
        () = inner.closed.cancelled() => "closed by us".into(),
    };
    inner.closed.cancel();
    lock(&inner.echoes).clear();
    inner.settle_redirects();
    let left: Vec<_> = lock(&inner.exchanges).drain().collect();
    tracing::debug!(generation = inner.generation, %cause, exchanges = left.len(), "carrier closed");
    for (_, pipe) in left {
        let fault = lost(&pipe, &cause);
        pipe.finish(Err(fault));
    }
}

async fn read(inner: &Inner, mut stream: SplitStream<Socket>) -> String {
    while let Some(message) = stream.next().await {
        match message {
            Ok(Message::Binary(bytes)) => {
                if let Err(error) = deliver(inner, bytes, Instant::now()) {
                    tracing::error!(%error, generation = inner.generation, "the carrier broke the protocol");
                    return error;
                }
            }
            Ok(Message::Close(_)) => return "the page closed the channel".into(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
    "the channel was cut".into()
}

/// Hands every frame of a message to its exchange. Never waits.
fn deliver(inner: &Inner, message: Bytes, now: Instant) -> Result<(), String> {
    let size = message.len();
    let mut read_at = now;
    let mut exchanges = lock(&inner.exchanges);
    for frame in frame::decode(message) {
        match frame.map_err(|e| e.to_string())? {
            FromPage::Data(id, bytes) => {
                let Some(pipe) = exchanges.get(&id) else { continue };
                match pipe.data(bytes, size, read_at) {
                    Ok(Some(credit)) => inner.grant(id, credit),
                    Ok(None) => {}
                    Err(_) => return Err(format!("exchange {id} sent more than its credit")),
                }
            }
            FromPage::Head(id, head) => {
                if let Some(pipe) = exchanges.get(&id) {
                    pipe.head(head);
                }
            }
            FromPage::End(id) => {
                if let Some(pipe) = exchanges.remove(&id) {
                    pipe.finish(Ok(()));
                }
            }
            FromPage::Fail(id, failure) => {
                if let Some(pipe) = exchanges.remove(&id) {
                    inner.fail(pipe, failure);
                }
            }
            FromPage::Age(micros) => {
                read_at = now.checked_sub(Duration::from_micros(micros.into())).unwrap_or(now);
            }
            FromPage::Echo(id) => {
                if let Some(answered) = lock(&inner.echoes).remove(&id) {
                    let _ = answered.send(());
                }
            }
        }
    }
    if inner.ledger.total() > inner.limits.total {
        end_slowest(inner, &mut exchanges, now);
    }
    Ok(())
}

/// All slow readers together hold more than they may: the one that took nothing for longest goes.
fn end_slowest(inner: &Inner, exchanges: &mut HashMap<u32, Arc<Pipe>>, now: Instant) {
    let slowest = exchanges
        .iter()
        .filter_map(|(id, pipe)| pipe.waiting(now).map(|waited| (waited, *id)))
        .max()
        .map(|(_, id)| id);
    if let Some(pipe) = slowest.and_then(|id| exchanges.remove(&id).inspect(|_| inner.stop(id))) {
        pipe.abandon(slow("The proxy's memory for slow readers is used up"));
    }
}

impl Inner {
    fn stop(&self, id: u32) {
        let _ = self.out.send(Out::Cancel(id));
    }

    fn fail(&self, pipe: Arc<Pipe>, failure: PageFailure) {
        if failure.what != "redirect" {
            return pipe.finish(Err(failed(failure)));
        }
        let mut redirects = lock(&self.redirects);
        match redirects.known.get(&failure.message) {
            Some(to) => pipe.finish(Err(redirected_away(Some(to)))),
            None => redirects.waiting.entry(failure.message).or_default().push(pipe),
        }
    }

    /// Forgets redirects that have met, and ends those that the link said nothing about.
    fn settle_redirects(&self) {
        let redirects = std::mem::take(&mut *lock(&self.redirects));
        for pipe in redirects.waiting.into_values().flatten() {
            pipe.finish(Err(redirected_away(None)));
        }
    }
}

/// Ends exchanges whose client takes nothing while its buffer is full.
async fn sweep(inner: &Inner) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        inner.settle_redirects();
        let now = Instant::now();
        lock(&inner.exchanges).retain(|id, pipe| {
            let stuck = pipe.stalled(now).is_some_and(|stood| stood >= inner.limits.patience);
            if stuck {
                inner.stop(*id);
                pipe.abandon(slow("The answer was not read"));
            }
            !stuck
        });
    }
}

async fn write(
    inner: &Inner,
    mut sink: SplitSink<Socket, Message>,
    mut commands: mpsc::UnboundedReceiver<Out>,
) -> String {
    let mut uploads = Uploads::default();
    let mut batch = Vec::new();
    loop {
        // With an upload under way only take what is already there; otherwise wait for something to do.
        if uploads.is_empty() {
            if commands.recv_many(&mut batch, 256).await == 0 {
                return "closed by us".into();
            }
        } else {
            while let Ok(command) = commands.try_recv() {
                batch.push(command);
            }
        }
        let mut message = BytesMut::new();
        for command in batch.drain(..) {
            match command {
                Out::Credit(id, bytes) => frame::credit(&mut message, id, bytes),
                Out::Echo(id) => frame::echo(&mut message, id),
                Out::Cancel(id) => {
                    uploads.remove(id);
                    frame::cancel(&mut message, id);
                }
                Out::Request(id, request, pipe) => match frame::request(&mut message, id, &request) {
                    Ok(()) => uploads.add(id, request.body, pipe),
                    Err(error) => {
                        lock(&inner.exchanges).remove(&id);
                        pipe.finish(Err(internal(error)));
                    }
                },
            }
        }
        uploads.fill(&mut message);
        if let Err(error) = sink.send(Message::Binary(message.freeze())).await {
            return error.to_string();
        }
    }
}

/// Request bodies on their way into the page: they take turns, a message's worth at a time.
#[derive(Default)]
struct Uploads {
    queue: VecDeque<(u32, VecDeque<Bytes>, Arc<Pipe>)>,
}

impl Uploads {
    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn add(&mut self, id: u32, body: Vec<Bytes>, pipe: Arc<Pipe>) {
        let body: VecDeque<_> = body.into_iter().filter(|piece| !piece.is_empty()).collect();
        if body.is_empty() {
            pipe.mark_left();
        } else {
            self.queue.push_back((id, body, pipe));
        }
    }

    fn remove(&mut self, id: u32) {
        self.queue.retain(|(other, ..)| *other != id);
    }

    /// Adds pieces to `message` until it is full or nothing is left. The page starts a fetch when it has
    /// the whole body, so a request counts as sent from its last piece on, and not before.
    fn fill(&mut self, message: &mut BytesMut) {
        while message.len() < PIECE {
            let Some((id, mut body, pipe)) = self.queue.pop_front() else { return };
            if let Some(mut piece) = body.pop_front() {
                let part = piece.split_to(piece.len().min(PIECE));
                frame::body(message, id, &part);
                if !piece.is_empty() {
                    body.push_front(piece);
                }
            }
            if body.is_empty() {
                pipe.mark_left();
            } else {
                self.queue.push_back((id, body, pipe));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The tables are whole between any two statements, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost(pipe: &Pipe, cause: &str) -> Fault {
    let fault = Fault::new(FaultKind::PageLost, "The browser page was lost while it worked on this request.")
        .because(cause)
        .retry_after(Duration::from_secs(5));
    match pipe.sent() {
        crate::error::Sent::Maybe => fault.maybe_sent(),
        crate::error::Sent::No => fault,
    }
}

fn slow(what: &str) -> Fault {
    Fault::new(FaultKind::SlowReader, format!("{what}, so it was ended: read faster, or ask for less."))
        .maybe_sent()
}

fn internal(error: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Internal, "The proxy could not hand this request to the page.").because(error)
}

fn redirected_away(to: Option<&str>) -> Fault {
    let public = match to {
        Some(to) => {
            format!("The site redirected this request to {to}; requests go to the site's own origin only.")
        }
        None => "The site redirected this request to another origin, where requests never go.".into(),
    };
    Fault::new(FaultKind::RedirectedAway, public).maybe_sent()
}

fn failed(failure: PageFailure) -> Fault {
    let fault = match failure.what.as_str() {
        "request" => Fault::new(FaultKind::BadRequest, "The browser refused this request before sending it."),
        "head" => Fault::new(FaultKind::FetchFailed, "The site's answer has too many header bytes."),
        _ => Fault::new(FaultKind::FetchFailed, "The browser could not complete this request to the site."),
    };
    let fault = fault.because(failure.message);
    if failure.sent { fault.maybe_sent() } else { fault }
}
