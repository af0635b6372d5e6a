//! Reads the written events back as a client would: both formats must say the same text.

use std::collections::HashMap;

use super::super::text::answer_text;
use super::*;

fn written(prompt: &str) -> String {
    let mut knobs = Knobs::parse(prompt, Format::Classic).expect("valid knobs");
    knobs.settle(prompt);
    let subject = Subject {
        conversation: "c-1".into(),
        message: "m-1".into(),
        model: "auto".into(),
        began: 1_700_000_000_000_000,
    };
    let mut out = BytesMut::new();
    let mut events = Events::new(subject, &knobs, prompt);
    events.opening(&mut out);
    for t in 0..knobs.text_events() {
        events.text(t, &mut out);
    }
    events.closing(&mut out);
    String::from_utf8(out.to_vec()).expect("UTF-8")
}

/// The (event name, data) pairs of a stream.
fn read(stream: &str) -> Vec<(&str, &str)> {
    stream
        .split_terminator("\n\n")
        .map(|block| {
            let mut event = ("", "");
            for line in block.split('\n') {
                match line.split_once(": ") {
                    Some(("event", name)) => event.0 = name,
                    Some(("data", data)) => event.1 = data,
                    _ => panic!("not a line of an event: {line}"),
                }
            }
            event
        })
        .collect()
}

fn json_of(data: &str) -> Value {
    serde_json::from_str(data).expect("JSON")
}

fn classic_text(stream: &str) -> String {
    let mut snapshots =
        read(stream).into_iter().filter(|(_, data)| *data != "[DONE]").map(|(_, d)| json_of(d));
    let last = snapshots.rfind(|v| v["message"].is_object()).expect("a snapshot");
    assert_eq!(last["message"]["status"], "finished_successfully");
    assert_eq!(last["message"]["end_turn"], true);
    last["message"]["content"]["parts"][0].as_str().expect("text").to_owned()
}

fn apply(tree: &mut Value, path: &str, op: &str, value: &Value) {
    match op {
        "patch" => {
            for step in value.as_array().expect("operations") {
                let part = |name: &str| step[name].as_str().expect("explicit in a patch");
                apply(tree, part("p"), part("o"), &step["v"]);
            }
        }
        "add" if path.is_empty() => *tree = value.clone(),
        "add" => {
            let (parent, name) = path.rsplit_once('/').expect("a path");
            tree.pointer_mut(parent).expect("parent")[name] = value.clone();
        }
        "replace" => *tree.pointer_mut(path).expect("target") = value.clone(),
        "append" => match (tree.pointer_mut(path).expect("target"), value) {
            (Value::String(text), Value::String(more)) => text.push_str(more),
            (Value::Object(members), Value::Object(more)) => members.extend(more.clone()),
            (target, _) => panic!("cannot append to {target}"),
        },
        other => panic!("unknown operation {other}"),
    }
}

fn delta_text(stream: &str) -> String {
    let mut trees: HashMap<u64, Value> = HashMap::new();
    let (mut c, mut p, mut o) = (0, String::new(), String::new());
    for (_, data) in read(stream).into_iter().filter(|(name, _)| *name == "delta") {
        let delta = json_of(data);
        c = delta["c"].as_u64().unwrap_or(c);
        p = delta["p"].as_str().map_or(p, str::to_owned);
        o = delta["o"].as_str().map_or(o, str::to_owned);
        apply(trees.entry(c).or_default(), &p, &o, &delta["v"]);
    }
    let message = &trees[&1]["message"];
    assert_eq!(message["status"], "finished_successfully");
    assert_eq!(message["end_turn"], true);
    message["content"]["parts"][0].as_str().expect("text").to_owned()
}

#[test]
fn both_formats_say_the_same_text() {
    for script in ["ascii", "cjk", "emoji", "mixed"] {
        let prompt = format!("count=30 size=9 text={script}");
        let expected = answer_text(&prompt);
        assert_eq!(classic_text(&written(&prompt)), expected);
        assert_eq!(delta_text(&written(&format!("{prompt} format=delta"))), expected);
    }
    let prompt = "echo=1 size=5 say \"this\" \\ back\n\n🦊";
    assert_eq!(classic_text(&written(prompt)), prompt);
}

#[test]
fn a_text_event_without_growth_carries_only_its_piece() {
    let stream = written("count=5 size=4 grow=0");
    let stamped: Vec<Value> =
        read(&stream).iter().filter(|e| e.1.contains("\"t\":")).map(|e| json_of(e.1)).collect();
    assert_eq!(stamped.len(), 5);
    assert_eq!(stamped[4]["t"], 4);
    let said: String = stamped.iter().filter_map(|e| e["message"]["content"]["parts"][0].as_str()).collect();
    assert_eq!(said, answer_text("count=5 size=4"));
}

#[test]
fn every_delta_text_is_stamped_and_the_stream_is_closed() {
    let stream = written("count=17 format=delta");
    let events = read(&stream);
    assert_eq!(events[0], ("delta_encoding", "\"v1\""));
    assert_eq!(events.last(), Some(&("", "[DONE]")));
    assert_eq!(events.iter().filter(|(_, data)| data.contains("\"t\":")).count(), 17);
    for kind in
        ["resume_conversation_token", "message_marker", "server_ste_metadata", "message_stream_complete"]
    {
        assert_eq!(events.iter().filter(|(_, data)| data.contains(kind)).count(), 1, "{kind}");
    }
}

#[test]
fn a_ping_carries_a_date() {
    let mut out = BytesMut::new();
    Events::ping(1_709_210_096_000_042, &mut out);
    assert_eq!(&out[..], b"event: ping\ndata: 2024-02-29 12:34:56.000042\n\n");
}
