//! Both formats say the same; nothing is told twice or lost, whatever comes.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::site::sse::EventReader;

/// What a reader has of a stream: all text as it was handed out, and itself.
fn read(stream: &str) -> Result<(String, Reader), Fault> {
    let (mut events, mut reader) = (EventReader::new(MOST_EVENT), Reader::default());
    let (mut piece, mut text) = (stream.as_bytes(), String::new());
    while let Some(event) = events.next(&mut piece)? {
        reader.read(event)?;
        text.push_str(&reader.take_text());
    }
    Ok((text, reader))
}

fn message(id: &str, text: &str) -> Value {
    json!({"id": id, "author": {"role": "assistant"}, "recipient": "all", "status": "in_progress",
           "content": {"content_type": "text", "parts": [text]}, "metadata": {"model_slug": "gpt-4o"}})
}

fn ended(id: &str, text: &str) -> Value {
    let mut message = message(id, text);
    message["status"] = "finished_successfully".into();
    message["end_turn"] = true.into();
    message["metadata"]["finish_details"] = json!({"type": "stop"});
    message
}

fn snapshot(message: Value) -> String {
    format!("data: {}\n\n", json!({"message": message, "conversation_id": "c", "error": null}))
}

fn delta(value: Value) -> String {
    format!("event: delta\ndata: {value}\n\n")
}

const DONE: &str = "data: [DONE]\n\n";

#[test]
fn snapshots_are_told_by_what_they_add() {
    let stream = [
        snapshot(message("m", "")),
        snapshot(message("m", "狐")),
        "event: ping\ndata: 2026-01-31 12:34:56\n\n".into(),
        snapshot(message("m", "狐狸 🦊")),
        snapshot(ended("m", "狐狸 🦊")),
        DONE.into(),
    ];
    let (text, reader) = read(&stream.concat()).unwrap();
    assert_eq!((&*text, &*reader.answer()), ("狐狸 🦊", "狐狸 🦊"));
    assert_eq!((reader.conversation(), reader.message()), (Some("c"), Some("m")));
    assert_eq!((reader.model(), reader.finish()), (Some("gpt-4o"), Finish::Stop));
    assert!(reader.is_finished() && reader.is_done() && reader.end().is_ok());
}

#[test]
fn deltas_carry_over_what_they_do_not_say() {
    let stream = [
        "event: delta_encoding\ndata: \"v1\"\n\n".to_owned(),
        delta(json!({"p": "", "o": "add", "v": {"message": {"id": "s", "author": {"role": "system"},
                     "content": {"content_type": "text", "parts": ["hidden"]}}, "conversation_id": "c"}, "c": 0})),
        delta(json!({"v": {"message": message("m", ""), "conversation_id": "c", "error": null}, "c": 1})),
        delta(json!({"p": "/message/content/parts/0", "o": "append", "v": "one "})),
        delta(json!({"v": "two "})),
        delta(json!({"p": "", "o": "patch", "v": [
            {"p": "/message/content/parts/0", "o": "append", "v": "three"},
            {"p": "/message/metadata/x", "o": "add", "v": [1]}]})),
        delta(json!({"v": [{"p": "/message/content/parts/0", "o": "append", "v": " four"}]})),
        delta(json!({"v": [{"p": "/message/status", "o": "replace", "v": "finished_successfully"},
                           {"p": "/message/end_turn", "o": "replace", "v": true}]})),
    ]
    .concat();
    let (text, reader) = read(&stream).unwrap();
    assert_eq!(text, "one two three four");
    assert!(!reader.is_finished(), "nothing said so yet");
    assert_eq!(reader.end().unwrap_err().kind(), FaultKind::AnswerIncomplete);
    let whole = stream + "data: {\"type\":\"message_stream_complete\",\"conversation_id\":\"c\"}\n\n";
    assert!(read(&whole).unwrap().1.is_finished());
}

