//! The bounded buffer between the page's frames and one client's body.
//!
//! The channel writes into a [`Pipe`], the [`Exchange`](crate::exchange::Exchange) reads from it. The
//! writer never waits: what a slow client leaves here is bounded by the [`Window`], and what all slow
//! clients leave together by the [`Ledger`]. Locks are held for a few instructions, never across an await.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::error::{Fault, FaultKind, Sent};
use crate::exchange::{Head, Leave, Leaves};
use crate::flow::{Overrun, Window};

/// A run of small pieces is handed on as one chunk of at most about this many bytes.
const CHUNK: usize = 64 * 1024;

/// A piece keeps the whole message that it came in alive, so only one that makes up a good part of its
/// message is kept as it is; smaller ones are copied together. This bounds the memory behind a buffered
/// byte to four bytes, and turns a flood of small events into few large writes.
const KEEP_PART: usize = 4;

/// Bytes buffered in all pipes together.
#[derive(Debug, Default)]
pub struct Ledger {
    total: AtomicUsize,
}

impl Ledger {
    /// Bytes buffered right now, over all exchanges.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn add(&self, n: usize) {
        self.total.fetch_add(n, Ordering::Relaxed);
    }

    fn sub(&self, n: usize) {
        self.total.fetch_sub(n, Ordering::Relaxed);
    }
}

/// A chunk of body on its way to the client.
#[derive(Debug)]
pub struct Taken {
    /// The bytes, never empty.
    pub bytes: Bytes,
    /// Credit to give back to the page now, if any.
    pub grant: Option<u32>,
    /// How long the oldest of these bytes was on its way, from the page's read to this moment.
    pub delay: Duration,
}

#[derive(Debug)]
struct State {
    head: Option<Head>,
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    window: Window,
    /// When the page read the oldest byte that is still here.
    oldest: Option<Instant>,
    /// When the client last took something, or the first byte arrived into an empty pipe.
    moved: Instant,
    end: Option<Result<(), Fault>>,
    reader: Option<Waker>,
    /// What is given back when the exchange is over, even if nobody looks.
    held: Vec<Box<dyn Any + Send>>,
}

/// One exchange's buffer; shared by its writer (the channel) and its reader (the exchange).
#[derive(Debug)]
pub struct Pipe {
    state: Mutex<State>,
    ledger: Arc<Ledger>,
    whereabouts: AtomicU8,
    leaves: Leaves,
}

