//! The tables: what became of each fault, of each kind of client, and what proxy and browser needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tabproxy::practice::Practice;

use super::PATIENCE;
use super::faults::Fault;
use super::harm::Harm;
use super::ledger::{End, Exchange, Ledger, root};
use super::shared::about::facts;
use super::shared::stats::{median, number, percentile};
use super::watch::Sample;
use super::window::{Mended, Window};
use super::wire;

/// All that was seen in one run.
pub struct Run<F> {
    /// The books.
    pub ledger: Ledger,
    /// The faults, in order.
    pub windows: Vec<Window<F>>,
    /// Memory and the like.
    pub samples: Vec<Sample>,
    /// What did not hold, in words.
    pub broken: Vec<String>,
    twice: BTreeSet<String>,
}

/// Exchanges by how they ended.
#[derive(Clone, Debug, Default)]
struct Ends {
    completed: usize,
    failed: BTreeMap<String, usize>,
    refused: usize,
    left: usize,
    lost: usize,
    twice: usize,
}

impl Ends {
    fn add(&mut self, end: &End, twice: bool) {
        match end {
            End::Completed => self.completed += 1,
            End::Failed(code) => *self.failed.entry(code.clone()).or_default() += 1,
            End::Refused(_) => self.refused += 1,
            End::Left => self.left += 1,
            End::Lost(_) => self.lost += 1,
        }
        self.twice += usize::from(twice);
    }

    fn failed(&self) -> usize {
        self.failed.values().sum()
    }
}

impl<F: Harm> Run<F> {
    /// Nothing seen yet.
    pub fn new(ledger: Ledger) -> Run<F> {
        Run { ledger, windows: Vec::new(), samples: Vec::new(), broken: Vec::new(), twice: BTreeSet::new() }
    }

    /// Notes exchanges that did not end.
    pub fn left_open(&mut self, open: Vec<String>) {
        self.broken.extend(open.into_iter().map(|it| format!("it never ended: {it}")));
    }

    /// Judges the books, with what the site has counted.
    pub fn close(&mut self, posts: &BTreeMap<String, u64>) {
        let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
        for (message, times) in posts {
            *counted.entry(root(message)).or_default() += times;
        }
        let mut known = BTreeSet::new();
        let mut broken = Vec::new();
        for it in self.ledger.ended() {
            let (began, ended) = (it.began.as_secs_f64(), it.ended.as_secs_f64());
            let who = format!("{} {} ({began:.1} to {ended:.1} s)", it.client, it.id);
            if let End::Lost(why) = &it.end {
                broken.push(format!("lost: {who}: {why}"));
            }
            let times = counted.get(it.id.as_str()).copied().unwrap_or(0);
            if times > it.most_posts {
                broken.push(format!("sent {times} times instead of {}: {who}", it.most_posts));
                self.twice.insert(it.id.clone());
            }
            known.insert(it.id);
        }
        for id in counted.keys().filter(|id| !known.contains(**id)) {
            broken.push(format!("the site saw {id}, which nobody sent"));
        }
        let unrecovered = self.windows.iter().filter(|it| it.seen.recovered.is_none());
        broken.extend(unrecovered.map(|it| {
            format!("not recovered from {} at {:.1} s", it.fault.name(), it.injected.as_secs_f64())
        }));
        self.broken.extend(broken);
    }

    /// The window that an exchange belongs to: the last one that it has seen.
    fn fault_of(&self, exchange: &Exchange) -> Option<F> {
        let seen_by =
            self.windows.iter().rfind(|it| exchange.began <= it.over && exchange.ended >= it.injected);
        seen_by.map(|it| it.fault)
    }
}

/// One row for each fault, and one for the time between them.
pub fn faults<F: Harm>(run: &Run<F>) -> String {
    let mut rows: BTreeMap<Option<F>, Ends> = BTreeMap::new();
    let mut all = Ends::default();
    for it in run.ledger.ended() {
        let twice = run.twice.contains(&it.id);
        rows.entry(run.fault_of(&it)).or_default().add(&it.end, twice);
        all.add(&it.end, twice);
    }
    let is_back = run.windows.iter().any(|it| matches!(it.mended, Some(Mended::Back(_))));
    let mended = if is_back { "back, s" } else { "browsers, carriers started" };
    let mut out = format!(
        "| fault | injected | noticed, s | recovered, s | in flight | {mended} | completed \
         | failed, explicit | left | refused | lost | sent twice |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for (fault, ends) in &rows {
        let (name, seen) = match fault {
            Some(fault) => (fault.about(), times(run, *fault)),
            None => ("none".into(), "| | | | | |".into()),
        };
        let _ = writeln!(out, "| {name} {seen} {}", counts(ends));
    }
    let _ = writeln!(out, "| **all** | {} | | | | | {}", run.windows.len(), counts(&all));
    let codes = all.failed.iter().map(|(code, times)| format!("{code} {times}")).collect::<Vec<_>>();
    let _ = writeln!(out, "\nFailed with an explicit error: {}.", codes.join(", "));
    out
}

