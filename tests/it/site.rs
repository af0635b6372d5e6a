//! The page: the way past the check, the walls that want a person, and what the site sees of us.

use std::time::Duration;

use tabproxy::browser::{Phase, Repair};
use tabproxy::practice::{Check, PracticeArgs, answer_text};
use tabproxy::site::challenge::Wall;

use crate::rig::{Rig, code_of, eventually, last_text};

#[tokio::test(flavor = "multi_thread")]
async fn the_check_is_passed_the_landing_origin_counts_and_the_site_finds_nothing_of_ours() {
    let rig = Rig::ready().await;
    let status = rig.server.browser().status();
    assert_eq!(Some(rig.site.home_url().trim_end_matches('/')), status.origin.as_deref());

    // Long enough for the watchdog's timer and for the service worker to take over all that it can.
    let prompt = "hello count=30 interval=100";
    let answer = rig.ask("m1", prompt).await.bytes().await.unwrap();
    assert_eq!(last_text(&answer), answer_text(prompt));
    assert!(answer.ends_with(b"data: [DONE]\n\n"));
    for n in 0..20 {
        assert_eq!(rig.get(&format!("/backend-api/practice/echo?n={n}")).await.status(), 200);
    }

    let seen = rig.counters();
    assert_eq!((seen.challenged, seen.checks_passed), (1, 1), "the check is passed once");
    assert_eq!(seen.intrusions, [""; 0], "the page");
    assert_eq!(seen.sw_saw, [""; 0], "the service worker");
    assert_eq!(seen.odd_headers, [""; 0], "the requests");
    assert_eq!(seen.refused_fetch_site, 0);
    assert_eq!(seen.posts_by_message_id.get("m1"), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_profile_needs_no_second_check() {
    let rig = Rig::ready().await;
    let (site, profile) = rig.stop().await;
    site.reset_counters();
    let stop = tokio_util::sync::CancellationToken::new();
    let server =
        tabproxy::Server::start(crate::rig::config_for(&site, &profile), stop.clone()).await.unwrap();
    server.browser().watch().wait_for(|it| it.is_ready()).await.unwrap();
    assert_eq!(site.counters().challenged, 0);
    stop.cancel();
    server.finished().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_wall_is_a_state_of_its_own_and_no_retry_loop() {
    let rig = Rig::starting(PracticeArgs { sign_in: true, ..PracticeArgs::default() }, |_| {}).await;
    let mut status = rig.server.browser().watch();
    let wall = Phase::NeedsOperator(Wall::SignIn);
    status.wait_for(|it| it.phase == wall).await.unwrap();

    let opened = status.borrow().pages;
    let refused = rig.ask("m1", "hello").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(code_of(refused).await, "needs_operator");
    let ready = rig.get("/readyz").await;
    assert_eq!(ready.status(), 503);
    let said = ready.text().await.unwrap();
    assert!(said.contains("needs_operator") && said.contains("sign-in"), "{said}");
    assert_eq!(rig.counters().posts_arrived, 0, "nothing was sent");
    let now = rig.server.browser().status();
    assert_eq!((now.browsers, now.pages), (1, opened), "and nothing was opened again");

    // The person is done, and asks for the page again.
    rig.site.set_sign_in(false);
    rig.server.browser().restart(Repair::Site);
    rig.wait_ready().await;
    assert_eq!(rig.ask("m1", "hello count=1").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_does_not_pass_by_itself_is_not_reloaded() {
    let rig = Rig::starting(PracticeArgs { check: Check::Click, ..PracticeArgs::default() }, |_| {}).await;
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.reason.contains("checks the browser")).await.unwrap();
    let probes = rig.counters().challenged;
    eventually(|| rig.counters().challenged, |it| *it >= probes + 4).await;
    let now = rig.server.browser().status();
    assert!(!now.is_ready());
    assert_eq!((now.browsers, now.pages), (1, 1), "it is looked at through the same page");
    assert_eq!(rig.get("/readyz").await.status(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_where_the_browser_takes_the_site_for_a_public_one() {
    let args = PracticeArgs { listen: free_addr(), ..PracticeArgs::default() };
    let public = format!("--ip-address-space-overrides={}=public", args.listen);
    let rig = Rig::with(args, |config| config.chromium_args.push(public)).await;
    assert_eq!(rig.ask("m1", "hello count=2").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_speaks_only_http_1() {
    let rig = Rig::with(PracticeArgs { http1_only: true, ..PracticeArgs::default() }, |_| {}).await;
    let prompt = "hello count=5 interval=10";
    let answer = rig.ask("m1", prompt).await.bytes().await.unwrap();
    assert_eq!(last_text(&answer), answer_text(prompt));
    assert_eq!(rig.counters().h2_connections, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_allows_few_streams_serves_them_in_turn() {
    let rig = Rig::with(PracticeArgs { max_streams: 3, ..PracticeArgs::default() }, |_| {}).await;
    let ids: Vec<_> = (0..9).map(|n| format!("m{n}")).collect();
    let answers = ids.iter().map(|id| async {
        let answer = rig.ask(id, "hello count=3 interval=20").await;
        answer.bytes().await.unwrap().ends_with(b"data: [DONE]\n\n")
    });
    let all =
        tokio::time::timeout(Duration::from_secs(30), futures::future::join_all(answers)).await.unwrap();
    assert_eq!(all, [true; 9]);
    assert!(rig.counters().max_active <= 3);
}

/// An address that was free a moment ago: the flag wants it before the site listens.
fn free_addr() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
