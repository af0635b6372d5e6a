//! The life of the browser and its page, as a pure machine.
//!
//! ```text
//! Starting ──> Warming ──> Ready <──> Suspect         a beat was missed everywhere
//!     ^         │  ^  │                  │
//!     │         │  │  └──> NeedsOperator │            a check or a sign-in that a person must do
//!     │         │  └─────────┬───────────┤            every carrier lost: open another
//!     └─────── Backoff <─────┴───────────┘            browser or link lost, or nothing else helped
//!
//! any ──> Draining ──> Stopped
//! ```
//!
//! [`State::on`] takes an event and the time and returns the next state and what is to be done; it does
//! nothing itself and reads no clock. The supervisor performs the [`Action`]s and reports their outcomes as
//! [`Event`]s. Repairs go from cheap to dear: another carrier, the site's page again, another browser, and
//! only then a person. What keeps failing is tried ever more rarely, up to a cap; the count of attempts
//! starts again only after a stable time in `Ready`.

mod vocabulary;

use std::time::{Duration, Instant};

pub use vocabulary::{Action, Event, Phase, Repair, Timing};

use crate::site::challenge::{Landing, Verdict, Wall};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    generation: u64,
    /// When it last gave a sign of life; before it is open, when its opening began.
    seen: Instant,
    open: bool,
}

/// The machine's whole state.
#[derive(Clone, Debug)]
pub struct State {
    phase: Phase,
    since: Instant,
    reason: String,
    timing: Timing,
    browser_seen: Option<Instant>,
    origin: Option<String>,
    carriers: Vec<Slot>,
    next_generation: u64,
    next_beat: Instant,
    next_probe: Option<Instant>,
    wall: Option<Wall>,
    /// Failures in a row, of anything that needs a pause before it is tried again.
    attempts: u32,
    /// Carriers in a row that could not be opened.
    unopened: u32,
    /// Seed of the jitter.
    random: u64,
}

/// Carriers in a row that may fail to open before the browser is replaced.
const UNOPENED: u32 = 3;
/// Failures of the site's page in a row before the browser is replaced with the page.
const SITE_TRIES: u32 = 3;

impl State {
    /// The beginning: a browser is to be started. `seed` spreads the retries of several instances.
    pub fn new(timing: Timing, seed: u64, now: Instant) -> (State, Vec<Action>) {
        let state = State {
            phase: Phase::Starting,
            since: now,
            reason: "the browser is starting".into(),
            next_beat: now + timing.beat,
            timing,
            browser_seen: None,
            origin: None,
            carriers: Vec::new(),
            next_generation: 1,
            next_probe: None,
            wall: None,
            attempts: 0,
            unopened: 0,
            random: seed | 1,
        };
        (state, vec![Action::Launch])
    }

