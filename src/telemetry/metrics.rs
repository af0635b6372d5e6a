//! The program's figures, in one registry that is handed in, for Prometheus to collect.
//!
//! What happens is counted as it happens; what merely *is* (the phase, the queue, memory) is sampled when
//! somebody asks, from a [`Sample`] of plain values. No label holds anything of a caller's.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{log, process};
use crate::error::FaultKind;

/// The media type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The phases that `tabproxy_phase` has a series for.
pub const PHASES: [&str; 8] =
    ["starting", "warming", "ready", "suspect", "needs_operator", "backoff", "draining", "stopped"];

const HEAD_BUCKETS: [f64; 14] =
    [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0];
const DELAY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0];

/// The code of [`Outcome::NotAStream`].
pub const NOT_A_STREAM: &str = "not_a_stream";

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client got the whole answer.
    Complete,
    /// The client left before the end.
    ClientGone,
    /// The client had the head of an event stream already when the site answered with something else.
    NotAStream,
    /// The client got a fault.
    Fault(FaultKind),
}

impl Outcome {
    fn label(self) -> OutcomeLabel {
        let outcome = match self {
            Outcome::Complete => "complete",
            Outcome::ClientGone => "client_gone",
            Outcome::NotAStream => NOT_A_STREAM,
            Outcome::Fault(kind) => kind.code(),
        };
        OutcomeLabel { outcome }
    }
}

/// How things are at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct Sample {
    /// One of [`PHASES`].
    pub phase: &'static str,
    /// Browsers started so far.
    pub browser_starts: u64,
    /// Carriers opened so far.
    pub pages: u64,
    /// Exchanges with a permit.
    pub inflight: usize,
    /// Exchanges that may.
    pub places: usize,
    /// Callers in the queue.
    pub queued: usize,
    /// Bytes held for slow readers.
    pub buffered: usize,
    /// Events of event streams that have gone out so far.
    pub events: u64,
    /// The browser's name and version, once known.
    pub browser: Option<String>,
    /// The process group of each browser.
    pub browser_groups: Vec<i32>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabel {
    version: &'static str,
    browser: String,
}

/// What has added up so far of the figures that are shown over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Heads of answers.
    pub heads: u64,
    /// The time that all of them took, in microseconds.
    pub head_micros: u64,
    /// Pieces of answers.
    pub pieces: u64,
    /// The time that all of them were on their way, in microseconds.
    pub delay_micros: u64,
}

#[derive(Debug, Default)]
struct Adding {
    heads: AtomicU64,
    head_micros: AtomicU64,
    pieces: AtomicU64,
    delay_micros: AtomicU64,
}

/// All figures; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    exchanges: Family<OutcomeLabel, Counter>,
    time_to_head: Histogram,
    event_delay: Histogram,
    bytes_in: Counter,
    bytes_out: Counter,
    turns: TurnFigures,
    adding: Adding,
    sampled: Sampled,
    /// Locked while a sample is put in and written out, so that two scrapes do not mix theirs.
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct TurnFigures {
    joined: Counter,
    replayed: Counter,
    waited: Counter,
    waiting: Gauge,
    kept: Gauge,
}

impl TurnFigures {
    fn register(&self, r: &mut Registry) {
        let help = "Turns that were asked again and joined the answer under way";
        r.register("tabproxy_turns_joined", help, self.joined.clone());
        let help = "Turns that were asked again and got the answer that had been given";
        r.register("tabproxy_turns_replayed", help, self.replayed.clone());
        let help = "Turns that had to wait for the one before them in their conversation";
        r.register("tabproxy_turns_waited", help, self.waited.clone());
        let help = "Turns that wait for the one before them in their conversation";
        r.register("tabproxy_turns_waiting", help, self.waiting.clone());
        let help = "Bytes of answers kept for turns that are asked again";
        r.register("tabproxy_turns_kept_bytes", help, self.kept.clone());
    }
}

#[derive(Debug, Default)]
struct Sampled {
    phase: Family<PhaseLabel, Gauge>,
    browser_starts: Counter,
    pages: Counter,
    inflight: Gauge,
    places: Gauge,
    queued: Gauge,
    buffered: Gauge,
    events: Counter,
    memory: Gauge,
    browser_memory: Gauge,
    descriptors: Gauge,
    lost_lines: Counter,
    build: Family<BuildLabel, Gauge>,
}

