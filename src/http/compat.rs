//! The routes of earlier systems, as other names of our own: their paths are rewritten before a route is chosen,
//! so that they end in the same handlers, and errors are put into the form that their clients read.
//!
//! | earlier route | ours |
//! |---|---|
//! | `/chatgpt/backend-api/*` | `/backend-api/*` |
//! | `/chatgpt/{conversation, conversations, models, accounts/check}` and below | `/backend-api/…` |
//! | a POST where the site wants PATCH (clients that cannot send PATCH) | PATCH |
//! | `X-Authorization` | `Authorization`, where that is missing |
//!
//! Knows nothing of what the routes do.

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Value, json};

use super::reply::{self, Asked};
use super::{path, shape};
use crate::error::{Fault, FaultKind};

const X_AUTHORIZATION: HeaderName = HeaderName::from_static("x-authorization");

/// A longer error of the site's is passed on as it is.
const ERROR: usize = 64 * 1024;

/// A request that came under an earlier system's name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alias;

/// Puts our own name in place of an earlier one, and its form on what went wrong.
pub(super) async fn layer(mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_alias = is_below(path, "/chatgpt");
    if is_alias || is_below(path, "/platform") {
        let headers = request.headers_mut();
        let is_blank =
            headers.get(header::AUTHORIZATION).is_none_or(|it| it.as_bytes().trim_ascii().is_empty());
        if let (Some(value), true) = (headers.remove(X_AUTHORIZATION), is_blank) {
            headers.insert(header::AUTHORIZATION, value);
        }
    }
    if !is_alias {
        return next.run(request).await;
    }
    let asked = Asked::of(&request);
    let whole = request.uri().path_and_query().map_or("/", |it| it.as_str());
    if let Some((method, path)) = rewrite(request.method(), whole)
        && let Some(uri) = path::with_path(request.uri(), &path)
    {
        *request.method_mut() = method;
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(Alias);
    let response = next.run(request).await;
    if let Some(fault) = response.extensions().get::<Fault>() {
        let told = json!({"errorMessage": fault.public()});
        return shape::with_json(response, &told);
    }
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    if is_error { retold(response, &asked).await } else { response }
}

/// An error of the site's own, with its sentence where these clients look for it, and all that it had.
async fn retold(response: Response, asked: &Asked) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |it| it.as_bytes());
    if !kind.starts_with(b"application/json") {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, ERROR).await else {
        let text = "The site's answer, an error, broke off or is too long.";
        return reply::refuse(&Fault::new(FaultKind::FetchFailed, text).maybe_sent(), asked);
    };
    match serde_json::from_slice::<Value>(&body) {
        Ok(Value::Object(mut error)) => {
            let detail = error.get("detail").or(error.get("error"));
            let words = detail.and_then(|it| {
                it.as_str().or(it["message"].as_str()).or(it.pointer("/0/msg").and_then(Value::as_str))
            });
            let words = words.unwrap_or("The site refused the request.").to_owned();
            error.entry("errorMessage").or_insert(words.into());
            shape::with_json(Response::from_parts(parts, Body::empty()), &Value::Object(error))
        }
        _ => Response::from_parts(parts, Body::from(body)),
    }
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

/// Our own method and target for an earlier one; `None` where there is none.
fn rewrite(method: &Method, target: &str) -> Option<(Method, String)> {
    let rest = target.strip_prefix("/chatgpt/")?;
    let (path, _) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    if path.starts_with("backend-api/") {
        return Some((method.clone(), format!("/{rest}")));
    }
    let segments: Vec<_> = path.split('/').collect();
    let is_known = matches!(
        segments[..],
        ["conversation" | "conversations" | "models"]
            | ["accounts", "check"]
            | ["conversation", _]
            | ["conversation", "gen_title", _]
    );
    let changes = match segments[..] {
        ["conversations"] => true,
        ["conversation", id] => id != "message_feedback",
        _ => false,
    };
    let method = if changes && method == Method::POST { Method::PATCH } else { method.clone() };
    is_known.then(|| (method, format!("/backend-api/{rest}")))
}

/// `/ping`, by which the clients of one of them look whether it is there.
pub(super) async fn ping() -> (StatusCode, Json<Value>) {
    (StatusCode::OK, Json(json!({"message": "pong"})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_names_are_names_of_ours() {
        for (method, target, expected) in [
            ("POST", "/chatgpt/conversation", Some(("POST", "/backend-api/conversation"))),
            (
                "GET",
                "/chatgpt/conversations?offset=0&limit=20",
                Some(("GET", "/backend-api/conversations?offset=0&limit=20")),
            ),
            ("PATCH", "/chatgpt/conversations", Some(("PATCH", "/backend-api/conversations"))),
            ("POST", "/chatgpt/conversations", Some(("PATCH", "/backend-api/conversations"))),
            ("GET", "/chatgpt/conversation/a-b", Some(("GET", "/backend-api/conversation/a-b"))),
            ("PATCH", "/chatgpt/conversation/a-b", Some(("PATCH", "/backend-api/conversation/a-b"))),
            ("POST", "/chatgpt/conversation/a-b?x", Some(("PATCH", "/backend-api/conversation/a-b?x"))),
            (
                "POST",
                "/chatgpt/conversation/gen_title/a-b",
                Some(("POST", "/backend-api/conversation/gen_title/a-b")),
            ),
            (
                "POST",
                "/chatgpt/conversation/message_feedback",
                Some(("POST", "/backend-api/conversation/message_feedback")),
            ),
            ("GET", "/chatgpt/models", Some(("GET", "/backend-api/models"))),
            ("GET", "/chatgpt/accounts/check", Some(("GET", "/backend-api/accounts/check"))),
            ("POST", "/chatgpt/backend-api/x/y?z", Some(("POST", "/backend-api/x/y?z"))),
            (
                "GET",
                "/chatgpt/backend-api/../api/auth/session",
                Some(("GET", "/backend-api/../api/auth/session")),
            ),
            ("POST", "/chatgpt/login", None),
            ("GET", "/chatgpt/../api/auth/session", None),
            ("GET", "/chatgpt/conversation/a/b/c", None),
            ("GET", "/chatgpt", None),
            ("GET", "/backend-api/x", None),
        ] {
            let got = rewrite(&method.parse().unwrap(), target);
            let got = got.as_ref().map(|(method, path)| (method.as_str(), path.as_str()));
            assert_eq!(got, expected, "{method} {target}");
        }
    }
}
