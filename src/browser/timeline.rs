//! What happened to the browser: its last phases, each with its reason and how long it lasted.
//!
//! Written by the supervisor alone, read by whoever looks. Bounded: the oldest are forgotten.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// So many are kept.
const KEPT: usize = 200;

/// A phase that was entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: SystemTime,
    /// Its name.
    pub phase: &'static str,
    /// Why, in words for the operator.
    pub reason: String,
    /// How long it lasted; `None` while it lasts.
    pub lasted: Option<Duration>,
}

/// The last phases, oldest first.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<VecDeque<Entry>>);

impl Timeline {
    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A phase begins now, after the one before lasted `before`.
    pub fn enter(&self, phase: &'static str, reason: &str, before: Duration) {
        let mut entries = self.entries();
        if let Some(last) = entries.back_mut() {
            last.lasted = Some(before);
        }
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(Entry { at: SystemTime::now(), phase, reason: reason.to_owned(), lasted: None });
    }

    /// The last `count` of them, newest first.
    pub fn last(&self, count: usize) -> Vec<Entry> {
        self.entries().iter().rev().take(count).cloned().collect()
    }

    /// How long this phase usually lasted here: the median; `None` if it never has.
    pub fn usual(&self, phase: &str) -> Option<Duration> {
        let entries = self.entries();
        let mut lasted: Vec<_> =
            entries.iter().filter(|it| it.phase == phase).filter_map(|it| it.lasted).collect();
        lasted.sort();
        lasted.get(lasted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_kept_with_how_long_they_lasted_and_the_oldest_forgotten() {
        let (timeline, s) = (Timeline::default(), Duration::from_secs);
        assert_eq!(timeline.usual("starting"), None);
        for n in 1..=3 {
            timeline.enter("starting", "a reason", s(0));
            timeline.enter("ready", "another", s(n));
        }
        assert_eq!(timeline.usual("starting"), Some(s(2)));
        let last = timeline.last(2);
        assert_eq!((last[0].phase, last[0].lasted), ("ready", None));
        assert_eq!(
            (last[1].phase, last[1].lasted, last[1].reason.as_str()),
            ("starting", Some(s(3)), "a reason")
        );
        for _ in 0..2 * KEPT {
            timeline.enter("warming", "", s(1));
        }
        assert_eq!((timeline.last(usize::MAX).len(), timeline.usual("starting")), (KEPT, None));
    }
}
