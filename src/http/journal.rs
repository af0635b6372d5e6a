//! One line in the log for each request, when it ends.
//!
//! It says who asked for what, how long it took and how it ended, and no more: of a request, the method and
//! the path go into a line, the path without its query and without what looks like a key. Headers and
//! bodies never do. The line travels in the answer's body; however that ends, dropping it writes the line.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};

use super::board::{Board, Entry};
use super::body::{Cut, Note};
use super::events::Events;
use super::history::cut_behind;
use super::peer;
use super::pulse::PING;
use super::reply::{self, Asked};
use super::{console, headers};
use crate::error::{Fault, FaultKind};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What the site says under the name that is ours.
const SITE_REQUEST_ID: HeaderName = HeaderName::from_static("x-site-request-id");

/// Longer paths are cut.
const PATH: usize = 200;
/// A path's segment of this many characters is no name any more.
const SEGMENT: usize = 64;

/// Writes the line of each request, and gives it an id that its answer tells.
pub(super) async fn layer(State(board): State<Board>, mut request: Request, next: Next) -> Response {
    let asked = Asked::of(&request);
    let mut line = Line::begin(&request, &board);
    if let Some(entry) = &line.entry {
        request.extensions_mut().insert(entry.mark());
    }
    let is_head = request.method().as_str().eq_ignore_ascii_case("HEAD");
    // If the client leaves meanwhile, this future is dropped, and the line with it.
    let mut response = match line.entry.as_ref().map(Entry::stopped) {
        None => next.run(request).await,
        Some(stopped) => tokio::select! {
            biased;
            response = next.run(request) => response,
            () = stopped.cancelled() => reply::refuse(&stopped_by_operator(), &asked),
        },
    };
    line.status = Some(response.status());
    line.head = Some(line.arrived.elapsed().as_millis() as u64);
    if let Some(fault) = response.extensions_mut().remove::<Fault>() {
        line.fail(fault.kind().code(), fault);
    }
    line.note = response.extensions_mut().remove::<Note>();
    let headers = response.headers_mut();
    if let Some(id) = headers.remove(REQUEST_ID) {
        headers.insert(SITE_REQUEST_ID, id);
    }
    if let Ok(id) = HeaderValue::from_str(&line.id) {
        headers.insert(REQUEST_ID, id);
    }
    line.events = headers::is_event_stream(headers).then(Events::default);
    // Nobody asks for the bytes of a body that is known to have none.
    line.is_whole = is_head || response.body().is_end_stream();
    let stop = line.entry.as_ref().map(|it| it.stopped().cancelled_owned().boxed());
    response.map(|body| Body::new(Logged { body, line: Some(line), stop }))
}

/// What is known of one request.
struct Line {
    id: String,
    caller: Option<IpAddr>,
    method: Method,
    path: String,
    arrived: Instant,
    status: Option<StatusCode>,
    /// Milliseconds to the head.
    head: Option<u64>,
    /// Counted in event streams only.
    events: Option<Events>,
    bytes: u64,
    is_whole: bool,
    fault: Option<(&'static str, Fault)>,
    /// Where a translated answer says how it failed.
    note: Option<Note>,
    /// Its place on the board; none for what the operator does not look for.
    entry: Option<Entry>,
}

impl Line {
    fn begin(request: &Request, board: &Board) -> Line {
        let mut line = Line {
            id: new_id(),
            caller: peer::of(request.extensions()),
            method: request.method().clone(),
            path: shown(request.uri().path()),
            arrived: Instant::now(),
            status: None,
            head: None,
            events: None,
            bytes: 0,
            is_whole: false,
            fault: None,
            note: None,
            entry: None,
        };
        if !line.is_routine() {
            line.entry = Some(board.put(&line.id, line.method.as_str(), &line.path, line.arrived));
        }
        line
    }

    fn fail(&mut self, code: &'static str, fault: Fault) {
        self.fault.get_or_insert((code, fault));
    }

    fn pass(&mut self, piece: &Bytes) {
        if *piece != PING {
            self.bytes += piece.len() as u64;
            let ended = self.events.as_mut().map_or(0, |events| {
                let before = events.count();
                events.pass(piece);
                events.count() - before
            });
            if let Some(entry) = &self.entry {
                entry.pass(piece.len(), ended);
            }
        }
    }

