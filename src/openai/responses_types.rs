//! Requests to `/v1/responses`: the same as `types`, for the newer of the API's two forms.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::openapi::schema::OneOfBuilder;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::types::{
    Content, Input, Kind, model, most, read, role, text_only, text_or_list, with_words, words,
};
use super::{Asked, Invalid, Role, Turn};

/// A turn of a chat. Members that are not listed are ignored.
#[derive(Deserialize, ToSchema)]
#[schema(as = ResponsesRequest)]
pub(crate) struct Request {
    /// One of `/v1/models`; `auto` where it is missing.
    model: Option<String>,
    /// A user's text, or a list of messages.
    #[schema(required, nullable = false)]
    input: Option<Items>,
    /// What a system message would say.
    instructions: Option<String>,
    /// The answer that this goes on from.
    previous_response_id: Option<String>,
    /// Not supported: `previous_response_id` does the same.
    #[schema(ignore)]
    conversation: Option<IgnoredAny>,
    /// Not supported: false or missing.
    background: Option<bool>,
    /// Whether the answer comes as an event stream.
    stream: Option<bool>,
    /// The answer ends after so many tokens.
    #[schema(minimum = 1)]
    max_output_tokens: Option<u64>,
    /// Not supported: empty or missing.
    #[schema(value_type = Option<Vec<Object>>, max_items = 0)]
    tools: Option<Vec<IgnoredAny>>,
    text: Option<Text>,
    /// Not supported: 0 or missing.
    #[schema(maximum = 0)]
    top_logprobs: Option<u64>,
}

/// How the text is to be.
#[derive(Deserialize, ToSchema)]
#[schema(as = ResponsesText)]
pub(crate) struct Text {
    /// `{"type": "text"}` only.
    format: Option<Kind>,
}

/// A message.
#[derive(Deserialize, ToSchema)]
#[schema(as = ResponsesMessage)]
pub(crate) struct Item {
    /// `message`, or missing.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// `system`, `developer`, `user` or `assistant`.
    #[schema(required, nullable = false)]
    role: Option<String>,
    /// Text, or a list of parts.
    #[schema(required, nullable = false)]
    content: Option<Content>,
}

/// Text, or messages.
type Items = Input<Item>;

text_or_list!(Items, Item, "TextOrMessages");

/// Reads the body of a request to `/v1/responses`.
///
/// # Errors
/// What is wrong with it, or what this proxy cannot do of it.
pub fn read_responses(body: &[u8]) -> Result<Asked, Invalid> {
    let request: Request = read(body)?;
    if request.tools.as_ref().is_some_and(|it| !it.is_empty()) {
        return Err(Invalid::unsupported("tools", "Tools are"));
    }
    text_only("text.format", request.text.as_ref().and_then(|it| it.format.as_ref()))?;
    if request.background == Some(true) {
        return Err(Invalid::unsupported("background", "Answers in the background are"));
    }
    if request.conversation.is_some() {
        return Err(Invalid::unsupported(
            "conversation",
            "Stored conversations (use previous_response_id) are",
        ));
    }
    if request.top_logprobs.is_some_and(|it| it > 0) {
        return Err(Invalid::unsupported("top_logprobs", "Log probabilities are"));
    }
    let instructions = request.instructions.filter(|it| !it.trim().is_empty());
    let mut turns = Vec::new();
    turns.extend(instructions.clone().map(|text| Turn { role: Role::System, text }));
    match request.input.ok_or_else(|| Invalid::missing("input"))? {
        Input::Text(text) => turns.push(Turn { role: Role::User, text }),
        Input::Items(items) if items.is_empty() => {
            let text = "Invalid 'input': empty array. Expected an array with minimum length 1.";
            return Err(Invalid::new("empty_array", "input", text));
        }
        Input::Items(items) => {
            for (at, item) in items.into_iter().enumerate() {
                turns.extend(turn(at, item)?);
            }
        }
    }
    let asked = Asked {
        model: model(request.model)?,
        turns,
        stream: request.stream.unwrap_or(false),
        include_usage: true,
        stop: Vec::new(),
        most_tokens: most("max_output_tokens", request.max_output_tokens)?,
        previous: request.previous_response_id.filter(|it| !it.is_empty()),
        instructions,
    };
    with_words(asked, "input")
}

