//! The store in a Redis server that several instances share.
//!
//! Each part is a file of its own. What must not be torn apart is a script, which Redis runs as one. All keys
//! begin with `tabproxy:`. One connection serves all; it is made again when it breaks, and nothing is asked
//! twice by itself: a caller is told after [`PATIENCE`] at the latest.

mod answers;
mod locks;
mod memory;
mod tallies;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, FromRedisValue, RedisError, ScriptInvocation};

use super::StoreError;

/// How long an answer of Redis is waited for, and a connection to it.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A store in Redis; clones are the same one.
#[derive(Clone)]
pub struct Redis {
    connection: ConnectionManager,
    prefix: Arc<str>,
}

impl Redis {
    /// The store at `url`, `redis://[[user]:password@]host[:port][/db]` or `rediss://` for TLS. Nothing is
    /// connected yet. To be called within a runtime.
    ///
    /// # Errors
    /// When the address cannot be meant; the text does not repeat it.
    pub fn new(url: &str) -> Result<Redis, StoreError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(1);
        let client = Client::open(url)?;
        let connection = ConnectionManager::new_lazy_with_config(client, config)?;
        Ok(Redis { connection, prefix: "tabproxy:".into() })
    }

    /// The name that `key` of `part` has there.
    fn key(&self, part: &str, key: impl AsRef<[u8]>) -> Vec<u8> {
        [self.prefix.as_bytes(), part.as_bytes(), b":", key.as_ref()].concat()
    }

    async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StoreError> {
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        Ok(script.invoke_async(&mut self.connection.clone()).await?)
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> StoreError {
        StoreError(format!("Redis: {error}"))
    }
}
