//! How the browser's main process and the site's tab are watched: what silence means, and how long it may
//! last.
//!
//! Silence is judged against the machine that we run on: where even the main process, which has little to
//! do, answers late, a page that answers late is not dead. And before a silent browser is killed, its
//! process is looked at: one that works, or waits for the processor, is given time.

use std::time::{Duration, Instant};

use super::vocabulary::{Action, Timing};

/// An answer that takes longer than this says that the machine is slow.
const PROMPT: Duration = Duration::from_millis(500);
/// On a slow machine everything may take longer by so many times the main process's delay.
const SLACK: u32 = 4;
/// The longest pause between two replacements of the site's tab.
const LONGEST: Duration = Duration::from_secs(600);

/// The watch over the browser's main process and our link to it.
#[derive(Clone, Debug)]
pub(super) struct Vigil {
    /// When it last answered.
    seen: Instant,
    /// Since when an answer has been awaited.
    asked: Option<Instant>,
    /// How long its last answer took.
    delay: Duration,
    /// When it was last seen to work.
    worked: Instant,
    /// Whether the link is being made anew.
    is_relinking: bool,
    /// When that may be tried again.
    relink_at: Instant,
}

/// What silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// There is none that matters.
    None,
    /// It lasts long enough to look closer.
    Odd,
    /// The link may be to blame: make it anew.
    Link,
    /// The browser is gone, whatever its process looks like.
    Browser,
}

impl Vigil {
    pub fn new(now: Instant) -> Vigil {
        let (asked, delay) = (None, Duration::ZERO);
        Vigil { seen: now, asked, delay, worked: now, is_relinking: false, relink_at: now }
    }

    pub fn beat(&mut self, todo: &mut Vec<Action>, now: Instant) {
        self.asked.get_or_insert(now);
        todo.push(Action::BeatBrowser);
    }

    pub fn answered(&mut self, delay: Duration, now: Instant) {
        (self.seen, self.asked, self.delay) = (now, None, delay);
    }

    pub fn pulse(&mut self, working: bool, now: Instant) {
        if working {
            self.worked = now;
        }
    }

    pub fn is_linked(&self) -> bool {
        !self.is_relinking
    }

    /// Orders another link, unless one is being made.
    pub fn relink(&mut self, todo: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.is_relinking, true) {
            todo.push(Action::Relink);
        }
    }

    pub fn relinked(&mut self, ok: bool, timing: &Timing, now: Instant) {
        self.is_relinking = false;
        self.relink_at = now + timing.beat;
        if ok {
            self.answered(Duration::ZERO, now);
        }
    }

    /// By how much everything may be late because the machine is slow.
    pub fn slack(&self, now: Instant) -> Duration {
        let outstanding = self.asked.map_or(Duration::ZERO, |it| now.saturating_duration_since(it));
        let delay = self.delay.max(outstanding);
        if delay < PROMPT { Duration::ZERO } else { delay * SLACK }
    }

    pub fn silence(&self, timing: &Timing, now: Instant) -> Silence {
        let silence = now.saturating_duration_since(self.seen);
        let idle = now.saturating_duration_since(self.worked);
        let dead = silence > timing.browser_silence && idle > timing.browser_silence / 2;
        if dead || silence > timing.browser_hang {
            Silence::Browser
        } else if silence > timing.link_silence && !self.is_relinking && now >= self.relink_at {
            Silence::Link
        } else if silence > timing.link_silence {
            Silence::Odd
        } else {
            Silence::None
        }
    }
}

/// The watch over the site's tab.
#[derive(Clone, Debug)]
pub(super) struct SiteWatch {
    /// When it last gave a sign of life.
    seen: Instant,
    /// When its present page was asked for.
    landed: Instant,
    /// When it is to be opened again, if it is not there.
    reopen: Option<Instant>,
    /// It is not replaced before this.
    next: Instant,
    /// The pause after the next replacement.
    pause: Duration,
}

impl SiteWatch {
    pub fn new(timing: &Timing, now: Instant) -> SiteWatch {
        SiteWatch { seen: now, landed: now, reopen: None, next: now, pause: timing.backoff.0 }
    }

    /// Its page is being opened.
    pub fn opened(&mut self, now: Instant) {
        (self.seen, self.landed, self.reopen) = (now, now, None);
    }

    /// When its present page was asked for.
    pub fn opened_at(&self) -> Instant {
        self.landed
    }

    /// Its tab is gone. It comes back at once, or after a pause if that happens time and again.
    pub fn lost(&mut self, now: Instant) {
        self.reopen.get_or_insert(self.next.max(now));
    }

    /// Whether it is to be opened again now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.reopen.is_some_and(|at| at <= now)
    }

    /// When it is to be opened again.
    pub fn due(&self) -> Option<Instant> {
        self.reopen
    }

    /// Counts a replacement: the next one waits longer.
    pub fn replaced(&mut self, timing: &Timing, now: Instant) {
        let calm = now.saturating_duration_since(self.next) > LONGEST;
        self.pause = if calm { timing.backoff.0 } else { (self.pause * 2).min(LONGEST) };
        self.next = now + self.pause;
        self.opened(now);
    }

    pub fn answered(&mut self, now: Instant) {
        self.seen = now;
    }

    /// Whether it has been silent for too long.
    pub fn is_silent(&self, timing: &Timing, slack: Duration, now: Instant) -> bool {
        self.reopen.is_none() && now.saturating_duration_since(self.seen) > timing.site_silence + slack
    }

    /// Whether a page that uses too much memory may be replaced: not when it is new, nor again and again.
    pub fn may_renew(&self, timing: &Timing, now: Instant) -> bool {
        now >= self.next && now.saturating_duration_since(self.landed) >= timing.settled
    }
}
