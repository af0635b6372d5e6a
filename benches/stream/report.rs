//! The table: what was measured, beside its floors and its goal, as Markdown.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use super::figures::{ALL, Figure, Samples, Side};
use super::load::unix_micros;

/// On what and how the measurement was made.
#[derive(Debug)]
pub struct Circumstances {
    /// The browser's name and version.
    pub browser: String,
    /// The command that repeats it.
    pub command: String,
    /// How often everything was measured.
    pub runs: usize,
}

/// The whole document.
pub fn document(samples: &Samples, about: &Circumstances, plot: &str) -> String {
    let mut out = String::from("# Benchmark\n\n");
    // Writing to a string cannot fail.
    let _ = writeln!(out, "Written by `{}`; do not edit.\n", about.command);
    out.push_str(&facts(about));
    let _ = writeln!(out, "\n![Delays and throughput]({plot})\n");
    out.push_str(&table(samples));
    out.push_str(EXPLANATION);
    out
}

/// The table alone.
pub fn table(samples: &Samples) -> String {
    let mut out = String::from(
        "| figure | unit | direct | page | tabproxy | all runs | ÷ direct | ÷ page | goal | is here | margin |\n\
         |---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|\n",
    );
    for figure in ALL.into_iter().filter(|figure| !samples.values(*figure, Side::Proxy).is_empty()) {
        out.push_str(&row(samples, figure));
    }
    out
}

fn row(samples: &Samples, figure: Figure) -> String {
    let of = |side| samples.median(figure, side);
    let shown = |value: Option<f64>| value.map_or_else(String::new, number);
    let ours = of(Side::Proxy);
    let ratio = |floor: Option<f64>| match (ours, floor) {
        (Some(ours), Some(floor)) if floor > 0.0 => format!("{:.2}", ours / floor),
        _ => String::new(),
    };
    let limit = samples.limit(figure);
    let margin = limit.zip(ours).map(|(limit, ours)| limit.margin(ours));
    let margin = margin.map_or_else(String::new, |margin| match margin {
        short if short < 0.0 => format!("**−{}**", number(-short)),
        spare => format!("+{}", number(spare)),
    });
    format!(
        "| {} | {} | {} | {} | **{}** | {} | {} | {} | {} | {} | {margin} |\n",
        figure.name,
        figure.unit,
        shown(of(Side::Direct)),
        shown(of(Side::Page)),
        shown(ours),
        range(samples.values(figure, Side::Proxy)),
        ratio(of(Side::Direct)),
        ratio(of(Side::Page)),
        figure.goal.words(figure.unit),
        shown(limit.map(super::figures::Limit::value)),
    )
}

fn range(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() < 2 { String::new() } else { format!("{} to {}", number(least), number(most)) }
}

/// As many digits as mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        it if it >= 10_000.0 => format!("{:.0}k", value / 1_000.0),
        it if it >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        it if it >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn facts(about: &Circumstances) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok();
    let commit = commit.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default();
    format!(
        "| machine | browser | date | commit | command |\n|---|---|---|---|---|\n\
         | {cores} cores, {}, Linux {} | {} | {} | {commit} | `{}`, median of {} runs |\n",
        model.as_deref().unwrap_or("unknown processor"),
        kernel.trim(),
        about.browser,
        date(unix_micros() / 1_000_000),
        about.command,
        about.runs,
    )
}

/// `2026-01-31 12:34 UTC`.
fn date(seconds: u64) -> String {
    // Days to a civil date, by counting 400-year eras from 0000-03-01 (H. Hinnant's algorithm).
    let z = seconds / 86_400 + 719_468;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = z / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

const EXPLANATION: &str = "
## What was measured

One run measures three sides in turn on one practice site (TLS, HTTP/2, no Nagle), which runs in the benchmark's
own process beside the clients; all share the same cores.

- **direct**: a Rust HTTP/2 client straight to the site.
- **page**: the same browser with the same fetch loop as the carrier's, in the same kind of quiet document,
  that only counts; nothing leaves the page. What it costs is Chromium's own.
- **tabproxy**: the release binary with a browser of its own; the client speaks plain HTTP/1.1 to it, over
  connections that it keeps. `TABPROXY_MAX_INFLIGHT=256`, everything else as it comes.

The **delay** of an event is the time from its writing at the site, which stamps it, to its arrival at the reader.
Events have one size, about half a kilobyte (`grow=0`). Streams: 200 events of 10 ms each; the flood: 5,000
events each without a pause. **First byte of 100 requests** counts from the moment when the first is sent.
**CPU** is user and system time; Chromium's is that of its whole process group. **Start to ready** counts from the
start of the process to the first 200 of `/readyz`. A clock in the page ticks in tenths of a millisecond.

Every value is the median of the runs, \"all runs\" the least and the greatest. \"is here\" is the goal in
numbers, going by the floors of the same run; a negative margin falls short of it. Nothing here passes or fails.
";
