//! An answer that is made here, as the other instances see it.
//!
//! A task reads the [`Log`] along, without counting as a reader, and adds what came to the store: whole events,
//! what comes within a moment in one call. The log is its only buffer, so the stream never waits for it; if the
//! store is slower than that, or gone for longer than the lease, the shared answer is given up.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::leases::{Attended, Lease, What};
use super::log::{Log, Reader};
use super::peers::Peers;
use super::wire::{self, DATA, HEAD, Head};
use crate::error::{Fault, FaultKind};
use crate::store::Fence;
use crate::store::answers::{Addition, Piece, Presence};

/// What comes within so long goes together.
const GATHER: Duration = Duration::from_millis(50);
/// So many bytes go without waiting for more.
const ENOUGH: usize = 16 * 1024;
/// Where each event is a whole message, so many bytes of one that is under way are enough for who reads it, and so
/// many of one that is over: others would only be read to be passed over.
const SNAPSHOTS: usize = 512 * 1024;
const LAST_SNAPSHOTS: usize = 128 * 1024;
/// An event that is longer goes in parts.
const LONG: usize = 256 * 1024;
/// How long until a store that has failed is tried again.
const AGAIN: Duration = Duration::from_millis(250);

impl<H: Head> Attended for Log<H> {
    fn presence(&self) -> Presence {
        Presence { reads: self.is_read(), is_given: self.is_given() }
    }
}

/// Shares `log` under `lease` until it is over and nobody asks for it any more.
pub(super) async fn publish<H: Head>(peers: Peers, log: Arc<Log<H>>, lease: Arc<Lease>) {
    let What::Answer(answer, _) = &lease.what else { return };
    let answer = *answer;
    let mut copy = Copy::new(&log);
    let mut reading = log.reading();
    loop {
        let is_last = tokio::select! {
            biased;
            is_last = copy.gather() => is_last,
            _ = reading.changed() => false,
        };
        if !copy.add_to(&peers, answer, &lease, is_last).await {
            if lease.lose() {
                peers.inner.figures.leases_lost.inc();
            }
            peers.inner.figures.given_up.inc();
            tracing::warn!(
                "the other instances do not have an answer that goes on here: the shared store lost it"
            );
            return;
        }
        if is_last {
            break;
        }
    }
    if copy.is_torn {
        peers.inner.figures.given_up.inc();
        tracing::warn!("the other instances do not have an answer in whole: the shared store was too slow");
    }
    lease.is_written();
    let mut over = std::pin::pin!(tokio::time::sleep(peers.inner.terms.keep));
    while !log.is_spent() {
        tokio::select! {
            _ = reading.changed() => {
                peers.note(&lease).await;
            }
            () = &mut over => {
                lease.give_up();
                return;
            }
        }
    }
    peers.forget(answer).await;
    lease.give_up();
}

/// What is on its way to the store.
struct Copy<H: Clone> {
    log: Arc<Log<H>>,
    reader: Reader<H>,
    has_head: bool,
    /// The number of the next piece.
    next: u64,
    ready: Vec<Piece>,
    data: BytesMut,
    /// Up to where `data` has whole events.
    whole: usize,
    /// Whether an event begins with `data`.
    begins: bool,
    /// When what is there goes.
    due: Option<Instant>,
    /// Whether the log has dropped something before it was here.
    is_torn: bool,
}

impl<H: Head> Copy<H> {
    fn new(log: &Arc<Log<H>>) -> Copy<H> {
        Copy {
            log: log.clone(),
            reader: log.observe(),
            has_head: false,
            next: 1,
            ready: Vec::new(),
            data: BytesMut::new(),
            whole: 0,
            begins: true,
            due: None,
            is_torn: false,
        }
    }

    fn has_enough(&self) -> bool {
        self.whole >= ENOUGH || self.data.len() >= LONG
    }

    /// Waits until something is worth sending; says whether it is the last. Loses nothing if it is dropped.
    async fn gather(&mut self) -> bool {
        while !self.has_enough() {
            let is_last = match self.due {
                None => self.step().await,
                Some(due) => match tokio::time::timeout_at(due, self.step()).await {
                    Ok(is_last) => is_last,
                    Err(_) => break,
                },
            };
            if is_last {
                return true;
            }
            if self.whole > 0 || !self.ready.is_empty() {
                self.due.get_or_insert_with(|| Instant::now() + GATHER);
            }
        }
        false
    }

    /// One more piece of the log.
    async fn step(&mut self) -> bool {
        if !self.has_head {
            let head = self.reader.head().await;
            self.has_head = true;
            return match head {
                Ok(head) => {
                    self.ready.push(Piece { kind: HEAD, begins: false, bytes: head.to_bytes() });
                    false
                }
                Err(fault) => self.finish(&Err(fault)),
            };
        }
        match self.reader.chunk().await {
            Some(Ok(bytes)) => {
                self.data.extend_from_slice(&bytes);
                if self.reader.is_between() {
                    self.whole = self.data.len();
                }
                false
            }
            Some(Err(fault))
                if fault.kind() == FaultKind::SlowReader || fault.kind() == FaultKind::NotKept =>
            {
                self.is_torn = true;
                let text =
                    "This turn was sent before, and its answer is not kept here; it is in the conversation.";
                self.finish(&Err(Fault::new(FaultKind::NotKept, text).maybe_sent()))
            }
            Some(Err(fault)) => self.finish(&Err(fault)),
            None => self.finish(&Ok(())),
        }
    }

    fn finish(&mut self, end: &Result<(), Fault>) -> bool {
        self.whole = self.data.len();
        self.cut();
        self.ready.push(wire::end(end));
        true
    }

    /// Makes a piece of what has come in whole.
    fn cut(&mut self) {
        let at = if self.whole == 0 && self.data.len() >= LONG { self.data.len() } else { self.whole };
        if at == 0 {
            return;
        }
        let bytes: Bytes = self.data.split_to(at).freeze();
        let begins = self.begins && self.log.is_of_snapshots();
        self.ready.push(Piece { kind: DATA, begins, bytes });
        self.begins = at == self.whole;
        self.whole = 0;
    }

    /// Adds what is there. `false`: the answer is not ours any more.
    async fn add_to(&mut self, peers: &Peers, answer: Fence, lease: &Lease, is_last: bool) -> bool {
        self.cut();
        self.due = None;
        let inner = &peers.inner;
        let mut terms = inner.terms;
        if self.log.is_of_snapshots() {
            terms.most = terms.most.min(if is_last { LAST_SNAPSHOTS } else { SNAPSHOTS });
        }
        let pieces = std::mem::take(&mut self.ready);
        let added = pieces.len() as u64;
        loop {
            let addition = Addition {
                answer,
                who: inner.who.clone(),
                from: self.next,
                pieces: pieces.clone(),
                is_last,
                presence: self.log.presence(),
            };
            match inner.store.append(addition, terms).await {
                Ok(true) => {
                    self.next += added;
                    return true;
                }
                Ok(false) => return false,
                Err(_) if lease.is_lost() => return false,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}
