//! The beat of comments that keeps a silent event stream alive: who gets them, and when one is due.
//!
//! Clients and proxies count silence and give up after some seconds, while a site may think for minutes.
//! There is one timer for each stream, and it is not touched when something passes: it is set again only
//! when it rings, by what has passed meanwhile. Knows nothing of where the stream comes from.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, header};
use tokio::time::{Instant, Sleep};

use super::boundary::Boundary;

/// A comment, which every reader of event streams skips.
pub(super) const PING: Bytes = Bytes::from_static(b": ping\n\n");

/// One stream's beat.
pub(super) struct Pulse {
    every: Duration,
    /// When something last passed, or the request came.
    last: Instant,
    timer: Pin<Box<Sleep>>,
    boundary: Boundary,
}

impl Pulse {
    /// Due `every` after `since`, unless something passes.
    pub fn new(every: Duration, since: Instant) -> Pulse {
        let timer = Box::pin(tokio::time::sleep_until(since + every));
        Pulse { every, last: since, timer, boundary: Boundary::new() }
    }

    /// Something was sent that is no part of the stream's text: its head, or a ping.
    pub fn beat(&mut self) {
        self.last = Instant::now();
    }

    /// A piece of the stream passed.
    pub fn pass(&mut self, piece: &[u8]) {
        self.boundary.pass(piece);
        self.beat();
    }

    /// Whether the stream is between two events.
    pub fn is_between_events(&self) -> bool {
        self.boundary.is_between_events()
    }

    /// Ready when a ping is due, until [`Pulse::beat`] is called.
    pub fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let due = self.last + self.every;
            if Instant::now() < due {
                self.timer.as_mut().reset(due);
            } else if self.is_between_events() {
                return Poll::Ready(());
            } else {
                // Silent within an event, where nothing may be put in.
                self.beat();
            }
        }
    }

    /// As [`Pulse::poll_due`], to await.
    pub async fn due(&mut self) {
        std::future::poll_fn(|cx| self.poll_due(cx)).await;
    }
}

/// Whether a caller with this method and these headers reads event streams.
pub(super) fn is_wanted(method: &Method, headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|it| it.to_str().ok());
    let mut kinds = accepted.flat_map(|it| it.split(',')).map(|it| it.split(';').next().unwrap_or(it).trim());
    !method.as_str().eq_ignore_ascii_case("HEAD")
        && kinds.any(|it| it.eq_ignore_ascii_case("text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{advance, timeout};

    const EVERY: Duration = Duration::from_secs(4);
    const MOMENT: Duration = Duration::from_millis(1);

    /// Whether a ping is due within a moment.
    async fn is_due(pulse: &mut Pulse) -> bool {
        timeout(MOMENT, pulse.due()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_is_due_after_silence_only() {
        let begun = Instant::now();
        let mut pulse = Pulse::new(EVERY, begun);
        pulse.due().await;
        assert_eq!(begun.elapsed(), EVERY);
        assert!(is_due(&mut pulse).await, "until it was sent");
        pulse.beat();
        advance(Duration::from_secs(3)).await;
        pulse.pass(b"data: a\n\n");
        pulse.due().await;
        assert_eq!(begun.elapsed().as_secs(), 4 + 3 + 4, "counted from the last piece");
    }

    #[tokio::test(start_paused = true)]
    async fn never_within_an_event() {
        let begun = Instant::now();
        let mut pulse = Pulse::new(EVERY, begun);
        pulse.pass(b"data: half");
        assert!(timeout(Duration::from_secs(60), pulse.due()).await.is_err());
        pulse.pass(b" an event\n\n");
        let whole = Instant::now();
        pulse.due().await;
        assert_eq!(whole.elapsed(), EVERY);
    }

    #[test]
    fn who_reads_event_streams() {
        let wanted = |method: &str, accept: &[&str]| {
            let mut headers = HeaderMap::new();
            accept.iter().for_each(|it| {
                headers.append(header::ACCEPT, it.parse().unwrap());
            });
            is_wanted(&method.parse().unwrap(), &headers)
        };
        assert!(wanted("POST", &["text/event-stream"]));
        assert!(wanted("GET", &["application/json, Text/Event-Stream; q=0.9"]));
        assert!(wanted("POST", &["application/json", "text/event-stream"]));
        assert!(!wanted("POST", &["*/*"]));
        assert!(!wanted("POST", &["text/event-streams, x-text/event-stream"]));
        assert!(!wanted("POST", &[]));
        assert!(!wanted("HEAD", &["text/event-stream"]));
    }
}
