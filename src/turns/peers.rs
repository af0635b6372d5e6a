//! What this instance has to do with the others that share its work: the store, and what it holds of it.
//!
//! One task confirms everything that is held, in two calls. A call that takes something runs to its end even if
//! whoever wanted it has left, so that nothing is held that nobody knows of.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::Key;
use super::floor::Busy;
use super::leases::{Attended, LEASE, Lease, Leases, RENEW, What, settle, since_boot, unsettled};
use super::log::Limits;
use crate::config::WhenLost;
use crate::store::answers::{Asked, Claim, Claimed, Terms};
use crate::store::{Fence, Store, StoreError};
use crate::telemetry::shared::SharedTurns;

/// How long one who waits for another instance does between two looks, at least and at most.
const LOOK: [Duration; 2] = [Duration::from_millis(60), Duration::from_millis(240)];

/// The way to the other instances. Clones share it. To be made within a runtime.
#[derive(Clone)]
pub struct Peers {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub store: Arc<dyn Store>,
    /// Which instance this is: another one after each start.
    pub who: String,
    pub terms: Terms,
    pub figures: SharedTurns,
    when_lost: WhenLost,
    leases: Leases,
    runtime: Handle,
    is_gone: AtomicBool,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peers({})", self.inner.who)
    }
}

impl Peers {
    /// Instances that share `store`. An answer is kept there for `keep`.
    pub fn new(store: Arc<dyn Store>, when_lost: WhenLost, keep: Duration, figures: SharedTurns) -> Peers {
        Peers::with_clock(store, when_lost, keep, figures, since_boot)
    }

    pub(super) fn with_clock(
        store: Arc<dyn Store>,
        when_lost: WhenLost,
        keep: Duration,
        figures: SharedTurns,
        clock: fn() -> Duration,
    ) -> Peers {
        let inner = Arc::new(Inner {
            store,
            who: uuid::Uuid::new_v4().simple().to_string(),
            terms: Terms { lease: LEASE, keep, most: Limits::default().answer },
            figures,
            when_lost,
            leases: Leases::new(clock),
            runtime: Handle::current(),
            is_gone: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEW).await;
                let Some(inner) = weak.upgrade() else { return };
                inner.renew().await;
            }
        });
        Peers { inner }
    }

    /// Takes the lock of `conversation`, waiting for it until `until`; `None` for not at all. `waits` is called
    /// once before a wait, and may forbid it. What comes may be nothing: where the store is gone, and this instance decides alone.
    pub(super) async fn lock(
        &self,
        conversation: &str,
        until: Option<Instant>,
        waits: impl FnOnce() -> Result<(), Busy>,
    ) -> Result<Option<Held>, Busy> {
        // Clients choose its length.
        let name = format!("turn:{}", hex(&Sha256::digest(conversation)[..16]));
        let mut waits = Some(waits);
        loop {
            match self.try_lock(name.clone()).await {
                Ok(Some(held)) => return Ok(Some(held)),
                Ok(None) => {}
                Err(error) if self.may_be_alone(&error) => return Ok(None),
                Err(error) => return Err(Busy::Unknown(error.0)),
            }
            let until = until.ok_or(Busy::Refused)?;
            if let Some(waits) = waits.take() {
                waits()?;
                self.inner.figures.waited.inc();
            }
            let left = until.saturating_duration_since(tokio::time::Instant::now().into_std());
            if left.is_zero() {
                return Err(Busy::TooLong);
            }
            tokio::time::sleep(pause().min(left)).await;
        }
    }

    async fn try_lock(&self, name: String) -> Result<Option<Held>, StoreError> {
        let peers = self.clone();
        let taken = async move {
            let asked = (peers.inner.leases.clock)();
            let fence = peers.inner.store.lock(name.clone(), LEASE).await?;
            Ok(fence.map(|fence| {
                let lease = peers.inner.leases.hold(What::Lock(name, fence), true, asked);
                Held { lease, peers, beside: None }
            }))
        };
        tokio::spawn(taken).await.unwrap_or_else(|error| Err(StoreError(error.to_string())))
    }

    /// Whose the answer of `key` is. Not to be dropped half-way.
    pub(super) async fn claim(
        &self,
        key: Key,
        again: Option<Asked>,
    ) -> Result<(Claimed, Duration), StoreError> {
        let inner = &self.inner;
        let asked = (inner.leases.clock)();
        let (exact, loose) = (hex(&key.exact), key.loose.map(|it| hex(&it)));
        let claim = Claim { exact, loose, who: inner.who.clone(), again };
        Ok((inner.store.claim(claim, inner.terms).await?, asked))
    }

    /// Holds an answer that was claimed at `asked`, to write it or to read it.
    pub(super) fn hold(
        &self,
        answer: Fence,
        attended: Arc<dyn Attended>,
        writes: bool,
        asked: Duration,
    ) -> Arc<Lease> {
        self.inner.leases.hold(What::Answer(answer, attended), writes, asked)
    }

    /// Whether this instance may decide alone, now that the store has failed with `error`.
    pub(super) fn may_be_alone(&self, error: &StoreError) -> bool {
        let inner = &self.inner;
        if !inner.is_gone.swap(true, Ordering::AcqRel) {
            let then = match inner.when_lost {
                WhenLost::Refuse => "turns are refused",
                WhenLost::Alone => "this instance decides alone",
            };
            tracing::warn!(%error, "the shared store cannot be reached: {then} until it is back");
        }
        let alone = inner.when_lost == WhenLost::Alone;
        if alone {
            inner.figures.alone.inc();
        }
        alone
    }

    /// Tells the store who reads an answer here, as is done every [`RENEW`] anyway, but now. Says whether the store
    /// knows it, if it could be asked.
    pub(super) async fn note(&self, lease: &Lease) -> Option<bool> {
        let (inner, note) = (&self.inner, lease.note()?);
        inner.store.note(inner.who.clone(), vec![note], inner.terms).await.ok()?.first().copied()
    }

    /// The next one who asks for this answer begins a new one.
    pub(super) async fn forget(&self, answer: Fence) {
        let _ = self.inner.store.forget(answer).await;
    }

    /// As [`Peers::forget`], by itself.
    pub(super) fn forget_soon(&self, answer: Fence) {
        let peers = self.clone();
        self.inner.runtime.spawn(async move { peers.forget(answer).await });
    }
}

