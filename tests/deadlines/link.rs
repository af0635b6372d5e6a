//! The connection to the browser is cut in every way while the browser itself is well: it is made anew, and
//! neither the browser nor a stream notices.

use std::time::Instant;

use tabproxy::config::BrowserAddress;
use tabproxy::practice::{Practice, PracticeArgs, answer_text};

use crate::rig::{Rig, last_text};
use crate::shared::foreign::Foreign;
use crate::shared::procfs::{kill, of_kind};
use crate::shared::relay::{Cut, Relay};
use crate::shared::wires;
use crate::{alone, within};

async fn survives(cut: Cut) {
    let _alone = alone().await;
    let dir = tempfile::tempdir().unwrap();
    let (relay, browser) = wires::to_the_browser(dir.path()).await.unwrap();
    let rig = Rig::with(PracticeArgs::default(), |config| config.chromium = Some(browser)).await;
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.carriers.len() == 2).await.unwrap();
    let before = rig.server.browser().status();
    let prompt = "hello count=150 interval=50";
    let stream = rig.ask("through", prompt).await;
    let began = Instant::now();
    relay.cut(cut);
    status.wait_for(|it| it.links > before.links).await.unwrap();
    within(&format!("link {cut:?}: noticed, and connected again"), 5.0, began);
    // The new link does what the old one did: it opens pages.
    let answer = stream.bytes().await.unwrap();
    assert_eq!(last_text(&answer), answer_text(prompt), "the stream did not notice");
    let pages = rig.server.browser().status().pages;
    of_kind(rig.browser(), "renderer").into_iter().for_each(kill);
    status.wait_for(|it| it.pages >= pages + 2 && it.carriers.len() == 2).await.unwrap();
    rig.answers("after").await;
    let now = rig.server.browser().status();
    assert_eq!((now.pid, now.browsers), (before.pid, 1), "the same browser");
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_close_of_the_link() {
    survives(Cut::Close).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_the_link() {
    survives(Cut::Reset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_on_the_link() {
    survives(Cut::Silence).await;
}

/// The same where the browser is somebody else's: its streams went over that connection, so they end with it.
async fn elsewhere(cut: Cut) {
    let _alone = alone().await;
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let foreign = Foreign::start(&site, 0).unwrap();
    let target = foreign.port();
    let relay = Relay::start(move || Ok(target)).await.unwrap();
    let address = BrowserAddress::parse(&foreign.address_by(relay.addr())).unwrap();
    let rig = Rig::beside(site, Some(foreign), |config| config.browser_ws = vec![address]).await;
    rig.wait_ready().await;
    let streams = rig.five_streams().await;
    let began = Instant::now();
    relay.cut(cut);
    for stream in streams {
        assert!(stream.bytes().await.is_err(), "cut, and not ended");
    }
    within(&format!("link {cut:?} to a browser elsewhere: the streams' errors"), 5.0, began);
    rig.answers("after").await;
    within(&format!("link {cut:?} to a browser elsewhere: the next request"), 10.0, began);
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_close_of_the_link_to_a_browser_elsewhere() {
    elsewhere(Cut::Close).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_the_link_to_a_browser_elsewhere() {
    elsewhere(Cut::Reset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_on_the_link_to_a_browser_elsewhere() {
    elsewhere(Cut::Silence).await;
}
