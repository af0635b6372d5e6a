//! The site as a whole, over real TLS and HTTP/2, as a direct client sees it.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::*;

const AGENT: &str = "practice-test";

fn client(site: &Practice) -> Client {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(site.cert_pem().as_bytes()).expect("a certificate");
    roots.add(certificate).expect("a trust anchor");
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(AGENT)
        .redirect(redirect::Policy::none())
        .no_proxy();
    for name in ["practice.test", "chat.practice.test", "elsewhere.test"] {
        client = client.resolve(name, site.addr());
    }
    client.build().expect("a client")
}

async fn started(args: PracticeArgs) -> (Practice, Client) {
    let site = Practice::start(args).await.expect("a site");
    let client = client(&site);
    (site, client)
}

/// A request as the home page's script would send it.
fn as_page(site: &Practice, request: RequestBuilder) -> RequestBuilder {
    request.header("sec-fetch-site", "same-origin").header("cookie", site.clearance_for(AGENT))
}

fn prompt(text: &str, id: &str) -> Value {
    json!({"action": "next", "model": "auto", "messages": [
        {"id": id, "author": {"role": "user"}, "content": {"content_type": "text", "parts": [text]}}]})
}

async fn ask(site: &Practice, client: &Client, text: &str) -> Response {
    let url = site.home_url() + "backend-api/conversation";
    as_page(site, client.post(url).json(&prompt(text, text))).send().await.expect("an answer")
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting).await.expect(what);
}

#[test]
fn the_defaults_are_those_of_the_command_line() {
    use clap::Parser;
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: PracticeArgs,
    }
    let parsed = Cli::try_parse_from(["practice"]).expect("no flags").args;
    assert_eq!(
        PracticeArgs { listen: "127.0.0.1:8443".parse().expect("an address"), ..Default::default() },
        parsed
    );
}

#[tokio::test]
async fn an_answer_streams_over_http2() {
    let (site, client) = started(PracticeArgs::default()).await;
    let answer = ask(&site, &client, "count=3 interval=1 text=cjk split=1").await;
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, reqwest::Version::HTTP_2));
    assert_eq!(answer.headers()["content-type"], "text/event-stream; charset=utf-8");
    let body = answer.text().await.expect("a body");
    assert!(body.contains(&answer_text("count=3 text=cjk")) && body.ends_with("data: [DONE]\n\n"));
    let seen = site.counters();
    assert_eq!((seen.posts, seen.started, seen.finished, seen.active), (1, 1, 1, 0));
    assert_eq!((seen.h2_connections, seen.h1_connections), (1, 0));
    assert!(seen.odd_headers.is_empty(), "{:?}", seen.odd_headers);
}

#[tokio::test]
async fn http1_only_means_that() {
    let (site, client) = started(PracticeArgs { http1_only: true, ..Default::default() }).await;
    let answer = ask(&site, &client, "count=2 interval=0").await;
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    assert!(answer.text().await.expect("a body").ends_with("[DONE]\n\n"));
    assert_eq!(site.counters().h1_connections, 1);
}

#[tokio::test]
async fn nobody_passes_without_clearance_and_fetch_metadata() {
    let (site, client) = started(PracticeArgs::default()).await;
    let me = site.home_url() + "backend-api/me";
    let bare = client.get(&me).send().await.expect("an answer");
    assert_eq!(
        (bare.status(), bare.headers()["cf-mitigated"].as_bytes()),
        (StatusCode::FORBIDDEN, &b"challenge"[..])
    );
    assert!(bare.text().await.expect("a page").contains("<title>Just a moment...</title>"));
    let foreign =
        client.get(&me).header("cookie", site.clearance_for(AGENT)).send().await.expect("an answer");
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    assert!(foreign.text().await.expect("JSON").contains("detail"));
    assert_eq!(as_page(&site, client.get(&me)).send().await.expect("an answer").status(), StatusCode::OK);
    let old = as_page(&site, client.get(&me));
    site.expire_clearance();
    assert_eq!(old.send().await.expect("an answer").status(), StatusCode::FORBIDDEN);
    let seen = site.counters();
    assert_eq!((seen.challenged, seen.refused_fetch_site, seen.requests_total), (2, 1, 4));
}

