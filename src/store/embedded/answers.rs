//! Answers: a table. In one process [`turns`](crate) has them already; this is the rule that the other store is
//! held to, and what its tests run against where there is no server.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use tokio::time::Instant;

use super::Embedded;
use crate::store::answers::{
    Addition, Answers, Asked, Claim, Claimed, NOTICE, Note, PAGE, Page, Piece, Presence, Terms,
};
use crate::store::{Fence, StoreError};

#[derive(Debug)]
struct Kept {
    exact: String,
    loose: Option<String>,
    lease: Instant,
    expires: Instant,
    is_over: bool,
    is_given: bool,
    readers: HashMap<String, Instant>,
    pieces: BTreeMap<u64, Piece>,
    next: u64,
    size: usize,
}

impl Kept {
    fn attend(&mut self, who: &str, presence: Presence, now: Instant) {
        self.is_given |= presence.is_given;
        if presence.reads {
            self.readers.insert(who.to_owned(), now);
        } else {
            self.readers.remove(who);
        }
    }

    fn is_held(&self, now: Instant) -> bool {
        self.is_over || self.lease >= now
    }

    fn trim(&mut self, most: usize) {
        if self.size <= most {
            return;
        }
        while let Some((&number, first)) = self.pieces.range(2..).next() {
            if self.size <= most && first.begins {
                return;
            }
            self.size -= first.bytes.len();
            self.pieces.remove(&number);
        }
    }
}

#[derive(Debug)]
struct Books {
    began: Instant,
    answers: BTreeMap<Fence, Kept>,
    exact: HashMap<String, Fence>,
    last: u64,
}

/// All answers.
#[derive(Debug)]
pub(super) struct Shelf(Mutex<Books>);

impl Default for Shelf {
    fn default() -> Shelf {
        let books = Books { began: Instant::now(), answers: BTreeMap::new(), exact: HashMap::new(), last: 0 };
        Shelf(books.into())
    }
}

impl Shelf {
    fn open(&self, now: Instant) -> MutexGuard<'_, Books> {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Books { answers, exact, .. } = &mut *books;
        answers.retain(|_, it| it.expires > now);
        exact.retain(|_, it| answers.contains_key(it));
        books
    }
}

impl Books {
    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64 + 1
    }

    fn claim(&mut self, claim: &Claim, terms: Terms, now: Instant) -> Claimed {
        if let Some(&id) = self.exact.get(&claim.exact) {
            return self.join(id, &claim.who, now);
        }
        let mut is_unsure = false;
        let alike = self.answers.iter().filter(|(_, it)| it.loose.is_some() && it.loose == claim.loose);
        for (&id, kept) in alike.filter(|(_, it)| !it.is_given) {
            match kept.readers.values().max() {
                Some(&seen) if seen + terms.lease > now => {
                    let asked = claim.again.map(|it| self.began + Duration::from_millis(it.0) + NOTICE);
                    is_unsure |= asked.is_none_or(|asked| seen < asked);
                }
                _ => return self.join(id, &claim.who, now),
            }
        }
        if is_unsure {
            return Claimed::Unsure(claim.again.unwrap_or(Asked(self.millis(now))));
        }
        self.last += 1;
        let id = Fence(self.last);
        let kept = Kept {
            exact: claim.exact.clone(),
            loose: claim.loose.clone(),
            lease: now + terms.lease,
            expires: now + terms.lease + terms.keep,
            is_over: false,
            is_given: false,
            readers: [(claim.who.clone(), now)].into(),
            pieces: BTreeMap::new(),
            next: 1,
            size: 0,
        };
        self.answers.insert(id, kept);
        self.exact.insert(claim.exact.clone(), id);
        Claimed::Mine(id)
    }

    fn join(&mut self, id: Fence, who: &str, now: Instant) -> Claimed {
        if let Some(kept) = self.answers.get_mut(&id) {
            kept.readers.insert(who.to_owned(), now);
        }
        Claimed::Theirs(id)
    }

    fn append(&mut self, addition: Addition, terms: Terms, now: Instant) -> bool {
        let Some(kept) = self.answers.get_mut(&addition.answer) else { return false };
        if kept.lease < now {
            return false;
        }
        for (number, piece) in (addition.from..).zip(addition.pieces) {
            if number >= kept.next {
                kept.size += piece.bytes.len();
                kept.pieces.insert(number, piece);
                kept.next = number + 1;
            }
        }
        kept.trim(terms.most);
        kept.is_over |= addition.is_last;
        kept.lease = now + terms.lease;
        kept.expires = now + terms.lease + terms.keep;
        kept.attend(&addition.who, addition.presence, now);
        true
    }

    fn note(&mut self, who: &str, note: Note, terms: Terms, now: Instant) -> bool {
        let Some(kept) = self.answers.get_mut(&note.answer) else { return false };
        kept.attend(who, note.presence, now);
        let is_held = kept.is_held(now);
        if note.writes && is_held {
            kept.lease = now + terms.lease;
            kept.expires = now + terms.lease + terms.keep;
        }
        is_held
    }

    fn read(&mut self, who: &str, note: Note, after: u64, now: Instant) -> Option<Page> {
        let kept = self.answers.get_mut(&note.answer)?;
        kept.attend(who, note.presence, now);
        let pieces = kept.pieces.range(after + 1..).take(PAGE).map(|(n, piece)| (*n, piece.clone()));
        Some(Page { pieces: pieces.collect(), is_alive: kept.is_held(now) })
    }

    fn forget(&mut self, id: Fence) {
        let Some(kept) = self.answers.get_mut(&id) else { return };
        kept.loose = None;
        if self.exact.get(&kept.exact) == Some(&id) {
            self.exact.remove(&kept.exact);
        }
    }
}

impl Embedded {
    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Books, Instant) -> T,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let now = Instant::now();
        ready(Ok(work(&mut self.answers.open(now), now))).boxed()
    }
}

impl Answers for Embedded {
    fn claim(&self, claim: Claim, terms: Terms) -> BoxFuture<'_, Result<Claimed, StoreError>> {
        self.with(|books, now| books.claim(&claim, terms, now))
    }

    fn append(&self, addition: Addition, terms: Terms) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.with(|books, now| books.append(addition, terms, now))
    }

    fn note(
        &self,
        who: String,
        notes: Vec<Note>,
        terms: Terms,
    ) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        self.with(|books, now| notes.into_iter().map(|it| books.note(&who, it, terms, now)).collect())
    }

    fn read(
        &self,
        who: String,
        note: Note,
        after: u64,
        _terms: Terms,
    ) -> BoxFuture<'_, Result<Option<Page>, StoreError>> {
        self.with(|books, now| books.read(&who, note, after, now))
    }

    fn is_read_elsewhere(
        &self,
        who: String,
        answer: Fence,
        forgets: bool,
        terms: Terms,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.with(|books, now| {
            let kept = books.answers.get(&answer);
            let reads = |(by, seen): (&String, &Instant)| *by != who && *seen + terms.lease > now;
            let is_read = kept.is_some_and(|it| it.readers.iter().any(reads));
            if forgets && !is_read {
                books.forget(answer);
            }
            is_read
        })
    }

    fn forget(&self, answer: Fence) -> BoxFuture<'_, Result<(), StoreError>> {
        self.with(|books, _| books.forget(answer))
    }
}
