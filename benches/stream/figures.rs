//! The figures that are measured, and where each should land.

use std::collections::BTreeMap;

use super::shared::stats::median;

/// Who was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// A client straight at the site.
    Direct,
    /// A fetch loop in the page.
    Page,
    /// The proxy.
    Proxy,
}

/// Where a figure of the proxy should land.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Nowhere in particular.
    None,
    /// At most this.
    Most(f64),
    /// At least this.
    Least(f64),
    /// At most the page's and so much more.
    PagePlus(f64),
    /// At most the direct client's and so much more.
    DirectPlus(f64),
    /// At most so many times the page's.
    PageTimes(f64),
    /// At most so many times the proxy's own figure of that name.
    Times(f64, &'static str),
    /// At least these shares of the page's and of the direct client's; zero asks for nothing.
    Shares(f64, f64),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Where it should land.
    pub goal: Goal,
}

const fn figure(name: &'static str, unit: &'static str, goal: Goal) -> Figure {
    Figure { name, unit, goal }
}

pub const ONE_P50: Figure = figure("event delay, 1 stream, p50", "ms", Goal::PagePlus(0.4));
pub const ONE_P99: Figure = figure("event delay, 1 stream, p99", "ms", Goal::None);
pub const HUNDRED_P50: Figure = figure("event delay, 100 streams, p50", "ms", Goal::PagePlus(1.0));
pub const HUNDRED_P99: Figure = figure("event delay, 100 streams, p99", "ms", Goal::PagePlus(10.0));
pub const BURST: Figure = figure("first byte of 100 requests at once, p99", "ms", Goal::PagePlus(40.0));
pub const FLOOD: Figure = figure("flood, 8 streams", "events/s", Goal::Shares(0.9, 0.75));
pub const BULK: Figure = figure("100 MiB body", "MB/s", Goal::Shares(0.0, 0.65));
pub const FIRST_BYTE: Figure = figure("time to first byte, warm, p50", "ms", Goal::DirectPlus(5.0));
pub const OUR_CPU: Figure = figure("proxy CPU per 100k events, 100 streams", "s", Goal::Most(0.8));
pub const BROWSER_CPU: Figure =
    figure("Chromium CPU per 100k events, 100 streams", "s", Goal::PageTimes(1.2));
pub const CALM_CLOSED_P50: Figure =
    figure("event delay, 100 streams of 50 ms, p50, console closed", "ms", Goal::None);
pub const CALM_CLOSED_CPU: Figure =
    figure("proxy and Chromium, 100 streams of 50 ms, console closed", "cores", Goal::None);
pub const CALM_LOOKS_P50: Figure = figure(
    "event delay, 100 streams of 50 ms, p50, console open",
    "ms",
    Goal::Times(1.05, CALM_CLOSED_P50.name),
);
pub const CALM_LOOKS_CPU: Figure =
    figure("proxy and Chromium, 100 streams of 50 ms, console open", "cores", Goal::None);
pub const CALM_TYPES_P50: Figure = figure(
    "event delay, 100 streams of 50 ms, p50, operator types",
    "ms",
    Goal::Times(1.05, CALM_CLOSED_P50.name),
);
pub const CALM_TYPES_CPU: Figure =
    figure("proxy and Chromium, 100 streams of 50 ms, operator types", "cores", Goal::None);
pub const CLOSED_P50: Figure = figure("event delay, 100 streams, p50, console closed", "ms", Goal::None);
pub const CLOSED_CPU: Figure = figure("proxy and Chromium, 100 streams, console closed", "cores", Goal::None);
pub const LOOKS_P50: Figure =
    figure("event delay, 100 streams, p50, console open", "ms", Goal::Times(1.05, CLOSED_P50.name));
pub const LOOKS_CPU: Figure = figure("proxy and Chromium, 100 streams, console open", "cores", Goal::None);
pub const TYPES_P50: Figure =
    figure("event delay, 100 streams, p50, operator types", "ms", Goal::Times(1.05, CLOSED_P50.name));
