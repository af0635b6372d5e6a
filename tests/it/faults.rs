//! Losing the page, the browser, or patience: nothing hangs, nothing is sent twice, and it comes back.

use futures::StreamExt;
use futures::future::join_all;
use tabproxy::practice::answer_text;

use crate::rig::{PATIENCE, Rig, eventually, last_text};
use crate::shared::procfs::{exists, kill, of_kind};

/// Five streams under way; what they end with once `harm` is done.
async fn harmed(rig: &Rig, harm: impl FnOnce(i32)) {
    let prompt = "hello count=100000 interval=20";
    let mut streams = Vec::new();
    for n in 0..5 {
        let mut stream = rig.ask(&format!("m{n}"), prompt).await.bytes_stream();
        stream.next().await.unwrap().unwrap();
        streams.push(stream);
    }
    harm(rig.server.browser().status().pid.unwrap());
    let ends = streams.into_iter().map(|stream| async {
        let chunks: Vec<_> = stream.collect().await;
        let said: Vec<u8> = chunks.iter().flatten().flat_map(|it| it.to_vec()).collect();
        let cut = chunks.last().unwrap().is_err();
        cut && !String::from_utf8_lossy(&said).contains("[DONE]")
    });
    let ends = tokio::time::timeout(PATIENCE, join_all(ends)).await.expect("nothing hangs");
    assert_eq!(ends, [true; 5], "each ends with an error, none cleanly");
    rig.wait_ready().await;
    let prompt = "hello again count=3";
    let answer = rig.ask("after", prompt).await.bytes().await.unwrap();
    assert_eq!(last_text(&answer), answer_text(prompt));
    let seen = rig.counters().posts_by_message_id;
    assert!(seen.len() == 6 && seen.values().all(|it| *it == 1), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_browser_is_started_again() {
    let rig = Rig::ready().await;
    let before = rig.server.browser().status().pid;
    harmed(&rig, kill).await;
    assert_ne!(rig.server.browser().status().pid, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_renderers_are_replaced_without_a_new_browser() {
    let rig = Rig::ready().await;
    let before = rig.server.browser().status().pid;
    harmed(&rig, |browser| {
        let all = of_kind(browser, "renderer");
        assert!(all.len() >= 2, "the site's page and the carrier have a process each: {all:?}");
        all.into_iter().for_each(kill);
    })
    .await;
    assert_eq!(rig.server.browser().status().pid, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_while_there_is_no_page_waits_for_it() {
    let rig = Rig::ready().await;
    kill(rig.server.browser().status().pid.unwrap());
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| !it.is_ready()).await.unwrap();
    let answer = rig.ask("waits", "hello count=1").await.bytes().await.unwrap();
    assert!(answer.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(rig.counters().posts_by_message_id.get("waits"), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_site_cuts_is_cut_and_what_it_ends_is_ended() {
    let rig = Rig::ready().await;
    let reset = rig.ask("reset", "hello count=50 interval=10 reset=5").await;
    assert!(reset.bytes().await.is_err(), "a reset never looks like an end");
    // However soon that comes, the head is there first: without one, clients would ask again.
    for n in 0..50 {
        let reset = rig.ask(&format!("soon{n}"), "hello count=1 reset=0").await;
        assert_eq!(reset.status(), 200);
        assert!(reset.bytes().await.is_err(), "a clean end");
    }
    let cut = rig.ask("cut", "hello count=50 interval=10 cut=5").await.bytes().await.unwrap();
    assert!(!cut.ends_with(b"[DONE]\n\n"), "nothing is added to what the site said");
    for status in [401, 413, 422, 429, 500, 502] {
        let answer = rig.ask(&format!("s{status}"), &format!("hello status={status}")).await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers().contains_key("retry-after"), status == 429);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_streams_end_and_leaves_no_browser_behind() {
    let rig = Rig::ready().await;
    let browser = rig.server.browser().clone();
    let pid = browser.status().pid.unwrap();
    let prompt = "hello count=20 interval=50";
    let mut stream = rig.ask("last", prompt).await.bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    let rest = tokio::spawn(async move {
        let chunks: Vec<_> = stream.collect().await;
        chunks.into_iter().collect::<Result<Vec<_>, _>>()
    });
    let (site, _profile) = rig.stop().await;
    let rest = rest.await.unwrap().expect("the stream ended by itself");
    assert_eq!(last_text(&[vec![first], rest].concat().concat()), answer_text(prompt));
    assert_eq!(site.counters().finished, 1);
    eventually(|| exists(pid), |it| !it).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_outlast_the_drain_end_with_an_error() {
    let brief = |config: &mut tabproxy::config::Config| config.drain = std::time::Duration::from_secs(1);
    let rig = Rig::with(Default::default(), brief).await;
    let answer = rig.ask("long", "hello count=100000 interval=20").await;
    let ended = tokio::spawn(answer.bytes());
    rig.stop().await;
    assert!(ended.await.unwrap().is_err());
}
