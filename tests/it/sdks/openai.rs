//! The official OpenAI SDKs for Node and Python, with their own retries.

use std::time::Duration;

use serde_json::{Value, json};
use tabproxy::practice::PracticeArgs;

use super::{Sdk, listed, rig, run};
use crate::access::Desk;
use crate::rig::{Rig, eventually};
use crate::shared::procfs::{kill, of_kind};

/// What each SDK calls an error of this status.
const NAMES: [(u64, &str); 4] = [
    (400, "BadRequestError"),
    (401, "AuthenticationError"),
    (429, "RateLimitError"),
    (500, "InternalServerError"),
];

#[tokio::test(flavor = "multi_thread")]
async fn conversations_go_on_streamed_and_at_once_and_every_character_arrives() {
    let rig = Rig::ready().await;
    let mut turns = 0;
    for sdk in Sdk::BOTH {
        for stream in [false, true] {
            // The site says the prompt itself: were the history sent along, it would be in the second answer.
            let first = format!("echo=1 interval=1 split=7 早上好，世界 👩‍👩‍👧‍👦 é \u{2028} {sdk:?} {stream}");
            let prompts = [first.as_str(), "echo=1 interval=1 format=delta 再见 🎉 \"quoted\" \\n"];
            let more = if stream { json!({"stream_options": {"include_usage": true}}) } else { json!({}) };
            let ask = json!({"case": "talk", "prompts": prompts, "stream": stream, "more": more});
            let said = sdk.ask(&rig, ask).await;
            for (answer, prompt) in listed(&said, "answers").iter().zip(prompts) {
                assert_eq!(answer["text"], *prompt, "{sdk:?}");
                assert_eq!((&answer["finish"], &answer["models"]), (&json!("stop"), &json!(["gpt-4o"])));
                let count = |name: &str| answer["usage"][name].as_u64().unwrap();
                assert!(count("prompt_tokens") > 5 && count("completion_tokens") > 5, "{answer}");
                assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
                if stream {
                    assert_eq!(answer["ids"], 1, "one id and one time in all chunks: {answer}");
                    assert!(answer["pieces"].as_u64().unwrap() >= 1, "{answer}");
                } else {
                    assert_eq!(
                        (&answer["role"], &answer["object"]),
                        (&json!("assistant"), &json!("chat.completion"))
                    );
                }
                turns += 1;
            }
        }
    }
    assert_eq!((turns, rig.counters().posts_arrived), (8, 8));
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_go_on_from_the_one_before_and_models_are_listed() {
    let rig = Rig::ready().await;
    for sdk in Sdk::BOTH {
        for stream in [false, true] {
            let first = format!("echo=1 interval=1 你好 🙂 {sdk:?} {stream}");
            let prompts = [first.as_str(), "echo=1 interval=1 second"];
            let said = sdk.ask(&rig, json!({"case": "respond", "prompts": prompts, "stream": stream})).await;
            for (answer, prompt) in listed(&said, "answers").iter().zip(prompts) {
                assert_eq!((&answer["text"], &answer["last"]), (&json!(prompt), &json!(prompt)), "{sdk:?}");
                assert_eq!(answer["status"], "completed");
                assert!(answer["usage"]["output_tokens"].as_u64().unwrap() > 3, "{answer}");
            }
        }
        let said = sdk.ask(&rig, json!({"case": "models"})).await;
        assert!(said["ids"].as_array().is_some_and(|it| !it.is_empty()), "{said}");
        assert_eq!(said["one"], said["ids"][0]);
        assert_eq!((&said["none"]["error"], &said["none"]["status"]), (&json!("NotFoundError"), &json!(404)));
    }
    assert_eq!(rig.counters().posts_arrived, 8);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_given_up_in_the_middle_stops_the_site() {
    let rig = Rig::ready().await;
    for (n, sdk) in Sdk::BOTH.into_iter().enumerate() {
        let prompt = "count=100000 interval=20";
        let ask = json!({"case": "talk", "prompts": [prompt], "stream": true, "stop": 3, "hold": true});
        // It lives on: it is the SDK that hangs up, not the system for it.
        let (said, mut child) = run(sdk.command(&rig, ask)).await;
        assert!(said["answers"][0]["pieces"].as_u64().unwrap() >= 3, "{said}");
        eventually(|| rig.counters(), |it| it.aborted == n as u64 + 1 && it.active == 0).await;
        assert!(child.try_wait().unwrap().is_none(), "{sdk:?} has ended");
    }
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_site_refuses_or_breaks_off_is_raised_and_not_asked_again() {
    let rig = Rig::ready().await;
    let mut posts = 0;
    for sdk in Sdk::BOTH {
        for stream in [false, true] {
            for (prompt, status, sentence) in [
                ("status=401", 401, ""),
                ("status=429 retry=1", 429, "You have sent too many messages to the model."),
                ("status=500", 500, ""),
            ] {
                let said = sdk.say(&rig, prompt, stream).await;
                let name = NAMES.iter().find(|it| it.0 == status).unwrap().1;
                assert_eq!(
                    (&said["error"], &said["status"]),
                    (&json!(name), &json!(status)),
                    "{sdk:?} {said}"
                );
                assert!(said["message"].as_str().unwrap().contains(sentence), "{said}");
                assert!(said["code"].is_string() && said["type"].is_string(), "{said}");
                if status == 429 {
                    assert_eq!(said["retryAfter"], "1", "{sdk:?} {said}");
                }
                posts += 1;
                assert_eq!(rig.counters().posts_arrived, posts, "{sdk:?} {prompt} was sent again");
            }
            for prompt in ["cut=4 interval=5", "reset=4 interval=5", "cut=4 interval=5 format=delta"] {
                let said = sdk.say(&rig, prompt, stream).await;
                assert!(said["error"].is_string(), "{sdk:?} {prompt}: {said}");
                assert!(said["message"].as_str().is_some_and(|it| it.len() > 20), "{said}");
                if stream {
                    assert!(!said["text"].as_str().unwrap().is_empty() && said["finish"].is_null(), "{said}");
                } else {
                    assert_eq!(said["status"], 502, "{said}");
                }
                posts += 1;
                assert_eq!(rig.counters().posts_arrived, posts, "{sdk:?} {prompt} was sent again");
            }
        }
    }
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_a_clear_error_and_never_sent() {
    let rig = Rig::ready().await;
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]);
    for sdk in Sdk::BOTH {
        for (prompt, more, param) in [
            (json!("hello"), json!({"tools": tool}), "tools"),
            (json!("hello"), json!({"n": 2}), "n"),
            (json!("hello"), json!({"messages": []}), "messages"),
            (json!("hello"), json!({"max_tokens": 0}), "max_tokens"),
            (json!("hello"), json!({"stop": 5}), "stop"),
            (image.clone(), json!({}), "messages[0].content[0]"),
        ] {
            let ask = json!({"case": "talk", "prompts": [prompt], "stream": true, "more": more});
            let said = sdk.ask(&rig, ask).await;
            assert_eq!(
                (&said["error"], &said["status"]),
                (&json!("BadRequestError"), &json!(400)),
                "{sdk:?} {said}"
            );
            assert_eq!(
                (&said["param"], &said["type"]),
                (&json!(param), &json!("invalid_request_error")),
                "{said}"
            );
            let message = said["message"].as_str().unwrap();
            assert!(
                message.contains(param.split('[').next().unwrap()) || message.contains("supported"),
                "{message}"
            );
        }
    }
    assert_eq!(rig.counters().posts_arrived, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_proxys_opens_it_to_an_sdk_and_another_is_a_401() {
    let desk = Desk::new();
    let key = desk.key(&[]);
    let rig = rig(|config| {
        config.keys_file = Some(desk.keys());
        config.require_key = true;
    })
    .await;
    for sdk in Sdk::BOTH {
        let ask = |key: &str| json!({"case": "talk", "key": key, "prompts": ["echo=1 hi"], "stream": true});
        assert_eq!(sdk.ask(&rig, ask(&key)).await["answers"][0]["text"], "echo=1 hi");
        let said = sdk.ask(&rig, ask("tp-wrong")).await;
        assert_eq!((&said["error"], &said["status"]), (&json!("AuthenticationError"), &json!(401)), "{said}");
        assert_eq!(said["code"], "key_required");
    }
    assert_eq!(rig.counters().posts_arrived, 2);
}

/// Hazard 20, before dispatch: what was not sent may be tried again, and the SDKs do that by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_before_it_was_sent_is_tried_again_by_the_sdk_and_sent_once() {
    let impatient = |config: &mut tabproxy::config::Config| {
        (config.max_inflight, config.queue, config.queue_wait) = (1, 1, Duration::from_millis(300));
    };
    // There is no page yet.
    let rig = Rig::starting(PracticeArgs::default(), impatient).await;
    let ask = json!({"case": "talk", "prompts": ["echo=1 early"], "stream": true, "retries": 60});
    let said = Sdk::Node.ask(&rig, ask.clone()).await;
    assert_eq!(said["answers"][0]["text"], "echo=1 early", "{said}");
    assert_eq!(rig.counters().posts_arrived, 1);

    // Its place is taken for longer than it may wait.
    for (n, sdk) in Sdk::BOTH.into_iter().enumerate() {
        let id = format!("taken-{n}");
        let taken = tokio::spawn(rig.ask(&id, "count=150 interval=20").await.bytes());
        let said = sdk.ask(&rig, ask.clone()).await;
        assert_eq!(said["answers"][0]["text"], "echo=1 early", "{sdk:?} {said}");
        taken.await.unwrap().unwrap();
    }
    assert_eq!(rig.counters().posts_arrived, 5);
    rig.sent_once();
}

/// Hazard 20, after dispatch: the site may have acted on it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_after_it_was_sent_is_not_sent_again_by_the_sdk() {
    let rig = Rig::ready().await;
    let before = rig.server.browser().status().pid;
    for (n, (sdk, stream)) in Sdk::BOTH.into_iter().flat_map(|sdk| [(sdk, false), (sdk, true)]).enumerate() {
        let asked = sdk.say(&rig, "first=100000", stream);
        let harm = async {
            eventually(|| rig.counters(), |it| it.posts == n as u64 + 1 && it.active == 1).await;
            of_kind(rig.browser(), "renderer").into_iter().for_each(kill);
        };
        let (said, ()) = tokio::join!(asked, harm);
        assert!(said["error"].is_string(), "{sdk:?} {said}");
        assert_eq!(said["status"], 502, "{sdk:?} {said}");
        assert_eq!(said["code"], "page_lost", "{sdk:?} {said}");
        rig.wait_ready().await;
        assert_eq!(rig.counters().posts_arrived, n as u64 + 1, "{sdk:?} asked again");
    }
    assert_eq!(rig.server.browser().status().pid, before);
    rig.sent_once();
}

/// A limit and a stop word are kept for clients that rely on them.
#[tokio::test(flavor = "multi_thread")]
async fn limits_end_an_answer_as_the_sdks_expect() {
    let rig = Rig::ready().await;
    for sdk in Sdk::BOTH {
        for stream in [false, true] {
            for (more, finish) in [(json!({"max_tokens": 2}), "length"), (json!({"stop": ["three"]}), "stop")]
            {
                let prompt = "echo=1 interval=1 one two three four five six";
                let ask = json!({"case": "talk", "prompts": [prompt], "stream": stream, "more": more});
                let said = sdk.ask(&rig, ask).await;
                let answer: &Value = &said["answers"][0];
                assert_eq!(answer["finish"], finish, "{sdk:?} {said}");
                let text = answer["text"].as_str().unwrap();
                assert!(
                    text.len() < prompt.len() && prompt.starts_with(text) && !text.contains("three"),
                    "{text}"
                );
            }
        }
    }
    rig.sent_once();
}
