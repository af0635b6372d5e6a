//! Answers under way, and over a few minutes ago, that another instance may be asked for.

/// Answers that several instances can read while one of them writes.
pub trait Answers: Send + Sync {}
