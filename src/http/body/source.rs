//! Where the bytes of an answer come from: an exchange of its own, or one that several readers share.

use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderMap;

use crate::error::Fault;
use crate::exchange::Exchange;
use crate::turns::log::Reader;

/// A chunk, and how long it was on its way; a shared one was timed when it came.
pub type Chunk = (Bytes, Option<Duration>);

/// The site's stream, from the head on.
pub enum Source {
    /// Dropping it aborts the fetch.
    Own(Exchange),
    /// Dropping it leaves the others alone.
    Shared(Reader<HeaderMap>),
}

impl Source {
    /// The next chunk; `None` is the clean end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Fault>>> {
        match self {
            Source::Own(exchange) => exchange.poll_chunk(cx).map_ok(|it| (it.bytes, Some(it.delay))),
            Source::Shared(reader) => reader.poll_chunk(cx).map_ok(|bytes| (bytes, None)),
        }
    }
}
