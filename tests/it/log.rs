//! The log: one line for each request, bounded files, and no secret in any of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use futures::StreamExt;
use reqwest::RequestBuilder;
use rustix::process::Signal;
use secrecy::ExposeSecret;
use serde_json::Value;
use tabproxy::practice::{Practice, PracticeArgs};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::program::Program;
use crate::rig::{eventually, turn};
use crate::shared::procfs::signal;

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The lines about requests, as objects.
fn requests(log: &Path) -> Vec<Value> {
    let lines = text(log);
    let whole = lines.rsplit_once('\n').map_or("", |it| it.0);
    let lines = whole.lines().map(|it| serde_json::from_str::<Value>(it).unwrap_or_else(|_| panic!("{it}")));
    lines.filter(|it| it["path"].is_string()).collect()
}

/// The line with this id, once it is there.
async fn line(log: &Path, id: &str) -> Value {
    let found = || requests(log).into_iter().find(|it| it["id"] == id);
    eventually(found, Option::is_some).await.unwrap()
}

/// One turn, asked by a client that accepts event streams.
fn events(program: &Program, id: &str, prompt: &str) -> RequestBuilder {
    program.turn(id, prompt).header("accept", "text/event-stream")
}

fn id_of(answer: &reqwest::Response) -> String {
    answer.headers()["x-request-id"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_one_line_that_says_how_it_went() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let log = home.path().join("tabproxy.log");
    let env = [
        ("TABPROXY_LOG_FILE", log.to_str().unwrap()),
        ("TABPROXY_LOG_FORMAT", "json"),
        ("TABPROXY_PING", "200ms"),
    ];
    let program = Program::start(&site, &env).await;
    program.wait_ready().await;

    let answer = events(&program, "a", "hello count=5 interval=1 stall=2:700").send().await.unwrap();
    let id = id_of(&answer);
    let body = answer.text().await.unwrap();
    assert!(body.contains(": ping\n\n"));
    let body = body.replace(": ping\n\n", "");
    let told = line(&log, &id).await;
    for (name, expected) in [
        ("message", "answered".into()),
        ("level", "INFO".into()),
        ("method", "POST".into()),
        ("path", "/backend-api/conversation".into()),
        ("caller", "127.0.0.1".into()),
        ("status", 200.into()),
        ("outcome", "complete".into()),
        ("bytes", Value::from(body.len())),
        ("events", Value::from(body.matches("\n\n").count())),
    ] {
        assert_eq!(told[name], expected, "{name} in {told}");
    }
    assert!(told["ms"].as_u64().unwrap() >= 700 && told["head_ms"].as_u64() < told["ms"].as_u64(), "{told}");

    let refused =
        program.client.get(program.url("/elsewhere?a=b")).header("x-forwarded-for", "9.9.9.9, 10.1.2.3");
    let refused = refused.send().await.unwrap();
    let told = line(&log, &id_of(&refused)).await;
    assert_eq!((&told["outcome"], &told["status"]), (&"path_not_allowed".into(), &403.into()));
    assert_eq!((&told["path"], &told["caller"]), (&"/elsewhere".into(), &"10.1.2.3".into()));
    assert_eq!(told.get("events"), None);

    let mut leaves = events(&program, "b", "hello count=100000 interval=20").send().await.unwrap();
    let id = id_of(&leaves);
    leaves.chunk().await.unwrap().unwrap();
    drop(leaves);
    let told = line(&log, &id).await;
    assert_eq!((&told["outcome"], &told["message"]), (&"client_gone".into(), &"the client left".into()));
    eventually(|| site.counters().active, |it| *it == 0).await;
    let waits = tokio::spawn(events(&program, "c", "hello first=60000").send());
    eventually(|| site.counters().active, |it| *it == 1).await;
    waits.abort();
    drop(waits);
    eventually(|| requests(&log), |it| it.iter().filter(|it| it["outcome"] == "client_gone").count() == 2)
        .await;

    let cut = events(&program, "d", "hello count=50 interval=10 reset=5").send().await.unwrap();
    let id = id_of(&cut);
    assert!(cut.bytes().await.is_err());
    let told = line(&log, &id).await;
    assert_eq!(
        (&told["outcome"], &told["level"], &told["status"]),
        (&"fetch_failed".into(), &"WARN".into(), &200.into())
    );
    let head = program.client.head(program.url("/backend-api/practice/echo")).send().await.unwrap();
    assert_eq!(line(&log, &id_of(&head)).await["outcome"], "complete");

    // What monitors ask for all day is not there, and stdout has the same lines.
    let all = requests(&log);
    assert!(all.iter().all(|it| it["path"] != "/readyz"));
    assert_eq!(all.len(), 6, "one line each");
    let sorted = |log: &str| {
        let mut lines: Vec<_> = log.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    eventually(|| sorted(&program.log()) == sorted(&text(&log)), |it| *it).await;
    assert!(text(&log).contains("warming -> ready after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_begins_anew_and_whoever_follows_it_goes_on_following() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let log = home.path().join("tabproxy.log");
    let env = [
        ("TABPROXY_LOG_FILE", log.to_str().unwrap()),
        ("TABPROXY_LOG_SIZE", "4KiB"),
        ("TABPROXY_LOG_KEEP", "2"),
    ];
    let program = Program::start(&site, &env).await;
    let inode = fs::metadata(&log).unwrap().ino();
    let followed = home.path().join("followed");
    let mut tail = Command::new("tail");
    tail.args(["-n", "+1", "-f"]).arg(&log).stderr(Stdio::null());
    let mut tail = tail.stdout(fs::File::create(&followed).unwrap()).spawn().unwrap();
    let mut last = String::new();
    for _ in 0..200 {
        let answer = program.client.get(program.url("/elsewhere")).send().await.unwrap();
        last = id_of(&answer);
        eventually(|| text(&log).contains(&last), |it| *it).await;
    }
    eventually(|| text(&followed).contains(&last), |it| *it).await;
    tail.kill().unwrap();
    tail.wait().unwrap();
    assert_eq!(fs::metadata(&log).unwrap().ino(), inode, "the same file");
    for name in ["tabproxy.log", "tabproxy.log.1", "tabproxy.log.2"] {
        let size = fs::metadata(home.path().join(name)).unwrap().len();
        assert!(size > 0 && size <= 4096, "{name}: {size}");
    }
    assert!(!home.path().join("tabproxy.log.3").exists());
    assert_eq!(program.log().matches("path_not_allowed").count(), 200, "stdout has them all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_lines_counts_them_and_stops_nothing() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let program = Program::start(&site, &[("TABPROXY_LOG_FILE", "/dev/full")]).await;
    program.wait_ready().await;
    let answer = events(&program, "a", "hello count=3").send().await.unwrap();
    assert!(answer.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let metrics = program.client.get(program.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let lost = metrics.lines().find_map(|it| it.strip_prefix("tabproxy_log_lines_lost_total ")).unwrap();
    assert!(lost.parse::<u64>().unwrap() >= 3, "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_line_figure_or_error() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    for level in ["info", "trace"] {
        let home = TempDir::new().unwrap();
        let log = home.path().join("tabproxy.log");
        let (keys, accounts) = (home.path().join("keys.json"), home.path().join("accounts.json"));
        let (_, key) = tabproxy::access::add(&keys, None, vec!["some".into()]).unwrap();
        fs::write(&accounts, r#"{"accounts": [{"name": "some", "token": "eyJ-canary-stored"}]}"#).unwrap();
        // Somebody listens there and hangs up at once: an error on the way to the official API.
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("http://{}/canary-target/", api.local_addr().unwrap());
        tokio::spawn(async move { while api.accept().await.is_ok() {} });
        let env = [
            ("TABPROXY_LOG_FILE", log.to_str().unwrap()),
            ("TABPROXY_LOG", level),
            ("TABPROXY_PING", "100ms"),
            ("TABPROXY_KEYS_FILE", keys.to_str().unwrap()),
            ("TABPROXY_ACCOUNTS_FILE", accounts.to_str().unwrap()),
            ("TABPROXY_ADMIN_PASSWORD", "canary-admin"),
            ("TABPROXY_API_TARGET", &target),
        ];
        let program = Program::start(&site, &env).await;
        program.wait_ready().await;
        let mut told = String::new();

        // Keys that are right, wrong and torn, in every place; what is stored; the admin's words.
        let key = key.expose_secret();
        let secret = &key[3..];
        let get = |path: &str| program.client.get(program.url(path));
        let in_path = format!("/k/{key}/backend-api/models");
        for request in [
            get("/backend-api/models").bearer_auth(key),
            get("/backend-api/models").header("x-api-key", key),
            get(&in_path),
            get(&format!("/k/{key}")),
            get(&format!("/k/{key}/../elsewhere")),
            get(&format!("/chatgpt/{key}")),
            get(&format!("/backend-api/{key}")).bearer_auth(key),
            get("/backend-api/models").bearer_auth("tp-canary-wrong"),
            get("/backend-api/models").header("x-api-key", "canary-wrong"),
            get("/k/tp-canary-wrong/backend-api/models"),
            get("/v1/models?canary-query").bearer_auth("sk-canary-official"),
            get("/v1/models").header("api-key", "canary-azure"),
            get("/platform/v1/models").header("x-authorization", "Bearer sk-canary-official"),
            program
                .client
                .patch(program.url("/admin/tokens"))
                .header("authorization", "canary-guess")
                .body("[]"),
            program
                .client
                .patch(program.url("/admin/tokens"))
                .header("authorization", "canary-admin")
                .body("[\"canary token\"]"),
            program
                .client
                .patch(program.url("/admin/tokens"))
                .header("authorization", "canary-admin")
                .body("{\"canary\""),
            program
                .client
                .patch(program.url("/admin/tokens"))
                .header("authorization", "canary-admin")
                .body("[\"eyJ-canary-new\"]"),
            program
                .client
                .patch(program.url("/admin/password"))
                .header("authorization", "canary-admin")
                .body("{\"password\":\"canary-next\"}"),
            events(&program, "canary-401", "canary status=401").bearer_auth(key),
        ] {
            let answer = request.send().await.unwrap();
            // What the site itself says back is the caller's own.
            if !answer.status().is_success() && !answer.headers().contains_key("x-site-request-id") {
                told += &answer.text().await.unwrap();
            }
        }
        fs::write(&keys, format!("{{\"keys\": \"canary {key}")).unwrap();
        fs::write(&accounts, "{\"accounts\": [{\"token\": [\"canary\"]}]}").unwrap();
        for name in ["keys.json", "accounts.json"] {
            eventually(|| text(&log).contains(&format!("{name}: line 1")), |it| *it).await;
        }

        // Everything that a caller says, and what the site answers: the prompt once more.
        let ask = |id: &str, knobs: &str| {
            let request = events(&program, id, &format!("canary-prompt {knobs}"));
            let request =
                request.header("authorization", "Bearer canary-bearer").header("cookie", "a=canary-cookie");
            request.header("oai-device-id", "canary-device").header("x-authorization", "canary-other")
        };
        let answer = ask("canary-message", "echo=1").send().await.unwrap();
        assert!(answer.text().await.unwrap().contains("canary-prompt"));
        // The same in the official API's form, good and bad. Its refusals may say back what was sent, to whom sent it.
        for body in [
            r#"{"model":"canary-model","messages":[{"role":"user","content":"canary-prompt status=500"}]}"#,
            r#"{"messages":[{"role":"user","content":"canary-prompt echo=1"}]}"#,
            r#"{"messages":"canary-prompt"}"#,
            r#"{"messages":[{"role":"canary-role","content":"canary-prompt"}],"canary-member":1}"#,
            r#"{"input":"canary-prompt","previous_response_id":"canary-id"}"#,
            "canary-prompt",
        ] {
            let path = if body.contains("input") { "/v1/responses" } else { "/v1/chat/completions" };
            let request =
                program.client.post(program.url(path)).header("authorization", "Bearer canary-bearer");
            let answer = request.body(body).send().await.unwrap();
            assert_eq!(answer.status().is_success(), body.contains("echo"), "{body}");
        }
        for path in [
            "/backend-api/models?token=canary-query",
            "/elsewhere?token=canary-query",
            "/k/canary-key/v1/models",
            "/k/canary-key",
            "/backend-api/sk-canary-path",
            "/backend-api/..%2f?canary-query",
            "/readyz?canary-query",
            "/backend-api/practice/redirect?code=302&to=https://elsewhere.test:1/canary-target?canary-query",
        ] {
            let request = program.client.get(program.url(path)).header("authorization", "canary-bearer");
            let answer = request.send().await.unwrap();
            if !answer.status().is_success() && !path.contains("sk-") {
                told += &answer.text().await.unwrap();
            }
        }
        // Broken ones, below what a client library sends.
        for request in [
            "GET /canary-line HTTP/9.9\r\n\r\n".to_owned(),
            "GET /backend-api/x HTTP/1.1\r\nhost: localhost\r\ncanary-header\r\n\r\n".to_owned(),
            format!("GET /backend-api/x HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "canary-long".repeat(20_000)),
            "POST /backend-api/x HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\ncanary-chunk\r\n".to_owned(),
            "GET /backend-api/x HTTP/1.1\r\nhost: localhost\r\norigin: https://canary-origin.example\r\nconnection: close\r\n\r\n".to_owned(),
            "POST /backend-api/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\ncanary-half".to_owned(),
        ] {
            let mut socket = TcpStream::connect(program.addr).await.unwrap();
            let _ = socket.write_all(request.as_bytes()).await;
            // Half a body is only known for one when no more can come; the others are whole, or wrong at once.
            if request.ends_with("canary-half") {
                let _ = socket.shutdown().await;
            }
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer).await;
            told += &String::from_utf8_lossy(&answer);
        }
        // A stream that the browser's death cuts, one that its client leaves, one that never got an answer.
        let mut cut = ask("canary-cut", "count=100000 interval=20").send().await.unwrap().bytes_stream();
        cut.next().await.unwrap().unwrap();
        let mut early = ask("canary-early", "first=60000").send().await.unwrap();
        assert!(early.chunk().await.unwrap().unwrap().starts_with(b": ping\n\n"));
        drop(ask("canary-gone", "count=100000 interval=20").send().await.unwrap());
        let browser = eventually(|| program.browser(), Option::is_some).await.unwrap();
        signal(browser, Signal::KILL);
        while let Some(Ok(_)) = cut.next().await {}
        while let Ok(Some(chunk)) = early.chunk().await {
            told += &String::from_utf8_lossy(&chunk);
        }
        assert!(told.contains("page_lost"), "{told}");
        let outcomes =
            ["complete", "client_gone", "page_lost", "path_not_allowed", "redirected_away", "foreign_origin"];
        eventually(
            || outcomes.map(|it| text(&log).contains(&format!("outcome={it}"))),
            |it| it.iter().all(|it| *it),
        )
        .await;

        told += &program.client.get(program.url("/metrics")).send().await.unwrap().text().await.unwrap();
        told += &text(&log);
        told += &program.log();
        let hits: Vec<_> = told.lines().filter(|it| it.contains("canary") || it.contains(secret)).collect();
        assert!(hits.is_empty(), "{level}: {hits:#?}");
        assert_eq!(turn("canary", "x")["messages"][0]["id"], "canary", "the canaries were sent");
    }
}
