//! The stream for the bot plugin, which knows only one way to hear of anything: a message, and `[DONE]`.
//!
//! It reads nothing of an HTTP error, waits for ever on a connection that is cut in the middle of an answer,
//! and asks again, up to three times, when an answer ends without `[DONE]`. So a fault becomes a message of the
//! assistant and `[DONE]`. It reads snapshots only; and whole events only pass, since it decodes each piece that it
//! gets on its own. Pure.

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::classic::Classic;
use super::notice::{self, Place};
use super::turn::Turn;
use crate::error::{Fault, FaultKind};
use crate::translate::{Ending, Flow, Translate};

const DONE: &[u8] = b"[DONE]";

/// So many of a stream's last bytes say whether it is whole.
pub const TAIL: usize = 64;

/// The fault of a stream that ended with these bytes, if it ended too early.
///
/// # Errors
/// When it has no `[DONE]`.
pub fn whole(tail: &[u8]) -> Result<(), Fault> {
    if memchr::memmem::find(tail, DONE).is_some() { Ok(()) } else { Err(cut_short()) }
}

fn cut_short() -> Fault {
    Fault::new(FaultKind::FetchFailed, "The site ended its answer before it was whole.").maybe_sent()
}

/// What one turn's stream becomes.
pub struct PluginStream {
    turn: Option<Turn>,
    /// Writes snapshots, and whole events only.
    classic: Classic,
    written: BytesMut,
    /// The data of the last snapshot that passed.
    last: Bytes,
    is_done: bool,
}

impl PluginStream {
    /// For the answer to `turn`, where that could be read.
    pub fn new(turn: Option<Turn>) -> PluginStream {
        PluginStream {
            turn,
            classic: Classic::default(),
            written: BytesMut::new(),
            last: Bytes::new(),
            is_done: false,
        }
    }

    /// Takes note of whole events and passes them.
    fn events(&mut self, events: &Bytes, out: &mut BytesMut) {
        for line in events.split(|&byte| byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { continue };
            self.is_done |= data == DONE;
            if data.starts_with(b"{") {
                self.last = events.slice_ref(data);
            }
        }
        out.extend_from_slice(events);
    }

    /// The conversation, the message and the text that the last snapshot has.
    fn so_far(&self) -> Option<(Option<String>, Option<String>, String)> {
        let event: Value = serde_json::from_slice(&self.last).ok()?;
        let text = |at: &str| event.pointer(at).and_then(Value::as_str).map(str::to_owned);
        let is_assistant = text("/message/author/role").is_some_and(|it| it == "assistant");
        let said = text("/message/content/parts/0").filter(|_| is_assistant).unwrap_or_default();
        Some((text("/conversation_id"), text("/message/id").filter(|_| is_assistant), said))
    }
}

impl Translate for PluginStream {
    fn pass(&mut self, piece: &Bytes, out: &mut BytesMut) -> Result<Flow, Fault> {
        let passed = self.classic.pass(piece, &mut self.written);
        let events = self.written.split().freeze();
        self.events(&events, out);
        passed
    }

    fn end(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        if !self.is_done {
            // What it says at the end are whole events only if it translates; half of one is none.
            self.classic.end(&mut self.written)?;
            let rest = self.written.split().freeze();
            if rest.ends_with(b"\n\n") {
                self.events(&rest, out);
            }
        }
        if self.is_done { Ok(()) } else { Err(cut_short()) }
    }

    fn fail(&mut self, fault: &Fault, out: &mut BytesMut) -> Ending {
        if !self.is_done {
            out.extend_from_slice(&self.told(fault));
        }
        // A cut would leave it waiting for ever.
        Ending::Clean
    }
}

