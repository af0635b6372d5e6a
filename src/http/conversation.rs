//! A turn of a conversation: passed through as it is, but for an author that is missing, and one at a time in
//! each conversation.
//!
//! The bot plugin's turns are answered in its own way: see `plugin`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;

use super::body::{Account, Answer};
use super::page::{self, Prepared};
use super::reply::{self, Asked};
use super::upload::Upload;
use super::{App, caller, plugin};
use crate::admission::Permit;
use crate::error::Fault;
use crate::exchange::PageRequest;
use crate::site::turn::Turn;
use crate::telemetry::metrics::Outcome;
use crate::turns::floor::Turned;

/// Answers `POST …/conversation`.
pub(super) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let arrived = Instant::now();
    let ending = app.metrics.begin();
    let mut asked = Asked::of(&request);
    let caller = caller::of(&request);
    let is_plugin = caller::is_plugin(request.headers());
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(body, app.policy.max_body, app.metrics.clone());
    let prepared = page::prepare(&app, &parts, &mut upload, arrived).await;
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
    let asking = page::Asking { method: parts.method, every, arrived, account, asked };
    if is_plugin {
        return plugin::answer(app, prepared, turn, caller, asking).await;
    }
    let conversation = turn.and_then(|it| it.conversation);
    page::deliver(perform(app, prepared, conversation, arrived), asking).await
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
async fn perform(
    app: Arc<App>,
    prepared: Prepared,
    conversation: Option<String>,
    arrived: Instant,
) -> Result<Answer, Fault> {
    let (request, permit) = admit(&app, prepared, conversation.as_deref(), arrived).await?;
    page::send(app, request, permit, arrived).await
}

/// Waits for the conversation and then for a place; the permit gives both back.
pub(super) async fn admit(
    app: &App,
    prepared: Prepared,
    conversation: Option<&str>,
    arrived: Instant,
) -> Result<(PageRequest, Permit), Fault> {
    let floor = match conversation {
        Some(conversation) => Some(floor(app, &prepared, conversation, arrived).await?),
        None => None,
    };
    let permit = page::admit(app, prepared.permit, arrived).await?;
    Ok((prepared.request, permit.with(floor)))
}

async fn floor(
    app: &App,
    prepared: &Prepared,
    conversation: &str,
    arrived: Instant,
) -> Result<Turned, Fault> {
    // A large body has a place already, which others must not wait for while it waits for them.
    let waits = app.policy.busy_waits && prepared.permit.is_none();
    let until = waits.then_some(arrived + app.policy.queue_wait);
    let told = || {
        app.metrics.turn_waited();
        tracing::info!("a turn waits until its conversation has been answered");
    };
    Ok(app.floor.take(conversation, until, told).await?)
}
