//! What instances share: the same behaviour of both stores, what is said of a Redis that will not do, what happens
//! while it is gone, and two programs on one of them.

mod answers;
mod lines;
mod lost;
mod pair;
mod parts;
pub mod server;
mod turns;

use std::sync::Arc;

use tabproxy::store::{Embedded, Redis, Store};
use tempfile::TempDir;

use server::RedisProgram;

/// Both stores, with what has to live as long as they are used.
pub struct Both {
    _redis: RedisProgram,
    _home: TempDir,
    stores: [(&'static str, Arc<dyn Store>); 2],
}

impl Both {
    pub async fn new() -> Both {
        let (redis, home) = (RedisProgram::start().await, TempDir::new().unwrap());
        let embedded = Embedded::new(home.path().join("store"), 100);
        let shared = Redis::new(&redis.server()).unwrap();
        Both {
            _redis: redis,
            _home: home,
            stores: [("embedded", Arc::new(embedded)), ("Redis", Arc::new(shared))],
        }
    }

    /// Each of them, with its name for messages.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, Arc<dyn Store>)> + '_ {
        self.stores.iter().cloned()
    }
}
