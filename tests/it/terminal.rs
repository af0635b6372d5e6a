//! What a person sees in a terminal: `tabproxy status`, and the start of `serve`; and what a pipe gets instead.

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tabproxy::practice::{Practice, PracticeArgs};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::program::Program;
use crate::pty::Pty;
use crate::rig::{Rig, eventually};

async fn status(args: &[&str]) -> (Output, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tabproxy"));
    command.arg("status").args(args).env_clear().stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

#[tokio::test(flavor = "multi_thread")]
async fn status_in_a_pipe_says_it_once_and_its_exit_code_is_that_of_a_monitor() {
    let rig = Rig::ready().await;
    rig.answers("1").await;
    let addr = rig.addr().to_string();
    let (output, out, err) = status(&["--listen", &addr]).await;
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{out}");
    assert!(!out.contains('\x1b'), "{out:?}");
    for words in [
        "phase        ready for ",
        "requests     0 of ",
        "browser      Chrome/",
        "first byte   half within ",
        "answered     1 whole, ",
        "before       warming ",
        &format!("console      http://{addr}/console"),
    ] {
        assert!(out.lines().any(|it| it.starts_with(words)), "{words} is not in\n{out}");
    }
    let (output, out, _) = status(&["--json", "--listen", &addr]).await;
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (output.status.code(), &told["ready"], out.lines().count()),
        (Some(0), &true.into(), 1),
        "{out}"
    );
    // 3 events of text, and those around them.
    assert!(told["events"].as_u64() > Some(3) && told["outcomes"]["complete"] == 1, "{told}");
    assert!(
        told["memory_bytes"].as_u64() > Some(1 << 20) && told["first_byte_seconds"]["count"] == 1,
        "{told}"
    );

    let site = PracticeArgs { sign_in: true, ..PracticeArgs::default() };
    let walled = Rig::starting(site, |_| {}).await;
    let addr = walled.addr().to_string();
    let mut phase = walled.server.browser().watch();
    let wanted = phase.wait_for(|it| it.phase.name() == "needs_operator");
    tokio::time::timeout(crate::rig::PATIENCE, wanted).await.unwrap().unwrap();
    let (output, out, _) = status(&["--once", "--listen", &addr]).await;
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(out.contains("phase        needs_operator for") && out.contains("wants a sign-in"), "{out}");
    assert!(out.contains(&format!("open http://{addr}/console")), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_without_a_server_is_one_line_with_the_remedy() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (output, out, err) = status(&["--once", "--listen", &free]).await;
    assert_eq!((output.status.code(), out.as_str(), err.lines().count()), (Some(1), "", 1), "{err}");
    assert!(err.contains(&free) && err.contains("tabproxy serve") && err.contains("--listen"), "{err}");
    let (output, out, _) = status(&["--json", "--listen", &free]).await;
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((output.status.code(), &told["ready"]), (Some(1), &false.into()), "{told}");
    assert!(told["error"].as_str().is_some_and(|it| it.contains(&free)), "{told}");
    // Somebody else has the port.
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = other.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            let _ = stream.read(&mut [0; 1000]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        }
    });
    let (output, _, err) = status(&["--once", "--listen", &port]).await;
    assert!(output.status.code() == Some(1) && err.contains("not as tabproxy does"), "{err}");
    let (output, _, err) = status(&["--onse"]).await;
    assert!(output.status.code() == Some(2) && err.contains("--once"), "{err}");
    let (output, _, err) = status(&["--listen", "nowhere"]).await;
    assert!(output.status.code() == Some(1) && err.contains("TABPROXY_LISTEN"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_on_a_terminal_is_live_and_gives_the_terminal_back() {
    let rig = Rig::ready().await;
    let addr = rig.addr().to_string();
    let script = "\"$0\" status; echo left with $?; stty -a; read line; \"$0\" status; echo left with $? again; read line";
    let pty = Pty::run(script, &[("TABPROXY_LISTEN", &addr)], (24, 80));
    let shows = async |words: &str| eventually(|| pty.text(), |it| it.contains(words)).await;

    shows("phase        ready for ").await;
    assert_eq!(pty.is_taken(), (true, true));
    rig.answers("1").await;
    let text = shows("answered     1 whole").await;
    assert!(text.contains("events/s") && text.contains(&format!("http://{addr}/console")), "{text}");
    pty.resize(6, 40);
    let text = eventually(|| pty.text(), |it| it.starts_with("phase        ready")).await;
    assert!(!text.contains("console"), "there is no room for everything:\n{text}");
    pty.resize(24, 80);
    shows("console      http://").await;
    pty.press("x");
    pty.press("q");
    let text = shows("left with 0").await;
    assert_eq!(pty.is_taken(), (false, false));
    assert!(!text.contains("phase"), "the shell's screen is as it was:\n{text}");
    let text = shows("echoctl").await;
    let is_set = |word| text.split_whitespace().any(|it| it == word);
    assert!(["icanon", "isig", "echo", "opost"].into_iter().all(is_set), "{text}");

    // The server goes while somebody looks, and the view says so.
    pty.press("\r");
    shows("phase        ready for ").await;
    let (_site, _profile) = rig.stop().await;
    let text = shows("asking again each second").await;
    assert!(text.contains("no answer from") && text.contains("tabproxy serve"), "{text}");
    pty.press("\x03");
    shows("left with 0 again").await;
    assert_eq!(pty.is_taken(), (false, false));
}

/// The variables of a `serve` in front of `site`, with its files in `home`.
fn serving(site: &Practice, home: &TempDir) -> Vec<(&'static str, String)> {
    let cert = home.path().join("cert.pem");
    std::fs::write(&cert, site.cert_pem()).unwrap();
    vec![
        ("HOME", home.path().display().to_string()),
        ("TABPROXY_HEADLESS", "true".into()),
        ("TABPROXY_LISTEN", "127.0.0.1:0".into()),
        ("TABPROXY_ORIGIN", site.front_url()),
        ("TABPROXY_RESOLVE", site.resolve()),
        ("TABPROXY_TRUST_CERT", cert.display().to_string()),
        ("TABPROXY_PROFILE", home.path().join("profile").display().to_string()),
        // Many lines, to meet the one that is written anew.
        ("TABPROXY_LOG", "debug".into()),
    ]
}

/// The stages on this screen, each by its name and text. Every other line must be a whole one of the log.
fn stages(text: &str) -> Vec<(String, String)> {
    let mut stages = Vec::new();
    for line in text.lines().filter(|it| !it.is_empty()) {
        match line.strip_prefix("  ") {
            Some(stage) => {
                let (name, text) = stage.split_once(' ').unwrap();
                stages.push((name.to_owned(), text.trim().to_owned()));
            }
            None => {
                // What is typed shows where the cursor is.
                let line = line.strip_prefix("^C").unwrap_or(line);
                let is_log = line.starts_with("20") && line.split_whitespace().next().unwrap().ends_with('Z');
                assert!(is_log || line.is_empty(), "torn: {line:?} in\n{text}");
            }
        }
    }
    stages
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_on_a_terminal_shows_the_stages_in_order_and_tears_no_line_of_the_log() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    for (no_color, runs) in [("", "coloured"), ("1", "plain")] {
        let home = TempDir::new().unwrap();
        let mut vars = serving(&site, &home);
        vars.push(("NO_COLOR", no_color.into()));
        let vars: Vec<_> = vars.iter().map(|it| (it.0, it.1.as_str())).collect();
        // So wide and so high that no line goes on in the next, and none leaves.
        let mut pty = Pty::run("\"$0\" serve; exit $?", &vars, (400, 400));
        let text = eventually(|| pty.text(), |it| it.contains("  try      curl http://127.0.0.1:")).await;
        let seen = stages(&text);
        let names: Vec<_> = seen.iter().map(|it| it.0.as_str()).collect();
        assert_eq!(names, ["browser", "page", "check", "ready", "try"], "{text}");
        assert!(seen[0].1.starts_with("started in ") && seen[0].1.contains(" s (Chrome/"), "{text}");
        assert!(seen[1].1.starts_with("opened") && seen[2].1.starts_with("passed"), "{text}");
        assert!(seen[3].1.starts_with("after ") && seen[3].1.contains(" s: http://127.0.0.1:"), "{text}");
        assert!(text.contains("listening on http://"), "{text}");
        let bytes = pty.bytes();
        assert!(bytes.contains("starting, 0."), "the stage under way is shown\n{bytes}");
        assert_eq!(bytes.contains("\x1b[32m"), no_color.is_empty(), "{runs}: {bytes}");

        pty.press("\x03");
        eventually(|| pty.is_over(), |it| *it).await;
        assert_eq!(stages(&pty.text()).len(), 5, "later there are lines of the log only");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_on_a_terminal_says_where_a_person_is_wanted() {
    let site = Practice::start(PracticeArgs { sign_in: true, ..PracticeArgs::default() }).await.unwrap();
    let home = TempDir::new().unwrap();
    let vars = serving(&site, &home);
    let vars: Vec<_> = vars.iter().map(|it| (it.0, it.1.as_str())).collect();
    let mut pty = Pty::run("\"$0\" serve; exit $?", &vars, (400, 400));
    // The line that stays, and below it the one that counts.
    let says = |text: &String| {
        let is_asked = |it: &str| it.contains("waiting for a person to sign in") && it.ends_with("/console");
        text.lines().any(is_asked) && text.contains("waiting for a person, ")
    };
    let text = eventually(|| pty.text(), says).await;
    let seen = stages(&text);
    assert_eq!(seen.iter().filter(|it| it.0 == "ready").count(), 0, "{text}");
    let asked = seen.iter().find(|it| it.1.starts_with("waiting for a person to sign in: open http://"));
    assert!(asked.is_some_and(|it| it.0 == "check" && it.1.ends_with("/console")), "{text}");
    // Whoever leaves meanwhile finds no half line.
    pty.press("\x03");
    eventually(|| pty.is_over(), |it| *it).await;
    let text = pty.text();
    assert!(!text.contains("waiting for a person, "), "{text}");
    stages(&text);
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_in_a_pipe_writes_plain_lines_of_the_log() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let program = Program::start(&site, &[]).await;
    program.wait_ready().await;
    let log = eventually(|| program.log(), |it| it.contains("-> ready after")).await;
    assert!(!log.contains('\x1b') && stages(&log).is_empty(), "{log}");
}
