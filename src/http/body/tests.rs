//! The body alone, with a pipe in place of a page.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::http::header;
use futures::StreamExt;
use http_body::Body as _;
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

use crate::admission::Admission;
use crate::error::FaultKind;
use crate::exchange::Valve;
use crate::flow::Window;
use crate::pipe::Pipe;
use crate::telemetry::metrics::Sample;
use crate::translate;

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
            let wait = (header::RETRY_AFTER, "7".parse().unwrap());
            Ok(Answer { status, headers: HeaderMap::from_iter([kind, wait]), exchange, permit })
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
            events: 0,
            browser: None,
            browser_groups: Vec::new(),
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

/// The pieces that a client gets of an answer of this kind, and how it ends.
async fn pieces(kind: &str, sent: &[&[u8]], end: Result<(), Fault>) -> (Vec<Bytes>, bool) {
    let (bench, body) = Bench::new().await;
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
    let mut stream = body.respond(headers, None).into_body().into_data_stream();
    let mut got = Vec::new();
    for piece in sent {
        bench.pipe.data(Bytes::copy_from_slice(piece), piece.len(), Instant::now()).unwrap();
        got.extend(stream.next().now_or_never().flatten().transpose().unwrap());
    }
    bench.pipe.finish(end);
    loop {
        match stream.next().await {
            Some(Ok(piece)) => got.push(piece),
            last => return (got, last.is_none()),
        }
    }
}

