//! Parts of the browser that die or wear out again and again: each repair is the cheapest that helps, and
//! nothing is sent twice. How long a repair may take is held in `tests/deadlines`.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;
use tabproxy::config::Config;
use tabproxy::practice::{PracticeArgs, answer_text};

use crate::devtools::DevTools;
use crate::rig::{PATIENCE, Rig, eventually, last_text};
use crate::shared::procfs::{kill, of_kind, processes};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_dead_renderers_leave_no_zombies() {
    let rig = Rig::ready().await;
    let browser = rig.browser();
    let mut killed = 0;
    while killed < 100 {
        let renderers = of_kind(browser, "renderer");
        killed += renderers.len();
        renderers.into_iter().for_each(kill);
        rig.answers(&format!("after-{killed}")).await;
    }
    let zombies = || processes().into_iter().filter(|it| it.group == browser && it.state == 'Z').count();
    eventually(zombies, |it| *it == 0).await;
    assert_eq!(rig.browser(), browser);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_starved_machine_is_no_reason_to_restart() {
    let rig = Rig::ready().await;
    let (browser, pages) = (rig.browser(), rig.server.browser().status().pages);
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
        rig.answers(&format!("starved-{n}")).await;
        n += 1;
    }
    busy.into_iter().for_each(|it| it.join().unwrap());
    rig.answers("after").await;
    let now = rig.server.browser().status();
    assert_eq!((now.pid, now.browsers), (Some(browser), 1));
    assert!(now.pages <= pages + 2, "{} pages opened", now.pages - pages);
    rig.sent_once();
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
            join_all(ids.iter().map(|id| rig.answers(id))).await;
            n += 5;
        }
        n
    };
    let (long, answered) = tokio::join!(long, many);
    assert_eq!(last_text(&long), answer_text(prompt), "the stream in a page that was retired is whole");
    println!("{answered} requests were answered by {} pages", rig.server.browser().status().pages);
    assert_eq!(rig.server.browser().status().browsers, 1);
    rig.sent_once();
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
        rig.answers(&format!("m{n}")).await;
        n += 1;
    }
    let now = rig.server.browser().status();
    assert_eq!((now.browsers, now.pages), (1, 2), "and nothing was opened for that");
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn carriers_that_are_reloaded_at_dispatch_and_in_mid_stream_never_send_twice() {
    let rig = Rig::ready().await;
    let mut hand = DevTools::of(rig.browser()).await;
    let (mut whole, mut cut, mut refused, mut reloads) = (0, 0, 0, 0);
    // A carrier that is just being replaced is none to reload.
    for n in 0.. {
        if reloads >= 100 && whole > 0 && cut + refused > 0 {
            break;
        }
        assert!(
            n < 400,
            "{reloads} reloads of carriers: {whole} whole, {cut} cut, {refused} told before the head"
        );
        // At once, while the request is handed over, and then ever later in its stream.
        let ask = async {
            let answer = rig.ask(&format!("m{n}"), "hello count=10 interval=5").await;
            (answer.status(), answer.bytes().await)
        };
        let reload = async {
            tokio::time::sleep(Duration::from_millis(n % 50)).await;
            hand.reload("blob:").await
        };
        let (ended, reloaded) = tokio::join!(tokio::time::timeout(PATIENCE, ask), reload);
        reloads += reloaded;
        match ended.expect("nothing hangs") {
            (status, Ok(body)) if status == 200 => {
                assert!(body.ends_with(b"data: [DONE]\n\n"), "a part looks like the whole");
                whole += 1;
            }
            (status, Ok(body)) => {
                let fault: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!((status.as_u16(), &fault["error"]["code"]), (502, &"page_lost".into()), "{fault}");
                refused += 1;
            }
            (status, Err(_)) => {
                assert_eq!(status, 200);
                cut += 1;
            }
        }
    }
    println!("{reloads} reloads of carriers: {whole} whole, {cut} cut, {refused} told before the head");
    assert_eq!(rig.server.browser().status().browsers, 1);
    // The last of them may still be under way.
    let mut n = 0;
    while rig.ask(&format!("after{n}"), "hello count=1").await.status() != 200 {
        n += 1;
        assert!(n < 10, "it does not come back");
    }
    rig.sent_once();
}
