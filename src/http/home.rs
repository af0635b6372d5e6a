//! Which conversation a request belongs to, and which one an answer begins: with stored accounts used in turn, a
//! conversation has to go on with the account that it was begun with, and with several browsers in the browser.
//!
//! Looks, and changes nothing. Pure.

use std::borrow::Cow;

use serde::Deserialize;

use crate::exchange::PageRequest;

/// A stream names its conversation in its first events.
const LOOK: usize = 64 * 1024;
const NAME: &[u8] = b"\"conversation_id\"";

#[derive(Deserialize)]
struct Body {
    conversation_id: Option<String>,
}

/// The conversation that `request` is about, by its path, its query, or its body.
pub(super) fn conversation_of(request: &PageRequest) -> Option<String> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let rest = path.strip_prefix("/backend-api/").or_else(|| path.strip_prefix("/backend-anon/"))?;
    let named = query.split('&').find_map(|it| it.strip_prefix("conversation_id="));
    let segments: Vec<_> = rest.split('/').collect();
    match segments[..] {
        ["conversation"] | ["f", "conversation"] | ["conversation", "message_feedback"] => {
            let body = match &request.body[..] {
                [one] => Cow::Borrowed(&one[..]),
                pieces => Cow::Owned(pieces.concat()),
            };
            serde_json::from_slice::<Body>(&body).ok()?.conversation_id
        }
        ["conversation", "gen_title", id] | ["conversation", id, ..] => Some(id.to_owned()),
        _ => named.map(str::to_owned),
    }
}

/// Reads a stream as it passes, and gives the conversation that it names to `found`. Its result says whether more
/// is wanted, as [`crate::exchange::Exchange::watch`] has it.
pub(super) fn watch(found: impl Fn(&str) + Send + 'static) -> impl FnMut(&[u8]) -> bool + Send + 'static {
    let mut seen = Vec::new();
    move |piece| {
        seen.extend_from_slice(&piece[..piece.len().min(LOOK)]);
        if let Some(id) = named_in(&seen) {
            found(id);
            return false;
        }
        seen.len() < LOOK
    }
}

fn named_in(stream: &[u8]) -> Option<&str> {
    let blank = |rest: &[u8]| rest.iter().take_while(|it| it.is_ascii_whitespace()).count();
    memchr::memmem::find_iter(stream, NAME).find_map(|at| {
        let rest = &stream[at + NAME.len()..];
        let rest = rest[blank(rest)..].strip_prefix(b":")?;
        let rest = rest[blank(rest)..].strip_prefix(b"\"")?;
        let id = &rest[..memchr::memchr(b'"', rest)?];
        std::str::from_utf8(id).ok().filter(|it| !it.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Leaves;

    #[test]
    fn a_request_says_which_conversation_it_is_about() {
        let of = |path: &str, body: &str| {
            let (method, path, leaves) = ("POST".into(), path.to_owned(), Leaves::default());
            let body =
                vec![body[..body.len() / 2].to_owned().into(), body[body.len() / 2..].to_owned().into()];
            conversation_of(&PageRequest { method, path, headers: Vec::new(), body, keyed: true, leaves })
        };
        for (path, body, expected) in [
            ("/backend-api/conversation", r#"{"action":"next","conversation_id":"c-1"}"#, Some("c-1")),
            ("/backend-api/conversation", r#"{"conversation_id":null}"#, None),
            ("/backend-api/conversation", "nothing", None),
            ("/backend-api/conversation/message_feedback", r#"{"conversation_id":"c-1"}"#, Some("c-1")),
            ("/backend-api/conversation/c-1?x=y", "", Some("c-1")),
            ("/backend-api/conversation/gen_title/c-1", "{}", Some("c-1")),
            ("/backend-api/synthesize?message_id=m&conversation_id=c-1&voice=v", "", Some("c-1")),
            ("/backend-api/conversations?offset=0", "", None),
            ("/backend-anon/conversation/c-1", "", Some("c-1")),
            ("/backend-api/f/conversation", r#"{"conversation_id":"c-1"}"#, Some("c-1")),
            ("/api/auth/session", "", None),
        ] {
            assert_eq!(of(path, body).as_deref(), expected, "{path} {body}");
        }
    }

    #[test]
    fn a_stream_names_its_conversation_in_any_split() {
        let stream =
            b"data: {\"conversation_id\": null}\n\ndata: {\"x\":1,\"conversation_id\" : \"c-1\"}\n\n";
        for size in 1..stream.len() {
            let (sender, found) = std::sync::mpsc::channel();
            let mut watch = watch(move |id| sender.send(id.to_owned()).unwrap());
            let asked = stream.chunks(size).take_while(|it| watch(it)).count();
            assert_eq!(found.try_recv().as_deref(), Ok("c-1"), "{size} {asked}");
        }
        let mut endless = watch(|_| panic!("there is none"));
        assert!((0..100).any(|_| !endless(&[b'x'; 1024])), "it gives up");
    }
}