impl PluginStream {
    /// What is said of `fault`, and the end.
    ///
    /// The next turn follows the message that this one has followed: the last that is good for certain. Only in
    /// a conversation that began with this turn is there none; there it follows what there was of the answer.
    pub fn told(&self, fault: &Fault) -> Vec<u8> {
        let turn = self.turn.as_ref();
        let (begun, half, text) = self.so_far().unwrap_or_default();
        let known = turn.and_then(|it| it.conversation.as_deref());
        let parent = turn.and_then(|it| it.parent.as_deref());
        let id = match (known, &half) {
            (None, Some(half)) if begun.is_some() => Some(half.as_str()),
            _ => parent,
        };
        let place = Place { conversation: begun.as_deref().or(known), id: id.unwrap_or_default() };
        let mut out = notice::event(fault, place, &text).into_bytes();
        // Also after the site's 429, although the plugin looks for its words, to go on with the model `auto`: it
        // looks for them in the message of an error, and what it makes of an answer without `[DONE]` has none. It
        // would ask three times more, and its user would read nothing.
        out.extend_from_slice(b"data: [DONE]\n\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SiteError;
    use proptest::prelude::*;
    use serde_json::json;

    fn stream(body: Value) -> PluginStream {
        PluginStream::new(Turn::read(body.to_string().as_bytes()))
    }

    fn turn(conversation: Option<&str>, model: &str) -> PluginStream {
        stream(
            json!({"messages": [], "conversation_id": conversation, "parent_message_id": "parent", "model": model}),
        )
    }

    fn snapshot(text: &str) -> String {
        let message = json!({"id": "half", "author": {"role": "assistant"}, "content": {"parts": [text]}});
        format!("data: {}\n\n", json!({"message": message, "conversation_id": "c", "error": null}))
    }

    /// What the plugin makes of a stream: conversation, last id, last text, and whether it is at the end.
    fn seen(stream: &[u8]) -> (Option<String>, String, String, bool) {
        let mut seen = (None, String::new(), String::new(), false);
        for event in std::str::from_utf8(stream).unwrap().split("\n\n").filter(|it| !it.is_empty()) {
            let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event}"));
            if data == "[DONE]" {
                seen.3 = true;
                continue;
            }
            let event: Value = serde_json::from_str(data).unwrap();
            seen.0 = event["conversation_id"].as_str().map(str::to_owned).or(seen.0);
            event["message"]["id"].as_str().unwrap().clone_into(&mut seen.1);
            event["message"]["content"]["parts"][0].as_str().unwrap().clone_into(&mut seen.2);
        }
        seen
    }

    fn lost() -> Fault {
        Fault::new(FaultKind::PageLost, "The page was lost.").maybe_sent()
    }

    fn fail_after(stream: &mut PluginStream, before: &str, fault: &Fault) -> Vec<u8> {
        let mut out = BytesMut::new();
        stream.pass(&Bytes::copy_from_slice(before.as_bytes()), &mut out).unwrap();
        assert_eq!(stream.fail(fault, &mut out), Ending::Clean);
        out.to_vec()
    }

    #[test]
    fn after_a_fault_the_next_turn_follows_the_last_message_that_is_good() {
        let (_, id, text, done) = seen(&fail_after(&mut turn(Some("c"), "auto"), "", &lost()));
        assert!((id.as_str(), done) == ("parent", true) && text.contains("The page was lost."), "{text}");
        let half = snapshot("half of") + &snapshot("half of it") + "data: {\"mess";
        let (conversation, id, text, done) = seen(&fail_after(&mut turn(Some("c"), "auto"), &half, &lost()));
        assert_eq!((conversation.as_deref(), id.as_str(), done), (Some("c"), "parent", true));
        assert!(text.starts_with("half of it\n\n"), "what there was is kept: {text}");
        let (conversation, id, ..) = seen(&fail_after(&mut turn(None, "auto"), &half, &lost()));
        assert_eq!((conversation.as_deref(), id.as_str()), (Some("c"), "half"), "a conversation that is new");
        let (conversation, id, ..) = seen(&fail_after(&mut turn(None, "auto"), "", &lost()));
        assert_eq!((conversation, id.as_str()), (None, "parent"));
        let (.., done) = seen(&fail_after(&mut PluginStream::new(None), "", &lost()));
        assert!(done, "what could not be read as a turn");
    }

    #[test]
    fn the_sites_429_is_said_in_its_own_words_whatever_the_model() {
        let fault = Fault::of_site(SiteError { status: 429, sentence: Some(notice::TOO_MANY.into()) });
        for model in ["gpt-4o", "auto"] {
            let (_, _, text, done) = seen(&fail_after(&mut turn(Some("c"), model), "", &fault));
            assert!(
                text.contains(notice::TOO_MANY) && done,
                "{model}: without an end it asks three times more"
            );
        }
    }

    #[test]
    fn an_end_without_done_is_none_and_after_done_nothing_is_said() {
        let mut out = BytesMut::new();
        let mut cut = turn(None, "auto");
        cut.pass(&Bytes::from(snapshot("a")), &mut out).unwrap();
        assert!(cut.end(&mut out).is_err());
        cut.pass(&Bytes::from("data: [DONE]\n\n"), &mut out).unwrap();
        assert!(cut.end(&mut out).is_ok());
        let whole = out.clone();
        assert_eq!(cut.fail(&lost(), &mut out), Ending::Clean);
        assert_eq!(out, whole);
    }

    proptest! {
        #[test]
        fn whole_events_pass_unchanged_whatever_the_pieces(
            events in prop::collection::vec("(data: [ab]{1,5}(\n|\r\n)){1,2}", 0..6),
            end in "(\n|\r\n)",
            rest in "(data: [ab]{0,3})?",
            pieces in prop::collection::vec(1usize..7, 1..6),
        ) {
            let whole: String = events.iter().map(|event| format!("{event}{end}")).collect();
            let all = format!("{whole}{rest}");
            let (mut stream, mut out, mut left) = (PluginStream::new(None), BytesMut::new(), all.as_bytes());
            for length in pieces.iter().cycle() {
                let (piece, later) = left.split_at((*length).min(left.len()));
                stream.pass(&Bytes::copy_from_slice(piece), &mut out).unwrap();
                let passed = std::str::from_utf8(&out).unwrap();
                prop_assert!(whole.starts_with(passed));
                // A CR may end the blank line; the LF that belongs to it comes with what follows.
                let ends = ["\n\n", "\n\r", "\n\r\n"];
                prop_assert!(passed.is_empty() || ends.iter().any(|it| passed.ends_with(it)), "{:?}", passed);
                left = later;
                if left.is_empty() {
                    break;
                }
            }
            let passed = std::str::from_utf8(&out).unwrap();
            prop_assert!(passed == whole || format!("{passed}\n") == whole, "{:?}", passed);
        }
    }
}
