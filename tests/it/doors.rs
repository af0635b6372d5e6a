//! The ways into the console, and those that are none.

use std::fs;
use std::path::Path;

use reqwest::header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use serde_json::{Value, json};
use tabproxy::access::password;
use tabproxy::practice::{Practice, PracticeArgs};

use crate::program::Program;
use crate::rig::{Rig, code_of, eventually, turn, until};
use crate::shared::procfs::resident;

pub const PASSWORD: &str = "correct horse";

/// A session: its cookie and its token.
pub async fn come_in(program: &Program) -> (String, String) {
    let login = program.client.post(program.url("/console/login")).json(&json!({"password": PASSWORD}));
    let answer = login.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    session_of(program, &answer).await
}

async fn session_of(program: &Program, answer: &reqwest::Response) -> (String, String) {
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap();
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/console;"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let session = program.client.get(program.url("/console/api/session")).header(COOKIE, &cookie);
    let session: Value = session.send().await.unwrap().json().await.unwrap();
    (cookie, session["token"].as_str().unwrap().to_owned())
}

pub async fn state(program: &Program, cookie: &str) -> Value {
    let state = program.client.get(program.url("/console/api/state")).header(COOKIE, cookie);
    state.send().await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_in_again_and_again_leaves_no_memory_behind() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let hash = password::hash(PASSWORD).unwrap();
    let program = Program::start(&site, &[("TABPROXY_ADMIN_PASSWORD", hash.as_str())]).await;
    program.wait_ready().await;
    come_in(&program).await;
    let before = resident(program.pid());
    for _ in 0..8 {
        come_in(&program).await;
    }
    // Each check takes 19 MiB, and may run in a thread of its own.
    let grown = resident(program.pid()).saturating_sub(before);
    assert!(grown < 19 << 20, "{} MiB more after eight", grown >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_by_another_way_than_the_password() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let hash = password::hash(PASSWORD).unwrap();
    let vars = [("TABPROXY_ADMIN_PASSWORD", hash.as_str()), ("TABPROXY_CORS", "*")];
    let program = Program::start(&site, &vars).await;
    assert!(!program.log().contains("once="), "with a password there is no link");
    let (cookie, token) = come_in(&program).await;
    let get = |path: &str| program.client.get(program.url(path));
    let post = |path: &str| program.client.post(program.url(path)).json(&json!({"do": "drain"}));
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();

    let page = get("/console").send().await.unwrap();
    let csp = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(csp.contains("default-src 'none'") && csp.contains("frame-ancestors 'none'"), "{csp}");
    for path in ["/console/api/state", "/console/api/charts", "/console/api/config", "/console/live"] {
        assert_eq!(status(get(path)).await, 401, "{path}");
        let guessed = format!("tabproxy_console={}", "A".repeat(43));
        assert_eq!(status(get(path).header(COOKIE, guessed)).await, 401, "{path}");
    }
    assert_eq!(status(get("/console/enter?once=x")).await, 401);
    // The cookie alone changes nothing; nor does it with the token of nobody.
    for path in ["/console/api/do", "/console/logout", "/console/try"] {
        assert_eq!(status(post(path).header("x-console-token", &token)).await, 401, "{path}");
        assert_eq!(status(post(path).header(COOKIE, &cookie)).await, 401, "{path}");
        assert_eq!(
            status(post(path).header(COOKIE, &cookie).header("x-console-token", "x")).await,
            401,
            "{path}"
        );
    }
    let upgrade = |origin: String, protocol: &str| {
        let request = get("/console/live").header(COOKIE, &cookie).header(ORIGIN, origin);
        let request = request.header("connection", "upgrade").header("upgrade", "websocket");
        let request =
            request.header("sec-websocket-version", "13").header("sec-websocket-protocol", protocol);
        request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    let (own, shown) = (program.url(""), format!("tabproxy-console, token.{token}"));
    assert_eq!(status(upgrade(own.clone(), "tabproxy-console")).await, 401);
    assert_eq!(status(upgrade("https://evil.example".into(), &shown)).await, 403);
    assert_eq!(status(upgrade(own, &shown)).await, 101);
    // Pages of other origins, also where CORS lets them use the proxy; and another port is another origin.
    for origin in ["https://evil.example", "http://127.0.0.1:1", "null"] {
        let request = post("/console/api/do").header(COOKIE, &cookie).header("x-console-token", &token);
        assert_eq!(status(request.header(ORIGIN, origin)).await, 403, "{origin}");
        assert_eq!(
            status(get("/console/api/session").header(COOKIE, &cookie).header(ORIGIN, origin)).await,
            403
        );
    }
    let rebound = get("/console").header("host", "evil.example");
    assert_eq!(status(rebound).await, 403);
    // No request was let through, and no key of the console opens anything else.
    assert_eq!(state(&program, &cookie).await["paused"], false);

    // Guessing soon is rarely answered. All at once: to check a hash takes longer than to forget a mistake.
    let guesses = (0..14).map(|n| {
        let guess =
            program.client.post(program.url("/console/login")).json(&json!({"password": format!("{n}")}));
        status(guess)
    });
    let seen = futures::future::join_all(guesses).await;
    assert!(
        seen.iter().all(|it| matches!(it, 401 | 429)) && seen.contains(&401) && seen.contains(&429),
        "{seen:?}"
    );
    // Another password ends all sessions.
    let change = program.client.patch(program.url("/admin/password")).header("x-forwarded-for", "10.1.1.1");
    let change = change.header("authorization", PASSWORD).json(&json!({"password": "another"}));
    assert_eq!(status(change).await, 200);
    assert_eq!(status(get("/console/api/state").header(COOKIE, &cookie)).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_password_a_link_from_the_log_opens_it_once_and_only_on_this_machine() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let program = Program::start(&site, &[]).await;
    let link = |log: &str| {
        let at = log.rsplit("console: ").next()?;
        Some(at.split_whitespace().next()?.to_owned()).filter(|it| it.contains("once="))
    };
    let url = crate::rig::eventually(|| link(&program.log()), Option::is_some).await.unwrap();
    assert!(url.starts_with(&program.url("/console/enter?once=")), "{url}");
    let client =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    assert_eq!(client.head(&url).send().await.unwrap().status(), 401, "only looked at");
    assert_eq!(client.get(&url).header("sec-purpose", "prefetch").send().await.unwrap().status(), 401);
    let opened = client.get(&url).send().await.unwrap();
    assert_eq!((opened.status().as_u16(), &opened.headers()[LOCATION]), (303, &"/console".parse().unwrap()));
    let (cookie, _) = session_of(&program, &opened).await;
    assert_eq!(state(&program, &cookie).await["paused"], false);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401, "once");
    let login = client.post(program.url("/console/login")).json(&json!({"password": ""}));
    assert_eq!(login.send().await.unwrap().status(), 401);
    // Another one is to be had, and is in the log again.
    let asked = client.post(program.url("/console/link")).json(&json!({})).send().await.unwrap();
    assert_eq!(asked.status(), 200);
    let is_new = |it: &Option<String>| it.as_ref().is_some_and(|it| *it != url);
    let next = crate::rig::eventually(|| link(&program.log()), is_new).await.unwrap();
    assert_eq!(client.get(next).send().await.unwrap().status(), 303);

    let open =
        Rig::starting(PracticeArgs::default(), |config| config.listen = "0.0.0.0:0".parse().unwrap()).await;
    for path in ["/console", "/console/main.js", "/console/enter?once=x", "/console/api/session"] {
        let url = format!("http://127.0.0.1:{}{path}", open.addr().port());
        let refused = open.client.get(url).send().await.unwrap();
        assert_eq!(
            (refused.status().as_u16(), code_of(refused).await.as_str()),
            (403, "admin_closed"),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_sees_how_far_each_request_has_come() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let hash = password::hash(PASSWORD).unwrap();
    let vars = [("TABPROXY_ADMIN_PASSWORD", hash.as_str()), ("TABPROXY_MAX_INFLIGHT", "2")];
    let program = Program::start(&site, &vars).await;
    program.wait_ready().await;
    let (cookie, _) = come_in(&program).await;
    let answering = program.ask("answering", "hello count=100000 interval=50").await;
    // Without pings nothing of ours goes out before the answer's head.
    let ask = |id: &str, prompt: &str| {
        let ask = program.client.post(program.url("/backend-api/conversation"));
        tokio::spawn(ask.json(&turn(id, prompt)).header("accept", "*/*").send())
    };
    let asked = ask("asked", "hello first=600000");
    eventually(|| site.counters().posts_arrived, |it| *it == 2).await;
    let waits = ask("waits", "hello");
    let are_told = |state: &Value| {
        let stages = state["requests"].as_array().unwrap().iter().map(|it| &it["stage"]);
        stages.eq(["answers", "asked", "waits"]) && state["queued"] == 1
    };
    until(async || state(&program, &cookie).await, are_told).await;
    asked.abort();
    waits.abort();
    drop(answering);
}

#[test]
fn what_the_console_translates_is_still_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let phrases = fs::read_to_string(root.join("http/console/assets/reasons.js")).unwrap();
    let mut said = String::new();
    for dir in ["browser", "browser/state", "browser/supervisor", "browser/link"] {
        for entry in fs::read_dir(root.join(dir)).unwrap() {
            said += &fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        }
    }
    let phrases: Vec<_> = phrases
        .lines()
        .filter_map(|line| {
            let line = line.strip_prefix("  [")?;
            let end = line[1..].find(line.chars().next()?)? + 1;
            Some(&line[1..end])
        })
        .collect();
    assert!(phrases.len() > 30);
    for phrase in phrases {
        assert!(said.contains(phrase), "nobody says {phrase:?} any more");
    }
}
