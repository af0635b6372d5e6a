//! A browser that runs elsewhere, and is somebody else's: the channel over its DevTools carries what the other one
//! does, its loss is noticed as fast, and nothing there is touched that is not ours.

use futures::future::join_all;
use tabproxy::practice::answer_text;

use crate::rig::{Rig, last_text};
use crate::{bodies, clients};

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
