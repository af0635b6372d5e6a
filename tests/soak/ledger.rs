//! Every exchange of the load, from its beginning to its one end: the books by which the invariant is checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between the id of an exchange and the number of an attempt.
const BETWEEN: char = '.';

/// The exchange that a message id is of.
pub fn root(message: &str) -> &str {
    message.split(BETWEEN).next().unwrap_or(message)
}

/// How an exchange ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it came, and it was right.
    Completed,
    /// An error that cannot be taken for an answer: its code.
    Failed(String),
    /// What should be refused was refused: the status.
    Refused(String),
    /// The client left on purpose.
    Left,
    /// No end, an end that lies, wrong bytes: what must never happen.
    Lost(String),
}

impl End {
    /// In a word.
    pub fn kind(&self) -> &'static str {
        match self {
            End::Completed => "completed",
            End::Failed(_) => "failed",
            End::Refused(_) => "refused",
            End::Left => "left",
            End::Lost(_) => "lost",
        }
    }
}

/// An exchange that has ended. Times count from the start of the soak.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Unique; the message id in its body, if it has one.
    pub id: String,
    /// What kind of client it was.
    pub client: &'static str,
    /// When it began.
    pub began: Duration,
    /// When it ended.
    pub ended: Duration,
    /// How.
    pub end: End,
    /// How often the site may see it at most.
    pub most_posts: u64,
}

#[derive(Default)]
struct Books {
    next: u64,
    open: BTreeMap<String, (&'static str, Duration)>,
    ended: Vec<Exchange>,
    /// Ends of those that failed, in order.
    failures: Vec<(Duration, String)>,
    notes: BTreeMap<String, usize>,
}

/// The books. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Ledger {
    books: Arc<Mutex<Books>>,
    start: Instant,
    seed: u64,
}

impl Ledger {
    /// Empty books; `seed` keeps the ids of two soaks apart.
    pub fn new(seed: u64) -> Ledger {
        Ledger { books: Arc::default(), start: Instant::now(), seed }
    }

    /// Since the start of the soak.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Begins an exchange of which the site may see one POST.
    pub fn begin(&self, client: &'static str) -> Ticket {
        let now = self.now();
        let mut books = self.lock();
        books.next += 1;
        let id = format!("{:x}-{}", self.seed, books.next);
        books.open.insert(id.clone(), (client, now));
        Ticket { ledger: self.clone(), id, client, began: now, most_posts: 1, ended: false }
    }

    /// How many are under way.
    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    /// Those under way: id, client, and for how long.
    pub fn open_ones(&self) -> Vec<(String, &'static str, Duration)> {
        let now = self.now();
        let books = self.lock();
        books.open.iter().map(|(id, (client, began))| (id.clone(), *client, now - *began)).collect()
    }

    /// The first failure at or after `from`: when, and its code.
    pub fn failure_since(&self, from: Duration) -> Option<(Duration, String)> {
        let books = self.lock();
        let at = books.failures.partition_point(|(at, _)| *at < from);
        books.failures.get(at).cloned()
    }

    /// Counts something that is worth telling.
    pub fn note(&self, what: &str) {
        *self.lock().notes.entry(what.to_owned()).or_default() += 1;
    }

    /// What was worth telling, and how often.
    pub fn notes(&self) -> BTreeMap<String, usize> {
        self.lock().notes.clone()
    }

    /// Those that have ended so far.
    pub fn ended(&self) -> Vec<Exchange> {
        self.lock().ended.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An exchange under way. Dropped without an end, it is lost.
pub struct Ticket {
    ledger: Ledger,
    /// See [`Exchange::id`].
    pub id: String,
    client: &'static str,
    began: Duration,
    /// See [`Exchange::most_posts`].
    pub most_posts: u64,
    ended: bool,
}

impl Ticket {
    /// The message id of one of several attempts at the same; the site's count is that of all of them together.
    pub fn attempt(&self, number: u64) -> String {
        format!("{}{BETWEEN}{number}", self.id)
    }

    /// Its one end.
    pub fn end(mut self, end: End) {
        self.close(end);
    }

    fn close(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let ledger = self.ledger.clone();
        let mut books = ledger.lock();
        let ended = ledger.now();
        books.open.remove(&self.id);
        if let End::Failed(code) = &end {
            books.failures.push((ended, code.clone()));
        }
        let (id, client, began, most_posts) = (self.id.clone(), self.client, self.began, self.most_posts);
        books.ended.push(Exchange { id, client, began, ended, end, most_posts });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.close(End::Lost("its client broke".into()));
    }
}
