//! What a container or a service manager gives the program: little shared memory, volumes that cannot be
//! written, a proxy that is not there; what monitors ask; and the unit for systemd.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tabproxy::practice::{Practice, PracticeArgs, answer_text};
use tempfile::TempDir;

use crate::program::Program;
use crate::rig::{eventually, last_text};
use crate::sdks::{file, python, run};
use crate::shared::procfs::command_line;

async fn site() -> Practice {
    Practice::start(PracticeArgs::default()).await.unwrap()
}

/// Whether this test may mount file systems, in a mount namespace of its own.
fn may_mount() -> bool {
    let mut command = Command::new("unshare");
    command.args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).stderr(Stdio::null());
    let may = command.status().is_ok_and(|it| it.success());
    if !may {
        println!("skipped: no right to mount a file system here");
    }
    may
}

/// The lines of the log with these words.
fn lines(log: &str, words: &str) -> Vec<String> {
    log.lines().filter(|it| it.contains(words)).map(str::to_owned).collect()
}

/// Needs the right to mount; where there is none it says so and ends.
#[tokio::test(flavor = "multi_thread")]
async fn little_shared_memory_is_told_with_its_remedy_and_worked_around() {
    if !may_mount() {
        return;
    }
    let site = site().await;
    let prompt = "hello count=3 interval=1";
    for (options, complaint) in [
        ("size=64m", Some("/dev/shm has only 64 MiB free")),
        ("ro", Some("/dev/shm cannot be used: Read-only file system")),
        ("size=1g", None),
    ] {
        let setup = format!("mount -t tmpfs -o {options} tmpfs /dev/shm");
        let home = TempDir::new().unwrap();
        let proxy = Program::in_shell("exec unshare -m sh", &setup, home, &site, &[]).await;
        proxy.wait_ready().await;
        let told = lines(&proxy.log(), "/dev/shm");
        assert_eq!(told.len(), usize::from(complaint.is_some()), "{options}: {told:?}");
        if let Some(complaint) = complaint {
            assert!(told[0].contains("WARN") && told[0].contains(complaint), "{told:?}");
            assert!(told[0].contains("--shm-size=1gb"), "the remedy: {told:?}");
        }
        let browser = proxy.browser().unwrap();
        let line = command_line(browser).join(" ");
        assert_eq!(line.contains("--disable-dev-shm-usage"), complaint.is_some(), "{options}: {line}");
        let answer = proxy.ask(options, prompt).await;
        assert_eq!(last_text(&answer.bytes().await.unwrap()), answer_text(prompt), "{options}");
    }
}

