//! The event writer: what the site streams, as bytes, in both of its formats.
//!
//! Pure: writes into a buffer and knows neither HTTP nor time (a stamp comes in as a number). A text
//! event is put together by hand from parts made once per answer, because this is the benchmark's flood.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use super::knobs::{Format, Knobs};
use super::text::Pieces;

/// The ids and names that go through all events of one answer.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// The conversation's id.
    pub conversation: String,
    /// The id of the message that the site writes.
    pub message: String,
    /// The model that the client asked for.
    pub model: String,
    /// When the answer began, in Unix microseconds.
    pub began: u64,
}

impl Subject {
    fn message(&self, text: &str, done: bool) -> Value {
        let metadata = if done {
            json!({"message_type": "next", "model_slug": self.model, "finish_details": {"type": "stop"}})
        } else {
            json!({"message_type": "next", "model_slug": self.model})
        };
        json!({
            "id": self.message,
            "author": {"role": "assistant", "name": null, "metadata": {}},
            "create_time": self.began as f64 / 1e6,
            "update_time": null,
            "content": {"content_type": "text", "parts": [text]},
            "status": if done { "finished_successfully" } else { "in_progress" },
            "end_turn": if done { Value::Bool(true) } else { Value::Null },
            "weight": 1.0,
            "metadata": metadata,
            "recipient": "all",
        })
    }

    fn snapshot(&self, message: Value) -> Value {
        json!({"message": message, "conversation_id": self.conversation, "error": null})
    }
}

/// Writes the events of one answer, in order: opening, texts (and pings), closing.
#[derive(Debug)]
pub(super) struct Events {
    subject: Subject,
    pieces: Pieces,
    format: Format,
    grow: bool,
    written: u64,
    /// The piece of the event being written.
    piece: String,
    /// Classic: the text so far, escaped, without its quotes.
    so_far: Vec<u8>,
    /// Classic: what stands before and after the text of a snapshot.
    around: (Vec<u8>, Vec<u8>),
}

impl Events {
    /// Nothing is written yet.
    pub fn new(subject: Subject, knobs: &Knobs, prompt: &str) -> Self {
        Self {
            around: around_text(&subject),
            pieces: Pieces::new(knobs, prompt),
            format: knobs.format,
            grow: knobs.grow,
            written: 0,
            piece: String::new(),
            so_far: Vec::new(),
            subject,
        }
    }

    /// What comes before the first word.
    pub fn opening(&mut self, out: &mut BytesMut) {
        let subject = &self.subject;
        let empty = subject.snapshot(subject.message("", false));
        if self.format == Format::Classic {
            return data(out, &empty);
        }
        out.put_slice(b"event: delta_encoding\ndata: \"v1\"\n\n");
        data(
            out,
            &json!({"type": "resume_conversation_token", "kind": "topic", "token": "practice-resume-token",
                    "conversation_id": subject.conversation}),
        );
        let mut system = subject.message("", true);
        system["author"]["role"] = json!("system");
        system["id"] = json!(format!("{}-system", subject.message));
        system["metadata"] = json!({"is_visually_hidden_from_conversation": true});
        delta(out, &json!({"p": "", "o": "add", "v": subject.snapshot(system), "c": 0}));
        // `p` and `o` carry over from the delta before; the channel is new.
        delta(out, &json!({"v": empty, "c": 1}));
        data(
            out,
            &json!({"type": "message_marker", "conversation_id": subject.conversation,
                    "message_id": subject.message, "marker": "user_visible_token", "event": "first"}),
        );
    }

    /// The next text event, stamped with `t` (Unix microseconds).
    pub fn text(&mut self, t: u64, out: &mut BytesMut) {
        self.pieces.next_into(&mut self.piece);
        match self.format {
            Format::Classic => self.classic_text(t, out),
            Format::Delta => self.delta_text(t, out),
        }
        self.written += 1;
    }

    /// A keep-alive of the site's own; `now` in Unix microseconds.
    pub fn ping(now: u64, out: &mut BytesMut) {
        out.put_slice(b"event: ping\ndata: ");
        timestamp(now, out);
        out.put_slice(b"\n\n");
    }

