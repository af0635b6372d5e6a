//! Redis goes away under a program that serves, and comes back.

use tabproxy::config::WhenLost;
use tabproxy::practice::{PracticeArgs, answer_text};

use super::server::RedisProgram;
use crate::rig::{Rig, code_of, last_text, turn, until};

async fn rig(redis: &RedisProgram, lost: WhenLost) -> Rig {
    let rig = Rig::with(PracticeArgs::default(), |config| {
        config.redis = Some(redis.server());
        config.redis_lost = lost;
    })
    .await;
    // The browser may be ready first.
    until_up(&rig, 1.0).await;
    rig
}

async fn metric(rig: &Rig, name: &str) -> f64 {
    let text = rig.get("/metrics").await.text().await.unwrap();
    let line = text.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

async fn until_up(rig: &Rig, wanted: f64) {
    until(async || metric(rig, "tabproxy_redis_up").await, |it| *it == wanted).await;
}

/// The identifier of the conversation that an answer names.
fn conversation_in(answer: &str) -> String {
    answer.split("\"conversation_id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

/// Another turn of this conversation.
async fn again(rig: &Rig, id: &str, conversation: &str) -> reqwest::Response {
    let mut turn = turn(id, "again count=2");
    turn["conversation_id"] = conversation.into();
    rig.client.post(rig.url("/backend-api/conversation")).json(&turn).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_turns_are_refused_while_streams_and_plain_requests_go_on_until_it_is_back() {
    let redis = RedisProgram::start().await;
    let rig = rig(&redis, WhenLost::Refuse).await;
    let conversation = conversation_in(&rig.ask("first", "hello count=1").await.text().await.unwrap());
    let prompt = "hello count=150 interval=20";
    let mut running = rig.ask("runs", prompt).await;
    let first = running.chunk().await.unwrap().unwrap();
    redis.kill();
    until_up(&rig, 0.0).await;

    let refused = again(&rig, "refused", &conversation).await;
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(refused.status() == 503 && wait > 0, "{}", refused.status());
    assert_eq!(code_of(refused).await, "shared_state_unavailable");
    assert_eq!(rig.counters().posts_by_message_id.get("refused"), None, "it was not sent");
    assert_eq!(rig.get("/backend-api/practice/echo").await.status(), 200);
    let ready = rig.get("/readyz").await;
    assert_eq!(ready.status(), 200, "all instances lose it together: none may be taken out for that");
    let text = ready.text().await.unwrap();
    assert!(text.contains("\"up\":false") && text.contains("cannot be reached"), "{text}");
    assert!(metric(&rig, "tabproxy_redis_errors_total").await > 0.0);
    let rest = running.bytes().await.unwrap();
    assert_eq!(last_text(&[&first[..], &rest[..]].concat()), answer_text(prompt), "whole");

    redis.restart().await.unwrap();
    until_up(&rig, 1.0).await;
    assert_eq!(again(&rig, "accepted", &conversation).await.status(), 200);
    assert!(metric(&rig, "tabproxy_redis_seconds_count").await > 0.0);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_an_instance_decides_alone_where_it_is_told_to() {
    let redis = RedisProgram::start().await;
    let rig = rig(&redis, WhenLost::Alone).await;
    let conversation = conversation_in(&rig.ask("first", "hello count=1").await.text().await.unwrap());
    redis.kill();
    until_up(&rig, 0.0).await;
    let (one, two) = tokio::join!(again(&rig, "one", &conversation), again(&rig, "two", &conversation));
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (200, 200));
    let (one, two) = (one.bytes().await.unwrap(), two.bytes().await.unwrap());
    assert_eq!((last_text(&one), last_text(&two)), (answer_text("count=2"), answer_text("count=2")));
    redis.restart().await.unwrap();
    until_up(&rig, 1.0).await;
    assert_eq!(again(&rig, "three", &conversation).await.status(), 200);
    rig.sent_once();
}
