//! The browser, as the rest of the program sees it: a [`Browser`] that performs requests and says how it is, and
//! [`Browsers`], one or several of them as one.
//!
//! ```text
//! Browser ──fetch──> Carrier (channel) ══ WebSocket ══ carrier.js ──fetch──> the site
//!    │ status (watch)
//! supervisor ──on──> State (pure) ──Action──> launch (the process), link (CDP), channel
//! ```
//!
//! A browser may also run elsewhere, and be somebody else's ([`Source::Attach`]): then there is no process to
//! watch, the channel goes over the link, and of its tabs only those that we opened are ours.

pub mod attach;
pub mod carrier;
pub mod channel;
pub mod child;
mod claims;
mod errands;
mod faults;
pub mod frame;
pub mod gateway;
mod group;
mod keeper;
pub mod launch;
pub mod link;
mod outbox;
pub mod profile;
mod session;
pub mod shm;
mod signs;
pub mod state;
mod supervisor;
pub mod timeline;
pub mod view;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Fault, FaultKind, Sent};
use crate::exchange::{Exchange, Head, PageRequest};
use crate::site::challenge::{self, Wall};
use attach::AttachSpec;
use carrier::Carrier;
use channel::BufferLimits;
pub use group::{Browsers, Miss, Missed, Seat, Wish};
use launch::LaunchSpec;
pub use link::Input;
pub use session::is_signed_in;
pub use state::{Phase, Repair, Timing, Upkeep};
use timeline::Timeline;
use view::{Stage, View, Views, Which};

/// Where a browser comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// We start it, and it is ours alone.
    Launch(LaunchSpec),
    /// Somebody else has started it: we open tabs of our own there and leave everything else alone.
    Attach(AttachSpec),
}

impl Source {
    /// The profile directory. Of a browser elsewhere only what lies beside it is ours: the saved session.
    pub fn profile(&self) -> &Path {
        match self {
            Source::Launch(spec) => &spec.profile,
            Source::Attach(spec) => &spec.profile,
        }
    }
}

/// What a browser needs to run.
#[derive(Clone, Debug)]
pub struct BrowserSpec {
    /// Where it comes from.
    pub source: Source,
    /// The page to keep open.
    pub url: url::Url,
    /// The times that its life goes by.
    pub timing: Timing,
    /// How many carriers it keeps, and for how long.
    pub upkeep: Upkeep,
    /// What may be held for slow readers.
    pub buffers: BufferLimits,
}

/// How the browser is, as published by its supervisor.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// Why, in words for the operator.
    pub reason: String,
    /// Since when.
    pub since: Instant,
    /// The origin that requests go to.
    pub origin: Option<String>,
    /// The carriers that may get new work; empty unless ready.
    pub carriers: Vec<Carrier>,
    /// The browser's name and version, once one was up.
    pub version: Option<String>,
    /// The browser's main process, while there is one.
    pub pid: Option<i32>,
    /// Browsers started so far.
    pub browsers: u64,
    /// Carriers opened so far.
    pub pages: u64,
    /// Browsers started since one last got as far as serving requests, the present one not counted.
    pub failed_starts: u64,
    /// Links made to browsers so far.
    pub links: u64,
    /// Bytes held for slow readers.
    pub buffered: usize,
    /// How many exchanges the browser lets through to the site at once, where it is known to be few.
    pub lanes: Option<usize>,
    /// Whether the profile has somebody's sign-in, as its cookies say each second: then every fetch is that
    /// person's, and only for callers with an access key. `None` before the first browser is up.
    pub signed_in: Option<bool>,
}

/// After so many browsers that did not get as far as serving, callers are told at once instead of waiting.
const FAILED_STARTS: u64 = 3;

impl Status {
    /// Whether a request would be served now.
    pub fn is_ready(&self) -> bool {
        !self.carriers.is_empty()
    }

    /// A carrier for new work, not `avoid` if there is another.
    fn carrier(&self, avoid: Option<u64>) -> Option<&Carrier> {
        let usable = self.carriers.iter().filter(|it| !it.is_closed());
        usable.min_by_key(|it| Some(it.generation()) == avoid)
    }

