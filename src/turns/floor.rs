//! Who speaks: one turn at a time in each conversation.
//!
//! The site answers a second turn into a conversation that it is still answering with an error, or mixes the
//! two up. So the second waits, first come, first served, or is refused. Knows nothing of what a turn is.
//!
//! Where several instances share the work, the one whose turn it is here waits for a lock with a lease that they
//! share ([`Peers`]). That lock is given back first, so that the next one here finds it free.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peers::{Held, Peers};
use crate::error::{Fault, FaultKind};
use crate::exchange::Leave;
use crate::store::StoreError;

/// What a refused caller is told to wait.
const RETRY: Duration = Duration::from_secs(5);

/// The floors of all conversations that somebody speaks in.
#[derive(Clone, Debug)]
pub struct Floor {
    shared: Arc<Shared>,
    peers: Option<Peers>,
}

#[derive(Debug)]
struct Shared {
    /// One place each, and how many hold it or wait for it: an entry goes with the last of them.
    floors: Mutex<HashMap<String, (Arc<Semaphore>, usize)>>,
    waiting: AtomicUsize,
    most: usize,
}

/// The right to speak in one conversation, until this is dropped.
#[derive(Debug)]
pub struct Turned {
    /// Among all instances; it gives back the other two after it, and otherwise they go with this.
    shared: Option<Held>,
    // Given back before the entry may go.
    _place: Option<OwnedSemaphorePermit>,
    _entry: Option<Entry>,
}

/// One who holds a floor, or waits for it.
#[derive(Debug)]
struct Entry {
    shared: Arc<Shared>,
    conversation: String,
}

/// Why there was no turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Waiting was not allowed.
    Refused,
    /// Too many wait already, in all conversations.
    Crowded,
    /// It was not over in time.
    TooLong,
    /// Whether another instance answers it cannot be known; why.
    Unknown(String),
}

impl From<Busy> for Fault {
    fn from(busy: Busy) -> Fault {
        let text = match busy {
            Busy::Refused => "This conversation is still being answered; send the next turn after that.",
            Busy::Crowded => "This conversation is still being answered, and too many turns wait already.",
            Busy::TooLong => "This conversation was still being answered when the longest wait was over.",
            Busy::Unknown(cause) => return StoreError(cause).into(),
        };
        Fault::new(FaultKind::Busy, text).retry_after(RETRY)
    }
}

impl Turned {
    /// What says whether this is still the right to speak, where that can be lost.
    pub fn leave(&self) -> Option<Arc<dyn Leave>> {
        self.shared.as_ref().map(|it| it.lease.clone() as Arc<dyn Leave>)
    }
}

impl Floor {
    /// At most `most` turns wait, in all conversations together.
    pub fn new(most: usize) -> Floor {
        let shared = Shared { floors: Mutex::default(), waiting: AtomicUsize::new(0), most };
        Floor { shared: Arc::new(shared), peers: None }
    }

    /// The same floor for this instance and its `peers`.
    pub fn shared(mut self, peers: Peers) -> Floor {
        self.peers = Some(peers);
        self
    }

