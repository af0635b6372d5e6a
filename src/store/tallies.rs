//! What is counted for all instances together: loans and rests of accounts, and what an address does wrong.
//!
//! No count is worth refusing somebody for: where the others cannot be reached, this instance counts for itself.

use std::num::NonZeroU32;
use std::time::Duration;

use futures::future::BoxFuture;

/// How long it is remembered that an account was refused.
pub(super) const REFUSED: Duration = Duration::from_secs(3600);

/// How an account is, for all instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be lent.
    Ready,
    /// Not for so long.
    Resting(Duration),
    /// Not until it is another one. Forgotten after an hour, so that nothing is kept of what is not used any more.
    Refused,
}

/// The loan of an account; dropping it gives it back. If the instance that has it dies, it ends by itself.
pub struct Loan(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Loan {
    /// A loan that `back` gives back, which may not block.
    pub(super) fn new(back: impl FnOnce() + Send + Sync + 'static) -> Loan {
        Loan(Some(Box::new(back)))
    }
}

impl std::fmt::Debug for Loan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loan")
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(back) = self.0.take() {
            back();
        }
    }
}

/// What came of asking for an account.
#[derive(Debug)]
pub struct Lent {
    /// The number of the one that is lent, among those that were asked for; `None` if none is ready.
    pub loan: Option<(usize, Loan)>,
    /// How each of those was.
    pub standings: Vec<Standing>,
}

/// So many at once, and one more in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// So many at once.
    pub burst: NonZeroU32,
    /// The period; not zero.
    pub period: Duration,
}

/// Counts for all instances. Accounts go by what is the same in each of them and no secret: a digest.
pub trait Tallies: Send + Sync {
    /// Lends the least busy of `accounts`, and of equally busy ones that which has waited longest.
    fn lend(&self, accounts: Vec<String>) -> BoxFuture<'_, Lent>;

    /// How each of `accounts` is.
    fn standings(&self, accounts: Vec<String>) -> BoxFuture<'_, Vec<Standing>>;

    /// From now on `account` is like this: here at once, for the others soon.
    fn mark(&self, account: &str, standing: Standing);

    /// One more under `name`.
    ///
    /// # Errors
    /// How long to wait, when it was one too many.
    fn count(&self, name: String, quota: Quota) -> BoxFuture<'_, Result<(), Duration>>;

    /// Lets go of what is over. To be called now and then.
    fn tidy(&self);
}
