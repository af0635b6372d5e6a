//! The site as a whole: its state, its routes, and the order of its gates.
//!
//! ```text
//! by_host ─> /practice/*, /sw.js, /favicon.ico        open to all
//!         ─> with_clearance ─> pages                   (home asks for the sign-in itself)
//!                           ─> from_our_page ─> /api/*, /backend-anon/*
//!                                            ─> signed_in ─> /backend-api/*
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};

use super::answer::unix_micros;
use super::conversation::{self, Conversations};
use super::counters::Tally;
use super::gate::Gate;
use super::knobs::Format;
use super::reply::{MAX_BODY, Refusal};
use super::{api, helpers, home, policy};

/// What all requests share.
#[derive(Debug)]
pub(super) struct Site {
    /// Everything that is counted.
    pub tally: Arc<Tally>,
    /// The bot check and the sign-in wall.
    pub gate: Gate,
    /// The conversations that were begun here.
    pub conversations: Conversations,
    /// How answers are written when the prompt does not say.
    pub format: Format,
    /// The home page leaks so many megabytes a second.
    pub leak: AtomicU64,
    /// The home page reloads itself as soon as it is there, for ever.
    pub restless: AtomicBool,
}

impl Site {
    /// The time by which the gate judges: Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        unix_micros() / 1_000
    }
}

/// All routes of all hosts.
pub(super) fn router(site: Arc<Site>) -> Router {
    let layer = |routes: Router<Arc<Site>>| {
        routes
            .layer(from_fn_with_state(Arc::clone(&site), policy::from_our_page))
            .layer(from_fn_with_state(Arc::clone(&site), policy::with_clearance))
    };
    let signed_in = backend().layer(from_fn_with_state(Arc::clone(&site), policy::signed_in));
    let auth = Router::new()
        .route("/auth/session", get(api::session))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method);
    let pages = Router::new()
        .route("/auth/login", get(home::login_page).post(home::login))
        .fallback(home::page)
        .layer(from_fn_with_state(Arc::clone(&site), policy::with_clearance));
    Router::new()
        .nest("/backend-api", layer(signed_in))
        .nest("/backend-anon", layer(backend()))
        .nest("/api", layer(auth))
        .nest("/practice", open())
        .route("/sw.js", get(home::service_worker))
        .route("/favicon.ico", get(home::no_icon))
        .merge(pages)
        .layer(from_fn_with_state(Arc::clone(&site), policy::by_host))
        .with_state(site)
}

/// What the site's own pages call, for everyone who got this far.
fn backend() -> Router<Arc<Site>> {
    Router::new()
        .route("/conversation", post(conversation::converse))
        .route("/f/conversation", post(conversation::converse))
        .route("/conversations", get(api::conversations).patch(api::hide_all))
        .route("/conversation/{id}", get(api::conversation).patch(api::change))
        .route("/conversation/gen_title/{id}", post(api::gen_title))
        .route("/conversation/message_feedback", post(api::feedback))
        .route("/models", get(api::models))
        .route("/accounts/check", get(api::account))
        .route("/accounts/check/{version}", get(api::account))
        .route("/me", get(api::me))
        .route("/sentinel/chat-requirements", post(api::requirements))
        .route("/synthesize", get(api::synthesize))
        .nest("/practice", helpers())
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
}

/// What tests need of an origin and a chat site does not have.
fn helpers() -> Router<Arc<Site>> {
    Router::new()
        .route("/echo", any(helpers::echo))
        .route("/mirror", post(helpers::mirror).put(helpers::mirror).patch(helpers::mirror))
        .route("/bytes", get(helpers::bytes))
        .route("/status", any(helpers::status))
        .route("/redirect", any(helpers::redirect))
        .route("/slow-head", any(helpers::slow_head))
        .route("/cookie-rotate", get(helpers::cookie_rotate))
}

/// The check, the watchdog's reports, the counters and the pages' assets.
fn open() -> Router<Arc<Site>> {
    Router::new()
        .route("/counters", get(api::counters).delete(api::reset_counters))
        .route("/check", post(home::check))
        .route("/intrusion", post(home::intrusion))
        .route("/sw-saw", post(home::sw_saw))
        .route("/{asset}", get(home::asset))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
}

async fn not_found() -> Response {
    Refusal::NotFound.into_response()
}

async fn wrong_method() -> Response {
    Refusal::WrongMethod.into_response()
}

/// The whole body of a request.
///
/// # Errors
/// [`Refusal::TooLarge`] beyond [`MAX_BODY`], or when the body breaks off.
pub(super) async fn whole_body(request: Request) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    body.map(|body| body.to_bytes()).map_err(|_| Refusal::TooLarge)
}
