//! Two programs, each with a browser, on one Redis: a turn is sent once, by whichever has it, and nothing is lost
//! unseen when one of them dies, sleeps, or loses Redis.

use reqwest::Response;
use rustix::process::Signal;
use serde_json::Value;
use tabproxy::practice::{Practice, PracticeArgs, answer_text};

use super::server::RedisProgram;
use crate::program::Program;
use crate::rig::{code_of, eventually, last_text, turn};

struct Two {
    site: Practice,
    redis: RedisProgram,
    a: Program,
    b: Program,
}

impl Two {
    async fn with(vars_of_a: &[(&str, &str)], vars_of_b: &[(&str, &str)]) -> Two {
        let redis = RedisProgram::start().await;
        let site = Practice::start(PracticeArgs::default()).await.unwrap();
        let url = redis.url();
        let start = async |vars: &[(&str, &str)]| {
            let vars = [&[("TABPROXY_REDIS", url.as_str())], vars].concat();
            Program::start(&site, &vars).await
        };
        let (a, b) = (start(vars_of_a).await, start(vars_of_b).await);
        a.wait_ready().await;
        b.wait_ready().await;
        Two { site, redis, a, b }
    }

    fn posts(&self) -> usize {
        self.site.counters().posts as usize
    }
}

/// An attempt of the bot plugin's; each is the same turn if the prompt and the conversation are.
async fn plugin(program: &Program, prompt: &str, conversation: Option<&str>) -> Response {
    post(program, &format!("{:032x}", fastrand::u128(..)), prompt, conversation, true).await
}

async fn post(
    program: &Program,
    id: &str,
    prompt: &str,
    conversation: Option<&str>,
    is_plugin: bool,
) -> Response {
    let mut turn = turn(id, prompt);
    if let Some(conversation) = conversation {
        turn["conversation_id"] = conversation.into();
    }
    let request = program.client.post(program.url("/backend-api/conversation")).json(&turn);
    let request = request.header("accept", "text/event-stream");
    let request = if is_plugin { request.header("library", "chatgpt-plugin") } else { request };
    request.send().await.unwrap()
}

/// What the client reads in the end, after what it has read already.
async fn text(answer: Response) -> String {
    last_text(&answer.bytes().await.unwrap())
}

