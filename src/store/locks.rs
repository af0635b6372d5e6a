//! Locks with a lease: whoever sleeps through it has lost it, and is told so.

use std::time::Duration;

use futures::future::BoxFuture;

use super::StoreError;

/// Says which holder of a lock is meant: larger than that of every holder before it, so that one that has slept
/// can be told from the one that holds the lock now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

/// Locks that end by themselves unless they are renewed.
pub trait Locks: Send + Sync {
    /// Takes the lock `name` for `lasts`. `None`: somebody holds it.
    fn lock(&self, name: String, lasts: Duration) -> BoxFuture<'_, Result<Option<Fence>, StoreError>>;

    /// Holds on to `locks` for `lasts` from now; says of each whether it was still held.
    fn renew(
        &self,
        locks: Vec<(String, Fence)>,
        lasts: Duration,
    ) -> BoxFuture<'_, Result<Vec<bool>, StoreError>>;

    /// Gives the lock back, unless it is another's by now.
    fn unlock(&self, name: String, fence: Fence) -> BoxFuture<'_, Result<(), StoreError>>;
}
