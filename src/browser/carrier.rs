//! A carrier: one page that performs exchanges, seen from our end of its channel: a WebSocket, or whatever else
//! takes and brings messages.
//!
//! Two loops serve it, whatever the number of exchanges: a reader that takes every frame at once into the
//! exchange's [`Pipe`] (so that one slow client never holds up another), and the writer of
//! `outbox`.
//!
//! A carrier is one generation: its exchanges live in its own table, so a frame can never reach an
//! exchange of another one, and when its socket goes, all of them end.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Sink, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use super::channel::{BufferLimits, CREDIT};
use super::faults::{self, Redirects};
use super::frame::{self, FromPage};
use super::outbox::{self, Out};
use super::signs::Signs;
use super::state::Wear;
use crate::exchange::{Exchange, PageRequest, Valve};
use crate::flow::Window;
use crate::pipe::{Ledger, Pipe};

/// How often readers that stand still are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How often it is looked whether a page was heard of, while its answer to an echo is awaited.
const LISTEN: Duration = Duration::from_millis(500);
/// How long a client may take nothing of an answer whose end is here already.
const UNREAD_PATIENCE: Duration = Duration::from_secs(30);
/// So many readers may stand still at once, for as long as the limits say. Up to 6 MB of an answer that is not
/// read stay in the browser's network stack, where the site's whole connection has 15 MB, and the browser asks
/// for more only when half of that has been read: with two of them, every other stream soon stops.
const STILL: usize = 1;
/// How long the ones beyond that may.
const STILL_PATIENCE: Duration = Duration::from_secs(1);

