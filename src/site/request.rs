//! What the site is asked: the body of a turn; and its list of models.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The model that the site picks by itself.
pub const AUTO: &str = "auto";

/// Where a conversation is gone on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The conversation's id.
    pub conversation: String,
    /// The id of the message that the next one answers.
    pub parent: String,
}

/// One turn of a conversation.
#[derive(Clone, Debug)]
pub struct Turn<'a> {
    /// The user's text.
    pub text: &'a str,
    /// The model by the site's name.
    pub model: &'a str,
    /// The conversation to go on with; `None` for a new one.
    pub place: Option<&'a Place>,
}

#[derive(Serialize)]
struct Body<'a> {
    action: &'a str,
    messages: [Message<'a>; 1],
    model: &'a str,
    parent_message_id: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation_id: Option<&'a str>,
    timezone_offset_min: i32,
    history_and_training_disabled: bool,
}

#[derive(Serialize)]
struct Message<'a> {
    id: String,
    author: Author<'a>,
    content: Content<'a>,
    metadata: Empty,
}

#[derive(Serialize)]
struct Author<'a> {
    role: &'a str,
}

#[derive(Serialize)]
struct Content<'a> {
    content_type: &'a str,
    parts: [&'a str; 1],
}

#[derive(Serialize)]
struct Empty {}

impl Turn<'_> {
    /// The turn as the site wants it, with a message id that no other turn has.
    pub fn body(&self) -> Bytes {
        let parent = self.place.map(|it| Cow::Borrowed(&*it.parent)).unwrap_or_else(|| new_id().into());
        let body = Body {
            action: "next",
            messages: [Message {
                id: new_id(),
                author: Author { role: "user" },
                content: Content { content_type: "text", parts: [self.text] },
                metadata: Empty {},
            }],
            model: self.model,
            parent_message_id: parent,
            conversation_id: self.place.map(|it| &*it.conversation),
            timezone_offset_min: 0,
            history_and_training_disabled: false,
        };
        // Text and numbers always have a form in JSON.
        serde_json::to_vec(&body).unwrap_or_default().into()
    }
}

/// An id as the site's messages have it.
fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The names of the models in the site's list, in its order; `None` if it is no list of models.
pub fn models(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct List {
        models: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        slug: String,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    let mut names: Vec<String> = Vec::new();
    for Model { slug } in list.models {
        if !names.contains(&slug) {
            names.push(slug);
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_turn_is_what_the_site_wants() {
        let place = Place { conversation: "c".into(), parent: "p".into() };
        let turn = Turn { text: "狐狸 \"🦊\"\u{2028}", model: "gpt-4o", place: Some(&place) };
        let mut body: Value = serde_json::from_slice(&turn.body()).unwrap();
        let id = body["messages"][0]["id"].take();
        assert_eq!(id.as_str().unwrap().len(), 36);
        assert_eq!(
            body,
            json!({
                "action": "next",
                "messages": [{"id": null, "author": {"role": "user"}, "metadata": {},
                              "content": {"content_type": "text", "parts": ["狐狸 \"🦊\"\u{2028}"]}}],
                "model": "gpt-4o", "parent_message_id": "p", "conversation_id": "c",
                "timezone_offset_min": 0, "history_and_training_disabled": false,
            })
        );
        let first: Value = serde_json::from_slice(&Turn { place: None, ..turn }.body()).unwrap();
        assert!(first.get("conversation_id").is_none() && first["parent_message_id"] != "p");
        assert_ne!(first["messages"][0]["id"], id);
    }

    #[test]
    fn models_are_listed_once() {
        let names = models(br#"{"models":[{"slug":"auto"},{"slug":"gpt-4o","title":"x"},{"slug":"auto"}]}"#);
        assert_eq!(names.unwrap(), ["auto", "gpt-4o"]);
        assert_eq!(models(b"{}"), None);
    }
}
