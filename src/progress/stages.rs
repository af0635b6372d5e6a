//! Which stage of the start the browser has reached, and the lines that say so. Pure: it is told what can be seen
//! from outside, and when.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::browser::{Phase, Status};
use crate::site::challenge::Wall;

/// What a start goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Browser,
    Page,
    Check,
    Ready,
}

const ALL: [Stage; 3] = [Stage::Browser, Stage::Page, Stage::Check];

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Browser => "browser",
            Stage::Page => "page",
            Stage::Check => "check",
            Stage::Ready => "ready",
        }
    }
}

/// What is seen of a [`Status`].
#[derive(Clone, Debug)]
pub struct Look {
    phase: Phase,
    has_landed: bool,
    is_ready: bool,
    version: Option<String>,
    signed_in: bool,
}

impl From<&Status> for Look {
    fn from(status: &Status) -> Look {
        Look {
            phase: status.phase.clone(),
            has_landed: status.origin.is_some(),
            is_ready: status.is_ready(),
            version: status.version.clone(),
            signed_in: status.signed_in == Some(true),
        }
    }
}

/// Where the server is reached, and how.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// From this machine.
    pub addr: SocketAddr,
    /// Whether the console can be opened.
    pub has_console: bool,
    /// Whether every caller needs a key.
    pub wants_key: bool,
}

/// A line about a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The stage, or what the line is for.
    pub name: &'static str,
    /// What there is to say.
    pub text: String,
}

/// The stages of one start.
#[derive(Clone, Debug)]
pub struct Stages {
    door: Door,
    began: Instant,
    stage: Stage,
    /// When the stage was entered.
    since: Instant,
    phase: Option<Phase>,
    is_over: bool,
}

impl Stages {
    /// Those of a start that began then.
    pub fn new(door: Door, began: Instant) -> Stages {
        Stages { door, began, stage: Stage::Browser, since: began, phase: None, is_over: false }
    }

    /// Whether there is nothing more to see: requests are served, or the server stops.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// What is new, seen `now`.
    pub fn see(&mut self, look: &Look, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        let reached = match look.phase {
            Phase::Starting => Stage::Browser,
            Phase::Warming { .. } if !look.has_landed => Stage::Page,
            Phase::Warming { .. } | Phase::NeedsOperator(_) => Stage::Check,
            Phase::Ready if look.is_ready => Stage::Ready,
            // What was lost is tried again from where the next phase says.
            Phase::Ready | Phase::Suspect | Phase::Backoff { .. } => self.stage,
            Phase::Draining | Phase::Stopped => {
                self.is_over = true;
                return lines;
            }
        };
        for stage in ALL.into_iter().filter(|it| (self.stage..reached).contains(it)) {
            // Only of what was seen to begin is it known how long it took.
            let took = (stage == self.stage).then(|| seconds(now - self.since));
            lines.push(Line { name: stage.name(), text: done(stage, took, look) });
        }
        if reached != self.stage {
            (self.stage, self.since) = (reached, now);
        }
        let was_asked = matches!(self.phase, Some(Phase::NeedsOperator(_)));
        if let (Phase::NeedsOperator(wall), false) = (&look.phase, was_asked) {
            lines.push(Line { name: Stage::Check.name(), text: self.ask(*wall) });
        }
        if reached == Stage::Ready {
            self.is_over = true;
            let (after, addr) = (seconds(now - self.began), self.door.addr);
            lines.push(Line { name: Stage::Ready.name(), text: format!("after {after}: http://{addr}") });
            let key = match self.door.wants_key || look.signed_in {
                true => " -H 'Authorization: Bearer KEY'   (a key: tabproxy key new)",
                false => "",
            };
            lines.push(Line { name: "try", text: format!("curl http://{addr}/v1/models{key}") });
        }
        self.phase = Some(look.phase.clone());
        lines
    }

    /// The stage that is under way, with the time that it has taken so far.
    pub fn under_way(&self, now: Instant) -> Option<Line> {
        if self.is_over {
            return None;
        }
        let doing = match (&self.phase, self.stage) {
            (Some(Phase::NeedsOperator(_)), _) => "waiting for a person",
            (Some(Phase::Backoff { .. }), _) => "did not work, is tried again soon",
            (_, Stage::Browser) => "starting",
            (_, Stage::Page) => "opening",
            _ => "looking whether the site lets requests pass",
        };
        let text = format!("{doing}, {}", seconds(now.saturating_duration_since(self.since)));
        Some(Line { name: self.stage.name(), text })
    }

    fn ask(&self, wall: Wall) -> String {
        let what = match wall {
            Wall::Check => "waiting for a person",
            Wall::SignIn => "waiting for a person to sign in",
        };
        let remedy = match self.door.has_console {
            true => "open",
            false => "set TABPROXY_ADMIN_PASSWORD to what `tabproxy password` prints, start again and open",
        };
        format!("{what}: {remedy} http://{}/console", self.door.addr)
    }
}

