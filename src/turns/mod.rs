//! Turns of conversations: which are the same one asked again, and which has to wait for another.
//!
//! ```text
//! a turn ──> Turns::join ──┬── new ──────> Floor ──> the site ──> Log
//!                          ├── running ──────────────────────────> │──> readers
//!                          └── over, a few minutes ago ──────────> │
//! ```
//!
//! A client that gives up too early and asks the same again would have the site answer twice. It gets the
//! answer that is under way, or over, instead. Nothing in here sends anything or knows HTTP.
//!
//! # Several instances
//!
//! Where they share a [`store`](crate::store), one of them writes an answer, as the store says, and the others
//! read it:
//!
//! ```text
//! the site ──> Log ──publish──> the store ──mirror──> Log (of another instance) ──> readers
//!               └──> readers
//! ```
//!
//! What an instance has itself it does not ask the store for. What it holds there are leases, and a request goes
//! to the site only while its leases are sure: one that has slept sends nothing, and adds nothing to an answer.

mod chunks;
pub mod floor;
mod leases;
pub mod log;
mod mirror;
mod peers;
mod publish;
mod wire;
mod writing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Fault, FaultKind};
use crate::store::Fence;
use crate::store::answers::Claimed;
use leases::Lease;
pub use log::Limits;
use log::{Kept, Log, Reader};
pub use peers::Peers;
pub use wire::Head;
pub use writing::Writing;

/// Turns remembered; beyond that the oldest is forgotten.
const MOST: usize = 4096;
/// How long it may take until we notice that a client has left which asks again already.
const NOTICE: Duration = Duration::from_millis(500);

/// What makes two requests the same turn: digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Caller, conversation, what it follows, and what is said.
    pub exact: [u8; 32],
    /// For a turn that begins a conversation: the same without what it follows, which some clients make up anew
    /// for each attempt.
    pub loose: Option<[u8; 32]>,
}

/// Where a turn's answer comes from.
pub enum Joined<H: Head> {
    /// Nowhere yet: the caller has it made, and writes it down.
    New(Writing<H>, Reader<H>),
    /// From one that is under way.
    Running(Reader<H>),
    /// From one that is over.
    Over(Reader<H>),
}

#[derive(Debug)]
struct Entry<H> {
    key: Key,
    log: Arc<Log<H>>,
    /// What is held of it among all instances.
    lease: Option<Arc<Lease>>,
}

/// The turns of the last minutes. Clones share them.
#[derive(Clone, Debug)]
pub struct Turns<H> {
    entries: Arc<Mutex<Vec<Entry<H>>>>,
    kept: Arc<Kept>,
    limits: Limits,
    peers: Option<Peers>,
}

/// What there is of a turn here.
enum Found<H> {
    /// Its answer.
    It(Arc<Log<H>>),
    /// One that may become free.
    Taken(Arc<Log<H>>),
    /// Nothing.
    Nothing,
}

impl<H: Head> Turns<H> {
    /// None yet.
    pub fn new(limits: Limits) -> Turns<H> {
        Turns { entries: Arc::default(), kept: Arc::default(), limits, peers: None }
    }

    /// The same turns for this instance and its `peers`.
    pub fn shared(mut self, peers: Peers) -> Turns<H> {
        self.peers = Some(peers);
        self
    }

    /// The answer to the turn of this key.
    ///
    /// Whoever names the same conversation and the same message before it shares its answer. A turn that
    /// begins a conversation and agrees in nothing but its text may be somebody else's, who must not end up in
    /// the same conversation: it takes over an answer that its reader has left before the end, and no other.
    ///
    /// # Errors
    /// [`FaultKind::SharedStateLost`](crate::error::FaultKind) where the other instances cannot be asked and have
    /// to be.
    pub async fn join(&self, key: Key) -> Result<Joined<H>, Fault> {
        let Some(peers) = self.peers.clone() else { return Ok(self.join_here(key).await) };
        let (here, spent) = self.look_exactly(key);
        if let Some(joined) = here {
            return Ok(joined);
        }
        let turns = self.clone();
        // Not to be dropped half-way: what is claimed is claimed.
        let joined = tokio::spawn(async move {
            for answer in spent {
                peers.forget(answer).await;
            }
            turns.join_among(&peers, key).await
        });
        joined.await.unwrap_or_else(|error| {
            Err(Fault::new(FaultKind::Internal, "The turn was not looked up.").because(error))
        })
    }

