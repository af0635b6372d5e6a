//! The ways in and out: the password, the link from the log, signing out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{cookie, no_cookie};
use super::{admit, answer, cookies, read, session_of};
use crate::error::{Fault, FaultKind};
use crate::http::reply::{self, Asked};
use crate::http::{App, peer};

/// How somebody may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Password,
    Link,
    Closed,
}

/// How, as things are.
pub(super) fn of(app: &App) -> Door {
    match (app.admin.is_set(), app.console.at_home) {
        (true, _) => Door::Password,
        (false, Some(_)) => Door::Link,
        (false, None) => Door::Closed,
    }
}

/// Whether the browser came over TLS that ends in front of us.
fn is_secure(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// One more attempt to come in, from there.
async fn count(app: &App, from: Option<IpAddr>) -> Result<(), Fault> {
    app.gate.attempts.count(from).await
}

/// A response that begins a session.
fn begin(app: &App, secure: bool, response: Response) -> Result<Response, Fault> {
    let id = app.console.sessions.begin(Instant::now());
    let id = id.map_err(|e| Fault::new(FaultKind::Internal, "There is no randomness.").because(e))?;
    let value = HeaderValue::try_from(cookie(&id, secure));
    let mut value =
        value.map_err(|e| Fault::new(FaultKind::Internal, "A cookie is no header.").because(e))?;
    value.set_sensitive(true);
    let mut response = response;
    response.headers_mut().insert(header::SET_COOKIE, value);
    tracing::info!("somebody has come into the console");
    Ok(response)
}

#[derive(Deserialize)]
struct Login {
    password: String,
}

/// `POST /console/login`.
pub(super) async fn login(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Asked::of(&request);
    let secure = is_secure(request.headers());
    let come_in = async {
        count(&app, peer::of(request.extensions())).await?;
        let Login { password } = read(request).await?;
        if !app.admin.knows(SecretString::from(password)).await {
            return Err(Fault::new(FaultKind::AdminRefused, "The password is wrong."));
        }
        begin(&app, secure, Json(json!({"open": true})).into_response())
    };
    come_in.await.unwrap_or_else(|fault| reply::refuse(&fault, &asked))
}

#[derive(Deserialize)]
pub(super) struct Once {
    #[serde(default)]
    once: String,
}

/// `GET /console/enter?once=…`, from the log. A HEAD opens nothing, nor does whoever fetches ahead.
pub(super) async fn enter(
    State(app): State<Arc<App>>,
    Query(Once { once }): Query<Once>,
    request: Request,
) -> Response {
    let asked = Asked::of(&request);
    let ahead = ["purpose", "sec-purpose", "x-purpose"].iter().any(|it| request.headers().contains_key(*it));
    let is_get = request.method() == Method::GET;
    let (secure, from) = (is_secure(request.headers()), peer::of(request.extensions()));
    let come_in = async {
        if of(&app) != Door::Link || !is_get || ahead {
            return Err(Fault::new(FaultKind::AdminRefused, "Nobody comes in this way."));
        }
        count(&app, from).await?;
        if !app.console.sessions.open_link(&once, Instant::now()) {
            let text = "This link does not count (any more): /console writes another one into the log.";
            return Err(Fault::new(FaultKind::AdminRefused, text));
        }
        begin(&app, secure, Redirect::to("/console").into_response())
    };
    come_in.await.unwrap_or_else(|fault| reply::refuse(&fault, &asked))
}

/// `POST /console/link`: another link into the log.
pub(super) async fn link(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Asked::of(&request);
    let from = peer::of(request.extensions());
    let write = async {
        if of(&app) != Door::Link {
            return Err(Fault::new(FaultKind::AdminRefused, "Nobody comes in this way."));
        }
        count(&app, from).await?;
        app.console.write_link();
        Ok(json!({"written": true}))
    };
    answer(write.await, &asked)
}

/// `POST /console/logout`.
pub(super) async fn logout(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Err(fault) = admit(&app, request.headers()) {
        return reply::refuse(&fault, &Asked::of(&request));
    }
    app.console.sessions.end(cookies(request.headers()));
    let gone = no_cookie(is_secure(request.headers()));
    ([(header::SET_COOKIE, gone)], StatusCode::NO_CONTENT).into_response()
}

/// `GET /console/api/session`: the token, or how to come in.
pub(super) async fn session(State(app): State<Arc<App>>, headers: HeaderMap) -> Json<Value> {
    let session = session_of(&app, &headers).ok();
    let door = if of(&app) == Door::Password { "password" } else { "link" };
    Json(json!({"door": door, "token": session.as_ref().map(|it| it.token())}))
}
