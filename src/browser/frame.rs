//! The wire format between us and the carrier: pure encode and decode.
//!
//! Binary, big-endian, several frames in one WebSocket message:
//!
//! ```text
//! [u32 exchange id][u8 kind][u32 length][payload]
//!
//! page -> us   H  head: JSON {"status", "headers": [[name, value]…], "redirected": path or null}
//!              D  bytes of body
//!              E  end, complete
//!              X  failure: JSON {"what", "message", "sent"}
//!              T  age in microseconds of the oldest data in this message (id 0, first in the message)
//!              P  echo of a P of ours, same id
//!              G  got: the request is here whole, and waits for its S
//!              L  lanes: u32, so many exchanges the site takes at once (id 0); fewer each time
//! us -> page   R  request: JSON {"method", "path", "headers", "body": length}
//!              B  a piece of the request's body
//!              S  start: the fetch begins when this and the whole body are there
//!              A  credit: u32 bytes
//!              C  cancel
//!              P  echo request
//! ```
//!
//! S is what makes a request one that may have been sent. It goes out unasked only where the page was heard
//! of a moment ago; otherwise it answers the page's G, so that a request handed to a page that is dead, or
//! stands still, has provably not left.
//!
//! `carrier.js` is the other side of this; the two change together.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::exchange::{Head, PageRequest};

/// Bytes before each payload.
pub const HEADER: usize = 9;

/// A frame from the page. Payloads are slices of the message that they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromPage {
    /// The answer's head.
    Head(u32, Head),
    /// A piece of body.
    Data(u32, Bytes),
    /// The answer is complete.
    End(u32),
    /// The fetch failed.
    Fail(u32, PageFailure),
    /// Age of the oldest data in this message, in microseconds.
    Age(u32),
    /// Answer to an echo.
    Echo(u32),
    /// The request is there, and waits to be started.
    Got(u32),
    /// So many exchanges the browser lets through to the site at once; it keeps the others waiting.
    Lanes(u32),
}

/// How a fetch failed, as the page saw it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PageFailure {
    /// `network`, `request` (refused before it was sent), `head` (an answer we cannot carry), or `redirect`
    /// (to another origin, stopped on the way).
    pub what: String,
    /// The browser's own words, for the log; for `redirect` the address that was fetched.
    pub message: String,
    /// Whether `fetch` had been called.
    pub sent: bool,
}

/// Why a message from the page cannot be understood. The page is ours, so this means a defect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A header or payload is cut short.
    #[error("a frame is cut short")]
    Truncated,
    /// A kind that does not exist.
    #[error("unknown frame kind {0:#04x}")]
    Kind(u8),
    /// A payload of the wrong form.
    #[error("bad payload of a {0:?} frame: {1}")]
    Payload(char, String),
}

#[derive(Deserialize)]
struct WireHead {
    status: u16,
    headers: Vec<(String, String)>,
    redirected: Option<String>,
}

/// The frames of one message, in order; the first error ends it.
pub struct Frames {
    rest: Bytes,
}

/// Reads a message from the page.
pub fn decode(message: Bytes) -> Frames {
    Frames { rest: message }
}

impl Iterator for Frames {
    type Item = Result<FromPage, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.take();
        if frame.is_err() {
            self.rest.clear();
        }
        Some(frame)
    }
}

impl Frames {
    fn take(&mut self) -> Result<FromPage, FrameError> {
        let header = self.rest.get(..HEADER).ok_or(FrameError::Truncated)?;
        let (id, kind, length) = match *header {
            [a, b, c, d, kind, l0, l1, l2, l3] => {
                (u32::from_be_bytes([a, b, c, d]), kind, u32::from_be_bytes([l0, l1, l2, l3]) as usize)
            }
            _ => return Err(FrameError::Truncated),
        };
        if self.rest.len() - HEADER < length {
            return Err(FrameError::Truncated);
        }
        let mut frame = self.rest.split_to(HEADER + length);
        let payload = frame.split_off(HEADER);
        match kind {
            b'D' => Ok(FromPage::Data(id, payload)),
            b'E' => Ok(FromPage::End(id)),
            b'H' => {
                let head: WireHead = json('H', &payload)?;
                Ok(FromPage::Head(
                    id,
                    Head { status: head.status, headers: head.headers, redirected_to: head.redirected },
                ))
            }
            b'X' => Ok(FromPage::Fail(id, json('X', &payload)?)),
            b'T' => number('T', &payload).map(FromPage::Age),
            b'L' => number('L', &payload).map(FromPage::Lanes),
            b'P' => Ok(FromPage::Echo(id)),
            b'G' => Ok(FromPage::Got(id)),
            other => Err(FrameError::Kind(other)),
        }
    }
}

fn json<'a, T: Deserialize<'a>>(kind: char, payload: &'a [u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|e| FrameError::Payload(kind, e.to_string()))
}

