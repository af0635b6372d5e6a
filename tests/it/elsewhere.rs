//! A browser that runs elsewhere, and is somebody else's: the channel over its DevTools carries what the other one
//! does, its loss is noticed as fast, and nothing there is touched that is not ours.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use futures::future::join_all;
use serde_json::json;
use tabproxy::config::BrowserAddress;
use tabproxy::practice::{Practice, PracticeArgs, answer_text};

use crate::devtools::DevTools;
use crate::rig::{PATIENCE, Program, Rig, code_of, eventually, last_text};
use crate::session::{holder, open_sign_in};
use crate::shared::foreign::Foreign;
use crate::shared::relay::{Cut, Relay};
use crate::{bodies, clients, site};

/// The tabs of a proxy that has nothing to repair: the site's, and two carriers.
const OURS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn any_method_and_any_body() {
    bodies::methods_and_bodies(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_answer() {
    bodies::answers(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_split_of_a_stream() {
    bodies::splits(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects() {
    bodies::redirects(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave() {
    clients::departures(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stand_still() {
    clients::standing_still(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_site_finds_nothing_of_ours() {
    site::unseen(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_streams_and_large_bodies_beside_them() {
    let rig = Rig::elsewhere().await;
    let prompt = "hello count=40 interval=50 text=mixed";
    let expected = answer_text(prompt);
    let streams = join_all((0..40).map(|n| {
        let (rig, expected) = (&rig, &expected);
        async move {
            let answer = rig.ask(&format!("m{n}"), prompt).await.bytes().await.unwrap();
            answer.ends_with(b"data: [DONE]\n\n") && last_text(&answer) == *expected
        }
    }));
    let body: Vec<u8> = (0..12 << 20).map(|at: u32| (at ^ (at >> 8)) as u8).collect();
    let mirror = rig.client.post(rig.url("/backend-api/practice/mirror")).body(body.clone()).send();
    let (whole, mirrored) = tokio::join!(streams, async { mirror.await.unwrap().bytes().await.unwrap() });
    let beginning = String::from_utf8_lossy(&mirrored[..mirrored.len().min(200)]);
    assert!(mirrored == body, "{} of {} bytes came back, or others: {beginning}", mirrored.len(), body.len());
    assert_eq!(whole, [true; 40]);
    rig.sent_once();
}

/// What the streams end with: each with an error, none cleanly.
async fn all_cut(streams: Vec<reqwest::Response>) {
    let ends = join_all(streams.into_iter().map(|it| it.bytes()));
    let ends = tokio::time::timeout(PATIENCE, ends).await.expect("nothing hangs");
    assert!(ends.iter().all(Result::is_err), "each ends with an error, none cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_dies_cuts_its_streams_and_the_next_one_at_its_address_is_used_with_the_same_sign_in()
{
    let mut key = None;
    let mut rig = Rig::elsewhere_with(|config| key = Some(open_sign_in(config))).await;
    rig.client = holder(&key.unwrap());
    let done = rig.client.post(rig.url("/auth/login")).send().await.unwrap();
    assert!(done.status().is_success() || done.status().is_redirection(), "{}", done.status());
    rig.site.set_sign_in(true);
    let session = rig.profile.path().join("profile.session.json");
    let saved = || std::fs::read_to_string(&session).unwrap_or_default();
    eventually(saved, |it| it.contains("practice_session")).await;

    let streams = rig.five_streams().await;
    let address = rig.foreign.take().unwrap().port(); // and with that it is killed
    all_cut(streams).await;
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.reason.contains("cannot be reached")).await.unwrap();
    assert_eq!(rig.get("/readyz").await.status(), 503);
    // On an empty profile.
    rig.foreign = Some(Foreign::start(&rig.site, address.port()).unwrap());
    rig.wait_ready().await;
    rig.answers("after").await;
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_leaves_no_tabs_behind_and_those_of_others_are_never_touched() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let foreign = Foreign::start(&site, 0).unwrap();
    let mut hand = DevTools::connect(foreign.address()).await;
    // Somebody looks at the same site there.
    let theirs = hand.call(None, "Target.createTarget", json!({"url": site.home_url()})).await;
    let theirs = theirs["targetId"].as_str().unwrap().to_owned();
    let before = hand.wait_for_pages(2).await;

    let target = foreign.port();
    let relay = Relay::start(move || Ok(target)).await.unwrap();
    let address = BrowserAddress::parse(&foreign.address_by(relay.addr())).unwrap();
    let mut rig = Rig::beside(site, Some(foreign), |config| config.browser_ws = vec![address]).await;
    for cut in [Cut::Reset, Cut::Close, Cut::Silence] {
        rig.wait_ready().await;
        let all = hand.wait_for_pages(2 + OURS).await;
        assert!(before.iter().all(|it| all.contains(it)));
        let streams = rig.five_streams().await;
        let links = rig.server.browser().status().links;
        relay.cut(cut);
        all_cut(streams).await;
        let mut status = rig.server.browser().watch();
        status.wait_for(|it| it.links > links && it.is_ready()).await.unwrap();
        rig.answers(&format!("after {cut:?}")).await;
        // What is left of the five streams at the site ends with the pages.
        eventually(|| rig.counters(), |it| it.active == 0).await;
        rig.site.reset_counters();
    }
    hand.wait_for_pages(2 + OURS).await;
    let _alive = rig.foreign.take();
    rig.stop().await;
    // A tab that is told to close takes a moment to.
    let mut left = hand.wait_for_pages(before.len()).await;
    left.sort();
    let mut expected = before;
    expected.sort();
    assert_eq!(left, expected, "ours are closed, theirs are not");
    assert!(left.contains(&theirs));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_proxy_left_there_is_closed_by_the_next_one() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let foreign = Foreign::start(&site, 0).unwrap();
    let mut hand = DevTools::connect(foreign.address()).await;
    let home = tempfile::tempdir().unwrap();
    let profile = home.path().join("profile");
    let vars = [("TABPROXY_BROWSER_WS", foreign.address()), ("TABPROXY_PROFILE", profile.to_str().unwrap())];
    let mut proxy = Program::start(&site, &vars).await;
    proxy.wait_ready().await;
    let log = proxy.log();
    let unused = log.lines().find(|it| it.contains("without effect")).unwrap();
    assert!(unused.contains("TABPROXY_RESOLVE, TABPROXY_TRUST_CERT"), "{unused}");
    let left = hand.wait_for_pages(1 + OURS).await;
    proxy.signal(rustix::process::Signal::KILL);
    proxy.ended().await;
    assert_eq!(hand.pages().await.len(), 1 + OURS, "they are still there");

    let next = Program::start(&site, &vars).await;
    next.wait_ready().await;
    let now = hand.wait_for_pages(1 + OURS).await;
    let stayed: Vec<_> = now.iter().filter(|it| left.contains(it)).collect();
    assert_eq!(stayed.len(), 1, "of the old ones only the browser's own stays: {stayed:?}");
}

/// Answers every connection so.
fn answering(with: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(with.as_bytes());
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_to_no_browser_is_one_clear_line_and_no_secret_is_in_it() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let closed = answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let page = answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    for (address, told, remedy) in [
        (format!("ws://{nobody}/hunter2?token=hunter2"), "cannot be reached", "--remote-debugging-port"),
        (format!("ws://user:hunter2@{closed}/"), "refuses us (403 Forbidden)", "correct the token"),
        (format!("http://{closed}/?token=hunter2"), "refuses us (403 Forbidden)", "correct the token"),
        (format!("ws://{page}/hunter2"), "no DevTools answer there", "must lead to a Chromium's DevTools"),
        (format!("http://{page}/?hunter2"), "no DevTools answer there", "must lead to a Chromium's DevTools"),
    ] {
        let vars =
            [("TABPROXY_BROWSER_WS", &*address), ("TABPROXY_LOG", "trace"), ("TABPROXY_QUEUE_WAIT", "1s")];
        let proxy = Program::start(&site, &vars).await;
        let log = eventually(|| proxy.log(), |it| it.matches(told).count() >= 2).await;
        assert_eq!(proxy.get("/readyz").await.status(), 503);
        assert_eq!(code_of(proxy.ask("m", "hello").await).await, "not_ready");
        let line = log.lines().find(|it| it.contains(told)).unwrap();
        assert!(
            line.contains(remedy) && line.contains("TABPROXY_BROWSER_WS") || line.contains(remedy),
            "{line}"
        );
        let about = proxy.get("/readyz").await.text().await.unwrap()
            + &proxy.get("/metrics").await.text().await.unwrap();
        assert!(!proxy.log().contains("hunter2") && !about.contains("hunter2"), "{}", proxy.log());
    }
    assert_eq!(site.counters().posts, 0);
}
