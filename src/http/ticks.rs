//! `/healthz/stream`: a short event stream of our own, by which one sees what stands in front of us do with event
//! streams, without an account and without a word to the site (`tabproxy doctor --nginx`).
//!
//! ```text
//! tick tick tick tick tick tick ──── a ping's time ──── tick ──────── twice that ──────── last tick
//! ```
//!
//! The first ones come faster than anybody would collect them for; then it is as silent as a stream is between two
//! pings, and as it would be if one were lost. Every tick says when it was sent. It has the headers of a real stream,
//! carries no pings, and ends when the server stops. It must not know who reads it: anybody may, so only a few at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures::stream;
use serde_json::json;
use tokio::sync::Semaphore;

use super::reply::{self, Asked};
use super::{App, headers, health};
use crate::browser::Phase;
use crate::error::{Fault, FaultKind};

/// Streams at once.
const AT_ONCE: usize = 8;
/// How many ticks come soon after each other, and how soon.
const QUICK: (usize, Duration) = (6, Duration::from_millis(100));
/// A ping's time is taken for no longer than this, so that a stream is over within sixteen seconds.
const LONGEST: Duration = Duration::from_secs(5);

/// The route, with its own few places.
pub(super) fn route() -> MethodRouter<Arc<App>> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    get(move |state, request| ticks(state, places.clone(), request)).fallback(health::wrong_method)
}

async fn ticks(State(app): State<Arc<App>>, places: Arc<Semaphore>, request: Request) -> Response {
    let Ok(place) = places.try_acquire_owned() else {
        let fault =
            Fault::new(FaultKind::QueueFull, "Others look at this stream now; come again in a moment.");
        return reply::refuse(&fault.retry_after(Duration::from_secs(10)), &Asked::of(&request));
    };
    let (begun, ping) = (Instant::now(), app.policy.ping);
    let plan = plan(ping).into_iter().enumerate().collect::<Vec<_>>();
    let status = app.browser.watch();
    let last = plan.len();
    let body = stream::unfold((plan.into_iter(), place), move |(mut plan, place)| {
        let mut status = status.clone();
        async move {
            let (number, silence) = plan.next()?;
            let stopping = status.wait_for(|it| matches!(it.phase, Phase::Draining | Phase::Stopped));
            if tokio::time::timeout(silence, stopping).await.is_ok() {
                return None;
            }
            let tick = json!({
                "tick": number,
                "at_ms": begun.elapsed().as_millis() as u64,
                "silence_ms": silence.as_millis() as u64,
                "ping_ms": ping.map(|it| it.as_millis() as u64),
                "is_last": number + 1 == last,
            });
            Some((Ok::<_, std::io::Error>(Bytes::from(format!("data: {tick}\n\n"))), (plan, place)))
        }
    });
    (headers::of_event_stream(), Body::from_stream(body)).into_response()
}

/// The silence before each tick.
fn plan(ping: Option<Duration>) -> Vec<Duration> {
    let (count, apart) = QUICK;
    let quick = (0..count).map(|number| if number == 0 { Duration::ZERO } else { apart });
    let ping = ping.map(|it| it.min(LONGEST));
    let slow = ping.into_iter().flat_map(|it| [it, 2 * it]);
    quick.chain(slow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_silent_as_two_pings_and_soon_over() {
        let four = plan(Some(Duration::from_secs(4)));
        assert_eq!(four.len(), 8);
        assert_eq!(four[6..], [Duration::from_secs(4), Duration::from_secs(8)]);
        assert_eq!(plan(None).len(), 6);
        let longest: Duration = plan(Some(Duration::from_secs(3600))).iter().sum();
        assert!(longest < Duration::from_secs(16), "{longest:?}");
    }
}
