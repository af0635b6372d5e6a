//! One answer on its way from the site's format into one of the official API's.
//!
//! ```text
//! site's stream ──> EventReader ──> Reader ──> Limits ──> Write ──> client
//!                                     └─ finished? ─────────> Keep: the place, for the next turn
//! ```
//!
//! A limit that is reached ends the answer here, and the fetch is aborted. An answer that is not whole ends
//! with an error, and without `[DONE]`.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};

use super::super::shape;
use crate::error::Fault;
use crate::openai::limits::{Cut, Limits};
use crate::openai::{Asked, Reason, Usage, Write, tokens};
use crate::site::conversation::{Finish, MOST_EVENT, Reader};
use crate::site::request::Place;
use crate::site::sse::EventReader;
use crate::translate::{Ending, Flow, Translate};

/// What is done with a whole answer: where it stands, its id and its text.
pub(super) type Keep = Box<dyn FnOnce(Place, &str, &str) + Send>;

/// How an answer is to be told.
pub(super) struct Wanted {
    /// In which form.
    pub write: Box<dyn Write>,
    /// How much of it.
    pub limits: Limits,
    /// Whether its text is told at the end only, and so in its last wording.
    pub is_whole: bool,
    /// What was sent, to be counted.
    pub input: Input,
    /// Whether the end says how many tokens there were.
    pub with_usage: bool,
}

/// A request whose tokens are counted once, in the background or when the count is wanted.
#[derive(Clone)]
pub(super) struct Input {
    asked: Arc<Asked>,
    count: Arc<OnceLock<usize>>,
}

impl Input {
    /// Nothing is counted yet.
    pub fn of(asked: &Arc<Asked>) -> Input {
        Input { asked: asked.clone(), count: Arc::default() }
    }

    /// How many tokens were sent. Takes a while, or waits for whoever is counting.
    pub fn tokens(&self) -> usize {
        *self.count.get_or_init(|| tokens::count_turns(&self.asked.turns))
    }
}

/// Translates one answer.
pub(super) struct Completion {
    events: EventReader,
    reader: Reader,
    wanted: Wanted,
    keep: Option<Keep>,
    has_begun: bool,
    is_over: bool,
}

impl Completion {
    /// Tells an answer as it is `wanted`, and has `keep` keep it if it is whole.
    pub fn new(wanted: Wanted, keep: Keep) -> Completion {
        let (events, reader) = (EventReader::new(MOST_EVENT), Reader::default());
        Completion { events, reader, wanted, keep: Some(keep), has_begun: false, is_over: false }
    }

    fn begin(&mut self, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.wanted.write.begin(out);
        }
    }

    /// Tells the text that is new; all that one piece brings in one.
    fn tell(&mut self, out: &mut BytesMut) -> Option<Cut> {
        if self.reader.has_begun() {
            self.begin(out);
        }
        let text = self.reader.take_text();
        let Wanted { write, limits, .. } = &mut self.wanted;
        if text.is_empty() { None } else { limits.pass(&text, &mut |text| write.text(text, out)) }
    }

    /// The site has said all of it.
    fn finish(&mut self, out: &mut BytesMut) {
        self.begin(out);
        let Wanted { write, limits, .. } = &mut self.wanted;
        if let Some(cut) = limits.end(&mut |text| write.text(text, out)) {
            return self.finish_early(cut, out);
        }
        let mut text = limits.said().to_owned();
        let last = self.reader.answer();
        if self.wanted.is_whole && last != text {
            // What was told is not what it says now.
            let mut limits = self.wanted.limits.anew();
            let _ = limits.pass(&last, &mut |_| {}).or_else(|| limits.end(&mut |_| {}));
            text = limits.said().to_owned();
        }
        let reason = match self.reader.finish() {
            Finish::Stop | Finish::Interrupted => Reason::Stop,
            Finish::MaxTokens => Reason::Length,
            Finish::Blocked => Reason::Filter,
        };
        self.write_end(reason, &text, out);
        let place = self.reader.conversation().zip(self.reader.message());
        if let (Some((conversation, parent)), Some(keep), true) =
            (place, self.keep.take(), reason != Reason::Filter)
        {
            let place = Place { conversation: conversation.to_owned(), parent: parent.to_owned() };
            keep(place, self.wanted.write.id(), &text);
        }
    }

    /// A limit is reached. The site knows more of this answer than the client: it is not gone on with.
    fn finish_early(&mut self, cut: Cut, out: &mut BytesMut) {
        let reason = match cut {
            Cut::Stop => Reason::Stop,
            Cut::Length => Reason::Length,
        };
        let text = self.wanted.limits.said().to_owned();
        self.write_end(reason, &text, out);
    }

    fn write_end(&mut self, reason: Reason, text: &str, out: &mut BytesMut) {
        self.is_over = true;
        let usage = match self.wanted.with_usage {
            true => Usage { input: self.wanted.input.tokens(), output: tokens::count(text) },
            false => Usage::default(),
        };
        self.wanted.write.finish(reason, usage, text, out);
    }
}

impl Translate for Completion {
    fn pass(&mut self, piece: &Bytes, out: &mut BytesMut) -> Result<Flow, Fault> {
        let mut rest = &piece[..];
        let read = loop {
            match self.events.next(&mut rest) {
                Ok(Some(event)) => match self.reader.read(event) {
                    Ok(_) if self.reader.is_done() => break Ok(()),
                    Ok(_) => {}
                    Err(fault) => break Err(fault),
                },
                Ok(None) => break Ok(()),
                Err(fault) => break Err(fault),
            }
        };
        if let Some(cut) = self.tell(out) {
            self.finish_early(cut, out);
            return Ok(Flow::Done);
        }
        read?;
        if self.reader.is_done() {
            self.reader.end()?;
            self.finish(out);
            return Ok(Flow::Done);
        }
        Ok(Flow::On)
    }

    fn end(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        if !self.is_over {
            self.reader.end()?;
            self.finish(out);
        }
        Ok(())
    }

    fn fail(&mut self, fault: &Fault, out: &mut BytesMut) -> Ending {
        if !self.is_over {
            self.wanted.write.error(&shape::error(fault), out);
        }
        Ending::Clean
    }
}

#[cfg(test)]
#[path = "completion_tests.rs"]
mod tests;
