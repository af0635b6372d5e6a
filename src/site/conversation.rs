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

use serde_json::Value;

use super::delta::{Change, Deltas};
pub use super::said::Finish;
use super::said::{Message, Remarks, View};
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
                let view = View::of_tree(self.deltas.get(at));
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
        let view = match View::of_event(data) {
            Ok(view) => view,
            // One member of an unexpected type is no reason to lose the others.
            Err(_) => match serde_json::from_str(data) {
                Ok(read) => {
                    tree = read;
                    View::of_tree(&tree)
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

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