fn number(kind: char, payload: &[u8]) -> Result<u32, FrameError> {
    let bytes = payload.try_into().map_err(|_| FrameError::Payload(kind, "not four bytes".into()))?;
    Ok(u32::from_be_bytes(bytes))
}

#[derive(Serialize)]
struct WireRequest<'a> {
    method: &'a str,
    path: &'a str,
    headers: &'a [(String, String)],
    body: usize,
}

fn put(out: &mut BytesMut, id: u32, kind: u8, payload: &[u8]) {
    out.reserve(HEADER + payload.len());
    out.put_u32(id);
    out.put_u8(kind);
    // Everything that we send is bounded far below 4 GiB: see `Carrier::fetch` and `TABPROXY_MAX_BODY`.
    out.put_u32(payload.len() as u32);
    out.put_slice(payload);
}

/// Writes a request's head; its body follows in [`body`] frames.
pub fn request(out: &mut BytesMut, id: u32, request: &PageRequest) -> serde_json::Result<()> {
    let payload = serde_json::to_vec(&WireRequest {
        method: &request.method,
        path: &request.path,
        headers: &request.headers,
        body: request.body_len(),
    })?;
    put(out, id, b'R', &payload);
    Ok(())
}

/// Writes a piece of a request's body.
pub fn body(out: &mut BytesMut, id: u32, piece: &[u8]) {
    put(out, id, b'B', piece);
}

/// Writes the start of a request's fetch.
pub fn start(out: &mut BytesMut, id: u32) {
    put(out, id, b'S', &[]);
}

/// Writes credit for `bytes` more.
pub fn credit(out: &mut BytesMut, id: u32, bytes: u32) {
    put(out, id, b'A', &bytes.to_be_bytes());
}

/// Writes the end of our interest.
pub fn cancel(out: &mut BytesMut, id: u32) {
    put(out, id, b'C', &[]);
}

/// Writes an echo request.
pub fn echo(out: &mut BytesMut, id: u32) {
    put(out, id, b'P', &[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(id: u32, kind: u8, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        put(&mut out, id, kind, payload);
        out
    }

    #[test]
    fn several_frames_in_one_message() {
        let mut message = frame(0, b'T', &7u32.to_be_bytes());
        message.extend_from_slice(&frame(
            1,
            b'H',
            br#"{"status":200,"headers":[["content-type","text/plain"]],"redirected":null}"#,
        ));
        message.extend_from_slice(&frame(1, b'D', b"hello"));
        message.extend_from_slice(&frame(2, b'X', br#"{"what":"network","message":"m","sent":true}"#));
        message.extend_from_slice(&frame(1, b'E', b""));
        message.extend_from_slice(&frame(0, b'L', &4u32.to_be_bytes()));
        let got: Result<Vec<_>, _> = decode(message.freeze()).collect();
        let head = Head {
            status: 200,
            headers: vec![("content-type".into(), "text/plain".into())],
            redirected_to: None,
        };
        let failure = PageFailure { what: "network".into(), message: "m".into(), sent: true };
        assert_eq!(
            got.unwrap(),
            [
                FromPage::Age(7),
                FromPage::Head(1, head),
                FromPage::Data(1, Bytes::from("hello")),
                FromPage::Fail(2, failure),
                FromPage::End(1),
                FromPage::Lanes(4),
            ]
        );
    }

    #[test]
    fn what_is_not_a_frame_is_named() {
        let cut = frame(1, b'D', b"hello").freeze().slice(..11);
        assert_eq!(decode(cut).next(), Some(Err(FrameError::Truncated)));
        assert_eq!(decode(frame(1, b'?', b"").freeze()).next(), Some(Err(FrameError::Kind(b'?'))));
        let bad = decode(frame(1, b'H', b"{}").freeze()).next();
        assert!(matches!(bad, Some(Err(FrameError::Payload('H', _)))));
        let bad = decode(frame(0, b'L', b"123").freeze()).next();
        assert!(matches!(bad, Some(Err(FrameError::Payload('L', _)))));
    }

    proptest! {
        /// Foreign bytes never panic, and an error is the last thing that a message gives.
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let frames: Vec<_> = decode(Bytes::from(bytes)).collect();
            let first_error = frames.iter().position(Result::is_err);
            prop_assert!(first_error.is_none_or(|i| i + 1 == frames.len()));
        }

        /// However data is cut into frames and messages, the bytes come out the same.
        #[test]
        fn data_survives_any_framing(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut message = BytesMut::new();
            for piece in &pieces {
                put(&mut message, 9, b'D', piece);
            }
            let mut got = Vec::new();
            for frame in decode(message.freeze()) {
                match frame {
                    Ok(FromPage::Data(9, bytes)) => got.extend_from_slice(&bytes),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(got, pieces.concat());
        }
    }
}