    /// The phase.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Since when.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Why, in words for the operator.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The origin that the page landed on.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// The carriers that may get new work at `now`, oldest first; none unless `Ready`.
    pub fn usable(&self, now: Instant) -> impl Iterator<Item = u64> + '_ {
        let ready = self.phase == Phase::Ready;
        self.carriers.iter().filter(move |slot| ready && self.is_fresh(slot, now)).map(|slot| slot.generation)
    }

    /// When to send [`Event::Tick`] at the latest.
    pub fn wake_at(&self) -> Instant {
        let phase = match self.phase {
            Phase::Warming { until } | Phase::Backoff { until, .. } => Some(until),
            _ => None,
        };
        [phase, self.next_probe].into_iter().flatten().fold(self.next_beat, Instant::min)
    }

    /// The next state, and what is to be done.
    pub fn on(mut self, event: Event, now: Instant) -> (State, Vec<Action>) {
        let mut todo = Vec::new();
        match self.phase {
            Phase::Stopped => {}
            Phase::Draining => self.while_draining(event, &mut todo, now),
            _ => self.while_running(event, &mut todo, now),
        }
        (self, todo)
    }

    fn while_draining(&mut self, event: Event, todo: &mut Vec<Action>, now: Instant) {
        match event {
            Event::Drained => {
                self.enter(Phase::Stopped, "stopped", now);
                todo.push(if self.browser_seen.take().is_some() { Action::Close } else { Action::Kill });
                self.carriers.clear();
            }
            // Streams end with their carrier; nothing is opened again.
            Event::CarrierLost(generation, _) => self.carriers.retain(|it| it.generation != generation),
            Event::BrowserLost(_) => {
                self.browser_seen = None;
                self.carriers.clear();
            }
            Event::Tick => self.next_beat = now + self.timing.beat,
            _ => {}
        }
    }

    fn while_running(&mut self, event: Event, todo: &mut Vec<Action>, now: Instant) {
        match event {
            Event::Tick => self.tick(todo, now),
            Event::BrowserUp if self.phase == Phase::Starting => {
                self.browser_seen = Some(now);
                self.open_site("the site's page is being opened", todo, now);
            }
            Event::BrowserLost(cause) => self.lose_browser(cause, todo, now),
            Event::SiteLanded(origin, landing) if self.browser_seen.is_some() => {
                self.landed(origin, landing, todo, now)
            }
            Event::SiteFailed(cause) if matches!(self.phase, Phase::Warming { .. }) => {
                self.fail_site(cause, todo, now)
            }
            // Carriers live without it, but the session that it keeps does not.
            Event::SiteLost(_)
                if self.browser_seen.is_some() && !matches!(self.phase, Phase::Backoff { .. }) =>
            {
                todo.push(Action::OpenSite);
            }
            Event::CarrierUp(generation) => self.carrier_up(generation, todo, now),
            Event::CarrierLost(generation, cause) => self.carrier_lost(generation, cause, todo, now),
            Event::Probed(generation, verdict) => self.probed(generation, verdict, now),
            Event::CarrierBeat(generation) => {
                if let Some(slot) = self.slot(generation) {
                    slot.seen = now;
                    if self.phase == Phase::Suspect {
                        self.enter(Phase::Ready, "answers again", now);
                    }
                }
            }
            Event::BrowserBeat => {
                if let Some(seen) = &mut self.browser_seen {
                    *seen = now;
                }
            }
            Event::Restart(Repair::Browser) => {
                self.drop_browser(todo);
                self.attempts = 0;
                self.start("restarted by the operator", todo, now);
            }
            Event::Restart(Repair::Site) => {
                if self.browser_seen.is_some() {
                    self.close_carriers(todo);
                    self.origin = None;
                    self.open_site("the page is opened again for the operator", todo, now);
                } else {
                    self.attempts = 0;
                    self.start("restarted by the operator", todo, now);
                }
            }
            Event::Drain => {
                self.enter(Phase::Draining, "the server is stopping", now);
                self.next_probe = None;
            }
            _ => {}
        }
    }

    fn tick(&mut self, todo: &mut Vec<Action>, now: Instant) {
        match self.phase {
            Phase::Backoff { until, next } if until <= now => match next {
                Repair::Browser => self.start("the browser is starting again", todo, now),
                Repair::Site => self.open_site("the site's page is opened again", todo, now),
            },
            Phase::Warming { until } if until <= now => match self.wall {
                Some(wall) => self.ask_operator(wall, now),
                None => {
                    let cause = format!("no usable page within {:?}: {}", self.timing.check, self.reason);
                    self.fail_site(cause, todo, now);
                }
            },
            Phase::Ready if now.saturating_duration_since(self.since) >= self.timing.stable => {
                self.attempts = 0
            }
            _ => {}
        }
        if let Some(seen) = self.browser_seen {
            if now.saturating_duration_since(seen) > self.timing.browser_silence {
                return self.lose_browser("the browser does not answer".into(), todo, now);
            }
            self.look_after_carriers(todo, now);
        }
        if self.next_probe.is_some_and(|at| at <= now) {
            self.next_probe = None;
            self.probe(todo);
        }
        if self.next_beat <= now {
            self.next_beat = now + self.timing.beat;
            if self.browser_seen.is_some() {
                todo.push(Action::BeatBrowser);
            }
            let open = self.carriers.iter().filter(|it| it.open);
            todo.extend(open.map(|it| Action::BeatCarrier(it.generation)));
        }
    }

    fn look_after_carriers(&mut self, todo: &mut Vec<Action>, now: Instant) {
        let silent: Vec<_> = self
            .carriers
            .iter()
            .filter(|slot| {
                let limit = if slot.open { self.timing.carrier_silence } else { self.timing.open };
                now.saturating_duration_since(slot.seen) > limit
            })
            .map(|slot| slot.generation)
            .collect();
        for generation in silent {
            todo.push(Action::CloseCarrier(generation));
            self.carrier_lost(generation, "the page does not answer".into(), todo, now);
        }
        if self.phase == Phase::Ready && !self.carriers.iter().any(|it| self.is_fresh(it, now)) {
            self.enter(Phase::Suspect, "a beat was missed", now);
        }
    }

    fn is_fresh(&self, slot: &Slot, now: Instant) -> bool {
        slot.open && now.saturating_duration_since(slot.seen) <= self.timing.suspect
    }

    fn start(&mut self, reason: &str, todo: &mut Vec<Action>, now: Instant) {
        self.enter(Phase::Starting, reason, now);
        todo.push(Action::Launch);
    }

    fn open_site(&mut self, reason: &str, todo: &mut Vec<Action>, now: Instant) {
        self.wall = None;
        self.enter(Phase::Warming { until: now + self.timing.check }, reason, now);
        todo.push(Action::OpenSite);
    }

    fn landed(&mut self, origin: String, landing: Landing, todo: &mut Vec<Action>, now: Instant) {
        let warming = matches!(self.phase, Phase::Warming { .. });
        match landing {
            Landing::Wall(wall) if warming => return self.ask_operator(wall, now),
            // In a working page this is the operator signing in again; fetches tell when they fail.
            Landing::Wall(_) => return,
            // An operator on the way through a third party's sign-in; a first landing is taken as it is.
            Landing::Elsewhere if !warming || self.origin.is_some() => return,
            Landing::Elsewhere | Landing::Site => {}
        }
        if let Phase::Backoff { .. } = self.phase {
            return;
        }
        if self.origin.as_ref() != Some(&origin) {
            self.close_carriers(todo);
            self.origin = Some(origin);
            if matches!(self.phase, Phase::Ready | Phase::Suspect) {
                let until = now + self.timing.check;
                self.enter(Phase::Warming { until }, "the site moved to another origin", now);
            }
        }
        if self.carriers.is_empty() {
            self.open_carrier(todo, now);
        } else if matches!(self.phase, Phase::Warming { .. } | Phase::NeedsOperator(_)) {
            self.next_probe = None;
            self.probe(todo);
        }
    }

    fn open_carrier(&mut self, todo: &mut Vec<Action>, now: Instant) {
        let Some(origin) = self.origin.clone() else { return };
        let generation = self.next_generation;
        self.next_generation += 1;
        self.carriers.push(Slot { generation, seen: now, open: false });
        todo.push(Action::OpenCarrier(generation, origin));
    }

    fn carrier_up(&mut self, generation: u64, todo: &mut Vec<Action>, now: Instant) {
        match self.slot(generation) {
            None => todo.push(Action::CloseCarrier(generation)), // given up meanwhile
            Some(slot) => {
                slot.open = true;
                slot.seen = now;
                match self.phase {
                    Phase::Warming { .. } | Phase::NeedsOperator(_) => todo.push(Action::Probe(generation)),
                    Phase::Suspect => self.enter(Phase::Ready, "another carrier took over", now),
                    _ => {}
                }
            }
        }
    }

    fn carrier_lost(&mut self, generation: u64, cause: String, todo: &mut Vec<Action>, now: Instant) {
        let Some(at) = self.carriers.iter().position(|it| it.generation == generation) else { return };
        let was_open = self.carriers.remove(at).open;
        if self.browser_seen.is_none() || matches!(self.phase, Phase::Backoff { .. } | Phase::Starting) {
            return;
        }
        self.unopened = if was_open { 0 } else { self.unopened + 1 };
        if self.unopened >= UNOPENED {
            return self.lose_browser(format!("no carrier can be opened: {cause}"), todo, now);
        }
        self.open_carrier(todo, now);
        if matches!(self.phase, Phase::Ready | Phase::Suspect) && !self.carriers.iter().any(|it| it.open) {
            self.enter(
                Phase::Warming { until: now + self.timing.check },
                &format!("the page was lost: {cause}"),
                now,
            );
        }
    }

    fn probe(&mut self, todo: &mut Vec<Action>) {
        if let Some(slot) = self.carriers.iter().rev().find(|it| it.open) {
            todo.push(Action::Probe(slot.generation));
        }
    }

    fn probed(&mut self, generation: u64, verdict: Verdict, now: Instant) {
        let waiting = match self.phase {
            Phase::Warming { .. } => self.timing.probe,
            Phase::NeedsOperator(_) => self.timing.operator_probe,
            _ => return,
        };
        if !self.carriers.iter().any(|it| it.generation == generation && it.open) {
            // Its carrier is gone; the one that follows is probed when it is up.
            return;
        }
        match verdict {
            Verdict::Passed => {
                self.wall = None;
                self.unopened = 0;
                self.next_probe = None;
                if let Some(slot) = self.slot(generation) {
                    slot.seen = now;
                }
                self.enter(Phase::Ready, "requests are served", now);
            }
            Verdict::Wall(Wall::SignIn) => {
                self.ask_operator(Wall::SignIn, now);
            }
            Verdict::Wall(Wall::Check) => {
                self.wall = Some(Wall::Check);
                self.next_probe = Some(now + waiting);
                if let Phase::Warming { .. } = self.phase {
                    "the site checks the browser".clone_into(&mut self.reason);
                }
            }
            Verdict::Unwell(cause) => {
                self.next_probe = Some(now + waiting * 4);
                if let Phase::Warming { .. } = self.phase {
                    self.reason = cause;
                }
            }
        }
    }

    fn ask_operator(&mut self, wall: Wall, now: Instant) {
        self.next_probe = Some(now + self.timing.operator_probe);
        if self.phase != Phase::NeedsOperator(wall) {
            let reason = match wall {
                Wall::Check => {
                    "the site's check did not pass by itself: a person must complete it in the browser"
                }
                Wall::SignIn => "the site wants a sign-in: a person must do it in the browser",
            };
            self.enter(Phase::NeedsOperator(wall), reason, now);
        }
    }

    fn fail_site(&mut self, cause: String, todo: &mut Vec<Action>, now: Instant) {
        if self.attempts > 0 && self.attempts.is_multiple_of(SITE_TRIES) {
            return self.lose_browser(cause, todo, now);
        }
        let until = now + self.pause();
        self.close_carriers(todo);
        self.origin = None;
        self.enter(Phase::Backoff { until, next: Repair::Site }, &cause, now);
    }

    fn lose_browser(&mut self, cause: String, todo: &mut Vec<Action>, now: Instant) {
        if let Phase::Backoff { next: Repair::Browser, .. } = self.phase {
            return; // one loss is often reported several times
        }
        self.drop_browser(todo);
        let until = now + self.pause();
        self.enter(Phase::Backoff { until, next: Repair::Browser }, &cause, now);
        if until <= now {
            self.start(&format!("the browser is starting again: {cause}"), todo, now);
        }
    }

    fn drop_browser(&mut self, todo: &mut Vec<Action>) {
        self.browser_seen = None;
        self.carriers.clear(); // they go with it
        self.origin = None;
        self.wall = None;
        self.unopened = 0;
        self.next_probe = None;
        todo.push(Action::Kill);
    }

    fn close_carriers(&mut self, todo: &mut Vec<Action>) {
        todo.extend(self.carriers.drain(..).map(|it| Action::CloseCarrier(it.generation)));
        self.next_probe = None;
    }

    /// How long to wait before the next try: nothing the first time, then exponentially longer, up to the
    /// cap, spread by up to a quarter so that several instances do not try in step.
    fn pause(&mut self) -> Duration {
        let (first, cap) = self.timing.backoff;
        let tries = self.attempts;
        self.attempts = self.attempts.saturating_add(1);
        if tries == 0 {
            return Duration::ZERO;
        }
        // xorshift64: the machine stays pure, and a test can foresee it.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let pause = first.saturating_mul(1 << (tries - 1).min(16)).min(cap);
        pause - pause.mul_f64((self.random % 256) as f64 / 1024.0)
    }

    fn slot(&mut self, generation: u64) -> Option<&mut Slot> {
        self.carriers.iter_mut().find(|it| it.generation == generation)
    }

    fn enter(&mut self, phase: Phase, reason: &str, now: Instant) {
        self.phase = phase;
        self.since = now;
        reason.clone_into(&mut self.reason);
    }
}

#[cfg(test)]
mod tests;