/// Where a request is: with us, perhaps at the site, or taken back. The last two exclude each other.
const HERE: u8 = 0;
const LEFT: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Pipe {
    /// An empty pipe.
    pub fn new(window: Window, ledger: Arc<Ledger>, now: Instant) -> Pipe {
        let state = State {
            head: None,
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            window,
            oldest: None,
            moved: now,
            end: None,
            reader: None,
            held: Vec::new(),
        };
        Pipe { state: Mutex::new(state), ledger, whereabouts: AtomicU8::new(HERE), leaves: Leaves::default() }
    }

    /// Has `leaves` asked before the request leaves.
    pub fn asking(mut self, leaves: Leaves) -> Pipe {
        self.leaves = leaves;
        self
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request is let go: from now on it may have reached the site. `false` if it was withdrawn, or is now
    /// because it may not leave any more, and must not be.
    pub fn leave(&self) -> bool {
        if self.sent() == Sent::No
            && let Err(fault) = self.leaves.may_leave()
            && self.withdraw()
        {
            self.finish(Err(fault));
        }
        let was = self.whereabouts.compare_exchange(HERE, LEFT, Ordering::AcqRel, Ordering::Acquire);
        was != Err(WITHDRAWN)
    }

    /// Takes the request back, if it has not been let go; from now on it never will be.
    pub fn withdraw(&self) -> bool {
        let was = self.whereabouts.compare_exchange(HERE, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire);
        was != Err(LEFT)
    }

    /// Whether the request may have reached the site.
    pub fn sent(&self) -> Sent {
        if self.whereabouts.load(Ordering::Acquire) == LEFT { Sent::Maybe } else { Sent::No }
    }

    /// The answer's head arrived.
    pub fn head(&self, head: Head) {
        let mut s = self.lock();
        s.head = Some(head);
        wake(s);
    }

    /// A piece of the body arrived, in a message of `message` bytes, read by the page at `read_at`.
    /// Returns the credit to give back at once.
    pub fn data(&self, piece: Bytes, message: usize, read_at: Instant) -> Result<Option<u32>, Overrun> {
        let mut s = self.lock();
        let n = piece.len();
        if n == 0 || s.end.is_some() {
            return Ok(None); // cancelled meanwhile: late frames are dropped
        }
        s.window.received(n)?;
        self.ledger.add(n);
        if s.oldest.is_none() {
            s.oldest = Some(read_at);
            s.moved = read_at;
        }
        if n * KEEP_PART >= message {
            s.close_tail();
            s.chunks.push_back(piece);
        } else {
            s.tail.extend_from_slice(&piece);
            if s.tail.len() >= CHUNK {
                s.close_tail();
            }
        }
        let grant = s.window.grant();
        wake(s);
        Ok(grant)
    }

    /// The answer is complete, or failed. The first end counts; what is buffered is still delivered.
    pub fn finish(&self, end: Result<(), Fault>) {
        let mut s = self.lock();
        if s.end.is_none() {
            s.end = Some(end);
            wake(s);
        }
    }

    /// Keeps `it`, beside what is kept already, until [`Pipe::release`] or [`Pipe::abandon`]. A client that takes nothing may never be asked
    /// whether it wants more, so what it holds must not wait for that.
    pub fn hold(&self, it: Box<dyn Any + Send>) {
        self.lock().held.push(it);
    }

    /// Lets go of what is held.
    pub fn release(&self) {
        let held = std::mem::take(&mut self.lock().held);
        drop(held); // without the lock: it may wake somebody
    }

    /// Ends the exchange at once and lets go of what is buffered and held.
    pub fn abandon(&self, fault: Fault) {
        self.release();
        let mut s = self.lock();
        self.ledger.sub(s.clear());
        if !matches!(s.end, Some(Err(_))) {
            s.end = Some(Err(fault));
        }
        wake(s);
    }

    /// How long the client has taken nothing although the buffer is full; `None` while it keeps up.
    pub fn stalled(&self, now: Instant) -> Option<Duration> {
        let s = self.lock();
        (s.end.is_none() && s.window.is_full()).then(|| now.saturating_duration_since(s.moved))
    }

    /// How long the client has left bytes lying here, whatever their number; `None` if there are none.
    pub fn waiting(&self, now: Instant) -> Option<Duration> {
        let s = self.lock();
        (s.window.buffered() > 0).then(|| now.saturating_duration_since(s.moved))
    }

    /// Waits for the head, or the fault that came instead.
    pub fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<Head, Fault>> {
        let mut s = self.lock();
        if let Some(head) = s.head.take() {
            return Poll::Ready(Ok(head));
        }
        match &s.end {
            Some(Err(fault)) => Poll::Ready(Err(fault.clone())),
            Some(Ok(())) => Poll::Ready(Err(headless(self.sent()))),
            None => s.wait(cx),
        }
    }

    /// Waits for the next chunk; `None` is the clean end.
    pub fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Taken, Fault>>> {
        let mut s = self.lock();
        if let Some(bytes) = s.pop() {
            self.ledger.sub(bytes.len());
            s.window.taken(bytes.len());
            let now = Instant::now();
            s.moved = now;
            let delay = s.oldest.map_or(Duration::ZERO, |t| now.saturating_duration_since(t));
            if s.window.buffered() == 0 {
                s.oldest = None;
            }
            let grant = if s.end.is_none() { s.window.grant() } else { None };
            return Poll::Ready(Some(Ok(Taken { bytes, grant, delay })));
        }
        match &s.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(fault)) => Poll::Ready(Some(Err(fault.clone()))),
            None => s.wait(cx),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let buffered = self.lock().clear();
        self.ledger.sub(buffered);
    }
}

