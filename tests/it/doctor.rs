//! `tabproxy doctor`: what is fine is green, what is wrong is named with its remedy, and it always ends.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use serde_json::Value;
use tabproxy::practice::{Practice, PracticeArgs};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::nginx::{Nginx, Setup};
use crate::program::Program;
use crate::rig::{Rig, client};
use crate::ways;

/// Runs it in an environment of nothing but `vars` and PATH.
async fn run(args: &[&str], vars: &[(&str, &str)]) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tabproxy"));
    command.arg("doctor").args(args).env_clear().env("PATH", std::env::var("PATH").unwrap());
    command.env("TABPROXY_HEADLESS", "true").env("TABPROXY_LISTEN", "127.0.0.1:0");
    command.envs(vars.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let said = String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap();
    (output, said)
}

/// What it says of everything, as an object; the exit code fits it.
async fn examined(args: &[&str], vars: &[(&str, &str)]) -> Value {
    let (output, said) = run(&[args, &["--json"]].concat(), vars).await;
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    let is_red = report["verdict"] == "red";
    assert_eq!(output.status.code(), Some(i32::from(is_red)), "{report:#}");
    report
}

/// The state, the text and the remedy of the first check of this name.
fn check<'a>(report: &'a Value, name: &str) -> (&'a str, &'a str, &'a str) {
    let all = report["checks"].as_array().unwrap();
    let found = all.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"));
    let text = |part: &str| found[part].as_str().unwrap_or_default();
    (text("state"), text("text"), text("remedy"))
}

/// A practice site, and the settings that lead to it, with a profile of its own.
struct Place {
    site: Practice,
    home: TempDir,
}

