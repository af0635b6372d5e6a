//! The relay: a server that stands for the official API says what it saw, and what comes back is what it sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::header::HeaderMap;
use tabproxy::config::Config;
use tabproxy::practice::{Practice, PracticeArgs, pattern};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::access::Desk;
use crate::program::Program;
use crate::rig::{PATIENCE, Rig, eventually};

/// Something that is not text, and only looks as if it were packed.
fn packed() -> Vec<u8> {
    [&[0x1f, 0x8b, 8, 0][..], &pattern(0, 300_000)].concat()
}

/// A server that reads HTTP/1.1 by hand, so that nothing but its bytes counts.
struct Api {
    addr: SocketAddr,
    /// The head and the body of each request.
    seen: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    open: Arc<AtomicUsize>,
}

impl Api {
    async fn start() -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let count = open.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (sender, count) = (sender.clone(), count.clone());
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    serve(socket, sender).await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Api { addr, seen, open }
    }

    async fn next(&mut self) -> (String, Vec<u8>) {
        tokio::time::timeout(PATIENCE, self.seen.recv()).await.expect("a request").unwrap()
    }
}

async fn serve(mut socket: TcpStream, seen: mpsc::UnboundedSender<(String, Vec<u8>)>) {
    let mut got = Vec::new();
    let head_end = loop {
        if let Some(at) = got.windows(4).position(|it| it == b"\r\n\r\n") {
            break at + 4;
        }
        match socket.read_buf(&mut got).await {
            Ok(1..) => {}
            _ => return,
        }
    };
    let mut body = got.split_off(head_end);
    let head = String::from_utf8(got).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|it| it.split("\r\n").next()?.parse().ok());
    while body.len() < length.unwrap_or(0) || head.contains("chunked") && !body.ends_with(b"0\r\n\r\n") {
        if !matches!(socket.read_buf(&mut body).await, Ok(1..)) {
            return;
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let _ = seen.send((head, body));
    let event = b"a\r\ndata: {}\n\n\r\n";
    let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    match path.split('?').next().unwrap_or_default() {
        "/base/v1/slow" => {
            let _ = socket.write_all(stream.as_bytes()).await;
            // Until the other side has gone.
            let mut none = [0; 16];
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                tokio::select! {
                    read = socket.read(&mut none) => if !matches!(read, Ok(1..)) { return },
                    _ = tick.tick() => if socket.write_all(event).await.is_err() { return },
                }
            }
        }
        "/base/v1/cut" => {
            let _ = socket.write_all(stream.as_bytes()).await;
            let _ = socket.write_all(event).await;
        }
        "/base/v1/silent-cut" => {}
        "/base/v1/moved" => {
            let moved = "HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: https://elsewhere.test/x\r\ncontent-length: 0\r\n\r\n";
            let _ = socket.write_all(moved.as_bytes()).await;
        }
        _ => {
            let body = packed();
            let head = format!(
                "HTTP/1.1 418 Odd\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n\
                 x-ratelimit-limit: 7\r\nx-request-id: theirs\r\nkeep-alive: timeout=5\r\n\
                 access-control-allow-origin: *\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = socket.write_all(&[head.as_bytes(), &body].concat()).await;
        }
    }
    let _ = socket.shutdown().await;
}

async fn rig(api: &Api, change: impl FnOnce(&mut Config)) -> Rig {
    let target = format!("http://{}/base/", api.addr).parse().unwrap();
    Rig::starting(PracticeArgs::default(), |config| {
        config.api_target = target;
        change(config);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_untouched_in_both_directions_and_needs_no_page() {
    let mut api = Api::start().await;
    // A browser that never comes up: nothing here waits for it.
    let rig = rig(&api, |config| {
        config.chromium = Some("/bin/false".into());
        config.strip_headers = vec!["x-scf".into()];
    })
    .await;
    let odd = b"{\"temperature\": 0.7,  \"input\":[\"\\ud800\",1e400]}\r\n\0".to_vec();
    for (path, key, wanted) in [
        ("/v1/embeddings?a=%20b", ("authorization", "Bearer sk-theirs"), "/base/v1/embeddings?a=%20b"),
        ("/platform/v1/edits", ("authorization", "Bearer sk-theirs"), "/base/v1/edits"),
        (
            "/platform/dashboard/user/api_keys",
            ("x-authorization", "Bearer sess-x"),
            "/base/dashboard/user/api_keys",
        ),
        ("/v1/x", ("api-key", "0123456789abcdef"), "/base/v1/x"),
    ] {
        let request = rig.client.post(rig.url(path)).header(key.0, key.1).body(odd.clone());
        let request = request.header("x-scf-request", "1").header("openai-beta", "assistants=v2");
        let answer = request.header("x-forwarded-for", "1.2.3.4").send().await.unwrap();
        assert_eq!(answer.status(), 418, "{path}");
        let headers: HeaderMap = answer.headers().clone();
        assert_eq!(
            (&headers["content-encoding"], &headers["x-ratelimit-limit"]),
            (&"gzip".parse().unwrap(), &"7".parse().unwrap())
        );
        assert_eq!(headers["x-site-request-id"], "theirs");
        assert!(!headers.contains_key("keep-alive") && !headers.contains_key("access-control-allow-origin"));
        assert_eq!(answer.content_length(), Some(packed().len() as u64));
        assert!(answer.bytes().await.unwrap() == packed(), "the bytes of {path}");
        let (head, body) = api.next().await;
        assert!(body == odd, "{head}");
        assert!(head.starts_with(&format!("post {wanted} http/1.1\r\n")), "{head}");
        for line in [
            "openai-beta: assistants=v2",
            "x-forwarded-for: 1.2.3.4, 127.0.0.1",
            &format!("host: {}", api.addr),
        ] {
            assert!(head.lines().any(|it| it == line), "{line} is not in {head}");
        }
        let shown = if key.0 == "x-authorization" { "authorization" } else { key.0 };
        assert!(head.contains(&format!("{shown}: {}", key.1.to_lowercase())), "{head}");
        assert!(!head.contains("x-scf") && !head.contains("x-authorization"), "{head}");
        assert!(!head.contains("accept-encoding"), "what the caller did not ask for: {head}");
    }
    let moved =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let moved = moved.get(rig.url("/v1/moved")).bearer_auth("sk-theirs").send().await.unwrap();
    assert_eq!(
        (moved.status().as_u16(), &moved.headers()["location"]),
        (302, &"https://elsewhere.test/x".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_come_as_they_are_written_and_end_on_both_sides_when_one_leaves() {
    let mut api = Api::start().await;
    let rig = rig(&api, |config| config.chromium = Some("/bin/false".into())).await;
    let get = |path: &str| rig.client.get(rig.url(path)).bearer_auth("sk-theirs").send();
    let mut stream = get("/v1/slow").await.unwrap();
    assert_eq!(stream.headers()["x-accel-buffering"], "no");
    for _ in 0..5 {
        let piece = tokio::time::timeout(PATIENCE, stream.chunk()).await.expect("as it comes").unwrap();
        assert!(piece.unwrap().starts_with(b"data: {}\n\n"));
    }
    assert_eq!(api.open.load(Ordering::SeqCst), 1);
    let left = Instant::now();
    drop(stream);
    eventually(|| api.open.load(Ordering::SeqCst), |it| *it == 0).await;
    assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());

    // Cut there, cut here: never a clean end.
    let cut = get("/v1/cut").await.unwrap();
    let mut pieces = cut.bytes_stream();
    assert_eq!(pieces.next().await.unwrap().unwrap(), "data: {}\n\n");
    assert!(pieces.next().await.unwrap().is_err());
    let (mut silent, mut body) = (None, String::new());
    if let Ok(answer) = get("/v1/silent-cut").await {
        silent = Some((answer.status().as_u16(), answer.headers()["x-should-retry"].clone()));
        body = answer.text().await.unwrap();
    }
    assert_eq!(silent, Some((502, "false".parse().unwrap())), "the API may have acted on it");
    let error: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["type"]),
        (&"api_unreachable".into(), &"server_error".into())
    );
    assert!(error["error"]["param"].is_null() && error["error"].get("param").is_some());
    for _ in 0..3 {
        api.next().await;
    }
    assert!(api.seen.try_recv().is_err(), "and nothing was asked twice");
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    for line in ["{outcome=\"client_gone\"} 1", "{outcome=\"api_unreachable\"} 2"] {
        assert!(metrics.contains(&format!("tabproxy_exchanges_total{line}")), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_of_theirs_a_route_says_whose_it_is() {
    let desk = Desk::new();
    let key = desk.key(&[]);
    let mut api = Api::start().await;
    let rig = rig(&api, |config| {
        config.keys_file = Some(desk.keys());
        config.require_key = true;
    })
    .await;
    let post = |path: &str| rig.client.post(rig.url(path)).header("x-api-key", &key).body("{}");
    for request in [
        post("/v1/embeddings"),
        post("/v1/images/generations").bearer_auth("eyJ-not-theirs"),
        post("/platform/v1/models"),
        rig.client.get(rig.url("/platform/dashboard/billing/subscription")).bearer_auth(&key),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401);
        let error: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(error["error"]["code"], "official_key_required", "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains("sk-"), "{error}");
    }
    // Where a key of ours is wanted too, theirs alone is not enough, and ours goes no further.
    let refused = rig.client.get(rig.url("/v1/models")).bearer_auth("sk-theirs").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let error: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["type"]),
        (&"key_required".into(), &"authentication_error".into())
    );
    let both = post("/v1/embeddings").bearer_auth("sk-theirs").send().await.unwrap();
    assert_eq!(both.status(), 418);
    let in_path = rig.client.get(rig.url(&format!("/k/{key}/platform/v1/models"))).bearer_auth("sk-theirs");
    assert_eq!(in_path.send().await.unwrap().status(), 418);
    for _ in 0..2 {
        let (head, _) = api.next().await;
        assert!(!head.contains(&key[3..].to_lowercase()) && head.contains("sk-theirs"), "{head}");
    }
    assert!(api.seen.try_recv().is_err(), "nothing else got there");
    for path in ["/v1/../x", "/v1/%2e%2e/x", "/platform/..%2fx"] {
        // By hand: a client library would tidy it up.
        let mut socket = TcpStream::connect(rig.addr()).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk-a\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let is_refused = answer.starts_with("HTTP/1.1 4") && !answer.contains(" 418 ");
        assert!(is_refused, "{path}: {answer}");
    }
    let odd = rig.client.get(rig.url("/platform//evil.test/x")).header("x-api-key", &key).bearer_auth("sk-a");
    assert_eq!(odd.send().await.unwrap().status(), 418);
    assert!(
        api.next().await.0.starts_with("get /base//evil.test/x "),
        "whatever it means, it means it there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_not_there_is_a_502_and_a_proxy_is_obeyed() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut api = Api::start().await;
    let down = rig(&api, |config| config.api_target = format!("http://{nobody}/").parse().unwrap()).await;
    let answer = down.client.get(down.url("/v1/models")).bearer_auth("sk-theirs").send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert!(!answer.headers().contains_key("x-should-retry"), "it was not sent");
    drop(down);
    // The stand-in plays the proxy, too: it is asked for the whole address, and with the password.
    let via = rig(&api, |config| {
        config.api_target = "http://api.practice.test/base/".parse().unwrap();
        config.proxy.http = Some(tabproxy::config::ProxyServer {
            scheme: tabproxy::config::ProxyScheme::Http,
            host: api.addr.ip().to_string(),
            port: api.addr.port(),
            credentials: Some(("user".into(), "p@ss".into())),
        });
        config.proxy.bypass = vec!["practice.test".into()];
    })
    .await;
    let answer = via.client.get(via.url("/v1/models")).bearer_auth("sk-theirs").send().await.unwrap();
    assert_eq!(answer.status(), 418);
    let (head, _) = api.next().await;
    assert!(head.starts_with("get http://api.practice.test/base/v1/models http/1.1\r\n"), "{head}");
    assert!(head.contains("proxy-authorization: basic dxnlcjpwqhnz"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_is_reached_over_tls_and_only_if_an_authority_vouches_for_it() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let target = format!("https://localhost:{}/practice/", site.addr().port());
    for is_known in [true, false] {
        let home = TempDir::new().unwrap();
        let cert = home.path().join("cert.pem").display().to_string();
        let mut env = vec![("TABPROXY_API_TARGET", target.as_str()), ("TABPROXY_CHROMIUM", "/bin/false")];
        // Where it finds the authorities, as every OpenSSL program does.
        if is_known {
            env.push(("SSL_CERT_FILE", &cert));
        }
        let program = Program::in_home(home, &site, &env).await;
        let answer = program
            .client
            .get(program.url("/platform/counters"))
            .bearer_auth("sk-theirs")
            .send()
            .await
            .unwrap();
        if is_known {
            assert_eq!(answer.status(), 200);
            assert!(answer.text().await.unwrap().contains("h2_connections\":1"));
        } else {
            assert_eq!(answer.status(), 502);
            assert!(answer.text().await.unwrap().contains("cannot be reached"));
        }
    }
}
