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

mod fleet;
mod vigil;
mod vocabulary;
mod warming;
mod watching;

use std::time::{Duration, Instant};

use fleet::{Fleet, Loss};
use vigil::{SiteWatch, Vigil};
pub use vocabulary::{Action, Event, Phase, Repair, Timing, Upkeep, Wear};

use crate::site::challenge::Wall;

/// The machine's whole state.
#[derive(Clone, Debug)]
pub struct State {
    phase: Phase,
    since: Instant,
    reason: String,
    timing: Timing,
    upkeep: Upkeep,
    /// The watch over the browser, while there is one.
    browser: Option<Vigil>,
    site: SiteWatch,
    origin: Option<String>,
    fleet: Fleet,
    next_beat: Instant,
    next_weighing: Instant,
    /// The next look at a wall.
    next_probe: Option<Instant>,
    /// The next look through a carrier that has been quiet.
    next_look: Instant,
    wall: Option<Wall>,
    /// When a doubt may be looked into again.
    next_doubt: Instant,
    /// When the page was last opened again because an answer was a wall.
    walled: Option<Instant>,
    /// Failures in a row, of anything that needs a pause before it is tried again.
    attempts: u32,
    /// Browsers in a row that did not even start.
    unstarted: u32,
    /// Seed of the jitter.
    random: u64,
}

/// Browsers in a row that do not start before the profile is suspected.
const UNSTARTED: u32 = 3;

