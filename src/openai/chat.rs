//! Answers of `/v1/chat/completions`: a stream of chunks, or one completion.

use std::io;

use bytes::{BufMut, BytesMut};
use serde::{Serialize, Serializer};

use super::{ErrorBody, Reason, Usage, Write, new_id, now};

/// What all parts of one answer have in common.
struct Same {
    id: String,
    created: u64,
    model: String,
}

impl Same {
    fn new(model: String) -> Same {
        Same { id: new_id("chatcmpl-"), created: now(), model }
    }
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'a str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<MaybeTokens>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    logprobs: (),
    finish_reason: Option<Reason>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
    refusal: (),
    annotations: [(); 0],
}

/// Usage, or `null` where it is still to come.
type MaybeTokens = Option<Tokens>;

#[derive(Clone, Copy, Serialize)]
struct Tokens {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Tokens {
        let Usage { input, output } = usage;
        Tokens { prompt_tokens: input, completion_tokens: output, total_tokens: input + output }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Reason::Stop => "stop",
            Reason::Length => "length",
            Reason::Filter => "content_filter",
        })
    }
}

/// Writes `data: <json>` as one event.
pub(super) fn event(value: &impl Serialize, out: &mut BytesMut) {
    out.put_slice(b"data: ");
    json(value, out);
    out.put_slice(b"\n\n");
}

/// Writes JSON. What is written here always has a form in it, and a buffer that grows takes all.
pub(super) fn json(value: &impl Serialize, out: &mut BytesMut) {
    let written: Result<(), io::Error> = serde_json::to_writer(out.writer(), value).map_err(Into::into);
    debug_assert!(written.is_ok());
}

/// `{"error": …}`.
#[derive(Serialize)]
pub(super) struct Failed<'a> {
    pub error: &'a ErrorBody,
}

/// A streamed answer: chunks and `[DONE]`. All have the same id and time; the first says the role, the last
/// why it ended, and with the usage asked for every one has a place for it.
pub struct ChatStream {
    same: Same,
    include_usage: bool,
}

impl ChatStream {
    /// An answer by `model`.
    pub fn new(model: String, include_usage: bool) -> ChatStream {
        ChatStream { same: Same::new(model), include_usage }
    }

    fn chunk(&self, choices: &[Choice<'_>], usage: MaybeTokens, out: &mut BytesMut) {
        let Same { id, created, model } = &self.same;
        let usage = self.include_usage.then_some(usage);
        let object = "chat.completion.chunk";
        event(&Completion { id, object, created: *created, model, choices, usage }, out);
    }

    fn delta(&self, delta: Delta<'_>, finish_reason: Option<Reason>, out: &mut BytesMut) {
        let choice = Choice { index: 0, delta: Some(delta), message: None, logprobs: (), finish_reason };
        self.chunk(&[choice], None, out);
    }
}

impl Write for ChatStream {
    fn begin(&mut self, out: &mut BytesMut) {
        self.delta(Delta { role: Some("assistant"), content: Some("") }, None, out);
    }

    fn text(&mut self, text: &str, out: &mut BytesMut) {
        self.delta(Delta { role: None, content: Some(text) }, None, out);
    }

    fn finish(&mut self, reason: Reason, usage: Usage, _: &str, out: &mut BytesMut) {
        self.delta(Delta::default(), Some(reason), out);
        if self.include_usage {
            self.chunk(&[], Some(usage.into()), out);
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    fn error(&mut self, error: &ErrorBody, out: &mut BytesMut) {
        event(&Failed { error }, out);
    }

    fn id(&self) -> &str {
        &self.same.id
    }
}

/// A whole answer in one piece of JSON.
pub struct ChatWhole {
    same: Same,
}

impl ChatWhole {
    /// An answer by `model`.
    pub fn new(model: String) -> ChatWhole {
        ChatWhole { same: Same::new(model) }
    }
}

impl Write for ChatWhole {
    fn begin(&mut self, _: &mut BytesMut) {}

    fn text(&mut self, _: &str, _: &mut BytesMut) {}

    fn finish(&mut self, reason: Reason, usage: Usage, text: &str, out: &mut BytesMut) {
        let Same { id, created, model } = &self.same;
        let message = Message { role: "assistant", content: text, refusal: (), annotations: [] };
        let finish_reason = Some(reason);
        let choice = Choice { index: 0, delta: None, message: Some(message), logprobs: (), finish_reason };
        let usage = Some(Some(usage.into()));
        let object = "chat.completion";
        json(&Completion { id, object, created: *created, model, choices: &[choice], usage }, out);
    }

    fn error(&mut self, error: &ErrorBody, out: &mut BytesMut) {
        json(&Failed { error }, out);
    }

    fn id(&self) -> &str {
        &self.same.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::tests::golden;

    #[test]
    fn a_stream_with_usage_without_and_one_that_fails() {
        for (name, include_usage, fails) in [
            ("chat_stream", false, false),
            ("chat_stream_usage", true, false),
            ("chat_stream_error", false, true),
        ] {
            let mut it = ChatStream::new("gpt-4o".into(), include_usage);
            (it.same.id, it.same.created) = ("chatcmpl-1".into(), 1_700_000_000);
            golden(name, &mut it, fails);
        }
    }

    #[test]
    fn a_whole_answer() {
        let mut it = ChatWhole::new("gpt-4o".into());
        (it.same.id, it.same.created) = ("chatcmpl-1".into(), 1_700_000_000);
        golden("chat_whole", &mut it, false);
    }
}
