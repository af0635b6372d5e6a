//! `/v1/chat/completions` and `/v1/responses`: a request of the official API's becomes a turn in the site's
//! chat, performed by the page, and the answer is translated back.
//!
//! ```text
//! read, check ──> known before? ──> turn ──> perform ──> Completion ──> body
//!                  (Index)           ^         │ 404 of a conversation that the site forgot
//!                                    └─────────┘ once, with the whole history
//! ```
//!
//! As with the pass-through everything lives in the handler's future and in the body: a client that leaves
//! takes its place in the queue, its permit and its fetch along. Which upstream token a request runs with was
//! decided before (`access`) and is in its `Authorization`.

mod completion;
mod index;
mod models;

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures::FutureExt;

use super::access::Caller;
use super::body::{Account, Answer, AnswerBody};
use super::page::{self, Prepared};
use super::pulse::Pulse;
use super::reply::Asked as Whose;
use super::upload::Upload;
use super::{App, conversation, headers, refused, shape};
use crate::admission::Permit;
use crate::error::{Fault, FaultKind};
use crate::exchange::{Leaves, PageRequest};
use crate::openai::chat::{ChatStream, ChatWhole};
use crate::openai::history::{self, Key};
use crate::openai::limits::Limits;
use crate::openai::responses::{ResponseStream, ResponseWhole};
use crate::openai::responses_types::read_responses;
use crate::openai::types::read_chat;
use crate::openai::{Asked, Invalid, Role, Write};
use crate::site::request::{Place, Turn};
use crate::telemetry::metrics::Outcome;
use crate::translate::{Flow, Translate};
use completion::{Completion, Input, Keep, Wanted};
pub use index::Index;
pub(super) use models::{engines, model, models};

/// Larger bodies are read as JSON where no stream waits.
const LARGE: usize = 1 << 20;

/// The two forms of a chat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Chat,
    Responses,
}

/// `POST /v1/chat/completions`.
pub(super) async fn completions(State(app): State<Arc<App>>, request: Request) -> Response {
    serve(app, request, Form::Chat).await
}

/// `POST /v1/responses`.
pub(super) async fn responses(State(app): State<Arc<App>>, request: Request) -> Response {
    serve(app, request, Form::Responses).await
}

/// Another method on one of these routes.
pub(super) async fn wrong_method(request: Request) -> Response {
    let fault = Fault::new(FaultKind::MethodNotAllowed, "This route does not take this method.");
    let mut response = shape::refuse(&fault, &Whose::of(&request), request.uri().path());
    // The router knows which ones it takes, and says so where nobody else has.
    response.headers_mut().remove(header::ALLOW);
    response
}

/// Why a request is not performed.
enum Refusal {
    Fault(Fault),
    Invalid(Invalid),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal::Fault(fault)
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Refusal {
        Refusal::Invalid(invalid)
    }
}

async fn serve(app: Arc<App>, request: Request, form: Form) -> Response {
    let arrived = Instant::now();
    let ending = app.metrics.begin();
    let mut whose = Whose::of(&request);
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(body, app.policy.max_body, app.metrics.clone());
    let read = read(&app, &parts, &mut upload, form, arrived).await;
    whose.unread = !upload.is_read();
    let job = match read {
        Ok(job) => job,
        Err(Refusal::Fault(fault)) => {
            ending.end(Outcome::Fault(fault.kind()));
            return shape::refuse(&fault, &whose, parts.uri.path());
        }
        Err(Refusal::Invalid(invalid)) => {
            ending.end(Outcome::Fault(FaultKind::BadRequest));
            return shape::refuse_invalid(&invalid, &whose);
        }
    };
    let account = Account { ending, metrics: app.metrics.clone() };
    let path = parts.uri.path();
    let asked = job.asked.clone();
    let wanted = wanted(&asked, form);
    let completion = Completion::new(wanted, keep(&app, &job, form));
    let answer = perform(app.clone(), job, arrived);
    if !asked.stream {
        return whole(answer.await, completion, account, whose, path).await;
    }
    let Some(every) = app.policy.ping else {
        return stream(answer.await, completion, None, account, whose, path).await;
    };
    let mut answer = answer.boxed();
    let mut pulse = Pulse::new(every, arrived.into());
    tokio::select! {
        biased;
        answer = &mut answer => stream(answer, completion, Some(pulse), account, whose, path).await,
        () = pulse.due() => streaming(AnswerBody::early(answer, pulse, account), completion),
    }
}

