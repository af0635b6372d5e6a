//! What was measured: a value for each run of each figure, in each column.

use std::collections::BTreeMap;

use super::shared::stats::median;

/// One line of a table.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
}

const fn figure(name: &'static str, unit: &'static str) -> Figure {
    Figure { name, unit }
}

pub const FORTY_P50: Figure = figure("event delay, 40 streams of 50 events/s, p50", "ms");
pub const FORTY_P99: Figure = figure("event delay, 40 streams of 50 events/s, p99", "ms");
pub const HUNDRED_P50: Figure = figure("event delay, 100 streams of 50 events/s, p50", "ms");
pub const HUNDRED_P99: Figure = figure("event delay, 100 streams of 50 events/s, p99", "ms");
pub const HUNDRED_RATE: Figure = figure("throughput, 100 streams", "events/s");
pub const FLOOD: Figure = figure("flood, 16 streams", "events/s");
pub const STEADY_P50: Figure = figure("event delay, 90 streams of 20 events/s, p50", "ms");
pub const STEADY_P99: Figure = figure("event delay, 90 streams of 20 events/s, p99", "ms");
pub const STEADY_CPU: [Figure; 4] = [
    figure("CPU per 100k events, 90 streams of 20 events/s: instances", "s"),
    figure("the same: Chromium", "s"),
    figure("the same: nginx", "s"),
    figure("the same: Redis", "s"),
];
pub const BUSY_CPU: [Figure; 4] = [
    figure("CPU per 100k events, 100 streams of 50 events/s: instances", "s"),
    figure("the same, of 50 events/s: Chromium", "s"),
    figure("the same, of 50 events/s: nginx", "s"),
    figure("the same, of 50 events/s: Redis", "s"),
];
pub const PROXY_MEMORY: Figure = figure("memory of an instance (RSS), 100 streams", "MB");
pub const BROWSER_MEMORY: Figure = figure("memory of its browsers (PSS), 100 streams", "MB");
pub const IDLE_MEMORY: Figure = figure("memory of its browsers (PSS), idle", "MB");
pub const NGINX_MEMORY: Figure = figure("memory of nginx (PSS), 100 streams", "MB");
pub const INCOMPLETE: Figure = figure("incomplete streams, all measurements", "streams");

/// The figures under streams, in the order of the table.
pub const STREAMS: [Figure; 21] = [
    FORTY_P50,
    FORTY_P99,
    HUNDRED_P50,
    HUNDRED_P99,
    HUNDRED_RATE,
    STEADY_P50,
    STEADY_P99,
    FLOOD,
    STEADY_CPU[0],
    STEADY_CPU[1],
    STEADY_CPU[2],
    STEADY_CPU[3],
    BUSY_CPU[0],
    BUSY_CPU[1],
    BUSY_CPU[2],
    BUSY_CPU[3],
    PROXY_MEMORY,
    BROWSER_MEMORY,
    IDLE_MEMORY,
    NGINX_MEMORY,
    INCOMPLETE,
];

pub const REQUESTS: Figure = figure("requests", "1/s");
pub const LATENCY_P50: Figure = figure("latency, p50", "ms");
pub const LATENCY_P99: Figure = figure("latency, p99", "ms");
pub const COMMANDS: Figure = figure("Redis commands per request", "");
pub const REDIS_MS: Figure = figure("Redis CPU per request", "ms");

/// The figures of short requests, in the order of the table.
pub const TOLL: [Figure; 5] = [REQUESTS, LATENCY_P50, LATENCY_P99, COMMANDS, REDIS_MS];

/// What was measured so far, by figure and column.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(&'static str, String), Vec<f64>>);

impl Samples {
    /// Adds the value of one run.
    pub fn add(&mut self, figure: Figure, column: &impl ToString, value: f64) {
        self.0.entry((figure.name, column.to_string())).or_default().push(value);
    }

    /// The median of the runs.
    pub fn median(&self, figure: Figure, column: &impl ToString) -> Option<f64> {
        self.0.get(&(figure.name, column.to_string())).map(|values| median(values))
    }
}
