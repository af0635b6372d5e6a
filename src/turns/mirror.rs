//! An answer that another instance makes, as this one sees it: a [`Log`] that is filled from the store.
//!
//! Its readers do not see the difference. As long as it is read here, the other instance goes on with it. When
//! nobody reads it here any more, it is forgotten here, and read again from the store by the next who asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Turns;
use super::leases::{LEASE, Lease, What};
use super::log::{Log, lost};
use super::peers::Peers;
use super::wire::{DATA, END, HEAD, Head, read_end};
use crate::error::{Fault, FaultKind};
use crate::store::answers::{Page, Piece};

/// How often the store is asked for more. Asking is a round trip on the one connection; waiting there for more
/// would need a connection for each answer that is read elsewhere.
const LOOK: Duration = Duration::from_millis(60);
/// As after a failure.
const AGAIN: Duration = Duration::from_millis(250);
/// How long it is read on when its client has left, which may ask again at once.
const IDLE: Duration = Duration::from_secs(2);

/// Fills `log` with the answer that `lease` is of.
pub(super) async fn mirror<H: Head>(turns: Turns<H>, peers: Peers, log: Arc<Log<H>>, lease: Arc<Lease>) {
    let What::Answer(answer, _) = &lease.what else { return };
    let end = copy(&turns, &peers, &log, &lease).await;
    if let Some(end) = end {
        log.finish(end);
        let mut reading = log.reading();
        loop {
            // There first: in between, who asks again must find here that it has been told.
            reading.mark_unchanged();
            let is_unread = !log.is_read();
            if is_unread && lease.is_for_all() && log.is_spent() {
                peers.forget(*answer).await;
            }
            if is_unread && turns.forget_unread(&log) || reading.changed().await.is_err() {
                break;
            }
        }
    }
    peers.note(&lease).await;
    lease.give_up();
}

/// Until its end; `None` if nobody has read it here for a while.
async fn copy<H: Head>(
    turns: &Turns<H>,
    peers: &Peers,
    log: &Arc<Log<H>>,
    lease: &Lease,
) -> Option<Result<(), Fault>> {
    let inner = &peers.inner;
    let mut reached = Reached { number: 0, is_counted: false, is_slow: false };
    let (mut idle, mut failing) = (None, None);
    loop {
        let note = lease.note()?;
        if log.is_read() {
            idle = None;
        } else if idle.get_or_insert_with(Instant::now).elapsed() > IDLE && turns.forget_unread(log) {
            return None;
        }
        // It waits for its readers here as it would for the site; what is read meanwhile is told by the lease.
        if tokio::time::timeout(LEASE, log.room()).await.is_err() {
            continue;
        }
        match inner.store.read(inner.who.clone(), note, reached.number, inner.terms).await {
            Ok(page) => {
                failing = None;
                let is_empty = page.as_ref().is_some_and(|it| it.pieces.is_empty());
                if let Some(end) = reached.take(page, log, peers) {
                    if reached.is_slow {
                        lease.make_private();
                    }
                    return Some(end);
                }
                turns.make_room();
                if is_empty {
                    tokio::time::sleep(LOOK).await;
                }
            }
            Err(error) => {
                if failing.get_or_insert_with(Instant::now).elapsed() > LEASE {
                    lease.make_private();
                    return Some(Err(out_of_sight().because(error)));
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// How far the copy is.
struct Reached {
    number: u64,
    is_counted: bool,
    /// Whether it missed something because it was read too slowly here.
    is_slow: bool,
}

impl Reached {
    /// Takes what the store gave; says how the answer ended, if it did.
    fn take<H: Head>(
        &mut self,
        page: Option<Page>,
        log: &Log<H>,
        peers: &Peers,
    ) -> Option<Result<(), Fault>> {
        let Some(page) = page else { return Some(Err(lost(true))) };
        if !std::mem::replace(&mut self.is_counted, true) {
            let is_over = page.pieces.last().is_some_and(|(_, it)| it.kind == END);
            let figures = &peers.inner.figures;
            if is_over {
                figures.replayed.inc()
            } else {
                figures.joined.inc()
            };
        }
        if page.pieces.is_empty() && !page.is_alive {
            return Some(Err(abandoned()));
        }
        for (number, piece) in page.pieces {
            let is_missing = number != self.number + 1;
            let can_go_on = self.number > 0 && piece.begins && piece.kind == DATA && log.is_between();
            if is_missing && !can_go_on {
                self.is_slow = self.number > 1;
                return Some(Err(lost(!self.is_slow)));
            }
            self.number = number;
            if let Some(end) = apply(log, piece) {
                return Some(end);
            }
        }
        None
    }
}

fn apply<H: Head>(log: &Log<H>, piece: Piece) -> Option<Result<(), Fault>> {
    let bytes: Bytes = piece.bytes;
    match piece.kind {
        HEAD => match H::from_bytes(&bytes) {
            Some(head) => log.head(head),
            None => return Some(read_end(b"?")),
        },
        DATA => log.push(bytes),
        _ => return Some(read_end(&bytes)),
    }
    None
}

/// The instance that made it has died, or slept, or lost the store.
fn abandoned() -> Fault {
    let text = "The instance of this service that answered this turn was lost before the end of its answer.";
    Fault::new(FaultKind::PageLost, text).maybe_sent()
}

/// The store is gone while another instance goes on.
fn out_of_sight() -> Fault {
    let text = "Another instance of this service answers this turn, and the state that they share cannot be reached.";
    Fault::new(FaultKind::SharedStateLost, text).maybe_sent()
}
