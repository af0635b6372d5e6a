//! The shared vocabulary: what goes into the page, and what comes out of it.
//!
//! [`PageRequest`] goes in; an [`Exchange`] comes out: a [`Head`] and then chunks of body, ending exactly
//! once, cleanly or with a [`Fault`]. Nothing here knows how frames travel: that is behind [`Valve`].

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use crate::error::Fault;
use crate::pipe::{Pipe, Taken};

/// Says at the last moment whether a request may still leave for the site.
pub trait Leave: Send + Sync {
    /// Asked right before it leaves, by whoever lets it go; answers at once.
    ///
    /// # Errors
    /// The fault that the request ends with, unsent.
    fn may_leave(&self) -> Result<(), Fault>;
}

/// Those that a request's leave depends on: all of them.
#[derive(Clone, Default)]
pub struct Leaves(Vec<Arc<dyn Leave>>);

impl Leaves {
    /// One more is to be asked.
    pub fn add(&mut self, leave: Arc<dyn Leave>) {
        self.0.push(leave);
    }
}

impl Leave for Leaves {
    fn may_leave(&self) -> Result<(), Fault> {
        self.0.iter().try_for_each(|it| it.may_leave())
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leaves({})", self.0.len())
    }
}

/// A request for the page to perform with `fetch`.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// An HTTP method that `fetch` may send, in its usual case.
    pub method: String,
    /// Path and query as they go on the wire, starting with one `/`.
    pub path: String,
    /// Header names and values; a value's characters are its bytes (ISO 8859-1), as in the Fetch standard.
    pub headers: Vec<(String, String)>,
    /// The body in pieces, as they arrived; empty for none. Cheap to clone.
    pub body: Vec<Bytes>,
    /// Whether its caller holds an access key: only then may it go into a page that is signed in.
    pub keyed: bool,
    /// Whom to ask before it leaves.
    pub leaves: Leaves,
}

impl PageRequest {
    /// The length of the body in bytes.
    pub fn body_len(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }
}

/// Status and headers of the site's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The HTTP status.
    pub status: u16,
    /// Header names (lower case) and values, as the page may see them: never `set-cookie`.
    pub headers: Vec<(String, String)>,
    /// Path and query of the answer, if redirects within the origin led elsewhere.
    pub redirected_to: Option<String>,
}

/// The way back from an exchange to the page that performs it.
pub trait Valve: Send + Sync {
    /// Lets the page send `bytes` more for exchange `id`.
    fn grant(&self, id: u32, bytes: u32);
    /// Stops exchange `id` in the page; nothing of it is wanted any more.
    fn cancel(&self, id: u32);
}

/// One running request: wait for its head, then take its chunks. Dropping it aborts the fetch.
pub struct Exchange {
    id: u32,
    pipe: Arc<Pipe>,
    valve: Arc<dyn Valve>,
    ended: bool,
    /// What has been looked at already, and is still to be given out.
    held: VecDeque<Option<Result<Taken, Fault>>>,
    /// Who else wants to see the chunks.
    watch: Option<Watch>,
}

type Watch = Box<dyn FnMut(&[u8]) -> bool + Send>;

impl Exchange {
    /// The reading end of `pipe`, for exchange `id` behind `valve`.
    pub fn new(id: u32, pipe: Arc<Pipe>, valve: Arc<dyn Valve>) -> Exchange {
        Exchange { id, pipe, valve, ended: false, held: VecDeque::new(), watch: None }
    }

    /// The answer's head, once. The fault says whether the request may have been sent.
    pub async fn head(&mut self) -> Result<Head, Fault> {
        let head = poll_fn(|cx| self.pipe.poll_head(cx)).await;
        self.ended |= head.is_err();
        head
    }

    /// Takes the request back if it has not left for the site: then it never will, and another exchange may
    /// carry it. Of no use to one whose head is there.
    pub fn withdraw(&self) -> bool {
        self.pipe.withdraw()
    }

    /// The beginning of the body: at least `want` bytes of it if there are so many, and what has come by
    /// `until` if there are not. Nothing is lost by it: chunks come afterwards as if nobody had looked.
    pub async fn peek(&mut self, want: usize, until: Instant) -> Vec<u8> {
        let mut seen = Vec::new();
        while seen.len() < want && !matches!(self.held.back(), Some(None | Some(Err(_)))) {
            let next = poll_fn(|cx| self.poll_next(cx));
            let Ok(next) = tokio::time::timeout_at(until.into(), next).await else { break };
            if let Some(Ok(taken)) = &next {
                seen.extend_from_slice(&taken.bytes);
            }
            self.held.push_back(next);
        }
        seen
    }

    /// The next chunk of body; `None` is the clean end. After a fault or the end, stop.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Taken, Fault>>> {
        let next = match self.held.pop_front() {
            Some(next) => Poll::Ready(next),
            None => self.poll_next(cx),
        };
        if let (Poll::Ready(Some(Ok(taken))), Some(watch)) = (&next, &mut self.watch)
            && !watch(&taken.bytes)
        {
            self.watch = None;
        }
        next
    }

    /// Shows every chunk that is given out to `watch`, until that has seen enough and says no.
    pub fn watch(&mut self, watch: impl FnMut(&[u8]) -> bool + Send + 'static) {
        self.watch = Some(Box::new(watch));
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Taken, Fault>>> {
        let next = self.pipe.poll_data(cx);
        match &next {
            Poll::Ready(Some(Ok(taken))) => {
                if let Some(bytes) = taken.grant {
                    self.valve.grant(self.id, bytes);
                }
            }
            Poll::Ready(_) => self.ended = true,
            Poll::Pending => {}
        }
        next
    }

    /// Keeps `it`, beside what is kept already, for as long as the exchange goes on: until this is dropped, or it is given up because nobody
    /// reads it.
    pub fn hold(&self, it: impl Any + Send) {
        self.pipe.hold(Box::new(it));
    }

    /// As [`Exchange::poll_chunk`], to await.
    pub async fn chunk(&mut self) -> Option<Result<Taken, Fault>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.ended {
            self.valve.cancel(self.id);
        }
        self.pipe.release();
    }
}
