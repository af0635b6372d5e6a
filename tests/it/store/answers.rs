//! Answers that one instance writes and others read: the same for both stores.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tabproxy::store::answers::{Addition, Asked, Claim, Claimed, Note, Piece, Presence, Terms};
use tabproxy::store::{Fence, Store};

use super::Both;
use crate::rig::{PATIENCE, until};

const KEEP: Duration = Duration::from_secs(60);
const LONG: Terms = Terms { lease: Duration::from_secs(60), keep: KEEP, most: 1000 };
/// One that a test can wait for.
const SHORT: Terms = Terms { lease: Duration::from_millis(100), keep: KEEP, most: 1000 };

const READS: Presence = Presence { reads: true, is_given: false };
const LEFT: Presence = Presence { reads: false, is_given: false };
const GIVEN: Presence = Presence { reads: false, is_given: true };

fn claim(who: &str, exact: &str, loose: Option<&str>, again: Option<Asked>) -> Claim {
    Claim { exact: exact.into(), loose: loose.map(Into::into), who: who.into(), again }
}

fn piece(begins: bool, size: usize) -> Piece {
    Piece { kind: 7, begins, bytes: Bytes::from(vec![b'\r'; size]) }
}

async fn append(
    store: &dyn Store,
    answer: Fence,
    from: u64,
    pieces: Vec<Piece>,
    presence: Presence,
    terms: Terms,
) -> bool {
    let addition = Addition { answer, who: "a".into(), from, pieces, is_last: false, presence };
    store.append(addition, terms).await.unwrap()
}

async fn mine(store: &dyn Store, claim: Claim, terms: Terms) -> Fence {
    match store.claim(claim.clone(), terms).await.unwrap() {
        Claimed::Mine(answer) => answer,
        other => panic!("{claim:?}: {other:?}"),
    }
}

