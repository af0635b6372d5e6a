//! Requests to `/v1/chat/completions`: read, checked, and what this proxy cannot do refused by name.
//!
//! Members that nobody here knows are ignored, and so are those that only tune the model (`temperature` and
//! its like): the site does not let them be set.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, SeqAccess, Visitor};
use utoipa::openapi::schema::OneOfBuilder;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{Asked, Invalid, Role, Turn};

/// Stop sequences that a request may have, and how long each may be, in bytes.
const MOST_STOPS: usize = 4;
const LONGEST_STOP: usize = 1024;

/// A chat. Members that are not listed are ignored.
#[derive(Deserialize, ToSchema)]
#[schema(as = ChatRequest)]
pub(crate) struct Request {
    /// One of `/v1/models`; `auto` where it is missing.
    model: Option<String>,
    /// The chat so far; at least one message with text in it.
    #[schema(required, nullable = false, min_items = 1)]
    messages: Option<Vec<Message>>,
    /// Whether the answer comes as an event stream.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// The answer ends after so many tokens; the newer name below goes before it.
    #[schema(minimum = 1)]
    max_tokens: Option<u64>,
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u64>,
    /// The answer ends before any of these: a text, or up to four.
    stop: Option<OneOrMany>,
    /// Nothing but 1.
    #[schema(minimum = 1, maximum = 1)]
    n: Option<u64>,
    /// Not supported: empty or missing.
    #[schema(value_type = Option<Vec<Object>>, max_items = 0)]
    tools: Option<Vec<IgnoredAny>>,
    /// Not supported: empty or missing.
    #[schema(value_type = Option<Vec<Object>>, max_items = 0)]
    functions: Option<Vec<IgnoredAny>>,
    /// `{"type": "text"}` only.
    response_format: Option<Kind>,
    /// Not supported: false or missing.
    logprobs: Option<bool>,
    /// Not supported: 0 or missing.
    #[schema(maximum = 0)]
    top_logprobs: Option<u64>,
    /// `["text"]` only.
    modalities: Option<Vec<String>>,
    /// Not supported.
    #[schema(ignore)]
    audio: Option<IgnoredAny>,
}

/// What a stream is to say besides.
#[derive(Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk tells the count of tokens.
    include_usage: Option<bool>,
}