/// A request that is checked, and everything that it takes to perform it.
struct Job {
    asked: Arc<Asked>,
    caller: Caller,
    /// Headers that go into the page.
    headers: Vec<(String, String)>,
    /// Where the conversation is gone on with, and with which text.
    known: Option<(Place, String)>,
    /// Its place in the queue, if it has one already.
    permit: Option<Permit>,
}

async fn read(
    app: &App,
    parts: &Parts,
    upload: &mut Upload,
    form: Form,
    arrived: Instant,
) -> Result<Job, Refusal> {
    page::check(parts, app.policy.max_body)?;
    upload.read_until(page::READ_EARLY).await?;
    let mut permit = None;
    if !upload.is_read() {
        let place = app.admission.enter(arrived + app.policy.queue_wait).await;
        permit = Some(place.map_err(Fault::from)?);
        upload.read().await?;
    }
    let body = upload.take_pieces().concat();
    let is_large = body.len() > LARGE;
    let understand = move || match form {
        Form::Chat => read_chat(&body),
        Form::Responses => read_responses(&body),
    };
    let asked = if is_large {
        let asked = tokio::task::spawn_blocking(understand).await;
        asked
            .map_err(|error| Fault::new(FaultKind::Internal, "The request was not read.").because(error))??
    } else {
        understand()?
    };
    let caller = Caller::of(&parts.extensions);
    let known = known(app, &caller, &asked).await?;
    let mut headers = for_turns(headers::to_page(&parts.headers, &app.policy.allow_headers));
    headers.push(("content-type".into(), "application/json".into()));
    headers.push(("accept".into(), "text/event-stream".into()));
    Ok(Job { asked: Arc::new(asked), caller, headers, known, permit })
}

/// Of the headers that may go into the page, those that say who asks: the others describe the client's own
/// request, which goes no further than this.
fn for_turns(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    let passes =
        |name: &str| name == "authorization" || name.starts_with("oai-") || name.starts_with("chatgpt-");
    headers.retain(|(name, _)| passes(name));
    headers
}

/// Where the conversation is gone on with, if it was answered here before.
async fn known(app: &App, caller: &Caller, asked: &Asked) -> Result<Option<(Place, String)>, Invalid> {
    if let Some(id) = &asked.previous {
        let place = app.index.find(history::key_of_answer(caller.id.as_bytes(), id)).await;
        let place = place.ok_or_else(|| {
            let id: String = id.chars().take(100).collect();
            let text = format!("Previous response with id '{id}' not found.");
            Invalid::new("previous_response_not_found", "previous_response_id", text)
        })?;
        return Ok(Some((place, history::render(&asked.turns))));
    }
    let Some((before, new)) = history::new_turn(&asked.turns) else { return Ok(None) };
    let place = app.index.find(key(caller, before.iter().map(|it| (it.role, &*it.text)))).await;
    Ok(place.map(|place| (place, history::render(new))))
}

fn key<'a>(caller: &Caller, turns: impl IntoIterator<Item = (Role, &'a str)>) -> Key {
    history::key(caller.id.as_bytes(), turns)
}

/// How the answer is to be told.
fn wanted(asked: &Arc<Asked>, form: Form) -> Wanted {
    let model = || asked.model.clone();
    let write: Box<dyn Write> = match (form, asked.stream) {
        (Form::Chat, true) => Box::new(ChatStream::new(model(), asked.include_usage)),
        (Form::Chat, false) => Box::new(ChatWhole::new(model())),
        (Form::Responses, true) => Box::new(ResponseStream::new(asked)),
        (Form::Responses, false) => Box::new(ResponseWhole::new(asked)),
    };
    let input = Input::of(asked);
    let with_usage = asked.include_usage || !asked.stream;
    if with_usage || asked.most_tokens.is_some() {
        // Long prompts take a while to count, and at the first count the vocabulary has to be loaded.
        let input = input.clone();
        tokio::task::spawn_blocking(move || input.tokens());
    }
    let limits = Limits::new(asked.stop.clone(), asked.most_tokens);
    Wanted { write, limits, is_whole: !asked.stream, input, with_usage }
}

/// Keeps the place where the answer stands, under what its client will send next time.
fn keep(app: &Arc<App>, job: &Job, form: Form) -> Keep {
    let (app, asked, caller) = (app.clone(), job.asked.clone(), job.caller.clone());
    Box::new(move |place, id, text| {
        let mut keys = Vec::with_capacity(2);
        if form == Form::Responses {
            keys.push(history::key_of_answer(caller.id.as_bytes(), id));
        }
        // What came before is not in a request that names the answer before it.
        if asked.previous.is_none() {
            let turns = asked.turns.iter().map(|it| (it.role, &*it.text));
            keys.push(key(&caller, turns.chain([(Role::Assistant, text)])));
        }
        app.index.keep(keys, &place);
    })
}

