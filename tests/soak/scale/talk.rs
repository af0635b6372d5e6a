//! A client that has two turns of one conversation at once: as a rule at two instances, of which one must wait for
//! the other, since the site answers one at a time.

use fastrand::Rng;
use tokio::time::timeout;

use super::super::PATIENCE;
use super::super::answer::{Expect, judge, place};
use super::super::ledger::End;
use super::super::load::{Load, Manner, NEW, no_head, turn};

/// A conversation: its first turn, and two that follow it.
pub async fn converse(load: &Load, mut rng: Rng) {
    let Some((conversation, parent)) = one(load, "begins a conversation", &mut rng, None, NEW).await else {
        return;
    };
    let (mut other, conversation) = (rng.fork(), Some(conversation.as_str()));
    tokio::join!(
        one(load, "two turns at once", &mut rng, conversation, &parent),
        one(load, "two turns at once", &mut other, conversation, &parent),
    );
}

/// One turn; where the next one goes on, if this was answered.
async fn one(
    load: &Load,
    name: &'static str,
    rng: &mut Rng,
    conversation: Option<&str>,
    parent: &str,
) -> Option<(String, String)> {
    let ticket = load.ledger.begin(name);
    let prompt = format!("hello {} count={} interval={}", ticket.id, rng.u32(3..20), rng.u32(5..40));
    let body = turn(&ticket.id, &prompt, conversation, parent);
    let (end, place) = match timeout(PATIENCE, load.turn_as(None, body, Manner::Reads)).await {
        Err(_) => (End::Lost(format!("no end within {} s", PATIENCE.as_secs())), None),
        Ok(Err(error)) => (no_head(&error), None),
        Ok(Ok(None)) => (End::Left, None),
        Ok(Ok(Some(reading))) => (judge(&prompt, Expect::Whole, &reading), place(&reading.body)),
    };
    let place = place.filter(|_| end == End::Completed);
    ticket.end(end);
    place
}
