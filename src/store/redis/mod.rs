//! The store in a Redis server that several instances share.
//!
//! Each part is a file of its own. What must not be torn apart is a script, which Redis runs as one. All keys
//! begin with `tabproxy:`. One connection serves all (`link`); it is made again when it breaks, and nothing is
//! asked twice by itself: a caller is told at once while the server is gone, and after [`PATIENCE`] at the latest.

mod answers;
mod explain;
mod link;
mod locks;
mod memory;
mod tallies;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use redis::io::tcp::TcpSettings;
use redis::{
    Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    ScriptInvocation, TlsCertificates,
};
use secrecy::ExposeSecret;
use tokio::sync::watch;
use uuid::Uuid;

use super::StoreError;
use crate::config::RedisServer;
pub use link::Health;
use link::Link;

/// How long an answer of Redis is waited for, and a connection to it.
const PATIENCE: Duration = Duration::from_millis(1500);
/// What all keys begin with.
const PREFIX: &str = "tabproxy:";
/// The oldest version that will do.
const OLDEST: (u32, u32) = (6, 2);

/// A store in Redis; clones are the same one.
#[derive(Clone)]
pub struct Redis {
    link: Arc<Link>,
    /// Tells what is this instance's there from what is another's.
    instance: Arc<str>,
    desk: Arc<tallies::Desk>,
}

impl Redis {
    /// The store at `server`, which is connected to from now on. To be called within a runtime.
    ///
    /// # Errors
    /// When the authorities' certificates cannot be used; the text holds no secret.
    pub fn new(server: &RedisServer) -> Result<Redis, StoreError> {
        let link = Arc::new(Link::new(client(server)?, server.clone()));
        let instance: Arc<str> = Uuid::new_v4().simple().to_string().into();
        let desk = Arc::new(tallies::Desk::new(link.clone(), instance.clone()));
        Ok(Redis { link, instance, desk })
    }

    /// The version of the server, if it will do: it is connected to for a moment, some seconds at most.
    ///
    /// # Errors
    /// Why it will not, and what to do about it.
    pub async fn probe(server: &RedisServer) -> Result<String, (String, String)> {
        let wrong = |error| (StoreError::from(error).0, "correct the file in TABPROXY_REDIS_CA".to_owned());
        link::probe(&client(server).map_err(wrong)?, server).await
    }

    /// How it is, as that changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    /// Registers its figures.
    pub fn register(&self, registry: &mut Registry) {
        self.link.figures().register(registry);
    }

    /// The name that `key` of `part` has there.
    fn key(&self, part: &str, key: impl AsRef<[u8]>) -> Vec<u8> {
        self::key(part, key)
    }

    async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StoreError> {
        self.link.call(async |connection| command.query_async(connection).await).await
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.link.call(async |connection| script.invoke_async(connection).await).await
    }
}

fn key(part: &str, key: impl AsRef<[u8]>) -> Vec<u8> {
    [PREFIX.as_bytes(), part.as_bytes(), b":", key.as_ref()].concat()
}

fn client(server: &RedisServer) -> Result<Client, RedisError> {
    let mut settings = RedisConnectionInfo::default().set_db(server.database.into());
    if let Some(user) = &server.user {
        settings = settings.set_username(user.as_str());
    }
    if let Some(password) = &server.password {
        settings = settings.set_password(password.expose_secret());
    }
    let (host, port) = (server.host.clone(), server.port);
    let address = match server.tls {
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host, port),
    };
    // Small calls one after the other: none may wait for the acknowledgement of the one before.
    let info = address
        .into_connection_info()?
        .set_redis_settings(settings)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true));
    match server.tls {
        true => {
            let authorities = TlsCertificates { client_tls: None, root_cert: server.authorities.clone() };
            Client::build_with_tls(info, authorities)
        }
        false => Client::open(info),
    }
}
