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
    /// A link over which nothing has been answered for this long is made anew.
    pub link_silence: Duration,
    /// A browser that has not answered for this long, and does nothing either, is killed.
    pub browser_silence: Duration,
    /// One that does something, but has not answered for this long, is killed too.
    pub browser_hang: Duration,
    /// The site's tab is replaced if it has not answered for this long.
    pub site_silence: Duration,
    /// How long a carrier may take to open.
    pub open: Duration,
    /// How long the site's check may take by itself before a person is asked.
    pub check: Duration,
    /// From one look at a check under way to the next.
    pub probe: Duration,
    /// From one look at the page to the next while a person is wanted.
    pub operator_probe: Duration,
    /// From one look through a carrier that the site has answered nothing through to the next.
    pub quiet: Duration,
    /// A doubt whether the page is still signed in is not looked into more often than this.
    pub doubt: Duration,
    /// From one weighing of the pages to the next.
    pub weigh: Duration,
    /// A page is not replaced for its memory before this age.
    pub settled: Duration,
    /// `Ready` for this long counts as stable.
    pub stable: Duration,
    /// A second wall within this time of the first is a person's business.
    pub calm: Duration,
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
            link_silence: s(3),
            browser_silence: s(12),
            browser_hang: s(60),
            site_silence: s(10),
            open: s(5),
            check: s(45),
            probe: Duration::from_millis(250),
            operator_probe: s(5),
            quiet: s(60),
            doubt: s(30),
            weigh: s(5),
            settled: s(15),
            stable: s(10),
            calm: s(60),
            backoff: (s(1), s(60)),
        }
    }
}

/// How many carriers are kept, and when a page is worn out and replaced by a fresh one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// Carriers that stand ready, at least one.
    pub carriers: usize,
    /// A carrier is replaced after so many exchanges,
    pub exchanges: u64,
    /// at this age,
    pub age: Duration,
    /// or when its page uses so many bytes; so is the site's tab.
    pub memory: u64,
}

/// What a carrier has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wear {
    /// Exchanges begun in it.
    pub started: u64,
    /// Exchanges that run in it.
    pub running: usize,
    /// Since when the site has answered nothing through it.
    pub quiet: Duration,
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
    /// The browser is gone, or could not be started.
    BrowserLost(String),
    /// The link to the browser is gone; the browser may be well.
    LinkLost(String),
    /// The link was made anew, or could not be.
    Relinked(Result<(), String>),
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
    CarrierBeat(u64, Wear),
    /// So many bytes are used by this carrier's page.
    CarrierWeighed(u64, u64),
    /// An exchange through this carrier was answered by a wall instead of the site.
    Walled(u64, Wall),
    /// An answer through this carrier makes one doubt that the page is still signed in.
    Doubted(u64),
    /// The site's tab answered a beat, and its page uses so many bytes.
    SiteBeat(u64),
    /// The browser's main process answered a beat, after so long.
    BrowserBeat(Duration),
    /// Whether the browser's main process has worked, or wanted to, since the last look.
    BrowserPulse(bool),
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
    /// The same, where nothing has worked so far: if it starts on an empty profile, the profile is damaged,
    /// and is set aside.
    LaunchAnew,
    /// Connect to the same browser again.
    Relink,
    /// Kill the browser, if there is one.
    Kill,
    /// Ask the browser to write its profile and go.
    Close,
    /// Open the site's page in its tab.
    OpenSite,
    /// Open the site's page in a new tab, and close the old one.
    RenewSite,
    /// Open a carrier of this generation on this origin.
    OpenCarrier(u64, String),
    /// Close a carrier.
    CloseCarrier(u64),
    /// Fetch the site's page through this carrier and judge it.
    Probe(u64),
    /// Send a beat to this carrier.
    BeatCarrier(u64),
    /// Ask for the memory that this carrier's page uses.
    WeighCarrier(u64),
    /// Send a beat to the site's tab.
    BeatSite,
    /// Send a beat to the browser's main process.
    BeatBrowser,
    /// Look whether the browser's main process works.
    FeelPulse,
}
