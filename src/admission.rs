//! Admission: how many exchanges run at once, how many wait for a place, and for how long.
//!
//! ```text
//! enter ──> a place is free ───────────────────────────────> Permit
//!   │                                                          ^
//!   └────> queue (first come, first served) ── a place frees ──┘
//!             │ full: QueueFull   │ too long: QueueTimeout   │ closed: Draining
//! ```
//!
//! A [`Permit`] travels with the answer's body, so a place is taken until the last byte, not only until
//! the head. Dropping a waiting future, or a permit, frees its place. Knows nothing of HTTP.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::error::{Fault, FaultKind};

/// What a refused caller is told to wait: a place frees whenever some answer ends.
const BUSY_RETRY: Duration = Duration::from_secs(5);
/// What a caller is told to wait while the server is being replaced.
const DRAIN_RETRY: Duration = Duration::from_secs(10);

/// The door to the page: a bounded number of places, and a bounded queue before them.
#[derive(Debug)]
pub struct Admission {
    places: Arc<Semaphore>,
    max_inflight: usize,
    /// Places that are closed for now.
    closed: Mutex<Option<OwnedSemaphorePermit>>,
    /// Whether nobody new is let in for now.
    paused: AtomicBool,
    queued: AtomicUsize,
    /// Whether the queue has been full and half of it is not free yet.
    crowded: AtomicBool,
    queue: usize,
    wait: Duration,
}

/// The right to one running exchange. Dropping it gives the place to the next in the queue.
pub struct Permit {
    _place: OwnedSemaphorePermit,
    /// What else ends with the exchange.
    beside: Vec<Box<dyn Any + Send>>,
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

impl Permit {
    fn new(place: OwnedSemaphorePermit) -> Permit {
        Permit { _place: place, beside: Vec::new() }
    }

    /// Keeps `it` as long as the permit is kept, beside what it keeps already.
    pub fn carry(&mut self, it: impl Any + Send) {
        self.beside.push(Box::new(it));
    }
}

/// Why there was no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every place in the queue is taken; there are `limit`.
    QueueFull {
        /// The length of the queue.
        limit: usize,
    },
    /// No place became free in time.
    QueueTimeout {
        /// How long the caller waited.
        waited: Duration,
    },
    /// No one is let in for now.
    Paused,
    /// No one is let in any more.
    Draining,
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Fault {
        match refused {
            Refused::QueueFull { limit } => Fault::new(
                FaultKind::QueueFull,
                format!("The proxy is busy and its queue of {limit} is full; try again in a few seconds."),
            )
            .retry_after(BUSY_RETRY),
            Refused::QueueTimeout { waited } => Fault::new(
                FaultKind::QueueTimeout,
                format!(
                    "The proxy is busy: no place became free within {} seconds; try again in a few seconds.",
                    waited.as_secs()
                ),
            )
            .retry_after(BUSY_RETRY),
            Refused::Paused => Fault::new(
                FaultKind::Draining,
                "The proxy takes no new requests for now; try again in a moment.",
            )
            .retry_after(DRAIN_RETRY),
            Refused::Draining => {
                Fault::new(FaultKind::Draining, "The proxy is stopping; try again in a moment.")
                    .retry_after(DRAIN_RETRY)
            }
        }
    }
}

impl Admission {
    /// Room for `max_inflight` running exchanges and `queue` waiting ones, none of which waits for longer
    /// than `wait`.
    pub fn new(max_inflight: usize, queue: usize, wait: Duration) -> Admission {
        let max_inflight = max_inflight.min(Semaphore::MAX_PERMITS);
        Admission {
            places: Arc::new(Semaphore::new(max_inflight)),
            max_inflight,
            closed: Mutex::default(),
            paused: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            crowded: AtomicBool::new(false),
            queue,
            wait,
        }
    }

    /// Waits for a place, first come, first served, until `deadline` or for the longest wait, whichever
    /// ends first.
    ///
    /// # Errors
    /// [`Refused`] says why there was none. A full or closed door refuses at once.
    pub async fn enter(&self, deadline: Instant) -> Result<Permit, Refused> {
        if self.is_paused() {
            return Err(Refused::Paused);
        }
        // This cannot overtake: a place that frees while someone waits is handed to the first of them.
        match self.places.clone().try_acquire_owned() {
            Ok(place) => return Ok(Permit::new(place)),
            Err(TryAcquireError::Closed) => return Err(Refused::Draining),
            Err(TryAcquireError::NoPermits) => {}
        }
        let waiting = Waiting::begin(&self.queued, self.queue);
        if self.queued() >= self.queue {
            self.crowded.store(true, Ordering::Relaxed);
        }
        let _waiting = waiting?;
        let begun = tokio::time::Instant::now();
        let until = (begun + self.wait).min(deadline.into());
        match tokio::time::timeout_at(until, self.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(Permit::new(place)),
            Ok(Err(_)) => Err(Refused::Draining),
            Err(_) => Err(Refused::QueueTimeout { waited: begun.elapsed() }),
        }
    }

