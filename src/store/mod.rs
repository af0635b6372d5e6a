//! What outlives a request and may be shared by several instances: one trait in four parts, two implementations.
//!
//! | part | what for |
//! |---|---|
//! | [`Memory`] | the index of conversations: keys and values that outlive the program |
//! | [`Locks`] | one turn at a time in each conversation |
//! | [`Answers`] | answers under way, and over a few minutes ago, for those who ask the same again |
//! | [`Tallies`] | stored accounts: who has them on loan, which rest; and how often an address may be wrong |
//!
//! [`Embedded`] keeps all of it in this process, the memory in a file of its own, and needs no server.
//! [`Redis`] keeps it where several instances find it. Both pass the same tests (`tests/it/store`). Whatever
//! implements it may forget at any time, and must be bounded. It knows nothing of what it keeps.

pub mod answers;
mod embedded;
mod locks;
mod memory;
mod redis;
mod tallies;

pub use answers::Answers;
pub use embedded::Embedded;
pub use locks::{Fence, Locks};
pub use memory::Memory;
pub use redis::{Health, Redis};
pub use tallies::{Lent, Loan, Quota, Standing, Tallies};

use std::time::Duration;

use crate::error::{Fault, FaultKind};

/// What a caller is told to wait while a store is gone.
const RETRY: Duration = Duration::from_secs(3);

/// Why something could not be kept or looked up; for the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

impl From<StoreError> for Fault {
    /// For what may not be done without it.
    fn from(error: StoreError) -> Fault {
        let text = "The state that the instances of this service share cannot be reached just now, and without it \
                    this turn could cross another one; nothing was sent, so try again.";
        Fault::new(FaultKind::SharedStateLost, text).retry_after(RETRY).because(error)
    }
}

/// All of it.
pub trait Store: Memory + Locks + Answers + Tallies {}

impl<T: Memory + Locks + Answers + Tallies> Store for T {}