/// Asks the site, in the conversation that is known or in a new one.
async fn perform(app: Arc<App>, mut job: Job, arrived: Instant) -> Result<Answer, Fault> {
    let is_alone = job.asked.previous.is_some();
    let known = job.known.take();
    let permit = job.permit.take();
    let Some((place, text)) = known else {
        let request = job.request(&history::render(&job.asked.turns), None, &app);
        return page::perform(app, Prepared { request, permit, caller: job.caller }, arrived).await;
    };
    let request = job.request(&text, Some(&place), &app);
    let prepared = Prepared { request, permit, caller: job.caller.clone() };
    let conversation = Some(place.conversation.clone());
    let answer = conversation::perform(app.clone(), prepared, conversation, arrived).await?;
    if answer.status != StatusCode::NOT_FOUND || is_alone {
        return Ok(answer);
    }
    // The site has forgotten the conversation, and so has not answered this turn in it.
    let permit = Some(answer.permit);
    drop(answer.exchange);
    let request = job.request(&history::render(&job.asked.turns), None, &app);
    page::perform(app, Prepared { request, permit, caller: job.caller }, arrived).await
}

impl Job {
    fn request(&self, text: &str, place: Option<&Place>, app: &App) -> PageRequest {
        let turn = Turn { text, model: &self.asked.model, place };
        PageRequest {
            method: "POST".into(),
            path: format!("{}/conversation", base(app, &self.caller, &self.headers)),
            headers: self.headers.clone(),
            body: vec![turn.body()],
            keyed: self.caller.keyed,
            leaves: Leaves::default(),
        }
    }
}

/// Which of the site's two sides serves this caller: the anonymous one has no conversations of anybody.
fn base(app: &App, caller: &Caller, headers: &[(String, String)]) -> &'static str {
    let has_token = headers.iter().any(|(name, _)| name == "authorization");
    let has_page = caller.uses_page && app.browser.watch().borrow().signed_in == Some(true);
    if has_token || has_page { "/backend-api" } else { "/backend-anon" }
}

/// The stream, once the site has answered.
async fn stream(
    answer: Result<Answer, Fault>,
    completion: Completion,
    pulse: Option<Pulse>,
    account: Account,
    whose: Whose,
    path: &str,
) -> Response {
    match good(answer).await {
        Ok(Answer { exchange, permit, .. }) => {
            streaming(AnswerBody::new(exchange, permit, pulse, account), completion)
        }
        Err(fault) => {
            account.ending.end(Outcome::Fault(fault.kind()));
            shape::refuse(&fault, &whose, path)
        }
    }
}

/// A streamed answer. Its head says nothing of the site's: it may be older than the site's.
fn streaming(body: AnswerBody, completion: Completion) -> Response {
    let (body, note) = body.translated(Box::new(completion));
    let mut response = (headers::of_event_stream(), Body::new(body)).into_response();
    response.extensions_mut().insert(note);
    response
}

/// An answer that is a stream; any other is a fault.
async fn good(answer: Result<Answer, Fault>) -> Result<Answer, Fault> {
    let answer = answer?;
    if answer.status.is_success() && headers::is_event_stream(&answer.headers) {
        return Ok(answer);
    }
    Err(refused::read(answer).await)
}

/// The whole answer at once.
async fn whole(
    answer: Result<Answer, Fault>,
    mut completion: Completion,
    account: Account,
    whose: Whose,
    path: &str,
) -> Response {
    match collect(answer, &mut completion).await {
        Ok(json) => {
            account.metrics.sent(json.len(), None);
            account.ending.end(Outcome::Complete);
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, json).into_response()
        }
        Err(fault) => {
            account.ending.end(Outcome::Fault(fault.kind()));
            shape::refuse(&fault, &whose, path)
        }
    }
}

async fn collect(answer: Result<Answer, Fault>, completion: &mut Completion) -> Result<Bytes, Fault> {
    let Answer { mut exchange, permit: _permit, .. } = good(answer).await?;
    let mut out = BytesMut::new();
    while let Some(chunk) = exchange.chunk().await {
        if completion.pass(&chunk?.bytes, &mut out)? == Flow::Done {
            return Ok(out.freeze());
        }
    }
    completion.end(&mut out)?;
    Ok(out.freeze())
}
