//! More than there is room for: crowds, readers that hardly read, thousands of requests, and no descriptors
//! left. Memory stays bounded, refusals are quick, and afterwards everything is as before.

use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tabproxy::config::Config;
use tabproxy::practice::{Practice, PracticeArgs, answer_text};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;
use tokio_util::sync::CancellationToken;

use crate::program::Program;
use crate::rig::{PATIENCE, Rig, eventually, last_text, turn};
use crate::shared::procfs::{cpu_of, of_kind, resident};

const MB: u64 = 1 << 20;

/// A connection whose receive buffer in the kernel is small, so that not reading is felt at once.
async fn narrow(addr: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(addr).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_byte_a_second_cost_little_memory_and_are_told_in_the_end() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let proxy = Program::start(&site, &[]).await;
    proxy.wait_ready().await;
    // Both sides have seen some load.
    for _ in 0..3 {
        assert_eq!(
            proxy.get("/backend-api/practice/bytes?n=20000000").await.bytes().await.unwrap().len(),
            20_000_000
        );
    }
    let browser = proxy.browser().unwrap();
    let memory = || {
        let pages = of_kind(browser, "renderer");
        (resident(proxy.pid()), pages.into_iter().map(resident).sum::<u64>())
    };
    let before = memory();

    let given_up = CancellationToken::new();
    let slow = (0..4).map(|_| {
        let (addr, given_up) = (proxy.addr, given_up.clone());
        tokio::spawn(async move {
            let mut socket = narrow(addr).await;
            let request = "GET /backend-api/practice/bytes?n=200000000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            let mut got = Vec::new();
            // Until the proxy has given it up; then what is still on its way, and the end.
            while !given_up.is_cancelled() {
                tick.tick().await;
                match socket.read_u8().await {
                    Ok(byte) => got.push(byte),
                    Err(_) => break,
                }
            }
            let rest = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut got)).await;
            assert!(rest.is_ok(), "hangs after {} bytes", got.len());
            (got.starts_with(b"HTTP/1.1 200"), got.ends_with(b"0\r\n\r\n"), got.len())
        })
    });
    let slow: Vec<_> = slow.collect();
    let mut worst = before;
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    eventually(|| site.counters().active, |it| *it == 4).await;
    while proxy.metric("tabproxy_inflight").await > 0.0 {
        tick.tick().await;
        let now = memory();
        worst = (worst.0.max(now.0), worst.1.max(now.1));
        assert!(began.elapsed() < 2 * PATIENCE, "their places are still taken");
    }
    println!("given up after {:?}", began.elapsed());
    given_up.cancel();
    for ended in join_all(slow).await {
        let (is_answer, is_whole, n) = ended.unwrap();
        assert!(is_answer && !is_whole && n < 200_000_000, "{is_answer} {is_whole} {n}");
    }
    println!(
        "proxy {} MB, at most {} MB; renderers {} MB, at most {} MB",
        before.0 / MB,
        worst.0 / MB,
        before.1 / MB,
        worst.1 / MB
    );
    assert!(worst.0 < before.0 + 32 * MB, "the proxy grew from {} to {} MB", before.0 / MB, worst.0 / MB);
    assert!(worst.1 < before.1 + 32 * MB, "the page grew from {} to {} MB", before.1 / MB, worst.1 / MB);
    eventually(|| site.counters().active, |it| *it == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_near_the_end_gives_its_place_back() {
    // Without pings: with them, a stream begins before its place is free.
    let one = |config: &mut Config| (config.max_inflight, config.ping) = (1, None);
    let rig = Rig::with(PracticeArgs::default(), one).await;
    // Little enough that the page has handed over all of it, too much for the kernel's buffers.
    let mut still = narrow(rig.addr()).await;
    let request = "GET /backend-api/practice/bytes?n=3900000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    still.write_all(request.as_bytes()).await.unwrap();
    assert!(still.read(&mut [0; 512]).await.unwrap() > 0);
    eventually(|| rig.counters(), |it| it.active == 0).await;
    eventually(|| rig.server.browser().status().buffered, |it| *it > 0).await;
    let began = Instant::now();
    while rig.ask("next", "hello count=1").await.status() != 200 {
        assert!(began.elapsed() < PATIENCE, "the place is still taken");
    }
    println!("the place was free after {:?}", began.elapsed());
    let mut rest = Vec::new();
    let _ = still.read_to_end(&mut rest).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "what was let go never looks whole");
}

