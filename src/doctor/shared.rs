//! The store that several instances share, where there is one.

use super::finding::Finding;
use crate::config::{Config, RedisServer};
use crate::store::Redis;

/// The version of the server, or what is wrong with it and what to do. On a thread and a runtime of its own: whoever
/// looks may be on one already, where nothing may wait.
pub fn probe(server: &RedisServer) -> Result<String, (String, String)> {
    let probe = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| (error.to_string(), "free some memory".to_owned()))?;
        runtime.block_on(Redis::probe(server))
    };
    let crashed = || Err(("the look broke off".to_owned(), "see what it says above".to_owned()));
    std::thread::scope(|threads| threads.spawn(probe).join().unwrap_or_else(|_| crashed()))
}

/// Whether the store can be used.
pub fn look(config: &Config) -> Vec<Finding> {
    const NAME: &str = "redis";
    let look = |server: &RedisServer| match probe(server) {
        Ok(version) => Finding::green(NAME, format!("{server} ({version})")),
        Err((what, remedy)) => Finding::red(NAME, format!("{server}: {what}"), remedy),
    };
    config.redis.iter().map(look).collect()
}
