//! The pass-through: a request goes into the page as it came, and the answer comes out as it is.
//!
//! Everything lives in the handler's future and then in the body, and nothing is spawned: when the client
//! leaves, dropping them frees the place in the queue, the permit, and the fetch in the page.
//!
//! A client that reads event streams is not left in silence: if the site has not answered by the first
//! ping, the answer begins with a head of ours, and the wait goes on in the body. That is only done once
//! the whole request is here: a proxy in front stops sending it when an answer begins.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
use super::{App, headers, home, path};
use crate::admission::Permit;
use crate::browser::{Miss, Seat, Wish};
use crate::error::{Fault, FaultKind};
use crate::exchange::{Exchange, Head, Leaves, PageRequest};
use crate::telemetry::metrics::Outcome;
use crate::translate::Translate;

/// So much of a body is read before the wait for a permit. Only if that was all of it does the connection
/// show that its client has left, and can there be pings; the rest waits outside, for the sake of memory.
pub(super) const READ_EARLY: usize = 64 * 1024;

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
    let every = beat(&app, &parts);
    let answer = perform(app, prepared, arrived);
    deliver(answer, Asking { method: parts.method, every, arrived, account, asked, translator: None }).await
}

/// How often this caller is to get pings.
pub(super) fn beat(app: &App, parts: &Parts) -> Option<Duration> {
    app.policy.ping.filter(|_| pulse::is_wanted(&parts.method, &parts.headers))
}

/// What an answer's delivery needs to know of its request.
pub(super) struct Asking {
    /// How it was asked.
    pub method: Method,
    /// How often there are to be pings.
    pub every: Option<Duration>,
    /// When it was asked.
    pub arrived: Instant,
    /// Where it is counted.
    pub account: Account,
    /// What a refusal needs.
    pub asked: Asked,
    /// What stands between the site's stream and a client that reads another format.
    pub translator: Option<Box<dyn Translate>>,
}

/// Answers with what `answer` brings, and with pings until then.
pub(super) async fn deliver(
    answer: impl Future<Output = Result<Answer, Fault>> + Send + 'static,
    asking: Asking,
) -> Response {
    let Some(every) = asking.every else {
        return respond(answer.await, None, asking).await;
    };
    let mut answer = answer.boxed();
    let mut pulse = Pulse::new(every, asking.arrived.into());
    tokio::select! {
        biased;
        answer = &mut answer => respond(answer, Some(pulse), asking).await,
        () = pulse.due() => begin_early(answer, pulse, asking),
    }
}

/// A request that is checked and in whole: nothing more is wanted of its client.
pub(super) struct Prepared {
    /// What the page is to perform.
    pub request: PageRequest,
    /// Its place, if it has one already.
    pub permit: Option<Permit>,
    /// Who asks.
    pub caller: Caller,
}

/// Checks a request and reads its body.
pub(super) async fn prepare(
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
        leaves: Leaves::default(),
    };
    Ok(Prepared { request, permit, caller })
}

/// Waits for a place, for a page, and for the head of the site's answer.
pub(super) async fn perform(app: Arc<App>, prepared: Prepared, arrived: Instant) -> Result<Answer, Fault> {
    let permit = admit(&app, prepared.permit, arrived).await?;
    send(app, prepared.request, permit, prepared.caller, arrived).await
}

/// Waits for a place, unless there is one already.
pub(super) async fn admit(app: &App, permit: Option<Permit>, arrived: Instant) -> Result<Permit, Fault> {
    match permit {
        Some(permit) => Ok(permit),
        None => Ok(app.admission.enter(arrived + app.policy.queue_wait).await?),
    }
}