/// Over HTTP/2 the connection is well while one of its streams stands still.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stands_still_on_a_living_connection_gives_its_place_back() {
    let two = |config: &mut Config| (config.max_inflight, config.ping) = (2, None);
    let rig = Rig::with(PracticeArgs::default(), two).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let mut still = Vec::new();
    // The page has handed over all of the one, and has been stopped in the middle of the other.
    for n in [3_900_000, 200_000_000u64] {
        let url = rig.url(&format!("/backend-api/practice/bytes?n={n}"));
        let answer = client.get(url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
        still.push(answer);
    }
    let began = Instant::now();
    let mut ids = 0..;
    for served in 1..=2 {
        // Two that stay, so that both places must be free.
        let running = loop {
            let answer =
                rig.ask(&format!("next{}", ids.next().unwrap()), "hello count=100000 interval=100").await;
            if answer.status() == 200 {
                break answer;
            }
            assert!(began.elapsed() < 2 * PATIENCE, "a place is still taken");
        };
        println!("place {served} was free after {:?}", began.elapsed());
        still.push(running);
    }
    for answer in still.drain(..2) {
        assert!(answer.bytes().await.is_err(), "what was let go never looks whole");
    }
    assert!(rig.counters().posts_by_message_id.values().all(|it| *it == 1));
}

