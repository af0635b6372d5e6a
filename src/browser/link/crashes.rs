//! Tabs whose renderer is gone: what is asked of one is never answered, so nobody may wait for it.
//!
//! A tab can crash before we are attached to it, when nobody knows yet what it is for: the browser may give it a
//! renderer that is just dying.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::{LinkError, TabId};

/// Those that have crashed and are not closed. One that is loaded again stays among them.
#[derive(Clone, Default)]
pub(super) struct Crashes(Arc<watch::Sender<HashSet<TabId>>>);

impl Crashes {
    /// It crashed.
    pub fn note(&self, tab: &TabId) {
        self.0.send_modify(|all| {
            all.insert(tab.clone());
        });
    }

    /// It is gone.
    pub fn forget(&self, tab: &TabId) {
        self.0.send_if_modified(|all| all.remove(tab));
    }

    /// What comes of `work` on a new tab, which ends with its crash.
    pub async fn unless<T>(
        &self,
        tab: &TabId,
        work: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let mut all = self.0.subscribe();
        tokio::select! {
            biased;
            _ = all.wait_for(|all| all.contains(tab)) => Err(LinkError::Crashed),
            done = work => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_a_tab_that_crashed_before_or_meanwhile() {
        let crashes = Crashes::default();
        let [before, meanwhile, well] = ["a", "b", "c"].map(|it| TabId(it.to_owned()));
        crashes.note(&before);
        let never = std::future::pending::<Result<(), LinkError>>;
        assert!(matches!(crashes.unless(&before, never()).await, Err(LinkError::Crashed)));
        let waits = crashes.unless(&meanwhile, never());
        let (waited, ()) = tokio::join!(waits, async { crashes.note(&meanwhile) });
        assert!(matches!(waited, Err(LinkError::Crashed)));
        assert!(crashes.unless(&well, async { Ok(()) }).await.is_ok());
        crashes.forget(&before);
        assert!(crashes.unless(&before, async { Ok(()) }).await.is_ok());
    }
}