#[tokio::test]
async fn each_host_has_its_role() {
    // HTTP/1.1, because there the `Host` header alone says which site is meant.
    let args = PracticeArgs { check: Check::Off, http1_only: true, ..Default::default() };
    let (site, client) = started(args).await;
    let front = client.get(site.front_url() + "c/1?x=y").send().await.expect("an answer");
    assert_eq!(front.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(front.headers()["location"], site.home_url() + "c/1?x=y");
    let elsewhere = format!("https://elsewhere.test:{}/landed", site.addr().port());
    assert_eq!(client.get(elsewhere).send().await.expect("an answer").status(), StatusCode::OK);
    let other = client.get(site.home_url()).header("host", "evil.test");
    assert_eq!(other.send().await.expect("an answer").status(), StatusCode::MISDIRECTED_REQUEST);
    let home = client.get(site.home_url()).send().await.expect("an answer");
    assert!(home.text().await.expect("a page").contains("<title>Practice Chat</title>"));
    let seen = site.counters();
    assert_eq!((seen.elsewhere_hits, seen.home_loads), (1, 1));
}

#[tokio::test]
async fn the_site_can_break_an_answer_in_every_way() {
    let (site, client) = started(PracticeArgs::default()).await;
    let cut = ask(&site, &client, "count=9 interval=0 cut=4 grow=0").await.text().await.expect("a clean end");
    assert_eq!(cut.matches("\"t\":").count(), 4);
    assert!(!cut.contains("[DONE]"));
    let reset = ask(&site, &client, "count=9 interval=0 reset=4").await;
    assert!(reset.text().await.is_err());
    let capped = ask(&site, &client, "status=429 retry=3").await;
    assert_eq!((capped.status().as_u16(), capped.headers()["retry-after"].as_bytes()), (429, &b"3"[..]));
    assert!(capped.text().await.expect("JSON").contains("model_cap_exceeded"));
    assert_eq!(ask(&site, &client, "status=403").await.headers()["cf-mitigated"], "challenge");
    assert_eq!(ask(&site, &client, "auth=required").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&site, &client, "count=lots").await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(site.counters().finished, 5);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_before_and_after_the_head() {
    let (site, client) = started(PracticeArgs::default()).await;
    let begun = ask(&site, &client, "count=1000 interval=50").await;
    assert_eq!(site.counters().active, 1);
    drop(begun);
    eventually("left after the head", || site.counters().aborted == 1).await;
    let early = tokio::time::timeout(Duration::from_millis(200), ask(&site, &client, "first=60000")).await;
    assert!(early.is_err());
    eventually("left before the head", || site.counters().aborted == 2).await;
    assert_eq!((site.counters().active, site.counters().posts), (0, 2));
}

#[tokio::test]
async fn a_conversation_is_remembered_and_a_foreign_one_is_not() {
    let (site, client) = started(PracticeArgs::default()).await;
    let body = ask(&site, &client, "count=1 interval=0").await.text().await.expect("a body");
    let first: Value = serde_json::from_str(&body[6..body.find("\n\n").expect("an event")]).expect("JSON");
    let id = first["conversation_id"].as_str().expect("an id");
    let url = format!("{}backend-api/conversation/{id}", site.home_url());
    let known = as_page(&site, client.get(&url)).send().await.expect("an answer");
    assert_eq!(known.json::<Value>().await.expect("JSON")["conversation_id"], id);
    let mut foreign = prompt("count=1", "m");
    foreign["conversation_id"] = json!("nowhere");
    let url = site.home_url() + "backend-anon/conversation";
    let answer = as_page(&site, client.post(url).json(&foreign)).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    let mut anonymous = prompt("count=1", "m");
    anonymous["messages"][0]["author"] = Value::Null;
    let url = site.home_url() + "backend-api/conversation";
    let answer = as_page(&site, client.post(url).json(&anonymous)).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(site.counters().posts_by_message_id["m"], 2);
}

#[tokio::test]
async fn a_sign_in_wall_stands_until_the_form_is_sent() {
    let (site, client) = started(PracticeArgs { sign_in: true, ..Default::default() }).await;
    let home = as_page(&site, client.get(site.home_url())).send().await.expect("an answer");
    assert_eq!(
        (home.status(), home.headers()["location"].as_bytes()),
        (StatusCode::FOUND, &b"/auth/login"[..])
    );
    assert_eq!(ask(&site, &client, "count=1").await.status(), StatusCode::UNAUTHORIZED);
    let login = as_page(&site, client.post(site.home_url() + "auth/login")).send().await.expect("an answer");
    assert_eq!(login.status(), StatusCode::SEE_OTHER);
    let cookie =
        login.headers()["set-cookie"].to_str().expect("text").split(';').next().expect("a pair").to_owned();
    let session = as_page(&site, client.get(site.home_url() + "api/auth/session")).header("cookie", cookie);
    let session: Value = session.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(session["accessToken"], "practice-access-token");
}

#[tokio::test]
async fn the_helpers_keep_every_byte() {
    let (site, client) = started(PracticeArgs::default()).await;
    let url = |path: &str| site.home_url() + "backend-api/practice/" + path;
    let bulk = as_page(&site, client.get(url("bytes?n=1000001"))).send().await.expect("an answer");
    assert_eq!(bulk.content_length(), Some(1_000_001));
    assert!(bulk.bytes().await.expect("a body") == pattern(0, 1_000_001));
    let sent = pattern(7, 300_000);
    let mirrored =
        as_page(&site, client.post(url("mirror"))).header("content-type", "x/y").body(sent.clone());
    let mirrored = mirrored.send().await.expect("an answer");
    assert_eq!(mirrored.headers()["content-type"], "x/y");
    assert!(mirrored.bytes().await.expect("a body") == sent);
    let echo = as_page(&site, client.put(url("echo?a=%20b&a"))).header("x-a", "1").body("abc");
    let echo: Value = echo.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!((&echo["method"], &echo["body_len"]), (&json!("PUT"), &json!(3)));
    assert_eq!((&echo["path"], &echo["query"]), (&json!("/backend-api/practice/echo"), &json!("a=%20b&a")));
    assert_eq!(echo["headers"]["x-a"], json!(["1"]));
    for code in [204, 304, 418, 503] {
        let path = format!("status?code={code}");
        let answer = as_page(&site, client.get(url(&path))).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), code);
    }
}

#[tokio::test]
async fn dropping_the_site_ends_its_answers() {
    let (site, client) = started(PracticeArgs::default()).await;
    let answer = ask(&site, &client, "count=1000 interval=50").await;
    drop(site);
    let ended = tokio::time::timeout(Duration::from_secs(5), answer.bytes()).await.expect("an end");
    assert!(ended.is_err());
}
