//! The side that callers see: HTTP/1.1 and HTTP/2 on one port, and what may pass.
//!
//! ```text
//! connection ──> journal ──> guard (Host, Origin) ──┬──> /healthz /readyz /metrics      (health)
//!                                                   └──> method, path, length ──> queue ──> page ──> body
//!                                                        conversation, plugin, history: the same, and what
//!                                                        a turn and the bot plugin need besides
//! ```
//!
//! The order of the layers is the policy: nothing is served, not even a health check, before the guard has
//! let it pass; the journal, which only writes down what happens, is around it. Everything that a request may do is in [`Policy`]; this module knows neither flags nor
//! environment.

mod body;
mod boundary;
mod caller;
mod conversation;
mod events;
pub mod guard;
pub mod headers;
mod health;
mod history;
mod journal;
mod page;
pub mod path;
mod plugin;
mod pulse;
mod refused;
mod reply;
mod server;
mod upload;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::middleware;
use axum::routing::{any, get, post};

use crate::admission::Admission;
use crate::browser::Browser;
use crate::telemetry::metrics::Metrics;
use crate::turns::Turns;
use crate::turns::floor::Floor;

pub use server::serve;
pub use upstream::Standing;

/// Which names this server answers to. Loopback names and IP addresses always are answered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPolicy {
    /// Every name: somebody else checks it.
    Any,
    /// These names, whatever their case; a port is ignored.
    Names(Vec<String>),
}

/// What requests may do.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Path prefixes that are served through the page.
    pub allow_paths: Vec<String>,
    /// Names that this server answers to.
    pub hosts: HostPolicy,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// How long a request may wait for a permit and a page, from its arrival.
    pub queue_wait: Duration,
    /// How long an event stream may be silent before a comment is put in; `None` for never.
    pub ping: Option<Duration>,
    /// How long a turn that is asked again joins its answer; `None` for never.
    pub join: Option<Duration>,
    /// Whether a turn waits while its conversation is being answered; it is refused otherwise.
    pub busy_waits: bool,
    /// Header names that pass in both directions, beyond the usual ones.
    pub allow_headers: Vec<String>,
}

/// Everything that the routes work with.
pub struct App {
    /// The browser that performs requests.
    pub browser: Browser,
    /// The door before it.
    pub admission: Admission,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// What requests may do.
    pub policy: Policy,
    /// One turn at a time in each conversation.
    pub floor: Floor,
    /// The turns of the last minutes that may be asked again.
    pub turns: Turns<HeaderMap>,
    /// Whether the profile is signed in.
    pub standing: Standing,
}

/// All routes, behind the guard.
pub fn router(app: Arc<App>) -> Router {
    let turn = || post(conversation::handle).fallback(page::handle);
    Router::new()
        .route("/backend-api/conversation", turn())
        .route("/backend-api/f/conversation", turn())
        .route("/backend-anon/conversation", turn())
        .route("/backend-anon/f/conversation", turn())
        .route("/backend-api/conversations", any(history::handle))
        .route("/backend-api/conversation/{id}", any(history::handle))
        .route("/backend-api/synthesize", any(history::speech))
        .route("/healthz", get(health::alive).fallback(health::wrong_method))
        .route("/readyz", get(health::ready).fallback(health::wrong_method))
        .route("/metrics", get(health::metrics).fallback(health::wrong_method))
        .fallback(page::handle)
        .layer(middleware::from_fn_with_state(app.clone(), guard::layer))
        .layer(middleware::from_fn(journal::layer))
        .with_state(app)
}