    /// The fault of a request for which there is no use in waiting until `deadline`; `None` if there is.
    fn hopeless(&self, deadline: Instant) -> Option<Fault> {
        match self.phase {
            Phase::NeedsOperator(_) => Some(
                Fault::new(
                    FaultKind::NeedsOperator,
                    format!("The proxy's browser needs its operator: {}.", self.reason),
                )
                .retry_after(Duration::from_secs(60)),
            ),
            Phase::Draining | Phase::Stopped => Some(
                Fault::new(FaultKind::Draining, "The proxy is stopping; try again in a moment.")
                    .retry_after(Duration::from_secs(10)),
            ),
            Phase::Backoff { until, .. } if until > deadline || self.is_failing() => {
                Some(self.not_ready(until))
            }
            Phase::Starting | Phase::Warming { .. } if self.is_failing() => {
                Some(self.not_ready(Instant::now()))
            }
            _ => None,
        }
    }

    fn is_failing(&self) -> bool {
        self.failed_starts >= FAILED_STARTS
    }

    fn not_ready(&self, until: Instant) -> Fault {
        let wait = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(5));
        Fault::new(
            FaultKind::NotReady,
            "The proxy's browser session is being set up; try again in about ten seconds.",
        )
        .because(&self.reason)
        .retry_after(wait)
    }
}

/// How long a page may take to ask for the start of a request that was handed to it, plus so long for each
/// MiB of body. After that another page gets it.
const TAKE_OVER: Duration = Duration::from_secs(2);
const UPLOAD: Duration = Duration::from_millis(100);
/// The same on a way that may be slow: 4 Mbit/s.
const FAR_UPLOAD: Duration = Duration::from_secs(2);

/// How long the beginning of an answer that may be a wall is waited for.
const LOOK: Duration = Duration::from_secs(5);

enum Command {
    /// An exchange through this carrier was answered by a wall. Answered when the status says so.
    Walled(u64, Wall, oneshot::Sender<()>),
    /// The site refused one through this carrier for want of a sign-in.
    Doubted(u64),
    Restart(Repair),
    Drain,
    Stop,
}

/// Why a carrier has not performed a request.
enum NotDone {
    /// For good, or the site may have it.
    Fault(Fault),
    /// Its page did not take it over, and never will.
    NotTaken,
    /// Its page was lost before the request left.
    Lost,
}

impl From<Fault> for NotDone {
    fn from(fault: Fault) -> NotDone {
        NotDone::Fault(fault)
    }
}

/// A handle to the browser; clones are handles to the same one. It runs until [`Browser::stop`], or until
/// the last handle is dropped.
#[derive(Clone)]
pub struct Browser {
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<Status>,
    timeline: Arc<Timeline>,
    views: Arc<Views>,
}

