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

/// How much room there is, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// In all.
    pub size: u64,
    /// Of that, what is free.
    pub free: u64,
}

/// Looks how much room there is; an error says in words why it cannot be used.
pub fn room() -> Result<Room, String> {
    room_in(Path::new(PLACE))
}

/// Says why a browser must do without it, if it must.
pub fn complaint_about(room: &Result<Room, String>) -> Option<String> {
    match room {
        Err(error) => Some(error.clone()),
        Ok(room) => (room.free < ENOUGH).then(|| format!("{PLACE} has only {} MiB free", room.free >> 20)),
    }
}

fn room_in(place: &Path) -> Result<Room, String> {
    let unusable = |error| format!("{} cannot be used: {error}", place.display());
    access(place, Access::WRITE_OK | Access::EXEC_OK).map_err(unusable)?;
    let stat = statvfs(place).map_err(unusable)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Room { size: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_missing_or_cannot_be_written_is_complained_of() {
        let complaint = |place: &str| complaint_about(&room_in(Path::new(place))).unwrap();
        let missing = complaint("/nowhere/shm");
        assert!(missing.starts_with("/nowhere/shm cannot be used: "), "{missing}");
        // A file system without any room.
        let full = complaint("/proc/self");
        assert!(full.contains("/proc/self") || full.contains("0 MiB free"), "{full}");
    }
}
