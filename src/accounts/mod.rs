//! Stored accounts: upstream tokens by name, lent to callers one request at a time.
//!
//! ```text
//!            lease                       429 of the site
//!  Ready ──────────> running + 1   Ready ───────────────> Resting ── Retry-After ──> Ready
//!    ^   <── drop ──                 │ 401
//!    └────── another token ──────────┴──> Refused
//! ```
//!
//! The least busy one is lent first, and of equally busy ones that which has waited longest: the store decides, for
//! all instances that share it. The file is followed as it changes; what is known of an account stays with it as
//! long as its token is the same. Knows nothing of HTTP and of keys but the names that they open.

mod account;
mod file;
mod homes;
mod lease;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use tokio_util::task::TaskTracker;

use crate::error::{Fault, FaultKind};
use crate::files::{self, FileError, Watched};
use crate::store::{Standing, Store};
use crate::telemetry::figures::AccountFigure;
use account::Account;
pub use account::{AccountState, Condition};
use file::{AccountFile, Named, StoredAccount};
pub use file::{PAGE, count, is_token};
pub use homes::Homes;
pub use lease::AccountLease;

/// The time that tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// All stored accounts.
pub struct Accounts {
    file: Option<Watched<AccountFile, Named>>,
    /// The unnamed ones where there is no file to keep them in.
    all: Mutex<Vec<Arc<Account>>>,
    store: Arc<dyn Store>,
    /// Which account each conversation was begun with: the site shows it to no other. Those that are known without
    /// asking the store.
    homes: Homes<String>,
    writing: TaskTracker,
}

fn key_of_home(conversation: &str) -> Vec<u8> {
    format!("home:{conversation}").into_bytes()
}

/// How long the store remembers a conversation.
const HOME_LASTS: Duration = Duration::from_secs(30 * 24 * 3600);
/// A store that does not answer for so long has nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why no account can be lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAccount {
    /// None is stored that the caller may use.
    Missing,
    /// All of them need another token.
    Refused,
    /// All that could serve rest; the first of them for so long.
    Resting(Duration),
}

impl From<NoAccount> for Fault {
    fn from(why: NoAccount) -> Fault {
        match why {
            NoAccount::Missing => Fault::new(
                FaultKind::NoAccount,
                "The account that this access key opens is not there: the operator must store it again.",
            ),
            NoAccount::Refused => Fault::new(
                FaultKind::NoAccount,
                "The site refuses every account that this access key opens: the operator must renew a token.",
            ),
            NoAccount::Resting(wait) => Fault::new(
                FaultKind::AccountsResting,
                "You have sent too many messages to the model. Please try again later.",
            )
            .retry_after(wait),
        }
    }
}

impl Accounts {
    /// The accounts in `path`; without one, there are none until some are given. Who has them on loan, and which
    /// rest, is in `store`.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn open(path: Option<&Path>, store: Arc<dyn Store>) -> Result<Accounts, FileError> {
        let file = path.map(|path| Watched::open(path, file::make)).transpose()?;
        let all = file.iter().flat_map(|it| it.get().to_vec()).map(Account::new).collect();
        Ok(Accounts {
            file,
            all: Mutex::new(all),
            store,
            homes: Homes::default(),
            writing: TaskTracker::new(),
        })
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Account>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// Lends the least busy of the accounts with these `names`; empty for any of all.
    ///
    /// # Errors
    /// [`NoAccount`] says why none can be lent.
    pub async fn lease(&self, names: &[String]) -> Result<AccountLease, NoAccount> {
        let is_open = |it: &&Arc<Account>| names.is_empty() || names.contains(&it.name);
        let mut open: Vec<_> = self.all().iter().filter(is_open).cloned().collect();
        if open.is_empty() {
            return Err(NoAccount::Missing);
        }
        open.retain(|it| !it.state().is_refused);
        let lent = self.store.lend(open.iter().map(|it| it.id.clone()).collect()).await;
        let now = now();
        open.iter().zip(&lent.standings).for_each(|(account, standing)| account.found(*standing, now));
        let loan = lent.loan.and_then(|(at, loan)| Some((open.get(at)?.clone(), loan)));
        let Some((account, loan)) = loan else {
            let rests = lent.standings.iter().filter_map(|it| match it {
                Standing::Resting(wait) => Some(*wait),
                _ => None,
            });
            return Err(rests.min().map_or(NoAccount::Refused, NoAccount::Resting));
        };
        account.state().running += 1;
        Ok(AccountLease { account, store: self.store.clone(), _loan: loan })
    }

