//! Several browsers side by side: work is spread over them, and what happens to one touches the others in nothing.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use futures::StreamExt;
use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use tabproxy::browser::launch::find_chromium;
use tabproxy::browser::profile::ProfileLock;
use tabproxy::config::Config;
use tabproxy::practice::{Practice, PracticeArgs, answer_text};
use tempfile::TempDir;

use crate::access::Desk;
use crate::doors::{PASSWORD, come_in, state};
use crate::program::Program;
use crate::rig::{PATIENCE, Rig, eventually, last_text, turn};
use crate::shared::procfs::{exists, kill, members, processes, signal};

/// A proxy with two browsers, both ready.
async fn two(change: impl FnOnce(&mut Config)) -> Rig {
    let rig = Rig::starting(PracticeArgs::default(), |config| {
        config.browsers = 2;
        change(config);
    })
    .await;
    both_ready(&rig).await;
    rig
}

/// Waits until each of two is.
pub async fn both_ready(rig: &Rig) {
    for one in rig.server.browser().iter() {
        let mut status = one.watch();
        let ready = tokio::time::timeout(PATIENCE, status.wait_for(|it| it.is_ready())).await;
        ready.expect("ready in time").expect("the supervisor lives");
    }
}

/// How many requests run in each.
pub fn running(rig: &Rig) -> Vec<usize> {
    rig.server.browser().figures().iter().map(|it| it.running).collect()
}

