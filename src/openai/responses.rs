//! Answers of `/v1/responses`: a stream of named, numbered events, or one response.
//!
//! ```text
//! created · in_progress · output_item.added · content_part.added · output_text.delta …
//!         · output_text.done · content_part.done · output_item.done · completed | incomplete
//! ```
//!
//! There is no `[DONE]`: `response.completed` is the end.

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use super::chat::json as write_json;
use super::{Asked, ErrorBody, Reason, Usage, Write, new_id, now};

/// What all parts of one answer have in common.
struct Same {
    id: String,
    item: String,
    created: u64,
    model: String,
    previous: Option<String>,
    instructions: Option<String>,
    most_tokens: Option<usize>,
}

impl Same {
    fn new(asked: &Asked) -> Same {
        Same {
            id: new_id("resp_"),
            item: new_id("msg_"),
            created: now(),
            model: asked.model.clone(),
            previous: asked.previous.clone(),
            instructions: asked.instructions.clone(),
            most_tokens: asked.most_tokens,
        }
    }

    /// The response as it stands.
    fn response(&self, status: &str, output: Value, details: Value, usage: Value) -> Value {
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "background": false, "error": null, "incomplete_details": details,
            "instructions": self.instructions, "max_output_tokens": self.most_tokens, "model": self.model,
            "output": output, "parallel_tool_calls": true, "previous_response_id": self.previous,
            "reasoning": {"effort": null, "summary": null}, "store": true, "temperature": 1.0,
            "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
            "truncation": "disabled", "usage": usage, "user": null, "metadata": {},
        })
    }

    fn begun(&self) -> Value {
        self.response("in_progress", json!([]), Value::Null, Value::Null)
    }

    fn item(&self, status: &str, content: Value) -> Value {
        json!({"id": self.item, "type": "message", "status": status, "role": "assistant", "content": content})
    }

    /// The last state, and whether the answer is all there.
    fn ended(&self, reason: Reason, usage: Usage, text: &str) -> (Value, bool) {
        let (status, details) = match reason {
            Reason::Stop => ("completed", Value::Null),
            Reason::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
            Reason::Filter => ("incomplete", json!({"reason": "content_filter"})),
        };
        let usage = json!({
            "input_tokens": usage.input, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage.output, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.input + usage.output,
        });
        let output = json!([self.item(status, json!([part(text)]))]);
        (self.response(status, output, details, usage), reason == Reason::Stop)
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// A streamed response.
pub struct ResponseStream {
    same: Same,
    /// The number of the next event.
    number: u64,
}

impl ResponseStream {
    /// The answer to `asked`.
    pub fn new(asked: &Asked) -> ResponseStream {
        ResponseStream { same: Same::new(asked), number: 0 }
    }

    fn event(&mut self, kind: &str, mut value: Value, out: &mut BytesMut) {
        value["type"] = kind.into();
        value["sequence_number"] = self.number.into();
        self.number += 1;
        out.put_slice(b"event: ");
        out.put_slice(kind.as_bytes());
        out.put_slice(b"\ndata: ");
        write_json(&value, out);
        out.put_slice(b"\n\n");
    }

    /// An event about the one part of the one item.
    fn about_part(&mut self, kind: &str, mut value: Value, out: &mut BytesMut) {
        value["item_id"] = self.same.item.clone().into();
        value["output_index"] = 0.into();
        value["content_index"] = 0.into();
        self.event(kind, value, out);
    }
}

impl Write for ResponseStream {
    fn begin(&mut self, out: &mut BytesMut) {
        let response = self.same.begun();
        self.event("response.created", json!({"response": response}), out);
        self.event("response.in_progress", json!({"response": response}), out);
        let item = self.same.item("in_progress", json!([]));
        self.event("response.output_item.added", json!({"output_index": 0, "item": item}), out);
        self.about_part("response.content_part.added", json!({"part": part("")}), out);
    }

    fn text(&mut self, text: &str, out: &mut BytesMut) {
        self.about_part("response.output_text.delta", json!({"delta": text, "logprobs": []}), out);
    }

    fn finish(&mut self, reason: Reason, usage: Usage, text: &str, out: &mut BytesMut) {
        let (response, is_whole) = self.same.ended(reason, usage, text);
        self.about_part("response.output_text.done", json!({"text": text, "logprobs": []}), out);
        self.about_part("response.content_part.done", json!({"part": part(text)}), out);
        let item = json!({"output_index": 0, "item": response["output"][0]});
        self.event("response.output_item.done", item, out);
        let kind = if is_whole { "response.completed" } else { "response.incomplete" };
        self.event(kind, json!({"response": response}), out);
    }

    fn error(&mut self, error: &ErrorBody, out: &mut BytesMut) {
        // In the event's own form, and in the one that both SDKs look for in any event.
        let value =
            json!({"code": error.code, "message": error.message, "param": error.param, "error": error});
        self.event("error", value, out);
    }

    fn id(&self) -> &str {
        &self.same.id
    }
}

/// A whole response in one piece of JSON.
pub struct ResponseWhole {
    same: Same,
}

impl ResponseWhole {
    /// The answer to `asked`.
    pub fn new(asked: &Asked) -> ResponseWhole {
        ResponseWhole { same: Same::new(asked) }
    }
}

impl Write for ResponseWhole {
    fn begin(&mut self, _: &mut BytesMut) {}

    fn text(&mut self, _: &str, _: &mut BytesMut) {}

    fn finish(&mut self, reason: Reason, usage: Usage, text: &str, out: &mut BytesMut) {
        write_json(&self.same.ended(reason, usage, text).0, out);
    }

    fn error(&mut self, error: &ErrorBody, out: &mut BytesMut) {
        write_json(&super::chat::Failed { error }, out);
    }

    fn id(&self) -> &str {
        &self.same.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::tests::golden;

    fn same(same: &mut Same) {
        (same.id, same.item, same.created) = ("resp_1".into(), "msg_1".into(), 1_700_000_000);
    }

    #[test]
    fn a_stream_and_one_that_fails() {
        let asked =
            Asked { model: "gpt-4o".into(), instructions: Some("be brief".into()), ..Asked::default() };
        for (name, fails) in [("responses_stream", false), ("responses_stream_error", true)] {
            let mut it = ResponseStream::new(&asked);
            same(&mut it.same);
            golden(name, &mut it, fails);
        }
    }

    #[test]
    fn a_whole_answer_and_one_that_was_cut_short() {
        let asked = Asked { model: "auto".into(), previous: Some("resp_0".into()), ..Asked::default() };
        let mut it = ResponseWhole::new(&asked);
        same(&mut it.same);
        golden("responses_whole", &mut it, false);
        let (cut, is_whole) = it.same.ended(Reason::Length, Usage::default(), "x");
        assert!(!is_whole && cut["incomplete_details"]["reason"] == "max_output_tokens");
        assert_eq!(
            (&cut["status"], &cut["output"][0]["status"]),
            (&json!("incomplete"), &json!("incomplete"))
        );
    }
}
