//! Keys and values that outlive the program.

use std::time::Duration;

use futures::future::BoxFuture;

use super::StoreError;

/// Keys and values with an expiry.
pub trait Memory: Send + Sync {
    /// The value of `key`, unless it is forgotten or expired.
    fn get(&self, key: Vec<u8>) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>>;

    /// Keeps `value` under `key` for so long, in place of the one before.
    fn put(&self, key: Vec<u8>, value: Vec<u8>, lasts: Duration) -> BoxFuture<'_, Result<(), StoreError>>;
}