/// Asks over an open connection; how long until the head is there, its text, and the body.
async fn timed(mut socket: TcpStream, id: &str, prompt: &str) -> (Duration, String, Vec<u8>, Duration) {
    let body = turn(id, prompt).to_string();
    let request = format!(
        "POST /backend-api/conversation HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let began = Instant::now();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let end = loop {
        if let Some(at) = got.windows(4).position(|it| it == b"\r\n\r\n") {
            break at;
        }
        assert!(socket.read_buf(&mut got).await.unwrap() > 0, "closed without an answer");
    };
    let to_head = began.elapsed();
    socket.read_to_end(&mut got).await.unwrap();
    let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
    (to_head, head, got.split_off(end + 4), began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_hundred_at_once_some_are_served_and_the_others_refused_at_once() {
    const ROOM: usize = 40;
    let rig = Rig::with(PracticeArgs::default(), |config| {
        (config.max_inflight, config.queue) = (ROOM / 2, ROOM / 2)
    })
    .await;
    let prompt = "hello count=20 interval=50";
    // As many as run at once, with nobody else there.
    let alone = (0..ROOM / 2).map(|n| {
        let addr = rig.addr();
        async move { timed(TcpStream::connect(addr).await.unwrap(), &format!("alone{n}"), prompt).await.3 }
    });
    let mut alone = join_all(alone).await;
    alone.sort_unstable();

    // One after the other while all is full: how long a refusal itself takes.
    let full: Vec<_> = (0..ROOM)
        .map(|n| {
            let addr = rig.addr();
            tokio::spawn(async move {
                timed(
                    TcpStream::connect(addr).await.unwrap(),
                    &format!("full{n}"),
                    "hello first=1000 count=1",
                )
                .await
            })
        })
        .collect();
    while rig.get("/readyz").await.status() == 200 {}
    let mut single = Vec::new();
    while let refused = timed(TcpStream::connect(rig.addr()).await.unwrap(), "single", prompt).await
        && refused.1.starts_with("http/1.1 429")
    {
        single.push(refused.0);
    }
    join_all(full).await.into_iter().for_each(|it| assert!(it.unwrap().1.starts_with("http/1.1 200")));
    single.sort_unstable();
    println!(
        "{} refused one by one: median {:?}, worst {:?}",
        single.len(),
        single[single.len() / 2],
        single[single.len() - 1]
    );
    assert!(single[single.len() / 2] < Duration::from_millis(50), "{single:?}");

    let together = std::sync::Arc::new(Barrier::new(500));
    let crowd = (0..500).map(|n| {
        let (addr, together) = (rig.addr(), together.clone());
        tokio::spawn(async move {
            together.wait().await;
            let began = Instant::now();
            let socket = TcpStream::connect(addr).await.unwrap();
            let connected = began.elapsed();
            let (to_head, head, body, whole) = timed(socket, &format!("crowd{n}"), prompt).await;
            (connected + to_head, head, body, connected + whole)
        })
    });
    let ends =
        tokio::time::timeout(PATIENCE, join_all(crowd.collect::<Vec<_>>())).await.expect("nothing hangs");
    let (mut served, mut refused) = (Vec::new(), Vec::new());
    for (to_head, head, body, whole) in ends.into_iter().map(Result::unwrap) {
        if head.starts_with("http/1.1 200") {
            assert!(body.ends_with(b"0\r\n\r\n"), "served, but not to the end");
            assert!(String::from_utf8_lossy(&body).contains("data: [DONE]"));
            served.push((to_head, whole));
        } else {
            assert!(head.starts_with("http/1.1 429") || head.starts_with("http/1.1 503"), "{head}");
            assert!(head.contains("\r\nretry-after: "), "{head}");
            refused.push(to_head);
        }
    }
    served.sort_unstable();
    refused.sort_unstable();
    // The first ROOM/2 run at once and the others after them.
    let running: Vec<_> = served.iter().take(ROOM / 2).map(|it| it.1).collect();
    println!(
        "{} refused: median {:?}, worst {:?}; {} served: {:?} alone, {:?} in the crowd",
        refused.len(),
        refused[refused.len() / 2],
        refused[refused.len() - 1],
        served.len(),
        alone[alone.len() / 2],
        running[running.len() / 2],
    );
    assert!(served.len() >= ROOM, "{} served", served.len());
    // 50 ms on a machine of its own; here five hundred clients share two processors with it and other tests.
    assert!(refused[refused.len() / 2] < Duration::from_secs(1), "{:?}", refused[refused.len() / 2]);
    assert!(refused[refused.len() - 1] < Duration::from_secs(5), "{:?}", refused[refused.len() - 1]);
    let seen = rig.counters().posts_by_message_id;
    // The last of those that came one by one found a place.
    assert_eq!(seen.len(), served.len() + alone.len() + ROOM + 1, "nothing of the refused was sent");
    assert!(seen.values().all(|it| *it == 1), "{seen:?}");
}

/// Memory, descriptors, threads and mappings of a process.
#[derive(Clone, Copy, Debug)]
struct Held {
    resident: u64,
    descriptors: usize,
    threads: usize,
    mappings: usize,
}

fn held(pid: i32) -> Held {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    Held {
        resident: resident(pid),
        descriptors: count("fd"),
        threads: count("task"),
        mappings: maps.lines().count(),
    }
}

/// By default 3,000 requests; `TABPROXY_TEST_REQUESTS=20000` for the whole number.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_requests_leave_nothing_behind() {
    let all: usize = std::env::var("TABPROXY_TEST_REQUESTS").map_or(3000, |it| it.parse().unwrap());
    const WAVE: usize = 100;
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let proxy = Program::start(&site, &[]).await;
    proxy.wait_ready().await;
    let wave = |at: usize| {
        let proxy = &proxy;
        let asks = (0..WAVE).map(move |n| async move {
            match n % 10 {
                // Refused, answered from elsewhere than the page, or left in the middle.
                0 => assert_eq!(proxy.get("/not/served").await.status(), 403),
                1 => assert_eq!(proxy.get("/backend-api/practice/status?code=503").await.status(), 503),
                2 => {
                    let answer = proxy.ask(&format!("left{at}-{n}"), "hello count=1000 interval=100").await;
                    assert_eq!(answer.status(), 200);
                }
                _ => {
                    let prompt = "hello count=5 interval=1";
                    let answer = proxy.ask(&format!("m{at}-{n}"), prompt).await;
                    assert_eq!(answer.status(), 200);
                    assert_eq!(last_text(&answer.bytes().await.unwrap()), answer_text(prompt));
                }
            }
        });
        async move { drop(join_all(asks).await) }
    };
    let warm = all / 3;
    let mut course = Vec::new();
    for at in 0..all / WAVE {
        wave(at).await;
        eventually(|| site.counters().active, |it| *it == 0).await;
        if at * WAVE >= warm {
            course.push(held(proxy.pid()));
        }
    }
    let (first, last) = (course[0], course[course.len() - 1]);
    println!("after {warm}: {first:?}\nafter {all}: {last:?}");
    // The same, but for the sawtooth of an allocator and the client's own pool of connections.
    assert!(last.resident < first.resident + 16 * MB, "{first:?} {last:?}");
    assert!(last.descriptors < first.descriptors + WAVE / 2, "{first:?} {last:?}");
    assert!(last.threads < first.threads + 16, "{first:?} {last:?}");
    assert!(last.mappings < first.mappings + 100, "{first:?} {last:?}");
    for name in ["tabproxy_inflight", "tabproxy_queued", "tabproxy_buffered_bytes"] {
        let began = Instant::now();
        while proxy.metric(name).await > 0.0 {
            assert!(began.elapsed() < PATIENCE, "{name} does not come down");
        }
    }
    let seen = site.counters().posts_by_message_id;
    assert!(seen.values().all(|it| *it == 1), "nothing was sent twice");
    assert_eq!(seen.len(), all / WAVE * 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_descriptors_are_enough_to_refuse_and_to_recover() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    // The browser raises its own limit up to the hard one; the proxy lives with this.
    let proxy = Program::in_shell("exec sh", "ulimit -S -n 64", TempDir::new().unwrap(), &site, &[]).await;
    proxy.wait_ready().await;
    starve(&proxy, &site).await;
    // With fewer yet: a handful of connections more than there are. The limit counts numbers, not descriptors.
    let highest = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().flatten();
    let highest = highest.filter_map(|it| it.file_name().to_str()?.parse::<u64>().ok()).max().unwrap();
    let pid = Pid::from_raw(proxy.pid()).unwrap();
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(highest + 4), maximum: Some(20_000) })
        .unwrap();
    starve(&proxy, &site).await;
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
}