/// The form of an answer.
#[derive(Deserialize, ToSchema)]
#[schema(as = Format)]
pub(crate) struct Kind {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// One message of a chat.
#[derive(Deserialize, ToSchema)]
#[schema(as = ChatMessage)]
pub(crate) struct Message {
    /// `system`, `developer`, `user` or `assistant`.
    #[schema(required, nullable = false)]
    role: Option<String>,
    /// Text, or a list of parts of type `text`.
    content: Option<Content>,
    refusal: Option<String>,
    /// Not supported: empty or missing.
    #[schema(value_type = Option<Vec<Object>>, max_items = 0)]
    tool_calls: Option<Vec<IgnoredAny>>,
    /// Not supported.
    #[schema(ignore)]
    function_call: Option<IgnoredAny>,
}

/// A message's content: text, or a list of parts.
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Part {
    /// `text`, `input_text`, `output_text` or `refusal`.
    #[serde(rename = "type")]
    #[schema(required, nullable = false)]
    pub kind: Option<String>,
    pub text: Option<String>,
    pub refusal: Option<String>,
}

/// A text, or some.
pub(crate) struct OneOrMany(Vec<String>);

/// Reads the body of a request to `/v1/chat/completions`.
///
/// # Errors
/// What is wrong with it, or what this proxy cannot do of it.
pub fn read_chat(body: &[u8]) -> Result<Asked, Invalid> {
    let request: Request = read(body)?;
    refuse_features(&request)?;
    let messages = request.messages.ok_or_else(|| Invalid::missing("messages"))?;
    if messages.is_empty() {
        let text = "Invalid 'messages': empty array. Expected an array with minimum length 1.";
        return Err(Invalid::new("empty_array", "messages", text));
    }
    let turns = messages.into_iter().enumerate().map(|(at, message)| turn(at, message));
    let most = match request.max_completion_tokens {
        None => most("max_tokens", request.max_tokens)?,
        given => most("max_completion_tokens", given)?,
    };
    let asked = Asked {
        model: model(request.model)?,
        turns: turns.collect::<Result<_, _>>()?,
        stream: request.stream.unwrap_or(false),
        include_usage: request.stream_options.and_then(|it| it.include_usage).unwrap_or(false),
        stop: stops(request.stop)?,
        most_tokens: most,
        ..Asked::default()
    };
    with_words(asked, "messages")
}

fn refuse_features(request: &Request) -> Result<(), Invalid> {
    let has = |list: &Option<Vec<IgnoredAny>>| list.as_ref().is_some_and(|it| !it.is_empty());
    if has(&request.tools) {
        return Err(Invalid::unsupported("tools", "Tools are"));
    }
    if has(&request.functions) {
        return Err(Invalid::unsupported("functions", "Functions are"));
    }
    if request.n.is_some_and(|n| n != 1) {
        let text = "Invalid value for 'n': this proxy gives exactly one answer to a request.";
        return Err(Invalid::new("unsupported_value", "n", text));
    }
    text_only("response_format", request.response_format.as_ref())?;
    if request.logprobs == Some(true) || request.top_logprobs.is_some_and(|it| it > 0) {
        return Err(Invalid::unsupported("logprobs", "Log probabilities are"));
    }
    let is_spoken = request.modalities.as_ref().is_some_and(|it| it.iter().any(|it| it != "text"));
    if is_spoken || request.audio.is_some() {
        return Err(Invalid::unsupported("modalities", "Answers other than text are"));
    }
    Ok(())
}

/// Refuses answers in any form but text.
pub(super) fn text_only(param: &str, format: Option<&Kind>) -> Result<(), Invalid> {
    match format.and_then(|it| it.kind.as_deref()) {
        None | Some("text") => Ok(()),
        Some(_) => Err(Invalid::unsupported(param, "Answers in a given format (JSON, a schema) are")),
    }
}

fn turn(at: usize, message: Message) -> Result<Turn, Invalid> {
    let param = |name: &str| format!("messages[{at}].{name}");
    let name = message.role.ok_or_else(|| Invalid::missing(&param("role")))?;
    let role = role(&param("role"), &name)?;
    if message.function_call.is_some() || message.tool_calls.is_some_and(|it| !it.is_empty()) {
        return Err(Invalid::unsupported(param("tool_calls"), "Calls of tools are"));
    }
    let text = match message.content {
        Some(content) => words(&param("content"), content)?,
        None if role == Role::Assistant => message.refusal.unwrap_or_default(),
        None => return Err(Invalid::missing(&param("content"))),
    };
    Ok(Turn { role, text })
}

/// A role by its name.
pub(super) fn role(param: &str, name: &str) -> Result<Role, Invalid> {
    match name {
        "system" | "developer" => Ok(Role::System),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        "tool" | "function" => Err(Invalid::unsupported(param, "Results of tools are")),
        _ => {
            let text = format!(
                "Invalid value for '{param}': expected one of 'system', 'developer', 'user' and 'assistant'."
            );
            Err(Invalid::new("invalid_value", param, text))
        }
    }
}

/// The text of a message; other parts than text are refused.
pub(super) fn words(param: &str, content: Content) -> Result<String, Invalid> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (at, part) in parts.into_iter().enumerate() {
        let param = format!("{param}[{at}]");
        let kind = part.kind.ok_or_else(|| Invalid::missing(&format!("{param}.type")))?;
        match &*kind {
            "text" | "input_text" | "output_text" => {
                texts.push(part.text.ok_or_else(|| Invalid::missing(&format!("{param}.text")))?);
            }
            "refusal" => texts.push(part.refusal.unwrap_or_default()),
            "image_url" | "input_image" => return Err(Invalid::unsupported(param, "Images are")),
            "input_audio" => return Err(Invalid::unsupported(param, "Audio is")),
            _ => return Err(Invalid::unsupported(param, "Parts of this type are")),
        }
    }
    Ok(texts.join("\n"))
}

