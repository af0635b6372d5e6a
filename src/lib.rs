//! tabproxy: a reverse proxy whose outbound leg is a browser tab.
//!
//! A supervisor keeps a real Chromium warm on a chat site. Each request that arrives is performed as a
//! `fetch` in a page of that browser, so the site sees the signed-in browser that it expects, and the
//! answer is streamed out byte for byte.
//!
//! ```text
//!            guard · path · admission            Carrier          carrier.js
//!  client ──────────> http ──PageRequest──> browser ══WebSocket══> page ──fetch──> site
//!         <────────── body <──Pipe, credit──        <══ frames ═══      <─stream──
//!                                              │
//!                    supervisor ── State::on ──┴── launch (process) · link (CDP)
//! ```
//!
//! # Two tabs
//!
//! The **site tab** is the ordinary page: it passes the site's check, keeps the sign-in, and is what the
//! operator sees. Nothing of ours is in it. The **carrier** is a quiet tab of the same origin in which our
//! script performs the fetches. Its document is a `blob:` made from one that we answer ourselves, past the
//! site's service worker: the site never serves it nor hears of it, and since its address is outside every
//! service worker's scope, none can take it over later (`clients.claim()` does take over a page that was
//! merely loaded past the worker: seen with the practice site). Its policy (`connect-src 'self'`) stops a
//! redirect to another origin before anything is sent there.
//!
//! One carrier works and the others, each in a renderer process of its own, are in reserve (`browser::state`):
//! if it dies, its streams end and the next request does not wait. To spread the work gains nothing: the site's
//! connection and the browser's network process are one for all (figures in README.md, "Reliability"). Worn out carriers are replaced the same way.
//!
//! A browser may also run elsewhere and be somebody else's ([`browser::Source`]): then frames travel over its
//! DevTools, and only the tabs that we opened are ours.
//!
//! # The way of a request
//!
//! [`http`] checks Host and Origin, then who asks (`http::access`: a key opens stored [`accounts`] or the browser's own
//! sign-in; once somebody is signed in, nothing goes into the page without one), then the path; [`admission`] gives a permit, or a place in a bounded
//! queue; [`browser::Browsers`] chooses a browser, where there are several, and [`browser::Browser::fetch`] waits for
//! a carrier of it and hands the request to it. Permit and exchange
//! move into the body: when the client leaves they drop, and the drop aborts the fetch in the page.
//! The page asks for the start of each request (`browser::frame`, G and S), so that one that was handed to a
//! dead page has provably not been sent, and may go to another. Frames of the answer are taken at once into a bounded [`pipe`], under the credit of [`flow`], so a
//! client that reads slowly slows its own fetch and nobody else's.
//!
//! # Clients of other formats
//!
//! [`site`] reads the site's answers in both of its formats, and [`openai`] knows the official API's; neither
//! knows the other. A [`translate::Translate`] stands between the exchange and the body: `site::classic` makes
//! snapshots of deltas, and `http::chat` puts the two together for `/v1/*`. Turns of such clients go on in the
//! site's own conversation where [`store`] knows it.
//!
//! # The operator
//!
//! [`http::console`] shows the site tab as a screencast and puts what a person does into it, so that a check or a
//! sign-in needs no window ([`browser::view`]). The supervisor notices by itself when that has helped.
//!
//! # Layers
//!
//! Imports go downward only; `tests/it/layers.rs` holds this.
//!
//! | layer | modules |
//! |---|---|
//! | L0 | [`error`], [`config`], [`exchange`], [`files`], [`pipe`], [`flow`], [`store`], [`telemetry`], [`translate`] |
//! | L1 | [`access`], [`accounts`], [`admission`], [`openai`], [`site`], [`turns`] |
//! | L2 | [`browser`] (of L1 only [`site`], to recognise a wall) |
//! | L3 | [`http`] |
//! | L4 | this file, `specs`, [`cli`], [`demo`], [`doctor`], [`health`], [`progress`], [`status`] |
//!
//! [`practice`] stands apart: it imports nothing of ours.

pub mod access;
pub mod accounts;
pub mod admission;
pub mod browser;
pub mod cli;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod exchange;
pub mod files;
pub mod flow;
pub mod health;
pub mod http;
pub mod openai;
pub mod pipe;
pub mod practice;
pub mod progress;
pub mod site;
mod specs;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod translate;
pub mod turns;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use access::AccessKeys;
use accounts::{Accounts, Homes};
use admission::Admission;
use browser::Browsers;
use browser::gateway::{self, Gateway};
use browser::launch::{find_chromium, is_program};
use browser::profile::{ProfileError, ProfileLock};
use config::{Config, Hosts};
use files::FileError;
use http::Gate;
use prometheus_client::registry::Registry;
use store::{Embedded, Redis, Store, StoreError};
use telemetry::figures::{self, Refusals};
use telemetry::metrics::Metrics;
use telemetry::shared::SharedTurns;
use turns::floor::Floor;
use turns::{Peers, Turns};

