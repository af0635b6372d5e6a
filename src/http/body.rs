//! An answer's body: an exchange on its way out, with the permit that it runs under.
//!
//! ```text
//!  begun early: Awaited ──> Running ──> Ended       a clean end
//! with a head:              Running
//!                  │          │
//!                  └─> Cut <──┘                     an error event where the head is ours, then the cut
//! ```
//!
//! A fault makes the body fail, so that the connection or the HTTP/2 stream is cut: the client must never
//! take a part for the whole. When the client leaves, the body is dropped, and with it the exchange (which
//! aborts the fetch in the page) and the permit. Between two events of a silent stream it puts a ping; the
//! server asks for one only when the client has taken what came before.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use tokio::time::Sleep;

use super::headers;
use super::pulse::{PING, Pulse};
use super::reply;
use crate::admission::Permit;
use crate::error::{Fault, FaultKind};
use crate::exchange::Exchange;
use crate::telemetry::metrics::{Ending, Metrics, NOT_A_STREAM, Outcome};

/// A cut drops what is still queued; an error event gets so long to leave.
const BEFORE_CUT: Duration = Duration::from_millis(50);

/// What the page answered: the head as the client may see it, and the rest that is still to come.
pub struct Answer {
    /// The site's status.
    pub status: StatusCode,
    /// The headers that pass.
    pub headers: HeaderMap,
    /// The body.
    pub exchange: Exchange,
    /// Its place; free when this is dropped.
    pub permit: Permit,
}

/// What is counted, and where.
pub struct Account {
    /// How the exchange ends.
    pub ending: Ending,
    /// Where bytes are counted.
    pub metrics: Metrics,
}

/// Why a body was cut.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{fault}")]
pub struct Cut {
    /// The code of its outcome.
    pub code: &'static str,
    /// The fault behind it.
    pub fault: Fault,
}

/// The rest of an answer, as an HTTP body of unknown length.
pub struct AnswerBody {
    stage: Stage,
    pulse: Option<Pulse>,
    account: Option<Account>,
    /// Whether the client's head is ours.
    is_begun_early: bool,
}

enum Stage {
    /// The client has its head already, the site has not answered yet.
    Awaited(BoxFuture<'static, Result<Answer, Fault>>),
    Running {
        exchange: Exchange,
    },
    /// The client has been told, and the cut comes after this moment.
    Cut(Cut, Pin<Box<Sleep>>),
    Ended,
}

impl AnswerBody {
    /// The body of an answer with a head of the site's, which goes out now. `pulse` keeps it alive.
    pub fn new(exchange: Exchange, permit: Permit, mut pulse: Option<Pulse>, account: Account) -> AnswerBody {
        if let Some(pulse) = &mut pulse {
            pulse.beat();
        }
        exchange.hold(permit);
        let stage = Stage::Running { exchange };
        AnswerBody { stage, pulse, account: Some(account), is_begun_early: false }
    }

    /// The body of an answer that began as an event stream before the site answered.
    pub fn early(
        answer: BoxFuture<'static, Result<Answer, Fault>>,
        pulse: Pulse,
        account: Account,
    ) -> AnswerBody {
        AnswerBody {
            stage: Stage::Awaited(answer),
            pulse: Some(pulse),
            account: Some(account),
            is_begun_early: true,
        }
    }

