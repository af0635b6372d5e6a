//! The carriers as the machine counts them: who opens, who serves, and who only ends what it has begun.
//!
//! Work goes to carriers that serve and have answered lately. One that is worn out (see [`Upkeep`]) is
//! replaced before it hurts: a fresh one opens, takes the new work, and the old one is closed when its last
//! exchange has ended. Knows nothing of the browser or of the site's page.

use std::time::{Duration, Instant};

use super::vocabulary::{Action, Timing, Upkeep, Wear};

/// Carriers in a row that may fail to open before the browser is held responsible.
const UNOPENED: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Serving,
    /// Gets no new work, and is closed when it has none.
    Retiring,
}

#[derive(Clone, Debug)]
struct Slot {
    generation: u64,
    stage: Stage,
    /// When its opening began, and from then on when it was open.
    since: Instant,
    /// When it last gave a sign of life; before it is open, when its opening began.
    seen: Instant,
    /// When the site last answered through it, as far as is known.
    answered: Instant,
    /// To be replaced, and why.
    worn: Option<&'static str>,
}

impl Slot {
    fn is_fresh(&self, timing: &Timing, now: Instant) -> bool {
        self.stage == Stage::Serving && now.saturating_duration_since(self.seen) <= timing.suspect
    }
}

/// What becomes of the machine when a carrier is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It was none of ours, or not one that anything depends on.
    Nothing,
    /// Another one is wanted.
    Wanted,
    /// So many failed to open, with none left, that the browser must be at fault.
    Hopeless,
}

/// All carriers of one browser.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    slots: Vec<Slot>,
    upkeep: Upkeep,
    next_generation: u64,
    /// Carriers in a row that could not be opened.
    unopened: u32,
    /// No carrier beyond the first is opened before this.
    reopen_at: Instant,
}

