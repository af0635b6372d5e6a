//! Keys and values in a file of its own (redb), which only its owner may read.
//!
//! The file is opened at the first use. One that is damaged is set aside and a new one begun: what is in it
//! can be done without. So is a file that cannot be had at all: then everything is kept in memory, and a line
//! in the log says so. The oldest entries make room for new ones.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::Embedded;
use crate::store::{Memory, StoreError};

/// Number of its entry, Unix seconds of its expiry, value.
type Entry = (u64, u64, &'static [u8]);
const ENTRIES: TableDefinition<'static, &[u8], Entry> = TableDefinition::new("entries");
/// Keys in the order in which they came.
const ORDER: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("order");

/// Pages of the file that are kept in memory, in bytes.
const CACHE: usize = 4 << 20;
/// Larger keys and values are not kept, in bytes.
const LARGEST: usize = 64 * 1024;

/// A file of them; clones are the same one.
#[derive(Clone)]
pub(super) struct File {
    path: PathBuf,
    most: u64,
    /// `None` before the first use, and after a failure.
    open: Arc<Mutex<Option<Database>>>,
}

impl File {
    /// Keeps at most `most` entries in the file at `path`. Nothing is opened yet.
    pub(super) fn new(path: PathBuf, most: u64) -> File {
        File { path, most: most.max(1), open: Arc::default() }
    }

    /// Does `work` with the open file, where blocking is allowed.
    async fn with<T: Send + 'static>(
        &self,
        work: impl Fn(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || this.work(&work)).await;
        match done {
            Ok(done) => done,
            // The library panics at some damage that it did not expect.
            Err(panic) => {
                let this = self.clone();
                let aside = tokio::task::spawn_blocking(move || {
                    let mut open = this.open.lock().unwrap_or_else(PoisonError::into_inner);
                    *open = None;
                    set_aside(&this.path, &panic);
                });
                let _ = aside.await;
                Err(StoreError("the store is damaged".into()))
            }
        }
    }

    fn work<T>(&self, work: &dyn Fn(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match &mut *open {
            Some(database) => database,
            closed => closed.insert(open_or_begin(&self.path)?),
        };
        work(database).map_err(|error| {
            // After a failure the library takes nothing more until it is opened again.
            *open = None;
            if matches!(error, redb::Error::Corrupted(_)) {
                set_aside(&self.path, &error);
            }
            StoreError(error.to_string())
        })
    }
}

impl Memory for Embedded {
    fn get(&self, key: Vec<u8>) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        let look = move |database: &Database| {
            let entries = database.begin_read()?.open_table(ENTRIES)?;
            let entry = entries.get(&*key)?;
            let entry = entry.as_ref().map(redb::AccessGuard::value);
            Ok(entry.filter(|(_, expiry, _)| *expiry > now()).map(|(_, _, value)| value.to_vec()))
        };
        self.file.with(look).boxed()
    }

    fn put(&self, key: Vec<u8>, value: Vec<u8>, lasts: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        let most = self.file.most;
        if key.len() + value.len() > LARGEST {
            return async { Err(StoreError("too large to be kept".into())) }.boxed();
        }
        let keep = move |database: &Database| {
            let writing = database.begin_write()?;
            {
                let (mut entries, mut order) = (writing.open_table(ENTRIES)?, writing.open_table(ORDER)?);
                let last = order.last()?.map_or(0, |(number, _)| number.value());
                let number = last + 1;
                let expiry = now().saturating_add(lasts.as_secs());
                let before = entries.insert(&*key, (number, expiry, &*value))?.map(|it| it.value().0);
                if let Some(before) = before {
                    order.remove(before)?;
                }
                order.insert(number, &*key)?;
                let mut count = redb::ReadableTableMetadata::len(&order)?;
                while count > most {
                    let oldest = order.pop_first()?.map(|(_, key)| key.value().to_vec());
                    if let Some(oldest) = oldest {
                        entries.remove(&*oldest)?;
                    }
                    count -= 1;
                }
            }
            writing.commit()?;
            Ok(())
        };
        self.file.with(keep).boxed()
    }
}

