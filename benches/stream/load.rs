//! What is asked of each side, and what came back: the same for all of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};

/// Why a measurement could not be made.
pub type Fail = Box<dyn std::error::Error + Send + Sync>;

/// Where streams are asked for.
pub const CONVERSATION: &str = "/backend-api/conversation";
/// A small answer.
pub const SMALL: &str = "/backend-api/me";

/// The path of a body of so many bytes.
pub fn bulk_path(bytes: u64) -> String {
    format!("/backend-api/practice/bytes?n={bytes}")
}

/// Some streams that are asked for at once.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many.
    pub streams: usize,
    /// Text events of each.
    pub events: usize,
    /// From one event to the next, in milliseconds; 0 is as fast as possible.
    pub interval: u64,
}

impl Load {
    /// The request of one stream. An event carries only its own piece of text (`grow=0`), so that all events
    /// have one size.
    pub fn request(&self) -> Value {
        let prompt = format!("count={} interval={} grow=0", self.events, self.interval);
        json!({"action": "next", "model": "auto", "messages": [{
            "id": "bench",
            "author": {"role": "user"},
            "content": {"content_type": "text", "parts": [prompt]},
        }]})
    }

    /// Events of all streams.
    pub fn total(&self) -> usize {
        self.streams * self.events
    }
}

/// What came of a load. A stream is complete when it brought all of its events and `[DONE]`.
#[derive(Debug, Default, Deserialize)]
pub struct Outcome {
    /// From the writing of each event at the site to its arrival at the reader, in microseconds.
    pub delays: Vec<f64>,
    /// From the start of the load to each stream's first byte, in milliseconds.
    pub first: Vec<f64>,
    /// Streams that were complete.
    pub complete: usize,
    /// What was wrong with the others.
    pub failures: Vec<String>,
    /// How long all of it took.
    pub seconds: f64,
}

/// One stream, as its reader saw it.
#[derive(Debug, Default)]
pub struct Reading {
    /// As in [`Outcome`].
    pub delays: Vec<f64>,
    tail: Vec<u8>,
}

/// What stands before an event's stamp, and how many digits the stamp has (until the year 2286).
const MARK: &[u8] = b"\"t\":";
const DIGITS: usize = 16;
/// Enough of what came before to read a stamp that two pieces share, and to know the end.
const TAIL: usize = 32;

impl Reading {
    /// Takes a piece that arrived at `now` (Unix microseconds) and notes the events that end in it.
    pub fn take(&mut self, piece: &[u8], now: u64) {
        let mut from = 0;
        while let Some(length) = piece[from..].iter().position(|&byte| byte == b'\n') {
            let end = from + length;
            let stamp =
                if end > TAIL { stamp(&piece[..end]) } else { stamp(&[&self.tail, &piece[..end]].concat()) };
            if let Some(stamp) = stamp {
                self.delays.push(now as f64 - stamp as f64);
            }
            from = end + 1;
        }
        self.tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self, load: &Load) -> bool {
        self.delays.len() == load.events && self.tail.ends_with(b"data: [DONE]\n\n")
    }
}

/// The stamp of the event whose line this is the end of.
fn stamp(line: &[u8]) -> Option<u64> {
    let (rest, digits) = line.strip_suffix(b"}")?.split_last_chunk::<DIGITS>()?;
    rest.ends_with(MARK).then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// Now, by the clock that the site stamps events with.
pub fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// In milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
