//! Bad input gets a clear 4xx over a raw socket, and the site hears nothing of it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{Rig, code_of};

/// What comes back for these very bytes.
async fn raw(rig: &Rig, request: &str) -> String {
    let mut socket = TcpStream::connect(rig.addr()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut some = [0; 4096];
    // Until the first whole answer, or the end.
    while let Ok(n) = socket.read(&mut some).await {
        answer.extend_from_slice(&some[..n]);
        let text = String::from_utf8_lossy(&answer);
        if n == 0
            || text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.ends_with('}') || body.is_empty())
        {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal() {
    let rig = Rig::ready().await;
    // (request line, more headers, status, code or nothing where hyper itself answers)
    let cases = [
        ("GET //evil.example/x", "", 400, "bad_request"),
        ("GET http://evil.example/backend-api/x", "", 400, "bad_request"),
        ("GET /backend-api/%2e%2e/api/auth/session", "", 400, "bad_request"),
        ("GET /backend-api/..%2fapi", "", 400, "bad_request"),
        ("GET /backend-api/../api/auth/session", "", 400, "bad_request"),
        ("GET /backend-api/%252e%252e/x", "", 400, "bad_request"),
        ("GET /backend-api/a\\b", "", 400, ""),
        ("GET /backend-api/a%5cb", "", 400, "bad_request"),
        ("GET /backend-api/a%00b", "", 400, "bad_request"),
        ("GET /backend-api/a%0d%0ab", "", 400, "bad_request"),
        ("GET /", "", 403, "path_not_allowed"),
        ("GET /api/auth/session", "", 403, "path_not_allowed"),
        ("GET /API/AUTH/SESSION", "", 403, "path_not_allowed"),
        ("GET /backend-apix/y", "", 403, "path_not_allowed"),
        ("TRACE /backend-api/x", "", 405, "method_not_allowed"),
        ("GET /backend-api/x", "content-length: 1\r\n", 400, "bad_request"),
        ("HEAD /backend-api/x", "content-length: 1\r\n", 400, ""),
        ("GET /backend-api/x", "origin: https://evil.example\r\n", 403, "foreign_origin"),
        ("GET /backend-api/x", "origin: null\r\n", 403, "foreign_origin"),
        ("GET /healthz", "origin: https://evil.example\r\n", 403, "foreign_origin"),
        ("GET /backend-api/x", "sec-fetch-site: cross-site\r\n", 403, "foreign_origin"),
        ("POST /healthz", "", 405, ""),
    ];
    for (line, headers, status, code) in cases {
        let answer = raw(&rig, &format!("{line} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\nx")).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{line} {headers:?}: {answer}");
        assert!(answer.contains(code), "{line}: {answer}");
    }
    for (host, status) in [
        ("localhost", 200),
        ("localhost:99", 200),
        ("127.0.0.1", 200),
        ("192.168.1.7:3000", 200),
        ("[::1]:3000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("bad host", 400),
    ] {
        let answer =
            raw(&rig, &format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
    }
    let connect = raw(&rig, "CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n").await;
    assert!(connect.starts_with("HTTP/1.1 4"), "{connect}");
    let long =
        format!("GET /backend-api/x HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "a".repeat(200_000));
    let answer = raw(&rig, &long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    // The page loads things of its own meanwhile, so it is our count that says that nothing went into it.
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    let ended = metrics.lines().filter_map(|it| it.strip_prefix("tabproxy_exchanges_total{outcome=\""));
    let mut ended: Vec<_> =
        ended.filter(|it| !it.ends_with(" 0")).filter_map(|it| it.split('"').next()).collect();
    ended.sort_unstable();
    assert_eq!(ended, ["bad_request", "method_not_allowed", "path_not_allowed"], "all were refused");
    assert_eq!(rig.counters().posts_arrived, 0);
    assert_eq!(rig.get("/backend-api/practice/echo").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_the_server_answers_to() {
    let named = |config: &mut tabproxy::config::Config| {
        config.hosts = tabproxy::config::Hosts::Names(vec!["bots.example".into()]);
    };
    let rig = Rig::with(Default::default(), named).await;
    let ask = |host: &'static str| rig.client.get(rig.url("/backend-api/models")).header("host", host).send();
    assert_eq!(ask("bots.example").await.unwrap().status(), 200);
    assert_eq!(ask("BOTS.example:8443").await.unwrap().status(), 200);
    let foreign = ask("other.example").await.unwrap();
    assert_eq!((foreign.status().as_u16(), code_of(foreign).await.as_str()), (403, "foreign_host"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_ready_and_metrics() {
    let rig = Rig::ready().await;
    assert_eq!(rig.get("/healthz").await.status(), 200);
    let ready = rig.get("/readyz").await;
    assert_eq!(ready.status(), 200);
    assert!(ready.text().await.unwrap().contains("\"ready\""));
    let _ = rig.ask("m", "hello count=3").await.bytes().await.unwrap();
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    for line in [
        "tabproxy_phase{phase=\"ready\"} 1",
        "tabproxy_phase{phase=\"starting\"} 0",
        "tabproxy_exchanges_total{outcome=\"complete\"} 1",
        "tabproxy_inflight 0",
        "tabproxy_queued 0",
        "tabproxy_time_to_head_seconds_count 1",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
    for name in [
        "tabproxy_event_delay_seconds_bucket",
        "tabproxy_body_bytes_total",
        "tabproxy_browser_resident_memory_bytes",
        "tabproxy_process_resident_memory_bytes",
        "tabproxy_browser_starts_total 1",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
}
