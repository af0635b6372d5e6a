//! Which tabs of a browser that somebody else started are ours: their ids, in a file beside the profile.
//!
//! A tab of the site looks like one that the browser's owner has opened, so nothing but its id tells ours from
//! theirs; and the file outlives us, so that what we left behind when we were killed is found. Ids are random: in
//! another browser they mean nothing.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

/// So many are remembered, the newest: more than we ever have open, those too of a browser that is out of reach.
const MOST: usize = 100;

/// The tabs that we have opened and not closed.
#[derive(Debug)]
pub struct Claims {
    path: PathBuf,
    ids: Mutex<Vec<String>>,
}

impl Claims {
    /// Those that belong to `profile`, with what an earlier process has left there.
    pub fn beside(profile: &Path) -> Claims {
        let mut name = profile.file_name().unwrap_or_default().to_owned();
        name.push(".tabs");
        let path = profile.with_file_name(name);
        let ids = fs::read_to_string(&path).unwrap_or_default();
        Claims { path, ids: Mutex::new(ids.lines().map(str::to_owned).collect()) }
    }

    /// Whether it is ours.
    pub fn has(&self, id: &str) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|it| it == id)
    }

    /// It is ours from now on.
    pub fn add(&self, id: &str) {
        self.change(|ids| {
            ids.push(id.to_owned());
            ids.drain(..ids.len().saturating_sub(MOST));
        });
    }

    /// It is gone.
    pub fn remove(&self, id: &str) {
        self.change(|ids| ids.retain(|it| it != id));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<String>)) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut ids);
        if let Err(error) = self.write(&ids) {
            tracing::warn!(%error, "{} cannot be written: tabs may be left behind", self.path.display());
        }
    }

    fn write(&self, ids: &[String]) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(self.path.parent().unwrap_or(Path::new("/")))?;
        file.write_all(ids.join("\n").as_bytes())?;
        file.persist(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_has_opened_the_next_one_knows() {
        let dir = tempfile::tempdir().unwrap();
        let profile = dir.path().join("profile");
        let claims = Claims::beside(&profile);
        claims.add("A");
        claims.add("B");
        claims.remove("A");
        let next = Claims::beside(&profile);
        assert!(next.has("B") && !next.has("A") && !next.has(""));
        (0..2 * MOST).for_each(|n| next.add(&n.to_string()));
        assert!(!next.has("B") && next.has("150"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half written is left");
    }
}
