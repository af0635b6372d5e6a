//! The official API's formats, pure: requests in, answers out, as both of its SDKs want them.
//!
//! | file | what for |
//! |---|---|
//! | `types`, `responses_types` | requests, checked; every mistake is an [`Invalid`] |
//! | `history` | turns of a conversation: one prompt of many, and the digest by which they are known again |
//! | `limits`, `tokens` | stop sequences and the most tokens, on our side; counting tokens |
//! | `chat`, `responses`, `models` | answers |
//!
//! It knows neither the site's formats nor HTTP: whoever serves a request puts the two together.

pub mod chat;
pub mod history;
pub mod invalid;
pub mod limits;
pub mod models;
pub mod responses;
pub mod responses_types;
pub mod tokens;
pub mod types;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use serde::Serialize;

pub use history::{Role, Turn};
pub use invalid::Invalid;

/// A request that was checked, of whichever route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// The model that was asked for.
    pub model: String,
    /// The conversation so far and what is asked now; never empty.
    pub turns: Vec<Turn>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether a stream ends with the usage.
    pub include_usage: bool,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    /// The answer has no more tokens than this.
    pub most_tokens: Option<usize>,
    /// The id of the answer that this goes on from.
    pub previous: Option<String>,
    /// What answers repeat of the request.
    pub instructions: Option<String>,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// All is said, or a stop sequence came.
    Stop,
    /// There may be no more tokens.
    Length,
    /// What came is not allowed.
    Filter,
}

/// How many tokens went in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of everything that was sent.
    pub input: usize,
    /// Of the answer.
    pub output: usize,
}

/// What an error says, in the API's shape: `{"error": {…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// One sentence.
    pub message: String,
    /// The kind, by the API's words.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Which parameter is wrong, if one is.
    pub param: Option<String>,
    /// The stable word for it.
    pub code: Option<String>,
}

/// Writes one answer in one of the API's forms; whole events only, where it is a stream.
pub trait Write: Send {
    /// The answer begins: once, before everything else but an error.
    fn begin(&mut self, out: &mut BytesMut);
    /// More of its text.
    fn text(&mut self, text: &str, out: &mut BytesMut);
    /// Its end. `text` is the whole of it, in its last wording.
    fn finish(&mut self, reason: Reason, usage: Usage, text: &str, out: &mut BytesMut);
    /// It failed, begun or not; nothing follows.
    fn error(&mut self, error: &ErrorBody, out: &mut BytesMut);
    /// The id of the answer.
    fn id(&self) -> &str;
}

/// An id with one of the API's prefixes.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::new_v4().simple())
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds what `write` writes for a short answer against the file of that name.
    pub(super) fn golden(name: &str, write: &mut dyn Write, fails: bool) {
        let mut out = BytesMut::new();
        write.begin(&mut out);
        write.text("你好", &mut out);
        write.text(" \"fox\"\n🦊", &mut out);
        if fails {
            let (message, code) = ("The site cut it.".to_owned(), Some("fetch_failed".to_owned()));
            write.error(&ErrorBody { message, kind: "server_error", param: None, code }, &mut out);
        } else {
            write.finish(Reason::Stop, Usage { input: 8, output: 5 }, "你好 \"fox\"\n🦊", &mut out);
        }
        let text = String::from_utf8(out.to_vec()).unwrap();
        insta::with_settings!({snapshot_path => "../../tests/golden", prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(name, text);
        });
    }
}