/// Opens far more connections than there are descriptors, and sees what becomes of them and of the rest.
async fn starve(proxy: &Program, site: &Practice) {
    let began = Instant::now();
    let mut crowd = Vec::new();
    for _ in 0..150 {
        let mut socket = TcpStream::connect(proxy.addr).await.unwrap();
        // A part of a head, so that each that is let in stays for a while.
        socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-n: ").await.unwrap();
        crowd.push(socket);
    }
    // Starved for as long as the first ones are waited for; it must not spin meanwhile.
    let before = cpu_of(proxy.pid());
    let since = Instant::now();
    let mut some = [0; 64];
    let closed = tokio::time::timeout(PATIENCE, crowd[0].read(&mut some)).await.expect("closed in time");
    assert!(matches!(closed, Ok(0) | Err(_)));
    let (spent, lasted) = (cpu_of(proxy.pid()) - before, since.elapsed().as_secs_f64());
    println!("starved for {lasted:.2} s: computed for {spent:.2} s");
    assert!(spent < lasted / 4.0, "it spins: {spent:.2} of {lasted:.2} s");
    drop(crowd);
    let prompt = "hello count=3 interval=1";
    let id = format!("after{}", site.counters().posts);
    let answer = tokio::time::timeout(PATIENCE, proxy.ask(&id, prompt)).await.expect("served again");
    assert_eq!(answer.status(), 200);
    assert_eq!(last_text(&answer.bytes().await.unwrap()), answer_text(prompt));
    println!("served again {:?} after it began", began.elapsed());
    assert_eq!(site.counters().posts_by_message_id.get(&id), Some(&1));
}
