//! `tabproxy check`: what will be used, and all that is wrong with it, before anything is served.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::access::{self, AccessKeys};
use crate::accounts;
use crate::browser::launch::{find_chromium, is_program};
use crate::browser::profile::ProfileLock;
use crate::config::{Config, Problem, RedisServer, Settings};
use crate::files::FileError;
use crate::store::Redis;

/// How long the browser may take to say its version.
const VERSION_WAIT: Duration = Duration::from_secs(10);

/// What `tabproxy check` prints, and whether everything is in place: what will be used, then every mistake.
///
/// It runs `<chromium> --version`, takes the profile and the port for a moment, and makes the profile
/// directory if it is missing.
pub fn check(settings: Settings, env: &impl Fn(&str) -> Option<String>) -> (Vec<String>, bool) {
    let (config, mut problems) = settings.examine(env);
    let wrong = |problems: &[Problem], variable: &str| problems.iter().any(|it| it.variable == variable);
    let mut lines = Vec::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| lines.push(format!("{name:<10} {value}"));

    if !wrong(&problems, "TABPROXY_LISTEN") {
        line("listen", &config.listen);
        if let Err(error) = TcpListener::bind(config.listen) {
            problems.push(unusable_port(&config, &error));
        }
    }
    if !wrong(&problems, "TABPROXY_ORIGIN") {
        line("origin", &config.origin);
    }
    if !wrong(&problems, "TABPROXY_CHROMIUM") {
        match chromium(config.chromium.as_deref()) {
            Ok((path, version)) => line("chromium", &format!("{} ({version})", path.display())),
            Err(problem) => problems.push(problem),
        }
    }
    line("window", &if config.headless { "none (headless)" } else { "shown" });
    if !wrong(&problems, "TABPROXY_PROFILE") {
        line("profile", &config.profile.display());
        if let Err(error) = ProfileLock::take(&config.profile) {
            // The error's text ends with its remedy, after the semicolon.
            let text = error.to_string();
            let (what, remedy) = text.rsplit_once("; ").unwrap_or((&text, "set it to a directory of yours"));
            problems.push(problem(
                "TABPROXY_PROFILE",
                format!("TABPROXY_PROFILE (--profile): {what}"),
                remedy,
            ));
        }
    }
    for (name, proxy) in [("https via", &config.proxy.https), ("http via", &config.proxy.http)] {
        match proxy {
            Some(proxy) if proxy.credentials.is_some() => line(name, &format!("{proxy} with a password")),
            Some(proxy) => line(name, proxy),
            None => {}
        }
    }
    for (variable, name, file) in [
        ("TABPROXY_KEYS_FILE", "keys", config.keys_file.as_deref().map(|path| (path, keys_in(path)))),
        (
            "TABPROXY_ACCOUNTS_FILE",
            "accounts",
            config.accounts_file.as_deref().map(|path| (path, accounts_in(path))),
        ),
    ] {
        match file {
            Some((path, Ok(count))) => line(name, &format!("{} ({count})", path.display())),
            Some((_, Err(error))) => {
                let flag = variable.trim_start_matches("TABPROXY_").to_lowercase().replace('_', "-");
                let remedy = "correct it, or make one (`tabproxy key new` for keys)";
                problems.push(problem(variable, format!("{variable} (--{flag}): {error}"), remedy));
            }
            None => {}
        }
    }
    if let Some(server) = &config.redis {
        match redis(server) {
            Ok(version) => line("redis", &format!("{server} ({version})")),
            Err((what, remedy)) => {
                line("redis", server);
                problems.push(problem("TABPROXY_REDIS", format!("TABPROXY_REDIS (--redis): {what}"), remedy));
            }
        }
    }
    line("paths", &config.allow_paths.join(","));
    if config.allow_paths.iter().any(|it| "/api/auth/session".starts_with(it.as_str())) {
        line(
            "careful",
            &"the paths include /api/auth/session, which hands the signed-in token to every holder of a key that opens it",
        );
    }
    let limits = format!(
        "{} at once, {} waiting up to {:?}, bodies up to {} bytes",
        config.max_inflight, config.queue, config.queue_wait, config.max_body
    );
    line("limits", &limits);
    if let Some(path) = &config.log_file {
        line("log file", &path.display());
        if let Err(error) = try_log(path) {
            let what = format!("TABPROXY_LOG_FILE (--log-file): cannot write to {}: {error}", path.display());
            problems.push(problem(
                "TABPROXY_LOG_FILE",
                what,
                "name a file in a directory that you may write to",
            ));
        }
    }
    let ok = problems.is_empty();
    lines.extend(problems.iter().map(|it| format!("problem: {it}")));
    lines.push(if ok { "all is in place".into() } else { format!("problems: {}", problems.len()) });
    (lines, ok)
}

pub(super) fn problem(variable: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem { variable, what: what.into(), remedy: remedy.into() }
}

