//! No tests: a real Redis, as each test wants it, and how the option would be read.

use tabproxy::config::{RedisServer, Settings};

pub use crate::shared::redis::{PASSWORD, RedisProgram};

impl RedisProgram {
    pub async fn start() -> RedisProgram {
        RedisProgram::launch(&[], false).await.unwrap()
    }

    pub fn server(&self) -> RedisServer {
        server(&self.url())
    }
}

/// The server at `url`, as the option is read.
pub fn server(url: &str) -> RedisServer {
    let settings =
        Settings { redis: Some(url.into()), profile: Some("/nowhere".into()), ..Settings::default() };
    settings.check(&|_| None).unwrap().redis.unwrap()
}
