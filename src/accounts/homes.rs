//! Where each conversation is at home: which account, or which browser, it was begun with. The site shows it to no
//! other, so that it has to go on there.
//!
//! In memory, and bounded: the oldest are forgotten. It does not know what a home is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many conversations are remembered, until the process ends.
const KEPT: usize = 50_000;
/// No conversation has a longer id.
const LONGEST_ID: usize = 64;

/// Whether a conversation may have this id.
pub fn is_id(conversation: &str) -> bool {
    (1..=LONGEST_ID).contains(&conversation.len())
}

/// The homes of conversations.
#[derive(Debug)]
pub struct Homes<H>(Mutex<Known<H>>);

#[derive(Debug)]
struct Known<H> {
    of: HashMap<String, H>,
    /// The oldest first.
    order: VecDeque<String>,
}

impl<H> Default for Homes<H> {
    fn default() -> Homes<H> {
        Homes(Mutex::new(Known { of: HashMap::new(), order: VecDeque::new() }))
    }
}

impl<H: Clone + PartialEq> Homes<H> {
    fn known(&self) -> MutexGuard<'_, Known<H>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This conversation was begun there, or goes on there. Says whether that is news.
    pub fn remember(&self, conversation: &str, home: H) -> bool {
        if !is_id(conversation) {
            return false;
        }
        let mut known = self.known();
        if let Some(known) = known.of.get_mut(conversation) {
            let is_news = *known != home;
            *known = home;
            return is_news;
        }
        known.of.insert(conversation.to_owned(), home);
        known.order.push_back(conversation.to_owned());
        if known.order.len() > KEPT
            && let Some(oldest) = known.order.pop_front()
        {
            known.of.remove(&oldest);
        }
        true
    }

    /// The home of this conversation, if it is known.
    pub fn of(&self, conversation: &str) -> Option<H> {
        self.known().of.get(conversation).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_home_counts_and_the_oldest_conversations_are_forgotten() {
        let homes = Homes::default();
        assert!(homes.remember("c", 1) && homes.remember("c", 2) && !homes.remember("c", 2));
        assert!(!homes.remember("", 3) && !homes.remember(&"x".repeat(LONGEST_ID + 1), 3));
        assert_eq!((homes.of("c"), homes.of(""), homes.of("d")), (Some(2), None, None));
        assert_eq!(homes.known().order.len(), 1);
        assert!((0..KEPT).all(|n| homes.remember(&n.to_string(), 0)));
        assert_eq!((homes.of("c"), homes.of("0")), (None, Some(0)));
        assert_eq!(homes.known().of.len(), KEPT);
    }
}
