//! What the practice site has seen, so that a test can prove what a caller did and did not send.
//!
//! Knows nothing of HTTP: the routes say what happened, this file adds it up. Every list and map is
//! bounded, because a benchmark may run for days against one site.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// At most this many message ids are counted apart; later new ids count only in `posts`.
const MAX_IDS: usize = 200_000;
/// At most this many entries are kept in each list of observations.
const MAX_NOTES: usize = 1_000;
/// One observation is cut to this many characters.
const MAX_NOTE_CHARS: usize = 300;

/// A snapshot of everything the site has counted since it started, or since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Requests of any kind, to any of the site's hosts.
    pub requests_total: u64,
    /// Connections that spoke HTTP/1.1.
    pub h1_connections: u64,
    /// Connections that spoke HTTP/2.
    pub h2_connections: u64,
    /// Requests to `elsewhere.test`, preflights too: more than zero means that something leaked.
    pub elsewhere_hits: u64,
    /// Times the home page was served.
    pub home_loads: u64,
    /// Answers that were a challenge page instead of what was asked for.
    pub challenged: u64,
    /// Checks that a browser passed.
    pub checks_passed: u64,
    /// API requests refused because a page of this origin cannot have sent them.
    pub refused_fetch_site: u64,
    /// POSTs to a conversation route as they arrived, also those that were challenged or refused.
    pub posts_arrived: u64,
    /// Of these, the ones to the route of guests.
    pub posts_of_guests: u64,
    /// POSTs to a conversation route that came through to the conversation itself.
    pub posts: u64,
    /// How often each message id was posted: a value above one is a request that was sent twice.
    pub posts_by_message_id: BTreeMap<String, u64>,
    /// Answers begun: conversations, `bytes` and `slow-head`, from before the head on.
    pub started: u64,
    /// Answers that are running now.
    pub active: u64,
    /// The most answers that ever ran at once.
    pub max_active: u64,
    /// Answers that the site ended as planned, also those it was asked to cut or reset.
    pub finished: u64,
    /// Answers whose client went away first, before the head or after it.
    pub aborted: u64,
    /// What the home page's watchdog found in its room that it had not put there: `kind: name`.
    pub intrusions: Vec<String>,
    /// API requests that the service worker saw and the home page had not sent: `url from client`.
    pub sw_saw: Vec<String>,
    /// Headers of API requests that a browser's fetch would not have sent: `name: value`.
    pub odd_headers: Vec<String>,
}

/// The live counters behind [`Counters`].
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counters>);

impl Tally {
    /// A copy of the present state.
    pub fn snapshot(&self) -> Counters {
        self.lock().clone()
    }

    /// Back to zero, except for the answers that are running.
    pub fn reset(&self) {
        let mut counters = self.lock();
        let active = counters.active;
        *counters = Counters { active, max_active: active, ..Counters::default() };
    }

    /// Changes the counters in one step; `change` must not block.
    pub fn add(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.lock());
    }

    /// Counts one POST and the ids of the messages that it carries.
    pub fn post<'a>(&self, message_ids: impl Iterator<Item = &'a str>) {
        let mut counters = self.lock();
        counters.posts += 1;
        for id in message_ids {
            if let Some(times) = counters.posts_by_message_id.get_mut(id) {
                *times += 1;
            } else if counters.posts_by_message_id.len() < MAX_IDS {
                counters.posts_by_message_id.insert(id.to_owned(), 1);
            }
        }
    }

    /// Counts an answer as running until the guard is finished or dropped.
    pub fn begin(self: &Arc<Self>) -> Running {
        let mut counters = self.lock();
        counters.started += 1;
        counters.active += 1;
        counters.max_active = counters.max_active.max(counters.active);
        Running { tally: Arc::clone(self), ended: false }
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        // Counters stay meaningful whatever panicked while it held them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds an observation to a bounded list; a repeated or surplus one is dropped.
pub(super) fn note(list: &mut Vec<String>, text: &str) {
    let text: String = text.chars().take(MAX_NOTE_CHARS).collect();
    if list.len() < MAX_NOTES && !list.contains(&text) {
        list.push(text);
    }
}

/// One running answer. Dropped before [`Running::finish`], it counts as abandoned by its client.
#[derive(Debug)]
pub(super) struct Running {
    tally: Arc<Tally>,
    ended: bool,
}

impl Running {
    /// The site has ended the answer as it meant to. Counted at once, before the client can see the end.
    pub fn finish(&mut self) {
        self.end(|counters| counters.finished += 1);
    }

    fn end(&mut self, how: impl FnOnce(&mut Counters)) {
        if !std::mem::replace(&mut self.ended, true) {
            self.tally.add(|counters| {
                counters.active = counters.active.saturating_sub(1);
                how(counters);
            });
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(|counters| counters.aborted += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_exactly_once() {
        let tally = Arc::new(Tally::default());
        let mut done = tally.begin();
        let left = tally.begin();
        done.finish();
        drop(done);
        drop(left);
        let seen = tally.snapshot();
        assert_eq!((seen.started, seen.active, seen.max_active), (2, 0, 2));
        assert_eq!((seen.finished, seen.aborted), (1, 1));
    }

    #[test]
    fn a_reset_keeps_what_is_running() {
        let tally = Arc::new(Tally::default());
        let _running = tally.begin();
        tally.post(["a", "a"].into_iter());
        assert_eq!(tally.snapshot().posts_by_message_id["a"], 2);
        tally.reset();
        assert_eq!(tally.snapshot(), Counters { active: 1, max_active: 1, ..Counters::default() });
    }
}
