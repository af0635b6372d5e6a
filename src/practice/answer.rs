//! The body of a streamed answer: when each event is written, and how the answer ends.
//!
//! The body is pulled by the connection, so an event is written (and stamped) only when there is room
//! to send it, and no task or channel stands between the two. It knows nothing of requests.
//!
//! ```text
//! Opening ──> Texts ──> Closing ──> Ended        as planned
//!                │ └──────────────> Ended        cut: a clean end without [DONE]
//!                └────> Breaking ─> Ended        reset: a broken body
//! ```

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::time::{Instant, Sleep};

use super::conversation::Speaking;
use super::counters::Running;
use super::events::Events;
use super::knobs::Knobs;

/// A flood is gathered into frames of about this size: one TLS record, one HTTP/2 DATA frame.
const FRAME: usize = 16 * 1024;
/// Between two pings there are so many text events.
const PING_EVERY: u64 = 10;
/// A reset drops what is still queued; what was written before it gets so long to leave, and to be read: of a head
/// that comes together with its reset, Chromium tells the page only the reset.
const BEFORE_RESET: Duration = Duration::from_millis(100);

/// Why a body ended in the middle: it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("the practice site was asked to reset this answer")]
pub(super) struct ResetAsked;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Texts,
    Closing,
    Breaking,
    Ended,
}

/// A streamed answer. Dropped before its end, it counts as abandoned.
#[derive(Debug)]
pub(super) struct Answer {
    events: Events,
    knobs: Knobs,
    phase: Phase,
    /// Text events written so far.
    written: u64,
    /// When text event 0 is due; the others follow at fixed distances, whatever the reader does.
    start: Instant,
    pending: BytesMut,
    sleep: Pin<Box<Sleep>>,
    /// A piece was handed out in this poll: let the connection flush it before the next one.
    yielding: bool,
    running: Running,
    /// Its conversation, until the last event is written.
    speaking: Option<Speaking>,
}

impl Answer {
    /// The answer that `knobs` ask for; its clock starts now.
    pub fn new(events: Events, knobs: Knobs, running: Running, speaking: Speaking) -> Self {
        let start = Instant::now() + knobs.first_byte;
        Self {
            events,
            knobs,
            phase: Phase::Opening,
            written: 0,
            start,
            pending: BytesMut::with_capacity(2 * FRAME),
            sleep: Box::pin(tokio::time::sleep_until(start)),
            yielding: false,
            running,
            speaking: Some(speaking),
        }
    }

    /// The site has said all that it was to say.
    fn finish(&mut self) {
        self.running.finish();
        self.speaking = None;
    }

    /// When the next text event is due.
    fn due(&self) -> Instant {
        let stalled = match self.knobs.stall {
            Some((after, silence)) if self.written >= after => silence,
            _ => Duration::ZERO,
        };
        self.start + self.knobs.interval.mul_f64(self.written as f64) + stalled
    }

    /// Writes what is due and moves on; pending when nothing is due yet.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.phase {
            Phase::Opening => {
                // A timer that is already due still costs its granularity, a millisecond.
                if self.start > Instant::now() {
                    ready!(self.sleep.as_mut().poll(cx));
                }
                self.events.opening(&mut self.pending);
                self.phase = Phase::Texts;
            }
            Phase::Texts => {
                ready!(self.write_texts(cx));
                if self.written == self.knobs.text_events() {
                    self.phase = self.after_texts();
                }
            }
            Phase::Closing => {
                self.events.closing(&mut self.pending);
                self.finish();
                self.phase = Phase::Ended;
            }
            Phase::Breaking | Phase::Ended => {}
        }
        Poll::Ready(())
    }

    fn write_texts(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.written < self.knobs.text_events() && self.pending.len() < FRAME {
            let due = self.due();
            if due > Instant::now() {
                if !self.pending.is_empty() {
                    break;
                }
                self.sleep.as_mut().reset(due);
                ready!(self.sleep.as_mut().poll(cx));
            }
            self.events.text(unix_micros(), &mut self.pending);
            self.written += 1;
            if self.knobs.ping && self.written.is_multiple_of(PING_EVERY) {
                Events::ping(unix_micros(), &mut self.pending);
            }
        }
        Poll::Ready(())
    }

    fn after_texts(&mut self) -> Phase {
        match (self.knobs.cut, self.knobs.reset) {
            (None, None) => Phase::Closing,
            (Some(cut), reset) if reset.is_none_or(|reset| cut <= reset) => {
                self.finish();
                Phase::Ended
            }
            _ => {
                self.sleep.as_mut().reset(Instant::now() + BEFORE_RESET);
                Phase::Breaking
            }
        }
    }

    /// The next piece of what is written: all of it, or as much as `split` allows.
    fn piece(&mut self) -> Bytes {
        let length = self.knobs.split.map_or(self.pending.len(), |most| most.min(self.pending.len()));
        self.yielding = self.knobs.split.is_some();
        self.pending.split_to(length).freeze()
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = ResetAsked;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResetAsked>>> {
        let this = &mut *self;
        if std::mem::take(&mut this.yielding) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if !this.pending.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(this.piece()))));
            }
            match this.phase {
                Phase::Ended => return Poll::Ready(None),
                Phase::Breaking => {
                    ready!(this.sleep.as_mut().poll(cx));
                    this.finish();
                    this.phase = Phase::Ended;
                    return Poll::Ready(Some(Err(ResetAsked)));
                }
                Phase::Opening | Phase::Texts | Phase::Closing => ready!(this.advance(cx)),
            }
        }
    }
}

/// Now, in microseconds since 1970.
pub(super) fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
