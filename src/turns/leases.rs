//! What this instance holds of the shared store for a while: locks of conversations, and answers that it writes.
//!
//! A lease is good until so long after it was last confirmed, by a clock that goes on while the machine sleeps.
//! Who holds it can ask that at any moment without asking the store, and has to before anything irrevocable.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::error::{Fault, FaultKind};
use crate::exchange::Leave;
use crate::store::Fence;
use crate::store::answers::{Note, Presence};

/// How long what is held is held without a sign of its holder.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often all that is held is confirmed.
pub const RENEW: Duration = Duration::from_secs(4);
/// So long before its end a lease is not relied on any more: for the way that is left to go.
const MARGIN: Duration = Duration::from_secs(2);
/// When a request that came too late may be asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// Time since the machine was started, its sleep counted.
pub(super) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Who reads an answer here.
pub(super) trait Attended: Send + Sync {
    fn presence(&self) -> Presence;
}

/// What a lease is of.
pub(super) enum What {
    /// A lock, by its name in the store.
    Lock(String, Fence),
    /// An answer, and who reads it here.
    Answer(Fence, Arc<dyn Attended>),
}

const HELD: u8 = 0;
/// The store said that it is another's, or nobody's.
const LOST: u8 = 1;
/// The store is gone, and this instance may decide alone.
const ALONE: u8 = 2;
/// Given back.
const OVER: u8 = 3;

/// Something that is held. Given back by its owner; confirmed by [`Leases`].
pub struct Lease {
    pub(super) what: What,
    /// Whether an answer is still written, and not only read.
    writes: AtomicBool,
    state: AtomicU8,
    /// Whether what became of an answer here says nothing of it elsewhere.
    is_private: AtomicBool,
    /// Milliseconds since the start of the machine.
    until: AtomicU64,
    clock: fn() -> Duration,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fence = match &self.what {
            What::Lock(_, fence) | What::Answer(fence, _) => fence.0,
        };
        write!(f, "Lease({fence})")
    }
}

impl Lease {
    /// How long it is still held, as far as is known here.
    fn left(&self) -> Duration {
        let until = Duration::from_millis(self.until.load(Ordering::Acquire));
        until.saturating_sub((self.clock)())
    }

    /// Whether it has run out, or was taken away.
    pub(super) fn is_lost(&self) -> bool {
        self.state.load(Ordering::Acquire) == LOST || self.left().is_zero()
    }

    /// The store holds it until [`LEASE`] after `asked`.
    fn confirm(&self, asked: Duration) {
        self.until.store((asked + LEASE).as_millis() as u64, Ordering::Release);
        let _ = self.state.compare_exchange(ALONE, HELD, Ordering::AcqRel, Ordering::Acquire);
    }

