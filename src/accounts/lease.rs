//! The loan of an account, and what the site says of it meanwhile.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::account::{Account, Condition};
use super::now;
use crate::store::{Loan, Standing, Store};

/// How long an account rests when the site does not say.
pub(super) const REST: Duration = Duration::from_secs(60);
/// The longest rest: whatever the site says, it is tried again after that.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(24 * 3600);

/// The loan of an account for one request; dropping it gives it back.
pub struct AccountLease {
    pub(super) account: Arc<Account>,
    pub(super) store: Arc<dyn Store>,
    pub(super) _loan: Loan,
}

impl std::fmt::Debug for AccountLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AccountLease").field(&self.name()).finish()
    }
}

impl AccountLease {
    /// The account's name.
    pub fn name(&self) -> &str {
        &self.account.name
    }

    /// Its token.
    pub fn token(&self) -> &SecretString {
        &self.account.token
    }

    /// The site wants no more of it for so long; it does not always say for how long.
    pub fn rest(&self, wait: Option<Duration>) {
        let wait = wait.unwrap_or(REST).min(LONGEST_REST);
        let mut state = self.account.state();
        if state.condition == Condition::Ready {
            tracing::warn!(account = self.name(), "the site wants no more of it for {} s", wait.as_secs());
        }
        if !state.is_refused {
            state.condition = Condition::Resting(now() + wait);
            drop(state);
            self.store.mark(&self.account.id, Standing::Resting(wait));
        }
    }

    /// The site does not know its token.
    pub fn refuse(&self) {
        let mut state = self.account.state();
        state.condition = Condition::Refused;
        if !std::mem::replace(&mut state.is_refused, true) {
            drop(state);
            tracing::error!(account = self.name(), "the site refuses its token: it needs a new one");
            self.store.mark(&self.account.id, Standing::Refused);
        }
    }
}

impl Drop for AccountLease {
    fn drop(&mut self) {
        self.account.state().running -= 1;
    }
}
