//! What an operator may change from afar: `PATCH /admin/…` of an earlier system, behind the admin password.
//!
//! | route | body | what it does |
//! |---|---|---|
//! | `/admin/tokens` | `["eyJ…"]` or `[{"token": "eyJ…", "puid": "…"}]` | the unnamed accounts are these from now on |
//! | `/admin/password` | `{"password": "…"}` | another admin password, until the process ends |
//! | `/admin/puid` | `{"puid": "…"}` | nothing: the browser has its own cookies |
//! | `/admin/openai` | any | refused: no password of the site is handled here |
//!
//! Without an admin password all of them are closed. Attempts are throttled before they are judged, since a
//! password, unlike a key, can be guessed.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::access::bearer;
use super::reply::{self, Asked};
use super::{App, peer};
use crate::access::password;
use crate::accounts;
use crate::error::{Fault, FaultKind};

/// The largest body, in bytes.
const BODY: usize = 1 << 20;
/// The longest password, in bytes.
const PASSWORD: usize = 1024;

/// The admin password.
pub struct Admin {
    password: Mutex<Option<SecretString>>,
    /// Hashes are checked one after the other: each takes memory.
    checks: Semaphore,
}

impl Admin {
    /// With this password, plain or as a hash; none closes everything.
    pub fn new(password: Option<SecretString>) -> Admin {
        Admin { password: Mutex::new(password), checks: Semaphore::new(1) }
    }

    /// Whether there is one.
    pub(super) fn is_set(&self) -> bool {
        self.kept().is_some()
    }

    /// Whether `shown` is the password. To be throttled.
    pub(super) async fn knows(&self, shown: SecretString) -> bool {
        match self.kept().filter(|_| shown.expose_secret().len() <= PASSWORD) {
            Some(kept) => self.is_right(kept, shown).await,
            None => false,
        }
    }

    fn kept(&self) -> Option<SecretString> {
        self.password.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn is_right(&self, kept: SecretString, shown: SecretString) -> bool {
        let _one = self.checks.acquire().await;
        let check = move || password::is_right(&kept, shown.expose_secret());
        tokio::task::spawn_blocking(check).await.unwrap_or(false)
    }
}

/// A token as it is sent: alone, or with a cookie that is not needed here.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Alone(String),
    With { token: String },
}

#[derive(Deserialize)]
struct NewPassword {
    password: String,
}

/// `PATCH /admin/tokens`.
pub(super) async fn tokens(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Asked::of(&request);
    answer(change_tokens(app, request).await, &asked)
}

async fn change_tokens(app: Arc<App>, request: Request) -> Result<Value, Fault> {
    let tokens: Vec<Token> = read(&app, request).await?;
    let own = |it: Token| match it {
        Token::Alone(token) | Token::With { token } => SecretString::from(token),
    };
    let tokens: Vec<_> = tokens.into_iter().map(own).collect();
    if !tokens.iter().all(|it| accounts::is_token(it.expose_secret().trim())) {
        return Err(Fault::new(FaultKind::BadRequest, "Each token must be one word."));
    }
    let (count, accounts) = (tokens.len(), app.gate.accounts.clone());
    let failed = "The tokens could not be stored; the log says why.";
    let kept = tokio::task::spawn_blocking(move || accounts.replace_unnamed(tokens)).await;
    let kept = kept.map_err(|e| Fault::new(FaultKind::Internal, failed).because(e))?;
    let kept = kept.map_err(|e| Fault::new(FaultKind::Internal, failed).because(e))?;
    tracing::info!(count, kept, "the unnamed accounts were replaced");
    Ok(json!({"message": "tokens updated", "tokens": count, "kept": kept}))
}

/// `PATCH /admin/password`.
pub(super) async fn new_password(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Asked::of(&request);
    answer(change_password(&app, request).await, &asked)
}

async fn change_password(app: &App, request: Request) -> Result<Value, Fault> {
    let NewPassword { password } = read(app, request).await?;
    if password.trim().is_empty() || password.len() > PASSWORD {
        return Err(Fault::new(FaultKind::BadRequest, "The new password is empty or too long."));
    }
    *app.admin.password.lock().unwrap_or_else(PoisonError::into_inner) = Some(password.trim().into());
    // Whoever came in with the one before has to come in again.
    app.console.end_all();
    tracing::info!("the admin password was changed, until the end of this process");
    Ok(json!({"message": "password updated", "kept": false}))
}

/// `PATCH /admin/puid`.
pub(super) async fn puid(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Asked::of(&request);
    let read = read::<Value>(&app, request).await;
    let told = json!({"message": "puid not needed: the browser keeps the site's cookies itself"});
    answer(read.map(|_| told), &asked)
}

/// `PATCH /admin/openai`.
pub(super) async fn openai(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Asked::of(&request);
    let read = read::<Value>(&app, request).await;
    let text = "No password of the site is handled here: sign in in the browser's window.";
    answer(read.and_then(|_| Err(Fault::new(FaultKind::BadRequest, text))), &asked)
}

/// Everything else below `/admin/`, and every other method.
pub(super) async fn unknown(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Asked::of(&request);
    let fault =
        Fault::new(FaultKind::PathNotAllowed, "There is no such route; it may want the method PATCH.");
    let (parts, _) = request.into_parts();
    answer(admit(&app, &parts).await.and(Err(fault)), &asked)
}

fn answer(done: Result<Value, Fault>, asked: &Asked) -> Response {
    match done {
        Ok(told) => (StatusCode::OK, Json(told)).into_response(),
        Err(fault) => reply::refuse(&fault, asked),
    }
}

/// What an administrator sends.
async fn read<T: serde::de::DeserializeOwned>(app: &App, request: Request) -> Result<T, Fault> {
    let (parts, body) = request.into_parts();
    admit(app, &parts).await?;
    let body = to_bytes(body, BODY);
    let body = tokio::time::timeout(std::time::Duration::from_secs(15), body).await;
    let body = body.map_err(|_| Fault::new(FaultKind::BodyTimeout, "The request's body did not come."))?;
    let body =
        body.map_err(|_| Fault::new(FaultKind::TooLarge, "The request's body is too large, or broke off."))?;
    // The parser's words could repeat a token.
    serde_json::from_slice(&body).map_err(|_| {
        Fault::new(FaultKind::BadRequest, "The request's body is not the JSON that belongs there.")
    })
}

async fn admit(app: &App, parts: &Parts) -> Result<(), Fault> {
    let Some(kept) = app.admin.kept() else {
        let text = "The admin routes are closed: the operator opens them with TABPROXY_ADMIN_PASSWORD.";
        return Err(Fault::new(FaultKind::AdminClosed, text));
    };
    app.gate.attempts.count(peer::of(&parts.extensions)).await?;
    let shown = parts.headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok()).map(bearer);
    let shown = SecretString::from(shown.filter(|it| it.len() <= PASSWORD).unwrap_or_default());
    if app.admin.is_right(kept, shown).await {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::AdminRefused,
        "The admin password is wrong: send it as `Authorization: PASSWORD`.",
    ))
}