    /// It is another's. `true` the first time, if it was still needed.
    pub(super) fn lose(&self) -> bool {
        let is_needed = |state| matches!(state, HELD | ALONE);
        let lose = |state| is_needed(state).then_some(LOST);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, lose).is_ok()
    }

    /// The store could not be asked, and this instance may do without: unless it had slept.
    fn go_alone(&self) {
        if !self.left().is_zero() {
            let _ = self.state.compare_exchange(HELD, ALONE, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// It is not needed any more. Says whether it had run out before, unnoticed.
    pub(super) fn give_up(&self) -> bool {
        self.state.swap(OVER, Ordering::AcqRel) == HELD && self.left().is_zero()
    }

    /// Which answer it is of.
    pub(super) fn answer(&self) -> Option<Fence> {
        match self.what {
            What::Lock(..) => None,
            What::Answer(answer, _) => Some(answer),
        }
    }

    /// The answer ended here as it did not elsewhere.
    pub(super) fn make_private(&self) {
        self.is_private.store(true, Ordering::Release);
    }

    /// Whether what became of the answer here is what became of it.
    pub(super) fn is_for_all(&self) -> bool {
        !self.is_private.load(Ordering::Acquire)
    }

    /// The answer is whole: from now on it is only read.
    pub(super) fn is_written(&self) {
        self.writes.store(false, Ordering::Release);
    }

    /// What the store is told of an answer.
    pub(super) fn note(&self) -> Option<Note> {
        match &self.what {
            What::Lock(..) => None,
            What::Answer(answer, attended) => {
                let writes = self.writes.load(Ordering::Acquire);
                Some(Note { answer: *answer, writes, presence: attended.presence() })
            }
        }
    }
}

impl Leave for Lease {
    fn may_leave(&self) -> Result<(), Fault> {
        let may = match self.state.load(Ordering::Acquire) {
            HELD => self.left() > MARGIN,
            ALONE => true,
            _ => false,
        };
        if may {
            return Ok(());
        }
        let text = "This request was held up for so long that another instance of this service may be at its turn \
                    by now; it was not sent, so try again.";
        Err(Fault::new(FaultKind::SharedStateLost, text).retry_after(RETRY).because("its lease has run out"))
    }
}

/// All leases that are held here.
pub(super) struct Leases {
    all: Mutex<Vec<Weak<Lease>>>,
    pub clock: fn() -> Duration,
}

impl Leases {
    pub fn new(clock: fn() -> Duration) -> Leases {
        Leases { all: Mutex::default(), clock }
    }

    /// Holds `what`, which the store was asked for at `asked`.
    pub fn hold(&self, what: What, writes: bool, asked: Duration) -> Arc<Lease> {
        let lease = Arc::new(Lease {
            what,
            writes: writes.into(),
            state: HELD.into(),
            is_private: false.into(),
            until: AtomicU64::new((asked + LEASE).as_millis() as u64),
            clock: self.clock,
        });
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&lease));
        lease
    }

    /// Those that are to be confirmed.
    pub fn held(&self) -> Vec<Arc<Lease>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|it| it.strong_count() > 0);
        let held = all.iter().filter_map(Weak::upgrade);
        held.filter(|it| matches!(it.state.load(Ordering::Acquire), HELD | ALONE)).collect()
    }
}

/// Takes down what the store said of each lease, asked at `asked`; returns how many were lost by that.
pub(super) fn settle(leases: &[&Arc<Lease>], held: &[bool], asked: Duration) -> usize {
    let lost = leases.iter().zip(held).filter(|(lease, is_held)| {
        if **is_held {
            lease.confirm(asked);
        }
        !**is_held && lease.lose() && lease.writes.load(Ordering::Acquire)
    });
    lost.count()
}

/// Takes down that the store could not be asked.
pub(super) fn unsettled(leases: &[Arc<Lease>], may_be_alone: bool) {
    if may_be_alone {
        leases.iter().for_each(|it| it.go_alone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NOW: AtomicU64 = AtomicU64::new(1_000_000);

    fn clock() -> Duration {
        Duration::from_millis(NOW.load(Ordering::SeqCst))
    }

    fn pass(time: Duration) {
        NOW.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    // One test: the clock is one for all.
    #[test]
    fn a_request_leaves_only_while_its_lease_is_sure_or_nobody_else_decides() {
        let leases = Leases::new(clock);
        let hold = || leases.hold(What::Lock("c".into(), Fence(1)), true, clock());
        let lease = hold();
        assert!(lease.may_leave().is_ok());
        pass(LEASE - MARGIN);
        let fault = lease.may_leave().unwrap_err();
        assert_eq!((fault.kind(), fault.sent()), (FaultKind::SharedStateLost, crate::error::Sent::No));
        assert!(!lease.is_lost());
        pass(MARGIN);
        assert!(lease.is_lost());
        // The store still has it: nobody else can have had it.
        assert_eq!(settle(&[&lease], &[true], clock()), 0);
        assert!(lease.may_leave().is_ok());
        // Nobody can be asked.
        unsettled(std::slice::from_ref(&lease), false);
        pass(LEASE);
        assert!(lease.may_leave().is_err());
        unsettled(std::slice::from_ref(&lease), true);
        assert!(lease.may_leave().is_err(), "it slept through, and decides nothing");
        let other = hold();
        unsettled(std::slice::from_ref(&other), true);
        pass(2 * LEASE);
        assert!(other.may_leave().is_ok());
        // It is another's.
        assert_eq!(settle(&[&lease, &other], &[false, false], clock()), 2);
        assert!(lease.may_leave().is_err() && other.may_leave().is_err());
        let returned = hold();
        returned.give_up();
        assert!(returned.may_leave().is_err());
        assert_eq!(settle(&[&returned], &[false], clock()), 0);
        assert!(leases.held().is_empty(), "neither lost ones nor those that were given back");
        drop((lease, other, returned));
    }
}
