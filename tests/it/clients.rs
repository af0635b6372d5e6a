//! Clients that leave, that stand still, and that come in crowds.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use tabproxy::practice::answer_text;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{Rig, code_of, eventually, last_text, turn};

/// In flight, as the metrics say.
async fn in_flight(rig: &Rig) -> String {
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    metrics.lines().find(|it| it.starts_with("tabproxy_inflight ")).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_the_site_before_and_after_the_head() {
    departures(Rig::ready().await).await;
}

pub async fn departures(rig: Rig) {
    for (n, prompt) in ["hello first=60000", "hello count=100000 interval=20"].into_iter().enumerate() {
        let id = format!("m{n}");
        let asked = rig.ask(&id, prompt);
        if n == 0 {
            // Given up before there is any answer.
            let gone = tokio::time::timeout(Duration::from_secs(1), asked).await;
            assert!(gone.is_err(), "the head is a minute away");
        } else {
            let mut stream = asked.await.bytes_stream();
            assert!(stream.next().await.unwrap().unwrap().len() > 1);
        }
        eventually(|| rig.counters(), |it| it.aborted == n as u64 + 1 && it.active == 0).await;
    }
    assert_eq!(in_flight(&rig).await, "tabproxy_inflight 0");
    let seen = rig.counters().posts_by_message_id;
    assert!(seen.values().all(|it| *it == 1), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stand_still_slow_nobody_else() {
    standing_still(Rig::ready().await).await;
}

pub async fn standing_still(rig: Rig) {
    // Each takes the head and then nothing of 200 MB: more than the session window of the connection.
    let mut still = Vec::new();
    for _ in 0..4 {
        let mut socket = TcpStream::connect(rig.addr()).await.unwrap();
        let request = "GET /backend-api/practice/bytes?n=200000000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut some = [0; 512];
        assert!(socket.read(&mut some).await.unwrap() > 0);
        still.push(socket);
    }
    // One after the other for as long as the patience with them, since it takes a moment until they are felt.
    let prompt = "hello count=20 interval=20";
    let began = Instant::now();
    let mut worst = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(15) {
        let asked = Instant::now();
        let id = format!("m{}", began.elapsed().as_micros());
        assert_eq!(last_text(&rig.ask(&id, prompt).await.bytes().await.unwrap()), answer_text(prompt));
        worst = worst.max(asked.elapsed());
    }
    println!("beside readers that stand still, half a second's answer took at most {worst:?}");
    assert!(worst < Duration::from_secs(8), "{worst:?}");
    // What is held for them is bounded, and they are let go in the end.
    let held = rig.server.browser().status().buffered;
    assert!(held <= 64 << 20, "{held}");
    eventually(|| rig.counters(), |it| it.active == 0).await;
    eventually(|| rig.server.browser().status().buffered, |it| *it == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded_and_says_so_and_a_waiting_client_that_leaves_is_never_sent() {
    let change = |config: &mut tabproxy::config::Config| {
        (config.max_inflight, config.queue, config.queue_wait) = (1, 1, Duration::from_secs(2));
    };
    let rig = Rig::with(Default::default(), change).await;
    let running = rig.ask("running", "hello count=100000 interval=20").await;
    let metric = |name: &'static str| {
        let request = rig.client.get(rig.url("/metrics")).send();
        async move {
            let text = request.await.unwrap().text().await.unwrap();
            text.lines().find(|it| it.starts_with(name)).unwrap_or_default().to_owned()
        }
    };
    {
        let waiting = rig.ask("leaves", "hello count=1");
        tokio::pin!(waiting);
        // Poll it until it has its place.
        loop {
            tokio::select! {
                _ = &mut waiting => panic!("there is no free place to run in"),
                line = metric("tabproxy_queued ") => if line.ends_with(" 1") { break },
            }
        }
        let refused = rig.ask("too-many", "hello").await;
        assert_eq!(refused.status(), 429);
        assert!(refused.headers().contains_key("retry-after"));
        assert_eq!(code_of(refused).await, "queue_full");
    }
    while !metric("tabproxy_queued ").await.ends_with(" 0") {}
    let late = rig.ask("late", "hello").await;
    assert_eq!((late.status().as_u16(), code_of(late).await.as_str()), (503, "queue_timeout"));
    drop(running);
    assert_eq!(rig.ask("next", "hello count=1").await.status(), 200);
    let sent: Vec<_> = rig.counters().posts_by_message_id.into_keys().collect();
    assert_eq!(sent, ["next", "running"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_streams_as_the_browser_can_hold_at_once() {
    let rig = Rig::with(Default::default(), |config| config.max_inflight = 256).await;
    let prompt = "hello count=20 interval=100";
    let expected = answer_text(prompt);
    let asked = (0..256).map(|n| {
        let (rig, expected) = (&rig, &expected);
        async move {
            let answer = rig.ask(&format!("m{n}"), prompt).await.bytes().await.unwrap();
            answer.ends_with(b"data: [DONE]\n\n") && last_text(&answer) == *expected
        }
    });
    let whole = join_all(asked).await.into_iter().filter(|it| *it).count();
    assert_eq!(whole, 256);
    let seen = rig.counters();
    assert!(seen.posts_by_message_id.len() == 256 && seen.posts_by_message_id.values().all(|it| *it == 1));
    assert!(seen.max_active > 200, "they ran at the same time: {}", seen.max_active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_of_its_own_body_is_never_sent() {
    let rig = Rig::ready().await;
    let body = turn("half", "hello").to_string();
    let mut socket = TcpStream::connect(rig.addr()).await.unwrap();
    let head = format!(
        "POST /backend-api/conversation HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&body.as_bytes()[..20]).await.unwrap();
    drop(socket);
    while in_flight(&rig).await != "tabproxy_inflight 0" {}
    assert_eq!(rig.ask("whole", "hello count=1").await.status(), 200);
    assert_eq!(rig.counters().posts_arrived, 1);
}
