//! Faults as HTTP answers: the only file with status codes for them.
//!
//! An answer carries its fault along, for the log, where alone the private cause is written.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use serde_json::{Value, json};

use crate::error::{Fault, FaultKind, Sent};
use crate::openai::Invalid;
use crate::telemetry::metrics::NOT_A_STREAM;

/// The methods that a wrong one is answered with.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What an answer needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    version: Version,
    /// Whether some of its body has not been read.
    pub unread: bool,
}

impl Asked {
    /// Notes what was asked.
    pub fn of(request: &Request) -> Asked {
        Asked { version: request.version(), unread: !request.body().is_end_stream() }
    }

    /// The rest of a body is not worth reading, and the next request would come after it.
    fn close_if_unread(&self, response: &mut Response) {
        if self.unread && self.version < Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// The status that stands for `kind`.
fn status(kind: FaultKind) -> StatusCode {
    match kind {
        FaultKind::BadRequest => StatusCode::BAD_REQUEST,
        FaultKind::ForeignHost | FaultKind::ForeignOrigin | FaultKind::PathNotAllowed => {
            StatusCode::FORBIDDEN
        }
        FaultKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        FaultKind::KeyRequired | FaultKind::AdminRefused | FaultKind::OfficialKeyRequired => {
            StatusCode::UNAUTHORIZED
        }
        FaultKind::AdminClosed => StatusCode::FORBIDDEN,
        FaultKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FaultKind::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        FaultKind::Busy | FaultKind::NotKept => StatusCode::CONFLICT,
        FaultKind::QueueFull | FaultKind::TooManyAttempts | FaultKind::AccountsResting => {
            StatusCode::TOO_MANY_REQUESTS
        }
        FaultKind::NoAccount
        | FaultKind::QueueTimeout
        | FaultKind::NotReady
        | FaultKind::NeedsOperator
        | FaultKind::Challenged
        | FaultKind::SignInRequired
        | FaultKind::SharedStateLost
        | FaultKind::Draining
        | FaultKind::Stopped
        | FaultKind::SlowReader => StatusCode::SERVICE_UNAVAILABLE,
        FaultKind::PageLost
        | FaultKind::FetchFailed
        | FaultKind::RedirectedAway
        | FaultKind::SiteError
        | FaultKind::AnswerIncomplete
        | FaultKind::ApiUnreachable => StatusCode::BAD_GATEWAY,
        FaultKind::ApiTimeout => StatusCode::GATEWAY_TIMEOUT,
        FaultKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The status that stands for `fault`: of an error of the site's own, that error's.
pub fn status_of(fault: &Fault) -> StatusCode {
    let own = fault.site().and_then(|it| StatusCode::from_u16(it.status).ok());
    own.filter(|it| !it.is_success()).unwrap_or(status(fault.kind()))
}

/// Answers `asked` with `fault`, which goes along as an extension.
pub fn refuse(fault: &Fault, asked: &Asked) -> Response {
    let status = status_of(fault);
    let mut response = (status, Json(json!({ "error": describe(fault) }))).into_response();
    response.extensions_mut().insert(fault.clone());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(wait) = fault.wait() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
    }
    if fault.sent() == Sent::Maybe {
        // The official clients heed it: what the site may have acted on is not for them to repeat.
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    if fault.kind() == FaultKind::MethodNotAllowed {
        headers.insert(header::ALLOW, HeaderValue::from_static(METHODS));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    asked.close_if_unread(&mut response);
    response
}

/// Answers `asked` with a stream that says `fault`, for a client that reads nothing else: with success, since
/// its contract has no other way.
pub fn tell(fault: &Fault, asked: &Asked, headers: HeaderMap, stream: Vec<u8>) -> Response {
    let mut response = (headers, stream).into_response();
    response.extensions_mut().insert(fault.clone());
    asked.close_if_unread(&mut response);
    response
}

/// Answers a request of the official API that is not as it should be. Its words may repeat what was sent, which
/// is nothing for the log.
pub fn refuse_invalid(invalid: &Invalid, asked: &Asked) -> Response {
    let (code, param) = (invalid.code(), invalid.param().unwrap_or("the body"));
    let fault = Fault::new(FaultKind::BadRequest, format!("The request was refused: {code}, {param}."));
    let mut response = refuse(&fault, asked);
    if code == "model_not_found" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}

fn describe(fault: &Fault) -> Value {
    let mut error = json!({"code": fault.kind().code(), "message": fault.public()});
    if fault.sent() == Sent::Maybe {
        error["maybe_sent"] = true.into();
    }
    error
}

/// The event for a client that has a head already, with the status that it would have got.
pub fn fault_event(fault: &Fault) -> Bytes {
    let mut error = describe(fault);
    error["status"] = status_of(fault).as_u16().into();
    event(error)
}

/// The same for an answer of the site with this status, which is no event stream.
pub fn misfit_event(status: StatusCode) -> Bytes {
    let status = status.as_u16();
    let message = format!("The site answered with status {status} and no stream, after this one had begun.");
    event(json!({"code": NOT_A_STREAM, "message": message, "maybe_sent": true, "status": status}))
}

fn event(error: Value) -> Bytes {
    format!("data: {}\n\n", json!({ "error": error })).into()
}

/// Rounded up, as `Retry-After` has it: earlier would be too early.
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http_body_util::BodyExt;

    fn asked(body: &'static str) -> Asked {
        Asked::of(&Request::builder().uri("/backend-api/x?secret").body(Body::from(body)).unwrap())
    }

    async fn answer(fault: &Fault, asked: &Asked) -> (StatusCode, axum::http::HeaderMap, serde_json::Value) {
        let (parts, body) = refuse(fault, asked).into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_refusal_says_what_when_and_nothing_private() {
        let fault = Fault::new(FaultKind::QueueFull, "busy")
            .because("private")
            .retry_after(Duration::from_millis(1200));
        let (status, headers, body) = answer(&fault, &asked("")).await;
        assert_eq!(status, 429);
        assert_eq!(headers[header::RETRY_AFTER], "2");
        assert_eq!(body, json!({"error": {"code": "queue_full", "message": "busy"}}));
        assert!(!headers.contains_key(header::CONNECTION));
    }

    #[tokio::test]
    async fn what_may_have_been_sent_is_not_to_be_sent_again() {
        let fault = Fault::new(FaultKind::PageLost, "lost").maybe_sent();
        let (status, headers, body) = answer(&fault, &asked("")).await;
        assert_eq!(status, 502);
        assert_eq!(headers["x-should-retry"], "false");
        assert_eq!(body["error"]["maybe_sent"], true);
    }

    #[tokio::test]
    async fn an_unread_body_closes_the_connection() {
        let fault = Fault::new(FaultKind::TooLarge, "large");
        let (status, headers, _) = answer(&fault, &asked("some")).await;
        assert_eq!(
            (status, &headers[header::CONNECTION]),
            (StatusCode::PAYLOAD_TOO_LARGE, &"close".parse().unwrap())
        );
        let (_, headers, _) = answer(&fault, &Asked { version: Version::HTTP_2, unread: true }).await;
        assert!(!headers.contains_key(header::CONNECTION));
    }

    #[tokio::test]
    async fn a_wrong_method_is_told_the_right_ones() {
        let fault = Fault::new(FaultKind::MethodNotAllowed, "no");
        let (status, headers, _) = answer(&fault, &asked("")).await;
        assert_eq!(status, 405);
        assert!(headers[header::ALLOW].to_str().unwrap().contains("POST"));
    }
}