    /// The next chunk of the site's answer.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            match &mut self.stage {
                Stage::Awaited(answer) => match ready!(answer.as_mut().poll(cx)) {
                    Ok(Answer { status, headers, exchange, permit }) => {
                        if !status.is_success() || !headers::is_event_stream(&headers) {
                            return Poll::Ready(Some(self.misfit(status)));
                        }
                        exchange.hold(permit);
                        self.stage = Stage::Running { exchange };
                    }
                    Err(fault) => return Poll::Ready(Some(self.fail(fault))),
                },
                Stage::Running { exchange, .. } => match ready!(exchange.poll_chunk(cx)) {
                    Some(Ok(taken)) => {
                        if let Some(account) = &self.account {
                            account.metrics.sent(taken.bytes.len(), taken.delay);
                        }
                        return Poll::Ready(Some(Ok(taken.bytes)));
                    }
                    Some(Err(fault)) => return Poll::Ready(Some(self.fail(fault))),
                    None => {
                        self.end(Outcome::Complete);
                        return Poll::Ready(None);
                    }
                },
                Stage::Cut(cut, moment) => {
                    ready!(moment.as_mut().poll(cx));
                    let cut = cut.clone();
                    self.stage = Stage::Ended;
                    return Poll::Ready(Some(Err(cut)));
                }
                Stage::Ended => return Poll::Ready(None),
            }
        }
    }

    /// Ends with `fault`: the event that says so, if the client can be told, and then the cut.
    fn fail(&mut self, fault: Fault) -> Result<Bytes, Cut> {
        self.end(Outcome::Fault(fault.kind()));
        self.tell(reply::fault_event(&fault), Cut { code: fault.kind().code(), fault })
    }

    /// The site answered, but with what cannot follow the head that the client has.
    fn misfit(&mut self, status: StatusCode) -> Result<Bytes, Cut> {
        self.end(Outcome::NotAStream);
        let text = "The site answered with no stream, after this one had begun.";
        let fault = Fault::new(FaultKind::FetchFailed, text).because(format_args!("its status is {status}"));
        self.tell(reply::misfit_event(status), Cut { code: NOT_A_STREAM, fault })
    }

    fn tell(&mut self, event: Bytes, cut: Cut) -> Result<Bytes, Cut> {
        let is_told = self.is_begun_early && self.pulse.as_ref().is_some_and(Pulse::is_between_events);
        if !is_told {
            return Err(cut);
        }
        self.stage = Stage::Cut(cut, Box::pin(tokio::time::sleep(BEFORE_CUT)));
        Ok(event)
    }

    /// Lets go of the exchange and its place.
    fn end(&mut self, outcome: Outcome) {
        self.stage = Stage::Ended;
        if let Some(account) = self.account.take() {
            account.ending.end(outcome);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let next = this.poll_chunk(cx);
        let Some(pulse) = &mut this.pulse else { return next.map_ok(Frame::data) };
        match next {
            Poll::Ready(Some(Ok(bytes))) => {
                pulse.pass(&bytes);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Pending => {
                ready!(pulse.poll_due(cx));
                pulse.beat();
                Poll::Ready(Some(Ok(Frame::data(PING))))
            }
            end => end.map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use axum::http::header;
    use http_body_util::BodyExt;
    use prometheus_client::registry::Registry;
    use tokio::sync::oneshot;

    use crate::admission::Admission;
    use crate::error::FaultKind;
    use crate::exchange::Valve;
    use crate::flow::Window;
    use crate::pipe::Pipe;
    use crate::telemetry::metrics::Sample;

    const EVERY: Duration = Duration::from_secs(4);

    #[derive(Default)]
    struct Cancels(AtomicUsize);

    impl Valve for Cancels {
        fn grant(&self, _: u32, _: u32) {}
        fn cancel(&self, _: u32) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Bench {
        pipe: Arc<Pipe>,
        cancels: Arc<Cancels>,
        door: Admission,
        metrics: Metrics,
    }

    impl Bench {
        async fn new() -> (Bench, AnswerBody) {
            let (bench, exchange, permit, account) = Bench::parts().await;
            (bench, AnswerBody::new(exchange, permit, None, account))
        }

        /// A body that began before there was an answer; the answer is what is sent into it.
        async fn early() -> (Bench, AnswerBody, oneshot::Sender<Result<StatusCode, Fault>>) {
            let (bench, exchange, permit, account) = Bench::parts().await;
            let (sender, receiver) = oneshot::channel::<Result<StatusCode, Fault>>();
            let answer = async move {
                let status = receiver.await.unwrap()?;
                let kind = (header::CONTENT_TYPE, "text/event-stream".parse().unwrap());
                Ok(Answer { status, headers: HeaderMap::from_iter([kind]), exchange, permit })
            };
            let pulse = Pulse::new(EVERY, tokio::time::Instant::now());
            (bench, AnswerBody::early(Box::pin(answer), pulse, account), sender)
        }

        async fn parts() -> (Bench, Exchange, Permit, Account) {
            let pipe = Arc::new(Pipe::new(Window::new(1000, 4000), Arc::default(), Instant::now()));
            let bench = Bench {
                pipe,
                cancels: Arc::default(),
                door: Admission::new(1, 0, Duration::ZERO),
                metrics: Metrics::new(Registry::default()),
            };
            let exchange = Exchange::new(1, bench.pipe.clone(), bench.cancels.clone());
            let permit = bench.door.enter(Instant::now()).await.unwrap();
            let account = Account { ending: bench.metrics.begin(), metrics: bench.metrics.clone() };
            (bench, exchange, permit, account)
        }

        fn assert(&self, outcome: &str, cancels: usize) {
            let text = self.metrics.render(&Sample {
                phase: "ready",
                browser_starts: 0,
                pages: 0,
                inflight: 0,
                places: 1,
                queued: 0,
                buffered: 0,
                browser: None,
                browser_group: None,
            });
            let counted: Vec<_> = text
                .lines()
                .filter(|it| it.starts_with("tabproxy_exchanges_total") && it.ends_with(" 1"))
                .collect();
            assert_eq!(counted, [format!("tabproxy_exchanges_total{{outcome=\"{outcome}\"}} 1")]);
            assert_eq!(self.cancels.0.load(Ordering::Relaxed), cancels);
            assert_eq!(self.door.running(), 0);
        }
    }

    #[tokio::test]
    async fn a_whole_answer_ends_cleanly_and_frees_its_place_at_the_last_byte() {
        let (bench, mut body) = Bench::new().await;
        bench.pipe.data(Bytes::from("abc"), 3, Instant::now()).unwrap();
        bench.pipe.finish(Ok(()));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(body.frame().await.is_none() && body.is_end_stream());
        bench.assert("complete", 0);
    }

    #[tokio::test]
    async fn a_fault_is_an_error_after_the_bytes_before_it() {
        let (bench, mut body) = Bench::new().await;
        bench.pipe.data(Bytes::from("abc"), 3, Instant::now()).unwrap();
        bench.pipe.finish(Err(Fault::new(FaultKind::PageLost, "lost")));
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(body.frame().await.unwrap().unwrap_err().fault.kind(), FaultKind::PageLost);
        drop(body);
        bench.assert("page_lost", 0);
    }

    #[tokio::test]
    async fn a_client_that_leaves_aborts_the_fetch() {
        let (bench, body) = Bench::new().await;
        drop(body);
        bench.assert("client_gone", 1);
    }

    /// The next frame's text.
    async fn next(body: &mut AnswerBody) -> Result<String, FaultKind> {
        let frame = body.frame().await.expect("a frame").map_err(|cut| cut.fault.kind())?;
        Ok(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_before_the_answer_and_in_it_is_filled_with_pings_between_events() {
        let (bench, mut body, sender) = Bench::early().await;
        for _ in 0..3 {
            assert_eq!(next(&mut body).await.unwrap(), ": ping\n\n");
        }
        sender.send(Ok(StatusCode::OK)).unwrap();
        for (piece, pings) in [("data: a\n\n", 1), ("data", 0), (": b\n\n", 2)] {
            bench.pipe.data(Bytes::from(piece), piece.len(), Instant::now()).unwrap();
            assert_eq!(next(&mut body).await.unwrap(), piece);
            for _ in 0..pings {
                assert_eq!(next(&mut body).await.unwrap(), ": ping\n\n");
            }
        }
        bench.pipe.finish(Ok(()));
        assert!(body.frame().await.is_none() && body.is_end_stream());
        bench.assert("complete", 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_after_an_early_head_is_an_error_event_and_then_a_cut() {
        let (bench, mut body, sender) = Bench::early().await;
        sender.send(Err(Fault::new(FaultKind::PageLost, "lost").maybe_sent())).ok().unwrap();
        let event = next(&mut body).await.unwrap();
        let json = event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        let error = &serde_json::from_str::<serde_json::Value>(json).unwrap()["error"];
        assert_eq!(
            *error,
            serde_json::json!({"code": "page_lost", "message": "lost", "maybe_sent": true, "status": 502})
        );
        assert_eq!(next(&mut body).await, Err(FaultKind::PageLost));
        drop(body);
        bench.assert("page_lost", 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_no_stream_cannot_follow_an_early_head() {
        let (bench, mut body, sender) = Bench::early().await;
        sender.send(Ok(StatusCode::TOO_MANY_REQUESTS)).ok().unwrap();
        let event = next(&mut body).await.unwrap();
        assert!(event.contains("\"status\":429") && event.contains("not_a_stream"), "{event}");
        assert!(next(&mut body).await.is_err());
        drop(body);
        bench.assert("not_a_stream", 1);
    }

    #[tokio::test(start_paused = true)]
    async fn within_an_event_a_fault_is_a_cut_only() {
        let (bench, mut body, sender) = Bench::early().await;
        sender.send(Ok(StatusCode::OK)).ok().unwrap();
        bench.pipe.data(Bytes::from("data: ha"), 8, Instant::now()).unwrap();
        bench.pipe.finish(Err(Fault::new(FaultKind::FetchFailed, "cut")));
        assert_eq!(next(&mut body).await.unwrap(), "data: ha");
        assert_eq!(next(&mut body).await, Err(FaultKind::FetchFailed));
        drop(body);
        bench.assert("fetch_failed", 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_before_the_answer_frees_everything() {
        let (bench, mut body, _sender) = Bench::early().await;
        assert_eq!(next(&mut body).await.unwrap(), ": ping\n\n");
        drop(body);
        bench.assert("client_gone", 1);
    }
}
