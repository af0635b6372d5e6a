//! A wall in the middle of the work: told as what it is, passed by the page itself where that is possible,
//! and a person's business where it is not.

use std::time::Duration;

use futures::StreamExt;
use tabproxy::browser::Phase;
use tabproxy::practice::{Check, PracticeArgs, answer_text};
use tabproxy::site::challenge::Wall;

use crate::rig::{Rig, code_of, last_text};

#[tokio::test(flavor = "multi_thread")]
async fn a_check_in_place_of_an_answer_is_told_and_passed_by_the_page_itself() {
    let rig = Rig::ready().await;
    let mut status = rig.server.browser().watch();
    let mut running = rig.ask("running", "hello count=40 interval=50").await.bytes_stream();
    running.next().await.unwrap().unwrap();
    rig.site.expire_clearance();
    let refused = rig.ask("meets-it", "hello").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.headers()["x-should-retry"], "false");
    assert_eq!(code_of(refused).await, "challenged");
    // The next one waits for the page and is sent once; the stream that ran goes on.
    let prompt = "hello count=3";
    let answer = rig.ask("waits", prompt).await.bytes().await.unwrap();
    assert_eq!(last_text(&answer), answer_text(prompt));
    while let Some(chunk) = running.next().await {
        chunk.expect("a stream that was running is left alone");
    }
    status.wait_for(|it| it.is_ready()).await.unwrap();
    let now = rig.server.browser().status();
    assert_eq!(now.browsers, 1);
    let seen = rig.counters().posts_by_message_id;
    assert_eq!(seen.get("meets-it"), None, "the check stands before the site, and nothing is repeated");
    assert_eq!((seen.get("waits"), seen.get("running")), (Some(&1), Some(&1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_does_not_pass_leads_to_the_operator_and_back() {
    let rig = Rig::ready().await;
    rig.site.set_check(Check::Click);
    rig.site.expire_clearance();
    assert_eq!(code_of(rig.ask("meets-it", "hello").await).await, "challenged");
    assert_eq!(rig.get("/readyz").await.status(), 503);
    let mut status = rig.server.browser().watch();
    let asked = status.wait_for(|it| it.phase == Phase::NeedsOperator(Wall::Check));
    tokio::time::timeout(Duration::from_secs(90), asked).await.expect("a person is asked").unwrap();
    let loads = rig.counters().challenged;
    assert_eq!(code_of(rig.ask("refused", "hello").await).await, "needs_operator");
    assert!(rig.counters().challenged <= loads + 1, "nothing is tried blindly");
    rig.site.set_check(Check::Off);
    rig.wait_ready().await;
    let prompt = "hello count=3";
    let answer = rig.ask("after", prompt).await.bytes().await.unwrap();
    assert_eq!(last_text(&answer), answer_text(prompt));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_page_in_place_of_an_answer_is_told_and_asked_of_the_operator() {
    let rig = Rig::with(PracticeArgs::default(), |config| config.allow_paths = vec!["/".into()]).await;
    rig.site.set_sign_in(true);
    let refused = rig.get("/").await;
    let status = refused.status().as_u16();
    assert_eq!((status, code_of(refused).await.as_str()), (503, "sign_in_required"));
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.phase == Phase::NeedsOperator(Wall::SignIn)).await.unwrap();
    assert_eq!(code_of(rig.ask("refused", "hello").await).await, "needs_operator");
    assert_eq!(rig.counters().posts_arrived, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_want_of_a_sign_in_passes_as_it_is_and_is_looked_into() {
    let rig = Rig::ready().await;
    rig.site.set_sign_in(true);
    assert_eq!(rig.ask("refused-by-the-site", "hello").await.status(), 401);
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.phase == Phase::NeedsOperator(Wall::SignIn)).await.unwrap();
    assert_eq!(code_of(rig.ask("refused-by-us", "hello").await).await, "needs_operator");
    assert_eq!(rig.counters().posts_arrived, 1);
}
