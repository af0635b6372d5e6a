//! The table: what was measured, beside its floors and its goal, as Markdown.

use std::fmt::Write as _;

use super::figures::{ALL, Figure, Samples, Side};
use super::shared::about::facts;
use super::shared::stats::number;

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
    let command = format!("`{}`, median of {} runs", about.command, about.runs);
    out.push_str(&facts(&about.browser, &command));
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
With the **console open**, an operator asks for the state every second and looks at the live view; who **types** there
writes ten letters a second, each of which makes a picture. They are measured in turn with nobody there, with streams
of 10 ms, which leave two cores no room, and with streams of 50 ms, which do. **CPU** is user and system time;
Chromium's is that of its whole process group. **Start to ready** counts from the start of the process to the first
200 of `/readyz`. A clock in the page ticks in tenths of a millisecond.

Every value is the median of the runs, \"all runs\" the least and the greatest. \"is here\" is the goal in
numbers, going by the floors of the same run; a negative margin falls short of it. Nothing here passes or fails.
";
