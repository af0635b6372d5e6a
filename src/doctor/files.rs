//! The profile and its lock, and the files that are written beside it.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::finding::Finding;
use super::instance::Running;
use crate::access::{self, AccessKeys};
use crate::accounts;
use crate::browser::profile::{ProfileError, ProfileLock};
use crate::config::{Config, Problem};
use crate::files::FileError;

/// The lock of each profile, taken for a moment: the worst of them.
pub fn lock(config: &Config, running: &Running) -> Finding {
    let judge = |profile: &PathBuf| judge_lock(ProfileLock::take(profile).map(drop), profile, running);
    let all = config.profiles();
    let worst = all.iter().map(judge).reduce(|worst, it| if it.state > worst.state { it } else { worst });
    worst.unwrap_or_else(|| Finding::green("profile", "none is needed"))
}

fn judge_lock(taken: Result<(), ProfileError>, profile: &Path, running: &Running) -> Finding {
    const NAME: &str = "profile";
    let shown = profile.display();
    match taken {
        Ok(()) => Finding::green(NAME, format!("{shown} is free")),
        Err(ProfileError::Ours(_)) if running.is_ready() => {
            Finding::green(NAME, format!("{shown} is in use, by a tabproxy that runs and is ready"))
        }
        Err(ProfileError::Ours(_)) if running.is_tabproxy() => Finding::yellow(
            NAME,
            format!("{shown} is in use by a tabproxy that is not ready"),
            "see the check named instance; only one can have the profile",
        ),
        Err(error @ ProfileError::Ours(_)) => {
            let (what, remedy) = told(&error);
            Finding::yellow(
                NAME,
                format!("{what}, which does not answer at the address to listen on"),
                remedy,
            )
        }
        Err(error) => {
            let (what, remedy) = told(&error);
            Finding::red(NAME, what, remedy)
        }
    }
}

/// What is wrong with a profile and what to do: the error's text ends with its remedy, after the semicolon.
pub fn told(error: &ProfileError) -> (String, String) {
    let text = error.to_string();
    let (what, remedy) = text.rsplit_once("; ").unwrap_or((&text, "set it to a directory of yours"));
    (what.to_owned(), remedy.to_owned())
}

/// What must be written: the profile and what is kept beside it, the log, the keys and the accounts.
pub fn writing(config: &Config, wrong: impl Fn(&str) -> bool) -> Vec<Finding> {
    const NAME: &str = "files";
    let mut findings = Vec::new();
    let user = rustix::process::geteuid().as_raw();
    if !wrong("TABPROXY_PROFILE") {
        // The session and the conversations lie beside the profile, so that they outlive it.
        let beside = config.profile.parent().unwrap_or(&config.profile);
        for (dir, what) in [(config.profile.as_path(), "the profile"), (beside, "the saved session")] {
            if let Err(error) = try_dir(dir) {
                let text = format!("{what} cannot be written to {}: {error}", dir.display());
                let remedy = format!(
                    "make it writable for user {user} (chown, or mount the volume for writing), or set TABPROXY_PROFILE"
                );
                findings.push(Finding::red(NAME, text, remedy));
                break;
            }
        }
    }
    if let Some(path) = &config.log_file
        && let Err(problem) = try_log(path)
    {
        findings.push(Finding::of(NAME, &problem));
    }
    for (_, file) in stored(config) {
        match file {
            Err(problem) => findings.push(Finding::of(NAME, &problem)),
            Ok((path, _)) if !can_replace(&path) => findings.push(Finding::yellow(
                NAME,
                format!("{} cannot be written: keys and tokens cannot be changed from here", path.display()),
                format!("let user {user} write to its directory, if that is wanted"),
            )),
            Ok(_) => {}
        }
    }
    if findings.is_empty() {
        let with = if config.log_file.is_some() { ", the log" } else { "" };
        findings
            .push(Finding::green(NAME, format!("the profile{with} and what is beside it can be written")));
    }
    findings
}

/// Whether files can be made there; leaves nothing behind. A directory that is still to be made, is.
fn try_dir(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    tempfile::Builder::new().prefix(".tabproxy-doctor").tempfile_in(dir).map(drop)
}

