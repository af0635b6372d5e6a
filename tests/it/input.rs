//! Bytes that no honest client sends, on the wire and in bodies: a clear refusal or the very same bytes on
//! the other side, and never more memory or time than one request may take.

use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tabproxy::practice::{Practice, PracticeArgs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::program::Program;
use crate::rig::{PATIENCE, Rig, code_of};
use crate::shared::procfs::resident;

/// Sends these bytes and reads until the other side closes; what came, and whether it did close.
async fn send(addr: std::net::SocketAddr, bytes: &[u8]) -> (String, bool) {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    // Written and read at the same time: the refusal may come before all of it is out.
    let write = async { drop(writer.write_all(bytes).await) };
    let mut answer = Vec::new();
    // A close on bytes that nobody read arrives as a reset.
    let read = async { drop(reader.read_to_end(&mut answer).await) };
    let closed =
        tokio::time::timeout(Duration::from_secs(5), futures::future::join(write, read)).await.is_ok();
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_parsers_could_read_differently_is_refused_and_the_connection_closed() {
    let rig = Rig::ready().await;
    let before = rig.get("/metrics").await.text().await.unwrap();
    let many: String = (0..1000).map(|n| format!("x-{n}: {}\r\n", "a".repeat(100))).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(100_000));
    let headers = [
        // Lengths that contradict each other, or are none.
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5, 5\r\n",
        "content-length: 5, 6\r\n",
        "content-length: +5\r\n",
        "content-length: -5\r\n",
        "content-length: 0x5\r\n",
        "content-length: 5 5\r\n",
        "content-length: five\r\n",
        "content-length: \r\n",
        "content-length: 99999999999999999999\r\n",
        // Codings other than chunked at the end.
        "transfer-encoding: identity\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: \u{b}chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        // Lines that one parser joins or splits and another does not.
        "transfer-encoding : chunked\r\n",
        "content-length : 5\r\n",
        "x-a: b\r\n folded\r\n",
        "x-a: b\r\n\tfolded\r\n",
        " x-a: b\r\n",
        "x a: b\r\n",
        ": b\r\n",
        "x-a\r\n",
        "x-a: b\rx-b: c\r\n",
        "x-a: b\0c\r\n",
        "x-a: b\u{1}c\r\n",
        "x\0a: b\r\n",
        // Too much.
        &many,
        &long,
    ];
    let post = "POST /backend-api/conversation";
    let mut cases: Vec<_> = headers
        .iter()
        .map(|it| format!("{post} HTTP/1.1\r\nhost: localhost\r\n{it}\r\n5\r\nhello\r\n0\r\n\r\n"))
        .collect();
    let lines = [
        "POST /backend-api/conversation HTTP/1.2".to_owned(),
        "POST /backend-api/conversation HTTP/2.0".to_owned(),
        "POST /backend-api/conversation HTTP/9".to_owned(),
        "POST /backend-api/conversation".to_owned(),
        "POST  /backend-api/conversation HTTP/1.1".to_owned(),
        "POST /backend-api/ conversation HTTP/1.1".to_owned(),
        "POST /backend-api/conv\0ersation HTTP/1.1".to_owned(),
        "POST /backend-api/conv\rersation HTTP/1.1".to_owned(),
        "P\0ST /backend-api/conversation HTTP/1.1".to_owned(),
        "POST\t/backend-api/conversation HTTP/1.1".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0".to_owned(), // how TLS begins
        format!("POST /backend-api/{} HTTP/1.1", "a".repeat(100_000)),
        format!("{} /backend-api/conversation HTTP/1.1", "A".repeat(100_000)),
    ];
    cases.extend(lines.iter().map(|it| format!("{it}\r\nhost: localhost\r\n\r\n")));
    // Transfer-Encoding is not of HTTP/1.0.
    cases.push(format!(
        "{post} HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    ));
    // Chunks that are none.
    for chunks in
        ["fffffffffffffffff\r\nhello", "-5\r\nhello", "5\r\nhelloX0\r\n\r\n", "zz\r\n", "\r\n", " 5\r\nhello"]
    {
        cases.push(format!(
            "{post} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
        ));
    }
    for case in &cases {
        // What a second parser would take for a request of its own.
        let case = format!("{case}GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let (answer, closed) = send(rig.addr(), case.as_bytes()).await;
        let shown: String = case.chars().take(200).collect();
        // Where it closed on bytes that were still coming, the reset may overtake the answer.
        assert!(
            answer.starts_with("HTTP/1.1 4") || answer.is_empty() && case.len() > 60_000,
            "{shown:?}: {answer}"
        );
        assert_eq!(
            answer.matches("HTTP/1.1").count(),
            usize::from(!answer.is_empty()),
            "{shown:?}: {answer}"
        );
        assert!(closed, "{shown:?} leaves the connection open after {answer}");
    }
    assert_eq!(rig.counters().posts_arrived, 0);
    let sent = |text: &str| {
        text.lines().find(|it| it.starts_with("tabproxy_time_to_head_seconds_count")).map(str::to_owned)
    };
    let after = rig.get("/metrics").await.text().await.unwrap();
    assert_eq!(sent(&before), sent(&after), "nothing came back from the page");
}

/// The library reads such a request by its chunks, as RFC 9112 allows, and closes the connection after the
/// answer, as it demands: so nothing behind the body can pass for a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_smuggles_nothing() {
    let rig = Rig::ready().await;
    let smuggled =
        "POST /backend-api/conversation HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}";
    let both = [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
    ];
    for headers in both {
        let request = format!(
            "POST /backend-api/practice/mirror HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n5\r\nhello\r\n0\r\n\r\n{smuggled}"
        );
        let (answer, closed) = send(rig.addr(), request.as_bytes()).await;
        assert!(closed, "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        assert!(
            answer.starts_with("HTTP/1.1 4")
                || answer.contains("connection: close") && answer.contains("hello"),
            "{answer}"
        );
    }
    assert_eq!(rig.counters().posts_arrived, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_elsewhere_never_leave_by_any_spelling() {
    let rig = Rig::ready().await;
    let targets = [
        "//evil.example/backend-api/x",
        "///backend-api/x",
        "http://evil.example/backend-api/x",
        "https://evil.example/backend-api/x",
        "http://localhost/backend-api/x",
        "backend-api/x",
        "*",
        "/backend-api/..",
        "/backend-api/../../x",
        "/backend-api/%2e%2e/x",
        "/backend-api/%2E%2E%2Fx",
        "/backend-api/.%2e/x",
        "/backend-api/%252e%252e/x",
        "/backend-api/%2f%2fevil.example",
        "/backend-api/..%5cx",
        "/backend-api/..\\x",
        "/\\evil.example/backend-api",
        "/backend-api/a%0d%0ahost:%20evil",
        "/backend-api/a%0ab",
        "/backend-api/a%00b",
        "/backend-api/a\0b",
        "/backend-api/a\x7fb",
        "/backend-api/a%7fb",
        "/backend-api/x#y/../..",
        "@evil.example/backend-api/x",
        "evil.example:443",
    ];
    let long = format!("/backend-api/{}", "a/".repeat(40_000));
    for target in targets.into_iter().chain([long.as_str()]) {
        for method in ["GET", "POST"] {
            let request =
                format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            let (answer, closed) = send(rig.addr(), request.as_bytes()).await;
            let shown: String = target.chars().take(60).collect();
            if target.contains('#') {
                // What follows is never sent by anyone; what remains is an ordinary path.
                assert!(
                    answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 400"),
                    "{shown}: {answer}"
                );
                continue;
            }
            let is_refused = answer.starts_with("HTTP/1.1 4") && !answer.starts_with("HTTP/1.1 404");
            assert!(is_refused || answer.is_empty() && target.len() > 60_000, "{method} {shown}: {answer}");
            assert!(closed, "{shown}");
        }
    }
    assert_eq!(rig.counters().elsewhere_hits, 0);
    assert_eq!(rig.counters().posts_arrived, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_bodies_end_and_cost_no_more_than_their_limit() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let proxy = Program::start(&site, &[("TABPROXY_MAX_BODY", "4MiB")]).await;
    proxy.wait_ready().await;
    assert_eq!(proxy.ask("warm", "hello count=1").await.status(), 200);
    let before = resident(proxy.pid());

    // Sixteen that never stop sending, each until it is told to, or cut.
    let endless = (0..16).map(|_| async {
        let mut socket = TcpStream::connect(proxy.addr).await.unwrap();
        let head = "POST /backend-api/practice/mirror HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = socket.split();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        let mut sent = 0u64;
        let write = async {
            while writer.write_all(chunk.as_bytes()).await.is_ok() {
                sent += 0x10000;
            }
        };
        let mut answer = Vec::new();
        let read = reader.read_to_end(&mut answer);
        let ended = tokio::time::timeout(PATIENCE, futures::future::join(write, read)).await;
        assert!(ended.is_ok(), "still taken after {sent} bytes");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
        sent
    });
    let watch = async {
        let mut worst = 0;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            worst = resident(proxy.pid()).max(worst);
            if worst > before + (128 << 20) {
                return worst;
            }
        }
    };
    let sent = tokio::select! {
        sent = join_all(endless) => sent,
        worst = watch => panic!("grew from {before} to {worst}"),
    };
    println!("cut after {:?} MB", sent.iter().map(|it| it >> 20).collect::<Vec<_>>());

    // A length that nobody can mean is refused before a byte of it.
    for length in ["5000000", "1000000000000000000", "9223372036854775807"] {
        let request = format!(
            "POST /backend-api/practice/mirror HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
        );
        let (answer, closed) = send(proxy.addr, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413") && closed, "{length}: {answer}");
    }
    // A hundred whose bodies never come: each waits, and none of them holds what the others need.
    let silent = (0..100).map(|_| async {
        let mut socket = TcpStream::connect(proxy.addr).await.unwrap();
        let request = "POST /backend-api/practice/mirror HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000000\r\n\r\nx";
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "still waited for");
        String::from_utf8_lossy(&answer).into_owned()
    });
    for answer in join_all(silent).await {
        // 503 for those that found all places taken by the others until their patience in the queue ended.
        let refused = ["HTTP/1.1 408", "HTTP/1.1 503"].iter().any(|it| answer.starts_with(it));
        assert!(refused, "{answer}");
    }
    assert_eq!(proxy.ask("after", "hello count=1").await.status(), 200);
    assert_eq!(proxy.metric("tabproxy_inflight").await, 0.0);
    let after = resident(proxy.pid());
    println!("resident: {} MB, then {} MB", before >> 20, after >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_json_is_passed_on_untouched() {
    let rig = Rig::with(PracticeArgs::default(), |config| config.carriers = 1).await;
    let deep = "[".repeat(1 << 20);
    let deeper = format!("{}1{}", "{\"a\":".repeat(200_000), "}".repeat(200_000));
    for body in [deep, deeper] {
        let sent = rig.client.post(rig.url("/backend-api/practice/mirror"));
        let sent = sent.header("content-type", "application/json").body(body.clone()).send().await.unwrap();
        assert!(sent.text().await.unwrap() == body);
        let sent = rig.client.post(rig.url("/backend-api/conversation"));
        let refused = sent.header("content-type", "application/json").body(body).send().await.unwrap();
        assert!(refused.status().is_client_error(), "the site's own refusal: {}", refused.status());
    }
    assert_eq!(rig.ask("after", "hello count=1").await.status(), 200);
    assert_eq!(rig.server.browser().status().pages, 1, "the same page as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_scripts_and_decoders_stumble_over_arrive_as_they_are() {
    let rig = Rig::ready().await;
    let bodies: [&[u8]; 12] = [
        br#"{"a":"\ud800","b":"\udfff\ud800"}"#, // lone surrogates, escaped
        b"{\"a\":\"\xed\xa0\x80\"}",             // one in bytes, which is no UTF-8
        "\u{2028}\u{2029}\u{85}".as_bytes(),     // ends of line, for a script
        b"</script><!--<script>alert(1)</script>-->]]>", // ends of a script, for a document
        b"\0\0a\0",
        b"\xef\xbb\xbfafter a byte order mark",
        b"\xff\xfea\0b\0",                           // another one
        b"\xc0\x80\xf8\x88\x80\x80\x80\xfe\xff\x80", // never UTF-8
        b"\r\n\r\n\n\r",
        b"data: x\r\rdata: y\n\nevent: \0\r\n",
        b"5\r\nhello\r\n0\r\n\r\n", // looks like chunks
        b"'\"`${}\\u0000%00&amp;",
    ];
    for kind in
        ["application/json", "text/plain", "text/html", "text/event-stream", "application/octet-stream"]
    {
        for body in bodies {
            let sent = rig.client.post(rig.url("/backend-api/practice/mirror"));
            let answer = sent.header("content-type", kind).body(body.to_vec()).send().await.unwrap();
            assert_eq!(answer.headers()["content-type"], kind);
            let got = answer.bytes().await.unwrap();
            assert!(got == body, "{:?} became {got:?} as {kind}", String::from_utf8_lossy(body));
        }
    }
    // What the site says was sent is what was sent: its digest.
    for body in bodies {
        let sent = rig.client.post(rig.url("/backend-api/practice/echo")).body(body.to_vec());
        let echo: Value = sent.send().await.unwrap().json().await.unwrap();
        use sha2::Digest as _;
        let digest: String = sha2::Sha256::digest(body).iter().map(|it| format!("{it:02x}")).collect();
        assert_eq!(
            (echo["body_len"].as_u64(), echo["body_sha256"].as_str()),
            (Some(body.len() as u64), Some(&*digest))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_crosses_that_is_the_browsers_or_the_connections() {
    // Also where the operator asks for it: the configuration refuses these names, and so does the filter.
    let into_page = [
        ("cookie", "c=canary"),
        ("cookie2", "canary"),
        ("host2", "canary"),
        ("referer", "https://evil.example/canary"),
        ("user-agent", "canary"),
        ("sec-fetch-mode", "canary"),
        ("sec-fetch-dest", "canary"),
        ("sec-ch-ua", "canary"),
        ("sec-gpc", "canary"),
        ("keep-alive", "canary"),
        ("proxy-authorization", "canary"),
        ("proxy-connection", "canary"),
        ("forwarded", "for=canary"),
        ("x-forwarded-for", "canary"),
        ("x-forwarded-host", "canary"),
        ("x-real-ip", "canary"),
        ("te", "trailers, canary"),
        ("trailer", "canary"),
        ("x-http-method-override", "canary"),
        ("accept-encoding", "canary"),
    ];
    let names: Vec<String> = into_page.iter().map(|(name, _)| name.to_string()).collect();
    let out = ["set-cookie", "content-security-policy", "alt-svc", "strict-transport-security"];
    let never: Vec<_> = names.iter().cloned().chain(out.map(String::from)).collect();
    let allowed = ["host2", "x-real-ip", "x-http-method-override", "accept-encoding", "cookie2"];
    let strict = Rig::ready().await;
    let lax = Rig::with(PracticeArgs::default(), |config| config.allow_headers = never).await;
    for (rig, may_pass) in [(&strict, &[][..]), (&lax, &allowed[..])] {
        let mut sent = rig.client.post(rig.url("/backend-api/practice/echo"));
        for (name, value) in into_page {
            sent = sent.header(name, value);
        }
        let echo: Value = sent.body("{}").send().await.unwrap().json().await.unwrap();
        let got = echo["headers"].as_object().unwrap();
        for (name, values) in got {
            let is_foreign = values.to_string().contains("canary");
            assert!(!is_foreign || may_pass.contains(&name.as_str()), "{name}: {values}");
        }
        for name in
            ["connection", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive", "x-forwarded-for"]
        {
            assert!(!got.contains_key(name), "{name}");
        }
        for code in [200, 201, 404, 503] {
            let answer = rig.get(&format!("/backend-api/practice/status?code={code}")).await;
            for name in out {
                assert!(!answer.headers().contains_key(name), "{name} with {code}");
            }
            assert!(answer.headers().contains_key("x-ratelimit-remaining"), "{code}");
        }
    }
    assert_eq!(strict.counters().odd_headers, [""; 0], "nothing that a page would not send");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_slow_heads_are_closed_in_time_and_slow_nobody_else() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let rig = Rig::ready().await;
    // One that was used before stands idle meanwhile.
    let mut idle = TcpStream::connect(rig.addr()).await.unwrap();
    let ask = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut some = [0; 4096];
    idle.write_all(ask).await.unwrap();
    assert!(idle.read(&mut some).await.unwrap() > 0);

    let began = Instant::now();
    let slow = (0..1000).map(|n| {
        let addr = rig.addr();
        tokio::spawn(async move {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            let since = Instant::now();
            // Nothing at all, half of a line, or one more byte every second.
            if n % 3 > 0 {
                let _ = socket.write_all(b"POST /backend-api/conversation HTTP/1.1\r\nx-slow: ").await;
            }
            let mut some = [0; 64];
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    got = socket.read(&mut some) => {
                        assert!(matches!(got, Ok(0) | Err(_)), "nothing to answer");
                        return since.elapsed();
                    }
                    _ = tick.tick() => if n % 3 == 2 { let _ = socket.write_all(b"a").await; }
                }
            }
        })
    });
    let slow: Vec<_> = slow.collect();
    let others = async {
        let mut waits = Vec::new();
        while !slow.iter().all(|it| it.is_finished()) {
            assert!(began.elapsed() < PATIENCE, "still open");
            let asked = Instant::now();
            assert_eq!(rig.get("/backend-api/models").await.status(), 200);
            waits.push(asked.elapsed());
        }
        waits
    };
    let mut waits = others.await;
    let mut lasted: Vec<_> = join_all(slow).await.into_iter().map(Result::unwrap).collect();
    waits.sort_unstable();
    lasted.sort_unstable();
    println!(
        "1,000 slow heads closed after {:?} to {:?}; meanwhile {} requests, median {:?}, worst {:?}",
        lasted[0],
        lasted[999],
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
    // 10 s, and what a busy machine adds.
    assert!(lasted[999] < Duration::from_secs(15), "{:?}", lasted[999]);
    assert!(waits[waits.len() / 2] < Duration::from_secs(1), "{waits:?}");
    // The idle one has outlived them, and serves.
    idle.write_all(ask).await.unwrap();
    let n = idle.read(&mut some).await.unwrap();
    assert!(some[..n].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&some[..n]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_drops_does_not_keep_a_place_for_ever() {
    let change = |config: &mut tabproxy::config::Config| config.max_inflight = 1;
    let rig = Rig::with(Default::default(), change).await;
    let mut socket = TcpStream::connect(rig.addr()).await.unwrap();
    let head =
        "POST /backend-api/practice/mirror HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let drops = async {
        let (mut reader, mut writer) = socket.split();
        let mut answer = Vec::new();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let write = async {
            while writer.write_all(b"x").await.is_ok() {
                tick.tick().await;
            }
        };
        let read = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut answer));
        tokio::select! {
            read = read => drop(read.expect("told to stop")),
            () = write => {}
        }
        String::from_utf8_lossy(&answer).into_owned()
    };
    let next = async {
        let since = Instant::now();
        loop {
            let answer = rig.ask("next", "hello count=1").await;
            if answer.status() == 200 {
                return since.elapsed();
            }
            assert_eq!(code_of(answer).await, "queue_timeout");
            assert!(since.elapsed() < PATIENCE, "the place is still taken");
        }
    };
    let (answer, waited) = futures::future::join(drops, next).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    println!("the next request waited for {waited:?}");
    assert_eq!(rig.counters().posts_by_message_id.get("next"), Some(&1));
}