    /// Takes the floor of `conversation`, waiting for it until `until`; `None` for not at all. `waits` is called
    /// once before a wait.
    ///
    /// # Errors
    /// [`Busy`] says why there was none.
    pub async fn take(
        &self,
        conversation: &str,
        until: Option<Instant>,
        waits: impl FnOnce(),
    ) -> Result<Turned, Busy> {
        let (place, entry) = self.enter(conversation);
        let mut wait = Wait { shared: &self.shared, waits: Some(waits), _waiting: None };
        let place = match place.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let until = until.ok_or(Busy::Refused)?;
                wait.begin()?;
                match tokio::time::timeout_at(until.into(), place.acquire_owned()).await {
                    Ok(Ok(place)) => place,
                    _ => return Err(Busy::TooLong),
                }
            }
        };
        let shared = match &self.peers {
            Some(peers) => peers.lock(conversation, until, || wait.begin()).await?,
            None => None,
        };
        Ok(match shared {
            Some(held) => Turned { shared: Some(held.before((place, entry))), _place: None, _entry: None },
            None => Turned { shared: None, _place: Some(place), _entry: Some(entry) },
        })
    }

    /// Turns that wait.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    fn enter(&self, conversation: &str) -> (Arc<Semaphore>, Entry) {
        let mut floors = self.shared.lock();
        let floor = floors.entry(conversation.to_owned());
        let (place, count) = floor.or_insert_with(|| (Arc::new(Semaphore::new(1)), 0));
        *count += 1;
        let entry = Entry { shared: self.shared.clone(), conversation: conversation.to_owned() };
        (place.clone(), entry)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Arc<Semaphore>, usize)>> {
        self.floors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut floors = self.shared.lock();
        if let Some((_, count)) = floors.get_mut(&self.conversation) {
            *count -= 1;
            if *count == 0 {
                floors.remove(&self.conversation);
            }
        }
    }
}

/// A wait that begins at most once, whatever there is to wait for.
struct Wait<'a, W> {
    shared: &'a Shared,
    waits: Option<W>,
    _waiting: Option<Waiting<'a>>,
}

impl<W: FnOnce()> Wait<'_, W> {
    fn begin(&mut self) -> Result<(), Busy> {
        if let Some(waits) = self.waits.take() {
            self._waiting = Some(Waiting::begin(self.shared)?);
            waits();
        }
        Ok(())
    }
}

struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Result<Self, Busy> {
        let more = |n| (n < shared.most).then_some(n + 1);
        let begun = shared.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        begun.map(|_| Waiting(shared)).map_err(|_| Busy::Crowded)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    const WAIT: Duration = Duration::from_secs(30);

    fn soon() -> Option<Instant> {
        Some((tokio::time::Instant::now() + WAIT).into_std())
    }

    #[tokio::test(start_paused = true)]
    async fn turns_of_one_conversation_come_one_after_the_other_and_others_at_once() {
        let floor = Floor::new(8);
        let first = floor.take("a", None, || panic!("it is free")).await.unwrap();
        let other = floor.take("b", None, || panic!("it is free")).await.unwrap();
        assert_eq!(floor.take("a", None, || {}).await.unwrap_err(), Busy::Refused);
        let waited = std::cell::Cell::new(0);
        let (mut second, mut third) =
            (pin!(floor.take("a", soon(), || waited.set(1))), pin!(floor.take("a", soon(), || {})));
        assert!(futures::poll!(&mut second).is_pending() && futures::poll!(&mut third).is_pending());
        assert_eq!(floor.waiting(), 2);
        drop(first);
        assert!(futures::poll!(&mut third).is_pending(), "nobody overtakes");
        let second = second.await.unwrap();
        drop(second);
        drop(third.await.unwrap());
        drop(other);
        assert_eq!((waited.get(), floor.waiting()), (1, 0));
        assert!(floor.shared.lock().is_empty(), "nothing is kept of what is over");
    }

    #[tokio::test(start_paused = true)]
    async fn waits_are_bounded_in_time_and_in_number() {
        let floor = Floor::new(1);
        let _held = floor.take("a", None, || {}).await.unwrap();
        let begun = tokio::time::Instant::now();
        {
            let mut waits = pin!(floor.take("a", soon(), || {}));
            assert!(futures::poll!(&mut waits).is_pending());
            assert_eq!(floor.take("a", soon(), || {}).await.unwrap_err(), Busy::Crowded);
            assert_eq!(waits.await.unwrap_err(), Busy::TooLong);
        }
        assert_eq!((begun.elapsed(), floor.waiting()), (WAIT, 0));
        {
            let mut leaves = pin!(floor.take("a", soon(), || {}));
            assert!(futures::poll!(&mut leaves).is_pending());
        }
        assert_eq!(floor.waiting(), 0, "one that leaves does not wait any more");
    }
}
