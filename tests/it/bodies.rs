//! Bytes are bytes: any method, any body, any answer, the same on both sides.

use reqwest::Method;
use serde_json::Value;
use tabproxy::practice::{answer_text, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{Rig, code_of, last_text, turn};

#[tokio::test(flavor = "multi_thread")]
async fn any_method_and_any_body_arrive_as_they_were_sent() {
    methods_and_bodies(Rig::ready().await).await;
}

pub async fn methods_and_bodies(rig: Rig) {
    let every_byte: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let tricky = "lone \\ud800 \u{2028} </script> NUL\0 end 你好 🙂".as_bytes().to_vec();
    for body in [every_byte, tricky, b"{".to_vec()] {
        let sent = rig.client.post(rig.url("/backend-api/practice/mirror"));
        let answer =
            sent.header("content-type", "application/x-odd").body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/x-odd");
        assert!(answer.bytes().await.unwrap() == body, "{} bytes differ", body.len());
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let sent = rig.client.request(method.clone(), rig.url("/backend-api/practice/echo?a=%20b&c"));
        let echo: Value = sent.body("body").send().await.unwrap().json().await.unwrap();
        assert_eq!(echo["method"], method.as_str());
        assert_eq!(echo["query"], "a=%20b&c");
        assert_eq!(echo["body_len"], 4);
    }
    let head = rig.client.head(rig.url("/backend-api/practice/echo")).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_answer_comes_through() {
    answers(Rig::ready().await).await;
}

pub async fn answers(rig: Rig) {
    let big = rig.get("/backend-api/practice/bytes?n=20000001").await;
    assert_eq!(big.headers()["content-type"], "application/octet-stream");
    assert!(big.bytes().await.unwrap() == pattern(0, 20_000_001));

    let audio = rig.get("/backend-api/synthesize?message_id=1&conversation_id=2&voice=x&format=mp3").await;
    assert_eq!(audio.headers()["content-type"], "audio/mpeg");
    assert!(audio.bytes().await.unwrap().len() > 10_000);

    for code in [204, 205, 304, 404, 418, 429, 500, 503] {
        let answer = rig.get(&format!("/backend-api/practice/status?code={code}")).await;
        assert_eq!(answer.status().as_u16(), code);
        for never in ["set-cookie", "content-security-policy", "strict-transport-security", "alt-svc"] {
            assert!(!answer.headers().contains_key(never), "{never}");
        }
        assert!(answer.headers().contains_key("x-ratelimit-remaining"));
        let _ = answer.bytes().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_survive_every_split_of_their_bytes() {
    splits(Rig::ready().await).await;
}

pub async fn splits(rig: Rig) {
    for text in ["cjk", "emoji", "mixed"] {
        let prompt = format!("hello count=6 interval=1 split=1 text={text}");
        let answer = rig.ask(text, &prompt).await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        assert_eq!(last_text(&answer.bytes().await.unwrap()), answer_text(&prompt));
    }
    let delta = rig.ask("delta", "hello count=6 format=delta").await.text().await.unwrap();
    assert!(delta.starts_with("event: delta_encoding\ndata: \"v1\"\n\n"), "{delta}");
    assert!(delta.ends_with("data: [DONE]\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_pass_by_an_allow_list_in_both_directions() {
    let rig = Rig::ready().await;
    let sent = rig.client.get(rig.url("/backend-api/practice/echo"));
    let sent = sent
        .header("authorization", "Bearer abc")
        .header("oai-language", "zh-CN")
        .header("cookie", "stolen=1")
        .header("user-agent", "curl/8")
        .header("referer", "https://evil.example/")
        .header("sec-ch-ua", "forged")
        .header("x-forwarded-for", "10.0.0.1")
        .header("library", "chatgpt-plugin");
    let echo: Value = sent.send().await.unwrap().json().await.unwrap();
    let got = &echo["headers"];
    assert_eq!(got["authorization"][0], "Bearer abc");
    assert_eq!(got["oai-language"][0], "zh-CN");
    assert_eq!(got["sec-fetch-site"][0], "same-origin");
    assert!(got["user-agent"][0].as_str().unwrap().contains("Chrome"));
    let told = got.to_string();
    for never in ["stolen", "curl", "evil", "forged", "10.0.0.1", "chatgpt-plugin"] {
        assert!(!told.contains(never), "{never} in {told}");
    }
    // What the site sees is a page of its own that asks.
    let sent = rig.client.post(rig.url("/backend-api/practice/echo")).header("origin", rig.url(""));
    let echo: Value = sent.body("{}").send().await.unwrap().json().await.unwrap();
    assert_eq!(echo["headers"]["origin"][0], rig.site.home_url().trim_end_matches('/'));
    assert_eq!(echo["headers"]["referer"][0], rig.site.home_url());
    // An empty token is none.
    let sent = rig.client.get(rig.url("/backend-api/practice/echo")).header("authorization", "");
    let echo: Value = sent.send().await.unwrap().json().await.unwrap();
    assert!(echo["headers"]["authorization"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_stay_within_the_origin() {
    redirects(Rig::ready().await).await;
}

pub async fn redirects(rig: Rig) {
    let inside = rig.get("/backend-api/practice/redirect?code=302&to=/backend-api/models").await;
    assert_eq!(inside.status(), 200);
    assert_eq!(inside.headers()["content-location"], "/backend-api/models");

    let elsewhere = format!("https://elsewhere.test:{}", rig.site.addr().port());
    for code in [302, 307, 308] {
        let path = format!("/backend-api/practice/redirect?code={code}&to={elsewhere}/landed");
        let post = rig.client.post(rig.url(&path)).header("content-type", "text/plain").body("secret");
        for request in [rig.client.get(rig.url(&path)), post] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 502);
            let told = answer.text().await.unwrap();
            assert!(told.contains("redirected_away") && told.contains(&elsewhere), "{told}");
        }
    }
    assert_eq!(rig.counters().elsewhere_hits, 0, "nothing of the request goes to the other origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_before_it_is_there() {
    let rig = Rig::with(Default::default(), |config| config.max_body = 1 << 20).await;
    let url = rig.url("/backend-api/practice/mirror");
    let fits = rig.client.post(&url).body(vec![7; 1 << 20]).send().await.unwrap();
    assert_eq!((fits.status().as_u16(), fits.bytes().await.unwrap().len()), (200, 1 << 20));
    let declared = rig.client.post(&url).body(vec![7; (1 << 20) + 1]).send().await.unwrap();
    assert_eq!(declared.status(), 413);
    assert_eq!(code_of(declared).await, "body_too_large");
    let before = rig.counters().started;
    let pieces = futures::stream::iter((0..5000).map(|_| Ok::<_, std::io::Error>(vec![7u8; 1024])));
    let endless = rig.client.post(&url).body(reqwest::Body::wrap_stream(pieces)).send().await;
    // The answer may come while the body is still being sent; then the connection is closed on the rest.
    if let Ok(answer) = endless {
        assert_eq!(answer.status(), 413);
    }
    assert_eq!(rig.counters().started, before);
    assert_eq!(rig.ask("m", &turn("m", "x").to_string()).await.status(), 200, "and it goes on");
}

/// Clients that decode each piece on its own read the same as those that decode the stream.
#[tokio::test(flavor = "multi_thread")]
async fn pieces_of_an_event_stream_end_where_characters_do_however_the_site_writes() {
    let rig = Rig::ready().await;
    let prompt = format!("{}echo=1 interval=1 split=100", "早上好👩‍👩‍👧‍👦é再见 ".repeat(50));
    let body = turn("torn", &prompt).to_string();
    // On the wire, since a client's library may tear what has come whole.
    let request = format!(
        "POST /backend-api/conversation HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = TcpStream::connect(rig.addr()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let head = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    let (mut rest, mut all, mut pieces) = (&answer[head..], String::new(), 0);
    while !rest.starts_with(b"0\r\n") {
        let line = rest.windows(2).position(|it| it == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        all += std::str::from_utf8(&rest[line + 2..][..size]).unwrap();
        rest = &rest[line + 2 + size + 2..];
        pieces += 1;
    }
    assert!(pieces > 5, "{pieces}");
    assert_eq!(last_text(all.as_bytes()), prompt);
}
