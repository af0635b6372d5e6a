//! Earlier systems' routes end where ours do, with errors in their own form; the admin's routes; other origins.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tabproxy::config::Cors;
use tabproxy::practice::PracticeArgs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::access::Desk;
use crate::rig::{Rig, last_text, turn};

async fn ask(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_earlier_system_is_served() {
    let rig = Rig::ready().await;
    let call = |method: &str, path: &str| {
        let method: Method = method.parse().unwrap();
        rig.client.request(method, rig.url(path)).header("x-authorization", "Bearer eyJ-theirs")
    };
    let asked = call("POST", "/chatgpt/conversation").json(&turn("first", "hello count=3"));
    let answer = asked.header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.bytes().await.unwrap();
    assert!(!last_text(&body).is_empty() && body.ends_with(b"data: [DONE]\n\n"));
    let (status, list) = ask(call("GET", "/chatgpt/conversations?offset=0&limit=20")).await;
    assert_eq!((status, &list["limit"]), (200, &20.into()));
    let id = list["items"][0]["id"].as_str().unwrap().to_owned();

    let title = |title: &str| json!({ "title": title });
    for (method, words) in [("PATCH", "one"), ("POST", "two")] {
        let change = call(method, &format!("/chatgpt/conversation/{id}")).json(&title(words));
        assert_eq!(ask(change).await.0, 200, "{method}");
        let (status, told) = ask(call("GET", &format!("/chatgpt/conversation/{id}"))).await;
        assert_eq!((status, &told["title"]), (200, &words.into()));
    }
    let (status, told) =
        ask(call("POST", &format!("/chatgpt/conversation/gen_title/{id}"))
            .json(&json!({"message_id": "first"})))
        .await;
    assert!(status == 200 && told["title"].is_string(), "{told}");
    let feedback = json!({"message_id": "first", "conversation_id": id, "rating": "thumbsUp"});
    let (status, told) = ask(call("POST", "/chatgpt/conversation/message_feedback").json(&feedback)).await;
    assert_eq!((status, &told["rating"]), (200, &"thumbsUp".into()));
    assert!(ask(call("GET", "/chatgpt/models")).await.1["models"].is_array());
    assert!(ask(call("GET", "/chatgpt/accounts/check")).await.1["accounts"].is_object());
    let (_, echo) = ask(call("PUT", "/chatgpt/backend-api/practice/echo?a=b").body("x")).await;
    assert_eq!(
        (&echo["method"], &echo["path"], &echo["query"]),
        (&"PUT".into(), &"/backend-api/practice/echo".into(), &"a=b".into())
    );
    assert_eq!(echo["headers"]["authorization"], json!(["Bearer eyJ-theirs"]));
    for method in ["PATCH", "POST"] {
        let hide = call(method, "/chatgpt/conversations").json(&json!({"is_visible": false}));
        assert_eq!(ask(hide).await.0, 200, "{method}");
    }
    assert_eq!(ask(call("GET", "/chatgpt/conversations")).await.1["total"], 0);
    assert_eq!(ask(rig.client.get(rig.url("/ping"))).await, (200, json!({"message": "pong"})));

    // What goes wrong is said in their form: our own words, and the site's.
    let missing = rig.client.get(rig.url("/chatgpt/models"));
    assert_eq!(ask(missing).await, (401, json!({"errorMessage": "Missing accessToken."})));
    let (status, told) = ask(call("GET", "/chatgpt/login")).await;
    assert!(status == 403 && told["errorMessage"].as_str().unwrap().contains("not served"), "{told}");
    let (status, told) = ask(call("GET", "/chatgpt/conversation/nowhere")).await;
    assert!(status == 404 && told["errorMessage"].is_string() && told["detail"].is_object(), "{told}");
    let busy = call("POST", "/chatgpt/conversation").json(&turn("busy", "hello status=429"));
    let (status, told) = ask(busy).await;
    let words = told["errorMessage"].as_str().unwrap();
    assert!(status == 429 && words.starts_with("You have sent too many messages"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_changes_accounts_and_password_and_nobody_else_does() {
    let desk = Desk::new();
    desk.store(&[("kept", "eyJ-kept")]);
    let key = desk.key(&["unnamed-1"]);
    let rig = Rig::with(PracticeArgs::default(), |config| {
        config.keys_file = Some(desk.keys());
        config.accounts_file = Some(desk.accounts());
        let hash = tabproxy::access::password::hash("hunter2").unwrap();
        config.admin_password = Some(hash.into());
    })
    .await;
    let patch = |path: &str, password: &str, body: Value| {
        rig.client.patch(rig.url(path)).header("authorization", password).json(&body)
    };
    let (status, told) = ask(patch("/admin/tokens", "wrong", json!(["eyJ-new"]))).await;
    assert_eq!((status, &told["error"]["code"]), (401, &"admin_refused".into()));
    let (status, told) =
        ask(patch("/admin/tokens", "hunter2", json!([{"token": "eyJ-new", "puid": "x"}, "eyJ-2"]))).await;
    assert_eq!((status, &told["tokens"], &told["kept"]), (200, &2.into(), &true.into()));
    let echo = rig.client.get(rig.url("/backend-api/practice/echo")).bearer_auth(&key);
    assert_eq!(ask(echo).await.1["headers"]["authorization"], json!(["Bearer eyJ-new"]));
    let stored = std::fs::read_to_string(desk.accounts()).unwrap();
    assert!(stored.contains("eyJ-kept") && stored.contains("eyJ-2"), "{stored}");
    for (path, body, expected) in [
        ("/admin/tokens", json!({"a": 1}), 400),
        ("/admin/tokens", json!(["two words"]), 400),
        ("/admin/password", json!({"password": ""}), 400),
        ("/admin/puid", json!({"puid": "x"}), 200),
        ("/admin/openai", json!({"OpenAI_Email": "a", "OpenAI_Password": "b"}), 400),
        ("/admin/elsewhere", json!({}), 403),
        ("/admin/password", json!({"password": "other"}), 200),
    ] {
        assert_eq!(ask(patch(path, "Bearer hunter2", body)).await.0, expected, "{path}");
    }
    assert_eq!(ask(patch("/admin/puid", "hunter2", json!({}))).await.0, 401, "the old one is over");
    let statuses =
        futures::future::join_all((0..12).map(|_| ask(patch("/admin/puid", "guess", json!({}))))).await;
    assert_eq!(statuses.last().unwrap().0, 429, "{statuses:?}");
    // Once there, the right one has to wait too: a password can be guessed.
    assert_eq!(ask(patch("/admin/puid", "other", json!({}))).await.0, 429);

    let closed = Rig::starting(PracticeArgs::default(), |_| {}).await;
    let request =
        closed.client.patch(closed.url("/admin/tokens")).header("authorization", "").json(&json!([]));
    let (status, told) = ask(request).await;
    assert_eq!((status, &told["error"]["code"]), (403, &"admin_closed".into()));
}

/// An answer's head, to a request as a browser sends it.
async fn head(rig: &Rig, request: &str) -> String {
    let mut socket = TcpStream::connect(rig.addr()).await.unwrap();
    let request = format!("{request}connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    text.split("\r\n\r\n").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_come_in_where_the_operator_says_so() {
    const PAGE: &str = "origin: https://app.test\r\nsec-fetch-site: cross-site\r\n";
    let get = |host: &str| format!("GET /ping HTTP/1.1\r\nhost: {host}\r\n{PAGE}");
    let preflight = format!(
        "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{PAGE}access-control-request-method: POST\r\n\
         access-control-request-headers: authorization,content-type\r\n"
    );
    let closed = Rig::starting(PracticeArgs::default(), |_| {}).await;
    assert!(head(&closed, &get("localhost")).await.starts_with("http/1.1 403"));
    assert!(head(&closed, &preflight).await.starts_with("http/1.1 403"));
    drop(closed);
    for cors in [Cors::Any, Cors::Origins(vec!["https://app.test".into()])] {
        let allowed = if cors == Cors::Any { "*" } else { "https://app.test" };
        let rig = Rig::starting(PracticeArgs::default(), |config| config.cors = cors).await;
        let answer = head(&rig, &get("localhost")).await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(answer.contains(&format!("access-control-allow-origin: {allowed}")), "{answer}");
        assert!(
            answer.contains("access-control-expose-headers: *") && !answer.contains("allow-credentials"),
            "{answer}"
        );
        let answer = head(&rig, &preflight).await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        for line in [
            &format!("access-control-allow-origin: {allowed}"),
            "access-control-allow-methods: post",
            "access-control-allow-headers: authorization,content-type",
        ] {
            assert!(answer.contains(line), "{line} in {answer}");
        }
        // A name that is not ours is what rebinding needs: it stays out.
        assert!(head(&rig, &get("evil.test")).await.starts_with("http/1.1 403"));
        let other = get("localhost").replace("https://app.test", "https://other.test");
        let expected = if allowed == "*" { "http/1.1 200" } else { "http/1.1 403" };
        assert!(head(&rig, &other).await.starts_with(expected));
        // What a page embeds shows no origin, and stays out too.
        let embedded = "GET /ping HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: cross-site\r\n";
        assert!(head(&rig, embedded).await.starts_with("http/1.1 403"));
    }
}
