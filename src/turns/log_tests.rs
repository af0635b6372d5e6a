//! One answer, its writer, and readers that come and go.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { answer: 400, least: 100, total: 10_000 };

fn log(limits: Limits) -> Arc<Log<u8>> {
    Arc::new(Log::new(limits, Arc::default()))
}

fn push(log: &Log<u8>, piece: &str) {
    log.push(Bytes::copy_from_slice(piece.as_bytes()));
}

/// What comes at once: text, and how it ended if it did.
fn take(reader: &mut Reader<u8>) -> (String, Option<Result<(), FaultKind>>) {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut text = String::new();
    loop {
        match reader.poll_chunk(cx) {
            Poll::Ready(Some(Ok(bytes))) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
            Poll::Ready(Some(Err(fault))) => return (text, Some(Err(fault.kind()))),
            Poll::Ready(None) => return (text, Some(Ok(()))),
            Poll::Pending => return (text, None),
        }
    }
}

fn has_room(log: &Log<u8>) -> bool {
    log.poll_room(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn snapshot(n: usize) -> String {
    format!("data: {{\"message\":\"{n:060}\"}}\n\n")
}

#[test]
fn the_writer_keeps_pace_with_the_fastest_reader_and_waits_for_no_other() {
    let log = log(LIMITS);
    let (mut fast, mut slow) = (log.read(), log.read());
    for n in 0..20 {
        push(&log, &snapshot(n));
        assert_eq!(take(&mut fast).0, snapshot(n));
        assert!(has_room(&log));
    }
    assert!(log.kept() <= LIMITS.answer);
    let (late, _) = take(&mut slow);
    assert!(late.starts_with("data: ") && late.ends_with(&snapshot(19)), "whole snapshots from there on");
    drop(slow);
    push(&log, &snapshot(20));
    push(&log, &snapshot(21));
    assert!(!has_room(&log), "both are behind now");
    drop(fast);
    assert!(has_room(&log), "nobody reads");
}

#[test]
fn changes_cannot_be_joined_without_their_beginning() {
    let log = log(LIMITS);
    let mut early = log.read();
    push(&log, "event: delta_encoding\ndata: \"v1\"\n\n");
    for n in 0..20 {
        push(&log, &snapshot(n));
        assert_eq!(take(&mut early).1, None, "who is there in time loses nothing");
    }
    assert!(!log.is_spent());
    assert_eq!(take(&mut log.read()), (String::new(), Some(Err(FaultKind::NotKept))));
    assert!(log.is_spent());
}

#[test]
fn a_reader_that_stands_within_an_event_is_not_given_another_ones_end() {
    let log = log(LIMITS);
    let (mut fast, mut slow) = (log.read(), log.read());
    push(&log, "data: {\"message\":\"ha");
    assert!(!take(&mut slow).0.is_empty());
    push(&log, "lf\"}\n\n");
    (0..20).for_each(|n| {
        push(&log, &snapshot(n));
        take(&mut fast);
    });
    assert_eq!(take(&mut slow), (String::new(), Some(Err(FaultKind::SlowReader))));
}

#[test]
fn an_emptied_log_holds_nothing() {
    let kept = Arc::new(Kept::default());
    let log = Arc::new(Log::<u8>::new(LIMITS, kept.clone()));
    push(&log, &snapshot(1));
    assert_eq!(kept.bytes(), snapshot(1).len());
    log.finish(Ok(()));
    log.empty();
    assert_eq!((kept.bytes(), log.kept()), (0, 0));
    assert_eq!(take(&mut log.read()).1, Some(Err(FaultKind::NotKept)));
    push(&log, &snapshot(1));
    drop(log);
    assert_eq!(kept.bytes(), 0);
}

proptest! {
    /// Whatever the pieces, the order of reads, and how late a reader comes.
    #[test]
    fn readers_get_every_byte_or_whole_snapshots_from_some_event_on(
        events in prop::collection::vec(0usize..90, 1..40),
        pieces in prop::collection::vec(1usize..150, 1..8),
        reads in prop::collection::vec(any::<bool>(), 1..8),
        comes in 0usize..60,
        crlf in any::<bool>(),
    ) {
        let end = if crlf { "\r\n\r\n" } else { "\n\n" };
        let stream: String =
            events.iter().map(|n| format!("data: {{\"message\":\"{}\"}}{end}", "x".repeat(*n))).collect();
        let log = log(LIMITS);
        let (mut first, mut second, mut got) = (Some(log.read()), None, [String::new(), String::new()]);
        let mut ends = [None, None];
        let (mut rest, mut n) = (stream.as_str(), 0);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(pieces[n % pieces.len()].min(rest.len()));
            push(&log, piece);
            rest = later;
            if n == comes {
                second = Some(log.read());
            }
            prop_assert!(log.kept() <= LIMITS.answer.max(piece.len()));
            for (at, reader) in [&mut first, &mut second].into_iter().enumerate() {
                if let Some(reader) = reader && (at == 0 || reads[n % reads.len()]) && ends[at].is_none() {
                    let (text, end) = take(reader);
                    got[at].push_str(&text);
                    ends[at] = end;
                }
            }
            n += 1;
        }
        log.finish(Ok(()));
        let all = log.read();
        for (at, reader) in [first, second, Some(all)].into_iter().enumerate() {
            let Some(mut reader) = reader else { continue };
            let mut text = got.get(at).cloned().unwrap_or_default();
            let mut ended = ends.get(at).copied().flatten();
            if ended.is_none() {
                let (more, end) = take(&mut reader);
                text += &more;
                ended = end;
            }
            match (at, ended) {
                (0, ended) => {
                    prop_assert_eq!(ended, Some(Ok(())));
                    prop_assert_eq!(&text, &stream);
                }
                (_, Some(Ok(()))) => {
                    // It may have jumped, but only from the end of an event to the beginning of another.
                    let events: Vec<_> = stream.split_inclusive(end).collect();
                    let mut left = events.iter();
                    for event in text.split_inclusive(end) {
                        prop_assert!(left.any(|it| *it == event), "{:?} of {:?}", event, stream);
                    }
                    prop_assert!(text.is_empty() || text.ends_with(events[events.len() - 1]));
                }
                (_, ended) => prop_assert!(
                    matches!(ended, Some(Err(FaultKind::NotKept | FaultKind::SlowReader))), "{:?}", ended
                ),
            }
        }
    }
}

#[test]
fn who_holds_the_number_of_readers_may_ask_for_the_rest() {
    const TIMES: usize = 20_000;
    let log = log(LIMITS);
    let (over, ends) = std::sync::mpsc::channel();
    let (comes, asks) = (log.clone(), log);
    let (over_too, each) = (over.clone(), move |work: &dyn Fn()| (0..TIMES).for_each(|_| work()));
    std::thread::spawn(move || {
        each(&|| drop(comes.read()));
        over.send(())
    });
    std::thread::spawn(move || {
        let reading = asks.reading();
        each(&|| {
            let readers = reading.borrow();
            assert!(*readers <= 1 && !asks.is_given());
        });
        over_too.send(())
    });
    for _ in 0..2 {
        ends.recv_timeout(std::time::Duration::from_secs(60)).expect("neither waits for the other for ever");
    }
}
