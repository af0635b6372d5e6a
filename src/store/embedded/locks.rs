//! Locks: a table.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::Embedded;
use crate::store::{Fence, Locks, StoreError};

#[derive(Debug, Default)]
struct Held {
    last: u64,
    by: HashMap<String, (Fence, Instant)>,
}

/// Who holds what until when.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<Held>);

impl Table {
    fn with<T>(&self, work: impl FnOnce(&mut Held, Instant) -> T) -> T {
        let now = tokio::time::Instant::now().into_std();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.by.retain(|_, (_, until)| *until > now);
        work(&mut held, now)
    }
}

impl Locks for Embedded {
    fn lock(&self, name: String, lasts: Duration) -> BoxFuture<'_, Result<Option<Fence>, StoreError>> {
        let taken = self.locks.with(|held, now| {
            if held.by.contains_key(&name) {
                return None;
            }
            held.last += 1;
            let fence = Fence(held.last);
            held.by.insert(name, (fence, now + lasts));
            Some(fence)
        });
        ready(Ok(taken)).boxed()
    }

    fn renew(
        &self,
        locks: Vec<(String, Fence)>,
        lasts: Duration,
    ) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        let renewed = self.locks.with(|held, now| {
            let renew = |(name, fence): (String, Fence)| match held.by.get_mut(&name) {
                Some((by, until)) if *by == fence => {
                    *until = now + lasts;
                    true
                }
                _ => false,
            };
            locks.into_iter().map(renew).collect()
        });
        ready(Ok(renewed)).boxed()
    }

    fn unlock(&self, name: String, fence: Fence) -> BoxFuture<'_, Result<(), StoreError>> {
        self.locks.with(|held, _| {
            if held.by.get(&name).is_some_and(|(by, _)| *by == fence) {
                held.by.remove(&name);
            }
        });
        ready(Ok(())).boxed()
    }
}
