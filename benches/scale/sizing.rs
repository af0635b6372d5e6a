//! From measured figures to a layout for many streams, with the arithmetic shown. Pure.

use std::fmt::Write as _;

use super::shared::stats::number;

/// Events that a stream brings in a second, and how long a turn takes, in seconds.
const EVENTS: f64 = 20.0;
const TURN: f64 = 30.0;
/// `TABPROXY_MAX_INFLIGHT` as it comes: streams of one browser.
const STREAMS: f64 = 90.0;
/// What is to be laid out.
const WANTED: f64 = 10_000.0;
/// Of all places, so many percent are spare: those of one machine in ten.
const SPARE: f64 = 10.0;
/// How busy cores may be on average, so that delays stay as they were measured.
const BUSY: f64 = 0.6;
/// A machine.
const CORES: f64 = 8.0;
const GIGABYTES: f64 = 32.0;
/// Of a machine's memory, so much is for the system and for peaks.
const MEMORY: f64 = 0.75;

/// What the arithmetic begins with; seconds are for 100,000 events, memory is in MB.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Processor time of an instance.
    pub proxy: f64,
    /// Processor time of its browser.
    pub browser: f64,
    /// Processor time of nginx.
    pub nginx: f64,
    /// Memory of an instance with 100 streams.
    pub proxy_memory: f64,
    /// Memory of its browser, idle, and with 100 streams.
    pub browser_memory: [f64; 2],
    /// Redis commands of a turn, and its processor time in milliseconds, if there was one.
    pub redis: Option<[f64; 2]>,
}

/// The section.
pub fn section(needs: &Needs) -> String {
    let mut out = String::from("## Sizing\n\n");
    let per_instance = needs.proxy + needs.browser;
    let cores = STREAMS * EVENTS / 100_000.0 * per_instance;
    let [idle, full] = needs.browser_memory;
    let memory = needs.proxy_memory + full;
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "By the figures above, of one instance behind nginx with {STREAMS} streams (`TABPROXY_MAX_INFLIGHT` as it \
         comes) of {EVENTS} events/s. Assumed, not measured: that a stream brings {EVENTS} events/s while it speaks, \
         and that a turn takes {TURN} s. The cores are those of the machine in the table at the top.\n\n\
         | one instance, one browser | |\n|---|---|\n\
         | streams | {STREAMS}; 256 at most, since a browser runs no more on one HTTP/2 connection |\n\
         | cores, full | {STREAMS} × {EVENTS} events/s × ({} + {} s) / 100,000 = {:.2} |\n\
         | memory, full | {} + {} = {} MB, of which {} MB are an idle browser's |\n\
         | `/dev/shm` | 256 MB (README.md, \"Docker\") |\n",
        number(needs.proxy),
        number(needs.browser),
        cores,
        number(needs.proxy_memory),
        number(full),
        number(memory),
        number(idle),
    );
    let browsers = (WANTED * (1.0 + SPARE / 100.0) / STREAMS).ceil();
    let events = WANTED * EVENTS;
    let busy = events / 100_000.0 * per_instance;
    let all = busy / BUSY;
    let gigabytes = browsers * memory / 1024.0;
    let by_cores = (all / CORES).ceil();
    let by_memory = (gigabytes / (GIGABYTES * MEMORY)).ceil();
    let machines = by_cores.max(by_memory);
    let each = (browsers / machines).ceil();
    let _ = writeln!(
        out,
        "10,000 streams at once:\n\n\
         1. Places: 10,000 + {SPARE} % spare, / {STREAMS} = **{browsers} browsers**.\n\
         2. Cores: 10,000 × {EVENTS} = {} events/s; × {} s / 100,000 = {} cores busy; at {:.0} % of what there is, \
         **{} cores**.\n\
         3. Memory: {browsers} × {} MB = **{} GB**.\n\
         4. Machines of {CORES} cores and {GIGABYTES} GB: by cores {by_cores}, by memory (three quarters of it) \
         {by_memory}; so **{machines} machines with {each} browsers each**, as {each} instances of one browser, or \
         half as many of two (`TABPROXY_BROWSERS=2`). The loss of one cuts its {} streams, each with an error; \
         the others have {} places.\n\
         5. nginx: {} × {} s / 100,000 = {:.1} cores: two of four cores each, for the loss of one.",
        number(events),
        number(per_instance),
        number(busy),
        BUSY * 100.0,
        number(all.ceil()),
        number(memory),
        number(gigabytes.ceil()),
        number((WANTED / machines).ceil()),
        number((machines - 1.0) * each * STREAMS),
        number(events),
        number(needs.nginx),
        events / 100_000.0 * needs.nginx,
    );
    if let Some([commands, milliseconds]) = needs.redis {
        let turns = WANTED / TURN;
        let _ = writeln!(
            out,
            "6. Redis: 10,000 / {TURN} s = {turns:.0} turns/s × {} commands = {} commands/s, {:.2} cores: one \
             server is enough, with a replica for its loss.",
            number(commands),
            number(turns * commands),
            turns * milliseconds / 1e3,
        );
    }
    out.push_str(
        "\nA request of one instance in Kubernetes: the cores and the memory of the first table; the limit of memory \
         twice that, none for cores.\n",
    );
    out
}
