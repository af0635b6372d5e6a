//! One turn of a conversation as a client asks for it: what we must know of it, and the one thing that is
//! filled in. Pure.
//!
//! The body stays the client's, byte for byte. It is looked through once, without recursion and without a copy
//! of any text, so that neither its size nor its depth costs anything. What is no turn passes as it came: the
//! site says best what is wrong with it.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// What is put in front of the members of a message without an author.
const AUTHOR: &[u8] = br#""author":{"role":"user"}"#;

/// One turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The conversation that it goes on with; `None` begins one.
    pub conversation: Option<String>,
    /// The message that it follows.
    pub parent: Option<String>,
    /// The model that is asked for.
    pub model: Option<String>,
    /// The encodings of a stream that the client reads besides snapshots, as it says itself.
    pub reads_deltas: bool,
    /// A digest of what is said and how, without what a client makes anew for each attempt: ids of messages, and
    /// what the turn follows.
    pub said: [u8; 32],
    /// Where an author is missing: the offset, and whether other members follow.
    missing: Vec<(usize, bool)>,
}

impl Turn {
    /// Reads a body. `None` if it is no turn as the site's own clients write it.
    pub fn read(body: &[u8]) -> Option<Turn> {
        let asked: Asked = serde_json::from_slice(body).ok()?;
        let mut said = Sha256::new();
        let mut tell = |text: &[u8]| {
            said.update((text.len() as u64).to_le_bytes());
            said.update(text);
        };
        let mut missing = Vec::new();
        for raw in &asked.messages {
            let message: Message = serde_json::from_str(raw.get()).ok()?;
            tell(message.content.map_or("", RawValue::get).as_bytes());
            tell(message.role.as_deref().unwrap_or("user").as_bytes());
            if !message.has_author && message.role.is_none_or(|it| it == "user") {
                let inside = offset(body, raw.get())? + 1;
                missing.push((inside, !message.is_empty));
            }
        }
        for text in [&asked.action, &asked.model] {
            tell(text.as_deref().unwrap_or_default().as_bytes());
        }
        let some = |text: Option<Cow<str>>| text.filter(|it| !it.is_empty()).map(Cow::into_owned);
        Some(Turn {
            conversation: some(asked.conversation_id),
            parent: some(asked.parent_message_id),
            model: some(asked.model),
            reads_deltas: asked.supported_encodings.iter().any(|it| it == "v1"),
            said: said.finalize().into(),
            missing,
        })
    }

    /// `body`, which this was read from, with the authors that are missing. The pieces share its memory.
    pub fn with_authors(&self, body: &Bytes) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(2 * self.missing.len() + 1);
        let mut from = 0;
        for &(at, has_more) in &self.missing {
            pieces.push(body.slice(from..at));
            pieces.push(Bytes::from_static(AUTHOR));
            if has_more {
                pieces.push(Bytes::from_static(b","));
            }
            from = at;
        }
        pieces.push(body.slice(from..));
        pieces
    }
}

/// Where `part`, which lies in `body`, begins there.
fn offset(body: &[u8], part: &str) -> Option<usize> {
    let at = (part.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    body.get(at..)?.starts_with(b"{").then_some(at)
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    conversation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    parent_message_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    supported_encodings: Vec<Cow<'a, str>>,
}

/// Of a message, what matters here. Members are looked at by hand, because one that is `null` is there too.
#[derive(Default)]
struct Message<'a> {
    has_author: bool,
    role: Option<Cow<'a, str>>,
    content: Option<&'a RawValue>,
    is_empty: bool,
}

impl<'de> Deserialize<'de> for Message<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Message<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Message<'de>, A::Error> {
        let mut message = Message { is_empty: true, ..Message::default() };
        while let Some(Text(name)) = members.next_key()? {
            message.is_empty = false;
            match &*name {
                "author" => {
                    message.has_author = true;
                    members.next_value::<IgnoredAny>()?;
                }
                "role" => message.role = members.next_value::<Option<Text>>()?.map(|it| it.0),
                "content" => message.content = Some(members.next_value()?),
                _ => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(message)
    }
}

