//! The tables: what was measured, beside one instance alone, as Markdown.

use std::fmt::Write as _;

use super::killed::Killed;
use super::samples::{
    BROWSER_MEMORY, COMMANDS, Figure, IDLE_MEMORY, PROXY_MEMORY, REDIS_MS, REQUESTS, STEADY_CPU, STREAMS,
    Samples, TOLL,
};
use super::setups::Setup;
use super::shared::about::facts;
use super::shared::stats::{median, number};
use super::sizing::{self, Needs};
use super::streams::DIRECT;
use super::toll::Kind;

/// On what and how the measurement was made.
pub struct About {
    /// The browser's name and version.
    pub browser: String,
    /// The command that repeats it.
    pub command: String,
    /// How often everything was measured.
    pub runs: usize,
}

/// The whole document, with the tables that [`tables`] has made.
pub fn document(samples: &Samples, tables: &str, about: &About) -> String {
    let written_by = match about.command.strip_suffix('\'') {
        Some(with_options) => format!("{with_options} --write'"),
        None => format!("{} ARGS=--write", about.command),
    };
    let mut out = format!("# Benchmark of several instances\n\nWritten by `{written_by}`; do not edit.\n\n");
    out.push_str(&facts(&about.browser, &format!("`{}`, median of {} runs", about.command, about.runs)));
    let _ = write!(out, "\n{tables}{EXPLANATION}");
    if let Some(needs) = needs(samples) {
        let _ = write!(out, "\n{}", sizing::section(&needs));
    }
    out
}

/// All tables.
pub fn tables(samples: &Samples, killed: &[Killed]) -> String {
    format!("{}\n{}\n{}", streams(samples), toll(samples), of_killed(killed))
}

/// Under streams: a column for each setup, and what several have as a ratio of one alone.
fn streams(samples: &Samples) -> String {
    let setups: Vec<Setup> = Setup::ALL.into_iter().filter(|it| has(samples, it)).collect();
    let mut out = String::from("| figure | unit | direct |");
    setups.iter().for_each(|it| out += &format!(" {it} |"));
    setups[1..].iter().for_each(|it| out += &format!(" {it} ÷ 1 alone |"));
    out += "\n|---|---|";
    out += &"--:|".repeat(2 * setups.len());
    out.push('\n');
    for figure in STREAMS {
        let _ = write!(out, "| {} | {} | {} |", figure.name, figure.unit, shown(samples, figure, &DIRECT));
        setups.iter().for_each(|it| out += &format!(" {} |", shown(samples, figure, it)));
        let alone = samples.median(figure, &Setup::ALONE).filter(|it| *it > 0.0);
        for setup in &setups[1..] {
            let ratio =
                samples.median(figure, setup).zip(alone).map(|(it, alone)| format!("{:.2}", it / alone));
            let _ = write!(out, " {} |", ratio.unwrap_or_default());
        }
        out.push('\n');
    }
    out
}

fn has(samples: &Samples, setup: &Setup) -> bool {
    samples.median(PROXY_MEMORY, setup).is_some()
}

fn shown(samples: &Samples, figure: Figure, column: &impl ToString) -> String {
    samples.median(figure, column).map_or_else(String::new, number)
}

/// Short requests: two rows for each kind, without and with Redis, and what that costs.
fn toll(samples: &Samples) -> String {
    let mut out = String::from("| short requests, 8 at once, 2 instances | Redis |");
    TOLL.iter().for_each(|it| out += &format!(" {}{} |", it.name, unit(it.unit)));
    out += " requests ÷ without |\n|---|---|";
    out += &"--:|".repeat(TOLL.len() + 1);
    out.push('\n');
    for kind in Kind::ALL {
        for redis in [false, true] {
            let column = kind.column(redis);
            let _ = write!(out, "| {kind} | {} |", if redis { "shared" } else { "none" });
            TOLL.iter().for_each(|it| out += &format!(" {} |", shown(samples, *it, &column)));
            let without = samples.median(REQUESTS, &kind.column(false));
            let ratio = samples.median(REQUESTS, &column).zip(without).filter(|_| redis);
            let ratio = ratio.map(|(with, without)| format!("{:.2}", with / without));
            let _ = writeln!(out, " {} |", ratio.unwrap_or_default());
        }
    }
    out
}

