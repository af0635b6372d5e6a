//! Where conversations are gone on with: the index of what was answered before.
//!
//! Clients of the official API send all turns each time. Their digest finds the place in the site's
//! conversation, if it was answered here before, so that only the new turn need be sent. A place can be found
//! as soon as it is kept; the store writes it down meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::openai::history::Key;
use crate::site::request::Place;
use crate::store::Memory;

/// A conversation that nobody goes on with for so long is forgotten.
const LASTS: Duration = Duration::from_secs(30 * 24 * 3600);
/// A store that does not answer for so long has nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Places that wait to be written down; more are not kept.
const MOST_PENDING: usize = 10_000;

/// The index; clones are the same one.
#[derive(Clone)]
pub struct Index {
    store: Arc<dyn Memory>,
    pending: Arc<Mutex<HashMap<Key, Place>>>,
    writing: TaskTracker,
}

impl Index {
    /// An index that is kept in `store`.
    pub fn new(store: Arc<dyn Memory>) -> Index {
        Index { store, pending: Arc::default(), writing: TaskTracker::new() }
    }

    /// The place that is kept under `key`. What the store cannot say is not known.
    pub async fn find(&self, key: Key) -> Option<Place> {
        if let Some(place) = self.pending().get(&key).cloned() {
            return Some(place);
        }
        match tokio::time::timeout(PATIENCE, self.store.get(key.to_vec())).await {
            Ok(Ok(value)) => serde_json::from_slice(&value?).ok(),
            Ok(Err(error)) => {
                tracing::warn!("the index of conversations cannot be read: {error}");
                None
            }
            Err(_) => None,
        }
    }

    /// Keeps `place` under each of `keys`. To be called within a runtime.
    pub fn keep(&self, keys: impl IntoIterator<Item = Key>, place: &Place) {
        let Ok(value) = serde_json::to_vec(place) else { return };
        for key in keys {
            {
                let mut pending = self.pending();
                if pending.len() >= MOST_PENDING {
                    return;
                }
                pending.insert(key, place.clone());
            }
            let (this, value) = (self.clone(), value.clone());
            self.writing.spawn(async move {
                if let Err(error) = this.store.put(key.to_vec(), value, LASTS).await {
                    tracing::warn!("a conversation is not written down: {error}");
                }
                this.pending().remove(&key);
            });
        }
    }

    /// Waits until everything is written down. Nothing may be kept afterwards.
    pub async fn settle(&self) {
        self.writing.close();
        self.writing.wait().await;
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Place>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Embedded, StoreError};
    use futures::FutureExt;
    use futures::future::{BoxFuture, pending};

    fn place() -> Place {
        Place { conversation: "c".into(), parent: "m".into() }
    }

    #[tokio::test]
    async fn a_place_is_found_at_once_and_by_the_next_program() {
        let home = tempfile::tempdir().unwrap();
        let index = Index::new(Arc::new(Embedded::new(home.path().join("x"), 10)));
        assert_eq!(index.find([1; 32]).await, None);
        index.keep([[1; 32], [2; 32]], &place());
        assert_eq!(index.find([2; 32]).await, Some(place()));
        index.settle().await;
        assert!(index.pending().is_empty());
        drop(index);
        let next = Index::new(Arc::new(Embedded::new(home.path().join("x"), 10)));
        assert_eq!(next.find([1; 32]).await, Some(place()));
    }

    struct Stuck;

    impl Memory for Stuck {
        fn get(&self, _: Vec<u8>) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
            pending().boxed()
        }
        fn put(&self, _: Vec<u8>, _: Vec<u8>, _: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
            async { Err(StoreError("full".into())) }.boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_or_hangs_only_forgets() {
        let index = Index::new(Arc::new(Stuck));
        index.keep([[1; 32]], &place());
        index.settle().await;
        assert_eq!(index.find([1; 32]).await, None);
    }
}
