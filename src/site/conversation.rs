//! What an answer of the site says, whichever way it is streamed: as snapshots of the message ("classic"), or
//! as changes to a tree ("delta", see [`super::delta`]).
//!
//! ```text
//! event ──> Reader ──> text that is new        for whoever streams on
//!                 └──> answer, ids, finish     when all is said
//! ```
//!
//! Only what a person would read counts: messages of the assistant to all, as text, that are not hidden.
//! Several of them in one turn are one answer with blank lines between. Text that was handed out cannot be
//! taken back: where the site rewrites it, what differs is handed out again from there on, and only
//! [`Reader::answer`] has the last wording. Each event costs what its own bytes cost.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::delta::{Change, Deltas};
use super::sse::Event;
use crate::error::{Fault, FaultKind};

/// The largest event that is read, in bytes: a snapshot holds the whole answer.
pub const MOST_EVENT: usize = 4 << 20;
/// The most that all deltas of an answer may hold, in bytes.
const MOST_DELTAS: usize = 16 << 20;
/// The most text of an answer, in bytes.
const MOST_TEXT: usize = 16 << 20;
/// Messages to be read in one answer; there are one or two.
const MOST_MESSAGES: usize = 256;

/// Stands between two messages of one answer.
const BETWEEN: &str = "\n\n";

/// What an event was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A change to the tree of this number: see [`Reader::tree`].
    Delta(usize),
    /// A whole snapshot of a message.
    Snapshot,
    /// `[DONE]`.
    Done,
    /// Something about the delta encoding or the stream itself, of no use to readers of snapshots.
    Side,
    /// Anything else.
    Other,
}

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

/// A message that a person would read.
#[derive(Debug, Default)]
struct Shown {
    id: String,
    text: String,
    has_ended: bool,
    finish: Option<Finish>,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    deltas: Deltas,
    told: Told,
    is_done: bool,
    is_complete: bool,
    is_handed_over: bool,
}

/// What the site has said so far.
#[derive(Debug, Default)]
struct Told {
    messages: Vec<Shown>,
    fresh: String,
    /// Bytes of text handed out or about to be.
    size: usize,
    conversation: Option<String>,
    model: Option<String>,
    is_blocked: bool,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            deltas: Deltas::new(MOST_DELTAS),
            told: Told::default(),
            is_done: false,
            is_complete: false,
            is_handed_over: false,
        }
    }
}

impl Reader {
    /// Takes the next event.
    ///
    /// # Errors
    /// When the site says that something is wrong, or what it says cannot be followed.
    pub fn read(&mut self, event: Event<'_>) -> Result<Seen, Fault> {
        match (event.name, event.data) {
            (_, "[DONE]") => {
                self.is_done = true;
                Ok(Seen::Done)
            }
            ("ping" | "delta_encoding", _) => Ok(Seen::Side),
            ("delta", data) => {
                let (at, change) = self.deltas.apply(data)?;
                let view = view(self.deltas.get(at));
                self.told.heed(&view.said)?;
                view.message.map_or(Ok(()), |message| self.told.show(message, change))?;
                Ok(Seen::Delta(at))
            }
            (_, data) if data.starts_with('{') => self.read_object(data),
            _ => Ok(Seen::Other),
        }
    }

    fn read_object(&mut self, data: &str) -> Result<Seen, Fault> {
        let tree: Value;
        let view = match serde_json::from_str::<Said<'_>>(data) {
            Ok(said) => View::from(said),
            // One member of an unexpected type is no reason to lose the others.
            Err(_) => match serde_json::from_str(data) {
                Ok(read) => {
                    tree = read;
                    view(&tree)
                }
                Err(_) => return Ok(Seen::Other),
            },
        };
        self.told.heed(&view.said)?;
        match (view.said.kind.as_deref(), view.message) {
            (None, Some(message)) => {
                self.told.show(message, Change::Replaced)?;
                return Ok(Seen::Snapshot);
            }
            (None, None) => return Ok(Seen::Other),
            (Some("message_stream_complete"), _) => self.is_complete = true,
            (Some("stream_handoff"), _) => self.is_handed_over = true,
            _ => {}
        }
        Ok(Seen::Side)
    }

    /// The text that is new since the last call.
    pub fn take_text(&mut self) -> String {
        std::mem::take(&mut self.told.fresh)
    }

    /// The whole answer in its last wording.
    pub fn answer(&self) -> String {
        let texts = self.told.messages.iter().map(|it| &*it.text).filter(|it| !it.is_empty());
        texts.collect::<Vec<_>>().join(BETWEEN)
    }

    /// A tree that deltas have made.
    pub fn tree(&self, at: usize) -> &Value {
        self.deltas.get(at)
    }

    /// The conversation's id, once the site has said it.
    pub fn conversation(&self) -> Option<&str> {
        self.told.conversation.as_deref()
    }

    /// The id of the message that the next turn answers.
    pub fn message(&self) -> Option<&str> {
        let ended = self.told.messages.iter().rev().find(|it| it.has_ended);
        ended.or(self.told.messages.last()).map(|it| &*it.id).filter(|id| !id.is_empty())
    }

    /// The model that answers, by the site's own name.
    pub fn model(&self) -> Option<&str> {
        self.told.model.as_deref()
    }

    /// Whether a message to be read has begun.
    pub fn has_begun(&self) -> bool {
        !self.told.messages.is_empty()
    }

    /// Whether the last event was the stream's own end.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Why the model stopped.
    pub fn finish(&self) -> Finish {
        match self.told.messages.iter().rev().find_map(|it| it.finish) {
            _ if self.told.is_blocked => Finish::Blocked,
            finish => finish.unwrap_or(Finish::Stop),
        }
    }

    /// Whether the answer is whole. The end of the stream alone is no sign of it.
    pub fn is_finished(&self) -> bool {
        (self.is_done || self.is_complete) && self.told.messages.iter().any(|it| it.has_ended)
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// When the answer is not whole.
    pub fn end(&self) -> Result<(), Fault> {
        let text = match self {
            _ if self.is_finished() => return Ok(()),
            Reader { is_handed_over: true, .. } => {
                "The site goes on with its answer in another stream, which this proxy does not follow."
            }
            Reader { is_done: true, .. } if self.told.messages.is_empty() => {
                "The site gave no answer in words."
            }
            _ => "The site ended its answer before it was finished.",
        };
        Err(Fault::new(FaultKind::AnswerIncomplete, text).maybe_sent())
    }
}

