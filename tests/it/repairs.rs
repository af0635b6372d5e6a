//! Parts of the browser that die, stand still or wear out: the cheapest repair that helps, in time, and
//! without a second POST.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use rustix::process::Signal;
use tabproxy::browser::Phase;
use tabproxy::config::Config;
use tabproxy::practice::{PracticeArgs, answer_text};

use crate::processes::{exists, group, kill, of_kind, signal};
use crate::rig::{Rig, eventually, last_text};

/// From an injury to what follows it, beside the deadline that it has on a machine of its own. Other tests run
/// meanwhile, so only three times as long fails.
fn within(what: &str, limit: f64, began: Instant) {
    let took = began.elapsed().as_secs_f64();
    println!("{what}: {took:.2} s (at most {limit} s)");
    assert!(took <= 3.0 * limit, "{what} took {took:.2} s");
}

fn browser_of(rig: &Rig) -> i32 {
    rig.server.browser().status().pid.unwrap()
}

async fn answers(rig: &Rig, id: &str) {
    let prompt = "hello again count=3";
    let answer = rig.ask(id, prompt).await.bytes().await.unwrap();
    assert_eq!(last_text(&answer), answer_text(prompt), "{id}");
}

/// Asks until an answer is whole; what fails meanwhile must say so.
async fn answers_again(rig: &Rig, id: &str) {
    let prompt = "hello again count=3";
    for n in 0.. {
        let answer = rig.ask(&format!("{id}-{n}"), prompt).await;
        let status = answer.status();
        match answer.bytes().await {
            Ok(body) if status == 200 => return assert_eq!(last_text(&body), answer_text(prompt)),
            Ok(body) => assert!(body.starts_with(b"{\"error\":"), "{status} {body:?}"),
            Err(_) => assert_eq!(status, 200, "only an answer that had begun is cut"),
        }
    }
}

fn sent_once(rig: &Rig) {
    let seen = rig.counters().posts_by_message_id;
    assert!(seen.values().all(|it| *it == 1), "{seen:?}");
}

async fn with_carriers(n: usize) -> Rig {
    Rig::with(PracticeArgs::default(), |config| config.carriers = n).await
}

