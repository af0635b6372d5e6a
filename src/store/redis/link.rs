//! The one connection to the server, and the task that watches over it.
//!
//! ```text
//! connect ──> greet (is it one that will do?) ──> Up ── a beat each second, and whenever a call doubts ──┐
//!    ^  refused, unreachable, none of ours                                                            │ fails
//!    └────────── Lost, with the reason <──────────────────────────────────────────────────────────────┘
//! ```
//!
//! The library's own connection manager would do, but that it keeps an error which is not one of the network
//! (a refused password, a server that is still loading) for ever, and has callers wait while it connects. Here a
//! caller is told at once while the server is gone. A beat writes, since a server that can only be read is none
//! for us: a replica, one whose disk or memory is full.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::explain::{self, Unfit};
use super::{PATIENCE, PREFIX};
use crate::config::RedisServer;
use crate::store::StoreError;
use crate::telemetry::redis::RedisFigures;

/// How often the server is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// How a store elsewhere was when it was last looked at.
#[derive(Clone, Debug)]
pub struct Health {
    /// Whether it could be used.
    pub is_up: bool,
    /// Whether it could ever be, since this process began.
    pub was_up: bool,
    /// Since when it is as it is.
    pub since: Instant,
    /// Why it cannot be used, with the remedy: one line, without secrets and without its address.
    pub why: String,
}

impl Health {
    /// Before the first look.
    fn unknown() -> Health {
        Health { is_up: false, was_up: false, since: Instant::now(), why: String::new() }
    }

    /// Why nothing can be served (yet): it was never reached since the start. Once it was, losing it is no
    /// reason: all instances lose it together, and to take all of them out would end what works without it.
    pub fn keeps_out(&self) -> Option<String> {
        let why = if self.why.is_empty() { "it is being connected to" } else { &self.why };
        (!self.was_up).then(|| format!("the shared store was not reached yet: {why}"))
    }
}

/// What callers need to know at each call.
enum State {
    Connecting,
    Up(MultiplexedConnection),
    Lost(String),
}

struct Shared {
    server: RedisServer,
    state: watch::Sender<State>,
    health: watch::Sender<Health>,
    /// A call has failed in a way that the connection may be broken.
    doubt: Notify,
    figures: RedisFigures,
}

/// The connection; ends with the last that holds it.
pub(super) struct Link {
    shared: Arc<Shared>,
    _watcher: AbortOnDropHandle<()>,
}