impl Fleet {
    pub fn new(upkeep: Upkeep, now: Instant) -> Fleet {
        Fleet { slots: Vec::new(), upkeep, next_generation: 1, unopened: 0, reopen_at: now }
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether one is connected, however it does.
    pub fn is_open(&self) -> bool {
        self.slots.iter().any(|it| it.stage == Stage::Serving)
    }

    /// Whether `generation` is one that serves.
    pub fn serves(&self, generation: u64) -> bool {
        self.slots.iter().any(|it| it.generation == generation && it.stage == Stage::Serving)
    }

    /// The newest that serves.
    pub fn newest(&self) -> Option<u64> {
        self.slots.iter().rev().find(|it| it.stage == Stage::Serving).map(|it| it.generation)
    }

    /// Those that may get new work, oldest first.
    pub fn usable<'a>(&'a self, timing: &'a Timing, now: Instant) -> impl Iterator<Item = u64> + 'a {
        self.slots.iter().filter(move |it| it.is_fresh(timing, now)).map(|it| it.generation)
    }

    /// Those that are connected, to send beats to.
    pub fn connected(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots.iter().filter(|it| it.stage != Stage::Opening).map(|it| it.generation)
    }

    /// All of them.
    #[cfg(test)]
    pub fn all(&self) -> Vec<u64> {
        self.slots.iter().map(|it| it.generation).collect()
    }

    /// Opens one, whatever there is.
    pub fn open(&mut self, origin: &str, todo: &mut Vec<Action>, now: Instant) {
        let generation = self.next_generation;
        self.next_generation += 1;
        let stage = Stage::Opening;
        self.slots.push(Slot { generation, stage, since: now, seen: now, answered: now, worn: None });
        todo.push(Action::OpenCarrier(generation, origin.to_owned()));
    }

    /// Opens what is missing to the number wanted, and lets worn ones retire once there is another.
    pub fn keep_up(&mut self, origin: &str, timing: &Timing, todo: &mut Vec<Action>, now: Instant) {
        let fit = |it: &&Slot| it.stage != Stage::Retiring && it.worn.is_none();
        let missing = self.upkeep.carriers.saturating_sub(self.slots.iter().filter(fit).count());
        if now >= self.reopen_at {
            for _ in 0..missing {
                self.open(origin, todo, now);
            }
        }
        if self.slots.iter().any(|it| it.worn.is_none() && it.is_fresh(timing, now)) {
            for slot in self.slots.iter_mut().filter(|it| it.worn.is_some() && it.stage == Stage::Serving) {
                slot.stage = Stage::Retiring;
            }
        }
    }

    /// One has connected; `false` if it was given up meanwhile.
    pub fn up(&mut self, generation: u64, now: Instant) -> bool {
        let Some(slot) = self.slot(generation) else { return false };
        (slot.stage, slot.since, slot.seen, slot.answered) = (Stage::Serving, now, now, now);
        self.unopened = 0;
        true
    }

    /// One is gone. Where it could not even be opened and others serve, there is a pause before the next.
    pub fn lost(&mut self, generation: u64, now: Instant, timing: &Timing) -> Loss {
        let Some(at) = self.slots.iter().position(|it| it.generation == generation) else {
            return Loss::Nothing;
        };
        match self.slots.remove(at).stage {
            Stage::Retiring => return Loss::Nothing,
            Stage::Serving => {}
            Stage::Opening => {
                self.unopened = self.unopened.saturating_add(1);
                if self.is_open() {
                    // Not worth a new browser while another serves; nor worth trying without a pause.
                    let (first, cap) = timing.backoff;
                    self.reopen_at = now + first.saturating_mul(1 << self.unopened.min(16)).min(cap);
                } else if self.unopened >= UNOPENED {
                    return Loss::Hopeless;
                }
            }
        }
        Loss::Wanted
    }

    /// One has answered a beat. Closes it if it was only waiting for its last exchange to end.
    pub fn beat(&mut self, generation: u64, wear: Wear, todo: &mut Vec<Action>, now: Instant) {
        let limit = self.upkeep.exchanges;
        let Some(slot) = self.slot(generation) else { return };
        slot.seen = now;
        slot.answered = slot.answered.max(now.checked_sub(wear.quiet).unwrap_or(slot.answered));
        if slot.stage == Stage::Retiring && wear.running == 0 {
            self.remove(generation);
            todo.push(Action::CloseCarrier(generation));
        } else if wear.started >= limit {
            self.wear_out(generation, "it has served its number of exchanges");
        }
    }

    /// One uses so many bytes of memory. Forgiven right after its opening: if a fresh one is that large, a
    /// fresher one is no better.
    pub fn weighed(&mut self, generation: u64, bytes: u64, timing: &Timing, now: Instant) {
        let mark = self.upkeep.memory;
        let Some(slot) = self.slot(generation) else { return };
        if bytes > mark && now.saturating_duration_since(slot.since) >= timing.settled {
            self.wear_out(generation, "it uses too much memory");
        }
    }

    /// The site has answered through this one.
    pub fn answered(&mut self, generation: u64, now: Instant) {
        if let Some(slot) = self.slot(generation) {
            (slot.seen, slot.answered) = (now, now);
        }
    }

    /// This one is to be replaced.
    pub fn wear_out(&mut self, generation: u64, why: &'static str) {
        if let Some(slot) = self.slot(generation) {
            slot.worn.get_or_insert(why);
        }
    }

    /// Wears out the oldest that has reached its age; one at a time, so that they do not all go at once.
    pub fn grow_old(&mut self, now: Instant) {
        let age = self.upkeep.age;
        if self.slots.iter().any(|it| it.worn.is_some() || it.stage != Stage::Serving) {
            return;
        }
        let old = self.slots.iter_mut().find(|it| now.saturating_duration_since(it.since) >= age);
        if let Some(slot) = old {
            slot.worn = Some("it has reached its age");
        }
    }

    /// Those that have been silent for longer than they may, which `slack` extends on a slow machine.
    pub fn silent(&self, timing: &Timing, slack: Duration, now: Instant) -> Vec<u64> {
        let is_silent = |slot: &&Slot| {
            let limit = if slot.stage == Stage::Opening { timing.open } else { timing.carrier_silence };
            now.saturating_duration_since(slot.seen) > limit + slack
        };
        self.slots.iter().filter(is_silent).map(|it| it.generation).collect()
    }

    /// The one that the site has answered nothing through for longest, if that is longer than `quiet`.
    pub fn quiet(&self, quiet: Duration, now: Instant) -> Option<u64> {
        let serving = self.slots.iter().filter(|it| it.stage == Stage::Serving);
        let slot = serving.min_by_key(|it| it.answered)?;
        (now.saturating_duration_since(slot.answered) >= quiet).then_some(slot.generation)
    }

    /// Forgets all, and closes them.
    pub fn close(&mut self, todo: &mut Vec<Action>) {
        todo.extend(self.slots.drain(..).map(|it| Action::CloseCarrier(it.generation)));
    }

    /// Forgets all: they went with their browser.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.unopened = 0;
    }

    /// Forgets one.
    pub fn remove(&mut self, generation: u64) {
        self.slots.retain(|it| it.generation != generation);
    }

    fn slot(&mut self, generation: u64) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|it| it.generation == generation)
    }
}
