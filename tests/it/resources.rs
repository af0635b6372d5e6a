//! What the machine gives and takes: profiles that others hold, signals, ports, disks, and a Chromium that
//! does not run. One clear line in the log, a quick answer to callers, nothing left behind, and recovery.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process_group};
use tabproxy::browser::channel::BufferLimits;
use tabproxy::browser::launch::{LaunchSpec, Sandbox, find_chromium};
use tabproxy::browser::{Browser, BrowserSpec, Source, Status, Timing, Upkeep};
use tabproxy::practice::{Practice, PracticeArgs, answer_text};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::program::Program;
use crate::rig::{PATIENCE, Rig, code_of, eventually, last_text};
use crate::shared::procfs::{Process, command_line, members, processes};

async fn site() -> Practice {
    Practice::start(PracticeArgs::default()).await.unwrap()
}

/// Processes that have to do with this directory or belong to this group.
fn of(home: &Path, leader: i32) -> Vec<Process> {
    let home = home.to_str().unwrap();
    let is_there = |it: &Process| it.group == leader || command_line(it.pid).join(" ").contains(home);
    processes().into_iter().filter(|it| it.state != 'Z' && is_there(it)).collect()
}

/// A Chromium of somebody else's on this profile.
struct Stranger(std::process::Child);

impl Stranger {
    async fn on(profile: &Path) -> Stranger {
        use std::os::unix::process::CommandExt;
        let child = Command::new(find_chromium().unwrap())
            .args(["--headless=new", "--no-sandbox", "--no-first-run", "--password-store=basic"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let lock = profile.join("SingletonLock");
        eventually(|| fs::read_link(&lock).ok(), Option::is_some).await;
        Stranger(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_raw(self.0.id().cast_signed()).unwrap(), Signal::KILL);
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_owner_keeps_the_profile_and_a_dead_or_foreign_one_does_not() {
    let site = site().await;
    let home = TempDir::new().unwrap();
    let profile = home.path().join("profile");
    fs::create_dir_all(&profile).unwrap();
    let lock = profile.join("SingletonLock");
    {
        let mut stranger = Stranger::on(&profile).await;
        let mark = fs::read_link(&lock).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tabproxy"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("TABPROXY_PROFILE", &profile)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let line = said.lines().last().unwrap();
        assert!(line.contains("open in a running browser") && line.contains("TABPROXY_PROFILE"), "{said}");
        assert_eq!(fs::read_link(&lock).unwrap(), mark, "its mark stays");
        assert!(stranger.0.try_wait().unwrap().is_none(), "and it lives");
    }
    // Killed, it left its mark behind; and so did one on a machine that is gone.
    assert!(fs::symlink_metadata(&lock).is_ok());
    let mut home = Some(home);
    for foreign in [false, true] {
        if foreign {
            let _ = fs::remove_file(&lock);
            symlink("another-container-77", &lock).unwrap();
        }
        let mut proxy = Program::in_home(home.take().unwrap(), &site, &[]).await;
        proxy.wait_ready().await;
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.ended().await.code(), Some(0));
        home = Some(std::mem::replace(&mut proxy.home, TempDir::new().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_leaves_no_chromium_and_the_next_one_starts_on_its_profile() {
    let site = site().await;
    let mut home = Some(TempDir::new().unwrap());
    for round in 0..2 {
        let mut proxy = Program::in_home(home.take().unwrap(), &site, &[]).await;
        proxy.wait_ready().await;
        let browser = proxy.browser().unwrap();
        let mut stream =
            proxy.ask(&format!("cut{round}"), "hello count=100000 interval=20").await.bytes_stream();
        assert!(stream.next().await.unwrap().is_ok());
        assert!(of(proxy.home.path(), browser).len() > 4, "the browser has its processes");
        proxy.signal(Signal::KILL);
        let since = Instant::now();
        proxy.ended().await;
        let home_path = proxy.home.path().to_owned();
        eventually(|| of(&home_path, browser), Vec::is_empty).await;
        let gone = since.elapsed();
        println!("no process is left {gone:?} after kill -9");
        assert!(gone < Duration::from_secs(2), "{gone:?}");
        let rest: Vec<_> = stream.collect().await;
        assert!(rest.last().unwrap().is_err(), "the stream is cut, not ended");
        eventually(|| site.counters().active, |it| *it == 0).await;
        home = Some(std::mem::replace(&mut proxy.home, TempDir::new().unwrap()));
    }
    assert!(site.counters().posts_by_message_id.values().all(|it| *it == 1));
}

/// Addresses on which these processes listen, as `/proc` tells them: `(hexadecimal address, port)`.
fn listening(pids: &[i32]) -> Vec<(String, u16)> {
    let sockets: Vec<String> = pids
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok())
        .flat_map(|dir| {
            dir.flatten().filter_map(|it| fs::read_link(it.path()).ok()?.into_os_string().into_string().ok())
        })
        .filter_map(|it| Some(it.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        for line in fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default().lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            // LISTEN, or a datagram socket that is connected to nobody.
            let is_open = if table.starts_with("tcp") { fields[3] == "0A" } else { fields[3] == "07" };
            if is_open && sockets.iter().any(|it| it == fields[9]) {
                let (address, port) = fields[1].split_once(':').unwrap();
                found.push((address.to_owned(), u16::from_str_radix(port, 16).unwrap()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_port_is_on_loopback_and_another_one_each_time() {
    let site = site().await;
    let mut ports = Vec::new();
    for _ in 0..2 {
        let proxy = Program::start(&site, &[]).await;
        proxy.wait_ready().await;
        let browser = proxy.browser().unwrap();
        let mut pids: Vec<_> = members(browser).into_iter().map(|it| it.pid).collect();
        let line = command_line(browser).join(" ");
        let port: u16 = line
            .split("--remote-debugging-port=")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        pids.push(proxy.pid());
        let open = listening(&pids);
        assert!(open.iter().any(|it| it.1 == port), "{port} in {open:?}");
        for (address, at) in &open {
            let is_loopback = address == "0100007F" || address == "00000000000000000000000001000000";
            assert!(is_loopback, "port {at} is open on {address}");
        }
        // From any other address of this machine, as from outside.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            let own = socket.local_addr().unwrap().ip();
            assert!(TcpStream::connect((own, port)).await.is_err(), "reached on {own}");
        }
        // A page that got hold of the port by a name of its own is not served.
        let asked = proxy.client.get(format!("http://127.0.0.1:{port}/json/version"));
        let refused = asked.header("host", "evil.example").send().await.unwrap();
        assert!(!refused.status().is_success(), "{}", refused.status());
        assert_ne!(port, 9222);
        ports.push(port);
    }
    assert_ne!(ports[0], ports[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_what_ends_in_time_cuts_the_rest_and_closes_the_profile() {
    let site = site().await;
    let mut proxy = Program::start(&site, &[("TABPROXY_DRAIN", "8s")]).await;
    proxy.wait_ready().await;
    let browser = proxy.browser().unwrap();
    let (short, long) = ("hello count=20 interval=100", "hello count=100000 interval=50");
    let mut streams = Vec::new();
    for n in 0..10 {
        let prompt = if n < 5 { short } else { long };
        let mut stream = proxy.ask(&format!("m{n}"), prompt).await.bytes_stream();
        let first = stream.next().await.unwrap().unwrap();
        streams.push(tokio::spawn(async move {
            let rest: Vec<_> = stream.collect().await;
            let is_whole = rest.iter().all(Result::is_ok);
            let bytes: Vec<u8> = rest.into_iter().flatten().flatten().collect();
            (is_whole, [first.to_vec(), bytes].concat(), Instant::now())
        }));
    }
    // Those that a drain must not wait for: uploads without an end, and readers that do not read.
    let stuck = (0..5).map(|n| {
        let addr = proxy.addr;
        tokio::spawn(async move {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            if n < 3 {
                let head = "POST /backend-api/practice/mirror HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
                socket.write_all(head.as_bytes()).await.unwrap();
                let mut tick = tokio::time::interval(Duration::from_millis(50));
                while socket.write_all(b"5\r\nhello\r\n").await.is_ok() {
                    tick.tick().await;
                }
            } else {
                let request = "GET /backend-api/practice/bytes?n=200000000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
                socket.write_all(request.as_bytes()).await.unwrap();
                // Writing nothing fails once the other side is gone.
                let mut tick = tokio::time::interval(Duration::from_millis(50));
                while socket.write_all(b"\r\n").await.is_ok() {
                    tick.tick().await;
                }
            }
        })
    });
    let stuck: Vec<_> = stuck.collect();
    let began = Instant::now();
    while proxy.metric("tabproxy_inflight").await < 12.0 {
        assert!(began.elapsed() < PATIENCE);
    }

    proxy.signal(Signal::TERM);
    let since = Instant::now();
    // Not ready at once: refused, since nobody is let in any more. A monitor reads that as it reads a 503.
    loop {
        match proxy.client.get(proxy.url("/readyz")).send().await {
            Ok(answer) if answer.status() == 503 => break,
            Ok(_) => assert!(since.elapsed() < Duration::from_secs(2), "still ready"),
            Err(_) => break,
        }
    }
    println!("not ready after {:?}", since.elapsed());
    let refused = proxy
        .client
        .post(proxy.url("/backend-api/conversation"))
        .json(&crate::rig::turn("late", short))
        .send()
        .await;
    assert!(refused.is_err() || refused.is_ok_and(|it| it.status() == 503));

    let status = proxy.ended().await;
    let took = since.elapsed();
    println!("ended after {took:?}");
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
    assert!(took < Duration::from_secs(8 + 10), "{took:?}");
    for (n, end) in join_all(streams).await.into_iter().enumerate() {
        let (is_whole, bytes, at) = end.unwrap();
        println!("stream {n} ended {:?} after the signal", at.saturating_duration_since(since));
        let is_done = bytes.ends_with(b"data: [DONE]\n\n");
        assert_eq!((is_whole, is_done), (n < 5, n < 5), "stream {n}");
        if n < 5 {
            assert_eq!(last_text(&bytes), answer_text(short));
        }
    }
    let ended = tokio::time::timeout(PATIENCE, join_all(stuck)).await;
    assert!(ended.expect("none hangs").iter().all(Result::is_ok));
    // Its helpers follow it at their own pace.
    eventually(|| of(proxy.home.path(), browser).len(), |it| *it == 0).await;
    let preferences = fs::read_to_string(proxy.home.path().join("profile/Default/Preferences")).unwrap();
    let preferences: serde_json::Value = serde_json::from_str(&preferences).unwrap();
    assert_eq!(preferences["profile"]["exit_type"], "Normal");
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    let seen = site.counters().posts_by_message_id;
    assert!(seen.len() == 10 && seen.values().all(|it| *it == 1), "{seen:?}");
}

/// Fills a disk until there is no room for a byte.
fn fill(file: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(file).unwrap();
    for size in [1 << 20, 4096, 1] {
        let piece = vec![b'x'; size];
        while file.write_all(&piece).is_ok() {}
    }
}

/// Needs the right to mount, in a mount namespace of its own; where there is none it says so and ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_survived() {
    let mounts = Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .stderr(Stdio::null())
        .status();
    if !mounts.is_ok_and(|it| it.success()) {
        println!("skipped: no right to mount a file system here");
        return;
    }
    let site = site().await;
    let home = TempDir::new().unwrap();
    let disk = home.path().join("disk");
    fs::create_dir_all(&disk).unwrap();
    let shown = disk.to_str().unwrap().to_owned();
    let setup = format!(
        "mount -t tmpfs -o size=192m tmpfs {shown} && mkdir {shown}/log && dd if=/dev/zero of={shown}/fill bs=1M 2>/dev/null"
    );
    let (profile, log) = (format!("{shown}/profile"), format!("{shown}/log/tabproxy.log"));
    let vars = [("TABPROXY_PROFILE", &*profile), ("TABPROXY_LOG_FILE", &*log), ("TABPROXY_QUEUE_WAIT", "1s")];
    let proxy = Program::in_shell("exec unshare -m sh", &setup, home, &site, &vars).await;
    // The disk as the proxy sees it.
    let inside = PathBuf::from(format!("/proc/{}/root{shown}", proxy.pid()));

    // Full from the beginning.
    eventually(|| proxy.log(), |it| it.contains("No space left on device")).await;
    assert_eq!(proxy.get("/healthz").await.status(), 200);
    assert_eq!(proxy.get("/readyz").await.status(), 503);
    let refused = proxy.ask("full", "hello").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(code_of(refused).await, "not_ready");
    fs::remove_file(inside.join("fill")).unwrap();
    proxy.wait_ready().await;
    let prompt = "hello count=3 interval=1";
    let works = async |id: &str| {
        let answer = proxy.ask(id, prompt).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(last_text(&answer.bytes().await.unwrap()), answer_text(prompt));
    };
    works("first").await;

    // Full while it runs: what runs goes on, and a browser that is lost then is told of as above.
    fill(&inside.join("fill"));
    works("second").await;
    let browser = proxy.browser().unwrap();
    kill_process_group(Pid::from_raw(browser).unwrap(), Signal::KILL).unwrap();
    eventually(|| proxy.browser(), |it| *it != Some(browser)).await;
    let during = proxy.ask("during", prompt).await;
    assert!([200, 503].contains(&during.status().as_u16()), "{}", during.status());
    println!("with a full disk under a browser that starts again: {}", during.status());
    drop(during);
    fs::remove_file(inside.join("fill")).unwrap();
    proxy.wait_ready().await;
    works("third").await;
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    assert!(site.counters().posts_by_message_id.values().all(|it| *it == 1));
}

/// A program in the place of Chromium: notes when it is started, then does what `behave` says; once a file
/// `well` lies beside it, it is the real one.
fn actor(dir: &Path, behave: &str) -> PathBuf {
    let path = dir.join("chromium");
    let real = find_chromium().unwrap();
    let script = format!(
        "#!/bin/sh\ndate +%s.%N >> {dir}/starts\n[ -e {dir}/well ] && exec {real} \"$@\"\n{behave}\n",
        dir = dir.display(),
        real = real.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// When it was started, in seconds.
fn starts(dir: &Path) -> Vec<f64> {
    let starts = fs::read_to_string(dir.join("starts")).unwrap_or_default();
    starts.lines().filter_map(|it| it.parse().ok()).collect()
}

fn gaps(starts: &[f64]) -> Vec<f64> {
    starts.windows(2).map(|it| it[1] - it[0]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chromium_that_exits_at_once_is_started_ever_more_rarely_and_callers_are_told() {
    let dir = TempDir::new().unwrap();
    let chromium = actor(dir.path(), "echo no room here >&2; exit 7");
    let rig = Rig::starting(PracticeArgs::default(), |config| {
        (config.chromium, config.ping) = (Some(chromium), None);
    })
    .await;
    // Who comes early waits for a page, but not for the half minute that a request may wait.
    let asked = Instant::now();
    let refused = rig.ask("early", "hello").await;
    println!("refused in {:?}, when it was plain that it fails", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(code_of(refused).await, "not_ready");
    eventually(|| starts(dir.path()), |it| it.len() >= 6).await;
    let between = gaps(&starts(dir.path()));
    println!("started again after {between:.2?} s");
    // The first at once, then 1, 2, 4, 8 s, each up to a quarter shorter, and what starting takes.
    for (n, gap) in between[1..].iter().enumerate() {
        let full = f64::from(1 << n);
        assert!(*gap > full * 0.74, "start {} after {gap} s", n + 2);
    }
    let mut status = rig.server.browser().watch();
    let told = |it: &Status| it.reason.contains("exit status: 7") && it.reason.contains("no room here");
    tokio::time::timeout(PATIENCE, status.wait_for(told)).await.expect("told").unwrap();
    // From then on callers are told at once, with the time of the next attempt.
    let asked = Instant::now();
    let refused = rig.ask("later", "hello").await;
    let took = asked.elapsed();
    println!("refused in {took:?}");
    assert_eq!(refused.status(), 503);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((5..=60).contains(&wait), "{wait}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    fs::write(dir.path().join("well"), "").unwrap();
    rig.wait_ready().await;
    assert_eq!(rig.ask("well", "hello count=1").await.status(), 200);
    assert_eq!(rig.counters().posts_by_message_id.len(), 1, "nothing was sent before");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pause_between_starts_has_a_cap() {
    let dir = TempDir::new().unwrap();
    let ms = Duration::from_millis;
    let spec = BrowserSpec {
        upkeep: Upkeep { carriers: 1, exchanges: u64::MAX, age: Duration::MAX, memory: u64::MAX },
        source: Source::Launch(LaunchSpec {
            binary: actor(dir.path(), "exit 1"),
            profile: dir.path().join("profile"),
            headless: true,
            sandbox: Sandbox::Off,
            extra: Vec::new(),
            resolve: Vec::new(),
            pins: Vec::new(),
            proxy_server: None,
            proxy_bypass: String::new(),
        }),
        url: "http://localhost:9/".parse().unwrap(),
        timing: Timing { backoff: (ms(100), ms(800)), ..Timing::default() },
        buffers: BufferLimits::default(),
    };
    let browser = Browser::start(spec).await.unwrap();
    eventually(|| starts(dir.path()), |it| it.len() >= 10).await;
    let between = gaps(&starts(dir.path()));
    println!("started again after {between:.2?} s");
    for (n, gap) in between[1..].iter().enumerate() {
        let full = (0.1 * f64::from(1 << n)).min(0.8);
        assert!(*gap > full * 0.74, "start {} after {gap} s", n + 2);
    }
    // At the cap it stays, whatever the number of attempts: without one the last pause would be 25 s.
    assert!(between[8] < 8.0, "{between:?}");
    browser.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chromium_that_says_nothing_is_given_up_and_killed() {
    let dir = TempDir::new().unwrap();
    let chromium = actor(dir.path(), "exec sleep 1000");
    let rig = Rig::starting(PracticeArgs::default(), |config| {
        (config.chromium, config.queue_wait) = (Some(chromium), Duration::from_secs(1));
    })
    .await;
    eventually(|| starts(dir.path()), |it| it.len() == 1).await;
    let sleeps = || {
        let ours = rustix::process::getpid().as_raw_nonzero().get();
        processes()
            .into_iter()
            .filter(|it| it.parent == ours && command_line(it.pid) == ["sleep", "1000"])
            .map(|it| it.pid)
            .collect::<Vec<_>>()
    };
    let first = eventually(sleeps, |it| !it.is_empty()).await;
    let refused = rig.ask("early", "hello").await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
    assert_eq!(rig.get("/healthz").await.status(), 200);
    // It is given half a minute to say where it listens; the next one is well.
    fs::write(dir.path().join("well"), "").unwrap();
    rig.wait_ready().await;
    assert!(starts(dir.path()).len() >= 2);
    eventually(sleeps, |it| !it.contains(&first[0])).await;
    assert_eq!(rig.ask("well", "hello count=1").await.status(), 200);
    assert_eq!(rig.counters().posts_by_message_id.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chromium_that_can_no_longer_be_run_is_told_of_and_waited_for() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("well"), "").unwrap();
    let chromium = actor(dir.path(), "exit 1");
    let path = chromium.clone();
    let rig = Rig::with(PracticeArgs::default(), |config| {
        (config.chromium, config.queue_wait) = (Some(chromium), Duration::from_secs(1));
    })
    .await;
    // As an update in progress does it: away for a while, then there, then without its right to run.
    let away = dir.path().join("away");
    fs::rename(&path, &away).unwrap();
    kill_process_group(Pid::from_raw(rig.server.browser().status().pid.unwrap()).unwrap(), Signal::KILL)
        .unwrap();
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.reason.contains("No such file")).await.unwrap();
    let refused = rig.ask("away", "hello").await;
    assert_eq!((refused.status().as_u16(), code_of(refused).await.as_str()), (503, "not_ready"));
    fs::set_permissions(&away, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&away, &path).unwrap();
    status.wait_for(|it| it.reason.contains("Permission denied")).await.unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    rig.wait_ready().await;
    assert_eq!(rig.ask("back", "hello count=1").await.status(), 200);
    assert_eq!(rig.counters().posts_by_message_id.len(), 1);
}
