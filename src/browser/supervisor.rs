//! The one task that owns the browser: performs the machine's [`Action`]s, reports what comes of them as
//! [`Event`]s, and publishes [`Status`]. It decides nothing; decisions are in [`super::state`].
//!
//! Whatever takes time runs in a task of its own and reports back. Each report carries the number of the
//! browser that it is about, and one about an earlier browser is dropped, with whatever it holds.

use std::collections::HashMap;
use std::future::Future;
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
use super::errands::{self, Relinked, Running};
use super::keeper::{Keeper, SAVE, Saved};
use super::link::{Link, LinkEvent, Tab};
use super::session::Keeps;
use super::state::{Action, Event, Phase, State};
use super::timeline::Timeline;
use super::view::Stage;
use super::{BrowserSpec, Command, Source, Status, attach};
use crate::site::challenge::{self, Verdict};

/// What a task has to say.
enum Report {
    Launched(Box<Result<Running, String>>),
    Exited(String),
    /// Over the link of this number.
    Link(u64, LinkEvent),
    Relinked(Box<Result<Relinked, String>>),
    /// The site is to be opened in this tab from now on.
    SiteTab(Tab),
    SiteFailed(String),
    SiteBeat(u64),
    CarrierOpened(u64, Result<(Carrier, Tab), String>),
    CarrierClosed(u64),
    Probed(u64, Verdict),
    CarrierBeat(u64),
    CarrierWeighed(u64, u64),
    BrowserBeat(Duration),
    Saved(Saved),
}

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
                    Some(Command::Walled(generation, wall)) => self.apply(Event::Walled(generation, wall)),
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

    /// Runs `work` beside us; its report comes in as one about the present browser.
    fn spawn(&self, work: impl Future<Output = Report> + Send + 'static) {
        self.beat(async { Some(work.await) });
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Launch => self.launch(false),
            Action::LaunchAnew => self.launch(true),
            Action::Relink => self.relink(),
            Action::Kill => self.kill(),
            // Done at the end of `run`, which the machine's last phase brings about.
            Action::Close => {}
            Action::OpenSite => self.open_site(self.site.clone()),
            Action::RenewSite => self.renew_site(),
            Action::OpenCarrier(generation, origin) => self.open_carrier(generation, origin),
            Action::CloseCarrier(generation) => self.close_carrier(generation),
            Action::Probe(generation) => {
                if let Some((carrier, _)) = self.carriers.get(&generation) {
                    let (carrier, path) = (carrier.clone(), self.landing.clone());
                    self.spawn(
                        async move { Report::Probed(generation, errands::probe(&carrier, path).await) },
                    );
                }
            }
            Action::BeatCarrier(generation) => {
                if let Some((carrier, _)) = self.carriers.get(&generation) {
                    let (carrier, patience) = (carrier.clone(), self.spec.timing.carrier_silence);
                    self.beat(async move {
                        let answered = tokio::time::timeout(patience, carrier.sign_of_life()).await;
                        (answered == Ok(true)).then_some(Report::CarrierBeat(generation))
                    });
                }
            }
            Action::WeighCarrier(generation) => {
                if let Some((_, tab)) = self.carriers.get(&generation) {
                    let tab = tab.clone();
                    self.beat(
                        async move { Some(Report::CarrierWeighed(generation, tab.memory().await.ok()?)) },
                    );
                }
            }
            Action::BeatSite => {
                if let Some(tab) = self.site.clone() {
                    self.beat(async move { Some(Report::SiteBeat(tab.memory().await.ok()?)) });
                }
            }
            Action::BeatBrowser => {
                if let Some(link) = self.link.clone() {
                    let (asked, is_guest) = (Instant::now(), self.is_guest());
                    self.beat(async move {
                        let answered = match is_guest {
                            true => link.sign_of_life().await.is_ok(),
                            false => link.version().await.is_ok(),
                        };
                        answered.then(|| Report::BrowserBeat(asked.elapsed()))
                    });
                }
            }
            Action::FeelPulse => {
                if let Some(pulse) = self.child.as_ref().and_then(Child::pulse) {
                    let before = self.pulse.replace(pulse.used);
                    let working = pulse.wants_to_run || before.is_some_and(|it| it < pulse.used);
                    self.apply(Event::BrowserPulse(working));
                }
            }
        }
    }

    /// As [`Supervisor::spawn`], for what reports only success: silence is judged by the machine.
    fn beat(&self, work: impl Future<Output = Option<Report>> + Send + 'static) {
        let (reports, incarnation) = (self.reports.clone(), self.incarnation);
        let work = async move {
            if let Some(report) = work.await {
                let _ = reports.send((incarnation, report));
            }
        };
        tokio::spawn(work.in_current_span());
    }

    fn launch(&mut self, suspicious: bool) {
        self.incarnation += 1;
        let (source, dying) = (self.spec.source.clone(), self.dying.take());
        let site = self.spec.url.clone();
        let (reports, incarnation) = (self.reports.clone(), self.incarnation);
        let launch = async move {
            if let Some(dying) = dying {
                let _ = dying.await; // the profile is free only then
            }
            let launched = match source {
                Source::Launch(spec) => errands::launch(spec, suspicious).await,
                Source::Attach(spec) => attach::attach(spec, &site).await,
            };
            let _ = reports.send((incarnation, Report::Launched(Box::new(launched))));
        };
        let start = tokio::spawn(launch.in_current_span());
        self.launching = Some(start.abort_handle());
    }

    fn kill(&mut self) {
        // Two starts must not meet on one profile: what the one under way has begun ends with it.
        if let Some(launching) = self.launching.take() {
            launching.abort();
        }
        let link = self.link.take();
        self.site = None;
        self.session.pause();
        for (_, (carrier, _)) in self.carriers.drain() {
            carrier.close();
        }
        if let Some(child) = self.child.take() {
            self.dying = Some(tokio::spawn(child.kill().in_current_span()));
        } else if let (Some(link), true) = (link, self.is_guest()) {
            self.dying = Some(tokio::spawn(async move { attach::leave(&link).await }));
        }
    }

    fn relink(&mut self) {
        if self.is_guest() {
            // With the link all streams are gone, and whether the same browser answers again nobody knows.
            return self.apply(Event::BrowserLost("the browser does not answer".into()));
        }
        let Some(address) = self.child.as_ref().map(|it| it.address().to_owned()) else { return };
        tracing::warn!("the link to the browser is lost or silent: connecting to it again");
        self.link = None;
        let site = self.site.as_ref().map(|it| it.id().clone());
        let carriers =
            self.carriers.iter().map(|(generation, (_, tab))| (*generation, tab.id().clone())).collect();
        self.spawn(async move { Report::Relinked(Box::new(errands::relink(address, site, carriers).await)) });
    }

    fn relinked(&mut self, joined: Relinked) {
        let Relinked { link, events, site, mut carriers } = joined;
        tracing::info!(carriers = carriers.len(), "connected to the browser again");
        self.adopt(link, events);
        let lost_site = self.site.is_some() && site.is_none();
        self.site = site;
        self.session.storage_changed();
        let mut missing = Vec::new();
        for (generation, (_, tab)) in &mut self.carriers {
            match carriers.iter().position(|(it, _)| it == generation) {
                Some(at) => *tab = carriers.swap_remove(at).1,
                None => missing.push(*generation),
            }
        }
        self.apply(Event::Relinked(Ok(())));
        missing.into_iter().for_each(|it| self.lose_carrier(it, "its page does not answer"));
        if lost_site {
            self.apply(Event::SiteLost("the site's tab is gone".into()));
        }
    }

    fn open_site(&mut self, tab: Option<Tab>) {
        let Some(link) = self.link.clone() else { return };
        let (url, reports, incarnation) = (self.spec.url.clone(), self.reports.clone(), self.incarnation);
        self.beat(async move {
            let open = async {
                let tab = match tab {
                    Some(tab) => tab,
                    None => {
                        let tab = link.new_tab().await?;
                        // Before it lands anywhere, so that its landing is known as the site's.
                        let _ = reports.send((incarnation, Report::SiteTab(tab.clone())));
                        tab
                    }
                };
                tab.navigate(url.as_str()).await
            };
            open.await.err().map(|error| Report::SiteFailed(errands::plain(&error, &url)))
        });
    }

    /// A fresh tab takes the place of one that stands still or uses too much memory.
    fn renew_site(&mut self) {
        tracing::warn!("the site's tab does not answer or uses too much memory: a fresh one takes its place");
        if let Some(old) = self.site.take() {
            tokio::spawn(async move { old.close().await });
        }
        self.kill_stopped();
        self.open_site(None);
    }

    fn open_carrier(&mut self, generation: u64, origin: String) {
        let Some(link) = self.link.clone() else { return };
        self.pages += 1;
        let (channel, patience) = (self.channel.clone(), self.spec.timing.open);
        self.spawn(async move {
            let opened = errands::open_carrier(&link, &channel, &origin, generation, patience).await;
            Report::CarrierOpened(generation, opened)
        });
    }

    fn close_carrier(&mut self, generation: u64) {
        if let Some((carrier, tab)) = self.carriers.remove(&generation) {
            carrier.close();
            tokio::spawn(async move { tab.close().await });
            self.kill_stopped();
        }
    }

    fn kill_stopped(&self) {
        if let Some(child) = &self.child {
            child.kill_stopped();
        }
    }

    fn lose_carrier(&mut self, generation: u64, cause: &str) {
        self.close_carrier(generation);
        self.apply(Event::CarrierLost(generation, cause.to_owned()));
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Launched(launched) => match *launched {
                Ok(running) => self.launched(running),
                Err(cause) => self.apply(Event::BrowserLost(cause)),
            },
            Report::Exited(how) => {
                let words = self.child.as_ref().map(Child::last_words).unwrap_or_default();
                self.apply(Event::BrowserLost(
                    format!("the browser ended ({how}) {words}").trim_end().to_owned(),
                ));
            }
            Report::Link(link, event) if link == self.links && self.link.is_some() => self.on_link(event),
            Report::Link(..) => {}
            Report::Relinked(joined) => match *joined {
                Ok(joined) => self.relinked(joined),
                Err(cause) => {
                    tracing::warn!(cause, "the browser cannot be connected to again");
                    self.apply(Event::Relinked(Err(cause)));
                }
            },
            Report::SiteTab(tab) => self.site = Some(tab),
            Report::SiteFailed(cause) => self.apply(Event::SiteFailed(cause)),
            Report::SiteBeat(bytes) => self.apply(Event::SiteBeat(bytes)),
            Report::CarrierOpened(generation, Ok((carrier, tab))) => {
                let opened = carrier.clone();
                self.carriers.insert(generation, (carrier, tab));
                self.spawn(async move {
                    opened.closed().await;
                    Report::CarrierClosed(generation)
                });
                self.apply(Event::CarrierUp(generation));
            }
            Report::CarrierOpened(generation, Err(cause)) => {
                tracing::warn!(generation, %cause, "a carrier could not be opened");
                self.apply(Event::CarrierLost(generation, cause));
            }
            Report::CarrierClosed(generation) => {
                self.save(); // where all of them close, the network service may have gone
                self.lose_carrier(generation, "its channel was closed");
            }
            Report::Probed(generation, verdict) => self.apply(Event::Probed(generation, verdict)),
            Report::CarrierBeat(generation) => {
                if let Some(wear) = self.carriers.get(&generation).map(|(it, _)| it.wear()) {
                    self.apply(Event::CarrierBeat(generation, wear));
                }
            }
            Report::CarrierWeighed(generation, bytes) => {
                self.apply(Event::CarrierWeighed(generation, bytes));
            }
            Report::BrowserBeat(delay) => self.apply(Event::BrowserBeat(delay)),
            Report::Saved(saved) => self.session.saved(saved),
        }
    }

    fn launched(&mut self, running: Running) {
        let Running { child, link, events, site, version, session, signed_in } = running;
        self.adopt(link, events);
        if let Some(exited) = child.as_ref().map(Child::exited) {
            self.spawn(async move { Report::Exited(exited.await) });
        }
        if self.version.as_ref() != Some(&version) {
            tracing::info!(pid = child.as_ref().map(Child::pid), "browser: {version}");
        }
        self.launching = None;
        self.session.begin(session, signed_in, child.as_ref().and_then(Child::network_service));
        self.child = child;
        self.site = Some(site);
        self.pulse = None;
        self.version = Some(version);
        self.apply(Event::BrowserUp);
    }

    /// From now on this is the link, and what it says counts.
    fn adopt(&mut self, link: Link, mut events: mpsc::UnboundedReceiver<LinkEvent>) {
        self.links += 1;
        self.link = Some(link);
        let (reports, incarnation, number) = (self.reports.clone(), self.incarnation, self.links);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let _ = reports.send((incarnation, Report::Link(number, event)));
            }
        });
    }

    fn on_link(&mut self, event: LinkEvent) {
        let is_site = |tab| self.site.as_ref().is_some_and(|site| site.id() == tab);
        match event {
            LinkEvent::Navigated(tab, url) if is_site(&tab) => self.landed(&url),
            LinkEvent::TabCrashed(tab) if is_site(&tab) => {
                self.apply(Event::SiteLost("the site's page crashed".into()));
            }
            LinkEvent::TabGone(tab) if is_site(&tab) => {
                self.site = None;
                self.apply(Event::SiteLost("the site's tab was closed".into()));
            }
            LinkEvent::Navigated(tab, _) | LinkEvent::TabCrashed(tab) | LinkEvent::TabGone(tab) => {
                let lost = self.carriers.iter().find(|(_, (_, it))| *it.id() == tab).map(|(it, _)| *it);
                if let Some(generation) = lost {
                    self.lose_carrier(generation, "its page crashed or was closed");
                }
            }
            LinkEvent::RedirectStopped { tab, from, to } => {
                if let Some((carrier, _)) = self.carriers.values().find(|(_, it)| *it.id() == tab) {
                    carrier.redirect_stopped(from, to);
                }
            }
            LinkEvent::StorageChanged(tab) if is_site(&tab) => self.session.storage_changed(),
            LinkEvent::StorageChanged(_) => {}
            LinkEvent::Lost(cause) => {
                self.link = None;
                self.apply(match self.is_guest() {
                    true => Event::BrowserLost(format!("the connection to the browser was lost: {cause}")),
                    false => Event::LinkLost(cause),
                });
            }
        }
    }

    fn landed(&mut self, url: &str) {
        let Ok(url) = url::Url::parse(url) else { return };
        let (Some(host), "http" | "https") = (url.host_str(), url.scheme()) else { return };
        let asked = self.spec.url.host_str().unwrap_or_default();
        let landing = challenge::judge_landing(asked, host, url.path());
        if landing == challenge::Landing::Site {
            url.path().clone_into(&mut self.landing);
        }
        let origin = url.origin().ascii_serialization();
        tracing::debug!(%origin, ?landing, "the site's tab landed");
        self.save(); // it may come from a sign-in
        self.apply(Event::SiteLanded(origin, landing));
    }
}
