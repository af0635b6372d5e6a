//! Counts: tables, and the throttles of a library.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, RateLimiter};
use tokio::time::Instant;

use super::Embedded;
use crate::store::tallies::REFUSED;
use crate::store::{Lent, Loan, Quota, Standing, Tallies};

#[derive(Debug, Default)]
struct Account {
    loans: HashSet<u64>,
    rests: Option<Instant>,
    refused: Option<Instant>,
    /// The number of the loan that last took it: lower has waited longer.
    last: u64,
}

impl Account {
    fn standing(&self, now: Instant) -> Standing {
        match (self.refused, self.rests) {
            (Some(until), _) if until > now => Standing::Refused,
            (_, Some(until)) if until > now => Standing::Resting(until - now),
            _ => Standing::Ready,
        }
    }
}

#[derive(Debug, Default)]
struct Accounts {
    last: u64,
    by: HashMap<String, Account>,
}

type Throttles = HashMap<Quota, Arc<DefaultKeyedRateLimiter<String>>>;

/// The counts of this process; clones are the same ones.
#[derive(Clone, Default)]
pub(in crate::store) struct Counts {
    accounts: Arc<Mutex<Accounts>>,
    throttles: Arc<Mutex<Throttles>>,
}

impl Counts {
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends one of `accounts`.
    pub(in crate::store) fn lend(&self, accounts: &[String]) -> Lent {
        let standings = self.standings(accounts);
        let best = {
            let all = self.accounts();
            let ready = standings.iter().enumerate().filter(|(_, it)| **it == Standing::Ready);
            let busy = |at: usize| all.by.get(&accounts[at]).map_or((0, 0), |it| (it.loans.len(), it.last));
            ready.map(|(at, _)| at).min_by_key(|at| busy(*at))
        };
        let loan = best.map(|at| {
            let (this, account, number) = (self.clone(), accounts[at].clone(), self.number());
            self.enter(&account, number);
            (at, Loan::new(move || this.leave(&account, number)))
        });
        Lent { loan, standings }
    }

    /// The number of a new loan: larger than all before it.
    pub(in crate::store) fn number(&self) -> u64 {
        let mut all = self.accounts();
        all.last += 1;
        all.last
    }

    /// Notes a loan of `account`.
    pub(in crate::store) fn enter(&self, account: &str, number: u64) {
        let mut all = self.accounts();
        let account = all.by.entry(account.to_owned()).or_default();
        account.last = number;
        account.loans.insert(number);
    }

    /// The loan is over.
    pub(in crate::store) fn leave(&self, account: &str, number: u64) {
        if let Some(account) = self.accounts().by.get_mut(account) {
            account.loans.remove(&number);
        }
    }

    /// All loans, by account.
    pub(in crate::store) fn loans(&self) -> Vec<(String, u64)> {
        let all = self.accounts();
        let loans =
            all.by.iter().flat_map(|(name, it)| it.loans.iter().map(move |loan| (name.clone(), *loan)));
        loans.collect()
    }

    pub(in crate::store) fn standings(&self, accounts: &[String]) -> Vec<Standing> {
        let (all, now) = (self.accounts(), Instant::now());
        let standing = |it: &String| all.by.get(it).map_or(Standing::Ready, |it| it.standing(now));
        accounts.iter().map(standing).collect()
    }

    pub(in crate::store) fn mark(&self, account: &str, standing: Standing) {
        let mut all = self.accounts();
        let account = all.by.entry(account.to_owned()).or_default();
        let now = Instant::now();
        match standing {
            Standing::Ready => (account.rests, account.refused) = (None, None),
            Standing::Resting(wait) => account.rests = Some(now + wait),
            Standing::Refused => account.refused = Some(now + REFUSED),
        }
    }

    pub(in crate::store) fn count(&self, name: &String, quota: Quota) -> Result<(), Duration> {
        let throttle = self.throttle(quota);
        let wait = |until: governor::NotUntil<_>| until.wait_time_from(DefaultClock::default().now());
        throttle.check_key(name).map_err(wait)
    }

    fn throttle(&self, quota: Quota) -> Arc<DefaultKeyedRateLimiter<String>> {
        let mut all = self.throttles.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || {
            let per_minute = governor::Quota::per_minute(quota.burst);
            let limit = governor::Quota::with_period(quota.period).unwrap_or(per_minute);
            Arc::new(RateLimiter::keyed(limit.allow_burst(quota.burst)))
        };
        all.entry(quota).or_insert_with(begin).clone()
    }

    pub(in crate::store) fn tidy(&self) {
        let throttles: Vec<_> = {
            let all = self.throttles.lock().unwrap_or_else(PoisonError::into_inner);
            all.values().cloned().collect()
        };
        throttles.iter().for_each(|it| it.retain_recent());
        let now = Instant::now();
        let mut all = self.accounts();
        if all.by.len() > MOST {
            all.by.retain(|_, it| !it.loans.is_empty() || it.standing(now) != Standing::Ready);
        }
    }
}

/// Beyond so many accounts, whose turn it is is forgotten of those that are ready.
const MOST: usize = 4096;

impl Tallies for Embedded {
    fn lend(&self, accounts: Vec<String>) -> BoxFuture<'_, Lent> {
        ready(self.counts.lend(&accounts)).boxed()
    }

    fn standings(&self, accounts: Vec<String>) -> BoxFuture<'_, Vec<Standing>> {
        ready(self.counts.standings(&accounts)).boxed()
    }

    fn mark(&self, account: &str, standing: Standing) {
        self.counts.mark(account, standing);
    }

    fn count(&self, name: String, quota: Quota) -> BoxFuture<'_, Result<(), Duration>> {
        ready(self.counts.count(&name, quota)).boxed()
    }

    fn tidy(&self) {
        self.counts.tidy();
    }
}
