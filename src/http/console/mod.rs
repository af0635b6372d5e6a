//! `/console`: the operator's page, and what it asks and does.
//!
//! ```text
//! /console, its files ──────────────> anybody: nothing secret is in them     (closed: 403)
//! /console/login, /enter, /link ────> throttled ──> a session
//! /console/api/…, /live, /try ──────> session ──> token, where something changes
//! ```
//!
//! Pages of other origins are refused here even where CORS lets them use the proxy. The page gets a policy that
//! runs no script but its own files, and whatever it shows of callers, logs and sites it shows as text.

pub mod access;
mod charts;
mod door;
mod live;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router, middleware};
use serde::Deserialize;
use serde_json::{Value, json};

use self::access::{Session, Sessions};
use self::door::Door;
use super::access::Caller;
use super::reply::{self, Asked};
use super::{App, guard, page};
use crate::browser::{Browser, Repair};
use crate::error::{Fault, FaultKind};

/// Where the chat box sends its conversations.
pub(super) const TRY: &str = "/console/try";
/// What shows the session's token.
const TOKEN: HeaderName = HeaderName::from_static("x-console-token");
/// The largest body but a conversation, in bytes,
const BODY: usize = 8 * 1024;
/// and how long it may take to come.
const PATIENCE: Duration = Duration::from_secs(15);

