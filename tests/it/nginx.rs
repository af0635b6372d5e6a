//! A real nginx in front, with the project's own files: streams, cuts and departures pass, and it speaks in
//! the caller's format when there is nobody behind it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use rustix::process::Signal;
use serde_json::Value;
use tabproxy::practice::answer_text;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::access::Desk;
use crate::program::Program;
use crate::rig::{Rig, client, eventually, last_text, turn, until};
pub use crate::shared::nginx::Setup;
use crate::shared::{free_port, nginx};

/// One of its own for each test, and who speaks to it.
pub struct Nginx {
    program: nginx::Nginx,
    client: reqwest::Client,
}

impl Nginx {
    pub async fn start(setup: Setup<'_>) -> Nginx {
        Nginx { program: nginx::Nginx::start(&setup).await.unwrap(), client: client() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.program.addr)
    }

    async fn get(&self, path: &str, accept: &str) -> reqwest::Response {
        self.client.get(self.url(path)).header("accept", accept).send().await.unwrap()
    }

    async fn ask(&self, id: &str, prompt: &str) -> reqwest::Response {
        let request = self.client.post(self.url("/backend-api/conversation"));
        request.header("accept", "text/event-stream").json(&turn(id, prompt)).send().await.unwrap()
    }

    fn log(&self) -> String {
        self.program.log()
    }
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    free_port().unwrap()
}

