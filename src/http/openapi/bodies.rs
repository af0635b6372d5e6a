//! What the bodies of requests and errors look like, where nothing of ours reads them as a type: the site's own,
//! which pass as they are, and what the admin's routes and errors are made of.

// Only their shapes are used.
#![allow(dead_code)]

use utoipa::ToSchema;

/// A turn of a conversation, as the site's own page sends it.
#[derive(ToSchema)]
pub struct Turn {
    /// `next`.
    action: String,
    /// The new message.
    #[schema(min_items = 1)]
    messages: Vec<SiteMessage>,
    /// One of `/backend-api/models`; `auto` leaves it to the site.
    model: String,
    /// The message that this one follows.
    parent_message_id: String,
    /// Missing in the first turn of a conversation.
    conversation_id: Option<String>,
}

/// A message, as the site has them.
#[derive(ToSchema)]
pub struct SiteMessage {
    /// A UUID, and a new one for each message.
    id: String,
    /// Filled in where it is missing.
    author: Option<Author>,
    content: SiteContent,
}

/// Who says it.
#[derive(ToSchema)]
pub struct Author {
    /// `user`.
    role: String,
}

/// What it says.
#[derive(ToSchema)]
pub struct SiteContent {
    /// `text`.
    content_type: String,
    #[schema(min_items = 1)]
    parts: Vec<String>,
}

/// A change of one conversation.
#[derive(ToSchema)]
pub struct Change {
    /// False hides it.
    is_visible: Option<bool>,
    title: Option<String>,
}

/// A change of all conversations.
#[derive(ToSchema)]
pub struct ChangeAll {
    /// False hides them.
    is_visible: bool,
}

/// Which answer a title is made of.
#[derive(ToSchema)]
pub struct GenTitle {
    message_id: String,
}

/// What somebody thinks of an answer.
#[derive(ToSchema)]
pub struct Feedback {
    message_id: String,
    conversation_id: String,
    /// `thumbsUp` or `thumbsDown`.
    rating: String,
}

/// The accounts that have no names, from now on.
#[derive(ToSchema)]
pub struct Tokens(Vec<Token>);

/// A token of the site's, alone or with a cookie that is not needed.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Token {
    Alone(String),
    With { token: String, puid: Option<String> },
}

/// Another admin password, until the process ends.
#[derive(ToSchema)]
pub struct NewPassword {
    #[schema(min_length = 1)]
    password: String,
}

/// A cookie that is not needed: the browser has its own.
#[derive(ToSchema)]
pub struct Puid {
    puid: String,
}

/// What went wrong.
#[derive(ToSchema)]
pub struct Fault {
    error: FaultBody,
}

/// One fault.
#[derive(ToSchema)]
pub struct FaultBody {
    /// The stable word for it.
    code: String,
    /// One sentence for people.
    message: String,
    /// The site may have seen the request.
    maybe_sent: Option<bool>,
}

/// What went wrong, in the official API's form.
#[derive(ToSchema)]
pub struct OfficialError {
    error: crate::openai::ErrorBody,
}

/// What went wrong, in the form of an earlier system.
#[derive(ToSchema)]
pub struct EarlierError {
    /// One sentence for people.
    #[schema(rename = "errorMessage")]
    error_message: String,
}
