//! Snapshots for clients that know no deltas.
//!
//! ```text
//! Undecided ──(a delta)─────> Translating     each changed tree as `data: {…}`, then `data: [DONE]`
//!     └──────(anything else)─> Passing        the site's own snapshots, byte for byte
//! ```
//!
//! A snapshot holds the whole answer so far, so one for every delta would make the stream grow with the
//! square of the answer: there is at most one for each piece that the network brings and each tree that has
//! changed in it. What is about the encoding or the stream is left out, and with it the token by which a
//! stream may be taken over, which is a secret. Deltas are applied in place, and only whole events are
//! written.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

use super::conversation::{MOST_EVENT, Reader, Seen};
use super::sse::EventReader;
use crate::error::Fault;
use crate::translate::{Ending, Flow, Translate};

/// Turns deltas into snapshots.
#[derive(Debug)]
pub struct Classic {
    events: EventReader,
    reader: Reader,
    mode: Mode,
    /// What has come and not been passed on, unless it is translated.
    held: BytesMut,
    /// The tree that has changed since it was last written.
    changed: Option<usize>,
    is_done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Undecided,
    Translating,
    Passing,
}

impl Default for Classic {
    fn default() -> Classic {
        Classic {
            events: EventReader::new(MOST_EVENT),
            reader: Reader::default(),
            mode: Mode::Undecided,
            held: BytesMut::new(),
            changed: None,
            is_done: false,
        }
    }
}

impl Classic {
    /// What the answer says so far. Of a stream that is passed on as it is, nothing is known.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }
}

/// Writes the tree that has changed, if there is one.
fn flush(changed: &mut Option<usize>, reader: &Reader, out: &mut BytesMut) {
    let Some(tree) = changed.take().map(|at| reader.tree(at)) else { return };
    if tree.get("message").is_some_and(Value::is_object) {
        out.put_slice(b"data: ");
        // Writing to a buffer that grows cannot fail.
        let _ = serde_json::to_writer(out.writer(), tree);
        out.put_slice(b"\n\n");
    }
}

impl Translate for Classic {
    fn pass(&mut self, piece: &Bytes, out: &mut BytesMut) -> Result<Flow, Fault> {
        let mut rest = &piece[..];
        // How much of the piece has been held or passed on.
        let mut taken = 0;
        while let Some(event) = self.events.next(&mut rest)? {
            let end = piece.len() - rest.len();
            if self.mode == Mode::Undecided {
                self.mode = match event.name {
                    "delta" | "delta_encoding" => Mode::Translating,
                    _ if self.held.len() > MOST_EVENT => Mode::Passing,
                    "ping" => Mode::Undecided,
                    _ if event.data.contains("\"type\"") && !event.data.contains("\"message\"") => {
                        Mode::Undecided
                    }
                    _ => Mode::Passing,
                };
            }
            if self.mode != Mode::Translating {
                self.held.extend_from_slice(&piece[taken..end]);
                taken = end;
                if self.mode == Mode::Passing {
                    out.extend_from_slice(&self.held.split());
                }
                continue;
            }
            self.held.clear();
            // What a new message replaces must have been written, and only a new one has an author.
            if event.data.contains("\"author\"") {
                flush(&mut self.changed, &self.reader, out);
            }
            match self.reader.read(event)? {
                Seen::Delta(at) => {
                    if self.changed.is_some_and(|changed| changed != at) {
                        flush(&mut self.changed, &self.reader, out);
                    }
                    self.changed = Some(at);
                }
                Seen::Done => {
                    flush(&mut self.changed, &self.reader, out);
                    out.put_slice(b"data: [DONE]\n\n");
                    self.is_done = true;
                }
                Seen::Side => {}
                Seen::Snapshot | Seen::Other => {
                    flush(&mut self.changed, &self.reader, out);
                    for line in event.data.split('\n') {
                        out.put_slice(b"data: ");
                        out.put_slice(line.as_bytes());
                        out.put_u8(b'\n');
                    }
                    out.put_u8(b'\n');
                }
            }
        }
        if self.mode == Mode::Translating {
            flush(&mut self.changed, &self.reader, out);
        } else {
            self.held.extend_from_slice(&piece[taken..]);
        }
        Ok(Flow::On)
    }

    fn end(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        if self.mode != Mode::Translating {
            out.extend_from_slice(&self.held.split());
            return Ok(());
        }
        if !self.is_done {
            self.reader.end()?;
            out.put_slice(b"data: [DONE]\n\n");
        }
        Ok(())
    }

    fn fail(&mut self, _: &Fault, _: &mut BytesMut) -> Ending {
        // What was held is no whole event, or nothing that says anything.
        Ending::Cut
    }
}

#[cfg(test)]
#[path = "classic_tests.rs"]
mod tests;