fn turn(at: usize, item: Item) -> Result<Option<Turn>, Invalid> {
    let param = |name: &str| format!("input[{at}].{name}");
    match item.kind.as_deref() {
        None | Some("message") => {}
        // What the model thought comes back with a whole output, and the site remembers its own.
        Some("reasoning") => return Ok(None),
        Some(_) => return Err(Invalid::unsupported(param("type"), "Items other than messages are")),
    }
    let name = item.role.ok_or_else(|| Invalid::missing(&param("role")))?;
    let role = role(&param("role"), &name)?;
    let content = item.content.ok_or_else(|| Invalid::missing(&param("content")))?;
    Ok(Some(Turn { role, text: words(&param("content"), content)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Asked, (Option<String>, &'static str)> {
        read_responses(body.as_bytes()).map_err(|it| (it.param().map(str::to_owned), it.code()))
    }

    #[test]
    fn text_and_lists_of_messages_are_read() {
        let asked = read(
            r#"{"model":"gpt-4o","input":"hi","instructions":"be brief","previous_response_id":"resp_1",
            "stream":true,"max_output_tokens":5,"tools":[],"text":{"format":{"type":"text"}},"metadata":{}}"#,
        );
        let asked = asked.unwrap();
        assert_eq!(asked.turns.len(), 2);
        assert_eq!((asked.turns[0].role, &*asked.turns[1].text), (Role::System, "hi"));
        assert_eq!(
            (asked.previous.as_deref(), asked.most_tokens, asked.stream),
            (Some("resp_1"), Some(5), true)
        );
        let asked = read(
            r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},{"type":"reasoning","summary":[]},
            {"type":"message","role":"assistant","content":[{"type":"output_text","text":"b","annotations":[]}]},
            {"role":"user","content":"c"}]}"#,
        );
        let texts: Vec<_> = asked.unwrap().turns.into_iter().map(|it| (it.role, it.text)).collect();
        let expected = [(Role::User, "a"), (Role::Assistant, "b"), (Role::User, "c")];
        assert_eq!(texts, expected.map(|(role, text)| (role, text.to_owned())));
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        for (body, param, code) in [
            (r#"{}"#, Some("input"), "missing_required_parameter"),
            (r#"{"input":[]}"#, Some("input"), "empty_array"),
            (r#"{"input":5}"#, Some("input"), "invalid_type"),
            (r#"{"input":[{"content":"x"}]}"#, Some("input[0].role"), "missing_required_parameter"),
            (r#"{"input":[{"role":"user"}]}"#, Some("input[0].content"), "missing_required_parameter"),
            (
                r#"{"input":[{"type":"function_call_output"}]}"#,
                Some("input[0].type"),
                "unsupported_parameter",
            ),
            (
                r#"{"input":[{"role":"user","content":[{"type":"input_image"}]}]}"#,
                Some("input[0].content[0]"),
                "unsupported_parameter",
            ),
            (r#"{"input":"x","tools":[{"type":"web_search"}]}"#, Some("tools"), "unsupported_parameter"),
            (
                r#"{"input":"x","text":{"format":{"type":"json_schema"}}}"#,
                Some("text.format"),
                "unsupported_parameter",
            ),
            (r#"{"input":"x","background":true}"#, Some("background"), "unsupported_parameter"),
            (r#"{"input":"x","conversation":"conv_1"}"#, Some("conversation"), "unsupported_parameter"),
            (r#"{"input":"x","max_output_tokens":0}"#, Some("max_output_tokens"), "integer_below_min_value"),
        ] {
            assert_eq!(read(body), Err((param.map(str::to_owned), code)), "{body}");
        }
    }
}
