//! The one task that owns the browser: performs the machine's actions, reports what comes of them as
//! events, and publishes the [`Status`]. It decides nothing; decisions are in `state`.
//!
//! Whatever takes time runs in a task of its own and reports back. Each report carries the number of the
//! browser that it is about, and one about an earlier browser is dropped, with whatever it holds.
//!
//! | file | what for |
//! |---|---|
//! | `acts` | performs what the machine wants |
//! | `reports` | tells the machine what came of it, and what happened unasked |

mod acts;
mod reports;

use std::collections::HashMap;
use std::io;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::MissedTickBehavior;
use tracing::Instrument;

use super::carrier::Carrier;
use super::channel::{Channel, Loopback, OverLink};
use super::child::Child;
use super::keeper::{Keeper, SAVE};
use super::link::{Link, Tab};
use super::session::Keeps;
use super::state::{Event, Phase, State};
use super::timeline::Timeline;
use super::view::Stage;
use super::{BrowserSpec, Command, Source, Status, attach};
use reports::Report;

struct Supervisor {
    spec: BrowserSpec,
    channel: Arc<Channel>,
    state: State,
    status: watch::Sender<Status>,
    timeline: Arc<Timeline>,
    /// The tabs that an operator may look at.
    stage: watch::Sender<Stage>,
    reports: mpsc::UnboundedSender<(u64, Report)>,
    /// The number of the current browser.
    incarnation: u64,
    /// A start under way.
    launching: Option<AbortHandle>,
    /// The number of the last one that served requests.
    served: u64,
    child: Option<Child>,
    /// The end of the browser before, which holds the profile until it is over.
    dying: Option<JoinHandle<()>>,
    link: Option<Link>,
    /// Links made so far: what an older one says no longer counts.
    links: u64,
    site: Option<Tab>,
    session: Keeper,
    /// Processor time that the browser had used when it was last looked at.
    pulse: Option<u64>,
    /// Path of the page that the site's tab landed on.
    landing: String,
    carriers: HashMap<u64, (Carrier, Tab)>,
    version: Option<String>,
    pages: u64,
}

/// Starts the supervisor. It ends, and closes the status, when it has been told to stop or when all handles
/// are gone.
pub(super) async fn start(
    spec: BrowserSpec,
    commands: mpsc::UnboundedReceiver<Command>,
    timeline: Arc<Timeline>,
    stage: watch::Sender<Stage>,
) -> io::Result<watch::Receiver<Status>> {
    let channel = Arc::new(match &spec.source {
        Source::Launch(_) => Channel::Loopback(Loopback::bind(spec.buffers.clone()).await?),
        Source::Attach(_) => Channel::Link(OverLink::new(spec.buffers.clone())),
    });
    let (state, todo) = State::new(spec.timing.clone(), spec.upkeep.clone(), seed(), Instant::now());
    let (reports, inbox) = mpsc::unbounded_channel();
    let (status, receiver) = watch::channel(Status {
        phase: state.phase().clone(),
        reason: state.reason().to_owned(),
        since: state.since(),
        origin: None,
        carriers: Vec::new(),
        version: None,
        pid: None,
        browsers: 0,
        pages: 0,
        failed_starts: 0,
        links: 0,
        buffered: 0,
        lanes: None,
        signed_in: None,
    });
    timeline.enter(state.phase().name(), state.reason(), Duration::ZERO);
    let mut supervisor = Supervisor {
        landing: spec.url.path().to_owned(),
        session: Keeper::of(spec.source.profile()),
        spec,
        channel,
        state,
        status,
        timeline,
        stage,
        reports,
        incarnation: 0,
        launching: None,
        served: 0,
        child: None,
        dying: None,
        link: None,
        links: 0,
        site: None,
        pulse: None,
        carriers: HashMap::new(),
        version: None,
        pages: 0,
    };
    for action in todo {
        supervisor.perform(action);
    }
    // What is logged on the way says which browser it is about, where there are several.
    tokio::spawn(supervisor.run(commands, inbox).in_current_span());
    Ok(receiver)
}

/// Something different in each instance, to spread their retries.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the retries are merely in step.
    let _ = getrandom::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

