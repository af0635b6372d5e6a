//! The start of `serve` on a terminal: its stages, each with its time as it is reached, and the one under way.
//!
//! It watches the browser's status from outside, and shares the screen with the log, whose lines it never tears
//! ([`screen`]). Not for a pipe or a file: there the log says it all. Once requests are served it is over; later
//! repairs are in the log.

pub mod stages;

use std::io::Write;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::browser::Browsers;
use crate::telemetry::screen::{self, Ability};
use stages::{Door, Line, Look, Stages};

/// From one picture of the running stage to the next.
const TICK: Duration = Duration::from_millis(100);
/// What waits for a terminal that takes nothing; more is lost.
const WAITING: usize = 64;
/// How long the end waits for the terminal.
const PATIENCE: Duration = Duration::from_millis(300);

/// What is to be shown.
enum Paint {
    Line(String),
    Live(String),
}

/// Shows a start until it is over; dropped before, it takes away what is shown.
#[must_use = "dropping it ends the progress"]
#[derive(Debug)]
pub struct Progress {
    watching: JoinHandle<()>,
    /// Closed when the last is painted.
    painted: Receiver<()>,
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.watching.abort();
        let _ = self.painted.recv_timeout(PATIENCE);
    }
}

/// Shows on stdout, a terminal of this `ability`, how the start goes that began then.
pub fn show(browser: &Browsers, door: Door, began: Instant, ability: Ability) -> Progress {
    let (sender, paints) = mpsc::sync_channel(WAITING);
    let (last, painted) = mpsc::channel();
    // A terminal that is halted (Ctrl-S) blocks whoever writes: that must be no thread that streams need.
    std::thread::spawn(move || {
        paint(paints);
        drop(last);
    });
    let watching = tokio::spawn(follow(browser.clone(), Stages::new(door, began), ability, sender));
    Progress { watching, painted }
}

async fn follow(browser: Browsers, mut stages: Stages, ability: Ability, to: SyncSender<Paint>) {
    let mut status = browser.watch();
    let mut tick = tokio::time::interval(TICK);
    // What finds no room is lost, as lines of the log are.
    let paint = |it| drop(to.try_send(it));
    while !stages.is_over() {
        let look = Look::from(&*status.borrow_and_update());
        let lines = stages.see(&look, Instant::now());
        // First, so that no stage is shown as under way below the line that says that it is done.
        if ability.can_redraw {
            let line = stages.under_way(Instant::now());
            paint(Paint::Live(line.map_or_else(String::new, |it| styled(&it, ability, "\x1b[2m"))));
        }
        for line in lines {
            paint(Paint::Line(format!("{}\n", styled(&line, ability, "\x1b[32m"))));
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
    }
}

/// A line with its name in this colour.
fn styled(line: &Line, ability: Ability, color: &str) -> String {
    let (on, off) = if ability.color { (color, "\x1b[0m") } else { ("", "") };
    format!("  {on}{:<8}{off} {}", line.name, line.text)
}

fn paint(paints: Receiver<Paint>) {
    let mut screen = screen::stdout();
    // A terminal that cannot be written to is no reason to stop.
    while let Ok(paint) = paints.recv() {
        let _ = match paint {
            Paint::Line(line) => screen.write_all(line.as_bytes()),
            Paint::Live(line) => screen.live(&line),
        };
    }
    let _ = screen.live("");
}