/// The page runs its own files and talks to us, and that is all.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                   base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The files of the page.
const FILES: [(&str, &str, &str); 9] = [
    ("style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("main.js", SCRIPT, include_str!("assets/main.js")),
    ("words.js", SCRIPT, include_str!("assets/words.js")),
    ("reasons.js", SCRIPT, include_str!("assets/reasons.js")),
    ("net.js", SCRIPT, include_str!("assets/net.js")),
    ("live.js", SCRIPT, include_str!("assets/live.js")),
    ("board.js", SCRIPT, include_str!("assets/board.js")),
    ("charts.js", SCRIPT, include_str!("assets/charts.js")),
    ("try.js", SCRIPT, include_str!("assets/try.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PAGE: &str = include_str!("assets/index.html");

/// What the console keeps.
pub struct Console {
    sessions: Sessions,
    desk: live::Desk,
    charts: charts::Charts,
    /// The configuration in effect, without secrets.
    config: Vec<(&'static str, String)>,
    /// Where it is reached, if only from this machine.
    at_home: Option<SocketAddr>,
}

impl Console {
    /// A console on `listen` that shows this configuration, which holds no secret.
    pub fn new(listen: SocketAddr, config: Vec<(&'static str, String)>) -> Console {
        Console {
            sessions: Sessions::default(),
            desk: live::Desk::default(),
            charts: charts::Charts::default(),
            config,
            at_home: listen.ip().is_loopback().then_some(listen),
        }
    }

    /// Writes a link that counts once into the log; not where the console is reachable from elsewhere.
    fn write_link(&self) {
        let Some(at) = self.at_home else { return };
        match self.sessions.new_link(Instant::now()) {
            Ok(secret) => tracing::info!(
                "console: http://{at}/console/enter?once={secret} (counts once, for an hour; with \
                 TABPROXY_ADMIN_PASSWORD there is a password instead)"
            ),
            Err(error) => tracing::error!(%error, "there is no randomness for a link to the console"),
        }
    }

    /// Ends all sessions: the password is another one.
    pub(super) fn end_all(&self) {
        self.sessions.end_all();
    }
}

/// Says in the log how the console is opened.
pub fn announce(app: &App) {
    if app.admin.is_set() {
        tracing::info!("the console is at /console, behind the admin password");
    } else {
        app.console.write_link();
    }
}

/// Takes samples for the charts, until it is dropped.
pub async fn keep_books(app: Arc<App>) {
    charts::keep(app).await;
}

/// The console's routes.
pub(super) fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/console", get(index))
        .route("/console/", get(index))
        .route("/console/login", post(door::login))
        .route("/console/logout", post(door::logout))
        .route("/console/enter", get(door::enter))
        .route("/console/link", post(door::link))
        .route("/console/live", get(live::handle))
        .route(TRY, post(converse))
        .route("/console/api/session", get(door::session))
        .route("/console/api/state", get(state::state))
        .route("/console/api/charts", get(charts::charts))
        .route("/console/api/config", get(config))
        .route("/console/api/do", post(act))
        .route("/console/{*name}", any(file))
        .layer(middleware::from_fn_with_state(app.clone(), layer))
}

/// What holds for all of them.
async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let asked = Asked::of(&request);
    // Unlike the guard before us, this heeds no CORS.
    let checked = guard::check(request.version(), request.uri(), request.headers(), &app.policy.hosts);
    let mut response = match (checked, door::of(&app)) {
        (Err(fault), _) => reply::refuse(&fault, &asked),
        (Ok(()), Door::Closed) => {
            let text = "The console is closed: the operator opens it with TABPROXY_ADMIN_PASSWORD.";
            reply::refuse(&Fault::new(FaultKind::AdminClosed, text), &asked)
        }
        (Ok(()), _) => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn index() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}

async fn file(Path(name): Path<String>, request: Request) -> Response {
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    match FILES.iter().find(|it| it.0 == name && is_read) {
        Some((_, kind, text)) => {
            ([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")], *text).into_response()
        }
        None => {
            let fault = Fault::new(FaultKind::PathNotAllowed, "The console has no such address.");
            reply::refuse(&fault, &Asked::of(&request))
        }
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(header::COOKIE).into_iter().filter_map(|it| it.to_str().ok())
}

/// The session of these headers.
fn session_of(app: &App, headers: &HeaderMap) -> Result<Arc<Session>, Fault> {
    let session = app.console.sessions.find(cookies(headers), Instant::now());
    session.ok_or_else(|| Fault::new(FaultKind::AdminRefused, "The console wants a sign-in."))
}

/// The same, where something is to be changed.
fn admit(app: &App, headers: &HeaderMap) -> Result<Arc<Session>, Fault> {
    let session = session_of(app, headers)?;
    let shown = headers.get(TOKEN).and_then(|it| it.to_str().ok()).unwrap_or_default();
    if session.has_token(shown) {
        return Ok(session);
    }
    Err(Fault::new(FaultKind::AdminRefused, "The request does not show the console's token."))
}

async fn read<T: serde::de::DeserializeOwned>(request: Request) -> Result<T, Fault> {
    let body = tokio::time::timeout(PATIENCE, to_bytes(request.into_body(), BODY)).await;
    let body = body.map_err(|_| Fault::new(FaultKind::BodyTimeout, "The request's body did not come."))?;
    let body = body.map_err(|_| Fault::new(FaultKind::TooLarge, "The request's body is too large."))?;
    // The parser's words could repeat a password.
    serde_json::from_slice(&body).map_err(|_| {
        Fault::new(FaultKind::BadRequest, "The request's body is not the JSON that belongs there.")
    })
}

fn answer(done: Result<Value, Fault>, asked: &Asked) -> Response {
    match done {
        Ok(told) => Json(told).into_response(),
        Err(fault) => reply::refuse(&fault, asked),
    }
}

/// `GET /console/api/config`.
async fn config(State(app): State<Arc<App>>, request: Request) -> Response {
    let told = session_of(&app, request.headers()).map(|_| json!(app.console.config));
    answer(told, &Asked::of(&request))
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Act {
    RestartPage {
        #[serde(default = "first")]
        browser: usize,
    },
    RestartBrowser {
        #[serde(default = "first")]
        browser: usize,
    },
    Drain,
    Resume,
    Stop {
        id: String,
    },
}

/// The browser that is meant where none is named; they are counted from 1 here.
fn first() -> usize {
    1
}

/// For the log, where there are several.
fn named(app: &App, number: usize) -> Option<usize> {
    (app.browser.count() > 1).then_some(number)
}

/// The browser of this number.
fn one(app: &App, number: usize) -> Result<&Browser, Fault> {
    let one = number.checked_sub(1).and_then(|it| app.browser.get(it));
    one.ok_or_else(|| Fault::new(FaultKind::BadRequest, "There is no browser of this number."))
}

/// `POST /console/api/do`.
async fn act(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Asked::of(&request);
    let act = async {
        admit(&app, request.headers())?;
        match read(request).await? {
            Act::RestartPage { browser } => {
                tracing::info!(browser = named(&app, browser), "the operator has the page opened again");
                one(&app, browser)?.restart(Repair::Site);
            }
            Act::RestartBrowser { browser } => {
                tracing::info!(browser = named(&app, browser), "the operator has the browser started again");
                one(&app, browser)?.restart(Repair::Browser);
            }
            Act::Drain => {
                tracing::info!("the operator lets no new requests in");
                app.admission.pause(true);
            }
            Act::Resume => {
                tracing::info!("the operator lets new requests in again");
                app.admission.pause(false);
            }
            Act::Stop { id } => {
                let stopped = app.board.stop(&id);
                tracing::info!(id, stopped, "the operator stops a request");
                return Ok(json!({ "done": stopped }));
            }
        }
        Ok(json!({"done": true}))
    };
    answer(act.await, &asked)
}

/// `POST /console/try`: a conversation as a caller would have it, through the same door, queue and page. The
/// operator needs no key: whoever can sign in in the page may also use it.
async fn converse(State(app): State<Arc<App>>, mut request: Request) -> Response {
    let asked = Asked::of(&request);
    let caller = match admit(&app, request.headers()) {
        Ok(_) => Caller::operator(&app, request.headers_mut()).await,
        Err(fault) => Err(fault),
    };
    match caller {
        Ok(caller) => request.extensions_mut().insert(caller),
        Err(fault) => return reply::refuse(&fault, &asked),
    };
    request.headers_mut().remove(header::COOKIE);
    request.headers_mut().remove(TOKEN);
    *request.uri_mut() = Uri::from_static("/backend-api/conversation");
    page::handle(State(app), request).await
}