#[test]
fn only_what_a_person_would_read_is_told() {
    let hidden = [
        json!({"author": {"role": "user"}}),
        json!({"author": {"role": "tool"}}),
        json!({"recipient": "python"}),
        json!({"content": {"content_type": "thoughts", "thoughts": [{"content": "hm"}]}}),
        json!({"content": {"content_type": "code", "text": "1+1"}}),
        json!({"metadata": {"is_visually_hidden_from_conversation": true}}),
    ];
    for (n, change) in hidden.iter().enumerate() {
        let mut other = ended(&format!("x{n}"), "not this");
        other.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let (text, reader) = read(&(snapshot(other) + DONE)).unwrap();
        assert_eq!((&*text, reader.is_finished(), reader.has_begun()), ("", false, false), "{change}");
    }
    let parts = json!(["a", {"content_type": "image_asset_pointer", "asset_pointer": "x"}, "b"]);
    let mut pictures = ended("m", "");
    pictures["content"] = json!({"content_type": "multimodal_text", "parts": parts});
    assert_eq!(read(&snapshot(pictures)).unwrap().0, "ab");
}

#[test]
fn several_messages_are_one_answer() {
    let stream = [
        snapshot(message("a", "")),
        snapshot(message("a", "first")),
        snapshot(message("b", "")),
        snapshot(ended("b", "second")),
        snapshot(message("a", "first!")),
        DONE.into(),
    ];
    let (text, reader) = read(&stream.concat()).unwrap();
    assert_eq!(text, "first\n\nsecond!");
    assert_eq!((reader.answer().as_str(), reader.message()), ("first!\n\nsecond", Some("b")));
}

#[test]
fn what_was_rewritten_is_told_again_from_where_it_differs() {
    let (text, reader) =
        read(&(snapshot(message("m", "see 【狐")) + &snapshot(message("m", "see 【猫】")))).unwrap();
    assert_eq!((&*text, &*reader.answer()), ("see 【狐猫】", "see 【猫】"));
    let begin = delta(json!({"v": {"message": message("m", "see this one")}}));
    for (change, expected) in [
        (json!({"p": "/message/content/parts/0", "o": "replace", "v": "see that"}), "see this oneat"),
        (json!({"p": "/message/content/parts/0", "o": "truncate", "v": 4}), "see this one"),
        (json!({"p": "/message/content", "o": "replace", "v": {"parts": ["see x"]}}), "see this onex"),
    ] {
        assert_eq!(read(&(begin.clone() + &delta(change))).unwrap().0, expected);
    }
}

#[test]
fn what_ends_an_answer_and_what_does_not() {
    let mut cut_short = message("m", "long");
    cut_short["status"] = "finished_partial_completion".into();
    cut_short["metadata"]["finish_details"] = json!({"type": "max_tokens"});
    let (_, reader) = read(&(snapshot(cut_short) + DONE)).unwrap();
    assert!(reader.is_finished() && reader.finish() == Finish::MaxTokens);

    let moderated = "data: {\"moderation_response\":{\"flagged\":true,\"blocked\":true}}\n\n";
    let (_, reader) = read(&(snapshot(ended("m", "x")) + moderated + DONE)).unwrap();
    assert!(reader.is_finished() && reader.finish() == Finish::Blocked);

    let handed = "data: {\"type\":\"stream_handoff\"}\n\n";
    for (stream, word) in [
        (snapshot(ended("m", "x")), "before it was finished"),
        (snapshot(message("m", "x")) + DONE, "before it was finished"),
        (snapshot(message("m", "x")) + handed + DONE, "another stream"),
        (DONE.into(), "no answer in words"),
        (String::new(), "before it was finished"),
    ] {
        let fault = read(&stream).unwrap().1.end().unwrap_err();
        assert!(fault.public().contains(word), "{fault}");
        assert_eq!(fault.sent(), crate::error::Sent::Maybe);
    }
    for error in [json!("out of order"), json!({"message": "out of order"})] {
        let fault = read(&format!("data: {}\n\n", json!({"message": null, "error": error}))).unwrap_err();
        assert_eq!(fault.public(), "The site broke its answer off: out of order");
    }
}

#[test]
fn members_of_an_unexpected_type_do_not_hide_the_others() {
    let mut odd = ended("m", "text");
    odd["recipient"] = json!(["all"]);
    odd["metadata"] = json!([1, 2]);
    let (text, reader) = read(&(snapshot(odd) + DONE)).unwrap();
    assert_eq!((&*text, reader.is_finished()), ("text", true));
}