impl Told {
    /// What events say beside the message.
    fn heed(&mut self, said: &Remarks<'_>) -> Result<(), Fault> {
        if let Some(error) = &said.error {
            let fault = Fault::new(FaultKind::SiteError, format!("The site broke its answer off: {error}"));
            return Err(fault.maybe_sent());
        }
        note(&mut self.conversation, said.conversation.as_deref());
        self.is_blocked |= said.is_blocked;
        Ok(())
    }

    /// Takes what a message says now.
    fn show(&mut self, message: Message<'_>, change: Change) -> Result<(), Fault> {
        if !message.is_visible {
            return Ok(());
        }
        note(&mut self.model, message.model.as_deref());
        // The last one, nearly always.
        let (at, is_new) = match self.messages.iter().rposition(|it| it.id == message.id) {
            Some(at) => (at, false),
            None if self.messages.len() >= MOST_MESSAGES => return Err(too_long()),
            None => {
                self.messages.push(Shown { id: message.id.clone().into_owned(), ..Shown::default() });
                (self.messages.len() - 1, true)
            }
        };
        if is_new || change > Change::Aside {
            let text = match &message.parts[..] {
                [one] => Cow::Borrowed(&**one),
                parts => Cow::Owned(parts.concat()),
            };
            self.tell(at, &text, change == Change::Grown && !is_new)?;
        }
        let shown = &mut self.messages[at];
        shown.finish = message.finish.or(shown.finish);
        shown.has_ended = match message.status.as_deref() {
            Some("finished_successfully") => message.end_turn || shown.finish == Some(Finish::MaxTokens),
            Some("finished_partial_completion") => true,
            _ => false,
        };
        Ok(())
    }

    /// Hands out what is new in a message's text; one that has only grown needs no comparison.
    fn tell(&mut self, at: usize, text: &str, has_grown: bool) -> Result<(), Fault> {
        let known = &self.messages[at].text;
        let same = if has_grown { known.len() } else { common(known, text) };
        let more = text.get(same..).ok_or_else(too_long)?;
        self.size += more.len();
        if self.size > MOST_TEXT {
            return Err(too_long());
        }
        let is_next = known.is_empty() && self.messages.iter().any(|it| !it.text.is_empty());
        if is_next && !more.is_empty() {
            self.fresh.push_str(BETWEEN);
        }
        self.fresh.push_str(more);
        let known = &mut self.messages[at].text;
        known.truncate(same);
        known.push_str(more);
        Ok(())
    }
}

/// Keeps `text` in `place`.
fn note(place: &mut Option<String>, text: Option<&str>) {
    if let Some(text) = text
        && place.as_deref() != Some(text)
    {
        *place = Some(text.to_owned());
    }
}

/// How many bytes two texts have in common at their beginning, in whole characters.
fn common(a: &str, b: &str) -> usize {
    if b.starts_with(a) {
        return a.len();
    }
    let mut same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    while !a.is_char_boundary(same) {
        same -= 1;
    }
    same
}

fn too_long() -> Fault {
    Fault::new(FaultKind::SiteError, "The site's answer is longer than any answer.").maybe_sent()
}

/// What one event or one tree says.
struct View<'a> {
    said: Remarks<'a>,
    message: Option<Message<'a>>,
}

struct Remarks<'a> {
    kind: Option<Cow<'a, str>>,
    conversation: Option<Cow<'a, str>>,
    error: Option<String>,
    is_blocked: bool,
}

struct Message<'a> {
    id: Cow<'a, str>,
    is_visible: bool,
    parts: Vec<Cow<'a, str>>,
    status: Option<Cow<'a, str>>,
    end_turn: bool,
    model: Option<Cow<'a, str>>,
    finish: Option<Finish>,
}

/// Reads a tree, whatever it is.
fn view(tree: &Value) -> View<'_> {
    let text = |value: Option<&'_ Value>| -> Option<String> { value?.as_str().map(str::to_owned) };
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
            finish: text(message.pointer("/metadata/finish_details/type")).and_then(|it| finish(&it)),
        }
    });
    View { said, message }
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

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