    /// The last message, the site's remarks, and `[DONE]`.
    pub fn closing(&mut self, out: &mut BytesMut) {
        let subject = &self.subject;
        let conversation = &subject.conversation;
        match self.format {
            Format::Classic => {
                // Put together like any other text event, so that the two can never differ.
                let (before, after) = around(&subject.snapshot(subject.message(MARK, true)));
                out.put_slice(&before);
                out.put_slice(&self.so_far);
                out.put_slice(&after);
                out.put_slice(b"}\n\n");
                data(
                    out,
                    &json!({"conversation_id": conversation, "message_id": subject.message, "is_completion": true,
                            "moderation_response": {"flagged": false, "blocked": false,
                                                    "moderation_id": "modr-practice"}}),
                );
            }
            Format::Delta => {
                delta(
                    out,
                    &json!({"p": "", "o": "patch", "v": [
                        {"p": "/message/status", "o": "replace", "v": "finished_successfully"},
                        {"p": "/message/end_turn", "o": "replace", "v": true},
                        {"p": "/message/metadata", "o": "append",
                         "v": {"is_complete": true, "finish_details": {"type": "stop"}}},
                    ]}),
                );
                data(
                    out,
                    &json!({"type": "server_ste_metadata", "conversation_id": conversation,
                            "metadata": {"model_slug": subject.model, "turn_use_case": "text"}}),
                );
                data(out, &json!({"type": "message_stream_complete", "conversation_id": conversation}));
            }
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    fn classic_text(&mut self, t: u64, out: &mut BytesMut) {
        if !self.grow {
            self.so_far.clear();
        }
        escape(&self.piece, &mut self.so_far);
        let (before, after) = &self.around;
        out.reserve(before.len() + self.so_far.len() + after.len() + 32);
        out.put_slice(before);
        out.put_slice(&self.so_far);
        out.put_slice(after);
        out.put_slice(b",\"t\":");
        number(t, out);
        out.put_slice(b"}\n\n");
    }

    /// Goes round through the ways in which the site says "append": in full, with everything carried
    /// over, as a patch, and as a patch carried over.
    fn delta_text(&mut self, t: u64, out: &mut BytesMut) {
        const APPEND: &[u8] = b"{\"p\":\"/message/content/parts/0\",\"o\":\"append\",\"v\":\"";
        let (before, after): (&[u8], &[u8]) = match self.written % 8 {
            0 => (b"\"p\":\"/message/content/parts/0\",\"o\":\"append\",\"v\":\"", b"\""),
            6 => (b"\"p\":\"\",\"o\":\"patch\",\"v\":[", b"\"}]"),
            7 => (b"\"v\":[", b"\"},{\"p\":\"/message/metadata/beat\",\"o\":\"add\",\"v\":1}]"),
            _ => (b"\"v\":\"", b"\""),
        };
        self.so_far.clear();
        escape(&self.piece, &mut self.so_far);
        out.reserve(self.so_far.len() + 192);
        out.put_slice(b"event: delta\ndata: {");
        out.put_slice(before);
        if self.written % 8 >= 6 {
            out.put_slice(APPEND);
        }
        out.put_slice(&self.so_far);
        out.put_slice(after);
        out.put_slice(b",\"t\":");
        number(t, out);
        out.put_slice(b"}\n\n");
    }
}

/// Stands for the text while a snapshot is cut into what is before and after it.
const MARK: &str = "\u{1}";

fn around_text(subject: &Subject) -> (Vec<u8>, Vec<u8>) {
    around(&subject.snapshot(subject.message(MARK, false)))
}

/// `data: {…"parts":["` and `"]…`, without the last brace, so that members can be added.
fn around(snapshot: &Value) -> (Vec<u8>, Vec<u8>) {
    let json = snapshot.to_string();
    let (before, after) = json.split_once("\\u0001").unwrap_or((&json, "}"));
    let after = after.strip_suffix('}').unwrap_or(after);
    ([b"data: ", before.as_bytes()].concat(), after.as_bytes().to_vec())
}

fn data(out: &mut BytesMut, value: &Value) {
    // Writing to a growing buffer cannot fail.
    let _ = write!(out, "data: {value}\n\n");
}

fn delta(out: &mut BytesMut, value: &Value) {
    out.put_slice(b"event: delta\n");
    data(out, value);
}

fn number(value: u64, out: &mut BytesMut) {
    let _ = write!(out, "{value}");
}

/// Appends `text` as the inside of a JSON string.
fn escape(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, text).is_ok() {
        out.pop();
        out.remove(start);
    }
}

/// `2026-01-31 12:34:56.000000`, in UTC, as the site writes it: no JSON.
fn timestamp(micros: u64, out: &mut BytesMut) {
    let seconds = micros / 1_000_000;
    let (day, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, by counting 400-year eras from 0000-03-01 (H. Hinnant's algorithm).
    let z = day + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let date = doy - (153 * mp + 2) / 5 + 1;
    let (h, m, s, us) = (of_day / 3_600, of_day / 60 % 60, of_day % 60, micros % 1_000_000);
    let _ = write!(out, "{year:04}-{month:02}-{date:02} {h:02}:{m:02}:{s:02}.{us:06}");
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
