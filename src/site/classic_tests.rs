//! Snapshots say what the deltas say, and snapshots of the site's own are not touched.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::error::FaultKind;

/// Everything that is written for `stream` in pieces of `length` bytes.
fn translate(stream: &str, length: usize) -> Result<String, Fault> {
    let (mut classic, mut out) = (Classic::default(), BytesMut::new());
    for piece in stream.as_bytes().chunks(length) {
        classic.pass(&Bytes::copy_from_slice(piece), &mut out)?;
    }
    classic.end(&mut out)?;
    Ok(String::from_utf8(out.to_vec()).unwrap())
}

/// The trees of all snapshots in `stream`.
fn trees(stream: &str) -> Vec<Value> {
    let events = stream.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
    events.filter(|it| *it != "[DONE]").map(|it| serde_json::from_str(it).unwrap()).collect()
}

const RECORDED: &str = include_str!("../../tests/golden/delta.sse");

#[test]
fn a_recorded_delta_stream_becomes_these_snapshots() {
    insta::with_settings!({snapshot_path => "../../tests/golden", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("delta_as_classic", translate(RECORDED, usize::MAX).unwrap());
    });
}

#[test]
fn in_small_pieces_there_are_more_snapshots_and_the_last_is_the_same() {
    let whole = trees(&translate(RECORDED, usize::MAX).unwrap());
    for length in [1, 7, 100] {
        let translated = translate(RECORDED, length).unwrap();
        assert!(translated.ends_with("data: [DONE]\n\n") && !translated.contains("secret"));
        let all = trees(&translated);
        assert!(all.len() >= whole.len());
        assert_eq!(all.last(), whole.last());
    }
}

#[test]
fn an_answer_that_ends_too_early_is_a_fault() {
    let cut = RECORDED.split("event: delta\ndata: {\"p\":\"\",\"o\":\"patch\"").next().unwrap();
    assert_eq!(translate(cut, 10).unwrap_err().kind(), FaultKind::AnswerIncomplete);
    let no_done = RECORDED.trim_end().strip_suffix("data: [DONE]").unwrap();
    assert!(translate(no_done, 10).unwrap().ends_with("data: [DONE]\n\n"));
}

#[test]
fn what_is_classic_already_passes_byte_for_byte_in_whole_events() {
    let stream = "event: ping\ndata: 2026\n\ndata: {\"message\":{\"id\":\"狐\"}}\r\n\r\n: note\n\ndata: x\n\ndata: [DONE]\n\nrest";
    for length in 1..20 {
        assert_eq!(translate(stream, length).unwrap(), stream, "by {length}");
    }
    let (mut classic, mut out) = (Classic::default(), BytesMut::new());
    classic.pass(&Bytes::from("data: {\"message\":1}\n\ndata: ha"), &mut out).unwrap();
    assert_eq!(&out[..], b"data: {\"message\":1}\n\n");
    assert_eq!(translate("", 1).unwrap(), "");
}

/// The same deltas applied without any care for cost.
fn naive(operations: &[(String, &'static str, Value)]) -> Vec<Value> {
    let mut tree = json!({"message": {"id": "m", "author": {"role": "assistant"}, "list": [], "map": {},
                          "content": {"content_type": "text", "parts": [""]}}, "conversation_id": "c"});
    let mut all = vec![tree.clone()];
    for (path, op, value) in operations {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let place = tree.pointer(path).cloned();
        let parent = tree.pointer_mut(parent).unwrap();
        let changed = match (*op, place) {
            ("append", Some(Value::String(text))) => json!(format!("{text}{}", value.as_str().unwrap())),
            ("append", Some(Value::Array(list))) => json!([list, value.as_array().unwrap().clone()].concat()),
            ("truncate", Some(Value::String(text))) => {
                let units: Vec<u16> = text.encode_utf16().take(value.as_u64().unwrap() as usize).collect();
                json!(
                    String::from_utf16(&units)
                        .unwrap_or_else(|_| { String::from_utf16(&units[..units.len() - 1]).unwrap() })
                )
            }
            _ => value.clone(),
        };
        match (parent, *op) {
            (Value::Object(map), "remove") => {
                map.remove(key);
            }
            (Value::Object(map), _) => {
                map.insert(key.into(), changed);
            }
            (Value::Array(list), "add") => list.insert(key.parse().unwrap(), changed),
            (Value::Array(list), _) => list[key.parse::<usize>().unwrap()] = changed,
            _ => unreachable!(),
        }
        all.push(tree.clone());
    }
    all
}

fn operations() -> impl Strategy<Value = Vec<(String, &'static str, Value)>> {
    let text = || "[a-z\"狐🦊]{0,6}";
    let part = "/message/content/parts/0";
    let one = prop_oneof![
        4 => text().prop_map(move |it| (part.to_owned(), "append", json!(it))),
        1 => text().prop_map(move |it| (part.to_owned(), "replace", json!(it))),
        1 => (0u64..8).prop_map(move |it| (part.to_owned(), "truncate", json!(it))),
        1 => text().prop_map(|it| ("/message/list".to_owned(), "append", json!([it]))),
        1 => any::<bool>().prop_map(|it| ("/message/list/0".to_owned(), "add", json!(it))),
        1 => "[ab]".prop_map(|it| (format!("/message/map/{it}"), "add", json!({"x": 1}))),
        1 => "[ab]".prop_map(|it| (format!("/message/map/{it}"), "remove", Value::Null)),
        1 => Just(("/message/status".to_owned(), "replace", json!("finished_successfully"))),
    ];
    prop::collection::vec(one, 0..20)
}

proptest! {
    #[test]
    fn each_snapshot_is_what_a_naive_application_gives(operations in operations(), together in any::<bool>()) {
        let expected = naive(&operations);
        let mut events = vec![json!({"p": "", "o": "add", "v": expected[0], "c": 1}).to_string()];
        let (mut last_path, mut last_op) = (String::new(), "add");
        for (path, op, value) in &operations {
            let mut event = json!({"v": value});
            if *path != last_path {
                event["p"] = json!(path);
            }
            if *op != last_op {
                event["o"] = json!(op);
            }
            (last_path, last_op) = (path.clone(), *op);
            events.push(event.to_string());
        }
        let (mut classic, mut out) = (Classic::default(), BytesMut::new());
        let pieces: Vec<String> = events.iter().map(|it| format!("event: delta\ndata: {it}\n\n")).collect();
        let pieces = if together { vec![pieces.concat()] } else { pieces };
        for piece in pieces {
            classic.pass(&Bytes::from(piece), &mut out).unwrap();
        }
        let got = trees(std::str::from_utf8(&out).unwrap());
        if together {
            prop_assert_eq!(got.last(), expected.last());
        } else {
            prop_assert_eq!(got, expected);
        }
    }
}
