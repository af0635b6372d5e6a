//! Answers in the site's own shapes, and its refusals by name.
//!
//! The only file of the practice site in which a refusal becomes a status.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::unix_micros;

/// Request bodies above this many bytes are refused, never buffered.
pub(super) const MAX_BODY: usize = 64 << 20;

/// Why a request gets no answer of its own.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The body exceeds [`MAX_BODY`], or its client went away while sending it.
    TooLarge,
    /// The body is not what the route wants: where, and what is wrong with it.
    Invalid { loc: Value, message: String },
    /// The route wants a sign-in.
    Unauthorized,
    /// No page of this origin can have sent the request.
    NotSameOrigin,
    /// The conversation id was never given out.
    UnknownConversation,
    /// The conversation is still being answered.
    OneAtATime,
    /// Nothing is there.
    NotFound,
    /// The route exists, with another method.
    WrongMethod,
    /// The result of a bot check was not accepted; the word says why.
    CheckFailed(&'static str),
}

impl Refusal {
    /// A malformed body, at `loc` (FastAPI's list of keys and indexes).
    pub fn invalid(loc: Value, message: impl Into<String>) -> Self {
        Self::Invalid { loc, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::TooLarge => detail(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large"),
            Self::Invalid { loc, message } => json(
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!({"detail": [{"loc": loc, "msg": message, "type": "value_error"}]}),
            ),
            Self::Unauthorized => detail(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::NotSameOrigin => detail(StatusCode::FORBIDDEN, "Not sent by a page of this site"),
            Self::UnknownConversation => coded(
                StatusCode::NOT_FOUND,
                "Can't load conversation: it does not exist",
                "conversation_not_found",
            ),
            Self::OneAtATime => detail(
                StatusCode::TOO_MANY_REQUESTS,
                "Only one message at a time. Please allow any other responses to complete before sending another \
                 message, or wait one minute.",
            ),
            Self::NotFound => detail(StatusCode::NOT_FOUND, "Not Found"),
            Self::WrongMethod => detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
            Self::CheckFailed(why) => detail(StatusCode::FORBIDDEN, why),
        }
    }
}

/// A JSON answer that nobody caches.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    with_type(status, "application/json", value.to_string())
}

/// A JSON answer of status 200.
pub(super) fn ok(value: &Value) -> Response {
    json(StatusCode::OK, value)
}

/// `{"detail": "…"}`.
pub(super) fn detail(status: StatusCode, text: &str) -> Response {
    json(status, &json!({ "detail": text }))
}

/// `{"detail": {"message": "…", "code": "…"}}`.
pub(super) fn coded(status: StatusCode, message: &str, code: &str) -> Response {
    json(status, &json!({"detail": {"message": message, "code": code}}))
}

/// A page.
pub(super) fn html(status: StatusCode, page: impl Into<Body>) -> Response {
    with_type(status, "text/html; charset=utf-8", page)
}

/// Any answer with a content-type, not to be cached.
pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The error that the knob `status` asks for; 403 is the gate's challenge page and not made here.
pub(super) fn asked_error(status: u16, retry_after: u64) -> Response {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match status {
        401 => Refusal::Unauthorized.into_response(),
        404 => Refusal::UnknownConversation.into_response(),
        413 => Refusal::TooLarge.into_response(),
        422 => Refusal::invalid(json!(["body", "messages"]), "the practice site was asked to refuse this")
            .into_response(),
        429 => {
            let message = "You have sent too many messages to the model. Please try again later.";
            let mut response = coded(code, message, "model_cap_exceeded");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
            response
        }
        500.. => {
            let reason = code.canonical_reason().unwrap_or("Error");
            html(
                code,
                format!("<html><head><title>{status} {reason}</title></head><body>{reason}</body></html>"),
            )
        }
        _ => detail(code, code.canonical_reason().unwrap_or("Error")),
    }
}

/// A random id in the shape of a version 4 UUID.
pub(super) fn new_id() -> String {
    let mut bytes = [0u8; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Ids here only have to differ; the clock does when the system has no randomness.
        bytes = u128::from(unix_micros()).to_be_bytes();
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|nibble| DIGITS[usize::from(nibble)] as char).collect()
}
