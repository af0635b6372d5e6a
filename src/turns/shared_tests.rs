//! Two instances in one process, and the store between them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;

use super::floor::{Busy, Floor};
use super::leases::{LEASE, RENEW};
use super::*;
use crate::config::{RedisServer, WhenLost};
use crate::error::Sent;
use crate::store::answers::{Addition, Claim, Piece, Presence, Terms};
use crate::store::{Embedded, Redis, Store};
use crate::telemetry::shared::SharedTurns;

const KEEP: Duration = Duration::from_secs(120);
const LIMITS: Limits = Limits { answer: 2 << 20, least: 256 << 10, total: 64 << 20 };

fn key(exact: u8, loose: Option<u8>) -> Key {
    Key { exact: [exact; 32], loose: loose.map(|it| [it; 32]) }
}

struct Instance {
    turns: Turns<()>,
    floor: Floor,
    figures: SharedTurns,
}

fn instance(store: &Arc<dyn Store>, when_lost: WhenLost) -> Instance {
    let figures = SharedTurns::default();
    let peers = Peers::new(store.clone(), when_lost, KEEP, figures.clone());
    Instance { turns: Turns::new(LIMITS).shared(peers.clone()), floor: Floor::new(8).shared(peers), figures }
}

fn two() -> (Arc<dyn Store>, Instance, Instance) {
    // No file is made: that is for what outlives the program.
    let store: Arc<dyn Store> = Arc::new(Embedded::new("unused".into(), 1));
    let (a, b) = (instance(&store, WhenLost::Refuse), instance(&store, WhenLost::Refuse));
    (store, a, b)
}

impl Instance {
    async fn begin(&self, key: Key) -> (Writing<()>, Reader<()>) {
        match self.turns.join(key).await.unwrap() {
            Joined::New(writing, reader) => (writing, reader),
            _ => panic!("it is there already"),
        }
    }

    async fn joins(&self, key: Key) -> Reader<()> {
        match self.turns.join(key).await.unwrap() {
            Joined::New(..) => panic!("it is new"),
            Joined::Running(reader) | Joined::Over(reader) => reader,
        }
    }
}

async fn all(mut reader: Reader<()>) -> Result<String, (FaultKind, Sent)> {
    let kind = |it: Fault| (it.kind(), it.sent());
    reader.head().await.map_err(kind)?;
    let mut text = String::new();
    while let Some(chunk) = reader.chunk().await {
        text.push_str(std::str::from_utf8(&chunk.map_err(kind)?).unwrap());
    }
    Ok(text)
}

fn snapshot(n: usize, size: usize) -> Bytes {
    Bytes::from(format!("data: {{\"message\":\"{n:0size$}\"}}\n\n"))
}