impl State {
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.chunks.push_back(tail);
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.close_tail();
        }
        self.chunks.pop_front()
    }

    fn clear(&mut self) -> usize {
        let n = self.window.buffered();
        self.window.taken(n);
        self.chunks.clear();
        self.tail = BytesMut::new();
        self.oldest = None;
        n
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        match &mut self.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// Wakes the reader after the lock is gone, so that it does not run into it.
fn wake(mut s: MutexGuard<'_, State>) {
    let waker = s.reader.take();
    drop(s);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn headless(sent: Sent) -> Fault {
    let fault = Fault::new(FaultKind::Internal, "The page ended this exchange without an answer.");
    if sent == Sent::Maybe { fault.maybe_sent() } else { fault }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn pipe(credit: usize, cap: usize) -> (Pipe, Arc<Ledger>) {
        let ledger = Arc::new(Ledger::default());
        (Pipe::new(Window::new(credit, cap), ledger.clone(), Instant::now()), ledger)
    }

    fn take(pipe: &Pipe) -> Poll<Option<Result<Taken, Fault>>> {
        pipe.poll_data(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn small_pieces_leave_together_and_in_order() {
        let (pipe, ledger) = pipe(1000, 4000);
        for piece in ["a", "bc", "def"] {
            pipe.data(Bytes::from(piece), 1000, Instant::now()).unwrap();
        }
        let big = Bytes::from(vec![b'x'; 600]);
        pipe.data(big.clone(), 1000, Instant::now()).unwrap();
        pipe.data(Bytes::from("g"), 1000, Instant::now()).unwrap();
        assert_eq!(ledger.total(), 607);
        let mut got = Vec::new();
        for expected in [6, 600, 1] {
            let Poll::Ready(Some(Ok(taken))) = take(&pipe) else { panic!("a chunk is there") };
            assert_eq!(taken.bytes.len(), expected);
            got.extend_from_slice(&taken.bytes);
        }
        assert_eq!(got, [b"abcdef".as_slice(), &big, b"g"].concat());
        assert_eq!(ledger.total(), 0);
        assert!(take(&pipe).is_pending());
    }

    #[test]
    fn a_fault_comes_after_the_bytes_before_it_and_only_the_first_end_counts() {
        let (pipe, _) = pipe(1000, 4000);
        pipe.data(Bytes::from("abc"), 3, Instant::now()).unwrap();
        pipe.finish(Err(Fault::new(FaultKind::PageLost, "lost")));
        pipe.finish(Ok(()));
        assert!(matches!(take(&pipe), Poll::Ready(Some(Ok(t))) if &t.bytes[..] == b"abc"));
        for _ in 0..2 {
            assert!(matches!(take(&pipe), Poll::Ready(Some(Err(f))) if f.kind() == FaultKind::PageLost));
        }
    }

    #[test]
    fn an_abandoned_pipe_holds_nothing() {
        let (pipe, ledger) = pipe(1000, 4000);
        pipe.data(Bytes::from(vec![0; 900]), 1000, Instant::now()).unwrap();
        pipe.abandon(Fault::new(FaultKind::SlowReader, "slow"));
        assert_eq!(ledger.total(), 0);
        assert_eq!(pipe.data(Bytes::from("late"), 4, Instant::now()), Ok(None));
        assert!(matches!(take(&pipe), Poll::Ready(Some(Err(_)))));
        drop(pipe);
        assert_eq!(ledger.total(), 0);
    }

    #[test]
    fn a_request_leaves_or_is_withdrawn_but_never_both() {
        let (gone, _) = pipe(100, 200);
        assert_eq!(gone.sent(), Sent::No);
        assert!(gone.leave() && gone.leave() && !gone.withdraw());
        assert_eq!(gone.sent(), Sent::Maybe);
        let (kept, _) = pipe(100, 200);
        assert!(kept.withdraw() && kept.withdraw() && !kept.leave());
        assert_eq!(kept.sent(), Sent::No);
    }

    #[test]
    fn a_request_that_may_not_leave_any_more_is_withdrawn_with_the_reason() {
        struct Never;
        impl Leave for Never {
            fn may_leave(&self) -> Result<(), Fault> {
                Err(Fault::new(FaultKind::SharedStateLost, "too late"))
            }
        }
        let mut leaves = Leaves::default();
        leaves.add(Arc::new(Never));
        let pipe = pipe(100, 200).0.asking(leaves.clone());
        assert!(!pipe.leave() && !pipe.leave());
        assert_eq!(pipe.sent(), Sent::No);
        let head = pipe.poll_head(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Err(fault)) = head else { panic!("it has ended") };
        assert_eq!((fault.kind(), fault.sent()), (FaultKind::SharedStateLost, Sent::No));
    }

    #[test]
    fn only_a_full_buffer_counts_as_stalled() {
        let (pipe, _) = pipe(100, 200);
        let t0 = Instant::now();
        pipe.data(Bytes::from(vec![0; 100]), 100, t0).unwrap();
        assert_eq!(pipe.stalled(t0 + Duration::from_secs(60)), None);
        pipe.data(Bytes::from(vec![0; 100]), 100, t0).unwrap();
        assert_eq!(pipe.stalled(t0 + Duration::from_secs(60)), Some(Duration::from_secs(60)));
        let _ = take(&pipe);
        assert_eq!(pipe.stalled(t0 + Duration::from_secs(60)), None);
    }
}
