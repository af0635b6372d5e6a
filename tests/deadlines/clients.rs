//! Clients that leave or come too many, and a site that cuts: each is answered for in time.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use tabproxy::practice::PracticeArgs;

use crate::rig::{Rig, eventually};
use crate::{alone, within};

async fn places_are_free(rig: &Rig) {
    let began = Instant::now();
    loop {
        let metrics = rig.get("/metrics").await.text().await.unwrap();
        if metrics.lines().any(|it| it == "tabproxy_inflight 0") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "a place is still taken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_the_site_and_frees_its_place() {
    let _alone = alone().await;
    let rig = Rig::ready().await;
    let silent = rig.ask("silent", "hello first=60000");
    assert!(tokio::time::timeout(Duration::from_secs(1), silent).await.is_err(), "the head is a minute away");
    let began = Instant::now(); // dropped by the timeout just now
    eventually(|| rig.counters(), |it| it.aborted == 1 && it.active == 0).await;
    places_are_free(&rig).await;
    within("client gone before the head: the site's side aborted, its place free", 2.0, began);

    let mut stream = rig.ask("streaming", "hello count=100000 interval=20").await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    let began = Instant::now();
    drop(stream);
    eventually(|| rig.counters(), |it| it.aborted == 2 && it.active == 0).await;
    places_are_free(&rig).await;
    within("client gone in mid-stream: the site's side aborted, its place free", 2.0, began);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_all_places_taken_is_refused_at_once() {
    let _alone = alone().await;
    let rig = Rig::with(PracticeArgs::default(), |config| {
        (config.max_inflight, config.queue) = (4, 0);
    })
    .await;
    let taken = join_all((0..4).map(|n| {
        let rig = &rig;
        async move { rig.ask(&format!("m{n}"), "hello count=100000 interval=50").await }
    }))
    .await;
    let mut times = Vec::new();
    for n in 0..50 {
        let began = Instant::now();
        let refused = rig.ask(&format!("refused{n}"), "hello").await;
        times.push((began.elapsed(), began));
        assert_eq!(refused.status(), 429);
        assert!(refused.headers().contains_key("retry-after"));
    }
    times.sort_unstable();
    let (median, worst) = (times[25].0, times[49].0);
    println!("refused for want of a place: median {median:?}, worst {worst:?} (at most 50 ms)");
    assert!(worst <= Duration::from_millis(50), "{worst:?}");
    drop(taken);
    assert_eq!(rig.counters().posts, 4, "none of them was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_site_cuts_is_cut_at_once() {
    let _alone = alone().await;
    let rig = Rig::ready().await;
    let mut stream = rig.ask("reset", "hello count=50 interval=10 reset=5").await.bytes_stream();
    let mut last = Instant::now();
    let mut said = Vec::new();
    while let Some(Ok(chunk)) = stream.next().await {
        said.extend_from_slice(&chunk);
        last = Instant::now();
    }
    within("cut by the site in mid-stream: the error, from its last event on", 1.0, last);
    assert!(!String::from_utf8_lossy(&said).contains("[DONE]"));
    rig.sent_once();
}
