//! Locks: a key that holds the fence of its holder and expires, and a counter that gives out fences.

use std::sync::LazyLock;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use redis::Script;

use super::Redis;
use crate::store::{Fence, Locks, StoreError};

/// Numbers the holders of everything. The number is at least the time in microseconds, so that it grows even over a
/// loss of all that was kept: one who held something before is never taken for who holds it now.
pub(super) const FENCE: &str = "
    local function fence(counter)
      local t = redis.call('TIME')
      local next = (tonumber(redis.call('GET', counter)) or 0) + 1
      next = string.format('%.0f', math.max(next, t[1] * 1000000 + t[2]))
      redis.call('SET', counter, next)
      return next
    end
";

/// Takes a free lock.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{FENCE}
         if redis.call('EXISTS', KEYS[1]) == 1 then return '0' end
         local fence = fence(KEYS[2])
         redis.call('SET', KEYS[1], fence, 'PX', ARGV[1])
         return fence"
    ))
});
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local held = {}
         for i, key in ipairs(KEYS) do
           held[i] = 0
           if redis.call('GET', key) == ARGV[i + 1] then
             held[i] = redis.call('PEXPIRE', key, ARGV[1])
           end
         end
         return held",
    )
});
static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 0")
});

/// What Redis takes: never nothing, which it would refuse.
pub(super) fn millis(it: Duration) -> u64 {
    (it.as_millis() as u64).max(1)
}

impl Locks for Redis {
    fn lock(&self, name: String, lasts: Duration) -> BoxFuture<'_, Result<Option<Fence>, StoreError>> {
        async move {
            let (key, counter) = (self.key("lock", name), self.key("fence", ""));
            let fence: u64 = self.run(TAKE.key(key).key(counter).arg(millis(lasts))).await?;
            Ok((fence > 0).then_some(Fence(fence)))
        }
        .boxed()
    }

    fn renew(
        &self,
        locks: Vec<(String, Fence)>,
        lasts: Duration,
    ) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        async move {
            if locks.is_empty() {
                return Ok(Vec::new());
            }
            let mut script = RENEW.arg(millis(lasts));
            for (name, fence) in locks {
                script.key(self.key("lock", name)).arg(fence.0);
            }
            self.run(&script).await
        }
        .boxed()
    }

    fn unlock(&self, name: String, fence: Fence) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let _: u64 = self.run(GIVE_BACK.key(self.key("lock", name)).arg(fence.0)).await?;
            Ok(())
        }
        .boxed()
    }
}
