//! From a browser to a page through which requests can be served: opening the site's page, where it lands,
//! what a look through a carrier says, and the walls that may stand there.

use std::time::Instant;

use super::State;
use super::vocabulary::{Action, Phase, Repair};
use crate::site::challenge::{Landing, Verdict, Wall};

/// Failures of the site's page in a row before the browser is replaced with the page.
const SITE_TRIES: u32 = 3;

impl State {
    pub(super) fn open_site(&mut self, reason: &str, todo: &mut Vec<Action>, now: Instant) {
        self.wall = None;
        self.next_probe = None;
        self.site.opened(now);
        self.enter(Phase::Warming { until: now + self.timing.check }, reason, now);
        todo.push(Action::OpenSite);
    }

    pub(super) fn landed(&mut self, origin: String, landing: Landing, todo: &mut Vec<Action>, now: Instant) {
        self.site.answered(now);
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
            self.fleet.close(todo);
            self.next_probe = None;
            self.origin = Some(origin);
            if matches!(self.phase, Phase::Ready | Phase::Suspect) {
                let until = now + self.timing.check;
                self.enter(Phase::Warming { until }, "the site moved to another origin", now);
            }
        }
        if self.fleet.is_empty() {
            self.open_carrier(todo, now);
        } else if matches!(self.phase, Phase::Warming { .. } | Phase::NeedsOperator(_)) {
            self.next_probe = None;
            self.probe(todo);
        }
    }

    pub(super) fn probe(&mut self, todo: &mut Vec<Action>) {
        todo.extend(self.fleet.newest().map(Action::Probe));
    }

    pub(super) fn probed(&mut self, generation: u64, verdict: Verdict, todo: &mut Vec<Action>, now: Instant) {
        if !self.fleet.serves(generation) {
            // Its carrier is gone; the one that follows is probed when it is up.
            return;
        }
        let waiting = match self.phase {
            Phase::Warming { .. } => self.timing.probe,
            Phase::NeedsOperator(_) => self.timing.operator_probe,
            Phase::Ready => return self.looked(generation, verdict, todo, now),
            _ => return,
        };
        let stale = self.site.opened_at() < self.since;
        match verdict {
            // Carriers were lost, and the way past a check with them: only the site's page passes it.
            Verdict::Wall(wall) if stale && matches!(self.phase, Phase::Warming { .. }) => {
                self.open_site(reopening(wall), todo, now);
            }
            Verdict::Passed => {
                self.wall = None;
                self.next_probe = None;
                self.fleet.answered(generation, now);
                self.enter(Phase::Ready, "requests are served", now);
                self.keep_up(todo, now);
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
            Verdict::Unwell(cause) | Verdict::Unanswered(cause) => {
                self.next_probe = Some(now + waiting * 4);
                if let Phase::Warming { .. } = self.phase {
                    self.reason = cause;
                }
            }
        }
    }

    /// The site has refused a request for want of a sign-in. That may be about the caller's own token, or about
    /// the page: a look at the site's page tells.
    pub(super) fn doubt(&mut self, generation: u64, todo: &mut Vec<Action>, now: Instant) {
        if self.phase == Phase::Ready && now >= self.next_doubt && self.fleet.serves(generation) {
            self.next_doubt = now + self.timing.doubt;
            todo.push(Action::Probe(generation));
        }
    }

    /// What came of a look through a carrier that had been quiet.
    pub(super) fn looked(&mut self, generation: u64, verdict: Verdict, todo: &mut Vec<Action>, now: Instant) {
        match verdict {
            Verdict::Passed | Verdict::Unwell(_) => self.fleet.answered(generation, now),
            Verdict::Wall(wall) => self.meet_wall(wall, todo, now),
            // A page can answer beats and yet never settle a fetch. If it is the site that is silent, a
            // fresh page does no harm.
            Verdict::Unanswered(_) => {
                self.fleet.wear_out(generation, "a fetch in it was not answered");
                self.keep_up(todo, now);
            }
        }
    }

    /// The site has put a wall up while requests are served: its page is opened again, once, so that a check
    /// can pass by itself or a session renew itself. If that has not helped, a person must.
    pub(super) fn meet_wall(&mut self, wall: Wall, todo: &mut Vec<Action>, now: Instant) {
        if !matches!(self.phase, Phase::Ready | Phase::Suspect) {
            return; // it is known, and being seen to
        }
        let again = self.walled.is_some_and(|at| now.saturating_duration_since(at) < self.timing.calm);
        self.walled = Some(now);
        if again {
            self.ask_operator(wall, now);
            // The page itself may look well: not to be believed at once.
            self.next_probe = Some(now + self.timing.calm);
        } else {
            self.open_site(reopening(wall), todo, now);
        }
    }

    pub(super) fn ask_operator(&mut self, wall: Wall, now: Instant) {
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

    /// The page cannot be had. Carriers stay: what runs in them may well go on.
    pub(super) fn fail_site(&mut self, cause: String, todo: &mut Vec<Action>, now: Instant) {
        if self.attempts > 0 && self.attempts.is_multiple_of(SITE_TRIES) {
            return self.lose_browser(cause, todo, now);
        }
        let until = now + self.pause();
        self.next_probe = None;
        self.enter(Phase::Backoff { until, next: Repair::Site }, &cause, now);
    }
}

fn reopening(wall: Wall) -> &'static str {
    match wall {
        Wall::Check => "the site checks the browser again: its page is opened for that",
        Wall::SignIn => "the site wants a sign-in: its page is opened, in case that it renews itself",
    }
}
