//! A turn of a conversation: passed through as it is, but for an author that is missing, and one at a time in
//! each conversation.
//!
//! Where the site streams deltas, a client that reads snapshots may have them. The bot plugin's turns are answered in its own way: see `plugin`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;

use super::access::Caller;
use super::body::{Account, Answer};
use super::page::{self, Prepared};
use super::reply::{self, Asked};
use super::upload::Upload;
use super::{App, caller, plugin};
use crate::admission::Permit;
use crate::error::Fault;
use crate::exchange::PageRequest;
use crate::site::classic::Classic;
use crate::site::turn::Turn;
use crate::telemetry::metrics::Outcome;
use crate::translate::Translate;
use crate::turns::floor::Turned;

/// By which a client says how it reads a stream: `classic` or `raw`.
const FORMAT: &str = "x-tabproxy-format";

/// Answers `POST …/conversation`.
pub(super) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let arrived = Instant::now();
    let ending = app.metrics.begin();
    let mut asked = Asked::of(&request);
    let is_plugin = caller::is_plugin(request.headers());
    let caller = Caller::of(request.extensions());
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(body, app.policy.max_body, app.metrics.clone());
    let prepared = page::prepare(&app, &parts, caller, &mut upload, arrived).await;
    asked.unread = !upload.is_read();
    let account = Account { ending, metrics: app.metrics.clone() };
    let mut prepared = match prepared {
        Ok(prepared) => prepared,
        Err(fault) if is_plugin => return plugin::told(None, &fault, account, &asked),
        Err(fault) => {
            account.ending.end(Outcome::Fault(fault.kind()));
            return reply::refuse(&fault, &asked);
        }
    };
    let turn = fill_in(&mut prepared.request);
    let every = page::beat(&app, &parts);
    let is_snapshots = !is_plugin && wants_snapshots(&app, &parts.headers, turn.as_ref());
    let translator = is_snapshots.then(|| Box::new(Classic::default()) as Box<dyn Translate>);
    let asking = page::Asking { method: parts.method, every, arrived, account, asked, translator };
    if is_plugin {
        return plugin::answer(app, prepared, turn, asking).await;
    }
    let conversation = turn.and_then(|it| it.conversation);
    page::deliver(perform(app, prepared, conversation, arrived), asking).await
}

/// Whether a client gets snapshots where the site streams deltas: as it says itself, in a header of ours or, as
/// the site's own page, in its body; otherwise as the operator says.
fn wants_snapshots(app: &App, headers: &HeaderMap, turn: Option<&Turn>) -> bool {
    match headers.get(FORMAT).map(|it| it.as_bytes().trim_ascii()) {
        Some(b"classic") => true,
        Some(b"raw") => false,
        _ => app.policy.snapshots && !turn.is_some_and(|it| it.reads_deltas),
    }
}

/// Adds what is missing to a turn's body, and says what turn it is, if it can be read as one.
fn fill_in(request: &mut PageRequest) -> Option<Turn> {
    let body = match &request.body[..] {
        [one] => one.clone(),
        pieces => Bytes::from(pieces.concat()),
    };
    let turn = Turn::read(&body)?;
    request.body = turn.with_authors(&body);
    Some(turn)
}

/// Waits for the conversation, for a place and for a page, and for the head of the site's answer.
pub(super) async fn perform(
    app: Arc<App>,
    prepared: Prepared,
    conversation: Option<String>,
    arrived: Instant,
) -> Result<Answer, Fault> {
    let Admitted { request, permit, caller } =
        admit(&app, prepared, conversation.as_deref(), arrived).await?;
    page::send(app, request, permit, caller, arrived).await
}

/// A request that may go to the site.
pub(super) struct Admitted {
    /// What is to be sent.
    pub request: PageRequest,
    /// Its place, and its conversation.
    pub permit: Permit,
    /// Who asks.
    pub caller: Caller,
}

/// Waits for the conversation and then for a place; the permit gives both back.
pub(super) async fn admit(
    app: &App,
    prepared: Prepared,
    conversation: Option<&str>,
    arrived: Instant,
) -> Result<Admitted, Fault> {
    let mut request = prepared.request;
    let floor = match conversation {
        Some(conversation) => {
            // A large body has a place already, which others must not wait for while it waits for them.
            let waits = app.policy.busy_waits && prepared.permit.is_none();
            let floor = floor(app, waits, conversation, arrived).await?;
            floor.leave().into_iter().for_each(|it| request.leaves.add(it));
            Some(floor)
        }
        None => None,
    };
    let mut permit = page::admit(app, prepared.permit, arrived).await?;
    permit.carry(floor);
    Ok(Admitted { request, permit, caller: prepared.caller })
}

async fn floor(app: &App, waits: bool, conversation: &str, arrived: Instant) -> Result<Turned, Fault> {
    let until = waits.then_some(arrived + app.policy.queue_wait);
    let told = || {
        app.metrics.turn_waited();
        tracing::info!("a turn waits until its conversation has been answered");
    };
    Ok(app.floor.take(conversation, until, told).await?)
}
