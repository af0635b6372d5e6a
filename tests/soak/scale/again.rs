//! A client that asks the same turn again until it has an answer, as the bot plugin does: cut or turned away by a
//! machine, it asks at once, with other ids, and whoever nginx gives it to next must know the turn.
//!
//! All its attempts are one exchange in the books: the site may see one POST of them. Only once a person has read
//! that the turn failed is the next attempt a new question, of which the site may see another.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::{sleep, timeout};

use super::super::PATIENCE;
use super::super::answer::judge_plugin;
use super::super::ledger::End;
use super::super::load::{Load, Manner, NEW, no_head, turn};

/// What the client says it is.
const PLUGIN: &str = "chatgpt-plugin";
/// How often it asks by itself.
const ATTEMPTS: u64 = 4;
/// How often a person asks again who was told of a fault.
const QUESTIONS: u64 = 2;

/// One turn, asked until it is answered or given up.
pub async fn ask(load: &Load, mut rng: Rng) {
    // A client that remembers what its turn follows, and one that makes it up for each attempt, as the plugin does
    // at the beginning of a conversation: all that is known of that one is its words, and that it has left.
    let remembers = rng.bool();
    let mut ticket = load.ledger.begin(if remembers { "asks again" } else { "asks again, as if anew" });
    // Who leaves when its answer is as good as over has had it, as far as anybody can know.
    let (count, interval) =
        if remembers { (rng.u32(5..60), rng.u32(10..60)) } else { (100, rng.u32(40..60)) };
    let format = ["classic", "delta"][rng.usize(0..2)];
    // Words that nobody else says: who says the same as another may share its answer.
    let prompt = format!("hello {} count={count} interval={interval} format={format}", ticket.id);
    let parent = |attempt: &str| if remembers { NEW.to_owned() } else { format!("before-{attempt}") };
    let (mut left, mut number, mut told) = (ATTEMPTS, 0, 0);
    let end = loop {
        (left, number) = (left - 1, number + 1);
        let attempt = ticket.attempt(number);
        let body = turn(&attempt, &prompt, None, &parent(&attempt));
        let manner = match rng.u8(0..4) {
            0 if left > 1 => Manner::LeavesAfterPieces(rng.usize(1..20)),
            1 if left > 1 => Manner::LeavesAfter(Duration::from_millis(rng.u64(5..500))),
            _ => Manner::Reads,
        };
        let end = match timeout(PATIENCE, load.turn_as(Some(PLUGIN), body, manner)).await {
            Err(_) => break End::Lost(format!("no end within {} s", PATIENCE.as_secs())),
            Ok(Err(error)) => break no_head(&error),
            Ok(Ok(None)) => End::Left,
            Ok(Ok(Some(reading))) => match judge_plugin(&prompt, &reading) {
                Ok(end @ (End::Completed | End::Lost(_))) => break end,
                Ok(end) => end,
                Err(_) => {
                    (told, left) = (told + 1, ATTEMPTS);
                    if told == QUESTIONS {
                        break End::Failed("told".into());
                    }
                    ticket.most_posts += 1;
                    continue;
                }
            },
        };
        if left == 0 {
            break end;
        }
        sleep(Duration::from_millis(rng.u64(0..400))).await;
    };
    if number > 1 {
        load.ledger.note(&format!("turns asked again, ended as {}", end.kind()));
    }
    ticket.end(end);
}
