//! What one event of an answer says, or the tree that deltas have made: read without a copy of its text, where it
//! is as it usually is.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Why the site's model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It had said all.
    Stop,
    /// It had said as much as it may.
    MaxTokens,
    /// It was stopped.
    Interrupted,
    /// Its words were not allowed.
    Blocked,
}

/// What one event or one tree says.
pub struct View<'a> {
    /// Beside the message.
    pub said: Remarks<'a>,
    /// The message that it shows, if it does.
    pub message: Option<Message<'a>>,
}

/// What it says beside the message.
pub struct Remarks<'a> {
    /// What kind of event it is, where it names itself.
    pub kind: Option<Cow<'a, str>>,
    /// The conversation's id.
    pub conversation: Option<Cow<'a, str>>,
    /// What is wrong, in words.
    pub error: Option<String>,
    /// Whether the site's moderation has blocked the answer.
    pub is_blocked: bool,
}

/// A message as it is now.
pub struct Message<'a> {
    /// Empty where it has none.
    pub id: Cow<'a, str>,
    /// Whether a person would read it as the assistant's.
    pub is_visible: bool,
    /// Its text, in parts.
    pub parts: Vec<Cow<'a, str>>,
    /// How far it is, in the site's words.
    pub status: Option<Cow<'a, str>>,
    /// Whether the turn ends with it.
    pub end_turn: bool,
    /// The model that speaks, by the site's own name.
    pub model: Option<Cow<'a, str>>,
    /// Why it ended.
    pub finish: Option<Finish>,
}

impl<'a> View<'a> {
    /// Reads an event as it usually is, without a copy of its text.
    ///
    /// # Errors
    /// When a member has an unexpected type.
    pub fn of_event(data: &'a str) -> serde_json::Result<View<'a>> {
        serde_json::from_str::<Said<'_>>(data).map(View::from)
    }

    /// Reads a tree, whatever it is.
    pub fn of_tree(tree: &'a Value) -> View<'a> {
        let said = Remarks {
            kind: tree.get("type").and_then(Value::as_str).map(Cow::Borrowed),
            conversation: tree.get("conversation_id").and_then(Value::as_str).map(Cow::Borrowed),
            error: tree.get("error").and_then(sentence),
            is_blocked: tree.pointer("/moderation_response/blocked") == Some(&Value::Bool(true)),
        };
        let message = tree.get("message").filter(|it| it.is_object()).map(|message| {
            let word = |path: &str| message.pointer(path).and_then(Value::as_str).map(Cow::Borrowed);
            let parts = message.pointer("/content/parts").and_then(Value::as_array);
            let parts = parts.into_iter().flatten().filter_map(Value::as_str).map(Cow::Borrowed);
            let hidden = message.pointer("/metadata/is_visually_hidden_from_conversation");
            Message {
                id: word("/id").unwrap_or_default(),
                is_visible: is_visible(
                    word("/author/role").as_deref(),
                    word("/recipient").as_deref(),
                    word("/content/content_type").as_deref(),
                    hidden == Some(&Value::Bool(true)),
                ),
                parts: parts.collect(),
                status: word("/status"),
                end_turn: message.get("end_turn") == Some(&Value::Bool(true)),
                model: word("/metadata/model_slug"),
                finish: word("/metadata/finish_details/type").and_then(|it| finish(&it)),
            }
        });
        View { said, message }
    }
}

/// Whether a person would read it as the assistant's.
fn is_visible(role: Option<&str>, recipient: Option<&str>, kind: Option<&str>, hidden: bool) -> bool {
    role == Some("assistant")
        && recipient.is_none_or(|it| it == "all")
        && kind.is_none_or(|it| it == "text" || it == "multimodal_text")
        && !hidden
}

fn finish(kind: &str) -> Option<Finish> {
    match kind {
        "stop" => Some(Finish::Stop),
        "max_tokens" | "length" => Some(Finish::MaxTokens),
        "interrupted" => Some(Finish::Interrupted),
        "content_filter" => Some(Finish::Blocked),
        _ => None,
    }
}

/// The words of an error, short enough to be shown; `None` for none.
fn sentence(error: &Value) -> Option<String> {
    let words = match error {
        Value::Null => return None,
        Value::String(words) => words.as_str(),
        other => {
            ["message", "detail"].iter().find_map(|it| other.get(it)?.as_str()).unwrap_or("no reason given")
        }
    };
    Some(words.chars().take(300).collect())
}

/// An event as it usually is, read without a copy of its text.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Word<'a>>,
    #[serde(borrow)]
    conversation_id: Option<Word<'a>>,
    error: Option<Value>,
    #[serde(borrow)]
    message: Option<RawMessage<'a>>,
    moderation_response: Option<Moderation>,
}

#[derive(Deserialize)]
struct Word<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Moderation {
    blocked: Option<bool>,
}

#[derive(Deserialize)]
struct RawMessage<'a> {
    #[serde(borrow)]
    id: Option<Word<'a>>,
    #[serde(borrow)]
    author: Option<Author<'a>>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    status: Option<Word<'a>>,
    end_turn: Option<bool>,
    #[serde(borrow)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow)]
    recipient: Option<Word<'a>>,
}

