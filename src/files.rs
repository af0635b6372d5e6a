//! Small private files that a person or another program changes while we run: read whole, looked at again now
//! and then, and replaced whole.
//!
//! A file that cannot be read, or holds what cannot be meant, changes nothing: what was read last goes on, and
//! one line of the log says so. Knows nothing of what is in a file; of that, no error says more than the place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

/// Nobody needs a longer name, and it is a label.
const LONGEST_NAME: usize = 64;
/// Nothing that belongs here is larger.
const LARGEST: u64 = 4 << 20;

/// Why a file cannot be used; names it, and never repeats what it holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct FileError {
    path: String,
    why: String,
}

impl FileError {
    /// Says why `path` cannot be used.
    pub fn new(path: &Path, why: impl ToString) -> FileError {
        FileError { path: path.display().to_string(), why: why.to_string() }
    }
}

/// Makes what is worked with out of what is written; the error is one sentence without a secret.
type Make<F, T> = fn(F) -> Result<T, String>;

/// When a file was written, as far as that can be seen.
type Stamp = (i64, i64, u64, u64);

/// A file that is looked at again and again; `F` is how it is written, `T` what is made of it.
#[derive(Debug)]
pub struct Watched<F, T> {
    path: PathBuf,
    make: Make<F, T>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Option<Stamp>>,
}