#[tokio::test]
async fn an_event_stream_is_torn_in_no_character_and_loses_none() {
    let (early, late) = "data: 早".as_bytes().split_at(7);
    let (events, bytes) = ("text/event-stream; charset=utf-8", "application/octet-stream");
    let got = pieces(events, &[early, late], Ok(())).await;
    assert_eq!(got, (vec!["data: ".into(), "早".into()], true));
    // What never becomes whole is passed on before the end, and before a cut.
    assert_eq!(
        pieces(events, &[early], Ok(())).await,
        (vec![Bytes::from("data: "), Bytes::from_static(b"\xe6")], true)
    );
    let lost = || Err(Fault::new(FaultKind::PageLost, "lost"));
    let (got, is_clean) = pieces(events, &[early], lost()).await;
    assert!(got.concat() == early && !is_clean, "{got:?}");
    // Other bodies are bytes.
    assert_eq!(pieces(bytes, &[early, late], Ok(())).await.0, [early, late]);
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

/// Writes every whole line as an event in capitals; `stop` is all that it wants, and `bad` nothing it knows.
#[derive(Default)]
struct Loud {
    line: Vec<u8>,
    end: Option<translate::Ending>,
}

impl Translate for Loud {
    fn pass(&mut self, piece: &Bytes, out: &mut BytesMut) -> Result<Flow, Fault> {
        for byte in piece {
            if *byte != b'\n' {
                self.line.push(byte.to_ascii_uppercase());
                continue;
            }
            match &*std::mem::take(&mut self.line) {
                b"STOP" => return Ok(Flow::Done),
                b"BAD" => return Err(Fault::new(FaultKind::Internal, "bad").maybe_sent()),
                line => {
                    out.extend_from_slice(line);
                    out.extend_from_slice(b"\n\n");
                }
            }
        }
        Ok(Flow::On)
    }

    fn end(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        out.extend_from_slice(b"end\n\n");
        if self.line.is_empty() { Ok(()) } else { Err(Fault::new(FaultKind::FetchFailed, "half a line")) }
    }

    fn fail(&mut self, fault: &Fault, out: &mut BytesMut) -> translate::Ending {
        let site = fault.site().map(|it| (it.status, it.sentence.clone()));
        if self.end.is_some() || site.is_some() {
            let wait = fault.wait().map(|it| it.as_secs());
            out.extend_from_slice(format!("{fault} {site:?} {wait:?}\n\n").as_bytes());
        }
        self.end.unwrap_or(translate::Ending::Cut)
    }
}

fn loud(end: Option<translate::Ending>) -> Box<Loud> {
    Box::new(Loud { end, ..Loud::default() })
}

fn feed(bench: &Bench, piece: &'static str) {
    bench.pipe.data(Bytes::from(piece), piece.len(), Instant::now()).unwrap();
}

#[tokio::test]
async fn a_translation_takes_bytes_split_anywhere_and_has_the_last_word() {
    let (bench, body) = Bench::new().await;
    let (mut body, note) = body.translated(loud(None));
    feed(&bench, "on");
    let waits = futures::poll!(body.frame());
    assert!(waits.is_pending(), "nothing to write yet");
    feed(&bench, "e\ntwo\n");
    assert_eq!(next(&mut body).await.unwrap(), "ONE\n\nTWO\n\n");
    bench.pipe.finish(Ok(()));
    assert_eq!(next(&mut body).await.unwrap(), "end\n\n");
    assert!(body.is_end_stream() && body.frame().await.is_none() && note.read().is_none());
    bench.assert("complete", 0);
}

#[tokio::test]
async fn a_translation_that_has_enough_ends_cleanly_and_aborts_the_fetch() {
    for (stream, last) in [("one\nstop\nthree\n", Some("ONE\n\n")), ("stop\n", None)] {
        let (bench, body) = Bench::new().await;
        let (mut body, _) = body.translated(loud(None));
        feed(&bench, stream);
        if let Some(last) = last {
            assert_eq!(next(&mut body).await.unwrap(), last);
        }
        assert!(body.frame().await.is_none());
        bench.assert("complete", 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_translation_says_what_a_fault_looks_like_and_how_the_answer_ends_then() {
    use translate::Ending::{Clean, Cut};
    for (end, stream, said, outcome) in [
        (Some(Clean), "one\n", Some("lost None None\n\n"), "page_lost"),
        (Some(Cut), "one\n", Some("lost None None\n\n"), "page_lost"),
        (None, "one\n", None, "page_lost"),
        (Some(Clean), "one\ntwo\nbad\n", Some("bad None None\n\n"), "internal"),
    ] {
        let (bench, body) = Bench::new().await;
        let (mut body, note) = body.translated(loud(end));
        feed(&bench, stream);
        bench.pipe.finish(Err(Fault::new(FaultKind::PageLost, "lost").maybe_sent()));
        // What was written before the fault is not lost.
        let mut got = String::new();
        let ended = loop {
            match body.frame().await {
                Some(Ok(frame)) => got += std::str::from_utf8(frame.data_ref().unwrap()).unwrap(),
                Some(Err(cut)) => break Some(cut.code),
                None => break None,
            }
        };
        assert_eq!(
            got,
            stream.replace("bad\n", "").to_uppercase().replace('\n', "\n\n") + said.unwrap_or("")
        );
        assert_eq!(ended, (end != Some(Clean)).then_some(outcome));
        assert_eq!(note.read().map(|cut| cut.code), Some(outcome), "the journal knows");
        drop(body);
        bench.assert(outcome, usize::from(stream.contains("bad")));
    }
}

#[tokio::test]
async fn an_end_that_a_translation_does_not_take_for_one_is_a_fault() {
    let (bench, body) = Bench::new().await;
    let (mut body, _) = body.translated(loud(Some(translate::Ending::Clean)));
    feed(&bench, "one\nha");
    bench.pipe.finish(Ok(()));
    assert_eq!(next(&mut body).await.unwrap(), "ONE\n\n");
    assert_eq!(next(&mut body).await.unwrap(), "end\n\nhalf a line None None\n\n");
    assert!(body.frame().await.is_none());
    bench.assert("fetch_failed", 0);
}

#[tokio::test(start_paused = true)]
async fn pings_come_between_what_a_translation_writes_even_within_an_event_of_the_sites() {
    let (bench, body, sender) = Bench::early().await;
    let (mut body, _) = body.translated(loud(None));
    assert_eq!(next(&mut body).await.unwrap(), ": ping\n\n");
    sender.send(Ok(StatusCode::OK)).ok().unwrap();
    feed(&bench, "one\ntw");
    assert_eq!(next(&mut body).await.unwrap(), "ONE\n\n");
    assert_eq!(next(&mut body).await.unwrap(), ": ping\n\n");
    feed(&bench, "o\n");
    assert_eq!(next(&mut body).await.unwrap(), "TWO\n\n");
    drop(body);
    bench.assert("client_gone", 1);
}

#[tokio::test(start_paused = true)]
async fn a_translation_is_told_what_the_site_said_instead_of_a_stream() {
    let (bench, body, sender) = Bench::early().await;
    let (mut body, note) = body.translated(loud(Some(translate::Ending::Clean)));
    assert_eq!(next(&mut body).await.unwrap(), ": ping\n\n");
    sender.send(Ok(StatusCode::TOO_MANY_REQUESTS)).ok().unwrap();
    feed(&bench, r#"{"detail":{"message":"Too "#);
    assert_eq!(next(&mut body).await.unwrap(), ": ping\n\n", "while the site's error is read");
    feed(&bench, r#"many."}}"#);
    bench.pipe.finish(Ok(()));
    let said = next(&mut body).await.unwrap();
    assert!(said.contains(r#"(429, Some("Too many."))"#) && said.ends_with("Some(7)\n\n"), "{said}");
    assert!(body.frame().await.is_none());
    assert_eq!(note.read().unwrap().code, "site_error");
    bench.assert("site_error", 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_sites_that_never_ends_is_read_for_a_while_only() {
    let (bench, body, sender) = Bench::early().await;
    let (mut body, _) = body.translated(loud(None));
    sender.send(Ok(StatusCode::BAD_GATEWAY)).ok().unwrap();
    feed(&bench, "<html>");
    let begun = tokio::time::Instant::now();
    let mut said = next(&mut body).await.unwrap();
    while said == ": ping\n\n" {
        said = next(&mut body).await.unwrap();
    }
    assert!(said.contains("(502, None)") && begun.elapsed() < Duration::from_secs(10), "{said}");
    assert!(body.frame().await.unwrap().is_err());
    drop(body);
    bench.assert("site_error", 1);
}