/// Why the server did not start: one line, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no browser.
    #[error(
        "no Chromium found on PATH or in the usual places; install it (apt-get install chromium) or set TABPROXY_CHROMIUM"
    )]
    NoChromium,
    /// The browser that was named is not a program.
    #[error("TABPROXY_CHROMIUM: {0} is not an executable file; install Chromium or correct the path")]
    NotAProgram(PathBuf),
    /// A file of keys or accounts cannot be used.
    #[error("{0}; correct the file, or make one with `tabproxy key new` (keys)")]
    File(#[from] FileError),
    /// Anybody could use somebody's sign-in.
    #[error(
        "the profile {profile} is signed in, and {listen} can be reached from elsewhere: make an access key with \
         `tabproxy key new --keys-file FILE` and set TABPROXY_KEYS_FILE=FILE, or listen on 127.0.0.1"
    )]
    Open {
        /// The profile.
        profile: PathBuf,
        /// The address to listen on.
        listen: SocketAddr,
    },
    /// The profile cannot be had.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The address cannot be had.
    #[error("cannot listen on {0}: {1}; stop what uses it, or set TABPROXY_LISTEN to another address")]
    Listen(SocketAddr, io::Error),
    /// The store cannot be meant.
    #[error("TABPROXY_REDIS: {0}; correct the address, or the file in TABPROXY_REDIS_CA")]
    Store(#[from] StoreError),
    /// Something of the system is missing.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// So many conversations are known again, of the official API's clients and of those whom an account was lent to;
/// the oldest are forgotten first.
const CONVERSATIONS: u64 = 100_000;

/// Has those wait at the door that the browsers would have wait where nobody sees them.
async fn keep_outside(browser: Browsers, app: Arc<http::App>) {
    let mut status = browser.watch();
    loop {
        status.borrow_and_update();
        let room = browser.room();
        // One that has begun to wait for places keeps its turn until there is another number.
        let mut another = std::pin::pin!(async {
            while browser.room() == room {
                if status.changed().await.is_err() {
                    return false;
                }
            }
            true
        });
        let goes_on = tokio::select! {
            goes_on = &mut another => goes_on,
            () = app.admission.narrow(room) => another.await,
        };
        if !goes_on {
            return;
        }
    }
}

/// Cancelled `grace` after `first`.
fn after(first: CancellationToken, grace: Duration) -> CancellationToken {
    if grace.is_zero() {
        return first;
    }
    let then = CancellationToken::new();
    let cancel = then.clone();
    tokio::spawn(async move {
        first.cancelled().await;
        tracing::info!("not ready from now on; requests are served for {grace:?} yet");
        tokio::time::sleep(grace).await;
        cancel.cancel();
    });
    then
}

/// How often the files of keys and accounts are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Reads what an operator has changed, until it is dropped.
async fn look_again(app: Arc<http::App>) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let looking = app.clone();
        let _ = tokio::task::spawn_blocking(move || looking.gate.look()).await;
        if app.shared.is_some() {
            app.gate.accounts.refresh().await;
        }
    }
}

/// A profile whose sign-in anybody could use.
fn open_to_all(config: &Config) -> Option<PathBuf> {
    let is_reachable = !config.listen.ip().is_loopback() && config.keys_file.is_none();
    config.profiles().into_iter().find(|it| is_reachable && browser::is_signed_in(it))
}

/// A running server.
pub struct Server {
    addr: SocketAddr,
    browser: Browsers,
    serving: JoinHandle<io::Result<()>>,
    _gateways: Vec<Gateway>,
    _profiles: Vec<ProfileLock>,
}