impl Inner {
    /// Confirms all that is held.
    async fn renew(&self) {
        let held = self.leases.held();
        let (mut locks, mut lock_leases) = (Vec::new(), Vec::new());
        let (mut notes, mut note_leases) = (Vec::new(), Vec::new());
        for lease in &held {
            match (&lease.what, lease.note()) {
                (What::Lock(name, fence), _) => {
                    locks.push((name.clone(), *fence));
                    lock_leases.push(lease);
                }
                (_, Some(note)) => {
                    notes.push(note);
                    note_leases.push(lease);
                }
                _ => {}
            }
        }
        let asked = (self.leases.clock)();
        // With nothing to hold this is how the end of an outage is noticed.
        let (locks, notes) = tokio::join!(
            self.store.renew(locks, LEASE),
            self.store.note(self.who.clone(), notes, self.terms)
        );
        let (locks, notes) = match (locks, notes) {
            (Ok(locks), Ok(notes)) => (locks, notes),
            (Err(error), _) | (_, Err(error)) => {
                unsettled(&held, self.when_lost == WhenLost::Alone);
                if !held.is_empty() && !self.is_gone.swap(true, Ordering::AcqRel) {
                    tracing::warn!(%error, "the shared store cannot be reached: what runs goes on");
                }
                return;
            }
        };
        if self.is_gone.swap(false, Ordering::AcqRel) {
            tracing::info!("the shared store is back");
        }
        let lost = settle(&lock_leases, &locks, asked) + settle(&note_leases, &notes, asked);
        if lost > 0 {
            self.figures.leases_lost.inc_by(lost as u64);
            tracing::warn!(lost, "leases ran out while they were held: what has not left will not");
        }
    }
}

/// A lock of the store, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    pub lease: Arc<Lease>,
    peers: Peers,
    /// What is let go after it.
    beside: Option<Box<dyn Any + Send + Sync>>,
}

impl Held {
    /// Lets go of `it` when the lock has been given back: who waits for it here then finds that free.
    pub fn before(mut self, it: impl Any + Send + Sync) -> Held {
        self.beside = Some(Box::new(it));
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.lease.give_up() {
            self.peers.inner.figures.leases_lost.inc();
        }
        let What::Lock(name, fence) = &self.lease.what else { return };
        let (name, fence, beside) = (name.clone(), *fence, self.beside.take());
        let store = self.peers.inner.store.clone();
        self.peers.inner.runtime.spawn(async move {
            // If it fails, the lease ends by itself.
            let _ = store.unlock(name, fence).await;
            drop(beside);
        });
    }
}

/// A while that is not the same for two who wait.
pub(super) fn pause() -> Duration {
    let [least, most] = LOOK;
    let part = getrandom::u32().unwrap_or_default();
    least + (most - least) * (part >> 16) / (1 << 16)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