    async fn join_here(&self, key: Key) -> Joined<H> {
        let mut reading = match self.look(key, false) {
            Ok(joined) => return joined,
            Err(log) => log.reading(),
        };
        // Somebody reads just that. If it is the same client, its earlier connection is about to end.
        let _ = tokio::time::timeout(NOTICE, reading.wait_for(|readers| *readers == 0)).await;
        match self.look(key, true) {
            Ok(joined) => joined,
            Err(_) => self.begin(key, &mut self.lock()),
        }
    }

    async fn join_among(&self, peers: &Peers, key: Key) -> Result<Joined<H>, Fault> {
        let mut again = None;
        loop {
            match peers.claim(key, again).await {
                Ok((Claimed::Mine(answer), asked)) => {
                    self.ask_about(peers, key).await;
                    return Ok(self.begin_among(peers, key, answer, asked));
                }
                Ok((Claimed::Theirs(answer), asked)) => return Ok(self.follow(peers, key, answer, asked)),
                Ok((Claimed::Unsure(since), _)) => again = Some(since),
                Err(error) if peers.may_be_alone(&error) => return Ok(self.join_here(key).await),
                Err(error) => {
                    return match Self::find(&mut self.lock(), key) {
                        Found::It(log) => Ok(joined(&log)),
                        _ => Err(error.into()),
                    };
                }
            }
            tokio::time::sleep(peers::pause()).await;
        }
    }

    /// Asks the store whether it still knows what is here and could be taken over.
    async fn ask_about(&self, peers: &Peers, key: Key) {
        let leases: Vec<_> = {
            let entries = self.lock();
            let alike = entries.iter().filter(|it| it.key.is_like(key) && !it.log.is_taken());
            alike.filter_map(|it| it.lease.clone()).collect()
        };
        for lease in leases {
            if peers.note(&lease).await == Some(false) {
                lease.lose();
            }
        }
    }

    /// Writes an answer that the store gave to this instance, unless there is one here that the store has forgotten.
    fn begin_among(&self, peers: &Peers, key: Key, answer: Fence, asked: Duration) -> Joined<H> {
        let mut entries = self.lock();
        entries.retain(|it| !it.log.is_spent());
        // Of what the store knows, it has said whether it can be taken over.
        let is_forgotten = |it: &Entry<H>| it.lease.as_ref().is_none_or(|it| it.is_lost());
        let is_it = |it: &&Entry<H>| {
            it.key.exact == key.exact || it.key.is_like(key) && !it.log.is_taken() && is_forgotten(it)
        };
        if let Some(log) = entries.iter().find(is_it).map(|it| it.log.clone()) {
            peers.forget_soon(answer);
            return joined(&log);
        }
        let log = self.add(key, &mut entries);
        let reader = log.read();
        let lease = peers.hold(answer, log.clone(), true, asked);
        if let Some(entry) = entries.last_mut() {
            entry.lease = Some(lease.clone());
        }
        tokio::spawn(publish::publish(peers.clone(), log.clone(), lease.clone()));
        Joined::New(Writing::new(log, Some((peers.clone(), lease))), reader)
    }

    /// Reads an answer of the store, which may be one of this instance.
    fn follow(&self, peers: &Peers, key: Key, answer: Fence, asked: Duration) -> Joined<H> {
        let mut entries = self.lock();
        let is_it = |it: &&Entry<H>| it.lease.as_ref().is_some_and(|it| it.answer() == Some(answer));
        if let Some(entry) = entries.iter().find(is_it) {
            return joined(&entry.log);
        }
        let log = self.add(key, &mut entries);
        let reader = log.read();
        let lease = peers.hold(answer, log.clone(), false, asked);
        if let Some(entry) = entries.last_mut() {
            entry.lease = Some(lease.clone());
        }
        tokio::spawn(mirror::mirror(self.clone(), peers.clone(), log, lease));
        Joined::Running(reader)
    }