fn unusable_port(config: &Config, error: &io::Error) -> Problem {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "stop the program that has the port, or choose another port",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 on",
        _ => "choose an address of this machine, such as 127.0.0.1:3000",
    };
    problem(
        "TABPROXY_LISTEN",
        format!("TABPROXY_LISTEN (--listen): cannot serve on {}: {error}", config.listen),
        remedy,
    )
}

/// The browser to run and its version.
fn chromium(named: Option<&Path>) -> Result<(PathBuf, String), Problem> {
    let of = |what: String, remedy: &str| problem("TABPROXY_CHROMIUM", what, remedy);
    let install = "install one (apt-get install chromium) or set TABPROXY_CHROMIUM to its path";
    let path = match named {
        Some(path) if is_program(path) => path.to_owned(),
        Some(path) => {
            let what = format!("TABPROXY_CHROMIUM (--chromium): {} is not a program", path.display());
            return Err(of(what, install));
        }
        None => find_chromium()
            .ok_or_else(|| of("TABPROXY_CHROMIUM (--chromium): no Chromium found".into(), install))?,
    };
    match version(&path) {
        Ok(version) => Ok((path, version)),
        Err(error) => {
            let what = format!("TABPROXY_CHROMIUM (--chromium): {} does not run: {error}", path.display());
            Err(of(what, "reinstall it, or set TABPROXY_CHROMIUM to a Chromium that runs"))
        }
    }
}

/// What `<program> --version` prints.
fn version(program: &Path) -> io::Result<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let (sender, said) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.take(4096).read_to_string(&mut text);
            let _ = sender.send(read.map(|_| text));
        });
    }
    let said = said.recv_timeout(VERSION_WAIT);
    let _ = child.kill();
    child.wait()?;
    let text = said.map_err(|_| io::Error::other("it does not say its version in time"))??;
    match text.trim() {
        "" => Err(io::Error::other("it says no version")),
        text => Ok(text.to_owned()),
    }
}

/// The version of the server, or why it will not do. On a thread and a runtime of its own: whoever checks may be
/// on one already, where nothing may wait.
fn redis(server: &RedisServer) -> Result<String, (String, String)> {
    let probe = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| (error.to_string(), "free some memory".to_owned()))?;
        runtime.block_on(Redis::probe(server))
    };
    let crashed = || Err(("the check broke off".to_owned(), "see what it says above".to_owned()));
    std::thread::scope(|threads| threads.spawn(probe).join().unwrap_or_else(|_| crashed()))
}

fn keys_in(path: &Path) -> Result<usize, FileError> {
    AccessKeys::open(Some(path))?;
    if path.exists() { access::list(path).map(|it| it.len()) } else { Ok(0) }
}

fn accounts_in(path: &Path) -> Result<usize, FileError> {
    accounts::count(path)
}

/// Whether the log can be written; leaves no new file behind.
fn try_log(path: &Path) -> io::Result<()> {
    let new = !path.exists();
    OpenOptions::new().append(true).create(true).open(path)?;
    if new { std::fs::remove_file(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for a browser that only says its version.
    fn fake_chromium(dir: &Path) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("chromium");
        std::fs::write(&path, "#!/bin/sh\necho Chromium 1.2.3\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn check_says_what_will_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let keys = dir.path().join("keys.json");
        access::add(&keys, None, Vec::new()).unwrap();
        let settings = Settings {
            listen: Some("127.0.0.1:0".into()),
            chromium: Some(fake_chromium(dir.path())),
            profile: Some(dir.path().join("profile").display().to_string()),
            https_proxy: Some("http://u:hunter2@h:1".into()),
            log_file: Some(log.display().to_string()),
            keys_file: Some(keys.display().to_string()),
            ..Settings::default()
        };
        let (lines, ok) = check(settings, &|_| None);
        let text = lines.join("\n");
        assert!(ok, "{text}");
        assert!(text.contains("Chromium 1.2.3") && text.contains("http://h:1 with a password"), "{text}");
        assert!(text.contains("keys.json (1)"), "{text}");
        assert!(!text.contains("hunter2") && !log.exists());
    }

    #[test]
    fn check_lists_everything_that_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let profile = dir.path().join("profile");
        let _held = ProfileLock::take(&profile).unwrap();
        let settings = Settings {
            listen: Some(taken.local_addr().unwrap().to_string()),
            chromium: Some("/nowhere/chromium".into()),
            profile: Some(profile.display().to_string()),
            queue: Some("many".into()),
            log_file: Some("/nowhere/log".into()),
            accounts_file: Some("/nowhere/accounts.json".into()),
            ..Settings::default()
        };
        let (lines, ok) = check(settings, &|_| None);
        let problems: Vec<_> = lines.iter().filter(|it| it.starts_with("problem: ")).collect();
        assert!(!ok);
        assert_eq!(problems.len(), 6, "{lines:#?}");
        assert!(problems.iter().all(|it| it.contains(" — ")), "{problems:#?}");
        assert!(problems.iter().any(|it| it.contains("apt-get install chromium")), "{problems:#?}");
    }
}