    /// Leaves `limit` places, at least one, or all that there are. Where more are taken, waits for them to become
    /// free, before anybody else gets one; may be given up at any time.
    pub async fn narrow(&self, limit: usize) {
        let wanted = self.max_inflight.saturating_sub(limit.max(1));
        let missing = {
            let mut closed = self.closed();
            let surplus = closed.as_ref().map_or(0, OwnedSemaphorePermit::num_permits).saturating_sub(wanted);
            drop(closed.as_mut().and_then(|it| it.split(surplus)));
            wanted - closed.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
        };
        let more = u32::try_from(missing).unwrap_or(u32::MAX);
        if more > 0
            && let Ok(more) = self.places.clone().acquire_many_owned(more).await
        {
            match &mut *self.closed() {
                Some(closed) => closed.merge(more),
                none => *none = Some(more),
            }
        }
    }

    fn closed(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many exchanges may run at once, as it is now.
    pub fn places(&self) -> usize {
        self.max_inflight - self.closed().as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Refuses everyone from now on, the waiting ones too. Permits stay valid.
    pub fn close(&self) {
        self.places.close();
    }

    /// Lets nobody new in for now, or does so again. Who waits or runs already may go on.
    pub fn pause(&self, pause: bool) {
        self.paused.store(pause, Ordering::Relaxed);
    }

    /// Whether nobody new is let in for now.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Whether [`Admission::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.places.is_closed()
    }

    /// Whether newcomers are refused because places and queue are taken, or were, and half of the queue is not free
    /// yet (without a queue, half of the places).
    ///
    /// Under a steady load that is too much, the queue is full in one moment and not in the next. Whoever spreads the
    /// load by this must not hear yes and no in turn: each yes would bring what makes the next no.
    pub fn is_full(&self) -> bool {
        let has_room = match self.queue {
            0 => 2 * self.running() <= self.places(),
            queue => 2 * self.queued() <= queue,
        };
        if has_room {
            self.crowded.store(false, Ordering::Relaxed);
        }
        self.crowded.load(Ordering::Relaxed)
    }

    /// Exchanges that hold a permit.
    pub fn running(&self) -> usize {
        self.places().saturating_sub(self.places.available_permits())
    }

    /// Callers that wait for one.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }
}

/// A place in the queue, given back on drop.
struct Waiting<'a> {
    queued: &'a AtomicUsize,
}