/// Opens the file, or begins a new one; without any, everything is kept in memory.
fn open_or_begin(path: &Path) -> Result<Database, StoreError> {
    let opened = open(path).or_else(|error| {
        set_aside(path, &error);
        open(path)
    });
    opened.or_else(|error| {
        tracing::warn!("conversations are remembered in memory only: {}: {error}", path.display());
        let memory = Builder::new().create_with_backend(InMemoryBackend::new());
        memory.map_err(redb::Error::from).and_then(begin).map_err(|error| StoreError(error.to_string()))
    })
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let mut database = Builder::new().set_cache_size(CACHE).create_file(file)?;
    if !database.check_integrity()? {
        tracing::info!("{} was not closed and has been mended", path.display());
    }
    begin(database)
}

/// Sees to it that there are tables, so that readers find them.
fn begin(database: Database) -> Result<Database, redb::Error> {
    let writing = database.begin_write()?;
    writing.open_table(ENTRIES)?;
    writing.open_table(ORDER)?;
    writing.commit()?;
    Ok(database)
}

/// Moves a damaged file out of the way.
fn set_aside(path: &Path, why: &dyn std::fmt::Display) {
    if !path.is_file() {
        return;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    match fs::rename(path, &aside) {
        Ok(()) => tracing::warn!(
            "the index of conversations is damaged ({why}): a new one is begun, the old one is {}",
            Path::new(&aside).display()
        ),
        Err(error) => tracing::warn!("{} is damaged and cannot be moved: {error}", path.display()),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LONG: Duration = Duration::from_secs(1000);

    async fn put(store: &Embedded, key: &str, value: &str) {
        store.put(key.into(), value.into(), LONG).await.unwrap();
    }

    async fn get(store: &Embedded, key: &str) -> Option<String> {
        store.get(key.into()).await.unwrap().map(|it| String::from_utf8(it).unwrap())
    }

    #[tokio::test]
    async fn what_is_kept_outlives_the_store_and_only_its_owner_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let store = Embedded::beside(&home.path().join("profile"), 10);
        assert_eq!(get(&store, "a").await, None);
        put(&store, "a", "one").await;
        put(&store, "a", "two").await;
        assert_eq!(get(&store, "a").await.as_deref(), Some("two"));
        store.put("b".into(), "x".into(), Duration::ZERO).await.unwrap();
        assert_eq!(get(&store, "b").await, None, "expired");
        drop(store);
        let path = home.path().join("profile.conversations.redb");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(get(&Embedded::new(path, 10), "a").await.as_deref(), Some("two"));
    }

    #[tokio::test]
    async fn the_oldest_make_room() {
        let home = tempfile::tempdir().unwrap();
        let store = Embedded::new(home.path().join("x"), 3);
        for key in ["a", "b", "a", "c", "d"] {
            put(&store, key, key).await;
        }
        for (key, is_there) in [("a", true), ("b", false), ("c", true), ("d", true)] {
            assert_eq!(get(&store, key).await.is_some(), is_there, "{key}");
        }
    }

    #[tokio::test]
    async fn a_damaged_file_is_set_aside_and_one_that_cannot_be_had_is_done_without() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x");
        let store = Embedded::new(path.clone(), 300);
        for n in 0..200 {
            put(&store, &n.to_string(), &"value".repeat(50)).await;
        }
        drop(store);
        let whole = fs::read(&path).unwrap();
        let mut torn = whole.clone();
        torn.iter_mut().skip(4096).for_each(|it| *it ^= 0x5a);
        for damaged in [b"no database at all".to_vec(), whole[..whole.len() / 3].to_vec(), torn] {
            fs::write(&path, &damaged).unwrap();
            let store = Embedded::new(path.clone(), 300);
            // The first use may be the one that finds the damage.
            let _ = store.put(b"k".to_vec(), b"v".to_vec(), LONG).await;
            put(&store, "k", "v").await;
            assert_eq!(get(&store, "k").await.as_deref(), Some("v"));
            assert_eq!(fs::read(home.path().join("x.damaged")).unwrap().len(), damaged.len());
        }
        let store = Embedded::new(home.path().join("none/there"), 3);
        put(&store, "k", "v").await;
        assert_eq!(get(&store, "k").await.as_deref(), Some("v"));
    }
}
