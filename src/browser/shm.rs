//! Whether `/dev/shm` is fit for a browser.
//!
//! Chromium's processes share pictures and buffers there, and crash where it is full: Docker gives a container
//! 64 MB. Chromium can keep them in files of its temporary directory instead, which is slower. It must not know
//! how a browser is told so.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};

/// Where Linux keeps shared memory.
const PLACE: &str = "/dev/shm";
/// A browser with a few pages needs less than this; more than half of it is for what nobody expects.
const ENOUGH: u64 = 256 << 20;

/// Says why a browser must do without it, if it must.
pub(super) fn complaint() -> Option<String> {
    complaint_about(Path::new(PLACE))
}

fn complaint_about(place: &Path) -> Option<String> {
    let shown = place.display();
    if let Err(error) = access(place, Access::WRITE_OK | Access::EXEC_OK) {
        return Some(format!("{shown} cannot be used: {error}"));
    }
    let free = match statvfs(place) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => return Some(format!("{shown} cannot be used: {error}")),
    };
    (free < ENOUGH).then(|| format!("{shown} has only {} MiB free", free >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_missing_or_cannot_be_written_is_complained_of() {
        let missing = complaint_about(Path::new("/nowhere/shm")).unwrap();
        assert!(missing.starts_with("/nowhere/shm cannot be used: "), "{missing}");
        // A file system without any room.
        let full = complaint_about(Path::new("/proc/self")).unwrap();
        assert!(full.contains("/proc/self"), "{full}");
    }
}
