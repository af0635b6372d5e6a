//! A carrier's signs of life, noted by its reader and read by everyone, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When something was last heard from a page, and from the site through it.
#[derive(Debug)]
pub(super) struct Signs {
    born: Instant,
    /// Microseconds after `born`.
    heard: AtomicU64,
    answered: AtomicU64,
}

impl Signs {
    pub fn new(now: Instant) -> Signs {
        Signs { born: now, heard: AtomicU64::new(0), answered: AtomicU64::new(0) }
    }

    /// A message came; `answer`: something of an answer was in it.
    pub fn note(&self, now: Instant, answer: bool) {
        let at = now.saturating_duration_since(self.born).as_micros() as u64;
        self.heard.store(at, Ordering::Relaxed);
        if answer {
            self.answered.store(at, Ordering::Relaxed);
        }
    }

    /// How long ago the last message came.
    pub fn silence(&self) -> Duration {
        self.since(&self.heard)
    }

    /// How long ago the site last answered.
    pub fn quiet(&self) -> Duration {
        self.since(&self.answered)
    }

    fn since(&self, mark: &AtomicU64) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_micros(mark.load(Ordering::Relaxed)))
    }
}
