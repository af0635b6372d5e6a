//! Counts: of each account a hash (`rest` and `refused` until when, `last` lent) and a sorted set of its loans with
//! the time at which each ends unless it is renewed; of each throttle one number. All times are the server's.
//!
//! While the server is gone this instance counts for itself, from what it knows: the same tables as without one.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use redis::{Script, ScriptInvocation};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::link::Link;
use super::locks::millis;
use super::{Redis, key};
use crate::store::embedded::Counts;
use crate::store::tallies::REFUSED;
use crate::store::{Lent, Loan, Quota, Standing, Tallies};

/// A loan ends after so long without a sign of life from the instance that has it.
const LOAN: Duration = Duration::from_secs(30);
/// How often it gives one.
const RENEW: Duration = Duration::from_secs(10);
/// What is known of an account is kept for so long: longer than any rest.
const KEPT: Duration = Duration::from_secs(25 * 3600);
/// Changes that wait to be told; of more, the others learn when they try themselves.
const MOST: usize = 10_000;

/// Looks at accounts, and lends the best of them if a loan is named. The answer: which one (0 for none), and of
/// each -1 (refused) or for how many milliseconds it rests.
static LEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000 + math.floor(time[2] / 1000)
         local answer, best, least, longest = {0}, 0, 0, 0
         for i = 1, #KEYS, 2 do
           redis.call('ZREMRANGEBYSCORE', KEYS[i + 1], '-inf', now)
           local known = redis.call('HMGET', KEYS[i], 'rest', 'refused', 'last')
           local rest = tonumber(known[1] or 0) - now
           local number = (i + 1) / 2
           if tonumber(known[2] or 0) > now then
             answer[number + 1] = -1
           elseif rest > 0 then
             answer[number + 1] = rest
           else
             answer[number + 1] = 0
             local running, last = redis.call('ZCARD', KEYS[i + 1]), tonumber(known[3] or 0)
             if best == 0 or running < least or running == least and last < longest then
               best, least, longest = number, running, last
             end
           end
         end
         if best > 0 and ARGV[1] ~= '' then
           local account, loans = KEYS[2 * best - 1], KEYS[2 * best]
           redis.call('ZADD', loans, now + ARGV[2], ARGV[1])
           redis.call('PEXPIRE', loans, ARGV[2])
           redis.call('HSET', account, 'last', string.format('%.0f', time[1] * 1000000 + time[2]))
           redis.call('PEXPIRE', account, ARGV[3])
           answer[1] = best
         end
         return answer",
    )
});
static MARK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000 + math.floor(time[2] / 1000)
         redis.call('HSET', KEYS[1], ARGV[1], now + ARGV[2])
         redis.call('PEXPIRE', KEYS[1], ARGV[3])
         return 0",
    )
});
/// Also of loans that the server has lost: they are no locks.
static RENEW_LOANS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000 + math.floor(time[2] / 1000)
         for i, key in ipairs(KEYS) do
           redis.call('ZADD', key, now + ARGV[1], ARGV[i + 1])
           redis.call('PEXPIRE', key, ARGV[1])
         end
         return 0",
    )
});
static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new("for i, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[i]) end return 0")
});
/// The generic cell rate algorithm, as the library of the other store has it: the number is the time at which all
/// that was counted would have come one by one. The answer: how many microseconds to wait.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000000 + time[2]
         local period, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
         local due = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
         local wait = due - now - period * (burst - 1)
         if wait > 0 then return wait end
         due = due + period
         redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
         return 0",
    )
});

/// The two keys of an account.
fn keys(account: &str) -> [Vec<u8>; 2] {
    [key("account", account), key("loans", account)]
}

/// What the others are to be told, and who tells them.
pub(super) struct Desk {
    /// What this instance knows.
    own: Counts,
    told: Arc<Told>,
    _teller: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Told {
    changes: Mutex<Changes>,
    wake: Notify,
}

#[derive(Default)]
struct Changes {
    ended: Vec<(String, String)>,
    marks: HashMap<String, Standing>,
}

impl Told {
    fn change(&self, change: impl FnOnce(&mut Changes)) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.ended.len() + changes.marks.len() < MOST {
            change(&mut changes);
        }
        drop(changes);
        self.wake.notify_one();
    }
}

impl Desk {
    /// Begins to tell. To be called within a runtime.
    pub(super) fn new(link: Arc<Link>, instance: Arc<str>) -> Desk {
        let (own, told) = (Counts::default(), Arc::<Told>::default());
        let teller = tokio::spawn(tell(link, instance, own.clone(), told.clone()));
        Desk { own, told, _teller: AbortOnDropHandle::new(teller) }
    }
}

/// What a loan is called there.
fn name(instance: &str, number: u64) -> String {
    format!("{instance}:{number}")
}

