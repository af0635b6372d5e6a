//! The pass-through: a request goes into the page as it came, and the answer comes out as it is.
//!
//! Everything lives in the handler's future and then in the body, and nothing is spawned: when the client
//! leaves, dropping them frees the place in the queue, the permit, and the fetch in the page.
//!
//! A client that reads event streams is not left in silence: if the site has not answered by the first
//! ping, the answer begins with a head of ours, and the wait goes on in the body. That is only done once
//! the whole request is here: a proxy in front stops sending it when an answer begins.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::access::Caller;
use super::body::{Account, Answer, AnswerBody};
use super::pulse::{self, Pulse};
use super::reply::{self, Asked};
use super::upload::{self, Upload};
use super::{App, headers, path};
use crate::admission::Permit;
use crate::error::{Fault, FaultKind};
use crate::exchange::{Exchange, PageRequest};
use crate::telemetry::metrics::Outcome;

/// So much of a body is read before the wait for a permit. Only if that was all of it does the connection
/// show that its client has left, and can there be pings; the rest waits outside, for the sake of memory.
const READ_EARLY: usize = 64 * 1024;

/// Answers a request that goes through the page.
pub(super) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let arrived = Instant::now();
    let ending = app.metrics.begin();
    let mut asked = Asked::of(&request);
    let (parts, body) = request.into_parts();
    let caller = Caller::of(&parts.extensions);
    let mut upload = Upload::new(body, app.policy.max_body, app.metrics.clone());
    let prepared = match prepare(&app, &parts, caller, &mut upload, arrived).await {
        Ok(prepared) => prepared,
        Err(fault) => {
            ending.end(Outcome::Fault(fault.kind()));
            asked.unread = !upload.is_read();
            return reply::refuse(&fault, &asked);
        }
    };
    asked.unread = false;
    let account = Account { ending, metrics: app.metrics.clone() };
    let every = app.policy.ping.filter(|_| pulse::is_wanted(&parts.method, &parts.headers));
    let answer = perform(app, prepared, arrived);
    let Some(every) = every else {
        return respond(answer.await, &parts.method, None, account, asked).await;
    };
    let mut answer = answer.boxed();
    let mut pulse = Pulse::new(every, arrived.into());
    tokio::select! {
        biased;
        answer = &mut answer => respond(answer, &parts.method, Some(pulse), account, asked).await,
        () = pulse.due() => begin_early(answer, pulse, account),
    }
}

/// A request that is checked and in whole: nothing more is wanted of its client.
struct Prepared {
    request: PageRequest,
    /// Its place, if it has one already.
    permit: Option<Permit>,
    caller: Caller,
}

async fn prepare(
    app: &App,
    parts: &Parts,
    caller: Caller,
    upload: &mut Upload,
    arrived: Instant,
) -> Result<Prepared, Fault> {
    check(parts, app.policy.max_body)?;
    let path = path::check(&parts.uri, parts.version, &caller.paths(&app.policy.allow_paths))?;
    if is_bodyless(&parts.method) {
        // Some clients send an empty chunked body with a GET: nothing is lost without it.
        upload.read_nothing().await.map_err(|fault| match fault.kind() {
            FaultKind::TooLarge => body_with_get(),
            _ => fault,
        })?;
    }
    upload.read_until(READ_EARLY).await?;
    let mut permit = None;
    if !upload.is_read() {
        permit = Some(app.admission.enter(arrived + app.policy.queue_wait).await?);
        upload.read().await?;
    }
    let request = PageRequest {
        method: parts.method.as_str().to_owned(),
        path,
        headers: headers::to_page(&parts.headers, &app.policy.allow_headers),
        body: upload.take_pieces(),
        keyed: caller.keyed,
    };
    Ok(Prepared { request, permit, caller })
}

/// Waits for a place, if it has none, for a page, and for the head of the site's answer.
async fn perform(app: Arc<App>, prepared: Prepared, arrived: Instant) -> Result<Answer, Fault> {
    let deadline = arrived + app.policy.queue_wait;
    let mut permit = match prepared.permit {
        Some(permit) => permit,
        None => app.admission.enter(deadline).await?,
    };
    // Lets the connection look whether the client is still there, before anything irrevocable happens.
    tokio::task::yield_now().await;
    let Prepared { mut request, caller, .. } = prepared;
    if caller.uses_page {
        app.signed.authorize(&mut request, &app.browser, deadline).await?;
    }
    let (head, exchange) = app.browser.fetch(request, deadline).await?;
    caller.answered(&head);
    if head.status == 401 && caller.uses_page {
        app.signed.forget().await;
    }
    permit.carry(caller.lease());
    let status = StatusCode::from_u16(head.status).map_err(|error| {
        Fault::new(FaultKind::Internal, "The site's answer has no valid status.").maybe_sent().because(error)
    })?;
    app.metrics.head_after(arrived.elapsed());
    let origin = head.headers.iter().any(|(name, _)| name == "location");
    let origin = origin.then(|| app.browser.status().origin).flatten();
    let headers = headers::to_client(&head, origin.as_deref(), &app.policy.allow_headers);
    Ok(Answer { status, headers, exchange, permit })
}

/// The site's own head, and the rest of its answer.
async fn respond(
    answer: Result<Answer, Fault>,
    method: &Method,
    pulse: Option<Pulse>,
    account: Account,
    asked: Asked,
) -> Response {
    let fault = match answer {
        Ok(Answer { status, headers, exchange, permit }) if has_body(method, status) => {
            let pulse = pulse.filter(|_| headers::is_event_stream(&headers));
            let body = AnswerBody::new(exchange, permit, pulse, account);
            return (status, headers, Body::new(body)).into_response();
        }
        Ok(Answer { status, headers, mut exchange, permit: _permit }) => match drain(&mut exchange).await {
            Ok(()) => {
                account.ending.end(Outcome::Complete);
                return (status, headers).into_response();
            }
            Err(fault) => fault,
        },
        Err(fault) => fault,
    };
    account.ending.end(Outcome::Fault(fault.kind()));
    reply::refuse(&fault, &asked)
}

/// An event stream that begins before the site has answered, so that its client does not give up.
fn begin_early(
    answer: BoxFuture<'static, Result<Answer, Fault>>,
    pulse: Pulse,
    account: Account,
) -> Response {
    let body = AnswerBody::early(answer, pulse, account);
    (headers::of_event_stream(), Body::new(body)).into_response()
}

/// Judges method and declared length.
fn check(parts: &Parts, max_body: usize) -> Result<(), Fault> {
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
        _ => Ok(()),
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

    fn ask(method: &str, length: Option<&str>) -> Result<(), FaultKind> {
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
            assert_eq!(ask(method, None), Ok(()), "{method}");
        }
        for method in ["CONNECT", "TRACE", "TRACK", "trace", "Track"] {
            assert_eq!(ask(method, None), Err(FaultKind::MethodNotAllowed), "{method}");
        }
        for (method, length, expected) in [
            ("GET", "0", Ok(())),
            ("GET", "1", Err(FaultKind::BadRequest)),
            ("head", "1", Err(FaultKind::BadRequest)),
            ("DELETE", "1", Ok(())),
            ("POST", "100", Ok(())),
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