fn conversation_in(answer: &[u8]) -> String {
    let event = std::str::from_utf8(answer).unwrap().lines().rev().find_map(|it| {
        let event: Value = serde_json::from_str(it.strip_prefix("data: ")?).ok()?;
        event["conversation_id"].as_str().map(str::to_owned)
    });
    event.expect("it names its conversation")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_is_asked_of_both_is_sent_once_and_turns_of_one_conversation_come_one_by_one() {
    let two = Two::with(&[], &[("TABPROXY_BUSY", "refuse")]).await;
    let (a, b) = (&two.a, &two.b);
    // Asked again at the other while it is being answered.
    let prompt = "hello count=40 interval=50 text=mixed";
    let mut first = plugin(a, prompt, None).await;
    let begun = first.chunk().await.unwrap().unwrap();
    let second = text(plugin(b, prompt, None).await).await;
    assert_eq!(second, answer_text(prompt));
    let first = [&begun[..], &first.bytes().await.unwrap()].concat();
    assert_eq!((last_text(&first), two.posts()), (second, 1));
    assert_eq!(b.metric("tabproxy_shared_turns_joined_total").await, 1.0);
    // And when it is over, at both.
    for program in [b, a] {
        assert_eq!(text(plugin(program, prompt, None).await).await, answer_text(prompt));
    }
    assert_eq!((two.posts(), b.metric("tabproxy_shared_turns_replayed_total").await), (1, 1.0));
    // The client leaves one, and comes back to the other.
    let prompt = "long count=60 interval=50";
    let mut left = plugin(a, prompt, None).await;
    assert!(left.chunk().await.unwrap().is_some());
    drop(left);
    assert_eq!(text(plugin(b, prompt, None).await).await, answer_text(prompt));
    assert_eq!((two.posts(), two.site.counters().aborted), (2, 0));
    // At the same moment.
    let prompt = "same first=300 count=5";
    let (one, other) = tokio::join!(async { text(plugin(a, prompt, None).await).await }, async {
        text(plugin(b, prompt, None).await).await
    });
    assert_eq!((one, two.posts()), (other, 3));
    assert_eq!(two.site.counters().max_active, 1);

    // One waits for the other, and the other is told not to.
    let conversation = conversation_in(&first);
    let conversation = Some(conversation.as_str());
    let mut long = post(a, "long", "hello count=30 interval=50", conversation, false).await;
    long.chunk().await.unwrap().unwrap();
    let refused = post(b, "refused", "hello count=1", conversation, false).await;
    assert_eq!(refused.status(), 409);
    assert_eq!(code_of(refused).await, "conversation_busy");
    long.bytes().await.unwrap();
    let accepted = async {
        loop {
            let answer = post(b, "accepted", "hello count=40 interval=50", conversation, false).await;
            if answer.status() != 409 {
                return answer;
            }
        }
    };
    let accepted = tokio::time::timeout(crate::rig::PATIENCE, accepted).await.expect("it is free");
    let waits = post(a, "waits", "hello count=1", conversation, false);
    let (waited, accepted) = tokio::join!(waits, accepted.bytes());
    assert!(waited.bytes().await.unwrap().ends_with(b"[DONE]\n\n"));
    assert!(accepted.unwrap().ends_with(b"[DONE]\n\n"));
    assert_eq!(a.metric("tabproxy_shared_turns_waited_total").await, 1.0);
    let counters = two.site.counters();
    assert_eq!((counters.posts, counters.max_active), (6, 1), "{counters:?}");
    for program in [a, b] {
        for figure in ["answers_given_up", "leases_lost", "turns_alone"] {
            assert_eq!(program.metric(&format!("tabproxy_shared_{figure}_total")).await, 0.0, "{figure}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_killed_in_the_middle_is_told_of_once_by_the_other() {
    let mut two = Two::with(&[], &[]).await;
    let prompt = "hello count=100000 interval=50";
    let mut first = plugin(&two.a, prompt, None).await;
    assert!(first.chunk().await.unwrap().is_some());
    // Something of it has been read at the other already.
    let mut second = plugin(&two.b, prompt, None).await;
    assert!(second.chunk().await.unwrap().is_some());
    two.a.signal(Signal::KILL);
    two.a.ended().await;
    let told = text(second).await;
    assert!(told.contains("⚠️") && told.contains("was lost"), "{told}");
    assert_eq!(two.posts(), 1, "nothing is sent again unseen");
    eventually(|| two.site.counters(), |it| it.active == 0).await;
    let mut again = plugin(&two.b, prompt, None).await;
    assert!(again.chunk().await.unwrap().is_some());
    eventually(|| two.posts(), |it| *it == 2).await;
    drop(again);
    // Redis goes while an answer streams, which it does to its end, here and for whoever asks again.
    let prompt = "hello count=100 interval=30";
    let mut runs = plugin(&two.b, prompt, None).await;
    let begun = runs.chunk().await.unwrap().unwrap();
    two.redis.kill();
    let again = plugin(&two.b, prompt, None);
    let (again, rest) = tokio::join!(async { text(again.await).await }, runs.bytes());
    assert_eq!(last_text(&[&begun[..], &rest.unwrap()].concat()), answer_text(prompt));
    assert_eq!((again, two.posts()), (answer_text(prompt), 3));
    let refused = plugin(&two.b, "another count=1", None).await;
    let refused = text(refused).await;
    assert!(refused.contains("⚠️") && two.posts() == 3, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_has_slept_does_not_send_what_waited_there() {
    let vars = [("TABPROXY_MAX_INFLIGHT", "1"), ("TABPROXY_QUEUE_WAIT", "120s")];
    let two = Two::with(&vars, &[("TABPROXY_QUEUE_WAIT", "120s")]).await;
    let (a, b) = (&two.a, &two.b);
    let hello = post(b, "hello", "hello count=1", None, false).await.bytes().await.unwrap();
    let conversation = conversation_in(&hello);
    let conversation = Some(conversation.as_str());
    // It has the conversation, and waits for a place.
    let mut holds = post(a, "holds", "hello count=100000 interval=20", None, false).await;
    holds.chunk().await.unwrap().unwrap();
    let request = {
        let mut turn = turn("late", "hello count=1");
        turn["conversation_id"] = conversation.into();
        a.client.post(a.url("/backend-api/conversation")).json(&turn)
    };
    let late = tokio::spawn(request.send());
    let queued = async { while a.metric("tabproxy_queued").await < 1.0 {} };
    tokio::time::timeout(crate::rig::PATIENCE, queued).await.expect("it waits");
    a.signal(Signal::STOP);
    // When its lease has run out, the other takes the conversation.
    let turn = post(b, "other", "hello count=3", conversation, false).await.bytes().await.unwrap();
    assert_eq!(last_text(&turn), answer_text("hello count=3"));
    a.signal(Signal::CONT);
    drop(holds);
    let late = late.await.unwrap().unwrap();
    assert_eq!(late.status(), 503);
    assert!(late.headers().contains_key("retry-after"));
    assert_eq!(code_of(late).await, "shared_state_unavailable");
    assert_eq!(two.site.counters().posts_by_message_id.get("late"), None, "it was not sent");
    assert_eq!(a.metric("tabproxy_shared_leases_lost_total").await, 1.0);
    // It is as good as before.
    let after = post(a, "after", "hello count=2", conversation, false).await.bytes().await.unwrap();
    assert_eq!(last_text(&after), answer_text("hello count=2"));
}