/// Whether a file can be put in the place of this one: it is replaced in one step.
fn can_replace(path: &Path) -> bool {
    let dir = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    access(dir, Access::WRITE_OK).is_ok()
}

/// A file and how many entries it has, or what is wrong with it.
pub type Stored = Result<(PathBuf, usize), Problem>;

/// The files of keys and accounts that are named, by what they hold: the path, and how many; or what is wrong.
pub fn stored(config: &Config) -> Vec<(&'static str, Stored)> {
    let of = |variable: &'static str, path: &Path, count: Result<usize, FileError>| {
        count.map(|count| (path.to_owned(), count)).map_err(|error| {
            let flag = variable.trim_start_matches("TABPROXY_").to_lowercase().replace('_', "-");
            let what = format!("{variable} (--{flag}): {error}");
            let remedy = "correct it, or make one (`tabproxy key new` for keys)".into();
            Problem { variable, what, remedy }
        })
    };
    let keys = config.keys_file.as_deref().map(|path| of("TABPROXY_KEYS_FILE", path, keys_in(path)));
    let accounts =
        config.accounts_file.as_deref().map(|path| of("TABPROXY_ACCOUNTS_FILE", path, accounts_in(path)));
    keys.map(|it| ("keys", it)).into_iter().chain(accounts.map(|it| ("accounts", it))).collect()
}

fn keys_in(path: &Path) -> Result<usize, FileError> {
    AccessKeys::open(Some(path))?;
    if path.exists() { access::list(path).map(|it| it.len()) } else { Ok(0) }
}

fn accounts_in(path: &Path) -> Result<usize, FileError> {
    accounts::count(path)
}

/// Whether the log can be written; leaves no new file behind.
///
/// # Errors
/// It cannot.
pub fn try_log(path: &Path) -> Result<(), Problem> {
    let new = !path.exists();
    let opened = OpenOptions::new().append(true).create(true).open(path);
    let done = opened.and_then(|_| if new { std::fs::remove_file(path) } else { Ok(()) });
    done.map_err(|error| Problem {
        variable: "TABPROXY_LOG_FILE",
        what: format!("TABPROXY_LOG_FILE (--log-file): cannot write to {}: {error}", path.display()),
        remedy: "name a file in a directory that you may write to".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Light::{Green, Red, Yellow};
    use super::*;

    #[test]
    fn a_lock_is_fine_where_a_healthy_tabproxy_has_it() {
        let judge = |taken, running| judge_lock(taken, Path::new("/p"), &running).state;
        let ours = || Err(ProfileError::Ours("/p".into()));
        let warming = Running::Tabproxy {
            is_ready: false,
            phase: "warming".into(),
            reason: String::new(),
            busy: (0, 0),
        };
        assert_eq!(judge(Ok(()), Running::Nobody), Green);
        assert_eq!(judge(ours(), Running::ready_for_tests()), Green);
        assert_eq!(judge(ours(), warming), Yellow);
        assert_eq!(judge(ours(), Running::Nobody), Yellow);
        assert_eq!(judge(Err(ProfileError::Browser("/p".into(), 7)), Running::ready_for_tests()), Red);
    }

    #[test]
    fn what_cannot_be_written_is_named_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::for_origin("https://site.test/".parse().unwrap());
        config.profile = dir.path().join("profile");
        config.log_file = Some(dir.path().join("log"));
        let all = writing(&config, |_| false);
        assert!(all.len() == 1 && all[0].state == Green, "{all:?}");
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().flatten().map(|it| it.file_name()).collect();
        assert_eq!(left, ["profile"]);

        std::fs::write(dir.path().join("file"), "").unwrap();
        config.profile = dir.path().join("file/profile");
        config.log_file = Some("/nowhere/log".into());
        config.accounts_file = Some("/nowhere/accounts.json".into());
        let all = writing(&config, |_| false);
        assert!(all.len() == 3 && all.iter().all(|it| it.state == Red), "{all:?}");
        assert!(all.iter().all(|it| it.remedy.is_some()));
    }
}
