//! Clients of the site's own routes: the npm `chatgpt` client, the bot plugin's ways, and an independent parser.

use std::time::Duration;

use serde_json::{Value, json};
use tabproxy::practice::answer_text;

use super::{listed, node, rig, run};
use crate::rig::{Rig, eventually, turn};

const TURN: &str = "/backend-api/conversation";
/// What the site says to somebody who has asked too much, and bots look for.
const TOO_MANY: &str = "You have sent too many messages to the model. Please try again later.";

async fn chatgpt(rig: &Rig, mut ask: Value) -> Value {
    ask["url"] = rig.url(TURN).into();
    run(node("chatgpt.mjs", &ask)).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_npm_client_goes_on_with_its_conversation_and_every_character_arrives() {
    let rig = Rig::ready().await;
    let prompts = ["echo=1 interval=1 split=3 早上好 👩‍👩‍👧‍👦 é", "echo=1 interval=1 split=1 再见 🎉"];
    let said = chatgpt(&rig, json!({ "prompts": prompts })).await;
    let answers = listed(&said, "answers");
    assert_eq!(answers.len(), 2, "{said}");
    for (answer, prompt) in answers.iter().zip(prompts) {
        assert_eq!(answer["text"], *prompt);
        assert!(answer["progress"].as_u64().unwrap() > 2, "{said}");
        assert_eq!(answer["conversation"], answers[0]["conversation"]);
    }
    assert_eq!(rig.counters().posts_arrived, 2);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_npm_client_reads_faults_stops_the_site_and_is_never_left_waiting() {
    let rig = Rig::ready().await;
    for (prompt, status, sentence) in [
        ("status=401", 401, "ChatGPT error 401: {\"detail\":"),
        ("status=429", 429, TOO_MANY),
        ("status=503", 503, "ChatGPT error 503"),
    ] {
        let said = chatgpt(&rig, json!({"prompts": [prompt]})).await;
        assert_eq!(said["status"], status, "{said}");
        assert!(said["error"].as_str().unwrap().contains(sentence), "{said}");
    }
    // It takes an answer that is cut for a whole one if there is some text; what counts is that it ends.
    let said = chatgpt(&rig, json!({"prompts": ["reset=4 interval=5"]})).await;
    let text = said["answers"][0]["text"].as_str();
    assert!(said["error"].is_null() && text == Some(&answer_text("count=4")), "{said}");

    let ask = json!({"prompts": ["count=100000 interval=20"], "stop": 3, "hold": true, "url": rig.url(TURN)});
    let (said, mut child) = run(node("chatgpt.mjs", &ask)).await;
    assert!(said["error"].as_str().is_some_and(|it| it.contains("aborted")), "{said}");
    eventually(|| rig.counters(), |it| it.aborted == 1 && it.active == 0).await;
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
    assert_eq!(rig.counters().posts_arrived, 5);
    rig.sent_once();
}

async fn parsed(rig: &Rig, path: &str, prompt: &str, id: &str) -> Value {
    let body = if path == TURN {
        turn(id, prompt)
    } else {
        json!({"model": "auto", "stream": true, "messages": [{"role": "user", "content": prompt}]})
    };
    run(node("sse.mjs", &json!({"url": rig.url(path), "body": body}))).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_parser_reads_every_event_whole_and_pings_as_comments() {
    let rig = rig(|config| config.ping = Some(Duration::from_millis(300))).await;
    for (n, path) in [TURN, "/v1/chat/completions"].into_iter().enumerate() {
        // Cut anywhere on the wire, with the site's own pings, silent for a while before and within.
        let prompt = "count=30 interval=1 text=mixed split=5 ping=1 firstbyte=1500 stall=9:1500";
        let got = parsed(&rig, path, prompt, &format!("whole-{n}")).await;
        assert_eq!((&got["status"], &got["ended"]), (&json!(200), &json!("end")), "{got}");
        assert_eq!(got["text"], answer_text("count=30 text=mixed"), "{path}");
        assert_eq!(
            (&got["done"], &got["afterDone"], &got["errors"]),
            (&json!(1), &json!(0), &json!([])),
            "{got}"
        );
        assert!(got["comments"].as_u64().unwrap() >= 4, "{got}");
        if path == TURN {
            // The site's own pings pass.
            assert!(got["names"].as_array().unwrap().contains(&json!("ping")), "{got}");
        } else {
            assert_eq!(got["names"], json!([]), "the SDKs break on named events without data: {got}");
        }
        assert_eq!(got["bad"], 0, "{got}");

        let got = parsed(&rig, path, "reset=5 interval=1 text=cjk", &format!("cut-{n}")).await;
        assert_eq!((&got["done"], &got["bad"]), (&json!(0), &json!(0)), "{got}");
        if path == TURN {
            assert_eq!(got["ended"], "ECONNRESET", "a cut answer never ends cleanly: {got}");
        } else {
            assert!(got["errors"][0]["message"].is_string(), "{got}");
        }
    }
    assert_eq!(rig.counters().posts_arrived, 4);
}

async fn plugin(rig: &Rig, mut ask: Value) -> Vec<Value> {
    ask["url"] = rig.url(TURN).into();
    let said = run(node("plugin.mjs", &ask)).await.0;
    listed(&said, "shown").to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_goes_on_with_its_conversation_and_waits_for_slow_answers() {
    let rig = Rig::ready().await;
    // Silent for longer than its ten seconds: before the head, before the first byte, and in the middle.
    let prompts = [
        "echo=1 interval=1 早上好 👩‍👩‍👧‍👦",
        "echo=1 interval=1 first=11000 再见",
        "echo=1 interval=1 firstbyte=11000 🎉",
        "echo=1 interval=1 stall=2:11000 é",
    ];
    let shown = plugin(&rig, json!({ "prompts": prompts })).await;
    assert_eq!(shown.len(), prompts.len());
    for (turn, prompt) in shown.iter().zip(prompts) {
        assert_eq!(turn["text"], *prompt);
        assert_eq!(turn["failed"], json!([]), "{turn}");
        assert!(
            turn["conversation"].is_string() && turn["conversation"] == shown[0]["conversation"],
            "{turn}"
        );
    }
    assert_eq!(rig.counters().posts_arrived, prompts.len() as u64);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugins_user_reads_what_went_wrong_and_the_site_is_asked_once() {
    let rig = Rig::ready().await;
    let faults = ["status=500", "reset=3 interval=5", "cut=3 interval=5", "status=401", "status=429"];
    for (n, prompt) in faults.into_iter().enumerate() {
        let shown = plugin(&rig, json!({"prompts": [prompt]})).await;
        let text = shown[0]["text"].as_str().unwrap();
        assert!(text != "retry limit exceeded" && text.len() > 20, "{prompt}: {shown:?}");
        assert_eq!(shown[0]["failed"], json!([]), "{prompt}: {shown:?}");
        assert_eq!(text.contains(TOO_MANY), prompt == "status=429", "{text}");
        assert_eq!(rig.counters().posts_arrived, n as u64 + 1, "{prompt} was sent again");
    }
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugins_own_retries_join_the_answer_that_is_under_way() {
    // Without pings its patience ends, shorter here than its ten seconds, and it asks again with new ids.
    let rig = rig(|config| config.ping = None).await;
    let ask = json!({"prompts": ["echo=1 first=5000 哈喽"], "timeout": 2000});
    let shown = plugin(&rig, ask).await;
    assert_eq!(shown[0]["text"], "echo=1 first=5000 哈喽", "{shown:?}");
    assert!(shown[0]["failed"].as_array().is_some_and(|it| !it.is_empty()), "{shown:?}");
    assert_eq!(rig.counters().posts_arrived, 1);
}
