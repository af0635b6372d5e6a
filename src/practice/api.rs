//! The site's small JSON routes: history, account, models, speech, session and counters.
//!
//! Plausible rather than complete: what a client reads is there, in the site's own shape.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::conversation::Conversation;
use super::pattern;
use super::reply::{Refusal, ok, with_type};
use super::routes::{Site, whole_body};

/// How long a spoken answer is, in bytes.
const SPEECH: usize = 64 * 1024;
/// The most conversations that one page of the list holds.
const MAX_LIMIT: usize = 100;

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    offset: Option<usize>,
    limit: Option<usize>,
}

/// `GET /conversations?offset&limit`.
pub(super) async fn conversations(State(site): State<Arc<Site>>, Query(page): Query<Page>) -> Response {
    let (offset, limit) = (page.offset.unwrap_or(0), page.limit.unwrap_or(20).min(MAX_LIMIT));
    let (total, conversations) = site.conversations.page(offset, limit);
    let items: Vec<Value> = conversations.iter().map(summary).collect();
    ok(&json!({"items": items, "total": total, "limit": limit, "offset": offset,
               "has_missing_conversations": false}))
}

/// `PATCH /conversations`: the only thing it can do is hide them all.
pub(super) async fn hide_all(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Refusal> {
    let change: Value = object(request).await?;
    if change["is_visible"] == false {
        site.conversations.hide_all();
    }
    Ok(ok(&json!({"success": true, "message": null})))
}

/// `GET /conversation/{id}`: the latest turn as a tree.
pub(super) async fn conversation(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let conversation = site.conversations.get(&id).ok_or(Refusal::UnknownConversation)?;
    let (asked, text) = &conversation.prompt;
    let answer = &conversation.answer;
    let mut value = summary(&conversation);
    value["conversation_id"] = json!(id);
    value["current_node"] = json!(answer);
    // For tests: what was asked in it, and how often by a turn that did not answer the latest message.
    value["practice"] = json!({"turns": conversation.turns, "strays": conversation.strays});
    value["mapping"] = json!({
        asked: {"id": asked, "parent": null, "children": [answer],
                "message": {"id": asked, "author": {"role": "user"},
                            "content": {"content_type": "text", "parts": [text]}}},
        answer: {"id": answer, "parent": asked, "children": [],
                 "message": {"id": answer, "author": {"role": "assistant"}, "end_turn": true,
                             "content": {"content_type": "text", "parts": [""]}}},
    });
    Ok(ok(&value))
}

/// `PATCH /conversation/{id}` with `{title}` or `{is_visible}`.
pub(super) async fn change(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let change: Value = object(request).await?;
    let known = site.conversations.change(&id, |conversation| {
        if let Some(title) = change["title"].as_str() {
            conversation.title = title.chars().take(200).collect();
        }
        conversation.visible = change["is_visible"].as_bool().unwrap_or(conversation.visible);
    });
    if known { Ok(ok(&json!({"success": true}))) } else { Err(Refusal::UnknownConversation) }
}

/// `POST /conversation/gen_title/{id}`.
pub(super) async fn gen_title(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    object(request).await?;
    let title = "A Practice Conversation";
    if !site.conversations.change(&id, |conversation| conversation.title = title.to_owned()) {
        return Err(Refusal::UnknownConversation);
    }
    Ok(ok(&json!({ "title": title })))
}

/// `POST /conversation/message_feedback`: says back what it was given.
pub(super) async fn feedback(request: Request) -> Result<Response, Refusal> {
    let given = object(request).await?;
    Ok(ok(&json!({"message_id": given["message_id"], "conversation_id": given["conversation_id"],
                  "rating": given["rating"], "user_id": "user-practice", "content": "{}"})))
}

/// `GET /models`.
pub(super) async fn models() -> Response {
    let model = |slug: &str, title: &str| {
        json!({"slug": slug, "title": title, "description": "", "max_tokens": 8191, "tags": [],
               "capabilities": {}, "product_features": {}})
    };
    ok(
        &json!({"models": [model("auto", "Auto"), model("gpt-4o", "Practice 4o"), model("gpt-4o-mini", "Practice mini")],
               "categories": [], "default_model_slug": "auto"}),
    )
}

/// `GET /accounts/check`.
pub(super) async fn account() -> Response {
    ok(&json!({"accounts": {"default": {"account": {"account_id": "account-practice", "plan_type": "free",
                "is_deactivated": false}, "features": [], "entitlement": {"has_active_subscription": false}}},
               "account_ordering": ["account-practice"]}))
}

/// `GET /me`.
pub(super) async fn me() -> Response {
    ok(&json!({"object": "user", "id": "user-practice", "email": "person@practice.test",
               "name": "Practice Person", "picture": null, "created": 1_700_000_000}))
}

/// `POST /sentinel/chat-requirements`.
pub(super) async fn requirements() -> Response {
    ok(&json!({"persona": "chatgpt-noauth", "token": "practice-requirements-token", "expire_after": 540,
               "proofofwork": {"required": false}, "turnstile": {"required": false}}))
}

#[derive(Debug, Deserialize)]
pub(super) struct Speech {
    voice: Option<String>,
}

/// `GET /synthesize`: the same bytes whatever is asked for. The voice `typed` has a type with parameters.
pub(super) async fn synthesize(Query(speech): Query<Speech>) -> Response {
    let kind = match speech.voice.as_deref() {
        Some("typed") => "audio/mpeg; rate=24000",
        _ => "audio/mpeg",
    };
    with_type(StatusCode::OK, kind, Bytes::from(pattern(0, SPEECH)))
}

/// `GET /api/auth/session`: who is signed in.
pub(super) async fn session(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    if !site.gate.is_signed_in(&headers) {
        return ok(&json!({}));
    }
    ok(&json!({
        "user": {"id": "user-practice", "name": "Practice Person", "email": "person@practice.test"},
        "expires": "2099-01-01T00:00:00.000Z",
        "accessToken": "practice-access-token",
        "authProvider": "practice",
    }))
}

/// `GET /practice/counters`.
pub(super) async fn counters(State(site): State<Arc<Site>>) -> Response {
    ok(&json!(site.tally.snapshot()))
}

/// `DELETE /practice/counters`: back to zero, for a benchmark in another process.
pub(super) async fn reset_counters(State(site): State<Arc<Site>>) -> Response {
    site.tally.reset();
    ok(&json!({}))
}

/// The JSON body of a request; an empty one is an empty object.
async fn object(request: Request) -> Result<Value, Refusal> {
    let body = whole_body(request).await?;
    if body.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(&body).map_err(|error| Refusal::invalid(json!(["body"]), error.to_string()))
}

fn summary(conversation: &Conversation) -> Value {
    let created = conversation.created as f64 / 1e6;
    let title = if conversation.title.is_empty() { "New chat" } else { &conversation.title };
    json!({"id": conversation.id, "title": title, "create_time": created, "update_time": created})
}