/// A model's name; `auto` for none.
pub(super) fn model(name: Option<String>) -> Result<String, Invalid> {
    let name = name.map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
    match name {
        Some(name) if name.len() > 200 => Err(Invalid::model(&name)),
        name => Ok(name.unwrap_or_else(|| "auto".to_owned())),
    }
}

/// The most tokens, if there is a limit.
pub(super) fn most(param: &str, given: Option<u64>) -> Result<Option<usize>, Invalid> {
    if given == Some(0) {
        let text = format!("Invalid value for '{param}': expected 1 or more.");
        return Err(Invalid::new("integer_below_min_value", param, text));
    }
    Ok(given.map(|it| usize::try_from(it).unwrap_or(usize::MAX)))
}

fn stops(given: Option<OneOrMany>) -> Result<Vec<String>, Invalid> {
    let mut stops = given.map(|it| it.0).unwrap_or_default();
    if stops.len() > MOST_STOPS || stops.iter().any(|it| it.len() > LONGEST_STOP) {
        let text =
            format!("Invalid 'stop': expected at most {MOST_STOPS} sequences of {LONGEST_STOP} bytes each.");
        return Err(Invalid::new("invalid_value", "stop", text));
    }
    // An empty one would end every answer before it begins, and some clients send it for none.
    stops.retain(|it| !it.is_empty());
    Ok(stops)
}

/// A request that says something.
pub(super) fn with_words(asked: Asked, param: &str) -> Result<Asked, Invalid> {
    if asked.turns.iter().all(|it| it.text.trim().is_empty()) {
        return Err(Invalid::new(
            "invalid_value",
            param,
            format!("Invalid '{param}': there is no text in it."),
        ));
    }
    Ok(asked)
}

/// Reads JSON; a mistake is told with its place.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Invalid> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| Invalid::unreadable(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| Invalid::unreadable(".", &error))?;
    Ok(value)
}

/// Text, or a list of what `T` is: written by hand, because serde forgets where the mistake is otherwise.
struct TextOr<T>(std::marker::PhantomData<T>);

enum Either<T> {
    Text(String),
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOr<T> {
    type Value = Either<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array")
    }

    fn visit_str<E>(self, text: &str) -> Result<Either<T>, E> {
        Ok(Either::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Either<T>, E> {
        Ok(Either::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Either<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = list.next_element()? {
            all.push(one);
        }
        Ok(Either::List(all))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        Ok(match deserializer.deserialize_any(TextOr::<Part>(Default::default()))? {
            Either::Text(text) => Content::Text(text),
            Either::List(parts) => Content::Parts(parts),
        })
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMany, D::Error> {
        Ok(match deserializer.deserialize_any(TextOr::<String>(Default::default()))? {
            Either::Text(text) => OneOrMany(vec![text]),
            Either::List(texts) => OneOrMany(texts),
        })
    }
}

/// What [`TextOr`] reads, as a schema.
macro_rules! text_or_list {
    ($type:ty, $item:ty, $name:literal) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                OneOfBuilder::new().item(String::schema()).item(Vec::<$item>::schema()).into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                $name.into()
            }

            fn schemas(all: &mut Vec<(String, RefOr<Schema>)>) {
                <$item>::schemas(all);
            }
        }
    };
}
pub(super) use text_or_list;

text_or_list!(Content, Part, "TextOrParts");
text_or_list!(OneOrMany, String, "TextOrTexts");

/// Text, or a list of items.
pub(crate) enum Input<T> {
    /// One user's text.
    Text(String),
    /// Messages.
    Items(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Input<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Input<T>, D::Error> {
        Ok(match deserializer.deserialize_any(TextOr::<T>(Default::default()))? {
            Either::Text(text) => Input::Text(text),
            Either::List(items) => Input::Items(items),
        })
    }
}

#[cfg(test)]
#[path = "types_tests.rs"]
mod tests;
