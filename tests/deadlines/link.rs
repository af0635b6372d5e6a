//! The connection to the browser is cut in every way while the browser itself is well: it is made anew, and
//! neither the browser nor a stream notices.

use std::time::Instant;

use tabproxy::practice::{PracticeArgs, answer_text};

use crate::rig::{Rig, last_text};
use crate::shared::procfs::{kill, of_kind};
use crate::shared::relay::Cut;
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
