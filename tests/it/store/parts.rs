//! Each part of the store, the same for both.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use tabproxy::store::{Fence, Lent, Locks, Memory, Quota, Redis, Standing, Tallies};

use super::Both;
use super::server::RedisProgram;
use crate::rig::until;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(40);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_found_until_it_expires() {
    let both = Both::new().await;
    for (name, store) in both.each() {
        let key = || b"\0k\xff:\r\n".to_vec();
        assert_eq!(store.get(key()).await.unwrap(), None, "{name}");
        for value in [&b"one"[..], b"\xf0\0\r\n", b""] {
            store.put(key(), value.to_vec(), LONG).await.unwrap();
            assert_eq!(store.get(key()).await.unwrap().as_deref(), Some(value), "{name}");
        }
        assert_eq!(store.get(b"k".to_vec()).await.unwrap(), None, "{name}: another key");
        store.put(key(), b"two".to_vec(), Duration::ZERO).await.unwrap();
        until(async || store.get(key()).await.unwrap(), Option::is_none).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_has_one_holder_who_must_renew_it_and_every_fence_is_larger() {
    let both = Both::new().await;
    for (name, store) in both.each() {
        let lock = async |lock: &str, lasts| store.lock(lock.into(), lasts).await.unwrap();
        let renew = async |fence| store.renew(vec![("a".into(), fence)], LONG).await.unwrap()[0];
        let first = lock("a", LONG).await.expect(name);
        assert_eq!(lock("a", LONG).await, None, "{name}");
        let other = lock("b", LONG).await.expect(name);
        assert!(renew(first).await && !renew(other).await, "{name}");
        let held = vec![("b".into(), other), ("c".into(), other), ("a".into(), first)];
        assert_eq!(store.renew(held, LONG).await.unwrap(), [true, false, true], "{name}");
        store.unlock("a".into(), Fence(first.0 + 1)).await.unwrap();
        assert_eq!(lock("a", LONG).await, None, "{name}: it is not another's to give back");
        store.unlock("a".into(), first).await.unwrap();
        let second = lock("a", SHORT).await.expect(name);
        assert!(second > other && other > first, "{name}");
        // Its lease is over some time.
        let third = until(async || lock("a", LONG).await, Option::is_some).await.unwrap();
        assert!(third > second && !renew(second).await, "{name}: who slept is told so");
        store.unlock("a".into(), second).await.unwrap();
        assert_eq!(lock("a", LONG).await, None, "{name}: and takes nothing from who holds it now");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_goes_to_one_of_many_who_ask_at_once() {
    let both = Both::new().await;
    for (name, store) in both.each() {
        let ask = |_| store.lock("a".into(), LONG);
        let asked = futures::future::join_all((0..50).map(ask)).await;
        assert_eq!(asked.into_iter().filter(|it| it.as_ref().unwrap().is_some()).count(), 1, "{name}");
    }
}

fn accounts(names: &[&str]) -> Vec<String> {
    names.iter().map(|it| it.to_string()).collect()
}

/// The number of the account that is lent; the loan lives on.
fn which(lent: &Lent) -> Option<usize> {
    lent.loan.as_ref().map(|it| it.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_busy_account_is_lent_and_of_equals_the_one_that_waited_longest() {
    let both = Both::new().await;
    for (name, store) in both.each() {
        let all = accounts(&["a", "b", "c"]);
        let mut held = Vec::new();
        for expected in [0, 1, 2, 0] {
            held.push(store.lend(all.clone()).await);
            assert_eq!(which(held.last().unwrap()), Some(expected), "{name}");
        }
        // The loan of b is over: soon everybody knows.
        drop(held.remove(1));
        until(async || which(&store.lend(accounts(&["b", "a"])).await), |it| *it == Some(0)).await;
        assert_eq!(which(&store.lend(Vec::new()).await), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_rest_or_are_refused_are_not_lent() {
    let both = Both::new().await;
    for (name, store) in both.each() {
        let all = || accounts(&["a", "b"]);
        store.mark("a", Standing::Resting(LONG));
        let lent = store.lend(all()).await;
        assert_eq!(which(&lent), Some(1), "{name}");
        store.mark("b", Standing::Refused);
        let lent = store.lend(all()).await;
        assert_eq!(which(&lent), None, "{name}");
        assert!(matches!(lent.standings[0], Standing::Resting(it) if it > LONG / 2 && it <= LONG), "{name}");
        assert_eq!((lent.standings[1], lent.standings.len()), (Standing::Refused, 2), "{name}");
        assert_eq!(
            store.standings(accounts(&["c", "b"])).await,
            [Standing::Ready, Standing::Refused],
            "{name}"
        );
        store.mark("c", Standing::Resting(SHORT));
        until(async || which(&store.lend(accounts(&["c"])).await), Option::is_some).await;
    }
}

const QUOTA: Quota = Quota { burst: NonZeroU32::new(10).unwrap(), period: Duration::from_secs(60) };

#[tokio::test(flavor = "multi_thread")]
async fn so_many_are_counted_at_once_and_then_one_in_each_period() {
    let both = Both::new().await;
    for (name, store) in both.each() {
        for n in 0..10 {
            assert_eq!(store.count("x".into(), QUOTA).await, Ok(()), "{name} {n}");
        }
        let wait = store.count("x".into(), QUOTA).await.unwrap_err();
        assert!(wait > QUOTA.period / 2 && wait <= QUOTA.period, "{name} {wait:?}");
        assert_eq!(store.count("y".into(), QUOTA).await, Ok(()), "{name}");
        let quick = Quota { burst: NonZeroU32::MIN, period: SHORT };
        assert_eq!(store.count("z".into(), quick).await, Ok(()), "{name}");
        until(async || store.count("z".into(), quick).await, Result::is_ok).await.unwrap();
        store.tidy();
    }
}

/// Two instances on one server.
async fn two() -> (RedisProgram, Redis, Redis) {
    let server = RedisProgram::start().await;
    let (one, two) = (Redis::new(&server.server()).unwrap(), Redis::new(&server.server()).unwrap());
    (server, one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_instance_learns_the_other_knows() {
    let (server, one, two) = two().await;
    one.put(b"k".to_vec(), b"v".to_vec(), LONG).await.unwrap();
    assert_eq!(two.get(b"k".to_vec()).await.unwrap().as_deref(), Some(&b"v"[..]));
    let fence = one.lock("a".into(), LONG).await.unwrap().unwrap();
    assert_eq!(two.lock("a".into(), LONG).await.unwrap(), None);
    assert_eq!(two.renew(vec![("a".into(), fence)], LONG).await.unwrap(), [true]);
    let all = || accounts(&["a", "b"]);
    let (first, second) = (one.lend(all()).await, two.lend(all()).await);
    assert_eq!((which(&first), which(&second)), (Some(0), Some(1)), "each counts what the other has");
    one.mark("a", Standing::Resting(LONG));
    one.mark("b", Standing::Refused);
    let is_heard = |it: &Vec<_>| matches!(it[..], [Standing::Resting(_), Standing::Refused]);
    until(async || two.standings(all()).await, is_heard).await;
    assert_eq!(which(&two.lend(all()).await), None);
    for n in 0..5 {
        let counted = [one.count("x".into(), QUOTA).await, two.count("x".into(), QUOTA).await];
        assert_eq!(counted, [Ok(()), Ok(())], "{n}");
    }
    assert!(one.count("x".into(), QUOTA).await.is_err() && two.count("x".into(), QUOTA).await.is_err());
    // Whatever an instance that dies leaves there goes by itself: of all keys one is for ever, a number.
    let keys: Vec<String> = server.command(&["KEYS", "*"]).await.unwrap();
    assert!(keys.len() > 6 && keys.iter().all(|it| it.starts_with("tabproxy:")), "{keys:?}");
    for key in keys.iter().filter(|it| *it != "tabproxy:fence:") {
        let left: i64 = server.command(&["PTTL", key]).await.unwrap();
        assert!(left > 0, "{key} stays for ever: {left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_gone_locks_are_refused_at_once_and_counts_are_an_instances_own() {
    let (server, one, _) = two().await;
    let before = one.lock("a".into(), LONG).await.unwrap().unwrap();
    for _ in 0..10 {
        one.count("x".into(), QUOTA).await.unwrap();
    }
    let lent = one.lend(accounts(&["a", "b"])).await;
    one.mark("c", Standing::Resting(LONG));
    let mut health = one.health();
    server.kill();
    health.wait_for(|it| !it.is_up).await.unwrap();
    let begun = Instant::now();
    let error = one.lock("b".into(), LONG).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody waits for what is known to be gone");
    assert!(
        error.to_string().contains("cannot be reached") && !error.to_string().contains("canary"),
        "{error}"
    );
    assert!(one.get(b"k".to_vec()).await.is_err());
    assert_eq!(which(&lent), Some(0));
    assert_eq!(which(&one.lend(accounts(&["a", "b"])).await), Some(1), "a is busy here, and b is not");
    assert_eq!(which(&one.lend(accounts(&["c"])).await), None, "c rests");
    assert!(one.count("x".into(), QUOTA).await.is_err(), "what was counted here is not forgotten");
    // It comes back with nothing in it: no script, no lock, no number.
    server.restart().await.unwrap();
    health.wait_for(|it| it.is_up).await.unwrap();
    let after = one.lock("a".into(), LONG).await.unwrap().expect("the lock is forgotten");
    assert!(after > before, "but whoever holds the old one is behind: {after:?} {before:?}");
    assert_eq!(one.renew(vec![("a".into(), before)], LONG).await.unwrap(), [false]);
    let _: () = server.command(&["SET", "tabproxy:fence:", "9000000000000000"]).await.unwrap();
    let ahead = one.lock("c".into(), LONG).await.unwrap().unwrap();
    assert_eq!(ahead, Fence(9_000_000_000_000_001), "a clock that was set back does not lower it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_is_noticed_and_nobody_waits_for_it_long() {
    let (server, one, _) = two().await;
    one.put(b"k".to_vec(), b"v".to_vec(), LONG).await.unwrap();
    let mut health = one.health();
    server.signal(rustix::process::Signal::STOP);
    let begun = Instant::now();
    assert!(one.get(b"k".to_vec()).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let lost = health.wait_for(|it| !it.is_up).await.unwrap().clone();
    assert!(lost.was_up && lost.why.contains("Redis"), "{lost:?}");
    server.signal(rustix::process::Signal::CONT);
    health.wait_for(|it| it.is_up).await.unwrap();
    assert_eq!(one.get(b"k".to_vec()).await.unwrap().as_deref(), Some(&b"v"[..]));
}