    /// The answer here to just this, or else the answers to it that are of no use to anybody any more.
    fn look_exactly(&self, key: Key) -> (Option<Joined<H>>, Vec<Fence>) {
        let mut entries = self.lock();
        let is_it = |it: &&Entry<H>| it.key.exact == key.exact;
        let spent = entries.iter().filter(|it| it.log.is_spent() && it.key.is_like(key));
        let leases = spent.filter_map(|it| it.lease.as_ref()).filter(|it| it.is_for_all());
        let spent = leases.filter_map(|it| it.answer()).collect();
        entries.retain(|it| !it.log.is_spent());
        (entries.iter().find(is_it).map(|it| joined(&it.log)), spent)
    }

    /// Joins or begins; fails with one that may become free.
    fn look(&self, key: Key, is_last: bool) -> Result<Joined<H>, Arc<Log<H>>> {
        let mut entries = self.lock();
        match Self::find(&mut entries, key) {
            Found::It(log) => Ok(joined(&log)),
            Found::Taken(log) if !is_last => Err(log),
            _ => Ok(self.begin(key, &mut entries)),
        }
    }

    fn find(entries: &mut Vec<Entry<H>>, key: Key) -> Found<H> {
        entries.retain(|it| !it.log.is_spent());
        if let Some(entry) = entries.iter().find(|it| it.key.exact == key.exact) {
            return Found::It(entry.log.clone());
        }
        let alike = || entries.iter().filter(|it| key.loose.is_some() && it.key.loose == key.loose);
        if let Some(entry) = alike().find(|it| !it.log.is_taken()) {
            return Found::It(entry.log.clone());
        }
        alike().find(|it| !it.log.is_over()).map_or(Found::Nothing, |it| Found::Taken(it.log.clone()))
    }

    fn begin(&self, key: Key, entries: &mut Vec<Entry<H>>) -> Joined<H> {
        let log = self.add(key, entries);
        let reader = log.read();
        Joined::New(Writing::new(log, None), reader)
    }

    fn add(&self, key: Key, entries: &mut Vec<Entry<H>>) -> Arc<Log<H>> {
        if entries.len() >= MOST {
            entries.remove(0);
        }
        let log = Arc::new(Log::new(self.limits, self.kept.clone()));
        entries.push(Entry { key, log: log.clone(), lease: None });
        log
    }

    /// Forgets the turn that this answers, unless somebody reads it.
    fn forget_unread(&self, log: &Arc<Log<H>>) -> bool {
        let mut entries = self.lock();
        let is_unread = !log.is_read();
        if is_unread {
            entries.retain(|it| !Arc::ptr_eq(&it.log, log));
        }
        is_unread
    }

    /// Forgets the turn that this answers.
    pub fn forget(&self, log: &Arc<Log<H>>) {
        self.lock().retain(|it| !Arc::ptr_eq(&it.log, log));
    }

    /// If more is kept than there is room for: drops the bytes of answers that are over, the oldest first. The
    /// turns are remembered, so that none of them is sent again unseen.
    pub fn make_room(&self) {
        if self.kept.bytes() <= self.limits.total {
            return;
        }
        let entries = self.lock();
        for entry in entries.iter().filter(|it| it.log.is_over()) {
            entry.log.empty();
            if self.kept.bytes() <= self.limits.total {
                return;
            }
        }
    }

    /// Bytes of answers that are kept.
    pub fn kept(&self) -> usize {
        self.kept.bytes()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry<H>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn joined<H: Head>(log: &Arc<Log<H>>) -> Joined<H> {
    match log.is_over() {
        true => Joined::Over(log.read()),
        false => Joined::Running(log.read()),
    }
}

impl Key {
    fn is_like(self, other: Key) -> bool {
        self.exact == other.exact || self.loose.is_some() && self.loose == other.loose
    }
}

#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;
