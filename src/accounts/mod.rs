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

mod homes;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::task::TaskTracker;

use crate::error::{Fault, FaultKind};
use crate::files::{self, FileError, Watched};
use crate::store::{Loan, Standing, Store};
use crate::telemetry::figures::AccountFigure;
pub use homes::Homes;

/// The name of the account that is the browser's own sign-in.
pub const PAGE: &str = "page";
/// How long an account rests when the site does not say.
pub const REST: Duration = Duration::from_secs(60);
/// The longest rest: whatever the site says, it is tried again after that.
const LONGEST_REST: Duration = Duration::from_secs(24 * 3600);

/// An account as it is written. It has no `Debug`: the token is in it.
#[derive(Clone, Serialize, Deserialize)]
pub struct StoredAccount {
    /// Its name; those without one are the ones that `PATCH /admin/tokens` replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The upstream token, without `Bearer`.
    pub token: String,
}

/// The file of accounts, as it is written.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct AccountFile {
    /// All accounts.
    pub accounts: Vec<StoredAccount>,
}

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
struct Account {
    name: String,
    token: SecretString,
    /// What it is called in the store: the same token is the same account in every instance.
    id: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    condition: Condition,
    /// The site has refused it here: it will not be asked again.
    is_refused: bool,
    running: usize,
}

impl Account {
    fn new((name, token): (String, SecretString)) -> Arc<Account> {
        let state = State { condition: Condition::Ready, is_refused: false, running: 0 };
        let id = Sha256::new().chain_update("tabproxy account ").chain_update(token.expose_secret());
        let id = id.finalize().iter().map(|it| format!("{it:02x}")).collect();
        Arc::new(Account { name, token, id, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn condition(&self, now: Instant) -> Condition {
        let mut state = self.state();
        if matches!(state.condition, Condition::Resting(until) if until <= now) {
            state.condition = Condition::Ready;
        }
        state.condition
    }

    /// What the store says of it.
    fn found(&self, standing: Standing, now: Instant) {
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

/// The time that tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

type Named = Vec<(String, SecretString)>;

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
        let file = path.map(|path| Watched::open(path, make)).transpose()?;
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
            let made = make(AccountFile { accounts: unnamed().collect() });
            self.adopt(made.map_err(|why| FileError::new(Path::new("accounts"), why))?);
            return Ok(false);
        };
        files::update(file.path(), |file: &mut AccountFile| {
            file.accounts.retain(|it| it.name.is_some());
            file.accounts.extend(unnamed());
            make(file.clone()).map(drop)
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

/// How many accounts `path` holds.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub fn count(path: &Path) -> Result<usize, FileError> {
    Ok(Watched::open(path, make)?.get().len())
}

/// Whether a header can carry this as a token.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|it| it.is_ascii_graphic())
}

fn make(file: AccountFile) -> Result<Named, String> {
    let (mut names, mut unnamed) = (HashSet::new(), 0);
    let mut make = |StoredAccount { name, token }: StoredAccount| {
        let name = match name {
            Some(name) if name == PAGE => {
                return Err(format!("the name {PAGE} means the browser's own sign-in: take another"));
            }
            Some(name) => name,
            None => {
                unnamed += 1;
                format!("unnamed-{unnamed}")
            }
        };
        files::check_name(&name)?;
        let token = token.trim();
        let token = token.strip_prefix("Bearer ").unwrap_or(token);
        if !is_token(token) {
            return Err(format!("the account {name} has no token that a header can carry"));
        }
        if !names.insert(name.clone()) {
            return Err(format!("two accounts have the name {name}"));
        }
        Ok((name, token.to_owned().into()))
    };
    file.accounts.into_iter().map(&mut make).collect()
}

/// The loan of an account for one request; dropping it gives it back.
pub struct AccountLease {
    account: Arc<Account>,
    store: Arc<dyn Store>,
    _loan: Loan,
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

#[cfg(test)]
mod tests;
