//! From the site's streams to the API's answers, without a page.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;
use crate::error::FaultKind;
use crate::openai::chat::{ChatStream, ChatWhole};
use crate::openai::responses::ResponseStream;
use crate::openai::{Role, Turn};

type Kept = Arc<Mutex<Vec<(Place, String)>>>;

fn completion(write: Box<dyn Write>, limits: Limits, is_whole: bool) -> (Completion, Kept) {
    let kept = Kept::default();
    let turns = vec![Turn { role: Role::User, text: "hello world".into() }];
    let input = Input::of(&Arc::new(Asked { turns, ..Asked::default() }));
    let keep = kept.clone();
    let keep: Keep = Box::new(move |place, _, text| keep.lock().unwrap().push((place, text.to_owned())));
    (Completion::new(Wanted { write, limits, is_whole, input, with_usage: true }, keep), kept)
}

fn streamed(limits: Limits) -> (Completion, Kept) {
    completion(Box::new(ChatStream::new("m".into(), true)), limits, false)
}

fn snapshot(text: &str, is_last: bool) -> String {
    let status = if is_last { "finished_successfully" } else { "in_progress" };
    let message = json!({"id": "a", "author": {"role": "assistant"}, "status": status, "end_turn": is_last,
                         "content": {"content_type": "text", "parts": [text]}});
    format!("data: {}\n\n", json!({"message": message, "conversation_id": "c", "error": null}))
}

const DONE: &str = "data: [DONE]\n\n";

/// Everything that is written for these pieces, and how it ended.
fn run(completion: &mut Completion, pieces: &[String]) -> (String, Result<Flow, FaultKind>) {
    let mut out = BytesMut::new();
    let mut flow = Ok(Flow::On);
    for piece in pieces {
        flow = completion.pass(&Bytes::from(piece.clone()), &mut out);
        if !matches!(flow, Ok(Flow::On)) {
            break;
        }
    }
    if let Ok(Flow::On) = flow {
        flow = completion.end(&mut out).map(|()| Flow::On);
    }
    if let Err(fault) = &flow {
        assert_eq!(completion.fail(fault, &mut out), Ending::Clean);
    }
    (String::from_utf8(out.to_vec()).unwrap(), flow.map_err(|it| it.kind()))
}

fn events(stream: &str) -> Vec<Value> {
    let events = stream.split_terminator("\n\n").map(|it| it.strip_prefix("data: ").unwrap());
    events.filter(|it| *it != "[DONE]").map(|it| serde_json::from_str(it).unwrap()).collect()
}

fn text_of(stream: &str) -> String {
    let all = events(stream);
    all.iter().filter_map(|it| it["choices"][0]["delta"]["content"].as_str()).collect()
}

#[test]
fn a_stream_is_told_once_with_usage_and_kept() {
    let pieces = [snapshot("", false), snapshot("你好", false), snapshot("你好 🦊", true) + DONE];
    let (mut it, kept) = streamed(Limits::default());
    let (out, flow) = run(&mut it, &pieces);
    assert_eq!((text_of(&out).as_str(), flow), ("你好 🦊", Ok(Flow::Done)));
    assert!(out.ends_with(DONE));
    let all = events(&out);
    assert!(all.iter().all(|it| it["id"] == all[0]["id"] && it["created"] == all[0]["created"]));
    assert_eq!(all[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let finishes: Vec<_> = all.iter().map(|it| it["choices"][0]["finish_reason"].clone()).collect();
    assert_eq!(finishes.iter().filter(|it| *it == "stop").count(), 1);
    let usage = &all.last().unwrap()["usage"];
    assert_eq!(usage["prompt_tokens"], 3 + 1 + 2 + 3);
    assert_eq!(usage["total_tokens"], 9 + tokens::count("你好 🦊"));
    let place = Place { conversation: "c".into(), parent: "a".into() };
    assert_eq!(*kept.lock().unwrap(), [(place, "你好 🦊".to_owned())]);
}

#[test]
fn limits_end_an_answer_early_and_it_is_not_kept() {
    for (limits, expected, reason) in [
        (Limits::new(vec!["three".into()], None), "one two ", "stop"),
        (Limits::new(Vec::new(), Some(2)), "one two", "length"),
    ] {
        let (mut it, kept) = streamed(limits.clone());
        let pieces = [snapshot("one two th", false), snapshot("one two three four", false)];
        let (out, flow) = run(&mut it, &pieces);
        assert_eq!((text_of(&out).as_str(), flow), (expected, Ok(Flow::Done)));
        assert!(out.contains(&format!("\"finish_reason\":\"{reason}\"")) && out.ends_with(DONE));
        assert!(kept.lock().unwrap().is_empty());
        let (mut it, _) = completion(Box::new(ChatWhole::new("m".into())), limits, true);
        let (out, _) = run(&mut it, &[snapshot("one two three four", true) + DONE]);
        let whole: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(whole["choices"][0]["message"]["content"], expected);
        assert_eq!(whole["choices"][0]["finish_reason"], reason);
    }
    // What was held back is told at the end.
    let (mut it, _) = streamed(Limits::new(vec!["three".into()], None));
    assert_eq!(text_of(&run(&mut it, &[snapshot("one th", true) + DONE]).0), "one th");
}

#[test]
fn an_answer_that_is_not_whole_ends_with_an_error_and_without_done() {
    let (half, error) = (snapshot("half", false), "data: {\"error\":\"out of order\"}\n\n".to_owned());
    for (pieces, kind) in [
        (vec![half.clone()], FaultKind::AnswerIncomplete),
        (vec![half.clone() + DONE], FaultKind::AnswerIncomplete),
        (vec![half.clone() + &error], FaultKind::SiteError),
        (vec![], FaultKind::AnswerIncomplete),
    ] {
        let (mut it, kept) = streamed(Limits::default());
        let (out, flow) = run(&mut it, &pieces);
        assert_eq!(flow, Err(kind));
        assert!(!out.contains("[DONE]") && kept.lock().unwrap().is_empty());
        let last = events(&out).pop().unwrap();
        assert_eq!(
            (&last["error"]["type"], &last["error"]["code"]),
            (&json!("server_error"), &json!(kind.code()))
        );
        if !pieces.is_empty() {
            assert_eq!(text_of(&out), "half", "what was told before the fault is told");
        }
    }
}

#[test]
fn a_whole_answer_has_the_last_wording() {
    let (mut it, kept) = completion(Box::new(ChatWhole::new("m".into())), Limits::default(), true);
    let (out, _) = run(&mut it, &[snapshot("see 【1】", false), snapshot("see this", true) + DONE]);
    let whole: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], "see this");
    assert_eq!(kept.lock().unwrap()[0].1, "see this");
}

#[test]
fn responses_are_named_and_numbered() {
    let write = Box::new(ResponseStream::new(&Asked { model: "m".into(), ..Asked::default() }));
    let (mut it, _) = completion(write, Limits::default(), false);
    let (out, _) = run(&mut it, &[snapshot("a", false), snapshot("a b", true) + DONE]);
    let mut kinds = Vec::new();
    for (number, event) in out.split_terminator("\n\n").enumerate() {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["sequence_number"], number);
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        kinds.push(name.strip_prefix("event: response.").unwrap().to_owned());
    }
    assert_eq!(
        kinds,
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed"
        ]
    );
}
