//! The one who has an answer made: it writes the log, and cannot leave it without an end.

use std::sync::Arc;

use super::leases::Lease;
use super::log::Log;
use super::peers::Peers;
use super::wire::Head;
use crate::error::{Fault, FaultKind};
use crate::exchange::Leave;

/// The task of writing an answer. If it is dropped before the end, the answer has failed.
#[derive(Debug)]
pub struct Writing<H: Head> {
    log: Arc<Log<H>>,
    shared: Option<(Peers, Arc<Lease>)>,
    has_begun: bool,
}

impl<H: Head> Writing<H> {
    pub(super) fn new(log: Arc<Log<H>>, shared: Option<(Peers, Arc<Lease>)>) -> Writing<H> {
        Writing { log, shared, has_begun: false }
    }

    /// Where it is written. From now on something may be sent.
    pub fn begin(&mut self) -> Arc<Log<H>> {
        self.has_begun = true;
        self.log.clone()
    }

    /// What says whether the answer is still this instance's to have made, where that can be lost.
    pub fn leave(&self) -> Option<Arc<dyn Leave>> {
        self.shared.as_ref().map(|(_, lease)| lease.clone() as Arc<dyn Leave>)
    }

    /// Whether it is read by another instance. If it is not, and is to be given up for that, whoever asks next
    /// begins anew.
    pub async fn is_read_elsewhere(&self, gives_up: bool) -> bool {
        let Some((peers, lease)) = &self.shared else { return false };
        let Some(answer) = lease.answer() else { return false };
        let inner = &peers.inner;
        let asked = inner.store.is_read_elsewhere(inner.who.clone(), answer, gives_up, inner.terms);
        asked.await.unwrap_or(false)
    }

    /// The log alone, for who writes it to no end.
    #[cfg(test)]
    pub(super) fn into_log(mut self) -> Arc<Log<H>> {
        let nothing = Arc::new(Log::new(super::Limits::default(), Arc::default()));
        std::mem::replace(&mut self.log, nothing)
    }
}

impl<H: Head> Drop for Writing<H> {
    fn drop(&mut self) {
        // The first end counts, so this is none where there is one.
        let fault = Fault::new(FaultKind::Internal, "The answer was dropped before its end.");
        self.log.finish(Err(if self.has_begun { fault.maybe_sent() } else { fault }));
    }
}