/// Which errors there were, by fault.
pub fn codes<F: Harm>(run: &Run<F>) -> String {
    let mut rows: BTreeMap<Option<F>, BTreeMap<String, usize>> = BTreeMap::new();
    for it in run.ledger.ended() {
        if let End::Failed(code) = &it.end {
            *rows.entry(run.fault_of(&it)).or_default().entry(code.clone()).or_default() += 1;
        }
    }
    let mut out = String::new();
    for (fault, codes) in rows {
        let codes = codes.iter().map(|(code, times)| format!("{code} {times}")).collect::<Vec<_>>();
        let name = fault.map_or_else(|| "none".into(), F::about);
        let _ = writeln!(out, "- {name}: {}", codes.join(", "));
    }
    out
}

fn times<F: Harm>(run: &Run<F>, fault: F) -> String {
    let windows: Vec<_> = run.windows.iter().filter(|it| it.fault == fault).collect();
    let seconds = |time: Duration| time.as_secs_f64();
    let noticed: Vec<_> =
        windows.iter().filter_map(|it| it.seen.detected.as_ref()).map(|it| seconds(it.0)).collect();
    let recovered: Vec<_> = windows.iter().filter_map(|it| it.seen.recovered).map(seconds).collect();
    let never = if recovered.len() < windows.len() { " **never**" } else { "" };
    let in_flight: Vec<_> = windows.iter().map(|it| it.in_flight as f64).collect();
    let (mut parts, mut back) = ((0, 0), Vec::new());
    for it in windows.iter().filter_map(|it| it.mended) {
        match it {
            Mended::Parts(browsers, carriers) => parts = (parts.0 + browsers, parts.1 + carriers),
            Mended::Back(after) => back.push(seconds(after)),
        }
    }
    let mended = if back.is_empty() { format!("{}, {}", parts.0, parts.1) } else { middle_and_worst(&back) };
    format!(
        "| {} | {} | {}{never} | {} | {mended} |",
        windows.len(),
        middle_and_worst(&noticed),
        middle_and_worst(&recovered),
        number(in_flight.iter().sum()),
    )
}

/// Median and worst; one of one.
fn middle_and_worst(values: &[f64]) -> String {
    match values {
        [] => "–".into(),
        [only] => format!("{only:.2}"),
        _ => format!("{:.2} / {:.2}", median(values), percentile(values, 1.0)),
    }
}

fn counts(ends: &Ends) -> String {
    format!(
        "{} | {} | {} | {} | **{}** | **{}** |",
        ends.completed,
        ends.failed(),
        ends.left,
        ends.refused,
        ends.lost,
        ends.twice
    )
}

/// One row for each kind of client.
pub fn clients<F: Harm>(run: &Run<F>) -> String {
    let mut rows: BTreeMap<&str, Ends> = BTreeMap::new();
    for it in run.ledger.ended() {
        rows.entry(it.client).or_default().add(&it.end, run.twice.contains(&it.id));
    }
    let mut out = String::from(
        "| client | completed | failed, explicit | left | refused | lost | sent twice |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
    );
    for (client, ends) in rows {
        let _ = writeln!(out, "| {client} | {}", counts(&ends));
    }
    out
}

/// What was needed, at the beginning and at the end, each the median of a fifth of the time.
pub fn needs(samples: &[Sample]) -> String {
    // While there is no browser it needs nothing, which says nothing about it.
    let samples: Vec<_> = samples.iter().copied().filter(|it| it.browser_processes > 0.0).collect();
    let fifth = (samples.len() / 5).max(1).min(samples.len());
    let (first, last) = (&samples[..fifth], &samples[samples.len() - fifth..]);
    let mut out = String::from("| | first fifth | last fifth | most |\n|---|--:|--:|--:|\n");
    for (name, value) in NEEDS {
        let of = |samples: &[Sample]| samples.iter().map(value).collect::<Vec<_>>();
        let (first, last, all) = (median(&of(first)), median(&of(last)), percentile(&of(&samples), 1.0));
        let _ = writeln!(out, "| {name} | {} | {} | {} |", number(first), number(last), number(all));
    }
    out
}

