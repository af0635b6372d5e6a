//! Answers under way, and over a few minutes ago, that another instance may be asked for.
//!
//! ```text
//! claim ──> mine ───> append, append, … the last piece ──> note (who reads it)
//!       ├─> another's ──> read, read, … the last piece
//!       └─> perhaps another's: ask again in a moment
//! ```
//!
//! An answer is named by the fence of its only writer. The writer's hold on it is a lease: what it appends after
//! that has run out is refused, so that nobody who was told of its loss reads on. What the pieces are is not
//! known here.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Fence, StoreError};

/// How long it may take until an instance notices that its client has left, which asks again already: a sign of a
/// reader that is not younger than that says nothing.
pub(super) const NOTICE: Duration = Duration::from_millis(500);
/// Pieces that are read at once.
pub(super) const PAGE: usize = 64;

/// How answers are kept.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long a writer, and a reader, is taken to be alive after its last sign.
    pub lease: Duration,
    /// How long an answer is kept after the last sign of its writer.
    pub keep: Duration,
    /// How many bytes of one answer are kept; beyond that the oldest pieces go, but for the first.
    pub most: usize,
}

/// What somebody wants an answer to.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Names what was asked: the same name shares one answer.
    pub exact: String,
    /// A name under which an answer is shared only if nobody else reads it, or has read all of it.
    pub loose: Option<String>,
    /// Which instance asks.
    pub who: String,
    /// What the store said to come back with.
    pub again: Option<Asked>,
}

/// When a claim was first made, by the clock of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(pub u64);

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The caller is to write the answer of this name.
    Mine(Fence),
    /// There is one, and the caller is taken down as its reader.
    Theirs(Fence),
    /// There is one whose reader may have gone: nobody knows before its instance gives a sign, or is silent for
    /// too long. The same claim is to be made again in a moment.
    Unsure(Asked),
}

/// How much of a reader somebody is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// A client is reading.
    pub reads: bool,
    /// A client has been given all of it.
    pub is_given: bool,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is, to those who read it.
    pub kind: u8,
    /// Whether one can begin to read with it, where the answer allows that.
    pub begins: bool,
    /// The part.
    pub bytes: Bytes,
}

/// Pieces that a writer adds.
#[derive(Clone, Debug)]
pub struct Addition {
    /// Whose answer.
    pub answer: Fence,
    /// Which instance writes.
    pub who: String,
    /// The number of the first of them, from 1 on: pieces that are there already are not added again.
    pub from: u64,
    /// The pieces.
    pub pieces: Vec<Piece>,
    /// Whether those are the last: then no lease is needed any more.
    pub is_last: bool,
    /// Who reads it there.
    pub presence: Presence,
}

/// What an instance has to do with an answer.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// Which answer.
    pub answer: Fence,
    /// Whether it writes it, and goes on with that.
    pub writes: bool,
    /// Who reads it there.
    pub presence: Presence,
}

/// Some of an answer.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Pieces and their numbers; where one is missing before the first of them, it is not kept.
    pub pieces: Vec<(u64, Piece)>,
    /// Whether more can come: it has ended, or its writer is alive.
    pub is_alive: bool,
}

/// Answers that several instances can read while one of them writes.
pub trait Answers: Send + Sync {
    /// Finds the answer that `claim` names, or begins one.
    fn claim(&self, claim: Claim, terms: Terms) -> BoxFuture<'_, Result<Claimed, StoreError>>;

    /// Adds pieces. `false`: the answer is not the caller's any more, and never will be.
    fn append(&self, addition: Addition, terms: Terms) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Holds on to what `who` writes and reads; says of each whether it is known and held.
    fn note(
        &self,
        who: String,
        notes: Vec<Note>,
        terms: Terms,
    ) -> BoxFuture<'_, Result<Vec<bool>, StoreError>>;

    /// The next pieces after the one numbered `after`, read by an instance as `note` says. `None`: not known.
    fn read(
        &self,
        who: String,
        note: Note,
        after: u64,
        terms: Terms,
    ) -> BoxFuture<'_, Result<Option<Page>, StoreError>>;

    /// Whether another instance than `who` reads this answer. If none does and it is to be forgotten then, the
    /// next claim begins a new one.
    fn is_read_elsewhere(
        &self,
        who: String,
        answer: Fence,
        forgets: bool,
        terms: Terms,
    ) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// The next claim of what this answers begins a new one; who reads it reads on.
    fn forget(&self, answer: Fence) -> BoxFuture<'_, Result<(), StoreError>>;
}
