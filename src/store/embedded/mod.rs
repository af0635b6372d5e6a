//! The store in this process, with a file of its own for what outlives it. Needs no server.

mod answers;
mod locks;
mod memory;
mod tallies;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use tallies::Counts;

/// A store in this process; clones are the same one.
#[derive(Clone)]
pub struct Embedded {
    file: memory::File,
    locks: Arc<locks::Table>,
    answers: Arc<answers::Shelf>,
    counts: Counts,
}

impl Embedded {
    /// Keeps at most `most` entries of memory in the file at `path`. Nothing is opened yet.
    pub fn new(path: PathBuf, most: u64) -> Embedded {
        Embedded {
            file: memory::File::new(path, most),
            locks: Arc::default(),
            answers: Arc::default(),
            counts: Counts::default(),
        }
    }

    /// The one that belongs to `profile`: its file is beside it, as the saved session is.
    pub fn beside(profile: &Path, most: u64) -> Embedded {
        let mut name = profile.file_name().unwrap_or_default().to_owned();
        name.push(".conversations.redb");
        Embedded::new(profile.with_file_name(name), most)
    }
}
