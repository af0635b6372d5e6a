//! The machine's words: its phases, what happens to it, what it orders, and the times that it goes by.

use std::time::{Duration, Instant};

use crate::site::challenge::{Landing, Verdict, Wall};

/// All times that the machine goes by.
#[derive(Clone, Debug)]
pub struct Timing {
    /// From one beat to the next.
    pub beat: Duration,
    /// A carrier that has not answered for this long gets no new work.
    pub suspect: Duration,
    /// A carrier that has not answered for this long is replaced.
    pub carrier_silence: Duration,
    /// A browser whose main process has not answered for this long is killed.
    pub browser_silence: Duration,
    /// How long a carrier may take to open.
    pub open: Duration,
    /// How long the site's check may take by itself before a person is asked.
    pub check: Duration,
    /// From one look at a check under way to the next.
    pub probe: Duration,
    /// From one look at the page to the next while a person is wanted.
    pub operator_probe: Duration,
    /// `Ready` for this long counts as stable.
    pub stable: Duration,
    /// The first pause before something is tried again, and the longest.
    pub backoff: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Self {
        let s = Duration::from_secs;
        Timing {
            beat: s(2),
            suspect: s(4),
            carrier_silence: s(8),
            browser_silence: s(12),
            open: s(15),
            check: s(45),
            probe: Duration::from_millis(250),
            operator_probe: s(5),
            stable: s(60),
            backoff: (s(1), s(60)),
        }
    }
}

/// Where the machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A browser is being started.
    Starting,
    /// The site's page is being opened, its check passed, a carrier opened and tried; over by `until`.
    Warming {
        /// When waiting ends.
        until: Instant,
    },
    /// Requests are served.
    Ready,
    /// No carrier has answered lately; it may be a busy machine or a frozen page.
    Suspect,
    /// A person must act in the page. It is looked at now and then, and nothing is retried.
    NeedsOperator(Wall),
    /// Nothing is tried until then.
    Backoff {
        /// When the next try begins.
        until: Instant,
        /// What is tried then.
        next: Repair,
    },
    /// No new requests; those under way may end.
    Draining,
    /// The end.
    Stopped,
}

impl Phase {
    /// The phase in one word, as in logs, health and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Warming { .. } => "warming",
            Phase::Ready => "ready",
            Phase::Suspect => "suspect",
            Phase::NeedsOperator(_) => "needs_operator",
            Phase::Backoff { .. } => "backoff",
            Phase::Draining => "draining",
            Phase::Stopped => "stopped",
        }
    }
}

/// What is done after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Open the site's page again.
    Site,
    /// Start another browser.
    Browser,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A browser is running and we are connected to it.
    BrowserUp,
    /// The browser, or the link to it, is gone; or it could not be started.
    BrowserLost(String),
    /// The site's tab shows a document of this origin.
    SiteLanded(String, Landing),
    /// The site's page could not be opened.
    SiteFailed(String),
    /// The site's tab crashed or was closed.
    SiteLost(String),
    /// A carrier is connected.
    CarrierUp(u64),
    /// A carrier is gone, or could not be opened.
    CarrierLost(u64, String),
    /// What a fetch of the site's page through this carrier says.
    Probed(u64, Verdict),
    /// A carrier answered a beat.
    CarrierBeat(u64),
    /// The browser's main process answered a beat.
    BrowserBeat,
    /// The operator wants the page, or the browser, started again.
    Restart(Repair),
    /// No new requests from now on.
    Drain,
    /// The last request has ended, or may wait no longer.
    Drained,
}

/// What the supervisor is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a browser and connect.
    Launch,
    /// Kill the browser, if there is one.
    Kill,
    /// Ask the browser to write its profile and go.
    Close,
    /// Open the site's page in its tab.
    OpenSite,
    /// Open a carrier of this generation on this origin.
    OpenCarrier(u64, String),
    /// Close a carrier.
    CloseCarrier(u64),
    /// Fetch the site's page through this carrier and judge it.
    Probe(u64),
    /// Send a beat to this carrier.
    BeatCarrier(u64),
    /// Send a beat to the browser's main process.
    BeatBrowser,
}