fn unit(unit: &str) -> String {
    if unit.is_empty() { String::new() } else { format!(", {unit}") }
}

/// One row for each instance that was killed.
fn of_killed(killed: &[Killed]) -> String {
    let mut out = String::from(
        "| an instance of 3 is killed, 60 streams | complete | failed, explicit | lost without a trace | sent twice \
         | fresh requests refused | served by the others, s | slowest fresh request, s | back itself, s |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for (number, it) in killed.iter().enumerate() {
        let _ = writeln!(
            out,
            "| {} | {} | {} | **{}** | **{}** | {} | {:.2} | {:.2} | {:.2} |",
            number + 1,
            it.complete,
            it.failed,
            it.lost,
            it.twice,
            it.refused,
            it.served,
            it.slowest,
            it.back
        );
    }
    let middle = |of: fn(&Killed) -> f64| median(&killed.iter().map(of).collect::<Vec<_>>());
    let sum = |of: fn(&Killed) -> usize| killed.iter().map(of).sum::<usize>();
    let _ = writeln!(
        out,
        "| sum, median of times | {} | {} | **{}** | **{}** | {} | {:.2} | {:.2} | {:.2} |",
        sum(|it| it.complete),
        sum(|it| it.failed),
        sum(|it| it.lost),
        sum(|it| it.twice),
        sum(|it| it.refused),
        middle(|it| it.served),
        middle(|it| it.slowest),
        middle(|it| it.back),
    );
    out
}

/// What the sizing begins with.
fn needs(samples: &Samples) -> Option<Needs> {
    let one = Setup { nginx: true, ..Setup::ALONE };
    let of = |figure| samples.median(figure, &one);
    let column = Kind::GoesOn.column(true);
    Some(Needs {
        proxy: of(STEADY_CPU[0])?,
        browser: of(STEADY_CPU[1])?,
        nginx: of(STEADY_CPU[2])?,
        proxy_memory: of(PROXY_MEMORY)?,
        browser_memory: [of(IDLE_MEMORY)?, of(BROWSER_MEMORY)?],
        redis: samples.median(COMMANDS, &column).zip(samples.median(REDIS_MS, &column)).map(Into::into),
    })
}

const EXPLANATION: &str = "
## What was measured

The practice site and the clients run in the benchmark's own process; instances, their browsers, nginx (with the files
of `nginx/`) and Redis run in others. **All of them share the cores of one machine**: more instances cannot carry more
here, and the more there are, the more processes want the same cores. What the columns show is what each part costs, and
that events pass through several as they do through one. On machines of their own, instances share nothing but nginx and
Redis.

- **direct**: a Rust HTTP/2 client straight to the site. **1 alone**: one instance, spoken to without nginx; the floor of
  the ratios. The others are behind nginx; those of several instances share a Redis.
- The **delay** of an event is the time from its writing at the site, which stamps it, to its arrival at the reader.
  Streams of 50 events/s: 150 events each of the 40, 200 of the 100; of 20 events/s: 100. The flood: 4,000 events each
  without a pause. An event is about half a kilobyte.
- **CPU** is user and system time; Chromium's and nginx's is that of all their processes. **Memory** is for one instance,
  on average. PSS divides what processes share among all of them: of several browsers on one machine, each has less.
- **Short requests**: 400 of each kind, through nginx to 2 instances; an answer has three events. Redis commands are
  counted by Redis itself (`INFO commandstats`), those within scripts too.
- **Killed**: `kill -9` of one instance while 60 streams of six seconds run; it is started again half a second later. A
  stream failed if it was cut or answered with an error; it is lost if it ended cleanly without its end. Fresh requests
  come ten in a second until the instance is back. Sent twice goes by the site's own count of each message.

Every value is the median of the runs. Nothing here passes or fails, but for what is lost or sent twice: that must be 0.
";
