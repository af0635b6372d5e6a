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
                Ok((Claimed::Mine(answer), asked)) => return Ok(self.begin_among(peers, key, answer, asked)),
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

    /// Writes an answer that the store gave to this instance, unless there is one here that the store has forgotten.
    fn begin_among(&self, peers: &Peers, key: Key, answer: Fence, asked: Duration) -> Joined<H> {
        let mut entries = self.lock();
        if let Found::It(log) = Self::find(&mut entries, key) {
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
        let is_unread = *log.reading().borrow() == 0;
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
mod tests {
    use super::*;
    use bytes::Bytes;

    type Answers = Turns<()>;

    fn key(exact: u8, loose: Option<u8>) -> Key {
        Key { exact: [exact; 32], loose: loose.map(|it| [it; 32]) }
    }

    fn answers() -> Answers {
        Turns::new(Limits { answer: 1000, least: 100, total: 2000 })
    }

    async fn begin(answers: &Answers, key: Key) -> (Arc<Log<()>>, Reader<()>) {
        match answers.join(key).await.unwrap() {
            Joined::New(writing, reader) => (writing.into_log(), reader),
            _ => panic!("it is there already"),
        }
    }

    async fn how(answers: &Answers, key: Key) -> (&'static str, Reader<()>) {
        match answers.join(key).await.unwrap() {
            Joined::New(_, reader) => ("new", reader),
            Joined::Running(reader) => ("running", reader),
            Joined::Over(reader) => ("over", reader),
        }
    }

    async fn all(mut reader: Reader<()>) -> Result<String, FaultKind> {
        reader.head().await.map_err(|it| it.kind())?;
        let mut text = String::new();
        while let Some(chunk) = reader.chunk().await {
            text.push_str(std::str::from_utf8(&chunk.map_err(|it| it.kind())?).unwrap());
        }
        Ok(text)
    }

    fn whole(log: &Log<()>, text: &'static str) {
        log.head(());
        log.push(Bytes::from(text));
        log.finish(Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_turn_shares_one_answer_while_it_runs_and_after_it() {
        let answers = answers();
        let (log, first) = begin(&answers, key(1, None)).await;
        let (how_second, second) = how(&answers, key(1, None)).await;
        assert_eq!(how_second, "running");
        assert_eq!(how(&answers, key(2, None)).await.0, "new");
        whole(&log, "data: a\n\n");
        assert_eq!(all(first).await.unwrap(), all(second).await.unwrap());
        for _ in 0..2 {
            let (how, again) = how(&answers, key(1, None)).await;
            assert_eq!((how, all(again).await.as_deref()), ("over", Ok("data: a\n\n")));
        }
        answers.forget(&log);
        assert_eq!(how(&answers, key(1, None)).await.0, "new");
    }

    #[tokio::test(start_paused = true)]
    async fn the_beginning_of_a_conversation_is_taken_over_from_who_has_left_and_from_nobody_else() {
        let answers = answers();
        let (log, first) = begin(&answers, key(1, Some(9))).await;
        let (other, reader) = begin(&answers, key(2, Some(9))).await;
        assert!(!Arc::ptr_eq(&log, &other), "somebody else says the same");
        drop(first);
        let (how_second, second) = how(&answers, key(3, Some(9))).await;
        assert_eq!(how_second, "running", "the first one's next attempt");
        let (how_stranger, stranger) = how(&answers, key(4, Some(9))).await;
        assert_eq!(how_stranger, "new", "that has a reader again");
        drop(second);
        whole(&log, "data: a\n\n");
        let (how_third, third) = how(&answers, key(5, Some(9))).await;
        assert_eq!((how_third, all(third).await.as_deref()), ("over", Ok("data: a\n\n")));
        assert_eq!(how(&answers, key(6, Some(9))).await.0, "new", "it was given in whole");
        drop((reader, stranger));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_with_the_last_byte_has_had_the_answer() {
        for leaves_after_the_end in [true, false] {
            let answers = answers();
            let (log, mut first) = begin(&answers, key(1, Some(9))).await;
            log.head(());
            log.push(Bytes::from("data: a\n\n"));
            assert!(first.chunk().await.unwrap().is_ok());
            let first = leaves_after_the_end.then_some(first);
            log.finish(Ok(()));
            drop(first);
            assert_eq!(how(&answers, key(2, Some(9))).await.0, "new");
            assert_eq!(how(&answers, key(1, Some(9))).await.0, "over", "its own turn is its own");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_is_faster_than_the_end_of_the_last_one_waits_a_moment_for_it() {
        let answers = answers();
        let (_log, first) = begin(&answers, key(1, Some(9))).await;
        let leaves = async {
            tokio::time::sleep(NOTICE / 2).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(how(&answers, key(2, Some(9))), leaves);
        assert_eq!(second.0, "running");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_once_and_one_that_was_never_sent_not_at_all() {
        let answers = answers();
        let lost = || Fault::new(FaultKind::PageLost, "lost");
        let (log, reader) = begin(&answers, key(1, None)).await;
        drop(reader);
        log.finish(Err(lost().maybe_sent()));
        let (how_again, again) = how(&answers, key(1, None)).await;
        assert_eq!((how_again, all(again).await), ("over", Err(FaultKind::PageLost)));
        let (log, _reader) = begin(&answers, key(1, None)).await;
        log.finish(Err(lost()));
        assert_eq!(how(&answers, key(1, None)).await.0, "new");
    }

    #[tokio::test(start_paused = true)]
    async fn what_there_is_no_room_for_is_dropped_but_not_sent_again_unseen() {
        let answers = answers();
        let mut logs = Vec::new();
        for n in 0..4 {
            let (log, reader) = begin(&answers, key(n, None)).await;
            log.head(());
            log.push(Bytes::from(vec![b'x'; 600]));
            log.finish(Ok(()));
            answers.make_room();
            assert!(answers.kept() <= 2000);
            logs.push((log, reader));
        }
        let (how_first, first) = how(&answers, key(0, None)).await;
        assert_eq!((how_first, all(first).await), ("over", Err(FaultKind::NotKept)));
        assert_eq!(how(&answers, key(0, None)).await.0, "new", "somebody was told, and asks all the same");
        assert_eq!(how(&answers, key(3, None)).await.0, "over");
        logs.clear();
        (0..4).for_each(|_| answers.lock().clear());
        assert_eq!(answers.kept(), 0);
    }
}
