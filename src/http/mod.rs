//! The side that callers see: HTTP/1.1 and HTTP/2 on one port, and what may pass.
//!
//! ```text
//! connection ──> journal ──> guard (Host, Origin) ──┬──> /healthz /readyz /metrics      (health)
//!                                                   └──> method, path, length ──> queue ──> page ──> body
//! ```
//!
//! The order of the layers is the policy: nothing is served, not even a health check, before the guard has
//! let it pass; the journal, which only writes down what happens, is around it. Everything that a request may do is in [`Policy`]; this module knows neither flags nor
//! environment.

mod body;
mod boundary;
mod events;
pub mod guard;
pub mod headers;
mod health;
mod journal;
mod page;
pub mod path;
mod pulse;
mod refused;
mod reply;
mod server;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use axum::routing::get;

use crate::admission::Admission;
use crate::browser::Browser;
use crate::telemetry::metrics::Metrics;

pub use server::serve;

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
}

/// All routes, behind the guard.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(health::alive).fallback(health::wrong_method))
        .route("/readyz", get(health::ready).fallback(health::wrong_method))
        .route("/metrics", get(health::metrics).fallback(health::wrong_method))
        .fallback(page::handle)
        .layer(middleware::from_fn_with_state(app.clone(), guard::layer))
        .layer(middleware::from_fn(journal::layer))
        .with_state(app)
}
