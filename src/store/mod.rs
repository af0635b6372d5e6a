//! A small memory of keys and values that outlives the program: the index of conversations is kept in it.
//!
//! Whatever implements [`Store`] may forget at any time, and must be bounded. It knows nothing of what it
//! keeps.

mod embedded;

use std::time::Duration;

use futures::future::BoxFuture;

pub use embedded::Embedded;

/// Why something could not be kept or looked up; for the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Keys and values with an expiry.
pub trait Store: Send + Sync {
    /// The value of `key`, unless it is forgotten or expired.
    fn get(&self, key: Vec<u8>) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>>;

    /// Keeps `value` under `key` for so long, in place of the one before.
    fn put(&self, key: Vec<u8>, value: Vec<u8>, lasts: Duration) -> BoxFuture<'_, Result<(), StoreError>>;
}
