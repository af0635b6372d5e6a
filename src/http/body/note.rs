//! How a translated answer failed, for the log: a client that is told in its own format sees a clean end, and
//! so would everything between it and the body.

use std::sync::{Arc, OnceLock};

use super::Cut;

/// Written by a body, read by the journal when the answer is over. Clones are the same note.
#[derive(Clone, Debug, Default)]
pub struct Note(Arc<OnceLock<Cut>>);

impl Note {
    /// It failed like this; the first failure counts.
    pub fn write(&self, cut: Cut) {
        let _ = self.0.set(cut);
    }

    /// How it failed, if it did.
    pub fn read(&self) -> Option<&Cut> {
        self.0.get()
    }
}