/// Until everything that is to be done by now is done.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_asked_again_at_another_instance_gets_all_of_the_answer() {
    let (_store, a, b) = two();
    let (mut writing, first) = a.begin(key(1, None)).await;
    let log = writing.begin();
    let second = tokio::spawn(all(b.joins(key(1, None)).await));
    log.head(());
    let mut whole = String::new();
    for n in 0..50 {
        let event = snapshot(n, 100);
        whole.push_str(std::str::from_utf8(&event).unwrap());
        // Events come in parts, too.
        log.push(event.slice(..30));
        tokio::time::sleep(Duration::from_millis(20)).await;
        log.push(event.slice(30..));
    }
    log.finish(Ok(()));
    assert_eq!(second.await.unwrap().unwrap(), whole);
    assert_eq!(all(first).await.unwrap(), whole);
    settle().await;
    assert_eq!(all(b.joins(key(1, None)).await).await.unwrap(), whole, "and when it is over");
    settle().await;
    assert_eq!((b.figures.joined.get(), b.figures.replayed.get()), (1, 1));
    assert_eq!(b.turns.kept(), 0, "it is kept by the one that made it");
    assert_eq!((a.figures.given_up.get(), a.figures.leases_lost.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn of_many_at_the_same_moment_one_is_sent() {
    let (_store, a, b) = two();
    let made = AtomicUsize::new(0);
    let ask = async |instance: &Instance| match instance.turns.join(key(1, Some(9))).await.unwrap() {
        Joined::New(mut writing, reader) => {
            made.fetch_add(1, Ordering::Relaxed);
            let log = writing.begin();
            log.head(());
            log.push(snapshot(1, 10));
            log.finish(Ok(()));
            (Some(writing), reader)
        }
        Joined::Running(reader) | Joined::Over(reader) => (None, reader),
    };
    let asked = tokio::join!(ask(&a), ask(&b), ask(&b), ask(&a));
    for (_writing, reader) in [asked.0, asked.1, asked.2, asked.3] {
        assert_eq!(all(reader).await.unwrap().as_bytes(), snapshot(1, 10));
    }
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_beginning_of_a_conversation_is_taken_over_elsewhere_from_who_has_left_alone() {
    let (_store, a, b) = two();
    let (mut writing, first) = a.begin(key(1, Some(9))).await;
    let log = writing.begin();
    log.head(());
    log.push(snapshot(1, 10));
    let (mut other, reader) = b.begin(key(2, Some(9))).await;
    other.begin().finish(Err(Fault::new(FaultKind::QueueFull, "full")));
    drop((other, reader));
    drop(first);
    let second = b.joins(key(3, Some(9))).await;
    let (stranger, _reader) = a.begin(key(4, Some(9))).await;
    drop(stranger);
    assert!(writing.is_read_elsewhere(true).await, "that keeps it going");
    drop(second);
    settle().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!writing.is_read_elsewhere(false).await);
    log.finish(Ok(()));
    settle().await;
    let third = b.joins(key(5, Some(9))).await;
    assert_eq!(all(third).await.unwrap().as_bytes(), snapshot(1, 10));
    settle().await;
    let (_writing, _reader) = a.begin(key(6, Some(9))).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_given_up_before_it_was_sent_is_begun_anew_by_whoever_asks_next() {
    let (_store, a, b) = two();
    let (writing, first) = a.begin(key(1, None)).await;
    drop(first);
    assert!(!writing.is_read_elsewhere(true).await);
    let (_again, _reader) = b.begin(key(1, None)).await;
    drop(writing);
    settle().await;
    drop(b.joins(key(1, None)).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_store_has_forgotten_is_still_found_where_it_is_made() {
    let (store, a, b) = two();
    // Where numbers begin anew, its own is to be none of the first.
    let _other = b.begin(key(7, None)).await;
    let (mut writing, first) = a.begin(key(1, Some(9))).await;
    let log = writing.begin();
    drop(first);
    settle().await;
    // As if all were lost there: nothing that is kept is known by this name.
    let emptied: Arc<dyn Store> = Arc::new(Embedded::new("unused".into(), 1));
    drop(store);
    let figures = a.figures.clone();
    let turns =
        Turns { peers: Some(Peers::new(emptied, WhenLost::Refuse, KEEP, figures)), ..a.turns.clone() };
    let again = Instance { turns, floor: a.floor.clone(), figures: a.figures.clone() };
    // What nobody reads is taken over; its own turn finds it whoever reads.
    let joined = [again.joins(key(2, Some(9))).await, again.joins(key(1, Some(9))).await];
    log.head(());
    log.push(snapshot(1, 10));
    log.finish(Ok(()));
    for reader in joined {
        assert_eq!(all(reader).await.unwrap().as_bytes(), snapshot(1, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_is_told_once_by_whichever_instance() {
    let (_store, a, b) = two();
    let (mut writing, first) = a.begin(key(1, None)).await;
    drop(first);
    let second = b.joins(key(1, None)).await;
    writing.begin().finish(Err(Fault::new(FaultKind::FetchFailed, "failed").maybe_sent()));
    drop(writing);
    assert_eq!(all(second).await, Err((FaultKind::FetchFailed, Sent::Maybe)));
    let (_writing, _reader) = b.begin(key(1, None)).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_instance_that_made_it_is_dead_that_is_told_once() {
    let (store, _a, b) = two();
    let terms = Terms { lease: LEASE, keep: KEEP, most: 1000 };
    for (n, loose) in [(1, None), (2, Some(9))] {
        let exact = "01".repeat(32).replace('1', &n.to_string());
        let claim = Claim { exact, loose: loose.map(|_| "09".repeat(32)), who: "dead".into(), again: None };
        let crate::store::answers::Claimed::Mine(answer) = store.claim(claim, terms).await.unwrap() else {
            panic!("it is new")
        };
        let data = snapshot(1, 10);
        let pieces = vec![
            Piece { kind: wire::HEAD, begins: false, bytes: Bytes::new() },
            Piece { kind: wire::DATA, begins: true, bytes: data },
        ];
        let presence = Presence { reads: true, is_given: false };
        let addition = Addition { answer, who: "dead".into(), from: 1, pieces, is_last: false, presence };
        assert!(store.append(addition.clone(), terms).await.unwrap());
        // With another parent each time, as a client that begins a conversation has it.
        let asked = |attempt: u8| key(if loose.is_some() { attempt } else { n }, loose);
        let mut reader = b.joins(asked(20)).await;
        let began = tokio::time::Instant::now();
        reader.head().await.unwrap();
        assert_eq!(reader.chunk().await.unwrap().unwrap(), snapshot(1, 10));
        let fault = reader.chunk().await.unwrap().unwrap_err();
        assert_eq!((fault.kind(), fault.sent()), (FaultKind::PageLost, Sent::Maybe));
        assert!(began.elapsed() < LEASE + RENEW);
        drop(reader);
        assert!(!store.append(addition, terms).await.unwrap(), "it comes too late");
        let (_writing, _reader) = b.begin(asked(21)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_an_answer_that_is_larger_than_there_is_room_for_the_snapshots_are_enough() {
    for is_snapshots in [true, false] {
        let (_store, a, b) = two();
        let (mut writing, first) = a.begin(key(1, None)).await;
        let log = writing.begin();
        let read = tokio::spawn(all(first));
        log.head(());
        let event = |n| match is_snapshots {
            true => snapshot(n, 10_000),
            false => Bytes::from(format!("event: delta\ndata: {n:010000}\n\n")),
        };
        for n in 0..400 {
            log.push(event(n));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        log.finish(Ok(()));
        read.await.unwrap().unwrap();
        settle().await;
        let late = all(b.joins(key(1, None)).await).await;
        if is_snapshots {
            let late = late.unwrap();
            assert!(late.ends_with(std::str::from_utf8(&event(399)).unwrap()) && late.starts_with("data: {"));
            assert!(late.len() <= 128 * 1024 + 20_000);
        } else {
            assert_eq!(late, Err((FaultKind::NotKept, Sent::Maybe)));
            let (_writing, _reader) = b.begin(key(1, None)).await;
        }
        assert_eq!(a.figures.given_up.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn turns_of_one_conversation_come_one_after_the_other_at_all_instances() {
    let (_store, a, b) = two();
    let soon = |secs| Some((tokio::time::Instant::now() + Duration::from_secs(secs)).into_std());
    let held = a.floor.take("c", None, || panic!("it is free")).await.unwrap();
    let other = b.floor.take("d", None, || panic!("it is free")).await.unwrap();
    assert_eq!(b.floor.take("c", None, || {}).await.unwrap_err(), Busy::Refused);
    // Longer than a lease: it is confirmed.
    assert_eq!(b.floor.take("c", soon(60), || {}).await.unwrap_err(), Busy::TooLong);
    assert!(held.leave().unwrap().may_leave().is_ok());
    let waited = AtomicUsize::new(0);
    let waits = b.floor.take("c", soon(60), || {
        waited.fetch_add(1, Ordering::Relaxed);
    });
    let leaves = async {
        settle().await;
        assert_eq!(b.floor.waiting(), 1);
        drop(held);
    };
    let (turned, ()) = tokio::join!(waits, leaves);
    assert_eq!((waited.load(Ordering::Relaxed), b.floor.waiting(), b.figures.waited.get()), (1, 0, 2));
    assert_eq!(a.floor.take("c", None, || {}).await.unwrap_err(), Busy::Refused);
    drop((turned.unwrap(), other));
    settle().await;
    drop(a.floor.take("c", None, || panic!("it is free")).await.unwrap());
}

#[tokio::test]
async fn without_the_store_a_turn_is_refused_or_decided_alone() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = RedisServer {
        host: "127.0.0.1".into(),
        port: nobody.port(),
        tls: false,
        database: 0,
        user: None,
        password: None,
        authorities: None,
    };
    let store: Arc<dyn Store> = Arc::new(Redis::new(&server).unwrap());
    let until = Some(Instant::now() + Duration::from_secs(60));
    let refuses = instance(&store, WhenLost::Refuse);
    let fault = refuses.turns.join(key(1, None)).await.err().unwrap();
    assert_eq!((fault.kind(), fault.sent()), (FaultKind::SharedStateLost, Sent::No));
    let busy = refuses.floor.take("c", until, || {}).await.unwrap_err();
    assert_eq!(Fault::from(busy).kind(), FaultKind::SharedStateLost);
    let alone = instance(&store, WhenLost::Alone);
    let (mut writing, reader) = alone.begin(key(1, None)).await;
    let turned = alone.floor.take("c", until, || {}).await.unwrap();
    assert!(turned.leave().is_none() && writing.leave().is_none());
    assert_eq!(alone.floor.take("c", None, || {}).await.unwrap_err(), Busy::Refused);
    assert_eq!(alone.figures.alone.get(), 2);
    let log = writing.begin();
    log.head(());
    log.finish(Ok(()));
    assert_eq!(all(reader).await.unwrap(), "");
    drop(alone.joins(key(1, None)).await);
}
