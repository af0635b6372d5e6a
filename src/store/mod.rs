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

mod answers;
mod embedded;
mod locks;
mod memory;
mod redis;
mod tallies;

pub use answers::Answers;
pub use embedded::Embedded;
pub use locks::{Fence, Locks};
pub use memory::Memory;
pub use redis::Redis;
pub use tallies::Tallies;

/// Why something could not be kept or looked up; for the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// All of it.
pub trait Store: Memory + Locks + Answers + Tallies {}

impl<T: Memory + Locks + Answers + Tallies> Store for T {}