/// A string, borrowed where it can be: a bare `Cow` is always copied.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn filled(body: &str) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let pieces = Turn::read(&body).map_or_else(|| vec![body.clone()], |turn| turn.with_authors(&body));
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn an_author_that_is_missing_is_filled_in_and_nothing_else_is_touched() {
        let author = r#""author":{"role":"user"}"#;
        for (body, expected) in [
            (r#"{"messages":[{"id":"a"}]}"#, format!(r#"{{"messages":[{{{author},"id":"a"}}]}}"#)),
            (r#"{"messages":[{ }]}"#, format!(r#"{{"messages":[{{{author} }}]}}"#)),
            (
                "{\"x\" : 1,\r\n \"messages\":[ {\t\"role\":\"user\", \"content\":{\"parts\":[\"\\ud800 \u{2028}\"]}}, {\"author\":null} ] } ",
                format!(
                    "{{\"x\" : 1,\r\n \"messages\":[ {{{author},\t\"role\":\"user\", \"content\":{{\"parts\":[\"\\ud800 \u{2028}\"]}}}}, {{\"author\":null}} ] }} "
                ),
            ),
            (r#"{"messages":[{"\u0061uthor":1}]}"#, r#"{"messages":[{"\u0061uthor":1}]}"#.into()),
            (r#"{"messages":[{"role":"system"}]}"#, r#"{"messages":[{"role":"system"}]}"#.into()),
        ] {
            assert_eq!(filled(body), expected);
        }
        for strange in [
            "",
            "[]",
            "{",
            r#"{"messages":{}}"#,
            r#"{"messages":[7]}"#,
            r#"{"messages":[{"id":1}],"messages":[]}"#,
            r#"{"messages":[{"id":"a"}]} x"#,
            r#"{"messages":[{"id":"a"}],"model":7}"#,
        ] {
            assert_eq!(filled(strange), strange);
        }
        let broken = Bytes::from_static(b"{\"messages\":[{\"id\":\"\xff\"}]}");
        assert_eq!(Turn::read(&broken), None);
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = |n| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let n = 3_000_000;
        assert_eq!(filled(&deep(n)), deep(n));
        let body = format!(r#"{{"messages":[{{"content":{0}}}],"x":{0}}}"#, deep(n));
        assert_eq!(filled(&body).len(), body.len() + 25);
    }

    fn read(body: Value) -> Turn {
        Turn::read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn another_attempt_at_the_same_turn_says_the_same() {
        let body = |id: &str, text: &str, model: &str| {
            json!({"action": "next", "model": model, "parent_message_id": "p", "conversation_id": "c",
                   "messages": [{"id": id, "role": "user", "content": {"content_type": "text", "parts": [text]}}]})
        };
        let first = read(body("1", "你好", "auto"));
        assert_eq!(first, read(body("2", "你好", "auto")));
        assert_eq!((first.conversation.as_deref(), first.parent.as_deref()), (Some("c"), Some("p")));
        assert_ne!(first.said, read(body("1", "你好 ", "auto")).said);
        assert_ne!(first.said, read(body("1", "你好", "gpt-4o")).said);
        let two = json!({"messages": [{"content": "ab"}, {"content": "c"}]});
        assert_ne!(read(two).said, read(json!({"messages": [{"content": "a"}, {"content": "bc"}]})).said);
        assert!(
            !first.reads_deltas && read(json!({"messages": [], "supported_encodings": ["v1"]})).reads_deltas
        );
        assert_eq!(
            read(json!({"messages": [], "conversation_id": null, "parent_message_id": ""})).parent,
            None
        );
    }

    proptest! {
        /// Whatever is in the messages, what comes out is the same with authors.
        #[test]
        fn only_authors_are_added(
            messages in prop::collection::vec(prop::collection::hash_map("(author|role|content|id|[a-z\"\\\\]{0,3})", "(user|.{0,6})", 0..4), 0..4),
            pretty in any::<bool>(),
        ) {
            let body = json!({"messages": messages, "later": "}{"});
            let text = if pretty { serde_json::to_string_pretty(&body).unwrap() } else { body.to_string() };
            let mut expected = body;
            for message in expected["messages"].as_array_mut().unwrap() {
                if message.get("author").is_none() && message.get("role").is_none_or(|it| it == "user") {
                    message["author"] = json!({"role": "user"});
                }
            }
            let out = filled(&text);
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
            // Taken out again, every byte is as it was.
            let out = out.replace("\"author\":{\"role\":\"user\"},", "").replace("\"author\":{\"role\":\"user\"}", "");
            prop_assert_eq!(out, text);
        }

        #[test]
        fn bytes_of_any_kind_pass(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let body = Bytes::from(body);
            if let Some(turn) = Turn::read(&body) {
                prop_assert!(turn.with_authors(&body).concat().len() >= body.len());
            }
        }
    }
}
