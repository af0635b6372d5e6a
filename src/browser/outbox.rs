//! The way into the page: one writer that interleaves requests, their bodies, credits and cancels.
//!
//! What is small goes at once, in one message with all else that waits; bodies take turns, so that a large
//! upload holds up nobody's request or credit.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt};
use tokio::sync::mpsc;

use super::signs::Signs;
use super::{faults, frame};
use crate::exchange::PageRequest;
use crate::pipe::Pipe;

/// The largest piece of a request body in one message.
const PIECE: usize = 64 * 1024;

/// A page that was heard of so lately is alive. Short, because each request that it is wrong for is one that
/// cannot be tried again; long enough that a busy page need not be asked.
const ALIVE: Duration = Duration::from_millis(2);

/// What the writer is to tell the page.
pub(super) enum Out {
    /// Perform this; the pipe learns when the request may have left.
    Request(u32, PageRequest, Arc<Pipe>),
    /// Begin with the fetch of this: the page has asked.
    Start(u32),
    /// Let it send so many bytes more.
    Credit(u32, u32),
    /// Stop it.
    Cancel(u32),
    /// Answer this.
    Echo(u32),
}

/// Writes what comes until the channel or the carrier is gone; says which.
pub(super) async fn write(
    mut outlet: impl Sink<Bytes, Error: Display> + Unpin,
    mut commands: mpsc::UnboundedReceiver<Out>,
    signs: &Signs,
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
                Out::Start(id) => frame::start(&mut message, id),
                Out::Credit(id, bytes) => frame::credit(&mut message, id, bytes),
                Out::Echo(id) => frame::echo(&mut message, id),
                Out::Cancel(id) => {
                    uploads.remove(id);
                    frame::cancel(&mut message, id);
                }
                Out::Request(id, request, pipe) => match frame::request(&mut message, id, &request) {
                    Ok(()) => uploads.add(&mut message, id, request.body, pipe, signs),
                    Err(error) => pipe.finish(Err(faults::internal(error))),
                },
            }
        }
        uploads.fill(&mut message, signs);
        if let Err(error) = outlet.send(message.freeze()).await {
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

    fn add(&mut self, message: &mut BytesMut, id: u32, body: Vec<Bytes>, pipe: Arc<Pipe>, signs: &Signs) {
        let body: VecDeque<_> = body.into_iter().filter(|piece| !piece.is_empty()).collect();
        if body.is_empty() {
            start(message, id, &pipe, signs);
        } else {
            self.queue.push_back((id, body, pipe));
        }
    }

    fn remove(&mut self, id: u32) {
        self.queue.retain(|(other, ..)| *other != id);
    }

    /// Adds pieces to `message` until it is full or nothing is left.
    fn fill(&mut self, message: &mut BytesMut, signs: &Signs) {
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
                start(message, id, &pipe, signs);
            } else {
                self.queue.push_back((id, body, pipe));
            }
        }
    }
}

/// Starts a request that is on its way whole, if the page was heard of a moment ago. Otherwise it may be
/// dead: the page itself has to ask, so that until then the request has provably not left.
fn start(message: &mut BytesMut, id: u32, pipe: &Pipe, signs: &Signs) {
    if signs.silence() <= ALIVE && pipe.leave() {
        frame::start(message, id);
    }
}
