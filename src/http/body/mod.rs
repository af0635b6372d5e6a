//! An answer's body: an exchange on its way out, with the permit that it runs under.
//!
//! ```text
//!  begun early: Awaited ──> Running ──> Ended       a clean end
//! with a head:              Running
//!                  │          │
//!                  └─> Cut <──┘                     an error event where the head is ours, then the cut
//! ```
//!
//! A fault makes the body fail, so that the connection or the HTTP/2 stream is cut: the client must never
//! take a part for the whole. When the client leaves, the body is dropped, and with it the exchange (which
//! aborts the fetch in the page) and the permit. Between two events of a silent stream it puts a ping; the
//! server asks for one only when the client has taken what came before.

mod characters;
mod note;
mod source;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::Frame;
use tokio::time::Sleep;

use super::headers;
use super::pulse::{PING, Pulse};
use super::{refused, reply};
use crate::admission::Permit;
use crate::error::{Fault, FaultKind};
use crate::exchange::Exchange;
use crate::telemetry::metrics::{self, Metrics, NOT_A_STREAM, Outcome};
use crate::translate::{Ending, Flow, Translate};
use crate::turns::log::Reader;
use characters::Characters;
pub use note::Note;
use source::Source;

/// A cut drops what is still queued; the head, or an error event, gets so long to leave.
const BEFORE_CUT: Duration = Duration::from_millis(50);

/// What the page answered: the head as the client may see it, and the rest that is still to come.
pub struct Answer {
    /// The site's status.
    pub status: StatusCode,
    /// The headers that pass.
    pub headers: HeaderMap,
    /// The body.
    pub exchange: Exchange,
    /// Its place; free when this is dropped.
    pub permit: Permit,
}

/// What is counted, and where.
pub struct Account {
    /// How the exchange ends.
    pub ending: metrics::Ending,
    /// Where bytes are counted.
    pub metrics: Metrics,
}

/// Why a body was cut.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{fault}")]
pub struct Cut {
    /// The code of its outcome.
    pub code: &'static str,
    /// The fault behind it.
    pub fault: Fault,
}

/// The rest of an answer, as an HTTP body of unknown length.
pub struct AnswerBody {
    stage: Stage,
    pulse: Option<Pulse>,
    account: Option<Account>,
    /// Whether the client's head is ours.
    is_begun_early: bool,
    translation: Option<Translation>,
    /// What of an event stream waits, where it is passed on as it is.
    characters: Option<Characters>,
}

