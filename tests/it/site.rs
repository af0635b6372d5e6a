//! The page: the way past the check, the walls that want a person, and what the site sees of us.

use futures::StreamExt;
use serde_json::Value;
use tabproxy::browser::{Phase, Repair};
use tabproxy::practice::{Check, PracticeArgs, answer_text};
use tabproxy::site::challenge::Wall;

use crate::rig::{PATIENCE, Rig, code_of, eventually, last_text};

#[tokio::test(flavor = "multi_thread")]
async fn the_check_is_passed_the_landing_origin_counts_and_the_site_finds_nothing_of_ours() {
    unseen(Rig::ready().await).await;
}

pub async fn unseen(rig: Rig) {
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

/// Asks `n` times at once; all answers are whole.
async fn all_answered(rig: &Rig, name: &str, n: usize, prompt: &str) {
    let ids: Vec<_> = (0..n).map(|n| format!("{name}{n}")).collect();
    let answers = ids.iter().map(|id| async {
        let chunks: Vec<_> = rig.ask(id, prompt).await.bytes_stream().collect().await;
        let said: Vec<u8> = chunks.iter().flatten().flat_map(|it| it.to_vec()).collect();
        let said = String::from_utf8_lossy(&said).into_owned();
        said.ends_with("data: [DONE]\n\n")
    });
    let whole = futures::future::join_all(answers).await;
    let metrics = rig.get("/metrics").await.text().await.unwrap();
    let ends: Vec<_> = metrics.lines().filter(|it| it.starts_with("tabproxy_exchanges_total")).collect();
    assert!(!whole.contains(&false), "{ends:#?}");
}

/// Waits until `/readyz` says this of a field.
async fn health(rig: &Rig, field: &str, expected: usize) -> Value {
    let look = async {
        loop {
            let health: Value = rig.get("/readyz").await.json().await.unwrap();
            if health[field] == expected {
                return health;
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{field} is never {expected}"))
}

/// While more than `places` are asked for, as many run and the others wait where it can be seen.
async fn waits_outside(rig: &Rig, places: usize) {
    health(rig, "places", places).await;
    let asked = all_answered(rig, "outside", 12, "hello count=20 interval=50");
    let ((), health) = tokio::join!(asked, health(rig, "queued", 12 - places));
    assert_eq!(health["running"], places);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_site_of_http1_has_no_connections_for_waits_in_the_queue_and_its_page_is_not_in_want() {
    let rig = Rig::with(PracticeArgs { http1_only: true, ..PracticeArgs::default() }, |_| {}).await;
    waits_outside(&rig, 4).await;
    assert!(rig.counters().max_active <= 4);
    // With all four taken, the site's own page loads: a refusal has us look at it.
    let mut taken = Vec::new();
    for n in 0..3 {
        taken.push(rig.ask(&format!("taken{n}"), "hello count=100000 interval=50").await);
    }
    let loads = rig.counters().home_loads;
    assert_eq!(rig.ask("refused", "hello status=401").await.status(), 401);
    taken.push(rig.ask("taken3", "hello count=100000 interval=50").await);
    eventually(|| rig.counters(), |it| it.home_loads > loads && it.active == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_allows_few_streams_serves_them_in_turn_and_soon_the_others_wait_in_the_queue() {
    let rig = Rig::with(PracticeArgs { max_streams: 3, ..PracticeArgs::default() }, |_| {}).await;
    // Once some have waited inside the browser, it is known.
    all_answered(&rig, "inside", 9, "hello count=15 interval=100").await;
    waits_outside(&rig, 3).await;
    assert!(rig.counters().max_active <= 3);
}

/// An address that was free a moment ago: the flag wants it before the site listens.
fn free_addr() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
