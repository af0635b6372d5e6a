//! The official API's routes in the site's chat: answers, limits, faults and refusals in its own form, and
//! conversations that go on where they were answered before.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tabproxy::Server;
use tabproxy::config::Config;
use tabproxy::practice::answer_text;
use tokio_util::sync::CancellationToken;

use crate::rig::{PATIENCE, Rig, client, config_for, eventually};

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

/// Sends `body` to `path` as the caller with this token.
async fn post(rig: &Rig, path: &str, token: &str, body: &Value) -> reqwest::Response {
    let request = rig.client.post(rig.url(path)).bearer_auth(token).json(body);
    tokio::time::timeout(PATIENCE, request.send()).await.unwrap().unwrap()
}

async fn chat(rig: &Rig, token: &str, body: Value) -> reqwest::Response {
    post(rig, "/v1/chat/completions", token, &body).await
}

/// The text of a completion that is not streamed.
async fn said(rig: &Rig, token: &str, messages: &[Value]) -> String {
    let answer = chat(rig, token, json!({"model": "gpt-4o", "messages": messages})).await;
    let status = answer.status();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// The data of all events, and whether `[DONE]` was the last.
fn events(stream: &str) -> (Vec<Value>, bool) {
    let blocks = stream.split_terminator("\n\n").filter(|it| !it.starts_with(':'));
    let data: Vec<_> =
        blocks.map(|it| it.lines().find_map(|line| line.strip_prefix("data: ")).unwrap()).collect();
    let is_done = data.last() == Some(&"[DONE]");
    (data.iter().filter(|it| **it != "[DONE]").map(|it| serde_json::from_str(it).unwrap()).collect(), is_done)
}

fn text_of(events: &[Value]) -> String {
    events.iter().filter_map(|it| it["choices"][0]["delta"]["content"].as_str()).collect()
}

/// What was asked in each conversation that the site knows, the newest first, and how many turns strayed.
async fn conversations(rig: &Rig) -> Vec<(Vec<String>, u64)> {
    let list: Value = rig.get("/backend-api/conversations?limit=100").await.json().await.unwrap();
    let mut all = Vec::new();
    for item in list["items"].as_array().unwrap() {
        let path = format!("/backend-api/conversation/{}", item["id"].as_str().unwrap());
        let it: Value = rig.get(&path).await.json().await.unwrap();
        let turns = it["practice"]["turns"].as_array().unwrap().iter();
        all.push((
            turns.map(|it| it.as_str().unwrap().to_owned()).collect(),
            it["practice"]["strays"].as_u64().unwrap(),
        ));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_go_on_in_one_conversation_for_the_same_caller_and_in_both_formats() {
    let rig = Rig::ready().await;
    let system = json!({"role": "system", "content": "be brief"});
    let first = user("hello count=4 interval=1 text=cjk format=delta");
    let one = said(&rig, "a", &[system.clone(), first.clone()]).await;
    assert_eq!(one, answer_text("count=4 text=cjk"));

    // Streamed, by another model, after a client that trims.
    let second = user("again count=30 interval=1 text=emoji format=delta");
    let messages = [system.clone(), first.clone(), assistant(one.trim()), second.clone()];
    let body = json!({"model": "o3", "messages": messages, "stream": true, "stream_options": {"include_usage": true}});
    let answer = chat(&rig, "a", body).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let (chunks, is_done) = events(&answer.text().await.unwrap());
    let two = text_of(&chunks);
    assert_eq!((two.as_str(), is_done), (answer_text("count=30 text=emoji").as_str(), true));
    assert!(chunks.iter().all(|it| it["id"] == chunks[0]["id"] && it["model"] == "o3"));
    assert!(chunks.iter().rev().skip(1).all(|it| it["usage"].is_null() && it["choices"].is_array()));
    let usage = &chunks.last().unwrap()["usage"];
    assert!(
        usage["completion_tokens"].as_u64().unwrap() > 30 && usage["prompt_tokens"].as_u64().unwrap() > 30
    );

    let third = user("and count=2 text=mixed");
    let messages = [&messages[..], &[assistant(&two), third.clone()]].concat();
    let three = said(&rig, "a", &messages).await;
    assert_eq!(three, answer_text("count=2 text=mixed"));
    let text = |it: &Value| it["content"].as_str().unwrap().to_owned();
    let turns = vec![format!("be brief\n\n{}", text(&first)), text(&second), text(&third)];
    assert_eq!(conversations(&rig).await, [(turns.clone(), 0)]);

    // Another caller is not let into it: it has the whole history in one prompt of its own.
    said(&rig, "b", &messages).await;
    let all = conversations(&rig).await;
    assert_eq!((all.len(), all[1].0.len(), all[0].0.len()), (2, 3, 1));
    for part in [text(&first), one, text(&second), two, text(&third)] {
        let part: String = part.trim().chars().take(20).collect();
        assert!(all[0].0[0].contains(&part), "{part} is not in {}", all[0].0[0]);
    }
    // And so is a conversation that the site has forgotten.
    rig.site.forget_conversations();
    said(&rig, "a", &messages).await;
    let all = conversations(&rig).await;
    assert!(all.len() == 1 && all[0].0[0].contains("Assistant: "), "{all:?}");
    assert_eq!(rig.counters().posts, 6);
    assert!(rig.counters().posts_by_message_id.values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_turns_at_once_into_one_conversation_take_turns() {
    let rig = Rig::ready().await;
    let one = said(&rig, "a", &[user("hello count=2")]).await;
    let next = |prompt: &str| [user("hello count=2"), assistant(&one), user(prompt)];
    rig.site.reset_counters();
    let (a, b) = (next("a count=30 interval=20 text=cjk"), next("b count=30 interval=20 text=emoji"));
    let (a, b) = tokio::join!(said(&rig, "a", &a), said(&rig, "a", &b));
    assert_eq!((a, b), (answer_text("count=30 text=cjk"), answer_text("count=30 text=emoji")));
    assert_eq!((rig.counters().posts, rig.counters().max_active), (2, 1));
    let all = conversations(&rig).await;
    assert_eq!((all.len(), all[0].0.len()), (1, 3), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_a_restart_goes_on_after_it() {
    let rig = Rig::ready().await;
    let one = said(&rig, "a", &[user("hello count=3")]).await;
    let (site, profile) = rig.stop().await;
    let stop = CancellationToken::new();
    let server = Server::start(config_for(&site, &profile), stop).await.unwrap();
    let url = |path: &str| format!("http://{}{path}", server.addr());
    let messages = [user("hello count=3"), assistant(&one), user("again count=2")];
    let request = client().post(url("/v1/chat/completions")).bearer_auth("a");
    let answer = request.json(&json!({"model": "auto", "messages": messages})).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let list: Value =
        client().get(url("/backend-api/conversations")).send().await.unwrap().json().await.unwrap();
    assert_eq!(list["total"], 1, "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_on_our_side_end_the_answer_and_stop_the_site() {
    let rig = Rig::ready().await;
    let long = "count=2000 interval=5 size=7";
    let aborted = |count| eventually(|| rig.counters(), move |it| it.aborted == count && it.active == 0);
    let mut count = 0;
    for format in ["classic", "delta"] {
        for stream in [false, true] {
            for (limit, expected, reason) in [
                (json!({"stop": ["zzz", "jumps over"]}), "the quick brown fox ", "stop"),
                (json!({"max_tokens": 3}), "the quick brown", "length"),
            ] {
                let prompt = format!("{long} format={format}");
                let mut body = json!({"model": "gpt-4o", "messages": [user(&prompt)], "stream": stream});
                body.as_object_mut().unwrap().extend(limit.as_object().unwrap().clone());
                let answer = chat(&rig, "a", body).await;
                assert_eq!(answer.status(), 200);
                let answer = tokio::time::timeout(PATIENCE, answer.text()).await.unwrap().unwrap();
                let (text, finish) = if stream {
                    let (chunks, is_done) = events(&answer);
                    assert!(is_done, "{answer}");
                    (text_of(&chunks), chunks.last().unwrap()["choices"][0]["finish_reason"].clone())
                } else {
                    let whole: Value = serde_json::from_str(&answer).unwrap();
                    let choice = &whole["choices"][0];
                    (
                        choice["message"]["content"].as_str().unwrap().to_owned(),
                        choice["finish_reason"].clone(),
                    )
                };
                assert_eq!((text.as_str(), finish.as_str()), (expected, Some(reason)), "{format} {stream}");
                count += 1;
                aborted(count).await;
            }
        }
    }
    // So does a client that leaves, from an answer in one piece too.
    let body = json!({"messages": [user(long)]});
    let request = rig.client.post(rig.url("/v1/chat/completions")).json(&body).send();
    assert!(tokio::time::timeout(Duration::from_millis(700), request).await.is_err());
    aborted(count + 1).await;
}

fn never(config: &mut Config) {
    // A ping would be a head before the site's, on a machine that is slow enough.
    config.ping = None;
    config.max_body = 100_000;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_site_refuses_or_cuts_is_told_in_the_apis_form() {
    let rig = Rig::with(Default::default(), never).await;
    for (knob, status, kind, word) in [
        ("status=401", 401, "authentication_error", "Unauthorized"),
        ("status=404", 404, "invalid_request_error", "does not exist"),
        ("status=413", 413, "invalid_request_error", "Too Large"),
        ("status=422", 422, "invalid_request_error", "asked to refuse"),
        ("status=429", 429, "rate_limit_error", "too many messages"),
        ("status=500", 500, "server_error", "500"),
        ("cut=3", 502, "server_error", "before it was finished"),
        ("reset=3", 502, "server_error", ""),
    ] {
        let is_cut = status == 502;
        for stream in [false, true] {
            let body = json!({"messages": [user(&format!("{knob} interval=1"))], "stream": stream});
            let answer = chat(&rig, "a", body).await;
            let headers = answer.headers().clone();
            let seen = answer.status();
            let text = answer.text().await.unwrap();
            let error = if stream && is_cut {
                assert_eq!(seen, 200);
                let (mut events, is_done) = events(&text);
                assert!(!is_done && text_of(&events).starts_with("the quick"), "{text}");
                events.pop().unwrap()
            } else {
                assert_eq!(seen.as_u16(), status, "{knob} {text}");
                assert_eq!(headers["x-should-retry"], "false", "{knob}");
                serde_json::from_str(&text).unwrap()
            };
            let error = &error["error"];
            assert_eq!((&error["type"], &error["param"]), (&json!(kind), &Value::Null), "{error}");
            assert!(
                error["code"].is_string() && error["message"].as_str().unwrap().contains(word),
                "{error}"
            );
            assert_eq!(headers.get("retry-after").is_some(), status == 429);
        }
    }
    // No token: the site's anonymous side, which knows no accounts.
    let anonymous = rig.client.post(rig.url("/v1/chat/completions"));
    let answer = anonymous.json(&json!({"messages": [user("count=2 auth=required")]})).send().await.unwrap();
    assert_eq!(answer.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_pings_there_is_a_head_already_and_a_refusal_is_an_event() {
    let rig = Rig::with(Default::default(), |config| config.ping = Some(Duration::from_millis(200))).await;
    let slow =
        |knob: &str| json!({"messages": [user(&format!("first=1500 count=2 {knob}"))], "stream": true});
    let text = chat(&rig, "a", slow("status=429")).await.text().await.unwrap();
    let (refused, is_done) = events(&text);
    assert!(text.starts_with(": ping\n\n") && !is_done && refused.len() == 1, "{text}");
    assert_eq!(refused[0]["error"]["type"], "rate_limit_error");
    let text = chat(&rig, "a", slow("")).await.text().await.unwrap();
    let (chunks, is_done) = events(&text);
    assert!(text.starts_with(": ping\n\n") && is_done, "{text}");
    assert_eq!(text_of(&chunks), answer_text("count=2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_before_the_site_hears_of_them() {
    let rig = Rig::with(Default::default(), never).await;
    let hi = || json!([user("hi")]);
    for (path, body, status, param, code) in [
        ("/v1/chat/completions", json!({"messages": []}), 400, "messages", "empty_array"),
        ("/v1/chat/completions", json!({}), 400, "messages", "missing_required_parameter"),
        ("/v1/chat/completions", json!({"messages": [{"role": 1}]}), 400, "messages[0].role", "invalid_type"),
        ("/v1/chat/completions", json!({"messages": hi(), "n": 2}), 400, "n", "unsupported_value"),
        (
            "/v1/chat/completions",
            json!({"messages": hi(), "tools": [{}]}),
            400,
            "tools",
            "unsupported_parameter",
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            400,
            "messages[0].content[0]",
            "unsupported_parameter",
        ),
        ("/v1/responses", json!({"input": 5}), 400, "input", "invalid_type"),
        (
            "/v1/responses",
            json!({"input": "x", "previous_response_id": "resp_x"}),
            400,
            "previous_response_id",
            "previous_response_not_found",
        ),
    ] {
        let answer = post(&rig, path, "a", &body).await;
        assert_eq!(answer.status().as_u16(), status, "{body}");
        let error: Value = answer.json().await.unwrap();
        let error = &error["error"];
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|it| it.len() > 10), "{error}");
    }
    let request = |body: Vec<u8>| rig.client.post(rig.url("/v1/chat/completions")).body(body).send();
    let broken: Value = request(b"{\"messages\":".to_vec()).await.unwrap().json().await.unwrap();
    assert_eq!(broken["error"]["code"], "invalid_json");
    let huge = request(vec![b' '; 100_001]).await.unwrap();
    assert_eq!(huge.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let huge: Value = huge.json().await.unwrap();
    assert_eq!(
        (&huge["error"]["type"], &huge["error"]["param"]),
        (&json!("invalid_request_error"), &Value::Null)
    );
    let wrong = rig.get("/v1/chat/completions").await;
    assert_eq!(
        (wrong.status(), wrong.headers().contains_key("allow")),
        (StatusCode::METHOD_NOT_ALLOWED, true)
    );
    assert_eq!(rig.counters().posts_arrived, 0);
    // Of models the site knows best.
    let answer = chat(&rig, "a", json!({"model": "llama", "messages": hi()})).await;
    assert_eq!(answer.status(), 400);
    let error: Value = answer.json().await.unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("model does not exist"), "{error}");
}

/// The events of a streamed response by their names.
fn named(stream: &str) -> Vec<(String, Value)> {
    let blocks = stream.split_terminator("\n\n").filter(|it| !it.starts_with(':'));
    let read = |block: &str| {
        let (name, data) = block.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        (name.to_owned(), serde_json::from_str(data).unwrap())
    };
    blocks.map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_and_lists_of_models() {
    let rig = Rig::ready().await;
    let rig = &rig;
    let ask = |body: Value| async move { post(rig, "/v1/responses", "a", &body).await };
    let one: Value =
        ask(json!({"model": "gpt-4o", "input": "hello count=3 text=cjk", "instructions": "be brief"}))
            .await
            .json()
            .await
            .unwrap();
    assert_eq!((&one["status"], &one["object"]), (&json!("completed"), &json!("response")), "{one}");
    assert_eq!(one["output"][0]["content"][0]["text"], answer_text("count=3 text=cjk"));
    assert!(one["usage"]["total_tokens"].as_u64().unwrap() > 10);
    let two = json!({"model": "gpt-4o", "input": [user("again count=3 interval=1 format=delta")], "stream": true,
                     "previous_response_id": one["id"]});
    let two = named(&ask(two).await.text().await.unwrap());
    let deltas = two.iter().filter(|it| it.0 == "response.output_text.delta");
    let text: String = deltas.map(|it| it.1["delta"].as_str().unwrap()).collect();
    let (last, response) = (&two.last().unwrap().0, &two.last().unwrap().1["response"]);
    assert_eq!((text.as_str(), last.as_str()), (answer_text("count=3").as_str(), "response.completed"));
    assert_eq!(two[0].0, "response.created");
    assert!(two.iter().enumerate().all(|(n, it)| it.1["sequence_number"] == n && it.1["type"] == it.0));
    let three =
        json!({"input": "more count=1 cut=1", "stream": true, "previous_response_id": response["id"]});
    let three = named(&ask(three).await.text().await.unwrap());
    assert_eq!((three.last().unwrap().0.as_str(), three.len() > 3), ("error", true));
    assert!(three.last().unwrap().1["error"]["message"].is_string());
    let turns =
        ["be brief\n\nhello count=3 text=cjk", "again count=3 interval=1 format=delta", "more count=1 cut=1"];
    assert_eq!(conversations(rig).await, [(turns.map(String::from).to_vec(), 0)]);
    let stolen = json!({"input": "x", "previous_response_id": one["id"]});
    assert_eq!(post(rig, "/v1/responses", "b", &stolen).await.status(), 400);

    let list: Value = rig.get("/v1/models").await.json().await.unwrap();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["auto", "gpt-4o", "gpt-4o-mini"]);
    let model: Value = rig.get("/v1/models/gpt-4o").await.json().await.unwrap();
    assert_eq!((&model["id"], &model["object"]), (&json!("gpt-4o"), &json!("model")));
    let none = rig.get("/v1/models/none").await;
    assert_eq!(none.status(), 404);
    let none: Value = none.json().await.unwrap();
    assert_eq!(none["error"]["code"], "model_not_found");
    let engines: Value = rig.get("/v1/engines").await.json().await.unwrap();
    assert_eq!(
        (&engines["data"][1]["id"], &engines["data"][1]["object"]),
        (&json!("gpt-4o"), &json!("engine"))
    );
}
