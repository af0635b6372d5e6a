//! The pass-through: a request goes into the page as it came, and the answer comes out as it is.
//!
//! Everything lives in the handler's future and then in the body, and nothing is spawned: when the client
//! leaves, dropping them frees the place in the queue, the permit, and the fetch in the page.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::body::ExchangeBody;
use super::reply::{self, Asked};
use super::upload::{self, Upload};
use super::{App, headers, path};
use crate::admission::Permit;
use crate::error::{Fault, FaultKind};
use crate::exchange::{Exchange, Head, PageRequest};
use crate::telemetry::metrics::Outcome;

/// A body up to this size is read before the wait for a permit: only then does the connection show that
/// its client has left. Larger ones wait outside, for the sake of memory.
const READ_EARLY: u64 = 64 * 1024;

/// Answers a request that goes through the page.
pub(super) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let arrived = Instant::now();
    let ending = app.metrics.begin();
    let mut asked = Asked::of(&request);
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(body, app.policy.max_body, app.metrics.clone());
    let fault = match pass(&app, &parts, &mut upload, arrived).await {
        Ok(Passed { head, status, mut exchange, permit }) => {
            app.metrics.head_after(arrived.elapsed());
            let origin = head.headers.iter().any(|(name, _)| name == "location");
            let origin = origin.then(|| app.browser.status().origin).flatten();
            let headers = headers::to_client(&head, origin.as_deref(), &app.policy.allow_headers);
            if !has_body(&parts.method, status) {
                match drain(&mut exchange).await {
                    Ok(()) => {
                        ending.end(Outcome::Complete);
                        return (status, headers).into_response();
                    }
                    Err(fault) => fault,
                }
            } else {
                let metrics = app.metrics.clone();
                let body = ExchangeBody::new(exchange, permit, ending, metrics, asked, status.as_u16());
                return (status, headers, Body::new(body)).into_response();
            }
        }
        Err(fault) => fault,
    };
    ending.end(Outcome::Fault(fault.kind()));
    asked.unread = !upload.is_read();
    reply::refuse(&fault, &asked)
}

struct Passed {
    head: Head,
    status: StatusCode,
    exchange: Exchange,
    permit: Permit,
}

async fn pass(app: &App, parts: &Parts, upload: &mut Upload, arrived: Instant) -> Result<Passed, Fault> {
    let declared = check(parts, app.policy.max_body)?;
    let path = path::check(&parts.uri, parts.version, &app.policy.allow_paths)?;
    let deadline = arrived + app.policy.queue_wait;
    if is_bodyless(&parts.method) {
        // Some clients send an empty chunked body with a GET: nothing is lost without it.
        upload.read_nothing().await.map_err(|fault| match fault.kind() {
            FaultKind::TooLarge => body_with_get(),
            _ => fault,
        })?;
    }
    if declared.is_some_and(|length| length <= READ_EARLY) {
        upload.read().await?;
    }
    let permit = app.admission.enter(deadline).await?;
    upload.read().await?;
    // Lets the connection look whether the client is still there, before anything irrevocable happens.
    tokio::task::yield_now().await;
    let request = PageRequest {
        method: parts.method.as_str().to_owned(),
        path,
        headers: headers::to_page(&parts.headers, &app.policy.allow_headers),
        body: upload.take_pieces(),
    };
    let (head, exchange) = app.browser.fetch(request, deadline).await?;
    let status = StatusCode::from_u16(head.status).map_err(|error| {
        Fault::new(FaultKind::Internal, "The site's answer has no valid status.").maybe_sent().because(error)
    })?;
    Ok(Passed { head, status, exchange, permit })
}

/// Judges method and declared length; returns the latter.
fn check(parts: &Parts, max_body: usize) -> Result<Option<u64>, Fault> {
    // Case is ignored as `fetch` does it.
    if ["CONNECT", "TRACE", "TRACK"].iter().any(|it| parts.method.as_str().eq_ignore_ascii_case(it)) {
        return Err(Fault::new(FaultKind::MethodNotAllowed, "A browser cannot send this method."));
    }
    // The HTTP library has refused what is no number, and lengths that contradict each other.
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let declared = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match declared {
        Some(1..) if is_bodyless(&parts.method) => Err(body_with_get()),
        Some(length) if length > max_body as u64 => Err(upload::too_large(max_body)),
        declared => Ok(declared),
    }
}

fn is_bodyless(method: &Method) -> bool {
    ["GET", "HEAD"].iter().any(|it| method.as_str().eq_ignore_ascii_case(it))
}

fn body_with_get() -> Fault {
    Fault::new(FaultKind::BadRequest, "A browser cannot send a body with GET or HEAD.")
}

/// Whether an answer can have a body, by the rules of HTTP.
fn has_body(method: &Method, status: StatusCode) -> bool {
    let is_null =
        [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    !is_null && !method.as_str().eq_ignore_ascii_case("HEAD")
}

/// Waits for the end of an answer without a body. The server would drop such a body unread, and then it
/// would look as if the client had left.
async fn drain(exchange: &mut Exchange) -> Result<(), Fault> {
    while let Some(chunk) = exchange.chunk().await {
        chunk?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, length: Option<&str>) -> Result<Option<u64>, FaultKind> {
        let mut request = Request::builder().method(method).uri("/");
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        let (parts, _) = request.body(Body::empty()).unwrap().into_parts();
        check(&parts, 100).map_err(|fault| fault.kind())
    }

    #[test]
    fn methods_and_lengths() {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND", "X-Y"] {
            assert_eq!(ask(method, None), Ok(None), "{method}");
        }
        for method in ["CONNECT", "TRACE", "TRACK", "trace", "Track"] {
            assert_eq!(ask(method, None), Err(FaultKind::MethodNotAllowed), "{method}");
        }
        for (method, length, expected) in [
            ("GET", "0", Ok(Some(0))),
            ("GET", "1", Err(FaultKind::BadRequest)),
            ("head", "1", Err(FaultKind::BadRequest)),
            ("DELETE", "1", Ok(Some(1))),
            ("POST", "100", Ok(Some(100))),
            ("POST", "101", Err(FaultKind::TooLarge)),
            ("POST", "18446744073709551615", Err(FaultKind::TooLarge)),
        ] {
            assert_eq!(ask(method, Some(length)), expected, "{method} {length}");
        }
    }

    #[test]
    fn answers_without_a_body() {
        assert!(has_body(&Method::GET, StatusCode::OK));
        assert!(has_body(&Method::POST, StatusCode::NOT_FOUND));
        assert!(!has_body(&Method::HEAD, StatusCode::OK));
        for status in [204, 205, 304] {
            assert!(!has_body(&Method::GET, StatusCode::from_u16(status).unwrap()));
        }
    }
}
