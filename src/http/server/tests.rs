//! A connection's patience, with a clock that the tests move.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use super::*;

const ASK: &str = "GET /now HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// The client's end of a served connection, over a pipe that holds `room` bytes.
fn connect(room: usize) -> DuplexStream {
    let (client, server) = tokio::io::duplex(room);
    let service = tower::service_fn(|mut request: Request<hyper::body::Incoming>| async move {
        if request.uri().path() == "/echo" {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut said, mut answer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                let _ = tokio::io::copy(&mut said, &mut answer).await;
            });
            let head =
                Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
            return Ok(head.body(Body::empty()).unwrap());
        }
        let body = match request.uri().path() {
            // The head at once, and the end after a minute.
            "/slow" => Body::from_stream(
                futures::stream::once(tokio::time::sleep(Duration::from_secs(60)))
                    .map(|()| Ok::<_, Infallible>("done")),
            ),
            "/large" => Body::from(vec![b'x'; 1 << 20]),
            "/read" => {
                Body::from(axum::body::to_bytes(Body::new(request.into_body()), 1 << 20).await.unwrap())
            }
            _ => Body::from("now"),
        };
        Ok::<_, Infallible>(Response::new(body))
    });
    let (line, service) = line::new(server, service);
    let mut builder = Builder::new(TokioExecutor::new());
    limit(&mut builder);
    tokio::spawn(async move {
        let service = TowerToHyperService::new(service);
        let _ = builder.serve_connection_with_upgrades(TokioIo::new(line), service).await;
    });
    client
}

/// Reads until `end` has come.
async fn until(client: &mut DuplexStream, end: &str) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end.as_bytes()) {
        let mut some = [0; 4096];
        let n = client.read(&mut some).await.unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&some[..n]);
    }
    String::from_utf8(got).unwrap()
}

/// How long it takes until the other side closes; nothing may come before.
async fn closed(client: &mut DuplexStream) -> Duration {
    let since = Instant::now();
    let end = client.read(&mut [0; 64]).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    since.elapsed()
}

fn is_about(took: Duration, expected: Duration) -> bool {
    took >= expected && took < expected + Duration::from_secs(1)
}

#[tokio::test(start_paused = true)]
async fn where_another_protocol_is_spoken_nobody_waits_for_a_head() {
    let mut client = connect(1 << 16);
    let ask = "GET /echo HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client.write_all(ask.as_bytes()).await.unwrap();
    until(&mut client, "\r\n\r\n").await;
    for _ in 0..3 {
        client.write_all(b"still here").await.unwrap();
        until(&mut client, "still here").await;
        tokio::time::sleep(3 * line::HEAD_TIME).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_or_half_a_head_is_waited_for_only_so_long() {
    for said in ["", "G", "PRI * HTTP/2.0\r\n\r\nSM", &ASK[..30]] {
        let mut client = connect(1 << 16);
        client.write_all(said.as_bytes()).await.unwrap();
        let took = closed(&mut client).await;
        assert!(is_about(took, line::HEAD_TIME), "{said:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_in_drops_gains_no_time() {
    let mut client = connect(1 << 16);
    let since = Instant::now();
    client.write_all(b"GET /").await.unwrap();
    while client.write_all(b"a").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(is_about(since.elapsed(), line::HEAD_TIME), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_and_its_next_head_gets_its_whole_time() {
    let mut client = connect(1 << 16);
    for _ in 0..3 {
        client.write_all(ASK.as_bytes()).await.unwrap();
        until(&mut client, "now").await;
        tokio::time::sleep(Duration::from_secs(75)).await;
        client.write_all(&ASK.as_bytes()[..20]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        client.write_all(&ASK.as_bytes()[20..]).await.unwrap();
        until(&mut client, "now").await;
    }
    // A head that is not finished ends it, and so does nothing at all.
    tokio::time::sleep(Duration::from_secs(75)).await;
    client.write_all(&ASK.as_bytes()[..20]).await.unwrap();
    let took = closed(&mut client).await;
    assert!(is_about(took, line::HEAD_TIME), "{took:?}");
    let mut client = connect(1 << 16);
    client.write_all(ASK.as_bytes()).await.unwrap();
    until(&mut client, "now").await;
    let took = closed(&mut client).await;
    assert!(is_about(took, IDLE), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_takes_the_time_it_takes() {
    let mut client = connect(1 << 16);
    client.write_all(ASK.replace("now", "slow").as_bytes()).await.unwrap();
    // The next request comes early, and half of the one after it.
    client.write_all(ASK.as_bytes()).await.unwrap();
    client.write_all(&ASK.as_bytes()[..20]).await.unwrap();
    let got = until(&mut client, "now").await;
    assert!(got.contains("done"), "{got}");
    client.write_all(&ASK.as_bytes()[20..]).await.unwrap();
    until(&mut client, "now").await;
    // A body in drops: how long that may take is for its reader to say.
    client.write_all(b"POST /read HTTP/1.1\r\nhost: localhost\r\ncontent-length: 30\r\n\r\n").await.unwrap();
    for n in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.write_all(&[b'a' + n % 26]).await.unwrap();
    }
    let got = until(&mut client, "d").await;
    assert!(got.ends_with("abcdefghijklmnopqrstuvwxyzabcd"), "{got}");
    client.write_all(ASK.as_bytes()).await.unwrap();
    until(&mut client, "now").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_has_left_and_one_that_takes_little_has_not() {
    let mut client = connect(1024);
    client.write_all(ASK.replace("now", "large").as_bytes()).await.unwrap();
    let mut some = [0; 1024];
    for _ in 0..5 {
        tokio::time::sleep(line::WRITE_TIME - Duration::from_secs(1)).await;
        assert!(client.read(&mut some).await.unwrap() > 0);
    }
    tokio::time::sleep(line::WRITE_TIME + Duration::from_secs(1)).await;
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest).await;
    assert!(rest.len() < 4096, "{} bytes of what it did not want", rest.len());
}

#[tokio::test(start_paused = true)]
async fn http2_is_looked_after_with_pings() {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(connect(1 << 16)))
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::get("http://localhost/slow").body(Body::empty()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), 100).await.unwrap();
        assert_eq!(body, "done");
        // Idle for longer than any head or HTTP/1 connection may be: the library answers pings.
        tokio::time::sleep(2 * IDLE).await;
    }
    assert!(!driver.is_finished());
    drop(sender);

    // One that has opened HTTP/2 and answers no ping.
    let mut dead = connect(1 << 16);
    dead.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let since = Instant::now();
    let mut rest = Vec::new();
    let _ = dead.read_to_end(&mut rest).await;
    assert!(since.elapsed() <= PING.0 + PING.1 + Duration::from_secs(1), "{:?}", since.elapsed());
}