#[test]
fn what_cannot_be_followed_is_a_fault_and_memory_is_bounded() {
    let begin = delta(json!({"v": {"message": message("m", "x")}}));
    for change in [
        json!({"p": "/message/content/parts/7", "o": "append", "v": "x"}),
        json!({"p": "/message/content/parts/0", "o": "append", "v": {}}),
        json!({"p": "/message/content", "o": "transmogrify", "v": 1}),
        json!({"p": "", "o": "patch", "v": "x"}),
        json!({"p": "/a".repeat(40), "o": "add", "v": 1}),
        json!({"p": 5}),
    ] {
        let fault = read(&(begin.clone() + &delta(change.clone()))).unwrap_err();
        assert_eq!(fault.kind(), FaultKind::SiteError, "{change}");
    }
    assert!(read(&(begin + &delta(json!({"p": "/message/x/y/z", "o": "replace", "v": 1})))).is_ok());

    let mut reader = Reader::default();
    let long = json!({"p": "", "o": "add", "v": "x".repeat(1 << 20)}).to_string();
    let results: Vec<_> = (0..20).map(|_| reader.read(Event { name: "delta", data: &long })).collect();
    assert!(results[0].is_ok() && results[19].is_err());
    let many: String = (0..300).map(|n| snapshot(message(&n.to_string(), "x"))).collect();
    assert!(read(&many).is_err());
    let channels: String = (0..300).map(|n| delta(json!({"c": n, "p": "", "o": "add", "v": 1}))).collect();
    assert!(read(&channels).is_err());
}

#[test]
fn a_long_answer_costs_what_its_deltas_cost() {
    let begun = std::time::Instant::now();
    let mut reader = Reader::default();
    let first = json!({"v": {"message": message("m", "")}}).to_string();
    reader.read(Event { name: "delta", data: &first }).unwrap();
    let append = json!({"p": "/message/content/parts/0", "o": "append", "v": "eight by"}).to_string();
    for _ in 0..100_000 {
        reader.read(Event { name: "delta", data: &append }).unwrap();
        assert_eq!(reader.take_text(), "eight by");
    }
    assert_eq!(reader.answer().len(), 800_000);
    // A copy of the text for each delta would be 40 GB.
    assert!(begun.elapsed().as_secs() < 30);
}

/// Any JSON, with the words in it that matter.
fn json_like() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(
        &["message", "content", "parts", "id", "author", "role", "v", "type", "error"][..],
    );
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a狐🦊]{0,3}".prop_map(Value::from),
        Just(Value::from("assistant")),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(word.clone(), inner, 0..4).prop_map(|map| {
                Value::Object(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

const KNOWN: [&str; 5] =
    ["", "/message", "/message/content", "/message/content/parts", "/message/content/parts/0"];

fn paths() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(&KNOWN[..]).prop_map(String::from),
        1 => "(/(message|content|parts|[01]|-|~1)){0,4}",
        1 => "[a/]{0,3}",
    ]
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(
        events in prop::collection::vec((
            prop::sample::select(&["", "delta", "delta", "ping"][..]),
            prop::option::of(paths()),
            prop::option::of(prop::sample::select(&["add", "append", "replace", "remove", "truncate", "patch", "?"][..])),
            json_like(),
            any::<bool>(),
        ), 0..12),
    ) {
        let mut reader = Reader::default();
        for (name, path, op, value, bare) in events {
            let mut event = json!({"v": value});
            path.into_iter().for_each(|it| event["p"] = it.into());
            op.into_iter().for_each(|it| event["o"] = it.into());
            let event = if bare { event["v"].to_string() } else { event.to_string() };
            // What cannot be followed is a fault, and the reader is done with then.
            if reader.read(Event { name, data: &event }).is_err() {
                break;
            }
            reader.take_text();
        }
        reader.answer();
    }

    /// However a text is cut into snapshots or deltas, it is told whole and once.
    #[test]
    fn both_formats_tell_the_same_text(pieces in prop::collection::vec("[a-z狐🦊\\\\\"\n]{0,5}", 1..12)) {
        let whole = pieces.concat();
        let mut classic = String::new();
        let mut deltas = delta(json!({"v": {"message": message("m", "")}}));
        let mut so_far = String::new();
        for piece in &pieces {
            so_far.push_str(piece);
            classic += &snapshot(message("m", &so_far));
            deltas += &delta(json!({"p": "/message/content/parts/0", "o": "append", "v": piece}));
        }
        for stream in [classic, deltas] {
            let (text, reader) = read(&stream).unwrap();
            prop_assert_eq!(&text, &whole);
            prop_assert_eq!(reader.answer(), &*whole);
        }
    }
}