impl Place {
    async fn new() -> Place {
        let site = Practice::start(PracticeArgs::default()).await.unwrap();
        let home = TempDir::new().unwrap();
        fs::write(home.path().join("cert.pem"), site.cert_pem()).unwrap();
        Place { site, home }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    /// These settings, and a browser that costs no time.
    async fn without_browser(&self, vars: &[(&str, &str)]) -> Value {
        self.examined(&[], &[&[("TABPROXY_CHROMIUM", "/nowhere/chromium")], vars].concat()).await
    }

    async fn examined(&self, args: &[&str], vars: &[(&str, &str)]) -> Value {
        let (origin, resolve) = (self.site.front_url(), self.site.resolve());
        let (cert, profile) = (self.path("cert.pem"), self.path("profile"));
        let own = [
            ("TABPROXY_ORIGIN", origin.as_str()),
            ("TABPROXY_RESOLVE", &resolve),
            ("TABPROXY_TRUST_CERT", &cert),
            ("TABPROXY_PROFILE", &profile),
        ];
        examined(args, &[&own[..], vars].concat()).await
    }
}

/// A program that a shell runs.
fn script(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_everything_is_in_place_nothing_is_red() {
    let place = Place::new().await;
    let report = place.examined(&[], &[]).await;
    assert_ne!(report["verdict"], "red", "{report:#}");
    let names: Vec<_> =
        report["checks"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "settings",
            "shm",
            "memory",
            "open files",
            "chromium",
            "launch",
            "way out",
            "dns",
            "origin",
            "clock",
            "profile",
            "files",
            "port",
            "instance"
        ]
    );
    for check in report["checks"].as_array().unwrap() {
        let keys: Vec<_> = check.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["name", "remedy", "state", "text"]);
        assert_eq!(check["remedy"].is_null(), check["state"] == "green", "{check}");
    }
    assert!(check(&report, "launch").1.contains("started without a window"), "{report:#}");
    let (state, text, _) = check(&report, "origin");
    assert!(state == "green" && text.contains("308, and leads on: https://practice.test"), "{text}");
    for name in ["settings", "chromium", "way out", "dns", "clock", "profile", "files", "port", "instance"] {
        assert_eq!(check(&report, name).0, "green", "{report:#}");
    }
    assert_eq!(place.site.counters().posts, 0, "the site was only looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn for_a_person_it_is_lines_with_words_and_remedies_and_no_colours_in_a_pipe() {
    let home = TempDir::new().unwrap();
    let profile = home.path().join("profile").display().to_string();
    let vars = [
        ("TABPROXY_ORIGIN", "https://no-such-host.invalid/"),
        ("TABPROXY_CHROMIUM", "/nowhere/chromium"),
        ("TABPROXY_QUEUE", "many"),
        ("TABPROXY_PROFILE", &profile),
    ];
    let (output, said) = run(&[], &vars).await;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
    let lines: Vec<_> = said.lines().collect();
    for beginning in
        ["red    settings    TABPROXY_QUEUE", "red    chromium ", "red    dns ", "red    origin "]
    {
        let at = lines.iter().position(|it| it.starts_with(beginning));
        let at = at.unwrap_or_else(|| panic!("no {beginning} in\n{said}"));
        assert!(lines[at + 1].starts_with("        ") && !lines[at + 1].trim().is_empty(), "{said}");
    }
    let last = lines.last().unwrap();
    assert!(last.starts_with("red ") && last.contains(" red: "), "{last}");

    let (output, said) = run(&["--nginx", "nowhere"], &vars).await;
    assert_eq!(output.status.code(), Some(2), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_away_or_refuses_the_password_is_told_without_the_password() {
    let place = Place::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(ways::http_proxy(listener, Default::default()));
    let proxy = |user: &str| format!("http://{user}127.0.0.1:{port}");

    let report = place.without_browser(&[("HTTPS_PROXY", &proxy("bot:pass%20word@"))]).await;
    assert_eq!(check(&report, "way out").0, "green", "{report:#}");
    assert_eq!(check(&report, "origin").0, "green", "{report:#}");
    assert!(check(&report, "dns").1.contains("the proxy"), "{report:#}");

    let report = place.without_browser(&[("HTTPS_PROXY", &proxy("bot:hunter2@"))]).await;
    let (state, text, remedy) = check(&report, "way out");
    assert!(state == "red" && text.contains("refuses the user name"), "{report:#}");
    assert!(remedy.contains("HTTPS_PROXY"), "{remedy}");
    assert_eq!(check(&report, "origin").0, "yellow", "it cannot be seen");
    assert!(!report.to_string().contains("hunter2"), "{report:#}");

    let report = place.without_browser(&[("HTTPS_PROXY", &proxy(""))]).await;
    assert!(check(&report, "way out").1.contains("wants a user name"), "{report:#}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = place.without_browser(&[("HTTPS_PROXY", &format!("bot:hunter2@{nobody}"))]).await;
    let (state, text, _) = check(&report, "way out");
    assert!(state == "red" && text.contains("cannot be reached"), "{report:#}");
    assert!(!report.to_string().contains("hunter2"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_no_browser_knows_is_red() {
    let place = Place::new().await;
    let report = place.without_browser(&[("TABPROXY_TRUST_CERT", "")]).await;
    let (state, text, remedy) = check(&report, "origin");
    assert!(state == "red" && text.contains("which no browser knows"), "{report:#}");
    assert!(remedy.contains("TABPROXY_TRUST_CERT"), "{remedy}");
    assert_eq!(check(&report, "clock").0, "green", "what it says of the time is heard all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_is_none_or_lacks_a_library_is_red() {
    let place = Place::new().await;
    let dir = place.home.path();
    let mute = script(dir, "mute", "exit 0");
    let report = place.examined(&[], &[("TABPROXY_CHROMIUM", &mute)]).await;
    assert_eq!(check(&report, "chromium").0, "red", "{report:#}");
    assert_eq!(check(&report, "launch").0, "yellow", "not tried");

    let broken = "case \"$*\" in --version) echo Chromium 156.0.1.1; exit 0;; esac\n\
                  echo \"chromium: error while loading shared libraries: libnss3.so: cannot open\" >&2; exit 127";
    let broken = script(dir, "broken", broken);
    let report = place.examined(&[], &[("TABPROXY_CHROMIUM", &broken)]).await;
    assert_eq!(check(&report, "chromium").0, "green", "{report:#}");
    let (state, _, remedy) = check(&report, "launch");
    assert!(state == "red" && remedy.contains("libnss3.so"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_cannot_be_written_or_is_open_elsewhere_and_a_taken_port_are_red() {
    let place = Place::new().await;
    fs::write(place.path("file"), "").unwrap();
    let report = place.without_browser(&[("TABPROXY_PROFILE", &place.path("file/profile"))]).await;
    for name in ["profile", "files"] {
        let (state, _, remedy) = check(&report, name);
        assert!(state == "red" && remedy.contains("TABPROXY_PROFILE"), "{report:#}");
    }

    // A browser that lives on this host has the profile. (Process 1 always lives.)
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    fs::create_dir(place.path("profile")).unwrap();
    symlink(format!("{host}-1"), place.path("profile/SingletonLock")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let report =
        place.without_browser(&[("TABPROXY_LISTEN", &taken.local_addr().unwrap().to_string())]).await;
    let (state, text, _) = check(&report, "profile");
    assert!(state == "red" && text.contains("open in a running browser"), "{report:#}");
    assert_eq!(check(&report, "port").0, "red", "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_tabproxy_that_runs_its_port_and_profile_are_no_fault() {
    let place = Place::new().await;
    let program = Program::start(&place.site, &[]).await;
    let vars = [
        ("TABPROXY_LISTEN", program.addr.to_string()),
        ("TABPROXY_PROFILE", program.home.path().join("profile").display().to_string()),
    ];
    let vars = vars.each_ref().map(|(name, value)| (*name, value.as_str()));
    program.wait_ready().await;
    let browser = program.browser();
    let report = place.examined(&[], &vars).await;
    assert_ne!(report["verdict"], "red", "{report:#}");
    for (name, words) in [("port", "a tabproxy that runs"), ("profile", "is ready"), ("instance", "ready")] {
        let (state, text, _) = check(&report, name);
        assert!(state == "green" && text.contains(words), "{report:#}");
    }
    assert_eq!(program.browser(), browser, "it goes on");
    assert_eq!(program.get("/readyz").await.status(), 200);
}

/// A server over plain http that gives each connection one answer, head and all; its address.
async fn stand_in(answer: impl Fn() -> BoxFuture<'static, Vec<u8>> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(&answer().await).await;
        }
    });
    format!("http://{addr}/")
}

/// A site whose clock is off by so many seconds.
async fn site_at(offset: i64) -> String {
    let answer = move || {
        let (now, off) = (SystemTime::now(), Duration::from_secs(offset.unsigned_abs()));
        let date = httpdate::fmt_http_date(if offset < 0 { now - off } else { now + off });
        format!("HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    };
    stand_in(move || ready(answer().into_bytes()).boxed()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_seen_by_the_sites_date() {
    let place = Place::new().await;
    for (offset, expected, words) in
        [(0, "green", "within"), (-150, "yellow", "ahead of"), (1200, "red", "behind")]
    {
        let report = place.without_browser(&[("TABPROXY_ORIGIN", &site_at(offset).await)]).await;
        let (state, text, _) = check(&report, "clock");
        assert!(state == expected && text.contains(words), "{offset}: {report:#}");
        assert_eq!(check(&report, "origin").0, "green", "{report:#}");
    }
}

/// Something in front that passes an answer on when it has all of it.
async fn collector(url: String) -> String {
    let collect = async |url: String| {
        let body = client().get(&url).send().await.unwrap().bytes().await.unwrap();
        let kind = "content-type: text/event-stream\r\nconnection: close";
        let head = format!("HTTP/1.1 200 OK\r\n{kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body[..]].concat()
    };
    stand_in(move || collect(url.clone()).boxed()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nginx_does_with_event_streams_is_seen() {
    let place = Place::new().await;
    let rig = Rig::with(Default::default(), |config| config.ping = Some(Duration::from_secs(1))).await;
    let addr = rig.addr().to_string();
    let on = ("proxy_buffering off;", "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;");
    let packed = ("gzip off;", "gzip on; gzip_types *; gzip_min_length 0;");
    let before = ("location = /healthz/stream", "location = /nowhere");
    for (changes, flow, waits) in [
        (&[][..], "green", Some("green")),
        (&[on, packed], "red", None),
        (&[("proxy_read_timeout 10s", "proxy_read_timeout 600ms")], "green", Some("red")),
        (&[before], "yellow", None),
    ] {
        let nginx = Nginx::start(Setup { changes, ..Setup::at(rig.addr()) }).await;
        let vars = [("TABPROXY_LISTEN", addr.as_str()), ("TABPROXY_CHROMIUM", "/nowhere/chromium")];
        let report = place.examined(&["--nginx", &nginx.url("/")], &vars).await;
        assert_eq!(check(&report, "nginx").0, flow, "{changes:?}: {report:#}");
        let all = report["checks"].as_array().unwrap();
        let patience =
            all.iter().find(|it| it["name"] == "nginx waits").map(|it| it["state"].as_str().unwrap());
        assert_eq!(patience, waits, "{changes:?}: {report:#}");
    }
    assert_eq!(rig.counters().posts, 0, "nothing was said to the site");
    let vars = [("TABPROXY_CHROMIUM", "/nowhere/chromium")];
    let report = place.examined(&["--nginx", &collector(rig.url("/healthz/stream")).await], &vars).await;
    let (state, text, remedy) = check(&report, "nginx");
    assert!(
        state == "red" && text.contains("collects") && remedy.contains("proxy_buffering off"),
        "{report:#}"
    );
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report =
        place.examined(&["--nginx", &format!("http://{nobody}/")], &[("TABPROXY_CHROMIUM", "/x")]).await;
    assert_eq!(check(&report, "nginx").0, "red", "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_few_may_look_at_the_ticks_at_once_and_whoever_leaves_makes_room() {
    let rig = Rig::ready().await;
    let mut open = Vec::new();
    let refused = loop {
        let answer = rig.get("/healthz/stream").await;
        if answer.status() != 200 {
            break answer;
        }
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        open.push(answer);
        assert!(open.len() < 50, "there is an end to it");
    };
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    drop(open);
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let again = async {
        while rig.get("/healthz/stream").await.status() != 200 {
            tick.tick().await;
        }
    };
    tokio::time::timeout(crate::rig::PATIENCE, again).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_within_half_a_minute_where_everything_hangs() {
    let home = TempDir::new().unwrap();
    // Takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let hold = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok((socket, _)) = silent.accept().await {
            all.push(socket);
        }
    });
    let browser = "case \"$*\" in --version) echo Chromium 156.0.1.1; exit 0;; esac\nexec sleep 600";
    let browser = script(home.path(), "browser", browser);
    let profile = home.path().join("profile").display().to_string();
    let vars = [
        ("TABPROXY_ORIGIN", format!("https://{addr}/")),
        ("TABPROXY_LISTEN", addr.to_string()),
        ("TABPROXY_CHROMIUM", browser),
        ("TABPROXY_PROFILE", profile),
    ];
    let vars = vars.each_ref().map(|(name, value)| (*name, value.as_str()));
    let begun = Instant::now();
    let report = examined(&["--nginx", &format!("http://{addr}/")], &vars).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    for name in ["launch", "origin", "port", "nginx"] {
        assert_eq!(check(&report, name).0, "red", "{name}: {report:#}");
    }
    hold.abort();
}