impl State {
    /// The beginning: a browser is to be started. `seed` spreads the retries of several instances.
    pub fn new(timing: Timing, upkeep: Upkeep, seed: u64, now: Instant) -> (State, Vec<Action>) {
        let state = State {
            phase: Phase::Starting,
            since: now,
            reason: "the browser is starting".into(),
            next_beat: now + timing.beat,
            next_weighing: now + timing.weigh,
            next_probe: None,
            next_look: now + timing.quiet,
            site: SiteWatch::new(&timing, now),
            fleet: Fleet::new(upkeep.clone(), now),
            timing,
            upkeep,
            browser: None,
            origin: None,
            wall: None,
            next_doubt: now,
            walled: None,
            attempts: 0,
            unstarted: 0,
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
        self.fleet.usable(&self.timing, now).filter(move |_| ready)
    }

    /// When to send [`Event::Tick`] at the latest.
    pub fn wake_at(&self) -> Instant {
        let phase = match self.phase {
            Phase::Warming { until } | Phase::Backoff { until, .. } => Some(until),
            _ => None,
        };
        let site = self.site.due().filter(|_| self.has_page());
        [phase, self.next_probe, site].into_iter().flatten().fold(self.next_beat, Instant::min)
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
                todo.push(if self.browser.take().is_some() { Action::Close } else { Action::Kill });
                self.fleet.clear();
            }
            // Streams end with their carrier; nothing is opened again.
            Event::CarrierLost(generation, _) => self.fleet.remove(generation),
            Event::BrowserLost(_) => {
                self.browser = None;
                self.fleet.clear();
            }
            Event::Tick => self.next_beat = now + self.timing.beat,
            _ => {}
        }
    }

    fn while_running(&mut self, event: Event, todo: &mut Vec<Action>, now: Instant) {
        match event {
            Event::Tick => self.tick(todo, now),
            Event::BrowserUp if self.phase == Phase::Starting => {
                self.unstarted = 0;
                self.browser = Some(Vigil::new(now));
                self.site = SiteWatch::new(&self.timing, now);
                self.open_site("the site's page is being opened", todo, now);
            }
            Event::BrowserUp => {}
            Event::BrowserLost(cause) => {
                if self.phase == Phase::Starting {
                    self.unstarted = self.unstarted.saturating_add(1);
                }
                self.lose_browser(cause, todo, now);
            }
            Event::LinkLost(_) => {
                if let Some(browser) = &mut self.browser {
                    browser.relink(todo);
                }
            }
            Event::Relinked(done) => {
                if let Some(browser) = &mut self.browser {
                    browser.relinked(done.is_ok(), &self.timing, now);
                    self.keep_up(todo, now);
                }
            }
            Event::SiteLanded(origin, landing) => {
                if self.browser.is_some() {
                    self.landed(origin, landing, todo, now);
                }
            }
            Event::SiteFailed(cause) => {
                if let Phase::Warming { .. } = self.phase {
                    self.fail_site(cause, todo, now);
                }
            }
            // Carriers live without it, but the session that it keeps does not.
            Event::SiteLost(_) => {
                self.site.lost(now);
                self.reopen_site(todo, now);
            }
            Event::SiteBeat(bytes) => self.site_beat(bytes, todo, now),
            Event::CarrierUp(generation) => self.carrier_up(generation, todo, now),
            Event::CarrierLost(generation, cause) => self.carrier_lost(generation, cause, todo, now),
            Event::Probed(generation, verdict) => self.probed(generation, verdict, todo, now),
            Event::Walled(generation, wall) => {
                if self.fleet.connected().any(|it| it == generation) {
                    self.meet_wall(wall, todo, now);
                }
            }
            Event::Doubted(generation) => self.doubt(generation, todo, now),
            Event::CarrierBeat(generation, wear) => {
                self.fleet.beat(generation, wear, todo, now);
                if self.phase == Phase::Suspect && self.fleet.serves(generation) {
                    self.enter(Phase::Ready, "answers again", now);
                }
                self.keep_up(todo, now);
            }
            Event::CarrierWeighed(generation, bytes) => {
                self.fleet.weighed(generation, bytes, &self.timing, now);
                self.keep_up(todo, now);
            }
            Event::BrowserBeat(delay) => {
                if let Some(browser) = &mut self.browser {
                    browser.answered(delay, now);
                }
            }
            Event::BrowserPulse(working) => {
                if let Some(browser) = &mut self.browser {
                    browser.pulse(working, now);
                }
            }
            Event::Restart(Repair::Site) if self.browser.is_some() => {
                self.fleet.close(todo);
                self.next_probe = None;
                self.origin = None;
                self.open_site("the page is opened again for the operator", todo, now);
            }
            Event::Restart(_) => {
                self.drop_browser(todo);
                self.attempts = 0;
                self.start("restarted by the operator", todo, now);
            }
            Event::Drain => {
                self.enter(Phase::Draining, "the server is stopping", now);
                self.next_probe = None;
            }
            Event::Drained => {}
        }
    }

    /// Whether the site's page ought to be there.
    fn has_page(&self) -> bool {
        self.browser.is_some() && !matches!(self.phase, Phase::Backoff { .. } | Phase::Starting)
    }

    fn start(&mut self, reason: &str, todo: &mut Vec<Action>, now: Instant) {
        self.enter(Phase::Starting, reason, now);
        let suspicious = self.unstarted > 0 && self.unstarted.is_multiple_of(UNSTARTED);
        todo.push(if suspicious { Action::LaunchAnew } else { Action::Launch });
    }

    fn open_carrier(&mut self, todo: &mut Vec<Action>, now: Instant) {
        if let Some(origin) = &self.origin {
            self.fleet.open(origin, todo, now);
        }
    }

    /// While requests are served, sees to it that as many carriers as wanted can serve them.
    fn keep_up(&mut self, todo: &mut Vec<Action>, now: Instant) {
        let linked = self.browser.as_ref().is_some_and(Vigil::is_linked);
        if let (Some(origin), Phase::Ready | Phase::Suspect, true) = (&self.origin, &self.phase, linked) {
            self.fleet.keep_up(origin, &self.timing, todo, now);
        }
    }

    fn carrier_up(&mut self, generation: u64, todo: &mut Vec<Action>, now: Instant) {
        if !self.fleet.up(generation, now) {
            return todo.push(Action::CloseCarrier(generation)); // given up meanwhile
        }
        match self.phase {
            Phase::Warming { .. } | Phase::NeedsOperator(_) => todo.push(Action::Probe(generation)),
            Phase::Suspect => self.enter(Phase::Ready, "another carrier took over", now),
            _ => {}
        }
        self.keep_up(todo, now);
    }

    fn carrier_lost(&mut self, generation: u64, cause: String, todo: &mut Vec<Action>, now: Instant) {
        match self.fleet.lost(generation, now, &self.timing) {
            Loss::Nothing => return,
            Loss::Wanted if !self.has_page() => return,
            Loss::Wanted => {}
            Loss::Hopeless => {
                return self.lose_browser(format!("no carrier can be opened: {cause}"), todo, now);
            }
        }
        self.keep_up(todo, now);
        if self.fleet.is_open() {
            return;
        }
        if self.fleet.is_empty() {
            self.open_carrier(todo, now);
        }
        if matches!(self.phase, Phase::Ready | Phase::Suspect) {
            let until = now + self.timing.check;
            self.enter(Phase::Warming { until }, &format!("the page was lost: {cause}"), now);
        }
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
        self.browser = None;
        self.fleet.clear(); // they go with it
        self.origin = None;
        self.wall = None;
        self.next_probe = None;
        todo.push(Action::Kill);
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

    fn enter(&mut self, phase: Phase, reason: &str, now: Instant) {
        self.phase = phase;
        self.since = now;
        reason.clone_into(&mut self.reason);
    }
}

#[cfg(test)]
mod tests;