fn done(stage: Stage, took: Option<String>, look: &Look) -> String {
    let what = match stage {
        Stage::Browser => "started",
        Stage::Page => "opened",
        _ => "passed",
    };
    let took = took.map_or_else(String::new, |it| format!(" in {it}"));
    let version = look.version.as_ref().filter(|_| stage == Stage::Browser);
    format!("{what}{took}{}", version.map_or_else(String::new, |it| format!(" ({it})")))
}

fn seconds(it: Duration) -> String {
    format!("{:.1} s", it.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browser::Repair;

    const DOOR: Door = Door {
        addr: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3000),
        has_console: true,
        wants_key: false,
    };

    fn look(phase: Phase) -> Look {
        let version = Some("Chrome/156.0.8078.79".into());
        Look { is_ready: phase == Phase::Ready, phase, has_landed: false, version, signed_in: false }
    }

    /// What is said when these are seen so many tenths of a second after the start.
    fn said(door: Door, looks: impl IntoIterator<Item = (u64, Look)>) -> Vec<String> {
        let start = Instant::now();
        let mut stages = Stages::new(door, start);
        let said = looks
            .into_iter()
            .flat_map(|(tenths, look)| stages.see(&look, start + Duration::from_millis(tenths * 100)));
        said.map(|it| format!("{} {}", it.name, it.text)).collect()
    }

    #[test]
    fn each_stage_is_told_once_with_the_time_that_it_took() {
        let warming = || look(Phase::Warming { until: Instant::now() });
        let landed = || Look { has_landed: true, ..warming() };
        let looks = [
            (0, look(Phase::Starting)),
            (4, warming()),
            (5, warming()),
            (13, landed()),
            (15, landed()),
            (21, look(Phase::Ready)),
        ];
        assert_eq!(
            said(DOOR, looks),
            [
                "browser started in 0.4 s (Chrome/156.0.8078.79)",
                "page opened in 0.9 s",
                "check passed in 0.8 s",
                "ready after 2.1 s: http://127.0.0.1:3000",
                "try curl http://127.0.0.1:3000/v1/models",
            ]
        );
    }

    #[test]
    fn a_person_is_asked_once_and_told_where() {
        let wall = || look(Phase::NeedsOperator(Wall::SignIn));
        let looks = || [(4, look(Phase::Starting)), (9, wall()), (10, wall()), (50, look(Phase::Ready))];
        let lines = said(DOOR, looks());
        assert_eq!(
            lines[..4],
            [
                "browser started in 0.9 s (Chrome/156.0.8078.79)",
                "page opened",
                "check waiting for a person to sign in: open http://127.0.0.1:3000/console",
                "check passed in 4.1 s",
            ]
        );
        let lines = said(Door { has_console: false, wants_key: true, ..DOOR }, looks());
        assert!(lines[2].contains("TABPROXY_ADMIN_PASSWORD"), "{lines:?}");
        assert!(lines.last().is_some_and(|it| it.contains("Bearer KEY")), "{lines:?}");
    }

    #[test]
    fn what_is_done_again_is_told_again() {
        let backoff = Phase::Backoff { until: Instant::now(), next: Repair::Browser };
        let looks = [
            (3, look(Phase::Warming { until: Instant::now() })),
            (9, look(backoff)),
            (19, look(Phase::Starting)),
            (22, look(Phase::Warming { until: Instant::now() })),
            (30, look(Phase::Draining)),
        ];
        assert_eq!(
            said(DOOR, looks),
            [
                "browser started in 0.3 s (Chrome/156.0.8078.79)",
                "browser started in 0.3 s (Chrome/156.0.8078.79)",
            ]
        );
    }

    #[test]
    fn the_stage_under_way_is_shown_until_the_start_is_over() {
        let start = Instant::now();
        let mut stages = Stages::new(DOOR, start);
        let at = |tenths: u64| start + Duration::from_millis(tenths * 100);
        let text =
            |it: &Stages, tenths| it.under_way(at(tenths)).map(|it| format!("{} {}", it.name, it.text));
        assert_eq!(text(&stages, 3).as_deref(), Some("browser starting, 0.3 s"));
        stages.see(&look(Phase::Warming { until: start }), at(4));
        assert_eq!(text(&stages, 6).as_deref(), Some("page opening, 0.2 s"));
        stages.see(&look(Phase::NeedsOperator(Wall::Check)), at(9));
        assert_eq!(text(&stages, 9).as_deref(), Some("check waiting for a person, 0.0 s"));
        stages.see(&look(Phase::Ready), at(10));
        assert!(stages.is_over() && text(&stages, 11).is_none());
    }
}