impl<F: DeserializeOwned, T> Watched<F, T> {
    /// Reads `path` for the first time.
    ///
    /// # Errors
    /// When it cannot be read, is no JSON of this form, or `make` refuses it.
    pub fn open(path: &Path, make: Make<F, T>) -> Result<Watched<F, T>, FileError> {
        let seen = stamp(path);
        let current = RwLock::new(Arc::new(make(read(path)?).map_err(|why| FileError::new(path, why))?));
        if fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o077 != 0) {
            tracing::warn!("{} can be read by others: chmod 600 it", path.display());
        }
        Ok(Watched { path: path.to_owned(), make, current, seen: Mutex::new(seen) })
    }

    /// The same for a file that may still have to be made: until then it holds nothing.
    ///
    /// # Errors
    /// As [`Watched::open`].
    pub fn expect(path: &Path, make: Make<F, T>) -> Result<Watched<F, T>, FileError>
    where
        F: Default,
    {
        if path.exists() {
            return Watched::open(path, make);
        }
        let current = make(F::default()).map_err(|why| FileError::new(path, why))?;
        let (current, seen) = (RwLock::new(Arc::new(current)), Mutex::new(None));
        Ok(Watched { path: path.to_owned(), make, current, seen })
    }

    /// What was last read well.
    pub fn get(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it again if it has been written since the last look. Says whether there is something new.
    pub fn look(&self) -> bool {
        let now = stamp(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return false;
        }
        *seen = now;
        let read =
            read(&self.path).and_then(|it| (self.make)(it).map_err(|why| FileError::new(&self.path, why)));
        match read {
            Ok(new) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                tracing::info!("{} was read again", self.path.display());
                true
            }
            Err(error) => {
                tracing::error!("{error}; what was read before stays in use");
                false
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let it = fs::metadata(path).ok()?;
    Some((it.mtime(), it.mtime_nsec(), it.len(), it.ino()))
}

/// Reads a JSON file whole.
///
/// # Errors
/// When it cannot be read, is too large, or is no JSON of this form.
pub fn read<F: DeserializeOwned>(path: &Path) -> Result<F, FileError> {
    let fail = |why: String| FileError::new(path, why);
    let size = fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if size > LARGEST {
        return Err(fail(format!("it has {size} bytes, and {LARGEST} are the most")));
    }
    let bytes = fs::read(path).map_err(|e| fail(e.to_string()))?;
    // serde's own words may repeat a value, which may be a secret.
    serde_json::from_slice(&bytes).map_err(|e| fail(format!("line {} is not what belongs there", e.line())))
}

/// Changes a JSON file, or makes one, readable by its owner only. All or nothing, and one at a time.
///
/// # Errors
/// When it cannot be read or written, or `change` refuses.
pub fn update<F, R>(path: &Path, change: impl FnOnce(&mut F) -> Result<R, String>) -> Result<R, FileError>
where
    F: Default + Serialize + DeserializeOwned,
{
    let fail = |error: io::Error| FileError::new(path, error);
    fs::create_dir_all(directory(path)).map_err(fail)?;
    // The file itself is replaced, so the lock is on one beside it.
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&beside).map_err(fail)?;
    lock.lock().map_err(fail)?;
    let mut content = if path.exists() { read(path)? } else { F::default() };
    let changed = change(&mut content).map_err(|why| FileError::new(path, why))?;
    replace(path, &content).map_err(fail)?;
    Ok(changed)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn replace(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let dir = directory(path);
    let mut file = NamedTempFile::new_in(dir)?; // made with mode 0600
    // What root writes is for the one whose file or directory it is: a service has a user of its own.
    let of = fs::metadata(path).or_else(|_| fs::metadata(dir))?;
    if file.as_file().metadata()?.uid() != of.uid() {
        fchown(file.as_file(), Some(of.uid()), Some(of.gid())).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Ok(()), // not root: as before, it is ours
            _ => Err(error),
        })?;
    }
    serde_json::to_writer_pretty(&mut file, content)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

/// Whether this may be the name of a key or an account: it is shown in lists, logs and metrics.
///
/// # Errors
/// One sentence that says what is wrong.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.@+".contains(c);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_plain) {
        return Err(format!(
            "a name has 1 to {LONGEST_NAME} letters, digits, or any of - _ . @ +, and {:?} does not",
            name.chars().take(LONGEST_NAME).collect::<String>()
        ));
    }
    // A key or token by mistake would be shown to everybody who reads the list.
    if name.starts_with("tp-") || name.starts_with("eyJ") || name.starts_with("sk-") {
        return Err("a name must not look like a key or a token".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(numbers: Vec<u32>) -> Result<u32, String> {
        if numbers.contains(&13) { Err("it has a 13".into()) } else { Ok(numbers.iter().sum()) }
    }

    #[test]
    fn a_damaged_file_changes_nothing_and_a_whole_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(Watched::open(&path, make).unwrap_err().to_string().contains("file: No such file"));
        fs::write(&path, "[1, 2").unwrap();
        assert!(Watched::open(&path, make).unwrap_err().to_string().contains("line 1"));
        fs::write(&path, "[1, 2]").unwrap();
        let file = Watched::open(&path, make).unwrap();
        assert_eq!((*file.get(), file.look()), (3, false));
        for damaged in ["[1, 2, \"secret\"]", "[13]"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!((file.look(), *file.get()), (false, 3));
        }
        fs::remove_file(&path).unwrap();
        assert_eq!((file.look(), *file.get()), (false, 3));
        fs::write(&path, "[4, 5, 6]").unwrap();
        assert_eq!((file.look(), *file.get(), file.look()), (true, 15, false));
    }

    #[test]
    fn what_root_writes_belongs_to_whom_the_directory_does() {
        let dir = tempfile::tempdir().unwrap();
        let us = fs::metadata(dir.path()).unwrap().uid();
        let other = if rustix::process::geteuid().is_root() { 1234 } else { us };
        std::os::unix::fs::chown(dir.path(), Some(other), None).unwrap();
        let path = dir.path().join("file");
        for _ in 0..2 {
            update(&path, |numbers: &mut Vec<u32>| {
                numbers.push(1);
                Ok::<_, String>(())
            })
            .unwrap();
            let seen = fs::metadata(&path).unwrap();
            assert_eq!((seen.uid(), seen.permissions().mode() & 0o777), (other, 0o600));
        }
    }

    #[test]
    fn an_error_repeats_nothing_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "[1,\n\"canary\"]").unwrap();
        let error = read::<Vec<u32>>(&path).unwrap_err().to_string();
        assert!(error.ends_with("line 2 is not what belongs there"), "{error}");
    }

    #[test]
    fn changes_at_the_same_time_are_all_kept_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    update(path, |all: &mut Vec<u32>| {
                        all.push(n);
                        Ok(())
                    })
                    .unwrap();
                });
            }
        });
        let mut all: Vec<u32> = read(&path).unwrap();
        all.sort_unstable();
        assert_eq!(all, (0..8).collect::<Vec<_>>());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = update(&path, |_: &mut Vec<u32>| Err::<(), _>("no".into())).unwrap_err();
        assert!(refused.to_string().ends_with(": no"));
    }
}