/// Runs `serve` in a mount namespace of its own, after `setup`.
fn serve_after(setup: &str, vars: &[(&str, &str)]) -> Output {
    let script = format!("{setup}\nexec \"$0\" serve");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, env!("CARGO_BIN_EXE_tabproxy")]);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("TABPROXY_LISTEN", "127.0.0.1:0");
    command.envs(vars.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

/// Needs the right to mount; where there is none it says so and ends.
#[test]
fn a_volume_that_cannot_be_written_is_one_line_with_its_remedy() {
    if !may_mount() {
        return;
    }
    let home = TempDir::new().unwrap();
    let dir = home.path().join("volume");
    fs::create_dir(&dir).unwrap();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (profile, log) = (path("profile"), path("tabproxy.log"));
    let own = home.path().join("profile").to_str().unwrap().to_owned();
    let made = format!("mount -t tmpfs tmpfs {0} && mkdir {0}/profile", dir.display());
    let read_only = format!("mount -o remount,ro {}", dir.display());
    for (setup, vars, words) in [
        // A volume that is read-only; and one on which the profile exists already.
        (
            format!("mount -t tmpfs -o ro tmpfs {}", dir.display()),
            vec![("TABPROXY_PROFILE", &*profile)],
            ["profile", "Read-only", "make it writable for user"],
        ),
        (
            format!("{made} && {read_only}"),
            vec![("TABPROXY_PROFILE", &*profile)],
            [&*profile, "Read-only", "TABPROXY_PROFILE"],
        ),
        (
            format!("{made} && {read_only}"),
            vec![("TABPROXY_PROFILE", &*own), ("TABPROXY_LOG_FILE", &*log)],
            [&*log, "Read-only", "TABPROXY_LOG_FILE"],
        ),
        // A directory in the place of the file, as Docker makes one where a file was to be mounted.
        (
            format!("{made} && mkdir {log}"),
            vec![("TABPROXY_PROFILE", &*own), ("TABPROXY_LOG_FILE", &*log)],
            [&*log, "directory", "TABPROXY_LOG_FILE"],
        ),
    ] {
        let output = serve_after(&setup, &vars);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(words.iter().all(|it| said.contains(it)), "{words:?} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cannot_be_reached_is_one_warning_without_its_password() {
    let site = site().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (https, http) = (format!("http://user:hunter2@{nobody}"), "socks5://proxy.invalid:1080".to_owned());
    let vars = [("HTTPS_PROXY", &*https), ("http_proxy", &*http)];
    let proxy = Program::start(&site, &vars).await;
    for (server, name) in [(format!("http://{nobody}"), "HTTPS_PROXY"), (http.clone(), "HTTP_PROXY")] {
        let what = format!("the proxy {server} cannot be reached");
        eventually(|| lines(&proxy.log(), &what), |it| !it.is_empty()).await;
        let told = lines(&proxy.log(), &what);
        assert!(told.len() == 1 && told[0].contains("WARN") && told[0].contains(name), "{told:?}");
    }
    assert!(!proxy.log().contains("hunter2"), "{}", proxy.log());
    // It may come up later: the server is there and says that it is not ready.
    assert_eq!(proxy.get("/healthz").await.status(), 200);
    assert_eq!(proxy.get("/readyz").await.status(), 503);

    // The same one for both is told of once; one that is there, not at all.
    let there = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let all = format!("http://{nobody}");
    let both = Program::start(&site, &[("ALL_PROXY", &all)]).await;
    eventually(|| lines(&both.log(), "cannot be reached"), |it| it.len() == 1).await;
    let up = format!("http://{}", there.local_addr().unwrap());
    let fine = Program::start(&site, &[("HTTPS_PROXY", &up), ("HTTP_PROXY", &all)]).await;
    let told = eventually(|| lines(&fine.log(), "cannot be reached"), |it| !it.is_empty()).await;
    assert!(told.len() == 1 && told[0].contains("correct HTTP_PROXY"), "{told:?}");
}

fn health(vars: &[(&str, &str)], args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tabproxy"));
    command.arg("health").args(args).env_clear().envs(vars.iter().copied()).stdin(Stdio::null());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_whether_requests_would_be_served_and_why_not() {
    let site = site().await;
    let proxy = Program::start(&site, &[]).await;
    let listen = proxy.addr.to_string();
    proxy.wait_ready().await;
    let (code, said) = health(&[("TABPROXY_LISTEN", &listen)], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"ready\":true") && said.lines().count() == 1, "{said}");
    // As in a container: it was told to serve on every address.
    let every = format!("0.0.0.0:{}", proxy.addr.port());
    assert_eq!(health(&[], &["--listen", &every]).0, Some(0));

    let draining = proxy.ask("long", "hello count=100000 interval=20").await;
    proxy.signal(Signal::TERM);
    let not_ready = || health(&[("TABPROXY_LISTEN", &listen)], &[]);
    let (code, said) = eventually(not_ready, |it| it.0 != Some(0)).await;
    assert_eq!(code, Some(1), "{said}");
    drop((draining, proxy));

    let (code, said) = health(&[("TABPROXY_LISTEN", &listen)], &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("no answer from {listen}")) && said.lines().count() == 1, "{said}");
    for (listen, remedy) in [("nowhere", "TABPROXY_LISTEN"), ("127.0.0.1:0", "name the port")] {
        let (code, said) = health(&[("TABPROXY_LISTEN", listen)], &[]);
        assert!(code == Some(1) && said.contains(remedy) && said.lines().count() == 1, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_gives_up_on_a_server_that_stands_still() {
    let site = site().await;
    let proxy = Program::start(&site, &[]).await;
    let pid = Pid::from_raw(proxy.pid()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let (code, said) = health(&[("TABPROXY_LISTEN", &proxy.addr.to_string())], &[]);
    assert!(code == Some(1) && said.contains("within 4s"), "{said}");
}

#[test]
fn systemd_takes_the_unit_without_a_word() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/tabproxy.service");
    let text = fs::read_to_string(unit).unwrap();
    let installed = "/usr/local/bin/tabproxy";
    assert!(text.contains(installed));
    let home = TempDir::new().unwrap();
    let verify = |text: &str| {
        let unit = home.path().join("tabproxy.service");
        fs::write(&unit, text).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg(unit).output();
        let output = output.expect("systemd is installed (make deps-test)");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        // What it finds in the machine's own units is not our affair.
        let ours: Vec<_> = said.lines().filter(|it| it.contains("tabproxy")).map(str::to_owned).collect();
        (output.status.success(), ours)
    };
    let there = text.replace(installed, env!("CARGO_BIN_EXE_tabproxy"));
    assert_eq!(verify(&there), (true, vec![]));
    // It does look.
    let (_, said) = verify(&there.replace("ProtectSystem=strict", "ProtectSystem=sometimes"));
    assert!(said.iter().any(|it| it.contains("protect system")), "{said:?}");
}

/// What compose makes of these files, by whichever of the two programs is here; `None` where neither is, which is said.
fn composed(files: &[&str]) -> Option<String> {
    for (program, word) in [("docker", Some("compose")), ("docker-compose", None)] {
        let mut command = Command::new(program);
        command.args(word).args(files.iter().flat_map(|it| ["-f", it])).arg("config");
        command.current_dir(file("docker")).env_clear().env("PATH", std::env::var("PATH").unwrap());
        let Ok(output) = command.output() else { continue };
        let said = String::from_utf8(output.stderr).unwrap();
        if word.is_some() && !output.status.success() && said.contains("unknown") {
            continue; // without the plugin
        }
        assert!(output.status.success(), "{files:?}: {said}");
        return Some(String::from_utf8(output.stdout).unwrap());
    }
    println!("skipped: neither `docker compose` nor docker-compose is here");
    None
}

/// No engine is needed for it.
#[tokio::test(flavor = "multi_thread")]
async fn compose_takes_three_instances_each_with_a_profile_of_its_own() {
    let (base, scale) = ("compose.yaml", "compose.scale.yaml");
    let (demo, both) = ("compose.demo.yaml", "compose.scale.demo.yaml");
    for files in [&[base, scale][..], &[base, demo, scale, both]] {
        let Some(yaml) = composed(files) else { return };
        let mut to_json = python();
        to_json
            .arg("-c")
            .arg("import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))")
            .arg(yaml);
        let (all, _) = run(to_json).await;
        let services = all["services"].as_object().unwrap();
        let mut profiles = BTreeSet::new();
        for (name, instance) in
            [("tabproxy", "tabproxy-1"), ("tabproxy-2", "tabproxy-2"), ("tabproxy-3", "tabproxy-3")]
        {
            let service = &services[name];
            let set = &service["environment"];
            assert_eq!(set["TABPROXY_INSTANCE"], instance);
            assert_eq!(set["TABPROXY_REDIS"], "redis://redis:6379/");
            assert_eq!(set["TABPROXY_ORIGIN"] != "", files.contains(&demo), "{name}: {set}");
            assert!(service["security_opt"].to_string().contains("seccomp.json"), "{name}: {service}");
            assert!(service.get("ports").is_none() && service["depends_on"].to_string().contains("redis"));
            // Written in one line by the one program, in three by the other.
            let profile = service["volumes"].as_array().unwrap().iter().find_map(|it| match it.as_str() {
                Some(line) => line.split_once(":/var/lib/tabproxy:").map(|it| it.0),
                None => it["source"].as_str().filter(|_| it["target"] == "/var/lib/tabproxy"),
            });
            assert!(profiles.insert(profile.unwrap().to_owned()), "{name} has another's profile: {service}");
            assert!(service["volumes"].to_string().contains("/etc/tabproxy"), "the keys are everybody's");
        }
        assert!(services["redis"].get("ports").is_none() && services["nginx"].get("ports").is_some());
        let networks = services["nginx"]["networks"].as_object().unwrap();
        assert!(!networks.contains_key("back"), "nginx has no business with Redis: {networks:?}");
    }
}