struct Inner {
    generation: u64,
    is_far: bool,
    out: mpsc::UnboundedSender<Out>,
    next: AtomicU32,
    /// Exchanges begun so far.
    started: AtomicU64,
    signs: Signs,
    /// So many exchanges the site takes at once, as far as the page has seen.
    lanes: AtomicUsize,
    exchanges: Mutex<HashMap<u32, Arc<Pipe>>>,
    /// Answers that are here to their end, but not read to their end.
    unread: Mutex<Vec<Weak<Pipe>>>,
    echoes: Mutex<HashMap<u32, oneshot::Sender<()>>>,
    redirects: Mutex<Redirects>,
    closed: CancellationToken,
    limits: BufferLimits,
    ledger: Arc<Ledger>,
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
    /// One whose page takes messages by `outlet` and sends by `inlet`; an error in there is the end, and its text
    /// the cause. `is_far`: the way there may be slow.
    pub(super) fn start(
        outlet: impl Sink<Bytes, Error: Display> + Unpin + Send + 'static,
        inlet: impl Stream<Item = Result<Bytes, String>> + Unpin + Send + 'static,
        (generation, is_far): (u64, bool),
        limits: BufferLimits,
        ledger: Arc<Ledger>,
    ) -> Carrier {
        let (out, commands) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            generation,
            is_far,
            out,
            next: AtomicU32::new(1),
            started: AtomicU64::new(0),
            signs: Signs::new(Instant::now()),
            lanes: AtomicUsize::new(usize::MAX),
            exchanges: Mutex::default(),
            unread: Mutex::default(),
            echoes: Mutex::default(),
            redirects: Mutex::default(),
            closed: CancellationToken::new(),
            limits,
            ledger,
        });
        tokio::spawn(serve(inner.clone(), outlet, inlet, commands).in_current_span());
        let close = Arc::new(inner.closed.clone().drop_guard());
        Carrier { inner, _close: close }
    }

    /// The number of this carrier, larger than that of every one before it.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Whether the way to its page may be slow.
    pub fn is_far(&self) -> bool {
        self.inner.is_far
    }

    /// Exchanges that are running in it.
    pub fn running(&self) -> usize {
        lock(&self.inner.exchanges).len()
    }

    /// How many exchanges the browser lets through to the site at once, as far as this page has seen; more
    /// would wait inside the browser, where nobody sees them.
    pub fn lanes(&self) -> Option<usize> {
        Some(self.inner.lanes.load(Ordering::Relaxed)).filter(|it| *it < usize::MAX)
    }

    /// What it has done so far.
    pub fn wear(&self) -> Wear {
        let started = self.inner.started.load(Ordering::Relaxed);
        Wear { started, running: self.running(), quiet: self.inner.signs.quiet() }
    }

    /// Starts a request. The exchange's faults say whether it may have been sent.
    pub fn fetch(&self, request: PageRequest) -> Exchange {
        let inner = &self.inner;
        let id = inner.next.fetch_add(1, Ordering::Relaxed);
        inner.started.fetch_add(1, Ordering::Relaxed);
        let window = Window::new(CREDIT, inner.limits.exchange);
        let pipe = Pipe::new(window, inner.ledger.clone(), Instant::now());
        let pipe = Arc::new(pipe.asking(request.leaves.clone()));
        lock(&inner.exchanges).insert(id, pipe.clone());
        // Checked after the insert: whoever closes the carrier ends what it finds in the table after that.
        if inner.closed.is_cancelled() || inner.out.send(Out::Request(id, request, pipe.clone())).is_err() {
            lock(&inner.exchanges).remove(&id);
            pipe.finish(Err(faults::lost(&pipe, "the carrier was closed")));
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

    /// Waits for a sign of life: an answer to an echo, or, while much is on its way, anything at all. `false`: the
    /// channel is gone.
    pub async fn sign_of_life(&self) -> bool {
        let asked = Instant::now();
        let heard = async {
            let mut tick = tokio::time::interval(LISTEN);
            loop {
                tick.tick().await;
                if self.inner.signs.silence() < asked.elapsed().saturating_sub(LISTEN) {
                    return true;
                }
            }
        };
        tokio::select! {
            biased;
            answered = self.echo() => answered,
            heard = heard => heard,
        }
    }

    /// The browser stopped a redirect of our fetch of `from` on its way to the origin `to`. It tells the page
    /// only that it was stopped, and us, over the link, where it led: the two meet here.
    pub fn redirect_stopped(&self, from: String, to: String) {
        lock(&self.inner.redirects).led(from, to, Instant::now());
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
    outlet: impl Sink<Bytes, Error: Display> + Unpin,
    inlet: impl Stream<Item = Result<Bytes, String>> + Unpin,
    commands: mpsc::UnboundedReceiver<Out>,
) {
    let cause = tokio::select! {
        cause = outbox::write(outlet, commands, &inner.signs) => cause,
        cause = read(&inner, inlet) => cause,
        () = sweep(&inner) => String::new(),
        () = inner.closed.cancelled() => "closed by us".into(),
    };
    inner.closed.cancel();
    lock(&inner.echoes).clear();
    lock(&inner.redirects).give_up();
    let left: Vec<_> = lock(&inner.exchanges).drain().collect();
    tracing::debug!(generation = inner.generation, %cause, exchanges = left.len(), "carrier closed");
    for (_, pipe) in left {
        let fault = faults::lost(&pipe, &cause);
        pipe.finish(Err(fault));
    }
}

async fn read(inner: &Inner, mut inlet: impl Stream<Item = Result<Bytes, String>> + Unpin) -> String {
    while let Some(message) = inlet.next().await {
        match message {
            Ok(bytes) => {
                if let Err(error) = deliver(inner, bytes, Instant::now()) {
                    tracing::error!(%error, generation = inner.generation, "the carrier broke the protocol");
                    return error;
                }
            }
            Err(cause) => return cause,
        }
    }
    "the channel was cut".into()
}

/// Hands every frame of a message to its exchange. Never waits.
fn deliver(inner: &Inner, message: Bytes, now: Instant) -> Result<(), String> {
    let size = message.len();
    let mut read_at = now;
    let mut answered = false;
    let mut exchanges = lock(&inner.exchanges);
    for frame in frame::decode(message) {
        match frame.map_err(|e| e.to_string())? {
            FromPage::Data(id, bytes) => {
                answered = true;
                let Some(pipe) = exchanges.get(&id) else { continue };
                match pipe.data(bytes, size, read_at) {
                    Ok(Some(credit)) => inner.grant(id, credit),
                    Ok(None) => {}
                    Err(_) => return Err(format!("exchange {id} sent more than its credit")),
                }
            }
            FromPage::Head(id, head) => {
                answered = true;
                if let Some(pipe) = exchanges.get(&id) {
                    pipe.head(head);
                }
            }
            FromPage::End(id) => {
                if let Some(pipe) = exchanges.remove(&id) {
                    pipe.finish(Ok(()));
                    if pipe.waiting(now).is_some() {
                        lock(&inner.unread).push(Arc::downgrade(&pipe));
                    }
                }
            }
            FromPage::Fail(id, failure) => {
                if let Some(pipe) = exchanges.remove(&id) {
                    lock(&inner.redirects).fail(pipe, failure, now);
                }
            }
            FromPage::Age(micros) => {
                read_at = now.checked_sub(Duration::from_micros(micros.into())).unwrap_or(now);
            }
            FromPage::Got(id) => match exchanges.get(&id).map(|pipe| pipe.leave()) {
                Some(true) => {
                    let _ = inner.out.send(Out::Start(id));
                }
                Some(false) => {
                    exchanges.remove(&id);
                    inner.stop(id);
                }
                None => {}
            },
            FromPage::Lanes(lanes) => {
                let fewer = lanes as usize;
                if inner.lanes.fetch_min(fewer, Ordering::Relaxed) > fewer {
                    tracing::info!(
                        lanes,
                        "the site takes only so many requests at once: the others wait here"
                    );
                }
            }
            FromPage::Echo(id) => {
                if let Some(answered) = lock(&inner.echoes).remove(&id) {
                    let _ = answered.send(());
                }
            }
        }
    }
    inner.signs.note(now, answered);
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
        pipe.abandon(faults::slow("The proxy's memory for slow readers is used up"));
    }
}

impl Inner {
    fn stop(&self, id: u32) {
        let _ = self.out.send(Out::Cancel(id));
    }
}

/// Ends exchanges whose client takes nothing while its buffer is full.
async fn sweep(inner: &Inner) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        let now = Instant::now();
        lock(&inner.redirects).settle(now);
        lock(&inner.unread).retain(|pipe| {
            let Some((pipe, waited)) = pipe.upgrade().and_then(|it| Some((it.clone(), it.waiting(now)?)))
            else {
                return false; // read, or given up
            };
            let stuck = waited >= UNREAD_PATIENCE;
            if stuck {
                pipe.abandon(faults::slow("The answer was not read to its end"));
            }
            !stuck
        });
        let mut exchanges = lock(&inner.exchanges);
        let mut still: Vec<_> =
            exchanges.iter().filter_map(|(id, pipe)| Some((pipe.stalled(now)?, *id))).collect();
        still.sort_unstable_by(|a, b| b.cmp(a));
        let too_many = still.len().saturating_sub(STILL);
        for (n, (stood, id)) in still.into_iter().enumerate() {
            let is_over = stood >= inner.limits.patience || n < too_many && stood >= STILL_PATIENCE;
            if let Some(pipe) = is_over.then(|| exchanges.remove(&id)).flatten() {
                inner.stop(id);
                pipe.abandon(faults::slow("The answer was not read"));
            }
        }
    }
}

/// Locks one of our tables.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The tables are whole between any two statements, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