/// A server that takes connections and requests and never says a word; counts the requests' first reads.
async fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, heard) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counter = counter.clone();
            tokio::spawn(async move {
                let mut some = [0; 4096];
                if socket.read(&mut some).await.is_ok_and(|n| n > 0) {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                while socket.read(&mut some).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    (addr, heard)
}

/// A server that answers everything with its name.
async fn named(addr: SocketAddr, name: &'static str) -> SocketAddr {
    mortal(addr, name).await.0
}

/// The same, and what ends it.
async fn mortal(addr: SocketAddr, name: &'static str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut some = [0; 4096];
            let _ = socket.read(&mut some).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{name}",
                name.len()
            );
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (addr, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_as_they_are_sent_and_pings_keep_silence_alive() {
    let rig = Rig::with(Default::default(), |config| config.ping = Some(Duration::from_millis(300))).await;
    // A shorter patience for both kinds of callers, in the proportion of the real one.
    let changes = [("proxy_read_timeout 10s", "proxy_read_timeout 2s")];
    let nginx = Nginx::start(Setup { changes: &changes, ..Setup::at(rig.addr()) }).await;

    let prompt = "hello count=6 interval=400";
    let mut stream = nginx.ask("stream", prompt).await.bytes_stream();
    let (mut body, mut reads) = (Vec::new(), 0);
    while let Some(piece) = stream.next().await {
        if reads == 0 {
            assert_eq!(
                rig.counters().finished,
                0,
                "the site has not sent the last one when the first is here"
            );
        }
        reads += 1;
        body.extend_from_slice(&piece.unwrap());
    }
    assert!(reads >= 3, "{reads} reads");
    let text = String::from_utf8(body).unwrap().replace(": ping\n\n", "");
    assert_eq!(last_text(text.as_bytes()), answer_text(prompt));

    let silent = "hello count=3 interval=1 first=5000 stall=1:5000";
    let answer = nginx.ask("silent", silent).await;
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    assert!(text.starts_with(": ping\n\n") && text.ends_with("data: [DONE]\n\n"), "{text}");
    // Who reads no event streams gets no pings, and more patience.
    let late = nginx.get("/backend-api/practice/slow-head?ms=4000", "application/json").await;
    assert_eq!((late.status().as_u16(), late.text().await.unwrap().as_str()), (200, "{\"waited_ms\":4000}"));

    // Paths and queries are not touched on the way.
    let echo = nginx.get("/backend-api/practice/echo?a=%20b&c=%2F", "application/json").await;
    let echo: Value = echo.json().await.unwrap();
    assert_eq!(
        (&echo["path"], &echo["query"]),
        (&"/backend-api/practice/echo".into(), &"a=%20b&c=%2F".into())
    );
    assert_eq!(nginx.get("/readyz", "*/*").await.status(), 200);
    let posts = rig.counters().posts_by_message_id;
    assert!(posts.values().all(|it| *it == 1), "{posts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_seen_by_the_client_and_a_departure_by_the_site() {
    let rig = Rig::ready().await;
    let nginx = Nginx::start(Setup::pool(vec![rig.addr()])).await;
    let cut = nginx.ask("cut", "hello count=50 interval=20 reset=5").await;
    assert_eq!(cut.status(), 200);
    assert!(cut.bytes().await.is_err(), "what is cut never looks whole");

    let mut stream = nginx.ask("leaves", "hello count=100000 interval=20").await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    eventually(|| rig.counters(), |it| it.active == 0 && it.aborted == 1).await;
    {
        let early = nginx.ask("leaves early", "hello first=60000");
        tokio::pin!(early);
        // Polled until the site has it.
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while rig.counters().active == 0 {
            tokio::select! { _ = &mut early => panic!("the head is a minute away"), _ = tick.tick() => {} }
        }
    }
    eventually(|| rig.counters(), |it| it.active == 0 && it.aborted == 2).await;

    // A connection that was kept open is used again, but not once it may be closing: a POST would be lost.
    let ours = |line: &&str| line.contains(&format!(":{:04X} ", rig.addr().port())) && line.contains(" 01 ");
    let open = || fs::read_to_string("/proc/net/tcp").unwrap().lines().filter(|it| ours(it)).count();
    for round in ["before", "after"] {
        let whole = nginx.ask(round, "hello count=2").await.bytes().await.unwrap();
        assert!(whole.ends_with(b"data: [DONE]\n\n"));
        assert!(open() > 0, "it is kept");
        eventually(open, |it| *it == 0).await;
    }
    let posts = rig.counters().posts_by_message_id;
    assert!(posts.len() == 5 && posts.values().all(|it| *it == 1), "{posts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_errors_pass_as_they_are() {
    let rig = Rig::starting(Default::default(), |config| config.queue_wait = Duration::from_millis(1)).await;
    let nginx = Nginx::start(Setup::at(rig.addr())).await;
    let answer = nginx.get("/backend-api/models", "text/html").await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["code"], "not_ready");
    let ready = nginx.get("/readyz", "text/html").await;
    assert_eq!(
        (ready.status().as_u16(), &ready.headers()["content-type"]),
        (503, &"application/json".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_path_passes_and_is_in_no_log() {
    let desk = Desk::new();
    let key = desk.key(&[]);
    let rig = Rig::with(Default::default(), |config| {
        config.keys_file = Some(desk.keys());
        config.require_key = true;
    })
    .await;
    let nginx = Nginx::start(Setup::at(rig.addr())).await;
    let answer = nginx.client.post(nginx.url(&format!("/k/{key}/backend-api/conversation")));
    let answer = answer.json(&turn("with-key", "hello count=3")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!last_text(&answer.bytes().await.unwrap()).is_empty());
    assert_eq!(nginx.get("/backend-api/models", "*/*").await.status(), 401);
    for path in ["/elsewhere", "", "/backend-api/../x?a=b"] {
        let status = nginx.get(&format!("/k/{key}{path}"), "*/*").await.status();
        assert!(status.is_client_error(), "{path}: {status}");
    }
    rig.stop().await;
    // With nobody behind it, nginx would repeat the request in its error log.
    let down = nginx.get(&format!("/k/{key}/v1/models"), "*/*").await;
    assert_eq!(down.status(), 502);
    assert!(down.text().await.unwrap().starts_with('{'));
    assert_eq!(nginx.get("/backend-api/models", "*/*").await.status(), 502);
    let access = || nginx.program.read("access.log");
    let all = eventually(access, |it| it.lines().count() >= 7).await + &nginx.log();
    assert!(all.contains("\"POST /k/-/backend-api/conversation HTTP/1.1\" 200"), "{all}");
    assert!(all.contains("GET /k/-/v1/models"), "{all}");
    assert!(!all.contains(&key[3..]), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_answers_nginx_says_so_in_the_callers_format() {
    let (stalled, heard) = silent().await;
    let changes = [
        ("proxy_read_timeout 10s", "proxy_read_timeout 1s"),
        ("proxy_read_timeout 600s", "proxy_read_timeout 1s"),
    ];
    let dead = Nginx::start(Setup::at(nobody())).await;
    let late = Nginx::start(Setup { changes: &changes, ..Setup::at(stalled) }).await;
    for (nginx, status) in [(&dead, 502), (&late, 504)] {
        for (path, accept, kind, part) in [
            (
                "/backend-api/conversation",
                "text/html,*/*;q=0.8",
                "text/html; charset=utf-8",
                "<!doctype html>",
            ),
            (
                "/backend-api/conversation",
                "text/event-stream",
                "text/plain; charset=utf-8",
                "about ten seconds",
            ),
            ("/backend-api/conversation", "*/*", "text/plain; charset=utf-8", "请约十秒后再试"),
            ("/v1/chat/completions", "application/json", "application/json", "about ten seconds"),
        ] {
            let request = nginx.client.post(nginx.url(path)).header("accept", accept);
            let answer = request.json(&turn("m", "hello")).send().await.unwrap();
            assert_eq!(answer.status(), status, "{path} {accept}");
            assert_eq!(answer.headers()["content-type"], kind, "{path} {accept}");
            assert_eq!(answer.headers()["retry-after"], "10");
            let retry = answer.headers().get("x-should-retry").map(|it| it.to_str().unwrap().to_owned());
            assert_eq!(
                retry.as_deref(),
                (status == 504).then_some("false"),
                "only what was not sent is to be repeated"
            );
            let body = answer.text().await.unwrap();
            assert!(body.contains(part), "{body}");
            match kind.split(';').next().unwrap() {
                "text/plain" => assert_eq!(body.trim_end().lines().count(), 1, "{body}"),
                "application/json" => {
                    let error = serde_json::from_str::<Value>(&body).unwrap()["error"].take();
                    assert!(
                        error["message"].is_string()
                            && error["type"] == "server_error"
                            && error["code"].is_string()
                    );
                }
                _ => assert!(body.contains("/readyz") && body.contains("自动刷新")),
            }
        }
    }
    assert_eq!(heard.load(Ordering::Relaxed), 4, "no POST was sent twice");

    for path in [
        "/",
        "/metrics",
        "/api/auth/session",
        "/backend-apix/y",
        "/backend-api",
        "/_tabproxy/502.html",
        "/_tabproxy/none",
        "/backend-api/%2e%2e/metrics",
        "/backend-api/..%2fapi",
        "//metrics",
        "/healthz/x",
    ] {
        let mut socket = tokio::net::TcpStream::connect(dead.program.addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
    }
    for path in
        ["/backend-anon/x", "/chatgpt/models", "/platform/v1/models", "/admin/tokens", "/ping", "/healthz"]
    {
        assert_eq!(dead.get(path, "*/*").await.status(), 502, "{path}");
    }
    let large = dead.client.post(dead.url("/backend-api/files")).body(vec![0; (32 << 20) + 1]);
    let refused = large.header("expect", "100-continue").send().await.unwrap();
    assert_eq!(refused.status(), 413);
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "body_too_large");
    let just = dead.client.post(dead.url("/backend-api/files")).body(vec![0; 32 << 20]);
    assert_eq!(just.send().await.unwrap().status(), 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_for_people_refreshes_itself_once_requests_are_served_again() {
    let away = nobody();
    let nginx = Nginx::start(Setup::at(away)).await;
    let profile = TempDir::new().unwrap();
    let mut chromium = Command::new(tabproxy::browser::launch::find_chromium().unwrap());
    chromium.args(["--headless", "--no-sandbox", "--remote-debugging-port=0", "--no-first-run"]);
    chromium.arg(format!("--user-data-dir={}", profile.path().display()));
    chromium.arg(nginx.url("/backend-api/x")).stdout(Stdio::null()).stderr(Stdio::null());
    let _chromium = Stopped(chromium.spawn().unwrap());
    let port = || fs::read_to_string(profile.path().join("DevToolsActivePort")).unwrap_or_default();
    let port = eventually(port, |it| it.contains('\n')).await;
    let tabs = format!("http://127.0.0.1:{}/json/list", port.lines().next().unwrap());
    let titled = async |title: &str| {
        let look = async || client().get(&tabs).send().await.unwrap().text().await.unwrap();
        until(look, |it| it.contains(title)).await;
    };
    titled("502 · being set up").await;
    named(away, "<title>it is back</title>").await;
    titled("it is back").await;
}

/// A process that does not outlive its test.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of names: each is at 127.0.0.x, for these x, and for a second.
async fn names(last: impl Fn() -> Vec<u8> + Send + 'static) -> String {
    let dns = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = dns.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((n, from)) = dns.recv_from(&mut query).await {
            // The question comes back, with the addresses.
            let (mut answer, last) = (query[..n].to_vec(), last());
            answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, last.len() as u8]);
            answer[8..12].fill(0);
            for last in last {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, last]);
            }
            let _ = dns.send_to(&answer, from).await;
        }
    });
    resolver
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_is_found_again() {
    let one = named("127.0.0.1:0".parse().unwrap(), "one").await;
    let mut second = one;
    second.set_ip(Ipv4Addr::new(127, 0, 0, 2).into());
    named(second, "two").await;
    let last = Arc::new(AtomicUsize::new(1));
    let at = last.clone();
    let resolver = names(move || vec![at.load(Ordering::Relaxed) as u8]).await;
    let upstream = format!("tabproxy.test:{}", one.port());
    let nginx = Nginx::start(Setup { upstream, resolver, ..Setup::at(one) }).await;
    assert_eq!(nginx.get("/backend-api/x", "*/*").await.text().await.unwrap(), "one");
    last.store(2, Ordering::Relaxed);
    let served = async || nginx.get("/backend-api/x", "*/*").await.text().await.unwrap();
    until(served, |it| it == "two").await;
}

/// As in Docker, where all instances bear one name.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_several_addresses_is_served_by_all_of_them_but_the_dead() {
    let one = named("127.0.0.1:0".parse().unwrap(), "one").await;
    let mut third = one;
    third.set_ip(Ipv4Addr::new(127, 0, 0, 3).into());
    named(third, "three").await;
    // Nobody listens at 127.0.0.2.
    let resolver = names(|| vec![1, 2, 3]).await;
    let upstream = format!("tabproxy.test:{}", one.port());
    let nginx = Nginx::start(Setup { upstream, resolver, ..Setup::at(one) }).await;
    let mut served = std::collections::BTreeSet::new();
    for n in 0..30 {
        let post = nginx.client.post(nginx.url("/v1/chat/completions")).body("{}").send().await.unwrap();
        assert_eq!(post.status(), 200, "{n}");
        served.insert(post.text().await.unwrap());
    }
    assert!(served.iter().eq(["one", "three"]), "{served:?}");
    assert!(nginx.log().contains("Connection refused"), "the dead one was tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_servers_the_other_serves_when_one_is_dead_or_stands_still() {
    let rig = Rig::ready().await;
    let other = Program::start(&rig.site, &[]).await;
    other.wait_ready().await;
    let dead = nobody();
    let nginx = Nginx::start(Setup::pool(vec![dead, rig.addr()])).await;
    for n in 0..4 {
        let whole = nginx.ask(&format!("dead{n}"), "hello count=2").await.bytes().await.unwrap();
        assert!(whole.ends_with(b"data: [DONE]\n\n"));
    }
    assert!(nginx.log().contains("Connection refused"), "the dead one was tried");

    let changes = [("proxy_read_timeout 10s", "proxy_read_timeout 3s")];
    let nginx = Nginx::start(Setup { changes: &changes, ..Setup::pool(vec![other.addr, rig.addr()]) }).await;
    other.signal(Signal::STOP);
    let asks = (0..6).map(|n| {
        let nginx = &nginx;
        async move {
            let answer = nginx.ask(&format!("still{n}"), "hello count=2 interval=1").await;
            (answer.status().as_u16(), answer.bytes().await.is_ok_and(|it| it.ends_with(b"data: [DONE]\n\n")))
        }
    });
    let ends = futures::future::join_all(asks).await;
    assert!(ends.iter().all(|it| matches!(it, (200, true) | (504, false))), "{ends:?}");
    let served = ends.iter().filter(|it| it.1).count();
    assert!((3..6).contains(&served), "the other serves, and what went to this one has an end: {ends:?}");
    // What can be repeated is, so that nobody notices.
    let again = nginx.get("/backend-api/models", "text/event-stream").await;
    assert_eq!(again.status(), 200);
    other.signal(Signal::CONT);
    drop(other);
    let posts = rig.counters().posts_by_message_id;
    assert!(posts.values().all(|it| *it == 1), "{posts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_options_for_tls_and_a_rate_limit_work() {
    let behind = named("127.0.0.1:0".parse().unwrap(), "hello").await;
    let secure = nobody();
    let listen = format!("listen {secure} ssl");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let changes = [
        ("#TLS ", ""),
        ("#RATE ", ""),
        ("listen 443 ssl", &listen),
        ("rate=5r/s", "rate=1r/m"),
        ("burst=20", "burst=2"),
    ];
    let files = [("cert.pem", cert.as_str()), ("key.pem", &key)];
    let _nginx = Nginx::start(Setup { changes: &changes, files: &files, ..Setup::at(behind) }).await;
    let client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build().unwrap();
    let url = format!("https://{secure}/backend-api/x");
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let answer = client.get(&url).send().await.unwrap();
        let limited = answer.status() == 429;
        assert_eq!(answer.headers().contains_key("retry-after"), limited);
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(client.get(format!("https://{secure}/healthz")).send().await.unwrap().status(), 200);
}

/// How a caller may show its key.
const WAYS: [&str; 4] = ["path", "x-api-key", "bearer", "bare"];

/// Who serves the caller with this key.
async fn serves(nginx: &Nginx, way: &str, key: &str) -> String {
    let path =
        if way == "path" { format!("/k/{key}/backend-api/models") } else { "/backend-api/models".into() };
    let request = nginx.client.get(nginx.url(&path));
    let request = match way {
        "x-api-key" => request.header("x-api-key", key).header("authorization", "Bearer eyJ.another"),
        "bearer" => request.header("authorization", format!("Bearer {key}")),
        "bare" => request.header("authorization", key),
        _ => request,
    };
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_affinity_a_caller_stays_with_one_server_and_only_the_share_of_a_dead_one_moves() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let (one, _one) = mortal(any, "one").await;
    let (two, dies) = mortal(any, "two").await;
    let (three, _three) = mortal(any, "three").await;
    let setup = Setup { group: "affinity.conf", ..Setup::pool(vec![one, two, three]) };
    let nginx = Nginx::start(setup).await;
    let keys: Vec<_> = (0..60).map(|n| format!("tp-key{n}")).collect();
    let mut before = Vec::new();
    for key in &keys {
        let first = serves(&nginx, WAYS[0], key).await;
        for way in &WAYS[1..] {
            assert_eq!(serves(&nginx, way, key).await, first, "{key} as {way}");
        }
        before.push(first);
    }
    let share = |name: &str| before.iter().filter(|it| *it == name).count();
    for name in ["one", "two", "three"] {
        assert!((5..40).contains(&share(name)), "{name} has {} of 60", share(name));
    }
    // Without a key, the address counts.
    let nobody = nginx.get("/backend-api/models", "*/*").await.text().await.unwrap();
    for _ in 0..5 {
        assert_eq!(nginx.get("/backend-api/models", "*/*").await.text().await.unwrap(), nobody);
    }

    dies.abort();
    let _ = dies.await;
    let mut heirs = std::collections::BTreeSet::new();
    for (key, was) in keys.iter().zip(&before) {
        let now = serves(&nginx, "bearer", key).await;
        if was == "two" {
            heirs.insert(now);
        } else {
            assert_eq!(&now, was, "{key}");
        }
    }
    assert!(heirs.iter().eq(["one", "three"]), "{heirs:?}");
    assert!(nginx.log().contains("Connection refused"), "the dead one was tried");

    let (_, _again) = mortal(two, "two").await;
    for (key, was) in keys.iter().zip(&before) {
        assert_eq!(&serves(&nginx, "bearer", key).await, was, "{key} comes back");
    }
    assert!(!nginx.log().contains("tp-key"), "no key is in the log of errors");
}

/// An instance that is told to stop under load: who is in stays in, and whoever comes is served by the other.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_hands_over() {
    let rig = Rig::ready().await;
    let leaves = Program::start(&rig.site, &[("TABPROXY_DRAIN", "60s")]).await;
    leaves.wait_ready().await;
    let nginx = Nginx::start(Setup::pool(vec![leaves.addr, rig.addr()])).await;
    let nginx = Arc::new(nginx);
    // Long ones on both.
    let prompt = "hello count=150 interval=40";
    let long: Vec<_> = futures::future::join_all((0..4).map(|n| {
        let nginx = nginx.clone();
        async move { nginx.ask(&format!("long{n}"), prompt).await }
    }))
    .await;
    let by =
        |answer: &reqwest::Response| answer.headers()["x-tabproxy-instance"].to_str().unwrap().to_owned();
    assert!(long.iter().all(|it| it.status() == 200 && !by(it).is_empty()));

    let stop = tokio_util::sync::CancellationToken::new();
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let (nginx, stop) = (nginx.clone(), stop.clone());
            tokio::spawn(async move {
                let mut ends = Vec::new();
                while !stop.is_cancelled() {
                    let id = format!("c{client}-{}", ends.len());
                    let answer = nginx.ask(&id, "hello count=2 interval=1").await;
                    let status = answer.status().as_u16();
                    let body = answer.bytes().await;
                    let is_whole = body.as_ref().is_ok_and(|it| it.ends_with(b"data: [DONE]\n\n"));
                    ends.push((status, is_whole, format!("{body:?}").chars().take(200).collect::<String>()));
                }
                ends
            })
        })
        .collect();
    let seen =
        |before: usize| eventually(|| rig.counters().posts_by_message_id.len(), move |it| *it >= before + 60);
    seen(4).await;
    leaves.signal(Signal::TERM);
    let refuses = || std::net::TcpStream::connect(leaves.addr).is_err();
    eventually(refuses, |it| *it).await;
    seen(rig.counters().posts_by_message_id.len()).await;
    stop.cancel();
    let ends: Vec<_> =
        futures::future::join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
    let failed: Vec<_> = ends.iter().filter(|it| !(it.0 == 200 && it.1)).collect();
    // One request may cross the end of an idle connection, which nobody can tell from one that was sent.
    let is_told = failed.len() <= 1 && failed.iter().all(|it| it.0 == 502);
    assert!(is_told, "{} of {} failed: {failed:?}", failed.len(), ends.len());
    for answer in long {
        assert_eq!(last_text(&answer.bytes().await.unwrap()), answer_text(prompt));
    }
    rig.sent_once();
}