impl Metrics {
    /// Registers every figure in `registry`, which may hold others already, and keeps it.
    pub fn new(mut registry: Registry) -> Metrics {
        let r = &mut registry;
        let exchanges = Family::<OutcomeLabel, Counter>::default();
        let faults = FaultKind::ALL.into_iter().map(Outcome::Fault);
        for outcome in [Outcome::Complete, Outcome::ClientGone, Outcome::NotAStream].into_iter().chain(faults)
        {
            // A series that is there from the start makes its first increase visible.
            let _ = exchanges.get_or_create(&outcome.label());
        }
        r.register("tabproxy_exchanges", "Requests by how they ended", exchanges.clone());
        let time_to_head = Histogram::new(HEAD_BUCKETS);
        let help = "From a request's arrival to the head of its answer";
        r.register("tabproxy_time_to_head_seconds", help, time_to_head.clone());
        let event_delay = Histogram::new(DELAY_BUCKETS);
        let help = "From the page's read of a piece of an answer to our handing it on";
        r.register("tabproxy_event_delay_seconds", help, event_delay.clone());
        let bytes = Family::<DirectionLabel, Counter>::default();
        let direction = |direction| bytes.get_or_create(&DirectionLabel { direction }).clone();
        let (bytes_in, bytes_out) = (direction("in"), direction("out"));
        r.register("tabproxy_body_bytes", "Bytes of bodies, from and to clients", bytes);
        let turns = TurnFigures::default();
        turns.register(r);
        let sampled = Sampled::default();
        sampled.register(r);
        let shared = Shared {
            exchanges,
            time_to_head,
            event_delay,
            bytes_in,
            bytes_out,
            turns,
            adding: Adding::default(),
            sampled,
            registry: registry.into(),
        };
        Metrics { shared: Arc::new(shared) }
    }

    /// An exchange begins. The guard counts how it ends, once: as [`Outcome::ClientGone`] if it is dropped.
    pub fn begin(&self) -> Ending {
        Ending { exchanges: Some(self.clone()) }
    }

    /// An answer's head came this long after its request.
    pub fn head_after(&self, time: Duration) {
        self.shared.time_to_head.observe(time.as_secs_f64());
        self.shared.adding.heads.fetch_add(1, Relaxed);
        self.shared.adding.head_micros.fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// A piece of an answer was this long on its way through us, if that is known, and has `bytes` bytes.
    pub fn sent(&self, bytes: usize, delay: Option<Duration>) {
        self.shared.bytes_out.inc_by(bytes as u64);
        if let Some(delay) = delay {
            self.shared.event_delay.observe(delay.as_secs_f64());
            self.shared.adding.pieces.fetch_add(1, Relaxed);
            self.shared.adding.delay_micros.fetch_add(delay.as_micros() as u64, Relaxed);
        }
    }

    /// What has added up so far.
    pub fn sums(&self) -> Sums {
        let adding = &self.shared.adding;
        Sums {
            heads: adding.heads.load(Relaxed),
            head_micros: adding.head_micros.load(Relaxed),
            pieces: adding.pieces.load(Relaxed),
            delay_micros: adding.delay_micros.load(Relaxed),
        }
    }

    /// A turn that was asked again joined the answer under way.
    pub fn turn_joined(&self) {
        self.shared.turns.joined.inc();
    }

    /// A turn that was asked again got the answer that had been given.
    pub fn turn_replayed(&self) {
        self.shared.turns.replayed.inc();
    }

    /// A turn began to wait for the one before it in its conversation.
    pub fn turn_waited(&self) {
        self.shared.turns.waited.inc();
    }

    /// So many turns wait now, and so many bytes of answers are kept.
    pub fn turns_now(&self, waiting: usize, kept: usize) {
        self.shared.turns.waiting.set(waiting as i64);
        self.shared.turns.kept.set(kept as i64);
    }

    /// So many bytes of a request's body arrived.
    pub fn received(&self, bytes: usize) {
        self.shared.bytes_in.inc_by(bytes as u64);
    }

    /// Everything as OpenMetrics text. Reads `/proc`, so it may take some milliseconds: not for a thread
    /// that streams wait for.
    pub fn render(&self, sample: &Sample) -> String {
        let registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.sampled.set(sample);
        let mut text = String::with_capacity(8 * 1024);
        // Writing into a string cannot fail, and half a text is not parsed: no case to handle.
        let _ = encode(&mut text, &registry);
        text
    }
}

impl Sampled {
    fn register(&self, r: &mut Registry) {
        r.register("tabproxy_phase", "1 for the phase that the browser is in", self.phase.clone());
        r.register("tabproxy_browser_starts", "Browsers started", self.browser_starts.clone());
        r.register("tabproxy_pages", "Carrier pages opened", self.pages.clone());
        r.register("tabproxy_inflight", "Exchanges that hold a permit", self.inflight.clone());
        r.register("tabproxy_places", "Exchanges that may hold one at once", self.places.clone());
        r.register("tabproxy_queued", "Requests that wait for a permit", self.queued.clone());
        r.register("tabproxy_buffered_bytes", "Bytes held for slow readers", self.buffered.clone());
        r.register("tabproxy_events", "Events of event streams sent to clients", self.events.clone());
        let help = "Resident memory of the proxy itself";
        r.register("tabproxy_process_resident_memory_bytes", help, self.memory.clone());
        let help = "Memory of all the browser's processes, shared pages counted by their share";
        r.register("tabproxy_browser_resident_memory_bytes", help, self.browser_memory.clone());
        r.register(
            "tabproxy_open_descriptors",
            "Open file descriptors of the proxy",
            self.descriptors.clone(),
        );
        let help = "Log lines lost: the disk was full, or a writer too slow";
        r.register("tabproxy_log_lines_lost", help, self.lost_lines.clone());
        r.register("tabproxy_build_info", "Always 1; what runs, in its labels", self.build.clone());
    }

