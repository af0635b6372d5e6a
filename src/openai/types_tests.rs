//! Good requests are understood, and each mistake is told with its place.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn ask(change: Value) -> Result<Asked, Invalid> {
    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    read_chat(body.to_string().as_bytes())
}

#[test]
fn a_request_is_understood() {
    let asked = ask(json!({
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
            {"role": "assistant", "content": null, "refusal": "no"},
            {"role": "user", "content": ""},
        ],
        "stream": true, "stream_options": {"include_usage": true}, "stop": ["x", "", "yz"], "max_tokens": 9,
        "max_completion_tokens": 7, "n": 1, "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
        "logprobs": false, "temperature": 0.7, "unheard_of": {"a": [1]}, "modalities": ["text"], "user": null,
    }))
    .unwrap();
    let turns: Vec<_> = asked.turns.iter().map(|it| (it.role, &*it.text)).collect();
    let expected =
        [(Role::System, "be brief"), (Role::User, "a\nb"), (Role::Assistant, "no"), (Role::User, "")];
    assert_eq!(turns, expected);
    assert!(asked.stream && asked.include_usage);
    assert_eq!((asked.stop, asked.most_tokens), (vec!["x".to_owned(), "yz".to_owned()], Some(7)));
    let plain = ask(json!({"model": null, "stop": "end"})).unwrap();
    assert_eq!((&*plain.model, plain.stream, plain.stop), ("auto", false, vec!["end".to_owned()]));
}

#[test]
fn each_mistake_is_told_with_its_place() {
    let long = "x".repeat(2000);
    for (change, param, code, word) in [
        (json!({"messages": []}), "messages", "empty_array", "empty array"),
        (json!({"messages": null}), "messages", "missing_required_parameter", "Missing"),
        (json!({"messages": "hi"}), "messages", "invalid_type", "string \"hi\", expected a sequence"),
        (json!({"messages": [5]}), "messages[0]", "invalid_type", "integer `5`"),
        (
            json!({"messages": [{"content": "x"}]}),
            "messages[0].role",
            "missing_required_parameter",
            "Missing",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
            "missing_required_parameter",
            "Missing",
        ),
        (
            json!({"messages": [{"role": "user", "content": 5}]}),
            "messages[0].content",
            "invalid_type",
            "a string or",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": 1}]}]}),
            "messages[0].content[0].type",
            "invalid_type",
            "a string",
        ),
        (
            json!({"messages": [{"role": "king", "content": "x"}]}),
            "messages[0].role",
            "invalid_value",
            "'assistant'",
        ),
        (
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            "messages[0].role",
            "unsupported_parameter",
            "tools",
        ),
        (json!({"messages": [{"role": "user", "content": " "}]}), "messages", "invalid_value", "no text"),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{}]}]}),
            "messages[0].tool_calls",
            "unsupported_parameter",
            "tools",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "messages[0].content[0]",
            "unsupported_parameter",
            "Images are not supported",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
            "messages[0].content[0]",
            "unsupported_parameter",
            "Audio is",
        ),
        (
            json!({"tools": [{"type": "function"}]}),
            "tools",
            "unsupported_parameter",
            "Tools are not supported",
        ),
        (json!({"functions": [{}]}), "functions", "unsupported_parameter", "Functions"),
        (json!({"n": 2}), "n", "unsupported_value", "exactly one"),
        (json!({"n": "2"}), "n", "invalid_type", "string \"2\""),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format",
            "unsupported_parameter",
            "schema",
        ),
        (json!({"logprobs": true}), "logprobs", "unsupported_parameter", "Log"),
        (json!({"modalities": ["audio"]}), "modalities", "unsupported_parameter", "text"),
        (json!({"stream": "yes"}), "stream", "invalid_type", "boolean"),
        (json!({"max_tokens": 0}), "max_tokens", "integer_below_min_value", "1 or more"),
        (json!({"max_tokens": -1}), "max_tokens", "invalid_value", "-1"),
        (json!({"max_completion_tokens": 1.5}), "max_completion_tokens", "invalid_type", "1.5"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", "invalid_value", "at most 4"),
        (json!({"stop": [1]}), "stop[0]", "invalid_type", "integer `1`"),
        (json!({"model": 4}), "model", "invalid_type", "a string"),
        (json!({"model": long}), "model", "model_not_found", "does not exist"),
        (
            json!({"stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
            "invalid_type",
            "boolean",
        ),
    ] {
        let invalid = ask(change.clone()).unwrap_err();
        assert_eq!((invalid.param(), invalid.code()), (Some(param), code), "{change}");
        let message = invalid.body().message;
        assert!(message.contains(word) && message.len() < 500, "{message}");
    }
    for (body, code) in
        [("", "invalid_json"), ("{", "invalid_json"), ("{} x", "invalid_json"), ("[]", "invalid_value")]
    {
        assert_eq!(read_chat(body.as_bytes()).unwrap_err().code(), code, "{body}");
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(
        body in r#"(\{|\}|\[|\]|:|,|"(model|messages|role|content|user|stop|type|text)"|[0-9]|null|true|狐){0,24}"#,
        bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let _ = read_chat(body.as_bytes());
        let _ = read_chat(&bytes);
        let _ = crate::openai::responses_types::read_responses(body.as_bytes());
    }
}