impl Server {
    /// Starts everything and returns at once; the browser gets ready meanwhile. Ends some time after
    /// `shutdown`: see [`Server::finished`].
    pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Server, StartError> {
        let shown = config.shown();
        let profiles = config.profiles();
        let binary = match config.chromium.clone() {
            // Nothing is started where the browser runs elsewhere.
            _ if !config.browser_ws.is_empty() => PathBuf::new(),
            Some(path) if is_program(&path) => path,
            Some(path) => return Err(StartError::NotAProgram(path)),
            None => find_chromium().ok_or(StartError::NoChromium)?,
        };
        if let Some(profile) = open_to_all(&config) {
            return Err(StartError::Open { profile, listen: config.listen });
        }
        let keys = AccessKeys::open(config.keys_file.as_deref())?;
        let missing_keys = config.keys_file.clone().filter(|it| !it.exists());
        let profiles = profiles.iter().map(|it| ProfileLock::take(it)).collect::<Result<Vec<_>, _>>()?;
        let (mut registry, mut shared) = (Registry::default(), None);
        let store: Arc<dyn Store> = match &config.redis {
            None => Arc::new(Embedded::beside(&config.profile, CONVERSATIONS)),
            Some(server) => {
                let redis = Redis::new(server)?;
                redis.register(&mut registry);
                shared = Some(redis.health());
                Arc::new(redis)
            }
        };
        let accounts = Arc::new(Accounts::open(config.accounts_file.as_deref(), store.clone())?);
        let index = http::chat::Index::new(store.clone());
        let listener = TcpListener::bind(config.listen).map_err(|e| StartError::Listen(config.listen, e))?;
        let addr = listener.local_addr()?;
        let way_out = gateway::way_out(&config.proxy).await?;
        if !config.browser_ws.is_empty() && !config.unused.is_empty() {
            let unused = config.unused.join(", ");
            tracing::warn!("without effect on a browser that runs elsewhere (TABPROXY_BROWSER_WS): {unused}");
        }
        let specs = specs::of(&config, binary, &way_out);
        let relay = http::Relay::new(config.api_target, config.strip_headers, &config.proxy)?;
        tokio::spawn(gateway::reach::warn_of_unreachable(config.proxy.clone()));
        let browser = Browsers::start(specs, config.browser_inflight).await?;
        let policy = http::Policy {
            allow_paths: config.allow_paths,
            allow_headers: config.allow_headers,
            hosts: match config.hosts {
                Hosts::Any => http::HostPolicy::Any,
                Hosts::Names(names) => http::HostPolicy::Names(names),
            },
            max_body: config.max_body,
            queue_wait: config.queue_wait,
            ping: config.ping,
            join: config.join,
            snapshots: config.snapshots,
            busy_waits: config.busy_waits,
            cors: config.cors,
            trusted_proxies: config.trusted_proxies,
        };
        let refusals = Refusals::new(&mut registry);
        figures::name_instance(&mut registry, config.instance.name());
        let (watched, homes) = (accounts.clone(), accounts.clone());
        figures::watch_accounts(&mut registry, Box::new(move || watched.figures(Instant::now())));
        if browser.count() > 1 {
            let watched = browser.clone();
            figures::watch_browsers(&mut registry, move || watched.figures());
        }
        let mut floor = Floor::new(config.queue);
        let mut turns = Turns::new(turns::Limits::default());
        if config.redis.is_some() {
            let keep = config.join.unwrap_or_default();
            let figures = SharedTurns::new(&mut registry);
            let peers = Peers::new(store.clone(), config.redis_lost, keep, figures);
            (floor, turns) = (floor.shared(peers.clone()), turns.shared(peers));
        }
        let app = Arc::new(http::App {
            browser: browser.clone(),
            admission: Admission::new(config.max_inflight, config.queue, config.queue_wait),
            metrics: Metrics::new(registry),
            policy,
            instance: config.instance.header(),
            leaving: shutdown.clone(),
            floor,
            turns,
            gate: Gate::new(keys, accounts, store.clone(), config.require_key, refusals),
            homes: Arc::<Homes<usize>>::default(),
            signed: http::SignedIn::new(browser.count()),
            admin: http::Admin::new(config.admin_password),
            relay,
            index: index.clone(),
            shared,
            board: http::Board::default(),
            console: http::Console::new(addr, shown),
        });
        let shutdown = after(shutdown, config.drain_grace);
        tokio::spawn(keep_outside(browser.clone(), app.clone()));
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(look_again(app.clone())));
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(http::console::keep_books(app.clone())));
        tracing::info!("listening on http://{addr} as {}", config.instance.name());
        if let Some(path) = missing_keys {
            tracing::info!(
                "{} is not there yet: nobody has a key; `tabproxy key new` makes one",
                path.display()
            );
        }
        http::console::announce(&app);
        let serving = http::serve(listener, app, shutdown.clone(), config.drain);
        let draining = browser.clone();
        let serving = tokio::spawn(async move {
            let drain = async {
                shutdown.cancelled().await;
                draining.drain(); // not ready from this moment on
            };
            let (served, ()) = tokio::join!(serving, drain);
            draining.stop().await;
            index.settle().await;
            homes.settle().await;
            served
        });
        Ok(Server { addr, browser, serving, _gateways: way_out.gateways, _profiles: profiles })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its browser, or several as one.
    pub fn browser(&self) -> &Browsers {
        &self.browser
    }

    /// Waits until it has ended: after the shutdown, once streams are drained and the browser is closed.
    pub async fn finished(self) -> io::Result<()> {
        self.serving.await.map_err(io::Error::other)?
    }
}