#[derive(Deserialize)]
struct Author<'a> {
    #[serde(borrow)]
    role: Option<Word<'a>>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    content_type: Option<Word<'a>>,
    #[serde(borrow, default)]
    parts: Parts<'a>,
}

#[derive(Default)]
struct Parts<'a>(Vec<Cow<'a, str>>);

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    model_slug: Option<Word<'a>>,
    #[serde(borrow)]
    finish_details: Option<Details<'a>>,
    is_visually_hidden_from_conversation: Option<bool>,
}

#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Word<'a>>,
}

impl<'a> From<Said<'a>> for View<'a> {
    fn from(said: Said<'a>) -> View<'a> {
        let message = said.message.map(|message| {
            let metadata = message.metadata;
            let hidden = metadata.as_ref().and_then(|it| it.is_visually_hidden_from_conversation);
            let content = message.content.as_ref();
            let word = |word: Option<&Word<'a>>| word.map(|it| it.0.clone());
            let role = word(message.author.as_ref().and_then(|it| it.role.as_ref()));
            let kind = word(content.and_then(|it| it.content_type.as_ref()));
            let recipient = message.recipient.as_ref().map(|it| &*it.0);
            let is_visible = is_visible(role.as_deref(), recipient, kind.as_deref(), hidden == Some(true));
            let (model, details) = metadata.map_or((None, None), |it| (it.model_slug, it.finish_details));
            Message {
                id: message.id.map_or(Cow::Borrowed(""), |it| it.0),
                is_visible,
                parts: message.content.map(|it| it.parts.0).unwrap_or_default(),
                status: message.status.map(|it| it.0),
                end_turn: message.end_turn == Some(true),
                model: model.map(|it| it.0),
                finish: details.and_then(|it| finish(&it.kind?.0)),
            }
        });
        let said = Remarks {
            kind: said.kind.map(|it| it.0),
            conversation: said.conversation_id.map(|it| it.0),
            error: said.error.as_ref().and_then(sentence),
            is_blocked: said.moderation_response.is_some_and(|it| it.blocked == Some(true)),
        };
        View { said, message }
    }
}

/// The parts that are text; what else there is, such as pictures, is passed over.
impl<'de: 'a, 'a> Deserialize<'de> for Parts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Parts<'a>, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Parts<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of parts")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Parts<'de>, A::Error> {
                let mut texts = Vec::new();
                while let Some(Part(text)) = list.next_element()? {
                    texts.extend(text);
                }
                Ok(Parts(texts))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

struct Part<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Part<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Part<'a>, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Part<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or an object")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Part<'de>, E> {
                Ok(Part(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Part<'de>, E> {
                Ok(Part(Some(Cow::Owned(text.to_owned()))))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Part(None))
            }
        }
        deserializer.deserialize_any(One)
    }
}