impl<'a> Waiting<'a> {
    fn begin(queued: &'a AtomicUsize, limit: usize) -> Result<Self, Refused> {
        queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .map(|_| Waiting { queued })
            .map_err(|_| Refused::QueueFull { limit })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const WAIT: Duration = Duration::from_secs(30);

    fn far() -> Instant {
        tokio::time::Instant::now().into_std() + Duration::from_secs(3600)
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn places_then_queue_then_refusal() {
        let door = Admission::new(1, 1, WAIT);
        let first = door.enter(far()).await.unwrap();
        let mut second = pin!(door.enter(far()));
        assert!(poll(second.as_mut()).is_pending());
        assert_eq!((door.running(), door.queued(), door.is_full()), (1, 1, true));
        assert_eq!(door.enter(far()).await.unwrap_err(), Refused::QueueFull { limit: 1 });
        drop(first);
        let second = second.await.unwrap();
        assert_eq!((door.running(), door.queued()), (1, 0));
        drop(second);
        assert_eq!(door.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_was_full_counts_as_full_until_half_of_it_is_free() {
        let door = Admission::new(1, 4, WAIT);
        let _held = door.enter(far()).await.unwrap();
        let mut all: Vec<_> = (0..4).map(|_| Box::pin(door.enter(far()))).collect();
        for (n, waits) in all.iter_mut().enumerate() {
            assert!(!door.is_full(), "{n} wait");
            assert!(poll(waits.as_mut()).is_pending());
        }
        assert!(door.is_full());
        all.pop();
        assert!(door.is_full(), "3 of 4 wait");
        all.pop();
        assert!(!door.is_full());
        let mut third = pin!(door.enter(far()));
        assert!(poll(third.as_mut()).is_pending());
        assert!(!door.is_full(), "on the way up 3 of 4 are no reason");

        let bare = Admission::new(4, 0, WAIT);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(bare.enter(far()).await.unwrap());
        }
        assert!(!bare.is_full(), "nobody was refused");
        assert_eq!(bare.enter(far()).await.unwrap_err(), Refused::QueueFull { limit: 0 });
        assert!(bare.is_full());
        held.pop();
        assert!(bare.is_full(), "3 of 4 run");
        held.pop();
        assert!(!bare.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_come_is_the_first_to_enter_and_nobody_overtakes() {
        let door = Admission::new(1, 8, WAIT);
        let held = door.enter(far()).await.unwrap();
        let (mut a, mut b) = (pin!(door.enter(far())), pin!(door.enter(far())));
        assert!(poll(a.as_mut()).is_pending() && poll(b.as_mut()).is_pending());
        drop(held);
        let mut late = pin!(door.enter(far()));
        assert!(poll(late.as_mut()).is_pending());
        assert!(poll(b.as_mut()).is_pending());
        assert!(poll(a.as_mut()).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn places_close_as_they_become_free_and_open_again() {
        let door = Admission::new(3, 8, WAIT);
        let (a, b, _c) =
            (door.enter(far()).await.unwrap(), door.enter(far()).await.unwrap(), door.enter(far()).await);
        let mut narrow = pin!(door.narrow(1));
        assert!(poll(narrow.as_mut()).is_pending());
        let mut late = pin!(door.enter(far()));
        assert!(poll(late.as_mut()).is_pending());
        drop(a);
        assert!(poll(narrow.as_mut()).is_pending());
        drop(b);
        assert!(poll(narrow.as_mut()).is_ready());
        assert!(poll(late.as_mut()).is_pending(), "the one place is taken");
        assert_eq!((door.running(), door.places()), (1, 1));
        door.narrow(2).await;
        assert!(poll(late.as_mut()).is_ready());
        door.narrow(usize::MAX).await;
        assert_eq!((door.running(), door.places()), (1, 3));
        door.narrow(0).await;
        assert_eq!(door.places(), 1, "never none");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_deadline_or_the_longest_wait() {
        let door = Admission::new(1, 8, WAIT);
        let _held = door.enter(far()).await.unwrap();
        assert_eq!(door.enter(far()).await.unwrap_err(), Refused::QueueTimeout { waited: WAIT });
        let soon = tokio::time::Instant::now().into_std() + Duration::from_secs(3);
        let waited = Duration::from_secs(3);
        assert_eq!(door.enter(soon).await.unwrap_err(), Refused::QueueTimeout { waited });
        assert_eq!(door.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_frees_its_place_in_the_queue() {
        let door = Admission::new(1, 1, WAIT);
        let held = door.enter(far()).await.unwrap();
        {
            let mut leaving = pin!(door.enter(far()));
            assert!(poll(leaving.as_mut()).is_pending());
            assert_eq!(door.queued(), 1);
        }
        assert_eq!(door.queued(), 0);
        drop(held);
        assert!(door.enter(far()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_refuses_only_the_new_and_ends() {
        let door = Admission::new(1, 1, WAIT);
        let held = door.enter(far()).await.unwrap();
        let mut waiting = pin!(door.enter(far()));
        assert!(poll(waiting.as_mut()).is_pending());
        door.pause(true);
        assert_eq!(door.enter(far()).await.unwrap_err(), Refused::Paused);
        drop(held);
        drop(waiting.await.unwrap());
        assert_eq!(door.enter(far()).await.unwrap_err(), Refused::Paused);
        door.pause(false);
        assert!(door.enter(far()).await.is_ok() && !door.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn closing_refuses_the_new_and_the_waiting_but_not_the_running() {
        let door = Admission::new(1, 1, WAIT);
        let held = door.enter(far()).await.unwrap();
        let mut waiting = pin!(door.enter(far()));
        assert!(poll(waiting.as_mut()).is_pending());
        door.close();
        assert_eq!(waiting.await.unwrap_err(), Refused::Draining);
        assert_eq!(door.enter(far()).await.unwrap_err(), Refused::Draining);
        assert_eq!(door.running(), 1);
        drop(held);
        assert_eq!(door.running(), 0);
        assert!(Fault::from(Refused::Draining).wait().is_some());
    }
}