impl Browser {
    /// Starts the supervisor, which starts the browser. Fails only if no loopback port can be had.
    pub async fn start(spec: BrowserSpec) -> io::Result<Browser> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (stage, tabs) = watch::channel(Stage::default());
        let timeline = Arc::<Timeline>::default();
        let status = supervisor::start(spec, receiver, timeline.clone(), stage).await?;
        Ok(Browser { commands, status, timeline, views: Arc::new(Views::new(tabs)) })
    }

    /// What happened to it.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// A look at one of its tabs. It is captured as long as somebody looks.
    pub fn view(&self, which: Which) -> View {
        self.views.view(which)
    }

    /// Pictures captured so far, for all who looked.
    pub fn captured(&self) -> u64 {
        self.views.captured()
    }

    /// How the browser is now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows how the browser is.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Performs `request` in the page and waits for the answer's head.
    ///
    /// Waits for a page until `deadline`, and again if the page is lost before the request has left it. A
    /// request that may have reached the site is never sent again: its fault says `Sent::Maybe`. An answer
    /// that is a wall is a fault too, and has the page warmed again.
    pub async fn fetch(&self, request: &PageRequest, deadline: Instant) -> Result<(Head, Exchange), Fault> {
        let mut avoid = None;
        loop {
            let carrier = self.carrier(deadline, avoid).await?;
            match self.attempt(request, &carrier, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(NotDone::Fault(fault)) => return Err(fault),
                Err(NotDone::NotTaken) => avoid = Some(carrier.generation()),
                Err(NotDone::Lost) => {}
            }
        }
    }

    /// Performs `request` in this carrier.
    async fn attempt(
        &self,
        request: &PageRequest,
        carrier: &Carrier,
        deadline: Instant,
    ) -> Result<(Head, Exchange), NotDone> {
        // Only here is it sure: the sign-in may be younger than the request.
        if !request.keyed && self.status.borrow().signed_in != Some(false) {
            return Err(Fault::key_required().into());
        }
        let mut exchange = carrier.fetch(request.clone());
        let upload = if carrier.is_far() { FAR_UPLOAD } else { UPLOAD };
        let patience = TAKE_OVER + upload * (request.body_len() >> 20) as u32;
        let head = match tokio::time::timeout(patience, exchange.head()).await {
            Ok(head) => head,
            Err(_) if exchange.withdraw() && Instant::now() >= deadline => {
                return Err(self.status().not_ready(deadline).into());
            }
            Err(_) if exchange.withdraw() => {
                tracing::info!("a page did not take a request over: trying another");
                return Err(NotDone::NotTaken);
            }
            Err(_) => exchange.head().await,
        };
        let fault = match head {
            Ok(head) => match wall_in_place_of(request, &head, &mut exchange).await {
                None => {
                    if head.status == 401 {
                        let _ = self.commands.send(Command::Doubted(carrier.generation()));
                    }
                    return Ok((head, exchange));
                }
                Some(wall) => faults::walled(wall),
            },
            Err(fault) if fault.kind() == FaultKind::PageLost && fault.sent() == Sent::No => {
                tracing::info!(cause = fault.cause(), "the page was lost before the request left: waiting");
                return Err(NotDone::Lost);
            }
            Err(fault) => fault,
        };
        let wall = match fault.kind() {
            FaultKind::Challenged => Some(Wall::Check),
            FaultKind::SignInRequired => Some(Wall::SignIn),
            _ => None,
        };
        if let Some(wall) = wall {
            // Who hears of the wall and comes again at once must not be led to it again.
            let (known, knows) = oneshot::channel();
            let _ = self.commands.send(Command::Walled(carrier.generation(), wall, known));
            let _ = knows.await;
        }
        Err(fault.into())
    }

    /// A carrier for new work, not `avoid` if there is another.
    async fn carrier(&self, deadline: Instant, avoid: Option<u64>) -> Result<Carrier, Fault> {
        let mut status = self.status.clone();
        loop {
            let now = {
                let status = status.borrow_and_update();
                if let Some(carrier) = status.carrier(avoid) {
                    return Ok(carrier.clone());
                }
                if let Some(fault) = status.hopeless(deadline) {
                    return Err(fault);
                }
                status.clone()
            };
            match tokio::time::timeout_at(deadline.into(), status.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Fault::new(FaultKind::Draining, "The proxy is stopping.")),
                Err(_) => return Err(now.not_ready(deadline)),
            }
        }
    }

    /// Starts the page, or the whole browser, again. Exchanges in it end with a fault.
    pub fn restart(&self, what: Repair) {
        let _ = self.commands.send(Command::Restart(what));
    }

    /// No new requests from now on; those under way go on.
    pub fn drain(&self) {
        let _ = self.commands.send(Command::Drain);
    }

    /// Closes the browser, so that it writes its profile, and waits until it is gone.
    pub async fn stop(&self) {
        self.drain();
        let _ = self.commands.send(Command::Stop);
        let mut status = self.status.clone();
        // The supervisor's end closes the watch.
        while status.changed().await.is_ok() {}
    }
}

/// Whether this answer is a wall. Looks at its beginning where only that can tell.
async fn wall_in_place_of(request: &PageRequest, head: &Head, exchange: &mut Exchange) -> Option<Wall> {
    let body = match challenge::needs_body(head) {
        true => exchange.peek(challenge::LOOK, Instant::now() + LOOK).await,
        false => Vec::new(),
    };
    let accept = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    let page = accept.into_iter().any(|(_, value)| value.contains("text/html"));
    challenge::judge_answer(head, &body, page)
}