/// Waits for a page, and for the head of the site's answer.
pub(super) async fn send(
    app: Arc<App>,
    mut request: PageRequest,
    mut permit: Permit,
    mut caller: Caller,
    arrived: Instant,
) -> Result<Answer, Fault> {
    let deadline = arrived + app.policy.queue_wait;
    // Lets the connection look whether the client is still there, before anything irrevocable happens.
    tokio::task::yield_now().await;
    caller.settle(&app.gate, &mut request).await?;
    let conversation = (app.browser.count() > 1).then(|| home::conversation_of(&request)).flatten();
    let home = conversation.as_ref().and_then(|it| app.homes.of(it));
    let mut wish = Wish { home, signed_in: caller.uses_page, missed: None };
    let (head, mut exchange, browser) = loop {
        let seat = app.browser.choose(&wish, deadline).await?;
        let browser = seat.number();
        match perform_in(&app, seat, &mut request, &caller, deadline).await {
            Ok((head, exchange)) => break (head, exchange, browser),
            Err(Miss::Fault(fault)) => return Err(fault),
            Err(Miss::Unsent(missed)) => wish.missed = Some(missed),
        }
    };
    caller.answered(&head);
    follow(&app, &caller, browser, &head, &mut exchange);
    if let Some(conversation) = conversation.filter(|_| (200..300).contains(&head.status)) {
        app.homes.remember(&conversation, browser);
    }
    if head.status == 401 && caller.uses_page {
        app.signed.forget(browser).await;
    }
    permit.carry(caller.lease());
    let status = StatusCode::from_u16(head.status).map_err(|error| {
        Fault::new(FaultKind::Internal, "The site's answer has no valid status.").maybe_sent().because(error)
    })?;
    app.metrics.head_after(arrived.elapsed());
    let origin = head.headers.iter().any(|(name, _)| name == "location");
    let origin = origin.then(|| app.browser.get(browser)?.status().origin).flatten();
    let headers = headers::to_client(&head, origin.as_deref(), &app.policy.allow_headers);
    Ok(Answer { status, headers, exchange, permit })
}

/// Performs a request in the browser that was chosen for it, with that one's own sign-in if it relies on it.
async fn perform_in(
    app: &App,
    seat: Seat,
    request: &mut PageRequest,
    caller: &Caller,
    deadline: Instant,
) -> Result<(Head, Exchange), Miss> {
    if caller.uses_page {
        app.signed.authorize(request, &seat, deadline).await?;
    }
    caller.asks();
    seat.fetch(request, deadline).await
}

/// Notes which conversation an answer begins or goes on with, as it passes, where that matters for the next turn.
fn follow(app: &App, caller: &Caller, browser: usize, head: &Head, exchange: &mut Exchange) {
    let account = caller.note(&app.gate);
    let homes = (app.browser.count() > 1).then(|| app.homes.clone());
    // A stream names its conversation.
    if !headers::is_head_of_event_stream(head) || account.is_none() && homes.is_none() {
        return;
    }
    exchange.watch(home::watch(move |conversation| {
        if let Some(note) = &account {
            note(conversation);
        }
        if let Some(homes) = &homes {
            homes.remember(conversation, browser);
        }
    }));
}

/// The site's own head, and the rest of its answer.
async fn respond(answer: Result<Answer, Fault>, pulse: Option<Pulse>, asking: Asking) -> Response {
    let Asking { method, account, asked, translator, .. } = asking;
    let fault = match answer {
        Ok(Answer { status, headers, exchange, permit }) if has_body(&method, status) => {
            let is_stream = headers::is_event_stream(&headers);
            let body = AnswerBody::new(exchange, permit, pulse.filter(|_| is_stream), account);
            let mut response = body.respond(headers, translator.filter(|_| is_stream && status.is_success()));
            *response.status_mut() = status;
            return response;
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
fn begin_early(answer: BoxFuture<'static, Result<Answer, Fault>>, pulse: Pulse, asking: Asking) -> Response {
    AnswerBody::early(answer, pulse, asking.account).respond(headers::of_event_stream(), asking.translator)
}

/// Judges method and declared length.
pub(super) fn check(parts: &Parts, max_body: usize) -> Result<(), Fault> {
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
    use axum::body::Body;

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
