//! Parts of the browser that die or stand still: the cheapest repair that helps, in time, and without a
//! second POST.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use rustix::process::Signal;
use tabproxy::browser::Phase;
use tabproxy::practice::PracticeArgs;

use crate::rig::{Rig, eventually};
use crate::shared::procfs::{exists, kill, members, of_kind, signal};
use crate::{alone, within};

/// Asks until an answer is whole; what fails meanwhile must say so.
async fn answers_again(rig: &Rig, id: &str) {
    for n in 0.. {
        let answer = rig.ask(&format!("{id}-{n}"), "hello again count=3").await;
        let status = answer.status();
        match answer.bytes().await {
            Ok(body) if status == 200 => return assert!(body.ends_with(b"data: [DONE]\n\n")),
            Ok(body) => assert!(body.starts_with(b"{\"error\":"), "{status} {body:?}"),
            Err(_) => assert_eq!(status, 200, "only an answer that had begun is cut"),
        }
    }
}

async fn with_carriers(n: usize) -> Rig {
    let rig = Rig::with(PracticeArgs::default(), |config| config.carriers = n).await;
    all_carriers(&rig, n).await;
    rig
}

/// Waits until all carriers that are wanted can be used.
async fn all_carriers(rig: &Rig, n: usize) {
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.carriers.len() == n).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renderer_that_dies_takes_one_carrier_with_it_and_the_next_request_does_not_wait() {
    let _alone = alone().await;
    let rig = with_carriers(2).await;
    let browser = rig.browser();
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
                rig.answers(&format!("after-{n}")).await;
                within("renderer killed: the next request, with a spare", 1.0, began);
            }
        }
        all_carriers(&rig, 2).await;
        let lost = before.carriers.iter().filter(|it| it.is_closed()).count();
        assert!(lost <= 1, "one renderer carried {lost} carriers");
    }
    assert!(harmed, "one of them carried the stream");
    assert_eq!(rig.browser(), browser, "no new browser for that");
    assert_eq!(rig.server.browser().status().phase, Phase::Ready);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_spare_the_next_request_waits_for_another_page() {
    let _alone = alone().await;
    let rig = with_carriers(1).await;
    let browser = rig.browser();
    of_kind(browser, "renderer").into_iter().for_each(kill);
    let began = Instant::now();
    rig.answers("waits").await;
    within("all renderers killed: the next request, without a spare", 3.0, began);
    assert_eq!(rig.browser(), browser);
}

#[tokio::test(flavor = "multi_thread")]
async fn renderers_that_stand_still_are_replaced() {
    let _alone = alone().await;
    let rig = Rig::ready().await;
    let browser = rig.browser();
    let mut stream = rig.ask("still", "hello count=100000 interval=20").await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    let stopped = of_kind(browser, "renderer");
    let began = Instant::now();
    stopped.iter().for_each(|pid| signal(*pid, Signal::STOP));
    while stream.next().await.is_some_and(|it| it.is_ok()) {}
    within("renderers stopped: the stream's error", 15.0, began);
    rig.answers("after").await;
    within("renderers stopped: the next request", 15.0, began);
    // The site's own tab was among them.
    eventually(|| stopped.iter().filter(|it| exists(**it)).count(), |it| *it == 0).await;
    assert_eq!(rig.browser(), browser);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_stands_still_is_replaced_with_its_whole_group() {
    let _alone = alone().await;
    let rig = Rig::ready().await;
    let browser = rig.browser();
    let began = Instant::now();
    signal(browser, Signal::STOP);
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.browsers == 2).await.unwrap();
    within("browser stopped: given up", 20.0, began);
    rig.answers("after").await;
    eventually(|| members(browser), |it| it.is_empty()).await;
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_of_the_browser_may_die_without_a_restart() {
    let _alone = alone().await;
    let rig = Rig::ready().await;
    let browser = rig.browser();
    for kind in ["gpu-process", "utility", "zygote"] {
        let victims = of_kind(browser, kind);
        assert!(!victims.is_empty(), "there is a {kind}");
        let began = Instant::now();
        victims.into_iter().for_each(kill);
        answers_again(&rig, kind).await;
        within(&format!("{kind} killed: the next request"), 3.0, began);
    }
    assert_eq!(rig.browser(), browser);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_dies_is_told_to_its_streams_and_started_again() {
    let _alone = alone().await;
    let rig = Rig::ready().await;
    let mut streams = Vec::new();
    for n in 0..5 {
        let mut stream = rig.ask(&format!("m{n}"), "hello count=100000 interval=20").await.bytes_stream();
        stream.next().await.unwrap().unwrap();
        streams.push(stream);
    }
    let began = Instant::now();
    kill(rig.browser());
    let ends = streams.into_iter().map(|mut stream| async move {
        while let Some(chunk) = stream.next().await {
            if chunk.is_err() {
                return;
            }
        }
        panic!("a part of an answer ended as if it were whole");
    });
    join_all(ends).await;
    within("browser killed: the streams' errors", 2.0, began);
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.browsers == 2 && it.is_ready()).await.unwrap();
    within("browser killed: ready", 10.0, began);
    rig.answers("after").await;
    rig.sent_once();
}