impl Supervisor {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut inbox: mpsc::UnboundedReceiver<(u64, Report)>,
    ) {
        let mut save = tokio::time::interval(SAVE);
        save.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while *self.state.phase() != Phase::Stopped {
            self.publish();
            let wake = tokio::time::Instant::from_std(self.state.wake_at());
            tokio::select! {
                Some((incarnation, report)) = inbox.recv() => {
                    if incarnation == self.incarnation {
                        self.on_report(report);
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Restart(what)) => self.apply(Event::Restart(what)),
                    Some(Command::Doubted(generation)) => self.apply(Event::Doubted(generation)),
                    Some(Command::Walled(generation, wall, known)) => {
                        self.apply(Event::Walled(generation, wall));
                        self.publish();
                        let _ = known.send(());
                    }
                    Some(Command::Drain) => self.apply(Event::Drain),
                    Some(Command::Stop) | None => {
                        self.apply(Event::Drain);
                        self.apply(Event::Drained);
                    }
                },
                () = tokio::time::sleep_until(wake) => self.apply(Event::Tick),
                _ = save.tick() => self.save(),
            }
        }
        // Nobody waits for what is not heard any more.
        drop(commands);
        self.carriers.clear();
        self.publish();
        self.close().await;
        if let Some(dying) = self.dying.take() {
            let _ = dying.await;
        }
    }

    /// Ends the browser in peace: what it knows is saved, and it has the time to write its profile down.
    async fn close(&mut self) {
        if let Some(launching) = self.launching.take() {
            launching.abort();
        }
        let (child, link) = (self.child.take(), self.link.take());
        let mut saved = None;
        if let Some(link) = link {
            saved = self.session.last(&link, self.site(), self.keeps()).await;
            match child {
                Some(_) => drop(link.close_browser().await),
                None => attach::leave(&link).await,
            }
        }
        let Some(child) = child else { return };
        let peacefully = child.farewell().await;
        if let (Some(session), true) = (saved, peacefully)
            && let Err(error) = self.session.close(&session)
        {
            tracing::warn!(%error, "the session could not be saved");
        }
    }

    /// Whether the browser is somebody else's.
    fn is_guest(&self) -> bool {
        matches!(self.spec.source, Source::Attach(_))
    }

    /// What of the browser's cookies is our business.
    fn keeps(&self) -> Keeps {
        if !self.is_guest() {
            return Keeps::All;
        }
        let origin = self.state.origin().and_then(|it| url::Url::parse(it).ok());
        let sites = [Some(&self.spec.url), origin.as_ref()].into_iter().flatten();
        Keeps::Of(sites.filter_map(|it| Some(it.host_str()?.to_owned())).collect())
    }

    /// Saves the session, if it has changed.
    fn save(&mut self) {
        let Some(link) = self.link.clone() else { return };
        let site = self.site();
        if let Some(saving) = self.session.save(link, site, self.keeps(), self.child.as_ref()) {
            self.spawn(async move { Report::Saved(saving.await) });
        }
    }

    /// The site's tab, and the origin that it is of.
    fn site(&self) -> Option<(Tab, String)> {
        self.site.clone().zip(self.state.origin().map(str::to_owned))
    }

    fn apply(&mut self, event: Event) {
        let (before, since) = (self.state.phase().clone(), self.state.since());
        let now = Instant::now();
        let (state, todo) = self.state.clone().on(event, now);
        self.state = state;
        let after = self.state.phase();
        // The first failure is tried again at once, which leaves the phase as it is.
        if discriminant(&before) != discriminant(after) || self.state.since() != since {
            let (from, to) = (before.name(), after.name());
            let after_seconds = now.duration_since(since).as_secs_f32();
            let reason = self.state.reason();
            self.timeline.enter(to, reason, now.duration_since(since));
            match after {
                Phase::Ready | Phase::Warming { .. } | Phase::Starting | Phase::Draining | Phase::Stopped => {
                    tracing::info!("{from} -> {to} after {after_seconds:.2} s: {reason}");
                }
                _ => tracing::warn!("{from} -> {to} after {after_seconds:.2} s: {reason}"),
            }
        }
        for action in todo {
            self.perform(action);
        }
    }

    fn publish(&mut self) {
        let carriers: Vec<_> = self
            .state
            .usable(Instant::now())
            .filter_map(|generation| Some(self.carriers.get(&generation)?.0.clone()))
            .collect();
        if !carriers.is_empty() {
            self.served = self.incarnation;
        }
        let stage = match &self.link {
            None => Stage::default(),
            Some(_) => Stage {
                site: self.site.clone(),
                carrier: self.carriers.iter().max_by_key(|(it, _)| **it).map(|(_, (_, tab))| tab.clone()),
            },
        };
        self.stage.send_if_modified(|it| {
            let is_new = !it.is(&stage);
            if is_new {
                *it = stage;
            }
            is_new
        });
        self.status.send_replace(Status {
            phase: self.state.phase().clone(),
            reason: self.state.reason().to_owned(),
            since: self.state.since(),
            origin: self.state.origin().map(str::to_owned),
            carriers,
            version: self.version.clone(),
            pid: self.child.as_ref().map(Child::pid),
            browsers: self.incarnation,
            pages: self.pages,
            links: self.links,
            failed_starts: self.incarnation.saturating_sub(self.served + 1),
            buffered: self.channel.buffered(),
            lanes: self.carriers.values().filter_map(|(carrier, _)| carrier.lanes()).min(),
            signed_in: self.session.is_signed_in(),
        });
    }
}
