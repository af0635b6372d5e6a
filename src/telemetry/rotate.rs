//! A log file that stays the same file and stays small: when it is full, its text is copied to `name.1`,
//! what was there to `name.2` and so on, and it begins anew.
//!
//! So whoever follows it with `tail -f` goes on following, and one file can be a container's volume. What
//! is no ordinary file (a pipe, `/dev/stdout`) is only written to. Knows nothing of what is written.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file that is written to.
#[derive(Debug)]
pub(super) struct RotatingFile {
    file: File,
    path: PathBuf,
    /// Bytes in it.
    length: u64,
    limit: u64,
    /// Older files that are kept.
    keep: usize,
    is_ordinary: bool,
}

impl RotatingFile {
    /// Opens or makes the file, which is appended to and readable by its owner only. It is rotated before it
    /// would have more than `limit` bytes; `keep` older files stay.
    ///
    /// # Errors
    /// When it cannot be opened; the message names it.
    pub fn open(path: &Path, limit: u64, keep: usize) -> io::Result<RotatingFile> {
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let file = opened.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open the log file {}: {error}", path.display()))
        })?;
        let metadata = file.metadata()?;
        let (length, is_ordinary) = (metadata.len(), metadata.is_file());
        Ok(RotatingFile { file, path: path.to_owned(), length, limit, keep, is_ordinary })
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }

    /// Moves the text on. The file is emptied whatever happens to the copy: its bound comes first.
    fn rotate(&mut self) -> io::Result<()> {
        if self.keep > 0 {
            // First what goes away, so that a full disk has room for the copy.
            let _ = fs::remove_file(self.numbered(self.keep));
            for number in (1..self.keep).rev() {
                let _ = fs::rename(self.numbered(number), self.numbered(number + 1));
            }
            let newest = self.numbered(1);
            if fs::copy(&self.path, &newest).is_err() {
                let _ = fs::remove_file(newest);
            }
        }
        self.file.set_len(0)?;
        self.length = 0;
        Ok(())
    }
}

/// Each write is a whole line: it is in the file in whole or not at all.
impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.is_ordinary && self.length > 0 && self.length + line.len() as u64 > self.limit {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(line) {
            if self.is_ordinary {
                // Half a line would spoil the next one too.
                let _ = self.file.set_len(self.length);
            }
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn line(n: usize) -> String {
        format!("line {n:04}\n")
    }

    #[test]
    fn size_and_number_are_bounded_and_no_line_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = RotatingFile::open(&path, 95, 2).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        for n in 0..25 {
            log.write_all(line(n).as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("a.log"), (18..25).map(line).collect::<String>());
        assert_eq!(read("a.log.1"), (9..18).map(line).collect::<String>());
        assert_eq!(read("a.log.2"), (0..9).map(line).collect::<String>());
        for n in 25..40 {
            log.write_all(line(n).as_bytes()).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(read("a.log.2"), (18..27).map(line).collect::<String>());
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "it is the same file");
        // A later start goes on with it.
        let again = RotatingFile::open(&path, 95, 2).unwrap();
        assert_eq!(again.length, fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn with_nothing_to_keep_it_just_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = RotatingFile::open(&path, 25, 0).unwrap();
        let mut follower = File::open(&path).unwrap();
        for n in 0..3 {
            log.write_all(line(n).as_bytes()).unwrap();
        }
        let mut text = String::new();
        follower.read_to_string(&mut text).unwrap();
        assert_eq!(text, line(2));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_is_only_written_to() {
        let mut full = RotatingFile::open(Path::new("/dev/full"), 1, 1).unwrap();
        assert_eq!(full.write_all(b"x\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        let mut null = RotatingFile::open(Path::new("/dev/null"), 1, 1).unwrap();
        (0..3).for_each(|_| null.write_all(b"x\n").unwrap());
        assert!(!fs::exists("/dev/null.1").unwrap());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named_and_one_that_can_is_private() {
        let missing = Path::new("/nowhere/at/all.log");
        let error = RotatingFile::open(missing, 1, 1).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all.log"), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let dir = tempfile::tempdir().unwrap();
        let log = RotatingFile::open(&dir.path().join("a.log"), 1, 1).unwrap();
        assert_eq!(log.file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