    /// Whether monitors, or the operator's own page, ask for this all day.
    fn is_routine(&self) -> bool {
        let is_routine = matches!(self.path.as_str(), "/healthz" | "/readyz" | "/metrics" | "/console");
        is_routine || self.path.starts_with("/console/") && self.path != console::TRY
    }
}

macro_rules! write_line {
    ($level:ident, $line:expr, $outcome:expr, $cause:expr, $message:expr) => {{
        let line = $line;
        tracing::$level!(
            id = display(&line.id),
            caller = line.caller.map(display),
            method = display(&line.method),
            path = display(&line.path),
            status = line.status.map(|it| it.as_u16()),
            head_ms = line.head,
            ms = line.arrived.elapsed().as_millis() as u64,
            events = line.events.map(Events::count),
            bytes = line.bytes,
            outcome = display($outcome),
            cause = $cause,
            "{}",
            $message
        )
    }};
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(Cut { code, fault }) = self.note.as_ref().and_then(Note::read).cloned() {
            self.fail(code, fault);
        }
        let line = &*self;
        let none = None::<&str>;
        let Some((code, fault)) = &line.fault else {
            match (line.is_whole, line.is_routine()) {
                (true, false) => write_line!(info, line, "complete", none, "answered"),
                (true, true) => write_line!(debug, line, "complete", none, "answered"),
                (false, _) => write_line!(info, line, "client_gone", none, "the client left"),
            }
            return;
        };
        match fault.kind() {
            FaultKind::Internal => write_line!(error, line, code, fault.cause(), fault),
            FaultKind::NotReady
            | FaultKind::NeedsOperator
            | FaultKind::Challenged
            | FaultKind::SignInRequired
            | FaultKind::PageLost
            | FaultKind::FetchFailed
            | FaultKind::RedirectedAway
            | FaultKind::SiteError
            | FaultKind::AnswerIncomplete
            | FaultKind::NoAccount
            | FaultKind::ApiUnreachable
            | FaultKind::ApiTimeout
            | FaultKind::SlowReader => write_line!(warn, line, code, fault.cause(), fault),
            _ => write_line!(info, line, code, fault.cause(), fault),
        }
    }
}

/// An answer's body with the line that is written when it ends.
struct Logged {
    body: Body,
    line: Option<Line>,
    /// Ends when the operator stops the request.
    stop: Option<BoxFuture<'static, ()>>,
}

impl http_body::Body for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Some(stop) = &mut this.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            this.stop = None;
            this.body = Body::empty();
            let fault = stopped_by_operator();
            if let Some(line) = &mut this.line {
                line.fail(fault.kind().code(), fault.clone());
            }
            this.line = None;
            let cut = Cut { code: fault.kind().code(), fault };
            return Poll::Ready(Some(Err(axum::Error::new(cut))));
        }
        let next = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(line) = &mut this.line {
            match &next {
                Some(Ok(frame)) => frame.data_ref().into_iter().for_each(|piece| line.pass(piece)),
                Some(Err(error)) => {
                    if let Some(Cut { code, fault }) = cut_behind(error) {
                        line.fail(code, fault.clone());
                    }
                }
                None => line.is_whole = true,
            }
            line.is_whole |= this.body.is_end_stream();
            if line.is_whole || !matches!(next, Some(Ok(_))) {
                this.line = None;
            }
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn stopped_by_operator() -> Fault {
    Fault::new(FaultKind::Stopped, "The operator of the proxy has stopped this request.").maybe_sent()
}

/// Short enough to be read out, and no two alike in one log.
fn new_id() -> String {
    // Letters and digits that are not taken for one another.
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let random = getrandom::u64().unwrap_or_default();
    (0..8).map(|n| char::from(ALPHABET[(random >> (5 * n)) as usize & 31])).collect()
}

/// A path as a line may show it: without keys, and with nothing that could look like another line.
fn shown(path: &str) -> String {
    let mut is_key = false;
    let segments = path.split('/').map(|segment| {
        // What follows /k/ is an access key; others are told by their look.
        let hide = std::mem::replace(&mut is_key, segment == "k")
            || segment.len() > SEGMENT
            || segment.starts_with("sk-")
            || segment.starts_with("tp-")
            || segment.starts_with("eyJ");
        if hide && !segment.is_empty() { "…" } else { segment }
    });
    let path = segments.collect::<Vec<_>>().join("/");
    path.escape_debug().take(PATH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_without_keys_and_control_characters() {
        let long = "a".repeat(65);
        for (path, expected) in [
            ("/backend-api/conversation", "/backend-api/conversation"),
            (
                "/backend-api/conversation/123e4567-e89b-42d3-a456-426614174000",
                "/backend-api/conversation/123e4567-e89b-42d3-a456-426614174000",
            ),
            ("/k/secret/v1/models", "/k/…/v1/models"),
            ("/k/", "/k/"),
            ("/x/sk-abc", "/x/…"),
            ("/x/eyJhbGciOi/y", "/x/…/y"),
            ("/a\u{202e}b\n", "/a\\u{202e}b\\n"),
            (&format!("/{long}/b"), "/…/b"),
        ] {
            assert_eq!(shown(path), expected);
        }
        assert_eq!(shown(&"/abc".repeat(100)).len(), PATH);
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|it| it.len() == 8 && it.is_ascii()));
    }
}
