//! The program itself: starting, refusing to start with one clear line, and stopping.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tabproxy::practice::{Practice, PracticeArgs};
use tempfile::TempDir;

use crate::rig::{PATIENCE, client, eventually};

/// The program with an environment of nothing but `vars` and PATH.
fn tabproxy(args: &[&str], vars: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tabproxy"));
    command.args(args).env_clear().env("PATH", std::env::var("PATH").unwrap());
    command.envs(vars.iter().copied()).stdin(Stdio::null());
    command
}

fn output(args: &[&str], vars: &[(&str, &str)]) -> (Output, String) {
    let output = tabproxy(args, vars).output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8(said).unwrap())
}

#[test]
fn every_mistake_in_the_configuration_is_told_at_once() {
    let vars = [
        ("TABPROXY_LISTEN", "nowhere"),
        ("TABPROXY_ORIGIN", "ftp://x"),
        ("TABPROXY_MAX_INFLIGHT", "0"),
        ("TABPROXY_MAX_BODY", "much"),
        ("TABPROXY_SANDBOX", "maybe"),
        ("HTTPS_PROXY", "gopher://user:hunter2@proxy"),
        ("HOME", "/tmp"),
    ];
    for command in ["serve", "check"] {
        let (output, said) = output(&[command], &vars);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for (name, _) in &vars[..6] {
            assert_eq!(said.lines().filter(|it| it.contains(name)).count(), 1, "{name} in\n{said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn what_is_missing_or_taken_is_one_line_with_its_remedy() {
    let home = TempDir::new().unwrap();
    let profile = home.path().join("profile");
    fs::create_dir_all(&profile).unwrap();
    let dir = profile.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();

    let fails = |vars: &[(&str, &str)], words: &[&str]| {
        let vars = [&[("TABPROXY_PROFILE", dir), ("TABPROXY_LISTEN", "127.0.0.1:0")], vars].concat();
        let (output, said) = output(&["serve"], &vars);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let line = said.lines().last().unwrap();
        assert!(words.iter().all(|it| line.contains(it)), "{words:?} in {said}");
    };
    fails(&[("TABPROXY_CHROMIUM", "/nowhere/chromium")], &["/nowhere/chromium", "TABPROXY_CHROMIUM"]);
    fails(
        &[("PATH", "/nowhere"), ("TABPROXY_CHROMIUM", "/etc/passwd")],
        &["/etc/passwd", "not an executable"],
    );
    fails(&[("TABPROXY_LISTEN", &port)], &[&port, "TABPROXY_LISTEN"]);
    fails(&[("TABPROXY_LOG_FILE", "/nowhere/x.log")], &["/nowhere/x.log", "TABPROXY_LOG_FILE"]);

    // A browser that lives on this host has the profile: its mark stays. (Process 1 always lives.)
    symlink(format!("{host}-1"), profile.join("SingletonLock")).unwrap();
    fails(&[], &["open in a running browser", "TABPROXY_PROFILE"]);
    assert!(fs::symlink_metadata(profile.join("SingletonLock")).is_ok());
    fs::remove_file(profile.join("SingletonLock")).unwrap();

    let _held = tabproxy::browser::profile::ProfileLock::take(&profile).unwrap();
    fails(&[], &["in use by another tabproxy", "TABPROXY_PROFILE"]);
}

#[test]
fn help_names_every_variable() {
    let (output, said) = output(&["serve", "--help"], &[]);
    assert!(output.status.success());
    for name in [
        "LISTEN",
        "ORIGIN",
        "CHROMIUM",
        "CHROMIUM_ARGS",
        "PROFILE",
        "HEADLESS",
        "SANDBOX",
        "RESOLVE",
        "TRUST_CERT",
        "ALLOW_PATHS",
        "HOSTS",
        "MAX_INFLIGHT",
        "QUEUE",
        "QUEUE_WAIT",
        "MAX_BODY",
        "LOG_FILE",
        "LOG_SIZE",
        "LOG_KEEP",
        "LOG_FORMAT",
        "LOG",
        "DRAIN",
        "DRAIN_GRACE",
        "INSTANCE",
        "PING",
    ] {
        assert!(said.contains(&format!("TABPROXY_{name}")), "{name}");
    }
}

#[test]
fn check_passes_where_everything_is_there() {
    let home = TempDir::new().unwrap();
    let (output, said) =
        output(&["check"], &[("HOME", home.path().to_str().unwrap()), ("TABPROXY_LISTEN", "127.0.0.1:0")]);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("Chromium"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_takes_over_a_profile_of_a_replaced_container_and_leaves_nothing_behind() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let home = TempDir::new().unwrap();
    let cert = home.path().join("cert.pem");
    fs::write(&cert, site.cert_pem()).unwrap();
    let profile = home.path().join("profile");
    fs::create_dir_all(&profile).unwrap();
    symlink("another-container-77", profile.join("SingletonLock")).unwrap();
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let log = home.path().join("tabproxy.log");
    for last in [Signal::TERM, Signal::KILL] {
        let mut command = tabproxy(
            &["serve", "--listen", &listen.to_string()],
            &[
                ("TABPROXY_ORIGIN", &site.front_url()),
                ("TABPROXY_RESOLVE", &site.resolve()),
                ("TABPROXY_TRUST_CERT", cert.to_str().unwrap()),
                ("TABPROXY_PROFILE", profile.to_str().unwrap()),
                ("TABPROXY_LOG_FILE", log.to_str().unwrap()),
                ("TABPROXY_HEADLESS", "true"),
            ],
        );
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let client = client();
        let ready = async {
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
            loop {
                tick.tick().await;
                let asked = client.get(format!("http://{listen}/readyz")).send().await;
                if asked.is_ok_and(|it| it.status() == 200) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("ready");
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), last).unwrap();
        let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        if last == Signal::TERM {
            assert_eq!(status.code(), Some(0), "a clean stop");
        }
        let dir = format!("--user-data-dir={}", profile.display());
        eventually(|| browsers(&dir), Vec::is_empty).await;
    }
    let logged = fs::read_to_string(log).unwrap();
    assert!(logged.contains("warming -> ready"), "{logged}");
}

/// Processes with this argument.
fn browsers(argument: &str) -> Vec<String> {
    let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(|it| {
        let line = fs::read_to_string(it.path().join("cmdline")).ok()?;
        line.contains(argument).then_some(line)
    });
    lines.collect()
}
