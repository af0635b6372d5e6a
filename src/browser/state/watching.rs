//! What is done as time passes: pauses that end, beats that are due, silence that has lasted too long.

use std::time::{Duration, Instant};

use super::State;
use super::vigil::Silence;
use super::vocabulary::{Action, Phase, Repair};

impl State {
    pub(super) fn tick(&mut self, todo: &mut Vec<Action>, now: Instant) {
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
        if self.watch_browser(todo, now) {
            self.look_after_carriers(todo, now);
            self.look_after_site(todo, now);
        }
        if self.next_probe.is_some_and(|at| at <= now) {
            self.next_probe = None;
            self.probe(todo);
        }
        if self.next_beat <= now {
            self.next_beat = now + self.timing.beat;
            self.beat(todo, now);
        }
    }

    /// Judges the browser's silence; `false` if there is no browser, or no longer.
    pub(super) fn watch_browser(&mut self, todo: &mut Vec<Action>, now: Instant) -> bool {
        let Some(browser) = &mut self.browser else { return false };
        match browser.silence(&self.timing, now) {
            Silence::None => {}
            Silence::Odd => todo.push(Action::FeelPulse),
            Silence::Link => {
                todo.push(Action::FeelPulse);
                browser.relink(todo);
            }
            Silence::Browser => {
                self.lose_browser("the browser does not answer".into(), todo, now);
                return false;
            }
        }
        true
    }

    pub(super) fn beat(&mut self, todo: &mut Vec<Action>, now: Instant) {
        let Some(browser) = &mut self.browser else { return };
        browser.beat(todo, now);
        todo.push(Action::BeatSite);
        todo.extend(self.fleet.connected().map(Action::BeatCarrier));
        if self.next_weighing <= now {
            self.next_weighing = now + self.timing.weigh;
            todo.extend(self.fleet.connected().map(Action::WeighCarrier));
        }
        if self.phase == Phase::Ready
            && self.next_look <= now
            && let Some(generation) = self.fleet.quiet(self.timing.quiet, now)
        {
            self.next_look = now + self.timing.quiet;
            todo.push(Action::Probe(generation));
        }
    }

    pub(super) fn look_after_carriers(&mut self, todo: &mut Vec<Action>, now: Instant) {
        let slack = self.slack(now);
        for generation in self.fleet.silent(&self.timing, slack, now) {
            todo.push(Action::CloseCarrier(generation));
            self.carrier_lost(generation, "the page does not answer".into(), todo, now);
        }
        if self.phase == Phase::Ready && self.usable(now).next().is_none() {
            self.enter(Phase::Suspect, "a beat was missed", now);
        }
        self.fleet.grow_old(now);
        self.keep_up(todo, now);
    }

    pub(super) fn look_after_site(&mut self, todo: &mut Vec<Action>, now: Instant) {
        self.reopen_site(todo, now);
        // A person may have left the page with a question open, which stops it.
        let watched = self.has_page() && !matches!(self.phase, Phase::NeedsOperator(_));
        if watched && self.site.is_silent(&self.timing, self.slack(now), now) {
            self.site.replaced(&self.timing, now);
            todo.push(Action::RenewSite);
        }
    }

    pub(super) fn site_beat(&mut self, bytes: u64, todo: &mut Vec<Action>, now: Instant) {
        self.site.answered(now);
        let heavy = bytes > self.upkeep.memory;
        if heavy && self.phase == Phase::Ready && self.site.may_renew(&self.timing, now) {
            self.site.replaced(&self.timing, now);
            todo.push(Action::RenewSite);
        }
    }

    /// Opens the site's page again where its tab was lost, once that is due.
    pub(super) fn reopen_site(&mut self, todo: &mut Vec<Action>, now: Instant) {
        if self.has_page() && self.site.is_due(now) {
            self.site.replaced(&self.timing, now);
            todo.push(Action::OpenSite);
        }
    }

    /// How much later than usual anything may come, on a machine that is slow.
    pub(super) fn slack(&self, now: Instant) -> Duration {
        self.browser.as_ref().map_or(Duration::ZERO, |it| it.slack(now))
    }
}
