//! `/openapi.json` against what is served: schemathesis makes requests of it, good and bad.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tabproxy::browser::launch::find_chromium;
use tokio::io::AsyncReadExt;

use super::{python, rig};
use crate::access::Desk;
use crate::rig::{PATIENCE, Rig, code_of};

async fn document(rig: &Rig) -> Value {
    let answer = rig.get("/openapi.json").await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_the_document_leads_somewhere() {
    // The stream of ticks is as long as some pings.
    let rig = Rig::with(Default::default(), |config| config.ping = Some(Duration::from_millis(200))).await;
    let document = document(&rig).await;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{rest}", "practice/echo").replace("{id}", "x").replace("{model}", "auto");
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase().parse().unwrap();
            let answer = rig.client.request(method, rig.url(&path)).json(&json!({})).send();
            let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
            let status = answer.status().as_u16();
            // Faults of a kind that only a path or a method that is not served has.
            let code = answer
                .json::<Value>()
                .await
                .ok()
                .and_then(|it| it["error"]["code"].as_str().map(str::to_owned));
            let is_served = !matches!(code.as_deref(), Some("path_not_allowed" | "method_not_allowed"));
            let is_closed = path.starts_with("/api/auth/") && matches!(status, 401 | 403);
            assert!(is_served || is_closed, "{path}: {status} {code:?}");
        }
    }
    let outside = rig.get("/nowhere").await;
    assert_eq!(code_of(outside).await, "path_not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_document_in_a_browser_also_below_a_key() {
    let desk = Desk::new();
    let key = desk.key(&[]);
    let rig = rig(|config| {
        config.keys_file = Some(desk.keys());
        config.require_key = true;
    })
    .await;
    let page = rig.get(&format!("/k/{key}/docs")).await;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    // It says nothing that is secret, and is read before there is a key.
    assert_eq!(rig.get("/docs").await.status(), 200);
    assert_eq!(rig.get("/backend-api/models").await.status(), 401);

    let mut browser = tokio::process::Command::new(find_chromium().unwrap());
    browser.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        "--virtual-time-budget=60000",
    ]);
    let profile = tempfile::tempdir().unwrap();
    browser.arg(format!("--user-data-dir={}", profile.path().display()));
    browser.arg(rig.url(&format!("/k/{key}/docs"))).kill_on_drop(true);
    let shown = tokio::time::timeout(2 * PATIENCE, browser.output()).await.expect("it ends").unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for text in ["<h2>OpenAI</h2>", "<code>/v1/chat/completions</code>", "messages: [{", "<b>PATCH</b>"] {
        assert!(shown.contains(text), "no {text} in {shown}");
    }
}

/// Takes the place of the official API, and finds everything good.
async fn official() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(async || "{}");
    tokio::spawn(async move { axum::serve(listener, router).await });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_of_any_kind_never_gives_a_server_error() {
    let official = official().await;
    let rig = rig(|config| {
        config.admin_password = Some("password".to_owned().into());
        config.api_target = format!("http://{official}/").parse().unwrap();
        config.ping = Some(Duration::from_millis(200));
    })
    .await;
    let mut command = python();
    // Beside that, what it is answered is what the document says.
    command.args(["-m", "schemathesis.cli", "run", &rig.url("/openapi.json")]);
    command.args([
        "--checks",
        "not_a_server_error,content_type_conformance,response_schema_conformance,allow_header_conformance",
        "--mode",
        "all",
        "--phases",
        "examples,coverage,fuzzing",
    ]);
    command.args(["--max-examples", "8", "--seed", "5", "--no-shrink", "--continue-on-failure"]);
    command.args(["--request-timeout", "30", "--suppress-health-check", "all", "--warnings", "off"]);
    // The admin's routes know this; for the site and the official API it is somebody's token. Only the password
    // itself must stay what it is.
    command.args(["--header", "Authorization: password", "--exclude-path", "/admin/password"]);
    // It keeps what it has found, which is for nobody here.
    command.current_dir(rig.profile.path());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    let read = async {
        child.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
        child.wait().await.unwrap()
    };
    let ended = tokio::time::timeout(4 * PATIENCE, read).await.expect("it ends");
    println!("{said}");
    assert!(ended.success(), "{said}");
    // It has asked for a lot, also of the site, and the proxy is as it was.
    let counters = rig.counters();
    assert!(counters.posts > 20 && counters.requests_total > 200, "{counters:?}\n{said}");
    rig.wait_ready().await;
    rig.answers("after").await;
}