/// Waits until all carriers that are wanted can be used.
async fn all_carriers(rig: &Rig, n: usize) {
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.carriers.len() == n).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renderer_that_dies_takes_one_carrier_with_it_and_the_next_request_does_not_wait() {
    let rig = with_carriers(2).await;
    all_carriers(&rig, 2).await;
    let browser = browser_of(&rig);
    let mut stream = rig.ask("dies", "hello count=100000 interval=20").await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    // Which of the renderers carries the stream is not to be seen from outside: each dies in its turn.
    let mut harmed = false;
    for (n, renderer) in of_kind(browser, "renderer").into_iter().enumerate() {
        let before = rig.server.browser().status();
        let began = Instant::now();
        kill(renderer);
        if !harmed {
            let cut = async { while stream.next().await.is_some_and(|it| it.is_ok()) {} };
            harmed = tokio::time::timeout(Duration::from_millis(500), cut).await.is_ok();
            if harmed {
                within("renderer killed: the stream's error", 1.0, began);
                let began = Instant::now();
                answers(&rig, &format!("after-{n}")).await;
                within("renderer killed: the next request, with a spare", 1.0, began);
            }
        }
        all_carriers(&rig, 2).await;
        let lost = before.carriers.iter().filter(|it| it.is_closed()).count();
        assert!(lost <= 1, "one renderer carried {lost} carriers");
    }
    assert!(harmed, "one of them carried the stream");
    assert_eq!(browser_of(&rig), browser, "no new browser for that");
    assert_eq!(rig.server.browser().status().phase, Phase::Ready);
    sent_once(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_spare_the_next_request_waits_for_another_page() {
    let rig = with_carriers(1).await;
    let browser = browser_of(&rig);
    of_kind(browser, "renderer").into_iter().for_each(kill);
    let began = Instant::now();
    answers(&rig, "waits").await;
    within("all renderers killed: the next request, without a spare", 3.0, began);
    assert_eq!(browser_of(&rig), browser);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_dead_renderers_leave_no_zombies() {
    let rig = Rig::ready().await;
    let browser = browser_of(&rig);
    let mut killed = 0;
    while killed < 100 {
        let renderers = of_kind(browser, "renderer");
        killed += renderers.len();
        renderers.into_iter().for_each(kill);
        answers(&rig, &format!("after-{killed}")).await;
    }
    let zombies =
        || group(browser).into_iter().filter(|it| it.state == "Z").map(|it| it.pid).collect::<Vec<_>>();
    eventually(zombies, |it| it.is_empty()).await;
    assert_eq!(browser_of(&rig), browser);
    sent_once(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn renderers_that_stand_still_are_replaced() {
    let rig = Rig::ready().await;
    let browser = browser_of(&rig);
    let mut stream = rig.ask("still", "hello count=100000 interval=20").await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    let stopped = of_kind(browser, "renderer");
    let began = Instant::now();
    stopped.iter().for_each(|pid| signal(*pid, Signal::STOP));
    while stream.next().await.is_some_and(|it| it.is_ok()) {}
    within("renderers stopped: the stream's error", 15.0, began);
    answers(&rig, "after").await;
    within("renderers stopped: the next request", 15.0, began);
    // The site's own tab was among them.
    eventually(|| stopped.iter().filter(|it| exists(**it)).count(), |it| *it == 0).await;
    assert_eq!(browser_of(&rig), browser);
    sent_once(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_stands_still_is_replaced_with_its_whole_group() {
    let rig = Rig::ready().await;
    let browser = browser_of(&rig);
    let began = Instant::now();
    signal(browser, Signal::STOP);
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.browsers == 2).await.unwrap();
    within("browser stopped: given up", 20.0, began);
    answers(&rig, "after").await;
    eventually(|| group(browser), |it| it.is_empty()).await;
    sent_once(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_of_the_browser_may_die_without_a_restart() {
    let rig = Rig::ready().await;
    let browser = browser_of(&rig);
    for kind in ["gpu-process", "utility", "zygote"] {
        let victims = of_kind(browser, kind);
        assert!(!victims.is_empty(), "there is a {kind}");
        let began = Instant::now();
        victims.into_iter().for_each(kill);
        answers_again(&rig, kind).await;
        within(&format!("{kind} killed: the next request"), 3.0, began);
    }
    assert_eq!(browser_of(&rig), browser);
    sent_once(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_starved_machine_is_no_reason_to_restart() {
    let rig = Rig::ready().await;
    let (browser, pages) = (browser_of(&rig), rig.server.browser().status().pages);
    let until = Instant::now() + Duration::from_secs(20);
    let busy: Vec<_> = (0..32)
        .map(|_| {
            std::thread::spawn(move || {
                while Instant::now() < until {
                    std::hint::spin_loop()
                }
            })
        })
        .collect();
    let mut n = 0;
    while Instant::now() < until {
        answers(&rig, &format!("starved-{n}")).await;
        n += 1;
    }
    busy.into_iter().for_each(|it| it.join().unwrap());
    answers(&rig, "after").await;
    let now = rig.server.browser().status();
    assert_eq!((now.pid, now.browsers), (Some(browser), 1));
    assert!(now.pages <= pages + 2, "{} pages opened", now.pages - pages);
    sent_once(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_replaced_after_their_share_of_work_and_streams_in_them_end_by_themselves() {
    let few = |config: &mut Config| config.page_exchanges = 10;
    let rig = Rig::with(PracticeArgs::default(), few).await;
    let prompt = "hello count=200 interval=40";
    let long = async { rig.ask("long", prompt).await.bytes().await.unwrap() };
    let many = async {
        let mut n = 0;
        while rig.server.browser().status().pages < 6 {
            let ids: Vec<_> = (n..n + 5).map(|it| format!("short-{it}")).collect();
            join_all(ids.iter().map(|id| answers(&rig, id))).await;
            n += 5;
        }
        n
    };
    let (long, answered) = tokio::join!(long, many);
    assert_eq!(last_text(&long), answer_text(prompt), "the stream in a page that was retired is whole");
    println!("{answered} requests were answered by {} pages", rig.server.browser().status().pages);
    assert_eq!(rig.server.browser().status().browsers, 1);
    sent_once(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_site_that_leaks_is_renewed_and_streams_do_not_notice() {
    let little = |config: &mut Config| config.page_memory = 64 << 20;
    let rig = Rig::starting(PracticeArgs::default(), little).await;
    rig.site.set_leak(8);
    rig.wait_ready().await;
    let loads = rig.counters().home_loads;
    let prompt = "hello count=600 interval=50";
    let stream = rig.ask("m", prompt);
    let renewed = eventually(|| rig.counters().home_loads, |it| *it > loads);
    let (answer, _) = tokio::join!(async { stream.await.bytes().await.unwrap() }, renewed);
    assert_eq!(last_text(&answer), answer_text(prompt));
    let now = rig.server.browser().status();
    assert_eq!(now.browsers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_site_that_reloads_itself_all_the_time_harms_nobody() {
    let rig = Rig::starting(PracticeArgs::default(), |_| {}).await;
    rig.site.set_restless(true);
    rig.wait_ready().await;
    let first = rig.counters().home_loads;
    let mut n = 0;
    while rig.counters().home_loads < first + 100 {
        answers(&rig, &format!("m{n}")).await;
        n += 1;
    }
    let now = rig.server.browser().status();
    assert_eq!((now.browsers, now.pages), (1, 2), "and nothing was opened for that");
    sent_once(&rig);
}
