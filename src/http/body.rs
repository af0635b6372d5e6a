//! An answer's body: an exchange on its way out, with the permit that it runs under.
//!
//! A fault makes the body fail, so that the connection or the HTTP/2 stream is cut: the client must never
//! take a part for the whole. When the client leaves, the body is dropped, and with it the exchange (which
//! aborts the fetch in the page) and the permit.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use http_body::{Body, Frame};

use super::reply::{self, Asked};
use crate::admission::Permit;
use crate::error::Fault;
use crate::exchange::Exchange;
use crate::telemetry::metrics::{Ending, Metrics, Outcome};

/// The rest of an exchange, as an HTTP body of unknown length.
pub struct ExchangeBody {
    running: Option<Running>,
    metrics: Metrics,
    asked: Asked,
    status: u16,
}

/// What ends with the last byte, not with the connection's interest in the body.
struct Running {
    exchange: Exchange,
    ending: Ending,
}

impl ExchangeBody {
    /// The body of the answer with `status` to `asked`. `ending` counts how it ends.
    pub fn new(
        exchange: Exchange,
        permit: Permit,
        ending: Ending,
        metrics: Metrics,
        asked: Asked,
        status: u16,
    ) -> ExchangeBody {
        exchange.hold(permit);
        let running = Some(Running { exchange, ending });
        ExchangeBody { running, metrics, asked, status }
    }
}

impl Body for ExchangeBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let Some(running) = &mut this.running else { return Poll::Ready(None) };
        match ready!(running.exchange.poll_chunk(cx)) {
            Some(Ok(taken)) => {
                this.metrics.sent(taken.bytes.len(), taken.delay);
                Poll::Ready(Some(Ok(Frame::data(taken.bytes))))
            }
            Some(Err(fault)) => {
                reply::cut(&fault, &this.asked, this.status);
                this.end(Outcome::Fault(fault.kind()));
                Poll::Ready(Some(Err(fault)))
            }
            None => {
                this.end(Outcome::Complete);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.running.is_none()
    }
}

impl ExchangeBody {
    fn end(&mut self, outcome: Outcome) {
        if let Some(running) = self.running.take() {
            running.ending.end(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use http_body_util::BodyExt;
    use prometheus_client::registry::Registry;

    use crate::admission::Admission;
    use crate::error::FaultKind;
    use crate::exchange::Valve;
    use crate::flow::Window;
    use crate::pipe::Pipe;
    use crate::telemetry::metrics::Sample;

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
        async fn new() -> (Bench, ExchangeBody) {
            let pipe = Arc::new(Pipe::new(Window::new(1000, 4000), Arc::default(), Instant::now()));
            let bench = Bench {
                pipe,
                cancels: Arc::default(),
                door: Admission::new(1, 0, Duration::ZERO),
                metrics: Metrics::new(Registry::default()),
            };
            let exchange = Exchange::new(1, bench.pipe.clone(), bench.cancels.clone());
            let permit = bench.door.enter(Instant::now()).await.unwrap();
            let asked = Asked::of(&axum::extract::Request::default());
            let ending = bench.metrics.begin();
            let body = ExchangeBody::new(exchange, permit, ending, bench.metrics.clone(), asked, 200);
            (bench, body)
        }

        fn assert(&self, outcome: &str, cancels: usize) {
            let text = self.metrics.render(&Sample {
                phase: "ready",
                browser_starts: 0,
                pages: 0,
                inflight: 0,
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
        assert_eq!(body.frame().await.unwrap().unwrap_err().kind(), FaultKind::PageLost);
        drop(body);
        bench.assert("page_lost", 0);
    }

    #[tokio::test]
    async fn a_client_that_leaves_aborts_the_fetch() {
        let (bench, body) = Bench::new().await;
        drop(body);
        bench.assert("client_gone", 1);
    }
}
