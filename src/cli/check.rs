//! `tabproxy check`: what will be used, and all that is wrong with it, before anything is served.
//!
//! The quick part of the doctor's examination: it uses the same looks.

use crate::browser::profile::ProfileLock;
use crate::config::{Problem, Settings};
use crate::doctor::{chromium, files, instance, shared};

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
        problems.extend(instance::try_port(&config).err().map(|(_, problem)| problem));
    }
    if !wrong(&problems, "TABPROXY_ORIGIN") {
        line("origin", &config.origin);
    }
    for address in &config.browser_ws {
        line("browser", &format!("{address} (runs elsewhere)"));
    }
    if !config.browser_ws.is_empty() {
        if !config.unused.is_empty() {
            let unused = config.unused.join(", ");
            line("careful", &format!("without effect on a browser that runs elsewhere: {unused}"));
        }
    } else if !wrong(&problems, "TABPROXY_BROWSER_WS") && !wrong(&problems, "TABPROXY_CHROMIUM") {
        match chromium::find(&config) {
            Ok((path, version)) => line("chromium", &format!("{} ({version})", path.display())),
            Err(problem) => problems.push(problem),
        }
    }
    if config.browser_ws.is_empty() {
        line("window", &if config.headless { "none (headless)" } else { "shown" });
    }
    if !wrong(&problems, "TABPROXY_PROFILE") {
        for profile in config.profiles() {
            line("profile", &profile.display());
            let Err(error) = ProfileLock::take(&profile) else { continue };
            let (what, remedy) = files::told(&error);
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
    for (name, file) in files::stored(&config) {
        match file {
            Ok((path, count)) => line(name, &format!("{} ({count})", path.display())),
            Err(problem) => problems.push(problem),
        }
    }
    if let Some(server) = &config.redis {
        match shared::probe(server) {
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
        problems.extend(files::try_log(path).err());
    }
    let ok = problems.is_empty();
    lines.extend(problems.iter().map(|it| format!("problem: {it}")));
    lines.push(if ok { "all is in place".into() } else { format!("problems: {}", problems.len()) });
    (lines, ok)
}

pub(super) fn problem(variable: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem { variable, what: what.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use super::*;
    use crate::access;

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
