//! An answer that several readers share: a bounded log of its bytes, from the first on for as long as there is
//! room.
//!
//! ```text
//! site ──push──> │ dropped │ kept chunks ............ │ <── readers, each at its own place
//!                          ^ first                    ^ end
//! ```
//!
//! The writer waits ([`Log::room`]) while the reader that is furthest ahead is far behind, so that one that is
//! alone slows its own fetch as everywhere else; it never waits for the others. Beyond the cap the oldest
//! events are dropped. A reader that needs them goes on with the next event where each event is a whole
//! snapshot of the message, since it loses nothing by that, and gets a fault where events are changes.
//!
//! Knows neither tasks nor time nor HTTP; `H` is whatever the answer's head is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::watch;

use super::chunks::Chunks;
use crate::error::{Fault, FaultKind, Sent};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one answer.
    pub answer: usize,
    /// How far ahead of all its readers an answer is read; of one for which there is no room in all, twice as
    /// many bytes are kept.
    pub least: usize,
    /// Bytes of all answers.
    pub total: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { answer: 2 << 20, least: 256 << 10, total: 64 << 20 }
    }
}

/// Bytes kept in all logs together.
#[derive(Debug, Default)]
pub struct Kept(AtomicUsize);

impl Kept {
    /// So many now.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Place {
    /// Whether it is a client's, which the writer waits for.
    counts: bool,
    /// The number of the chunk that comes next.
    next: u64,
    /// Bytes that were read, or passed over.
    read: u64,
    /// Whether what was read ends between two events.
    is_between: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct State<H> {
    head: Option<H>,
    chunks: Chunks,
    end: Option<Result<(), Fault>>,
    /// Whether a reader has been given the end.
    is_told: bool,
    /// Whether one was told that the beginning is not kept.
    is_loss_told: bool,
    readers: HashMap<u64, Place>,
    next_reader: u64,
    /// The number of the chunk that nobody has been given yet.
    furthest: u64,
    writer: Option<Waker>,
}

/// One answer. Shared by its writer and its readers.
#[derive(Debug)]
pub struct Log<H> {
    state: Mutex<State<H>>,
    limits: Limits,
    kept: Arc<Kept>,
    /// How many read it. Who holds this may ask for the state, and never the other way round.
    reading: watch::Sender<usize>,
}

impl<H: Clone> Log<H> {
    /// An answer of which nothing is here yet. Its bytes are counted in `kept` too.
    pub fn new(limits: Limits, kept: Arc<Kept>) -> Log<H> {
        let state = State {
            head: None,
            chunks: Chunks::new(),
            end: None,
            is_told: false,
            is_loss_told: false,
            readers: HashMap::new(),
            next_reader: 0,
            furthest: 0,
            writer: None,
        };
        Log { state: state.into(), limits, kept, reading: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State<H>> {
        // Nothing in here panics half-way through a change, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head came.
    pub fn head(&self, head: H) {
        let mut s = self.lock();
        s.head = Some(head);
        s.wake();
    }

    /// A piece of the body came.
    pub fn push(&self, piece: Bytes) {
        self.add(piece, false);
    }

    /// The last piece came, and the answer is whole with it: nobody finds one that has it, but not its end.
    pub fn push_last(&self, piece: Bytes) {
        self.add(piece, true);
    }

    fn add(&self, piece: Bytes, is_last: bool) {
        let mut s = self.lock();
        let before = s.chunks.kept;
        s.chunks.push(piece);
        if is_last {
            s.end.get_or_insert(Ok(()));
        }
        let is_tight = self.kept.bytes() + (s.chunks.kept - before) > self.limits.total;
        // Twice what a lone reader may be behind, so that it never loses anything.
        s.chunks.trim(if is_tight { 2 * self.limits.least } else { self.limits.answer });
        self.count(before, s.chunks.kept);
        s.wake();
    }

    /// The answer is whole, or failed. The first end counts.
    pub fn finish(&self, end: Result<(), Fault>) {
        let mut s = self.lock();
        s.end.get_or_insert(end);
        s.chunks.close();
        s.wake();
    }

    /// Drops the bytes of an answer that is over; who reads it from now on gets a fault.
    pub fn empty(&self) {
        let mut s = self.lock();
        let before = s.chunks.kept;
        s.chunks.trim(0);
        self.count(before, s.chunks.kept);
        s.wake();
    }

    fn count(&self, before: usize, after: usize) {
        let total = &self.kept.0;
        if after >= before {
            total.fetch_add(after - before, Ordering::Relaxed);
        } else {
            total.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Ready when somebody has read nearly all that is here, or nobody reads. For one writer.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut s = self.lock();
        let ahead = s.readers.values().filter(|it| it.counts).map(|it| it.read).max();
        match ahead {
            Some(read) if s.chunks.total - read > self.limits.least as u64 => {
                s.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// As [`Log::poll_room`], to await.
    pub async fn room(&self) {
        std::future::poll_fn(|cx| self.poll_room(cx)).await;
    }

    fn count_readers(&self) {
        // Counted there, so that no older number comes after a newer one.
        self.reading.send_modify(|readers| *readers = self.lock().reading());
    }

    /// Whether somebody reads it.
    pub fn is_read(&self) -> bool {
        self.lock().reading() > 0
    }

    /// How many read it, to be followed.
    pub fn reading(&self) -> watch::Receiver<usize> {
        self.reading.subscribe()
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Bytes that are kept.
    pub fn kept(&self) -> usize {
        self.lock().chunks.kept
    }

    /// Whether somebody reads it, or has been given all of it: some leave with the last byte.
    pub fn is_taken(&self) -> bool {
        let s = self.lock();
        let is_given = matches!(s.end, Some(Ok(()))) && s.furthest == s.chunks.next();
        s.reading() > 0 || s.is_told || is_given
    }

    /// Whether somebody has been given all of it.
    pub fn is_given(&self) -> bool {
        let s = self.lock();
        matches!(s.end, Some(Ok(()))) && (s.is_told || s.furthest == s.chunks.next())
    }

    /// Whether what came so far ends with an event.
    pub fn is_between(&self) -> bool {
        self.lock().chunks.is_between()
    }

    /// Whether every event is a whole message, so that one can begin to read with any.
    pub fn is_of_snapshots(&self) -> bool {
        self.lock().chunks.is_of_snapshots()
    }

    /// Whether it is of no use to anybody who asks the same again: the request has provably not been sent; or it
    /// failed, or its beginning is lost, and somebody has been told so, who asks again all the same.
    pub fn is_spent(&self) -> bool {
        let s = self.lock();
        match &s.end {
            Some(Err(fault)) => s.is_told || fault.sent() == Sent::No,
            _ => s.is_loss_told,
        }
    }

    /// Reads it from the beginning.
    pub fn read(self: &Arc<Self>) -> Reader<H> {
        self.enter(true)
    }

    /// As [`Log::read`], for somebody who is no reader in the eyes of the writer and of others.
    pub fn observe(self: &Arc<Self>) -> Reader<H> {
        self.enter(false)
    }

    fn enter(self: &Arc<Self>, counts: bool) -> Reader<H> {
        let mut s = self.lock();
        let id = s.next_reader;
        s.next_reader += 1;
        s.readers.insert(id, Place { counts, next: 0, read: 0, is_between: true, waker: None });
        drop(s);
        if counts {
            self.count_readers();
        }
        Reader { log: self.clone(), id, counts }
    }
}

impl<H> Drop for Log<H> {
    fn drop(&mut self) {
        let kept = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).chunks.kept;
        self.kept.0.fetch_sub(kept, Ordering::Relaxed);
    }
}

impl<H> State<H> {
    fn reading(&self) -> usize {
        self.readers.values().filter(|it| it.counts).count()
    }

    fn wake(&mut self) {
        for place in self.readers.values_mut() {
            if let Some(waker) = place.waker.take() {
                waker.wake();
            }
        }
    }
}

/// One reader's place in a log. Dropping it is leaving.
#[derive(Debug)]
pub struct Reader<H: Clone> {
    log: Arc<Log<H>>,
    id: u64,
    counts: bool,
}

impl<H: Clone> Reader<H> {
    /// Whether what was read ends with an event.
    pub fn is_between(&self) -> bool {
        self.log.lock().readers.get(&self.id).is_some_and(|it| it.is_between)
    }

    /// The head, or the fault that came instead.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<H, Fault>> {
        let s = &mut *self.log.lock();
        if let Some(head) = &s.head {
            return Poll::Ready(Ok(head.clone()));
        }
        match &s.end {
            Some(end) => {
                s.is_told |= self.counts;
                let fault = end.clone().err();
                Poll::Ready(Err(fault.unwrap_or_else(|| {
                    Fault::new(FaultKind::Internal, "The answer has no head.").maybe_sent()
                })))
            }
            None => wait(s, self.id, cx),
        }
    }

    /// As [`Reader::poll_head`], to await.
    pub async fn head(&mut self) -> Result<H, Fault> {
        std::future::poll_fn(|cx| self.poll_head(cx)).await
    }

    /// The next chunk; `None` is the clean end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let s = &mut *self.log.lock();
        let skips = s.chunks.has_begun_at_first();
        let Some(place) = s.readers.get_mut(&self.id) else { return Poll::Ready(None) };
        if place.next < s.chunks.first {
            if !(skips && place.is_between) {
                let from_the_beginning = place.next == 0;
                s.is_loss_told |= from_the_beginning && self.counts;
                return Poll::Ready(Some(Err(lost(from_the_beginning))));
            }
            place.next = s.chunks.first;
            place.read = s.chunks.total - s.chunks.kept as u64;
        }
        if let Some(chunk) = s.chunks.get(place.next) {
            place.next += 1;
            if self.counts {
                s.furthest = s.furthest.max(place.next);
            }
            place.read += chunk.bytes.len() as u64;
            place.is_between = chunk.ends;
            let bytes = chunk.bytes.clone();
            if let Some(waker) = s.writer.take() {
                waker.wake();
            }
            return Poll::Ready(Some(Ok(bytes)));
        }
        match &s.end {
            Some(end) => {
                s.is_told |= self.counts;
                Poll::Ready(end.clone().err().map(Err))
            }
            None => wait(s, self.id, cx),
        }
    }

    /// As [`Reader::poll_chunk`], to await.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, Fault>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }
}

impl<H: Clone> Drop for Reader<H> {
    fn drop(&mut self) {
        let mut s = self.log.lock();
        s.readers.remove(&self.id);
        let writer = s.writer.take();
        drop(s);
        if self.counts {
            self.log.count_readers();
        }
        if let Some(waker) = writer {
            waker.wake();
        }
    }
}

fn wait<H, T>(s: &mut State<H>, id: u64, cx: &Context<'_>) -> Poll<T> {
    if let Some(place) = s.readers.get_mut(&id) {
        place.waker = Some(cx.waker().clone());
    }
    Poll::Pending
}

/// The fault of a reader that needs what is not kept any more.
pub(super) fn lost(from_the_beginning: bool) -> Fault {
    if from_the_beginning {
        let text = "This turn was sent before, and its answer is not kept here; it is in the conversation.";
        Fault::new(FaultKind::NotKept, text).maybe_sent()
    } else {
        let text = "The client took the answer too slowly.";
        Fault::new(FaultKind::SlowReader, text).maybe_sent()
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