/// What `/readyz` says, once it is so.
async fn health(rig: &Rig, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let look = async {
        loop {
            last = rig.get("/readyz").await.json().await.unwrap();
            if is_so(&last) {
                return;
            }
        }
    };
    let seen = tokio::time::timeout(PATIENCE, look).await;
    assert!(seen.is_ok(), "still {last}");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_spread_and_a_killed_browser_ends_only_its_own_streams_and_comes_back() {
    let rig = two(|_| {}).await;
    let prompt = "hello count=400 interval=40";
    let mut streams = Vec::new();
    for n in 0..6 {
        let mut stream = rig.ask(&format!("m{n}"), prompt).await.bytes_stream();
        let first = stream.next().await.unwrap().unwrap();
        streams.push((first, stream));
    }
    assert_eq!(running(&rig), [3, 3]);
    let pids: Vec<_> = rig.server.browser().iter().map(|it| it.status().pid.unwrap()).collect();
    kill(pids[1]);
    let mut died = rig.server.browser().get(1).unwrap().watch();
    died.wait_for(|it| !it.is_ready()).await.unwrap();
    // Nobody waits for the one that is lost.
    for n in 0..3 {
        rig.answers(&format!("meanwhile{n}")).await;
    }
    let ends = streams.into_iter().map(|(first, stream)| async move {
        let chunks: Vec<_> = stream.collect().await;
        let is_cut = chunks.last().unwrap().is_err();
        let said = chunks.into_iter().flatten().fold(first.to_vec(), |all, it| [all, it.to_vec()].concat());
        let is_whole =
            !is_cut && said.ends_with(b"data: [DONE]\n\n") && last_text(&said) == answer_text(prompt);
        (is_cut, is_whole)
    });
    let ends = tokio::time::timeout(PATIENCE, join_all(ends)).await.expect("nothing hangs");
    assert_eq!(ends.iter().filter(|it| it.0).count(), 3, "each of its own ends with an error: {ends:?}");
    assert_eq!(ends.iter().filter(|it| it.1).count(), 3, "the others go on to their end: {ends:?}");
    died.wait_for(|it| it.is_ready()).await.unwrap();
    let now: Vec<_> = rig.server.browser().iter().map(|it| it.status().pid.unwrap()).collect();
    assert!(now[0] == pids[0] && now[1] != pids[1], "{pids:?} {now:?}");
    eventually(|| running(&rig), |it| *it == [0, 0]).await;
    // A crowd that comes at once.
    let ids: Vec<_> = (0..16).map(|n| format!("again{n}")).collect();
    let answers = join_all(ids.iter().map(|id| rig.ask(id, "hello count=100 interval=50"))).await;
    assert_eq!(running(&rig), [8, 8], "it gets work again");
    for answer in answers {
        answer.bytes().await.unwrap();
    }
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    for line in [
        r#"tabproxy_browser_phase{browser="1",phase="ready"} 1"#,
        r#"tabproxy_browser_up{browser="2"} 1"#,
        r#"tabproxy_browser_running{browser="2"} 0"#,
        r#"tabproxy_browser_restarts_total{browser="1"} 0"#,
        r#"tabproxy_browser_restarts_total{browser="2"} 1"#,
        r#"tabproxy_phase{phase="ready"} 1"#,
        "tabproxy_browser_starts_total 3",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_is_not_ready_the_other_serves_everything_and_who_asks_is_told_which() {
    let dir = TempDir::new().unwrap();
    let script = dir.path().join("chromium");
    let chromium = find_chromium().unwrap();
    let text =
        format!("#!/bin/sh\ncase \"$*\" in *profile-2*) exit 7;; esac\nexec {} \"$@\"\n", chromium.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let rig = Rig::with(PracticeArgs::default(), |config| {
        config.browsers = 2;
        config.browser_inflight = 3;
        config.chromium = Some(script);
    })
    .await;
    for n in 0..4 {
        rig.answers(&format!("m{n}")).await;
    }
    let told = health(&rig, |it| it["browsers"][1]["phase"] == "backoff" && it["places"] == 3).await;
    assert_eq!((&told["ready"], &told["phase"]), (&json!(true), &json!("ready")));
    assert_eq!((&told["browsers"][0]["ready"], &told["browsers"][0]["browser"]), (&json!(true), &json!(1)));
    assert_eq!(told["browsers"][1]["ready"], false);
    assert!(!told["browsers"][1]["reason"].as_str().unwrap().is_empty(), "{told}");
    let status = rig.server.browser().status();
    assert!(status.is_ready() && status.reason.contains("browser 2 is not ready: "), "{}", status.reason);
    assert!(!status.reason.contains("browser 1"), "{}", status.reason);
    let first = rig.server.browser().get(0).unwrap();
    let mut all = rig.server.browser().watch();
    kill(first.status().pid.unwrap());
    let reason = all.wait_for(|it| !it.is_ready()).await.unwrap().reason.clone();
    assert!(reason.contains("browser 1 is not ready: ") && reason.contains("browser 2 is not ready: "));
    // One that comes while there is none waits for the first that is there.
    rig.answers("waits").await;
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_one_may_carry_is_spread_and_the_rest_waits_in_the_queue() {
    let rig = two(|config| {
        config.browser_inflight = 2;
        config.max_inflight = 10;
    })
    .await;
    health(&rig, |it| it["places"] == 4).await;
    let ids: Vec<_> = (0..6).map(|n| format!("m{n}")).collect();
    let prompt = "hello count=80 interval=50";
    let asked = ids.iter().map(|id| async { rig.ask(id, prompt).await.bytes().await.unwrap() });
    let look = async {
        let told = health(&rig, |it| it["queued"] == 2 && it["running"] == 4).await;
        (told, running(&rig))
    };
    let (answers, (told, running)) = tokio::join!(join_all(asked), look);
    assert_eq!(running, [2, 2], "{told}");
    assert!(answers.iter().all(|it| last_text(it) == answer_text(prompt)));
    rig.sent_once();
}

/// The beginning of a turn, in a conversation if there is one; the conversation, and the browser that it runs in.
async fn converse(rig: &Rig, id: &str, conversation: Option<&str>) -> (String, usize) {
    both_ready(rig).await;
    let mut body = turn(id, "hello count=100000 interval=50");
    if let Some(conversation) = conversation {
        body["conversation_id"] = conversation.into();
    }
    let answer = rig.client.post(rig.url("/backend-api/conversation")).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let at = running(rig);
    assert_eq!(at.iter().sum::<usize>(), 1, "{at:?}");
    let mut stream = answer.bytes_stream();
    let mut said = String::new();
    let named = loop {
        said.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
        let after =
            said.split("\"conversation_id\":").nth(1).map(|it| it.trim_start().trim_start_matches('"'));
        if let Some((named, _)) = after.and_then(|it| it.split_once('"')) {
            break named.to_owned();
        }
    };
    drop(stream);
    eventually(|| (running(rig), rig.counters().active), |it| *it == (vec![0, 0], 0)).await;
    (named, at.iter().position(|it| *it == 1).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_on_in_the_browser_that_it_was_begun_in() {
    let rig = two(|_| {}).await;
    let mut begun = Vec::new();
    for n in 0..2 {
        begun.push(converse(&rig, &format!("begin{n}"), None).await);
    }
    assert!(begun.iter().any(|it| it.1 == 0) && begun.iter().any(|it| it.1 == 1), "{begun:?}");
    for (n, (conversation, home)) in begun.iter().enumerate() {
        // Whoever is asked one after the other by turns would be another one every other time.
        for again in 0..2 {
            let (same, browser) = converse(&rig, &format!("go-on{n}-{again}"), Some(conversation)).await;
            assert_eq!((&same, browser), (conversation, *home), "{n} {again}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sign_in_closes_the_door_and_serves_those_whose_key_opens_it() {
    let desk = Desk::new();
    let key = desk.key(&["page"]);
    let rig = two(|config| {
        config.allow_paths.push("/auth/".into());
        config.keys_file = Some(desk.keys());
    })
    .await;
    let done = rig.client.post(rig.url("/auth/login")).send().await.unwrap();
    assert!(done.status().is_success() || done.status().is_redirection(), "{}", done.status());
    let mut all = rig.server.browser().watch();
    let known = all.wait_for(|it| it.signed_in == Some(true));
    tokio::time::timeout(PATIENCE, known).await.expect("known in time").unwrap();
    let each: Vec<_> = rig.server.browser().iter().map(|it| it.status().signed_in).collect();
    assert!(each.contains(&Some(true)) && each.contains(&Some(false)), "one of them: {each:?}");
    for n in 0..6 {
        let refused = rig.get(&format!("/backend-api/practice/echo?n={n}")).await;
        assert_eq!(refused.status(), 401);
        let asked = rig.client.get(rig.url(&format!("/backend-api/practice/echo?n={n}"))).bearer_auth(&key);
        let told: Value = asked.send().await.unwrap().json().await.unwrap();
        let shown = told["headers"]["authorization"][0].as_str();
        assert_eq!(shown, Some("Bearer practice-access-token"), "{n}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_all_and_lets_their_profiles_go() {
    let rig = two(|_| {}).await;
    let pids: Vec<_> = rig.server.browser().iter().map(|it| it.status().pid.unwrap()).collect();
    let (_site, home) = rig.stop().await;
    for name in ["profile", "profile-2"] {
        let profile = home.path().join(name);
        assert!(profile.join("Default").is_dir(), "{name} was used");
        assert!(std::fs::symlink_metadata(profile.join("SingletonLock")).is_err(), "{name} was closed");
        ProfileLock::take(&profile).unwrap();
    }
    eventually(|| pids.iter().any(|it| exists(*it)), |it| !it).await;
}

#[test]
fn a_profile_that_somebody_else_has_is_one_line_and_nothing_starts() {
    let home = TempDir::new().unwrap();
    let profile = home.path().join("profile");
    let _held = ProfileLock::take(&home.path().join("profile-2")).unwrap();
    let run = |command: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tabproxy"));
        program.arg(command).env_clear().env("PATH", std::env::var("PATH").unwrap()).stdin(Stdio::null());
        program.env("TABPROXY_PROFILE", &profile).env("TABPROXY_LISTEN", "127.0.0.1:0");
        let output = program.env("TABPROXY_BROWSERS", "2").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let said = run("serve");
    let line = said.lines().last().unwrap();
    for words in ["profile-2", "in use by another tabproxy", "TABPROXY_PROFILE"] {
        assert!(line.contains(words), "{words} is not in {said}");
    }
    assert!(!said.contains("listening"), "{said}");
    let said = run("check");
    let named: Vec<_> = said.lines().filter(|it| it.starts_with("profile ")).collect();
    assert!(named.len() == 2 && named[1].ends_with("profile-2"), "{said}");
    assert!(said.contains("180 at once"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_and_the_console_say_which_one_and_each_is_restarted_alone() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let vars = [("TABPROXY_BROWSERS", "2"), ("TABPROXY_ADMIN_PASSWORD", PASSWORD)];
    let program = Program::start(&site, &vars).await;
    let ready = |log: &String| {
        let lines: Vec<_> = log.lines().filter(|it| it.contains("-> ready")).collect();
        ["browser=1", "browser=2"].iter().all(|of| lines.iter().any(|it| it.contains(of)))
    };
    eventually(|| program.log(), ready).await;
    let (cookie, token) = come_in(&program).await;
    let told = state(&program, &cookie).await;
    assert_eq!(told["each"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!((&told["all"], &told["each"][1]["phase"]), (&json!("ready"), &json!("ready")));
    let lines = told["log"].as_array().unwrap();
    assert!(lines.iter().any(|it| it["text"].as_str().unwrap().contains(" browser=2")), "{lines:#?}");

    let browsers = || {
        let of = |it: &crate::shared::procfs::Process| it.parent == program.pid() && it.group == it.pid;
        processes().into_iter().filter(of).map(|it| it.pid).collect::<Vec<_>>()
    };
    let before = browsers();
    assert_eq!(before.len(), 2);
    let act = async |body: Value| {
        let request = program.client.post(program.url("/console/api/do")).header("cookie", &cookie);
        request.header("x-console-token", &token).json(&body).send().await.unwrap().status()
    };
    assert_eq!(act(json!({"do": "restart_browser", "browser": 3})).await, 400);
    assert_eq!(act(json!({"do": "restart_browser", "browser": 2})).await, 200);
    let after = eventually(browsers, |it| it.len() == 2 && *it != before).await;
    assert!(after.iter().filter(|it| before.contains(it)).count() == 1, "{before:?} {after:?}");
    let timeline = async |of: usize| {
        let url = program.url(&format!("/console/api/state?of={of}"));
        let asked = program.client.get(url).header("cookie", &cookie).send().await.unwrap();
        asked.json::<Value>().await.unwrap()["timeline"].to_string()
    };
    assert!(timeline(2).await.contains("restarted by the operator"));
    assert!(!timeline(1).await.contains("restarted by the operator"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_browser_that_stands_still_does_not_take_over_goes_to_another_and_is_sent_once() {
    let rig = two(|_| {}).await;
    let group = rig.server.browser().get(1).unwrap().status().pid.unwrap();
    members(group).into_iter().for_each(|it| signal(it.pid, Signal::STOP));
    let ids: Vec<_> = (0..4).map(|n| format!("m{n}")).collect();
    let answers = join_all(ids.iter().map(|id| rig.ask(id, "hello count=100000 interval=50"))).await;
    assert!(answers.iter().all(|it| it.status() == 200));
    eventually(|| running(&rig), |it| *it == [4, 0]).await;
    rig.sent_once();
}