/// Tells the others what has changed, and that the loans of this instance go on.
async fn tell(link: Arc<Link>, instance: Arc<str>, own: Counts, told: Arc<Told>) {
    let run = async |script: &ScriptInvocation<'_>| {
        let done = link.call(async |connection| script.invoke_async::<u64>(connection).await).await;
        done.unwrap_or_default()
    };
    let mut renew = tokio::time::interval(RENEW);
    loop {
        let is_time = tokio::select! {
            _ = renew.tick() => true,
            () = told.wake.notified() => false,
        };
        if is_time {
            let loans = own.loans();
            let mut script = RENEW_LOANS.arg(millis(LOAN));
            for (account, number) in &loans {
                script.key(key("loans", account)).arg(name(&instance, *number));
            }
            if !loans.is_empty() {
                run(&script).await;
            }
            continue;
        }
        let changes = std::mem::take(&mut *told.changes.lock().unwrap_or_else(PoisonError::into_inner));
        let mut script = GIVE_BACK.prepare_invoke();
        for (account, loan) in &changes.ended {
            script.key(key("loans", account)).arg(loan);
        }
        if !changes.ended.is_empty() {
            run(&script).await;
        }
        for (account, standing) in &changes.marks {
            let (field, lasts) = match standing {
                Standing::Ready => continue,
                Standing::Resting(wait) => ("rest", *wait),
                Standing::Refused => ("refused", REFUSED),
            };
            run(MARK.key(key("account", account)).arg(field).arg(millis(lasts)).arg(millis(KEPT))).await;
        }
    }
}

fn standing(answer: i64) -> Standing {
    match answer {
        ..0 => Standing::Refused,
        0 => Standing::Ready,
        wait => Standing::Resting(Duration::from_millis(wait as u64)),
    }
}

impl Redis {
    /// Looks at `accounts`; lends one as `loan`, if that has a name. `None` while the server is gone.
    async fn look(&self, accounts: &[&String], loan: &str) -> Option<(usize, Vec<Standing>)> {
        let mut script = LEND.arg(loan);
        script.arg(millis(LOAN)).arg(millis(KEPT));
        for key in accounts.iter().flat_map(|it| keys(it)) {
            script.key(key);
        }
        let answer: Vec<i64> = self.run(&script).await.ok()?;
        let (best, standings) = answer.split_first()?;
        let standings: Vec<_> = standings.iter().copied().map(standing).collect();
        (standings.len() == accounts.len()).then_some((usize::try_from(*best).ok()?, standings))
    }
}

impl Tallies for Redis {
    fn lend(&self, accounts: Vec<String>) -> BoxFuture<'_, Lent> {
        async move {
            let own = &self.desk.own;
            // What this instance has learnt counts before the others have heard of it.
            let mut standings = own.standings(&accounts);
            let here: Vec<_> = (0..accounts.len()).filter(|at| standings[*at] == Standing::Ready).collect();
            if here.is_empty() {
                return Lent { loan: None, standings };
            }
            let number = own.number();
            let loan = name(&self.instance, number);
            let asked: Vec<_> = here.iter().map(|at| &accounts[*at]).collect();
            let Some((best, found)) = self.look(&asked, &loan).await else {
                return own.lend(&accounts);
            };
            here.iter().zip(found).for_each(|(at, found)| standings[*at] = found);
            let lent = best.checked_sub(1).and_then(|it| here.get(it)).map(|at| {
                let account = accounts[*at].clone();
                own.enter(&account, number);
                let (own, told) = (own.clone(), self.desk.told.clone());
                let back = move || {
                    own.leave(&account, number);
                    told.change(|it| it.ended.push((account, loan)));
                };
                (*at, Loan::new(back))
            });
            Lent { loan: lent, standings }
        }
        .boxed()
    }

    fn standings(&self, accounts: Vec<String>) -> BoxFuture<'_, Vec<Standing>> {
        async move {
            let mut standings = self.desk.own.standings(&accounts);
            if !accounts.is_empty()
                && let Some((_, found)) = self.look(&accounts.iter().collect::<Vec<_>>(), "").await
            {
                let ready = standings.iter_mut().zip(found).filter(|(own, _)| **own == Standing::Ready);
                ready.for_each(|(own, found)| *own = found);
            }
            standings
        }
        .boxed()
    }

    fn mark(&self, account: &str, standing: Standing) {
        self.desk.own.mark(account, standing);
        self.desk.told.change(|it| {
            it.marks.insert(account.to_owned(), standing);
        });
    }

    fn count(&self, name: String, quota: Quota) -> BoxFuture<'_, Result<(), Duration>> {
        async move {
            // Also counted here, so that there is something to go by while the server is gone.
            let own = self.desk.own.count(&name, quota);
            let mut script = COUNT.key(key("throttle", name));
            script.arg(quota.period.as_micros() as u64).arg(quota.burst.get());
            match self.run::<u64>(&script).await {
                Ok(0) => Ok(()),
                Ok(wait) => Err(Duration::from_micros(wait)),
                Err(_) => own,
            }
        }
        .boxed()
    }

    fn tidy(&self) {
        self.desk.own.tidy();
    }
}
