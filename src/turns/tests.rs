//! Turns of one instance that is alone.

use super::*;
use bytes::Bytes;

type Answers = Turns<()>;

fn key(exact: u8, loose: Option<u8>) -> Key {
    Key { exact: [exact; 32], loose: loose.map(|it| [it; 32]) }
}

fn answers() -> Answers {
    Turns::new(Limits { answer: 1000, least: 100, total: 2000 })
}

async fn begin(answers: &Answers, key: Key) -> (Arc<Log<()>>, Reader<()>) {
    match answers.join(key).await.unwrap() {
        Joined::New(writing, reader) => (writing.into_log(), reader),
        _ => panic!("it is there already"),
    }
}

async fn how(answers: &Answers, key: Key) -> (&'static str, Reader<()>) {
    match answers.join(key).await.unwrap() {
        Joined::New(_, reader) => ("new", reader),
        Joined::Running(reader) => ("running", reader),
        Joined::Over(reader) => ("over", reader),
    }
}

async fn all(mut reader: Reader<()>) -> Result<String, FaultKind> {
    reader.head().await.map_err(|it| it.kind())?;
    let mut text = String::new();
    while let Some(chunk) = reader.chunk().await {
        text.push_str(std::str::from_utf8(&chunk.map_err(|it| it.kind())?).unwrap());
    }
    Ok(text)
}

fn whole(log: &Log<()>, text: &'static str) {
    log.head(());
    log.push(Bytes::from(text));
    log.finish(Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_same_turn_shares_one_answer_while_it_runs_and_after_it() {
    let answers = answers();
    let (log, first) = begin(&answers, key(1, None)).await;
    let (how_second, second) = how(&answers, key(1, None)).await;
    assert_eq!(how_second, "running");
    assert_eq!(how(&answers, key(2, None)).await.0, "new");
    whole(&log, "data: a\n\n");
    assert_eq!(all(first).await.unwrap(), all(second).await.unwrap());
    for _ in 0..2 {
        let (how, again) = how(&answers, key(1, None)).await;
        assert_eq!((how, all(again).await.as_deref()), ("over", Ok("data: a\n\n")));
    }
    answers.forget(&log);
    assert_eq!(how(&answers, key(1, None)).await.0, "new");
}

#[tokio::test(start_paused = true)]
async fn the_beginning_of_a_conversation_is_taken_over_from_who_has_left_and_from_nobody_else() {
    let answers = answers();
    let (log, first) = begin(&answers, key(1, Some(9))).await;
    let (other, reader) = begin(&answers, key(2, Some(9))).await;
    assert!(!Arc::ptr_eq(&log, &other), "somebody else says the same");
    drop(first);
    let (how_second, second) = how(&answers, key(3, Some(9))).await;
    assert_eq!(how_second, "running", "the first one's next attempt");
    let (how_stranger, stranger) = how(&answers, key(4, Some(9))).await;
    assert_eq!(how_stranger, "new", "that has a reader again");
    drop(second);
    whole(&log, "data: a\n\n");
    let (how_third, third) = how(&answers, key(5, Some(9))).await;
    assert_eq!((how_third, all(third).await.as_deref()), ("over", Ok("data: a\n\n")));
    assert_eq!(how(&answers, key(6, Some(9))).await.0, "new", "it was given in whole");
    drop((reader, stranger));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_with_the_last_byte_has_had_the_answer() {
    for leaves_after_the_end in [true, false] {
        let answers = answers();
        let (log, mut first) = begin(&answers, key(1, Some(9))).await;
        log.head(());
        log.push(Bytes::from("data: a\n\n"));
        assert!(first.chunk().await.unwrap().is_ok());
        let first = leaves_after_the_end.then_some(first);
        log.finish(Ok(()));
        drop(first);
        assert_eq!(how(&answers, key(2, Some(9))).await.0, "new");
        assert_eq!(how(&answers, key(1, Some(9))).await.0, "over", "its own turn is its own");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_faster_than_the_end_of_the_last_one_waits_a_moment_for_it() {
    let answers = answers();
    let (_log, first) = begin(&answers, key(1, Some(9))).await;
    let leaves = async {
        tokio::time::sleep(NOTICE / 2).await;
        drop(first);
    };
    let (second, ()) = tokio::join!(how(&answers, key(2, Some(9))), leaves);
    assert_eq!(second.0, "running");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_once_and_one_that_was_never_sent_not_at_all() {
    let answers = answers();
    let lost = || Fault::new(FaultKind::PageLost, "lost");
    let (log, reader) = begin(&answers, key(1, None)).await;
    drop(reader);
    log.finish(Err(lost().maybe_sent()));
    let (how_again, again) = how(&answers, key(1, None)).await;
    assert_eq!((how_again, all(again).await), ("over", Err(FaultKind::PageLost)));
    let (log, _reader) = begin(&answers, key(1, None)).await;
    log.finish(Err(lost()));
    assert_eq!(how(&answers, key(1, None)).await.0, "new");
}

#[tokio::test(start_paused = true)]
async fn what_there_is_no_room_for_is_dropped_but_not_sent_again_unseen() {
    let answers = answers();
    let mut logs = Vec::new();
    for n in 0..4 {
        let (log, reader) = begin(&answers, key(n, None)).await;
        log.head(());
        log.push(Bytes::from(vec![b'x'; 600]));
        log.finish(Ok(()));
        answers.make_room();
        assert!(answers.kept() <= 2000);
        logs.push((log, reader));
    }
    let (how_first, first) = how(&answers, key(0, None)).await;
    assert_eq!((how_first, all(first).await), ("over", Err(FaultKind::NotKept)));
    assert_eq!(how(&answers, key(0, None)).await.0, "new", "somebody was told, and asks all the same");
    assert_eq!(how(&answers, key(3, None)).await.0, "over");
    logs.clear();
    (0..4).for_each(|_| answers.lock().clear());
    assert_eq!(answers.kept(), 0);
}
