//! What is counted for all instances together: loans and rests of accounts, and what an address does wrong.

/// Counts for all instances.
pub trait Tallies: Send + Sync {}
