//! Keys and values: strings with an expiry.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::Redis;
use crate::store::{Memory, StoreError};

impl Memory for Redis {
    fn get(&self, key: Vec<u8>) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        async move { self.query(redis::cmd("GET").arg(self.key("memory", key))).await }.boxed()
    }

    fn put(&self, key: Vec<u8>, value: Vec<u8>, lasts: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        let lasts = (lasts.as_millis() as u64).max(1);
        async move {
            let key = self.key("memory", key);
            self.query(redis::cmd("SET").arg(key).arg(value).arg("PX").arg(lasts)).await
        }
        .boxed()
    }
}