enum Stage {
    /// The client has its head already, the site has not answered yet.
    Awaited(BoxFuture<'static, Result<Answer, Fault>>),
    /// The site answered with what is no stream, and is being read.
    Refused(BoxFuture<'static, Fault>),
    /// As the first, where the answer is one that others read too.
    Joined(Reader<HeaderMap>),
    Running(Source),
    /// The client has been told, and the cut comes after this moment.
    Cut(Cut, Pin<Box<Sleep>>),
    Ended,
}

/// What stands between the site's stream and a client that reads another format.
struct Translation {
    translator: Box<dyn Translate>,
    out: BytesMut,
    note: Note,
}

impl AnswerBody {
    /// The body of an answer with a head of the site's, which goes out now. `pulse` keeps it alive.
    pub fn new(exchange: Exchange, permit: Permit, mut pulse: Option<Pulse>, account: Account) -> AnswerBody {
        if let Some(pulse) = &mut pulse {
            pulse.beat();
        }
        exchange.hold(permit);
        AnswerBody::at(Stage::Running(Source::Own(exchange)), pulse, account)
    }

    /// The body of an answer that began as an event stream before the site answered.
    pub fn early(
        answer: BoxFuture<'static, Result<Answer, Fault>>,
        pulse: Pulse,
        account: Account,
    ) -> AnswerBody {
        AnswerBody { is_begun_early: true, ..AnswerBody::at(Stage::Awaited(answer), Some(pulse), account) }
    }

    /// The body of an answer that others may read too, whether its head is there or not. A fault of it is told
    /// as after a head of ours.
    pub fn joined(reader: Reader<HeaderMap>, mut pulse: Option<Pulse>, account: Account) -> AnswerBody {
        if let Some(pulse) = &mut pulse {
            pulse.beat();
        }
        AnswerBody { is_begun_early: true, ..AnswerBody::at(Stage::Joined(reader), pulse, account) }
    }

    fn at(stage: Stage, pulse: Option<Pulse>, account: Account) -> AnswerBody {
        AnswerBody {
            stage,
            pulse,
            account: Some(account),
            is_begun_early: false,
            translation: None,
            characters: None,
        }
    }

    /// The same through `translator`: the client gets nothing but what that writes, and pings. Put the note
    /// into the response's extensions, for the journal.
    pub fn translated(mut self, translator: Box<dyn Translate>) -> (AnswerBody, Note) {
        let note = Note::default();
        self.translation = Some(Translation { translator, out: BytesMut::new(), note: note.clone() });
        (self, note)
    }

    /// An answer with this body, through `translator` if there is one.
    pub fn respond(mut self, headers: HeaderMap, translator: Option<Box<dyn Translate>>) -> Response {
        let Some(translator) = translator else {
            self.characters = headers::is_event_stream(&headers).then(Characters::default);
            return (headers, Body::new(self)).into_response();
        };
        let (body, note) = self.translated(translator);
        let mut response = (headers, Body::new(body)).into_response();
        response.extensions_mut().insert(note);
        response
    }

    /// The next chunk for the client.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            let said = match &mut self.stage {
                Stage::Awaited(answer) => match ready!(answer.as_mut().poll(cx)) {
                    Ok(answer) => self.start(answer),
                    Err(fault) => self.fail(fault),
                },
                Stage::Refused(fault) => {
                    let fault = ready!(fault.as_mut().poll(cx));
                    self.fail(fault)
                }
                Stage::Joined(reader) => match ready!(reader.poll_head(cx)) {
                    Ok(_) => {
                        if let Stage::Joined(reader) = std::mem::replace(&mut self.stage, Stage::Ended) {
                            self.stage = Stage::Running(Source::Shared(reader));
                        }
                        None
                    }
                    Err(fault) => self.fail(fault),
                },
                Stage::Running(source) => match ready!(source.poll_chunk(cx)) {
                    Some(Ok((bytes, delay))) => {
                        let passed = match (&mut self.translation, &mut self.characters) {
                            (Some(translation), _) => translation.pass(&bytes),
                            (None, Some(characters)) => Ok((Flow::On, characters.pass(bytes))),
                            (None, None) => Ok((Flow::On, bytes)),
                        };
                        if let (Ok((_, bytes)), Some(account)) = (&passed, &self.account) {
                            account.metrics.sent(bytes.len(), delay);
                        }
                        match passed {
                            Ok((Flow::On, bytes)) => Some(bytes).filter(|it| !it.is_empty()),
                            Ok((Flow::Done, bytes)) => self.finish(bytes),
                            Err(fault) => self.fail(fault),
                        }
                    }
                    Some(Err(fault)) => self.fail(fault),
                    None => match self.translation.as_mut().map(Translation::end) {
                        None => {
                            let bytes = self.waiting();
                            self.finish(bytes)
                        }
                        Some(Ok(bytes)) => self.finish(bytes),
                        Some(Err(fault)) => self.fail(fault),
                    },
                },
                Stage::Cut(cut, moment) => {
                    ready!(moment.as_mut().poll(cx));
                    let cut = cut.clone();
                    self.stage = Stage::Ended;
                    return Poll::Ready(Some(Err(cut)));
                }
                Stage::Ended => return Poll::Ready(None),
            };
            if let Some(bytes) = said {
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }

    /// The site has answered after the client's head. Returns what to say if that is not what can follow it.
    fn start(&mut self, answer: Answer) -> Option<Bytes> {
        if answer.status.is_success() && headers::is_event_stream(&answer.headers) {
            let Answer { exchange, permit, .. } = answer;
            exchange.hold(permit);
            self.stage = Stage::Running(Source::Own(exchange));
            None
        } else if self.translation.is_some() {
            self.stage = Stage::Refused(refused::read(answer).boxed());
            None
        } else {
            self.misfit(answer.status)
        }
    }

    /// The clean end, after `bytes`.
    fn finish(&mut self, bytes: Bytes) -> Option<Bytes> {
        self.end(Outcome::Complete);
        Some(bytes).filter(|it| !it.is_empty())
    }

    /// Ends with `fault`: what says so, if the client can be told, and then the cut.
    fn fail(&mut self, fault: Fault) -> Option<Bytes> {
        self.end(Outcome::Fault(fault.kind()));
        let cut = Cut { code: fault.kind().code(), fault };
        let waiting = self.waiting();
        let Some(translation) = &mut self.translation else {
            if waiting.is_empty() {
                return self.tell(reply::fault_event(&cut.fault), cut);
            }
            self.cut(cut);
            return Some(waiting);
        };
        let (ending, bytes) = translation.fail(&cut.fault);
        translation.note.write(cut.clone());
        if ending == Ending::Cut {
            self.cut(cut);
        }
        Some(bytes).filter(|it| !it.is_empty())
    }

    /// The site answered, but with what cannot follow the head that the client has.
    fn misfit(&mut self, status: StatusCode) -> Option<Bytes> {
        self.end(Outcome::NotAStream);
        let text = "The site answered with no stream, after this one had begun.";
        let fault = Fault::new(FaultKind::FetchFailed, text).because(format_args!("its status is {status}"));
        self.tell(reply::misfit_event(status), Cut { code: NOT_A_STREAM, fault })
    }

    /// What has come, and was not passed on yet.
    fn waiting(&mut self) -> Bytes {
        self.characters.as_mut().map(Characters::end).unwrap_or_default()
    }

    fn tell(&mut self, event: Bytes, cut: Cut) -> Option<Bytes> {
        self.cut(cut);
        let is_told = self.is_begun_early && self.pulse.as_ref().is_some_and(Pulse::is_between_events);
        is_told.then_some(event)
    }

    /// The cut comes a moment later: a server drops what it has not written yet, be it the head. A client without
    /// one takes the connection for refused and asks again, what the site may have acted on already.
    fn cut(&mut self, cut: Cut) {
        self.stage = Stage::Cut(cut, Box::pin(tokio::time::sleep(BEFORE_CUT)));
    }

    /// Lets go of the exchange and its place.
    fn end(&mut self, outcome: Outcome) {
        self.stage = Stage::Ended;
        if let Some(account) = self.account.take() {
            account.ending.end(outcome);
        }
    }
}

impl Translation {
    fn pass(&mut self, piece: &Bytes) -> Result<(Flow, Bytes), Fault> {
        let flow = self.translator.pass(piece, &mut self.out)?;
        Ok((flow, self.out.split().freeze()))
    }

    fn end(&mut self) -> Result<Bytes, Fault> {
        self.translator.end(&mut self.out)?;
        Ok(self.out.split().freeze())
    }

    /// What was written before the fault goes out with what says it.
    fn fail(&mut self, fault: &Fault) -> (Ending, Bytes) {
        let ending = self.translator.fail(fault, &mut self.out);
        (ending, self.out.split().freeze())
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let next = this.poll_chunk(cx);
        let Some(pulse) = &mut this.pulse else { return next.map_ok(Frame::data) };
        match next {
            Poll::Ready(Some(Ok(bytes))) => {
                pulse.pass(&bytes);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Pending => {
                ready!(pulse.poll_due(cx));
                pulse.beat();
                Poll::Ready(Some(Ok(Frame::data(PING))))
            }
            end => end.map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }
}
