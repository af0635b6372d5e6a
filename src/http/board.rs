//! The board: requests that are here now, for the operator to see and to stop.
//!
//! An entry is made when a request arrives and goes when its answer has ended, however that happens: it travels
//! with the answer's body. It holds what a line of the log may hold, and no more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

/// So many are shown, the oldest of them.
const SHOWN: usize = 100;

/// Every request that is here now. As many as there are connections and streams on them, so bounded by these.
#[derive(Clone, Debug, Default)]
pub struct Board {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By number, so in the order of their arrival.
    entries: Mutex<BTreeMap<u64, Arc<About>>>,
    next: AtomicU64,
    /// Of all event streams, also of those that have ended.
    events: AtomicU64,
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<About>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct About {
    id: String,
    method: String,
    path: String,
    arrived: Instant,
    bytes: AtomicU64,
    stage: AtomicU8,
    stop: CancellationToken,
}

impl About {
    /// Goes on to `stage`, never back.
    fn reach(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::Relaxed);
    }

    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Waits,
            1 => Stage::Asked,
            _ => Stage::Answers,
        }
    }
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its body comes in, or it waits for its conversation or for a place.
    Waits,
    /// A page has it, or will as soon as there is one: nothing of the answer is here.
    Asked,
    /// Something of the answer has gone out.
    Answers,
}

impl Stage {
    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Waits => "waits",
            Stage::Asked => "asked",
            Stage::Answers => "answers",
        }
    }
}

/// A request as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The id that the log and the answer give it.
    pub id: String,
    /// Its method.
    pub method: String,
    /// Its path as the log shows it.
    pub path: String,
    /// When it arrived.
    pub arrived: Instant,
    /// Bytes of the answer so far.
    pub bytes: u64,
    /// How far it has come.
    pub stage: Stage,
}

impl Board {
    /// Puts a request on the board, until the entry is dropped.
    pub fn put(&self, id: &str, method: &str, path: &str, arrived: Instant) -> Entry {
        let about = Arc::new(About {
            id: id.to_owned(),
            method: method.chars().take(16).collect(),
            path: path.to_owned(),
            arrived,
            bytes: AtomicU64::new(0),
            stage: AtomicU8::new(Stage::Waits as u8),
            stop: CancellationToken::new(),
        });
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.shared.entries().insert(number, about.clone());
        Entry { shared: self.shared.clone(), number, about }
    }

    /// How many there are, and the oldest of them.
    pub fn look(&self) -> (usize, Vec<Seen>) {
        let entries = self.shared.entries();
        let seen = |it: &Arc<About>| Seen {
            id: it.id.clone(),
            method: it.method.clone(),
            path: it.path.clone(),
            arrived: it.arrived,
            bytes: it.bytes.load(Ordering::Relaxed),
            stage: it.stage(),
        };
        (entries.len(), entries.values().take(SHOWN).map(seen).collect())
    }

    /// Events of event streams that have gone out so far.
    pub fn events(&self) -> u64 {
        self.shared.events.load(Ordering::Relaxed)
    }

    /// Stops the request of this id; whether there is one.
    pub fn stop(&self, id: &str) -> bool {
        let entries = self.shared.entries();
        let found = entries.values().find(|it| it.id == id);
        found.inspect(|it| it.stop.cancel()).is_some()
    }
}

/// A request's place on the board.
#[derive(Debug)]
pub struct Entry {
    shared: Arc<Shared>,
    number: u64,
    about: Arc<About>,
}

impl Entry {
    /// So many bytes more of the answer have gone out, and with them the ends of so many events.
    pub fn pass(&self, bytes: usize, events: u64) {
        self.shared.events.fetch_add(events, Ordering::Relaxed);
        self.about.reach(Stage::Answers);
        self.about.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// By which whoever handles the request says how far it has come.
    pub fn mark(&self) -> Mark {
        Mark(self.about.clone())
    }

    /// Cancelled when the operator stops it.
    pub fn stopped(&self) -> CancellationToken {
        self.about.stop.clone()
    }
}

/// A handle to a request's place on the board; it does not keep the place.
#[derive(Clone, Debug)]
pub struct Mark(Arc<About>);

impl Mark {
    /// It has a place, and goes to a page.
    pub fn asked(&self) {
        self.0.reach(Stage::Asked);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.entries().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_on_the_board_until_it_ends_and_can_be_stopped() {
        let (board, now) = (Board::default(), Instant::now());
        let (a, b) = (board.put("a", "POST", "/x", now), board.put("b", "GET", "/y", now));
        b.mark().asked();
        let stages = || board.look().1.iter().map(|it| it.stage).collect::<Vec<_>>();
        assert_eq!(stages(), [Stage::Waits, Stage::Asked]);
        a.pass(5, 1);
        a.pass(2, 0);
        a.mark().asked();
        assert_eq!(stages(), [Stage::Answers, Stage::Asked]);
        let (count, seen) = board.look();
        assert_eq!((count, seen[0].bytes), (2, 7));
        assert_eq!((seen[0].path.as_str(), seen[1].id.as_str()), ("/x", "b"));
        assert!(board.stop("b") && !board.stop("c"));
        assert!(b.stopped().is_cancelled() && !a.stopped().is_cancelled());
        drop(b);
        assert_eq!(board.look().0, 1);
        let more: Vec<_> = (0..SHOWN).map(|_| board.put("n", "GET", "/", now)).collect();
        assert_eq!((board.look().0, board.look().1.len()), (SHOWN + 1, SHOWN));
        drop((a, more));
        assert_eq!((board.look(), board.events()), ((0, Vec::new()), 1));
    }
}