pub const TYPES_CPU: Figure = figure("proxy and Chromium, 100 streams, operator types", "cores", Goal::None);
pub const IDLE_MEMORY: Figure = figure("proxy resident memory, idle", "MB", Goal::Most(15.0));
pub const BUSY_MEMORY: Figure = figure("proxy resident memory, 100 streams", "MB", Goal::Most(30.0));
pub const IDLE_PSS: Figure = figure("Chromium memory (PSS), idle", "MB", Goal::None);
pub const BUSY_PSS: Figure = figure("Chromium memory (PSS), 100 streams", "MB", Goal::None);
pub const MANY: Figure = figure("complete of 256 streams at once", "streams", Goal::Least(256.0));
pub const LOST: Figure = figure("incomplete streams, all measurements", "streams", Goal::Most(0.0));
pub const WARM_START: Figure = figure("start to ready, profile warm", "s", Goal::Most(1.0));
pub const FIRST_START: Figure = figure("start to ready, first ever", "s", Goal::None);

/// All of them, in the order of the table.
pub const ALL: [Figure; 30] = [
    ONE_P50,
    ONE_P99,
    HUNDRED_P50,
    HUNDRED_P99,
    BURST,
    FLOOD,
    BULK,
    FIRST_BYTE,
    OUR_CPU,
    BROWSER_CPU,
    CALM_CLOSED_P50,
    CALM_LOOKS_P50,
    CALM_TYPES_P50,
    CALM_CLOSED_CPU,
    CALM_LOOKS_CPU,
    CALM_TYPES_CPU,
    CLOSED_P50,
    LOOKS_P50,
    TYPES_P50,
    CLOSED_CPU,
    LOOKS_CPU,
    TYPES_CPU,
    IDLE_MEMORY,
    BUSY_MEMORY,
    IDLE_PSS,
    BUSY_PSS,
    MANY,
    LOST,
    WARM_START,
    FIRST_START,
];

/// What was measured so far: a value for each run.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(&'static str, Side), Vec<f64>>);

impl Samples {
    /// Adds the value of one run.
    pub fn add(&mut self, figure: Figure, side: Side, value: f64) {
        self.0.entry((figure.name, side)).or_default().push(value);
    }

    /// The values of all runs.
    pub fn values(&self, figure: Figure, side: Side) -> &[f64] {
        self.0.get(&(figure.name, side)).map_or(&[], Vec::as_slice)
    }

    /// The median of the runs.
    pub fn median(&self, figure: Figure, side: Side) -> Option<f64> {
        let values = self.values(figure, side);
        (!values.is_empty()).then(|| median(values))
    }

    /// Where `figure` should land, going by the floors of this very run.
    pub fn limit(&self, figure: Figure) -> Option<Limit> {
        let of = |side| self.median(figure, side);
        match figure.goal {
            Goal::None => None,
            Goal::Most(most) => Some(Limit::Most(most)),
            Goal::Least(least) => Some(Limit::Least(least)),
            Goal::PagePlus(more) => Some(Limit::Most(of(Side::Page)? + more)),
            Goal::DirectPlus(more) => Some(Limit::Most(of(Side::Direct)? + more)),
            Goal::PageTimes(times) => Some(Limit::Most(of(Side::Page)? * times)),
            Goal::Times(times, other) => {
                let values = self.0.get(&(other, Side::Proxy))?;
                Some(Limit::Most(median(values) * times))
            }
            Goal::Shares(page, direct) => {
                Some(Limit::Least((of(Side::Page)? * page).max(of(Side::Direct)? * direct)))
            }
        }
    }
}

/// A goal in numbers.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Not above.
    Most(f64),
    /// Not below.
    Least(f64),
}

impl Limit {
    /// The number itself.
    pub fn value(self) -> f64 {
        match self {
            Limit::Most(value) | Limit::Least(value) => value,
        }
    }

    /// How far `value` is on the right side of it; negative on the wrong one.
    pub fn margin(self, value: f64) -> f64 {
        match self {
            Limit::Most(most) => most - value,
            Limit::Least(least) => value - least,
        }
    }
}

impl Goal {
    /// In words, for the table.
    pub fn words(self, unit: &str) -> String {
        match self {
            Goal::None => String::new(),
            Goal::Most(most) => format!("≤ {most} {unit}"),
            Goal::Least(least) => format!("≥ {least} {unit}"),
            Goal::PagePlus(more) => format!("≤ page + {more} {unit}"),
            Goal::DirectPlus(more) => format!("≤ direct + {more} {unit}"),
            Goal::PageTimes(times) => format!("≤ {times} × page"),
            Goal::Times(times, _) => format!("≤ {times} × closed"),
            Goal::Shares(0.0, direct) => format!("≥ {direct} × direct"),
            Goal::Shares(page, direct) => format!("≥ {page} × page and {direct} × direct"),
        }
    }
}