    /// Asks the store how all of them are, for those who watch.
    pub async fn refresh(&self) {
        let all = self.all().clone();
        let standings = self.store.standings(all.iter().map(|it| it.id.clone()).collect()).await;
        let now = now();
        all.iter().zip(standings).for_each(|(account, standing)| account.found(standing, now));
    }

    /// This conversation was begun with this account, or goes on with it. To be called within a runtime.
    pub fn remember(&self, conversation: &str, account: &str) {
        if self.homes.remember(conversation, account.to_owned()) {
            let (store, key) = (self.store.clone(), key_of_home(conversation));
            let value = account.as_bytes().to_vec();
            self.writing.spawn(async move {
                if let Err(error) = store.put(key, value, HOME_LASTS).await {
                    tracing::warn!("which account a conversation belongs to is not written down: {error}");
                }
            });
        }
    }

    /// Waits until everything is written down. Nothing may be remembered afterwards.
    pub async fn settle(&self) {
        self.writing.close();
        self.writing.wait().await;
    }

    /// Lends the account that this conversation belongs to; `None` where that is not known, or not one of
    /// `names` (empty for any).
    ///
    /// # Errors
    /// [`NoAccount`], if that one cannot be lent: another would not find the conversation.
    pub async fn lease_in(
        &self,
        conversation: &str,
        names: &[String],
    ) -> Option<Result<AccountLease, NoAccount>> {
        let home = self.home(conversation).await?;
        let is_open = names.is_empty() || names.contains(&home);
        let is_there = is_open && self.all().iter().any(|it| it.name == home);
        if is_there { Some(self.lease(&[home]).await) } else { None }
    }

    async fn home(&self, conversation: &str) -> Option<String> {
        let known = self.homes.of(conversation);
        if known.is_some() || !homes::is_id(conversation) {
            return known;
        }
        let kept = tokio::time::timeout(PATIENCE, self.store.get(key_of_home(conversation))).await;
        let home = String::from_utf8(kept.ok()?.ok()??).ok()?;
        self.homes.remember(conversation, home.clone());
        Some(home)
    }

    /// How each of them is.
    pub fn states(&self, now: Instant) -> Vec<AccountState> {
        let state = |it: &Arc<Account>| AccountState {
            name: it.name.clone(),
            condition: it.condition(now),
            running: it.state().running,
        };
        self.all().iter().map(state).collect()
    }

    /// The same, for the metrics.
    pub fn figures(&self, now: Instant) -> Vec<AccountFigure> {
        let figure = |it: AccountState| AccountFigure {
            name: it.name,
            state: match it.condition {
                Condition::Ready => "ready",
                Condition::Resting(_) => "resting",
                Condition::Refused => "refused",
            },
            running: it.running,
        };
        self.states(now).into_iter().map(figure).collect()
    }

    /// Reads the file again if it has changed.
    pub fn look(&self) {
        if let Some(file) = self.file.as_ref().filter(|it| it.look()) {
            self.adopt(file.get().to_vec());
        }
    }

    /// Puts `tokens` in place of the unnamed accounts: in the file, if there is one, else until the end of
    /// this process. Says whether they are kept.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn replace_unnamed(&self, tokens: Vec<SecretString>) -> Result<bool, FileError> {
        let unnamed = || {
            let tokens = tokens.iter().map(|it| it.expose_secret().to_owned());
            tokens.map(|token| StoredAccount { name: None, token })
        };
        let Some(file) = &self.file else {
            let made = file::make(AccountFile { accounts: unnamed().collect() });
            self.adopt(made.map_err(|why| FileError::new(Path::new("accounts"), why))?);
            return Ok(false);
        };
        files::update(file.path(), |file: &mut AccountFile| {
            file.accounts.retain(|it| it.name.is_some());
            file.accounts.extend(unnamed());
            file::make(file.clone()).map(drop)
        })?;
        self.look();
        Ok(true)
    }

    /// From now on these are the accounts. One with the same name and token is the same one.
    fn adopt(&self, named: Named) {
        let mut all = self.all();
        let known = |(name, token): &(String, SecretString)| {
            let same =
                |it: &&Arc<Account>| it.name == *name && it.token.expose_secret() == token.expose_secret();
            all.iter().find(same).cloned()
        };
        *all = named.into_iter().map(|it| known(&it).unwrap_or_else(|| Account::new(it))).collect();
    }
}

#[cfg(test)]
mod tests;