impl Link {
    /// Begins to connect. To be called within a runtime.
    pub(super) fn new(client: Client, server: RedisServer) -> Link {
        let shared = Arc::new(Shared {
            server,
            state: watch::Sender::new(State::Connecting),
            health: watch::Sender::new(Health::unknown()),
            doubt: Notify::new(),
            figures: RedisFigures::default(),
        });
        let watcher = tokio::spawn(watch_over(client, shared.clone()));
        Link { shared, _watcher: AbortOnDropHandle::new(watcher) }
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    pub(super) fn figures(&self) -> &RedisFigures {
        &self.shared.figures
    }

    /// Does `work` with the connection.
    ///
    /// # Errors
    /// At once while the server is gone, and after [`PATIENCE`] at the latest.
    pub(super) async fn call<T>(
        &self,
        work: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let called = tokio::time::timeout(PATIENCE, async {
            let mut connection = self.connection().await?;
            work(&mut connection).await.map_err(|error| {
                if error.is_unrecoverable_error() || error.is_io_error() {
                    self.shared.doubt.notify_one();
                }
                StoreError(format!("Redis: {}", explain::without_arguments(&error)))
            })
        })
        .await;
        let called = called.unwrap_or_else(|_| {
            self.shared.doubt.notify_one();
            Err(StoreError(format!("Redis: no answer within {PATIENCE:?}")))
        });
        self.shared.figures.called(begun.elapsed(), called.is_ok());
        called
    }

    async fn connection(&self) -> Result<MultiplexedConnection, StoreError> {
        let mut state = self.shared.state.subscribe();
        let known = state.wait_for(|it| !matches!(it, State::Connecting)).await;
        match known.as_deref() {
            Ok(State::Up(connection)) => Ok(connection.clone()),
            Ok(State::Lost(why)) => Err(StoreError(why.clone())),
            _ => Err(StoreError("Redis: nobody connects to it".into())),
        }
    }
}

async fn watch_over(client: Client, shared: Arc<Shared>) {
    loop {
        let unfit = match connect(&client).await {
            Ok((connection, found)) => {
                shared.found(connection.clone(), &found);
                shared.beat(connection).await
            }
            Err(unfit) => unfit,
        };
        shared.lost(&unfit);
        tokio::time::sleep(BEAT).await;
    }
}

/// What a server says of itself.
pub(super) struct Found {
    version: String,
    /// What an operator should know of it.
    careful: Option<String>,
}

/// Connects, and sees whether it is a server that will do.
async fn connect(client: &Client) -> Result<(MultiplexedConnection, Found), Unfit> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let greet = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let info = redis::cmd("INFO").query_async::<String>(&mut connection).await;
        let found = match info {
            Ok(info) => {
                explain::judge(&info)?;
                Found { version: explain::version(&info), careful: explain::careful(&info) }
            }
            // A user that may not ask; a write shows the rest.
            Err(error) if error.code() == Some("NOPERM") => {
                Found { version: "unknown".into(), careful: None }
            }
            Err(error) => return Err(error.into()),
        };
        write(&mut connection).await?;
        Ok((connection, found))
    };
    // A name that is looked up for ever is not in the library's own times.
    tokio::time::timeout(2 * PATIENCE, greet).await.unwrap_or(Err(Unfit::Silent))
}

async fn write(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let key = format!("{PREFIX}beat");
    redis::cmd("SET").arg(key).arg(1).arg("PX").arg(10_000).query_async(connection).await
}

/// The version of the server, if it will do.
///
/// # Errors
/// Why it will not, and what to do about it.
pub(super) async fn probe(client: &Client, server: &RedisServer) -> Result<String, (String, String)> {
    let connected = connect(client).await;
    connected.map(|(_, found)| found.version).map_err(|unfit| unfit.told(server))
}

impl Shared {
    fn found(&self, connection: MultiplexedConnection, found: &Found) {
        let health = self.health.borrow().clone();
        let (server, version) = (&self.server, &found.version);
        match health.was_up {
            false => tracing::info!("Redis {version} at {server} holds what the instances share"),
            true => tracing::info!(
                "Redis {version} at {server} is back after {:.1} s",
                health.since.elapsed().as_secs_f64()
            ),
        }
        if let Some(careful) = &found.careful {
            tracing::warn!("Redis at {server} {careful}");
        }
        self.state.send_replace(State::Up(connection));
        self.health.send_replace(Health {
            is_up: true,
            was_up: true,
            since: Instant::now(),
            why: String::new(),
        });
        self.figures.is_up(true);
    }

    /// Goes on as long as it can be written.
    async fn beat(&self, mut connection: MultiplexedConnection) -> Unfit {
        loop {
            let _ = tokio::time::timeout(BEAT, self.doubt.notified()).await;
            match tokio::time::timeout(PATIENCE, write(&mut connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.into(),
                Err(_) => return Unfit::Silent,
            }
        }
    }

    fn lost(&self, unfit: &Unfit) {
        let (what, remedy) = unfit.told(&self.server);
        let line = format!("{what}; {remedy}");
        // Whoever may look at the health need not know where the server is.
        let why = line.replace(&format!(" at {}", self.server), "");
        let before = self.health.borrow().clone();
        // One line for each reason, not for each try.
        match (before.is_up, before.why == why) {
            (true, _) => tracing::error!("{line}; streams that run go on"),
            (false, false) => tracing::error!("{line}"),
            (false, true) => {}
        }
        let since = if before.is_up { Instant::now() } else { before.since };
        self.state.send_replace(State::Lost(what));
        self.health.send_replace(Health { is_up: false, was_up: before.was_up, since, why });
        self.figures.is_up(false);
    }
}
