//! One stored account: its token, and how the site takes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::store::Standing;

/// How an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It can be lent.
    Ready,
    /// The site wants no more of it until then.
    Resting(Instant),
    /// The site does not know its token (any more): it needs another.
    Refused,
}

/// How an account is now, for those who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountState {
    /// Its name.
    pub name: String,
    /// Whether it can be lent.
    pub condition: Condition,
    /// Requests that run with it.
    pub running: usize,
}

#[derive(Debug)]
pub(super) struct Account {
    pub name: String,
    pub token: SecretString,
    /// What it is called in the store: the same token is the same account in every instance.
    pub id: String,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub condition: Condition,
    /// The site has refused it here: it will not be asked again.
    pub is_refused: bool,
    /// Requests that run with it here.
    pub running: usize,
}

impl Account {
    pub fn new((name, token): (String, SecretString)) -> Arc<Account> {
        let state = State { condition: Condition::Ready, is_refused: false, running: 0 };
        let id = Sha256::new().chain_update("tabproxy account ").chain_update(token.expose_secret());
        let id = id.finalize().iter().map(|it| format!("{it:02x}")).collect();
        Arc::new(Account { name, token, id, state: Mutex::new(state) })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn condition(&self, now: Instant) -> Condition {
        let mut state = self.state();
        if matches!(state.condition, Condition::Resting(until) if until <= now) {
            state.condition = Condition::Ready;
        }
        state.condition
    }

    /// What the store says of it.
    pub fn found(&self, standing: Standing, now: Instant) {
        let mut state = self.state();
        let condition = match standing {
            _ if state.is_refused => return,
            Standing::Ready => Condition::Ready,
            Standing::Resting(wait) => Condition::Resting(now + wait),
            Standing::Refused => Condition::Refused,
        };
        if condition == Condition::Refused && state.condition != condition {
            tracing::error!(account = self.name, "the site has refused its token: it needs a new one");
        }
        state.condition = condition;
    }
}
