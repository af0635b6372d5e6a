//! Pings keep a silent event stream alive, and change nothing else.

use std::time::Duration;

use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tabproxy::config::Config;
use tabproxy::practice::answer_text;

use crate::rig::{PATIENCE, Rig, eventually, last_text, turn};

const PING: &str = ": ping\n\n";

fn often(config: &mut Config) {
    config.ping = Some(Duration::from_millis(200));
}

/// Everything up to the end, and whether that was a cut.
async fn all(answer: reqwest::Response) -> (String, bool) {
    let chunks: Vec<_> = tokio::time::timeout(PATIENCE, answer.bytes_stream().collect()).await.unwrap();
    let is_cut = chunks.last().is_some_and(Result::is_err);
    let bytes: Vec<u8> = chunks.into_iter().flatten().flatten().collect();
    (String::from_utf8(bytes).unwrap(), is_cut)
}

/// The stream with its ids and times blanked, which no two answers share.
fn blanked(stream: &str) -> String {
    let mut blank = String::new();
    for c in stream.chars() {
        let is_volatile = c.is_ascii_hexdigit() || matches!(c, '.' | '-');
        if !is_volatile {
            blank.push(c);
        } else if !blank.ends_with('#') {
            blank.push('#');
        }
    }
    blank
}

/// The error that a stream ends with.
fn error_of(stream: &str) -> Value {
    let json = stream.trim_start_matches(PING).strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
    let mut event: Value = serde_json::from_str(json).unwrap();
    event["error"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_before_the_head_and_the_first_byte_and_in_the_middle_is_filled_and_no_byte_is_changed() {
    let rig = Rig::with(Default::default(), often).await;
    let silences = "hello count=6 interval=1 first=1500 firstbyte=1500 stall=3:1500";
    let (loud, is_cut) = all(rig.ask("a", silences).await).await;
    assert!(!is_cut && loud.ends_with("data: [DONE]\n\n"));
    // Two are in every second and a half, even on a machine that is as slow as can be.
    let first = loud.find("data: ").unwrap();
    assert!(loud[..first].matches(PING).count() >= 4, "{loud}");
    assert!(loud[first..].matches(PING).count() >= 2, "{loud}");
    let quiet = loud.replace(PING, "");
    assert!(quiet.split_terminator("\n\n").all(|event| event.starts_with("data: ")), "{quiet}");
    assert_eq!(last_text(quiet.as_bytes()), answer_text(silences));

    // A client that did not ask for an event stream gets none of this.
    let bare = rig.client.post(rig.url("/backend-api/conversation")).json(&turn("b", silences));
    let (bare, _) = all(bare.send().await.unwrap()).await;
    assert!(!bare.contains(PING));
    assert_eq!(blanked(&quiet), blanked(&bare), "the very bytes");
    let posts = rig.counters().posts_by_message_id;
    assert!(posts.values().all(|it| *it == 1), "{posts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_stream_gets_none_and_a_status_that_comes_in_time_is_the_sites() {
    let rig = Rig::ready().await;
    // Twice the usual time between two pings.
    let bytes = rig.client.get(rig.url("/backend-api/practice/bytes?n=8&rate=1"));
    let bytes = bytes.header("accept", "text/event-stream").send().await.unwrap().bytes().await.unwrap();
    assert!(bytes == tabproxy::practice::pattern(0, 8));
    let silent = rig.ask("silent", "hello count=1 firstbyte=5000").await.text().await.unwrap();
    assert!(silent.starts_with(PING), "while a stream does get one");
    let limited = rig.ask("limited", "hello status=429").await;
    assert_eq!(limited.status(), 429);
    assert!(limited.headers().contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_there_are_none_and_nothing_begins_early() {
    let rig = Rig::with(Default::default(), |config| config.ping = None).await;
    let asked = rig.client.get(rig.url("/backend-api/practice/slow-head?ms=1000"));
    let late = asked.header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(late.headers()["content-type"], "application/json");
    let (stream, _) = all(rig.ask("a", "hello count=2 first=700 stall=1:700").await).await;
    assert!(!stream.contains(PING) && stream.ends_with("[DONE]\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_a_page_and_for_a_place_are_filled_too() {
    let rig = Rig::starting(Default::default(), |config| {
        often(config);
        (config.max_inflight, config.queue_wait) = (1, Duration::from_secs(30));
    })
    .await;
    // The browser has only been told to start.
    let answer = rig.ask("first", "hello count=2").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-cache");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let (stream, _) = all(answer).await;
    assert!(stream.starts_with(PING) && stream.ends_with("data: [DONE]\n\n"), "{stream}");

    // The only place is taken for two seconds.
    let taken = rig.ask("taken", "hello count=2 interval=2000").await;
    let (waited, _) = all(rig.ask("waits", "hello count=2").await).await;
    assert!(waited.starts_with(PING) && waited.ends_with("data: [DONE]\n\n"), "{waited}");
    assert!(!all(taken).await.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_after_the_first_ping_is_an_error_event_and_a_cut() {
    let rig = Rig::with(Default::default(), |config| {
        often(config);
        (config.max_inflight, config.queue_wait) = (1, Duration::from_secs(1));
    })
    .await;
    // The browser goes.
    let mut lost = rig.ask("lost", "hello first=60000").await;
    assert_eq!(lost.status(), 200);
    assert!(lost.chunk().await.unwrap().unwrap().starts_with(PING.as_bytes()));
    kill_process(Pid::from_raw(rig.server.browser().status().pid.unwrap()).unwrap(), Signal::KILL).unwrap();
    let (lost, is_cut) = all(lost).await;
    let error = error_of(&lost);
    assert!(is_cut && !lost.contains("[DONE]"));
    assert_eq!((&error["code"], &error["status"]), (&"page_lost".into(), &502.into()));
    assert_eq!(error["maybe_sent"], true);
    // The next one: of the one that is gone, the status may not have heard yet.
    eventually(|| rig.server.browser().status(), |it| it.browsers == 2 && it.is_ready()).await;

    // The site's answer is not one that could follow the head that was given.
    let asked = rig.client.get(rig.url("/backend-api/practice/slow-head?ms=1500"));
    let (late, is_cut) = all(asked.header("accept", "text/event-stream").send().await.unwrap()).await;
    let error = error_of(&late);
    assert!(is_cut && late.starts_with(PING));
    assert_eq!((&error["code"], &error["status"]), (&"not_a_stream".into(), &200.into()));

    // There is no place in time.
    let taken = rig.ask("taken", "hello count=100000 interval=20").await;
    let (refused, is_cut) = all(rig.ask("refused", "hello").await).await;
    let error = error_of(&refused);
    assert!(is_cut);
    assert_eq!((&error["code"], &error["status"]), (&"queue_timeout".into(), &503.into()));
    assert_eq!(error.get("maybe_sent"), None);
    drop(taken);
    let posts = rig.counters().posts_by_message_id;
    assert!(!posts.contains_key("refused") && posts.values().all(|it| *it == 1), "{posts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_there_were_only_pings_stops_the_site_and_frees_its_place() {
    let rig = Rig::with(Default::default(), often).await;
    let mut answer = rig.ask("a", "hello first=60000").await;
    assert!(answer.chunk().await.unwrap().unwrap().starts_with(PING.as_bytes()));
    // What leaves is the connection.
    eventually(|| rig.counters(), |it| it.active == 1).await;
    drop(answer);
    eventually(|| rig.counters(), |it| it.aborted == 1 && it.active == 0).await;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let freed = async {
        loop {
            tick.tick().await;
            let metrics = rig.get("/metrics").await.text().await.unwrap();
            if metrics.contains("tabproxy_inflight 0\n")
                && metrics.contains("tabproxy_exchanges_total{outcome=\"client_gone\"} 1\n")
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
}
