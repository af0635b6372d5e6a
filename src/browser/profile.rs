//! The profile directory: what a new one starts from, and who holds it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;

/// Our lock, in the profile.
const LOCK: &str = "tabproxy.lock";

/// Gives a new profile its first preferences (see `browser-profile/`); leaves an existing one alone.
pub(super) fn seed(profile: &Path) -> io::Result<()> {
    let preferences = profile.join("Default/Preferences");
    if preferences.exists() {
        return Ok(());
    }
    let dir = profile.join("Default");
    private_dir(&dir)?;
    // In one step, so that a full disk does not leave half of them behind for good.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(include_bytes!("../../browser-profile/preferences.json"))?;
    file.persist(preferences)?;
    Ok(())
}

/// An empty directory for the browser's temporary files, the same one for each start on this profile.
/// Short, because Chromium puts a Unix socket into it, whose path is limited to 107 bytes.
pub(super) fn scratch(profile: &Path) -> io::Result<PathBuf> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    profile.hash(&mut hasher);
    let dir = std::env::temp_dir().join(format!("tabproxy-{:08x}", hasher.finish() as u32));
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    private_dir(&dir)?;
    Ok(dir)
}

/// Moves a damaged profile out of the way, so that a new one can take its place; returns where it is now.
/// Its lock stays: it is ours, and held.
pub(super) fn set_aside(profile: &Path) -> io::Result<PathBuf> {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut name = profile.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{}", seconds.as_secs()));
    let aside = profile.with_file_name(name);
    private_dir(&aside)?;
    for entry in fs::read_dir(profile)? {
        let name = entry?.file_name();
        if name != LOCK {
            fs::rename(profile.join(&name), aside.join(&name))?;
        }
    }
    Ok(aside)
}

/// Waits until no browser holds the profile any more: one that was killed takes a moment to go. Gives up
/// after some seconds, since the next browser will say itself that it cannot have it.
pub(super) async fn released(profile: &Path) {
    for _ in 0..100 {
        if live_owner(profile).is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Another tabproxy has it.
    #[error(
        "profile {0} is in use by another tabproxy; stop it, or set TABPROXY_PROFILE to another directory"
    )]
    Ours(PathBuf),
    /// A browser that somebody else started has it.
    #[error(
        "profile {0} is open in a running browser (pid {1}); close it, or set TABPROXY_PROFILE to another directory"
    )]
    Browser(PathBuf, i32),
    /// It cannot be written.
    #[error(
        "cannot write to profile {0}: {1}; make it writable for user {2}, or set TABPROXY_PROFILE to another directory"
    )]
    Unwritable(PathBuf, io::Error, u32),
}

/// Our hold on a profile, for as long as this lives.
#[derive(Debug)]
pub struct ProfileLock {
    file: File,
}

impl Drop for ProfileLock {
    fn drop(&mut self) {
        // To close it would not do: a child that is just being started has it open too, until it runs its own program.
        let _ = self.file.unlock();
    }
}

impl ProfileLock {
    /// Takes the profile, or says who has it. Marks that a dead browser left behind are removed: Chromium
    /// itself gives up on those that name another host, as after a container was replaced.
    pub fn take(profile: &Path) -> Result<ProfileLock, ProfileError> {
        let user = rustix::process::geteuid().as_raw();
        let unwritable = |e| ProfileError::Unwritable(profile.to_owned(), e, user);
        private_dir(profile).map_err(unwritable)?;
        let path = profile.join(LOCK);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(unwritable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(ProfileError::Ours(profile.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(unwritable(error)),
        }
        if let Some(pid) = live_owner(profile) {
            return Err(ProfileError::Browser(profile.to_owned(), pid));
        }
        for mark in ["SingletonLock", "SingletonSocket", "SingletonCookie"] {
            match fs::remove_file(profile.join(mark)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(error)),
                _ => {}
            }
        }
        Ok(ProfileLock { file })
    }
}

/// The process that Chromium's own mark names, if it lives on this host. The mark is a symbolic link to
/// `host-pid`.
fn live_owner(profile: &Path) -> Option<i32> {
    let mark = fs::read_link(profile.join("SingletonLock")).ok()?;
    let (host, pid) = mark.to_str()?.rsplit_once('-')?;
    let pid: i32 = pid.parse().ok()?;
    let here = rustix::system::uname();
    if here.nodename().to_str() != Ok(host) {
        return None;
    }
    let exists = rustix::process::test_kill_process(Pid::from_raw(pid)?).is_ok();
    (exists && !is_zombie(pid)).then_some(pid)
}

/// Whether a process has ended and nobody has asked how: after the death of its parent in a container without
/// an init, that may be so for ever.
fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
