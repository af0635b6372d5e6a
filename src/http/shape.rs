//! Faults in the form that the official API's clients read.
//!
//! They want `type` and `param` beside what our own form has. Everything else of the answer, headers and status,
//! is as [`reply::refuse`] makes it.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use super::reply::{self, Asked};
use crate::error::Fault;

/// Whether clients of the official API use this path.
pub(super) fn is_official(path: &str) -> bool {
    ["/v1", "/platform"]
        .iter()
        .any(|it| path.strip_prefix(it).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Answers what was asked under `path` with `fault`, in the form that its clients read.
pub(super) fn refuse(fault: &Fault, asked: &Asked, path: &str) -> Response {
    let response = reply::refuse(fault, asked);
    if !is_official(path) {
        return response;
    }
    let kind = match response.status() {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    let error = json!({"message": fault.public(), "type": kind, "param": null, "code": fault.kind().code()});
    with_json(response, &json!({ "error": error }))
}

/// The same answer with another body.
pub(super) fn with_json(mut response: Response, body: &serde_json::Value) -> Response {
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *response.body_mut() = Body::from(body.to_string());
    response
}