    fn set(&self, sample: &Sample) {
        for phase in PHASES {
            self.phase.get_or_create(&PhaseLabel { phase }).set(i64::from(phase == sample.phase));
        }
        self.browser_starts.inner().store(sample.browser_starts, Relaxed);
        self.pages.inner().store(sample.pages, Relaxed);
        self.inflight.set(sample.inflight as i64);
        self.places.set(sample.places as i64);
        self.queued.set(sample.queued as i64);
        self.buffered.set(sample.buffered as i64);
        self.events.inner().store(sample.events, Relaxed);
        self.memory.set(process::resident() as i64);
        let memory: u64 = sample.browser_groups.iter().map(|it| process::group_memory(*it)).sum();
        self.browser_memory.set(memory as i64);
        self.descriptors.set(process::descriptors() as i64);
        self.lost_lines.inner().store(log::lost(), Relaxed);
        self.build.clear();
        let browser = sample.browser.clone().unwrap_or_default();
        self.build.get_or_create(&BuildLabel { version: env!("CARGO_PKG_VERSION"), browser }).set(1);
    }
}

/// Counts how one exchange ends.
#[must_use = "dropping it counts the client as gone"]
#[derive(Debug)]
pub struct Ending {
    exchanges: Option<Metrics>,
}

impl Ending {
    /// It ended like this.
    pub fn end(mut self, outcome: Outcome) {
        self.count(outcome);
    }

    fn count(&mut self, outcome: Outcome) {
        if let Some(metrics) = self.exchanges.take() {
            metrics.shared.exchanges.get_or_create(&outcome.label()).inc();
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.count(Outcome::ClientGone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample {
            phase: "ready",
            browser_starts: 2,
            pages: 5,
            inflight: 3,
            places: 4,
            queued: 1,
            buffered: 77,
            events: 12,
            browser: Some("Chrome/142".into()),
            browser_groups: Vec::new(),
        }
    }

    #[test]
    fn every_figure_is_there_and_the_last_sample_counts() {
        let metrics = Metrics::new(Registry::default());
        metrics.render(&Sample { phase: "starting", browser: None, ..sample() });
        metrics.head_after(Duration::from_millis(6));
        metrics.sent(100, Some(Duration::from_micros(700)));
        metrics.turn_joined();
        metrics.turns_now(2, 300);
        metrics.received(9);
        let text = metrics.render(&sample());
        for line in [
            r#"tabproxy_phase{phase="ready"} 1"#,
            r#"tabproxy_phase{phase="starting"} 0"#,
            "tabproxy_browser_starts_total 2",
            "tabproxy_pages_total 5",
            "tabproxy_inflight 3",
            "tabproxy_places 4",
            "tabproxy_queued 1",
            "tabproxy_buffered_bytes 77",
            "tabproxy_events_total 12",
            r#"tabproxy_exchanges_total{outcome="queue_full"} 0"#,
            "tabproxy_time_to_head_seconds_count 1",
            r#"tabproxy_event_delay_seconds_bucket{le="0.0005"} 0"#,
            r#"tabproxy_event_delay_seconds_bucket{le="0.001"} 1"#,
            r#"tabproxy_body_bytes_total{direction="in"} 9"#,
            r#"tabproxy_body_bytes_total{direction="out"} 100"#,
            "tabproxy_browser_resident_memory_bytes 0",
            "tabproxy_turns_joined_total 1",
            "tabproxy_turns_replayed_total 0",
            "tabproxy_turns_waited_total 0",
            "tabproxy_turns_waiting 2",
            "tabproxy_turns_kept_bytes 300",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is missing in:\n{text}");
        }
        assert!(text.contains("\ntabproxy_log_lines_lost_total "));
        assert_eq!(text.matches("tabproxy_build_info{").count(), 1);
        assert!(text.contains(r#"browser="Chrome/142""#) && text.ends_with("# EOF\n"));
    }

    #[test]
    fn an_exchange_is_counted_once() {
        let metrics = Metrics::new(Registry::default());
        metrics.begin().end(Outcome::Complete);
        metrics.begin().end(Outcome::Fault(FaultKind::PageLost));
        drop(metrics.begin());
        let text = metrics.render(&sample());
        for outcome in ["complete", "client_gone", "page_lost"] {
            let line = format!("tabproxy_exchanges_total{{outcome=\"{outcome}\"}} 1");
            assert!(text.lines().any(|it| it == line), "{line} is missing");
        }
    }
}