/// Claims until it is sure whose it is.
async fn sure(store: &dyn Store, mut claim: Claim, terms: Terms) -> Claimed {
    let ask = async || {
        let claimed = store.claim(claim.clone(), terms).await.unwrap();
        if let Claimed::Unsure(asked) = &claimed {
            claim.again = Some(*asked);
        }
        claimed
    };
    until(ask, |it| !matches!(it, Claimed::Unsure(_))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_one_writer_and_readers_see_what_they_have_missed() {
    let both = Both::new().await;
    for (name, store) in both.each() {
        let store = &*store;
        let answer = mine(store, claim("a", "x", None, None), LONG).await;
        for who in ["b", "a"] {
            let again = store.claim(claim(who, "x", None, None), LONG).await.unwrap();
            assert_eq!(again, Claimed::Theirs(answer), "{name}");
        }
        assert!(mine(store, claim("b", "y", None, None), LONG).await > answer);
        let note = Note { answer, writes: false, presence: READS };
        let read = async |after| store.read("b".into(), note, after, LONG).await.unwrap().unwrap();
        assert!(read(0).await.pieces.is_empty() && read(0).await.is_alive, "{name}");
        let first = Piece { kind: 1, begins: false, bytes: Bytes::from_static(b"\0\xff head") };
        assert!(append(store, answer, 1, vec![first.clone(), piece(true, 300)], READS, LONG).await);
        // One that is sent twice is there once.
        assert!(append(store, answer, 2, vec![piece(true, 300), piece(false, 300)], READS, LONG).await);
        let page = read(0).await;
        let numbers = |page: &tabproxy::store::answers::Page| {
            page.pieces.iter().map(|(n, it)| (*n, it.begins)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&page), [(1, false), (2, true), (3, false)], "{name}");
        assert_eq!((&page.pieces[0].1, &page.pieces[1].1), (&first, &piece(true, 300)));
        assert_eq!(numbers(&read(2).await), [(3, false)]);
        // Too much: the oldest go, up to one that can be begun with, and the first stays.
        assert!(append(store, answer, 4, vec![piece(true, 300), piece(true, 300)], READS, LONG).await);
        assert_eq!(numbers(&read(0).await), [(1, false), (4, true), (5, true)], "{name}");
        let unknown = Note { answer: Fence(answer.0 + 1_000_000_000), ..note };
        assert!(store.read("b".into(), unknown, 0, LONG).await.unwrap().is_none(), "{name}");
        let notes = vec![note, unknown];
        assert_eq!(store.note("b".into(), notes, LONG).await.unwrap(), [true, false], "{name}");
        assert!(store.note("b".into(), Vec::new(), LONG).await.unwrap().is_empty());
        // Who reads, and what is forgotten.
        let elsewhere = async |who: &str, forgets| {
            store.is_read_elsewhere(who.into(), answer, forgets, LONG).await.unwrap()
        };
        assert!(elsewhere("a", true).await && elsewhere("b", true).await, "{name}");
        let left = Note { presence: LEFT, ..note };
        store.note("b".into(), vec![left], LONG).await.unwrap();
        assert!(!elsewhere("a", false).await, "{name}");
        let again = store.claim(claim("a", "x", None, None), LONG).await.unwrap();
        assert_eq!(again, Claimed::Theirs(answer), "{name}");
        assert!(!elsewhere("a", true).await);
        let next = mine(store, claim("c", "x", None, None), LONG).await;
        assert!(next > answer && read(0).await.is_alive, "{name}: who reads it reads on");
        store.forget(next).await.unwrap();
        mine(store, claim("a", "x", None, None), LONG).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_gives_no_sign_is_not_the_writer_any_more() {
    let both = Both::new().await;
    for (name, store) in both.each() {
        let store = &*store;
        let answer = mine(store, claim("a", "x", None, None), SHORT).await;
        let note = Note { answer, writes: true, presence: READS };
        let is_alive = async || store.read("b".into(), note, 0, SHORT).await.unwrap().unwrap().is_alive;
        let begun = Instant::now();
        while is_alive().await {
            assert!(begun.elapsed() < PATIENCE, "{name}: for ever");
        }
        assert!(!append(store, answer, 1, vec![piece(true, 10)], READS, LONG).await, "{name}: too late");
        assert_eq!(store.note("a".into(), vec![note], LONG).await.unwrap(), [false], "{name}");
        assert!(!is_alive().await, "{name}: nothing brings it back");
        let again = store.claim(claim("b", "x", None, None), LONG).await.unwrap();
        assert_eq!(again, Claimed::Theirs(answer), "{name}: its loss is to be told");
        // One that is over needs no sign.
        let over = mine(store, claim("a", "y", None, None), SHORT).await;
        let pieces = vec![piece(true, 10)];
        let addition =
            Addition { answer: over, who: "a".into(), from: 1, pieces, is_last: true, presence: LEFT };
        assert!(store.append(addition, SHORT).await.unwrap(), "{name}");
        tokio::time::sleep(2 * SHORT.lease).await;
        let page = store.read("b".into(), Note { answer: over, ..note }, 0, SHORT).await.unwrap().unwrap();
        assert!(page.is_alive && page.pieces.len() == 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_alike_is_shared_with_nobody_who_may_still_be_reading() {
    let both = Both::new().await;
    for (name, store) in both.each() {
        let store = &*store;
        let alike = |who: &str, exact: &str| claim(who, exact, Some("hello"), None);
        let answer = mine(store, alike("a", "1"), LONG).await;
        assert!(
            matches!(store.claim(alike("b", "2"), LONG).await.unwrap(), Claimed::Unsure(_)),
            "{name}: its reader may have gone"
        );
        // It has.
        assert!(append(store, answer, 1, Vec::new(), LEFT, LONG).await);
        assert_eq!(store.claim(alike("b", "2"), LONG).await.unwrap(), Claimed::Theirs(answer), "{name}");
        // And now b reads it, which says so again and again.
        let reads = async {
            let note = Note { answer, writes: false, presence: READS };
            loop {
                store.note("b".into(), vec![note], LONG).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let other = tokio::select! {
            other = sure(store, alike("c", "3"), LONG) => other,
            () = reads => unreachable!(),
        };
        let Claimed::Mine(other) = other else { panic!("{name}: {other:?}") };
        // One that gives no sign for too long has gone; one that has had it all is not to be joined.
        let short = Terms { lease: Duration::from_millis(900), ..LONG };
        store.note("b".into(), vec![Note { answer, writes: false, presence: GIVEN }], LONG).await.unwrap();
        assert_eq!(sure(store, alike("d", "4"), short).await, Claimed::Theirs(other), "{name}");
        store.forget(other).await.unwrap();
        mine(store, alike("d", "5"), LONG).await;
    }
}
