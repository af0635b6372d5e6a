//! One instance among many: what it is called, and how it leaves.

use std::time::Duration;

use futures::StreamExt;
use rustix::process::Signal;
use serde_json::Value;
use tabproxy::practice::{Practice, PracticeArgs, answer_text};

use crate::program::Program;
use crate::rig::{Rig, eventually, last_text};

const HEADER: &str = "x-tabproxy-instance";

/// What every answer names, once.
fn named(answer: &reqwest::Response) -> String {
    let all: Vec<_> = answer.headers().get_all(HEADER).iter().collect();
    assert_eq!(all.len(), 1, "{:?}", answer.headers());
    all[0].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_the_instance_and_the_site_neither_says_nor_hears_it() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let proxy = Program::start(&site, &[("TABPROXY_INSTANCE", "tabproxy-7")]).await;
    proxy.wait_ready().await;
    let ask = |path: &str| proxy.client.get(proxy.url(path)).header(HEADER, "the-caller").send();
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/docs", 200),
        ("/backend-api/practice/status?code=200", 200),
        ("/backend-api/practice/status?code=429", 429),
        ("/elsewhere", 403),
        ("/admin/tokens", 403),
        ("/v1/unknown", 401),
    ] {
        let answer = ask(path).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(named(&answer), "tabproxy-7", "{path}");
    }
    // Refused by the guard, before anything else has looked at it.
    let foreign =
        proxy.client.get(proxy.url("/healthz")).header("host", "other.example").send().await.unwrap();
    assert_eq!((foreign.status().as_u16(), named(&foreign)), (403, "tabproxy-7".into()));
    let prompt = "hello count=3";
    let stream = proxy.ask("m", prompt).await;
    assert_eq!(named(&stream), "tabproxy-7");
    assert_eq!(last_text(&stream.bytes().await.unwrap()), answer_text(prompt));
    // The site heard nothing of it.
    let echo: Value = ask("/backend-api/practice/echo").await.unwrap().json().await.unwrap();
    let heard = echo["headers"].as_object().unwrap();
    assert!(!heard.is_empty() && !heard.contains_key(HEADER), "{heard:?}");

    let metrics = proxy.get("/metrics").await.text().await.unwrap();
    let info = "tabproxy_instance_info{name=\"tabproxy-7\"} 1";
    assert!(metrics.lines().any(|it| it == info), "{metrics}");
    assert!(!metrics.contains("instance=\""), "that label is Prometheus's own: {metrics}");
    // The operator gave the name, so each line has it.
    let log = proxy.log();
    assert!(log.lines().count() > 3 && log.lines().all(|it| it.ends_with(" instance=tabproxy-7")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_name_it_is_the_hosts_told_once_in_text_and_in_each_line_of_json() {
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let text = Program::start(&site, &[]).await;
    let json = Program::start(&site, &[("TABPROXY_LOG_FORMAT", "json")]).await;
    for proxy in [&text, &json] {
        assert_eq!(named(&proxy.get("/healthz").await), host);
        proxy.wait_ready().await;
    }
    let log = text.log();
    assert_eq!(log.matches(&format!(" as {host}\n")).count(), 1, "{log}");
    assert!(!log.contains("instance="), "{log}");
    let log = json.log();
    let lines: Vec<Value> = log.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    assert!(lines.len() > 2 && lines.iter().all(|it| it["instance"] == *host), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_grace_is_told_at_once_and_hurts_nobody_meanwhile() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let vars = [("TABPROXY_DRAIN_GRACE", "5s"), ("TABPROXY_DRAIN", "30s")];
    let mut proxy = Program::start(&site, &vars).await;
    proxy.wait_ready().await;
    let prompt = "hello count=400 interval=20";
    let mut long = proxy.ask("long", prompt).await.bytes_stream();
    let mut body = long.next().await.unwrap().unwrap().to_vec();

    proxy.signal(Signal::TERM);
    eventually(|| proxy.log(), |it| it.contains("not ready from now on")).await;
    let ready = proxy.get("/readyz").await;
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("the proxy is stopping"));
    // Whoever has not heard of it yet is served as ever, on a connection of its own too.
    let late = "hello count=3";
    let answer = crate::rig::client().post(proxy.url("/backend-api/conversation"));
    let answer = answer.json(&crate::rig::turn("late", late)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(last_text(&answer.bytes().await.unwrap()), answer_text(late));

    // Then nobody gets in, and who is in goes on to the end.
    let refused = || std::net::TcpStream::connect(proxy.addr).is_err();
    eventually(refused, |it| *it).await;
    assert_eq!(site.counters().active, 1, "the long one still runs");
    while let Some(piece) = long.next().await {
        body.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(last_text(&body), answer_text(prompt));
    assert!(proxy.ended().await.success());
    let posts = site.counters().posts_by_message_id;
    assert!(posts.len() == 2 && posts.values().all(|it| *it == 1), "{posts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_does_not_say_yes_and_no_in_turn_while_the_queue_is_full() {
    let rig = Rig::with(PracticeArgs::default(), |config| {
        config.max_inflight = 1;
        config.queue = 4;
        config.queue_wait = Duration::from_secs(60);
    })
    .await;
    let running = rig.ask("runs", "hello count=100000 interval=20").await;
    let wait = |n: usize| {
        let request = rig.client.post(rig.url("/backend-api/conversation"));
        tokio::spawn(request.json(&crate::rig::turn(&format!("waits{n}"), "hello count=1")).send())
    };
    let queued = async || rig.get("/readyz").await.json::<Value>().await.unwrap()["queued"].as_u64().unwrap();
    let reach = async |wanted: u64| {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let reached = async {
            while queued().await != wanted {
                tick.tick().await;
            }
        };
        tokio::time::timeout(crate::rig::PATIENCE, reached).await.expect("so many wait");
    };
    let status = async || rig.get("/readyz").await.status().as_u16();
    let mut waiting = Vec::new();
    for n in 0..4 {
        assert_eq!(status().await, 200, "{n} wait");
        waiting.push(wait(n));
        reach(n as u64 + 1).await;
    }
    assert_eq!(status().await, 503);
    for (left, expected) in [(3, 503), (2, 200)] {
        waiting.pop().unwrap().abort();
        reach(left).await;
        assert_eq!(status().await, expected, "{left} wait");
    }
    waiting.push(wait(9));
    reach(3).await;
    assert_eq!(status().await, 200, "on the way up, not before it is full");
    drop(running);
    for waits in waiting {
        assert_eq!(waits.await.unwrap().unwrap().status(), 200);
    }
    rig.sent_once();
}
