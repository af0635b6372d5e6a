//! The side that callers see: HTTP/1.1 and HTTP/2 on one port, and what may pass.
//!
//! ```text
//! connection ──> instance ──> journal ──> guard (Host, Origin) ──> cors ──> /k/KEY off, earlier names to ours (compat)
//!   ──> access: who asks? ──┬──> /healthz /readyz /metrics /ping   (health, ticks)
//!                           ├──> /openapi.json /docs               (openapi)
//!                           ├──> /admin/*                          (admin)
//!                           ├──> /console                          (console)
//!                           ├──> the official API                  (relay)
//!                           ├──> /v1/* in the site's chat ──> queue ──> page ──> body   (chat)
//!                           ├──> a turn: conversation, plugin ──┐
//!                           ├──> the plugin's history: history ─┤
//!                           └──> method, path, length ──────────┴──> queue ──> page ──> body
//! ```
//!
//! The order of the layers is the policy: nothing is served, not even a health check, before the guard has
//! let it pass; the journal, which only writes down what happens, is around it. Everything that a request may do is in [`Policy`]; this module knows neither flags nor
//! environment.

pub mod access;
mod admin;
mod board;
mod body;
mod boundary;
mod caller;
pub mod chat;
mod compat;
pub mod console;
mod conversation;
mod events;
pub mod guard;
pub mod headers;
mod health;
mod history;
mod home;
mod instance;
mod journal;
mod openapi;
mod page;
pub mod path;
mod peer;
mod plugin;
mod pulse;
mod refused;
mod relay;
mod reply;
mod server;
mod shape;
mod signed;
mod throttle;
mod ticks;
mod upload;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware;
use axum::routing::{any, get, patch, post};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::util::option_layer;
use tower_http::cors::{
    AllowHeaders, AllowMethods, AllowOrigin, AllowPrivateNetwork, CorsLayer, ExposeHeaders,
};

use crate::accounts::Homes;
use crate::admission::Admission;
use crate::browser::Browsers;
use crate::config::Cors;
use crate::store::Health;
use crate::telemetry::metrics::Metrics;
use crate::turns::Turns;
use crate::turns::floor::Floor;

pub use access::Gate;
pub use admin::Admin;
pub use board::Board;
pub use console::Console;
pub use relay::Relay;
pub use server::serve;
pub use signed::SignedIn;

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
    /// Whether clients that say nothing of it get snapshots where the site streams deltas.
    pub snapshots: bool,
    /// Whether a turn waits while its conversation is being answered; it is refused otherwise.
    pub busy_waits: bool,
    /// Header names that pass in both directions, beyond the usual ones.
    pub allow_headers: Vec<String>,
    /// Whose pages may use this server.
    pub cors: Cors,
    /// Proxies in front that say who asks.
    pub trusted_proxies: Vec<IpNet>,
}

/// Everything that the routes work with.
pub struct App {
    /// The browser that performs requests, or several of them.
    pub browser: Browsers,
    /// Where there are several: the one that each conversation was begun in, counted from 0.
    pub homes: Arc<Homes<usize>>,
    /// The door before it.
    pub admission: Admission,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// What requests may do.
    pub policy: Policy,
    /// What this instance is called.
    pub instance: HeaderValue,
    /// Cancelled once the server is to stop; requests are served for a while yet.
    pub leaving: CancellationToken,
    /// One turn at a time in each conversation.
    pub floor: Floor,
    /// The turns of the last minutes that may be asked again.
    pub turns: Turns<HeaderMap>,
    /// Who may do it.
    pub gate: Gate,
    /// The browser's own sign-in.
    pub signed: SignedIn,
    /// The admin password.
    pub admin: Admin,
    /// The way to the official API.
    pub relay: Relay,
    /// The conversations that were answered in the official API's formats.
    pub index: chat::Index,
    /// How the store is that several instances share, if they do.
    pub shared: Option<watch::Receiver<Health>>,
    /// The requests that are here now.
    pub board: Board,
    /// The operator's page.
    pub console: Console,
}

/// All routes, behind the guard.
pub fn router(app: Arc<App>) -> Router {
    let turn = || post(conversation::handle).fallback(page::handle);
    let routes = Router::new()
        .route("/backend-api/conversation", turn())
        .route("/backend-api/f/conversation", turn())
        .route("/backend-anon/conversation", turn())
        .route("/backend-anon/f/conversation", turn())
        .route("/backend-api/conversations", any(history::handle))
        .route("/backend-api/conversation/{id}", any(history::handle))
        .route("/backend-api/synthesize", any(history::speech))
        .route("/healthz", get(health::alive).fallback(health::wrong_method))
        .route("/healthz/stream", ticks::route())
        .route("/readyz", get(health::ready).fallback(health::wrong_method))
        .route("/metrics", get(health::metrics).fallback(health::wrong_method))
        .route("/openapi.json", get(openapi::json).fallback(health::wrong_method))
        .route("/docs", get(openapi::page).fallback(health::wrong_method))
        .route("/ping", get(compat::ping).fallback(health::wrong_method))
        .route("/admin/tokens", patch(admin::tokens).fallback(admin::unknown))
        .route("/admin/password", patch(admin::new_password).fallback(admin::unknown))
        .route("/admin/puid", patch(admin::puid).fallback(admin::unknown))
        .route("/admin/openai", patch(admin::openai).fallback(admin::unknown))
        .route("/admin/{*rest}", any(admin::unknown))
        .route("/v1/chat/completions", post(chat::completions).fallback(chat::wrong_method))
        .route("/v1/responses", post(chat::responses).fallback(chat::wrong_method))
        .route("/v1/models", get(chat::models).fallback(chat::wrong_method))
        .route("/v1/models/{*name}", get(chat::model).fallback(chat::wrong_method))
        .route("/v1/engines", get(chat::engines).fallback(chat::wrong_method))
        .route("/v1", any(relay::unserved))
        .route("/v1/{*rest}", any(relay::unserved))
        .merge(console::routes(&app))
        .fallback(page::handle)
        .layer(middleware::from_fn_with_state(app.clone(), relay::layer))
        .layer(middleware::from_fn_with_state(app.clone(), access::layer))
        .with_state(app.clone());
    let name = app.instance.clone();
    // What changes a path has to come before the routes are chosen, and so around all of them.
    Router::new()
        .fallback_service(routes)
        .layer(middleware::from_fn(compat::layer))
        .layer(middleware::from_fn(access::unwrap_path))
        .layer(option_layer(cors(&app.policy.cors)))
        .layer(middleware::from_fn_with_state(app.clone(), guard::layer))
        .layer(middleware::from_fn_with_state(app.board.clone(), journal::layer))
        .layer(middleware::from_fn_with_state(app, peer::layer))
        .layer(middleware::from_fn_with_state(name, instance::layer))
}

/// What pages of other sites are told. No cookies of theirs: a caller shows a key in a header, if any.
fn cors(cors: &Cors) -> Option<CorsLayer> {
    let origins = match cors {
        Cors::Off => return None,
        Cors::Any => AllowOrigin::any(),
        Cors::Origins(origins) => AllowOrigin::list(origins.iter().filter_map(|it| it.parse().ok())),
    };
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_private_network(AllowPrivateNetwork::yes())
        .expose_headers(ExposeHeaders::any())
        .max_age(Duration::from_secs(600));
    Some(layer)
}