type Need = (&'static str, fn(&Sample) -> f64);

const NEEDS: [Need; 7] = [
    ("proxy, resident memory, MB", |it| it.proxy_memory),
    ("proxy, descriptors", |it| it.proxy_descriptors),
    ("proxy, memory mappings", |it| it.proxy_mappings),
    ("browser, memory (PSS), MB", |it| it.browser_memory),
    ("browser, descriptors", |it| it.browser_descriptors),
    ("browser, memory mappings", |it| it.browser_mappings),
    ("browser, processes", |it| it.browser_processes),
];

/// The whole document.
pub fn document(run: &Run<Fault>, browser: &str, command: &str) -> String {
    let mut out = format!("# Soak\n\nWritten by `{command}`; do not edit.\n\n");
    out.push_str(&facts(browser, &format!("`{command}`")));
    if cfg!(debug_assertions) {
        out.push_str("\nA debug build: a release build needs less time and memory.\n");
    }
    let held = if run.broken.is_empty() {
        "All held: nothing lost, nothing sent twice."
    } else {
        "**Broken**; see below."
    };
    let _ = writeln!(out, "\n{held}\n\n{}", faults(run));
    let _ = writeln!(out, "{}\n![Memory, descriptors and mappings over time](soak.svg)\n", clients(run));
    out.push_str(&needs(&run.samples));
    if !run.broken.is_empty() {
        out.push_str("\nWhat did not hold:\n\n");
        run.broken.iter().for_each(|what| out += &format!("- {what}\n"));
    }
    out.push_str(EXPLANATION);
    let left_out = Fault::value_variants().iter().filter_map(|it| Some((it, it.why_not()?)));
    for (fault, why) in left_out {
        let _ =
            writeln!(out, "\nOnly when it is named (`--faults {}`): {}. {why}.", fault.name(), fault.about());
    }
    out
}

/// What is still there when no request is under way any more.
pub async fn left_behind(addr: SocketAddr, site: &Practice) -> Vec<String> {
    let began = Instant::now();
    loop {
        let metrics = wire::text(addr, "/metrics").await.unwrap_or_default();
        let gauges = ["tabproxy_inflight", "tabproxy_queued", "tabproxy_buffered_bytes"];
        let mut left: Vec<_> = gauges
            .into_iter()
            .filter(|it| figure(&metrics, it) != Some(0))
            .map(|it| format!("left behind: {it} is {:?}", figure(&metrics, it)))
            .collect();
        let active = site.counters().active;
        if active > 0 {
            left.push(format!("left behind: {active} answers run at the site"));
        }
        if left.is_empty() || began.elapsed() > PATIENCE / 4 {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Browsers started and carriers opened so far, as the metrics say.
pub async fn repairs(addr: SocketAddr) -> Option<(i64, i64)> {
    let metrics = wire::text(addr, "/metrics").await.ok()?;
    Some((figure(&metrics, "tabproxy_browser_starts_total")?, figure(&metrics, "tabproxy_pages_total")?))
}

/// The browser's name and version, as the metrics say.
pub async fn browser_version(addr: SocketAddr) -> String {
    let metrics = wire::text(addr, "/metrics").await.unwrap_or_default();
    let version = metrics.split_once("browser=\"").and_then(|(_, rest)| rest.split_once('"'));
    version.map_or_else(String::new, |(version, _)| version.to_owned())
}

fn figure(metrics: &str, name: &str) -> Option<i64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

const EXPLANATION: &str = "
## What was done

The practice site and the clients run in one process, the proxy and its browser in others; all share the cores. The
clients go on all the while, each with a request on a connection of its own: fast ones, answers of 100 events, slow
readers, uploads, downloads, clients that leave before the head or in mid-stream, that abort their upload, that send
what is malformed. One fault at a time is injected, in random order, each of the list once before any comes again.

An exchange **completed** if its client has all of the answer, and it is right, byte for byte. It **failed** if the
client got an error that it cannot take for an answer: an error code, or a body that is cut, not ended. It is
**lost** if it got neither, or within two minutes nothing. **Sent twice** goes by the site's own count of each
message. An exchange counts for the last fault that it has seen. **Refused** are the malformed, as they should be.

**Noticed** is the time from the injection to the first sign outside: a request fails, `/readyz` says no, or the log
tells of a repair; a dash says that the work went on and nobody had to notice. **Recovered** is the time from the
injection until a fresh request, begun after that, has been served. Both are the median and the worst; one number if
there was one. Nothing passes or fails by them, except that a fault must be recovered from within 90 seconds. **In flight**
are the exchanges under way at the injection, all injections together; the busiest renderer is, as a rule, the carrier
that has the work.
";
