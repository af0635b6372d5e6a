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
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::carrier::Carrier;
use super::channel::Channel;
use super::child::Child;
use super::errands::{self, Running};
use super::link::{Link, LinkEvent, Tab};
use super::state::{Action, Event, Phase, State};
use super::{BrowserSpec, Command, Status};
use crate::site::challenge::{self, Verdict};

/// What a task has to say.
enum Report {
    Launched(Box<Result<Running, String>>),
    Exited(String),
    Link(LinkEvent),
    SiteOpened(Result<Tab, String>),
    CarrierOpened(u64, Result<(Carrier, Tab), String>),
    CarrierClosed(u64),
    Probed(u64, Verdict),
    CarrierBeat(u64),
    BrowserBeat,
}

struct Supervisor {
    spec: BrowserSpec,
    channel: Arc<Channel>,
    state: State,
    status: watch::Sender<Status>,
    reports: mpsc::UnboundedSender<(u64, Report)>,
    /// The number of the current browser.
    incarnation: u64,
    /// The number of the last one that served requests.
    served: u64,
    child: Option<Child>,
    /// The end of the browser before, which holds the profile until it is over.
    dying: Option<JoinHandle<()>>,
    link: Option<Link>,
    site: Option<Tab>,
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
) -> io::Result<watch::Receiver<Status>> {
    let channel = Arc::new(Channel::bind(spec.buffers.clone()).await?);
    let (state, todo) = State::new(spec.timing.clone(), seed(), Instant::now());
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
        buffered: 0,
    });
    let mut supervisor = Supervisor {
        landing: spec.url.path().to_owned(),
        spec,
        channel,
        state,
        status,
        reports,
        incarnation: 0,
        served: 0,
        child: None,
        dying: None,
        link: None,
        site: None,
        carriers: HashMap::new(),
        version: None,
        pages: 0,
    };
    for action in todo {
        supervisor.perform(action);
    }
    tokio::spawn(supervisor.run(commands, inbox));
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
                    Some(Command::Drain) => self.apply(Event::Drain),
                    Some(Command::Stop) | None => {
                        self.apply(Event::Drain);
                        self.apply(Event::Drained);
                    }
                },
                () = tokio::time::sleep_until(wake) => self.apply(Event::Tick),
            }
        }
        self.carriers.clear();
        self.publish();
        if let Some(link) = self.link.take() {
            let _ = link.close_browser().await;
        }
        if let Some(child) = self.child.take() {
            child.farewell().await;
        }
        if let Some(dying) = self.dying.take() {
            let _ = dying.await;
        }
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
            failed_starts: self.incarnation.saturating_sub(self.served + 1),
            buffered: self.channel.buffered(),
        });
    }

    /// Runs `work` beside us; its report comes in as one about the present browser.
    fn spawn(&self, work: impl Future<Output = Report> + Send + 'static) {
        self.beat(async { Some(work.await) });
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Launch => self.launch(),
            Action::Kill => self.kill(),
            // Done at the end of `run`, which the machine's last phase brings about.
            Action::Close => {}
            Action::OpenSite => self.open_site(),
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
                        let answered = tokio::time::timeout(patience, carrier.echo()).await;
                        (answered == Ok(true)).then_some(Report::CarrierBeat(generation))
                    });
                }
            }
            Action::BeatBrowser => {
                if let Some(link) = self.link.clone() {
                    self.beat(async move { link.version().await.is_ok().then_some(Report::BrowserBeat) });
                }
            }
        }
    }

    /// As [`Supervisor::spawn`], for what reports only success: silence is judged by the machine.
    fn beat(&self, work: impl Future<Output = Option<Report>> + Send + 'static) {
        let (reports, incarnation) = (self.reports.clone(), self.incarnation);
        tokio::spawn(async move {
            if let Some(report) = work.await {
                let _ = reports.send((incarnation, report));
            }
        });
    }

    fn launch(&mut self) {
        self.incarnation += 1;
        let (spec, dying) = (self.spec.launch.clone(), self.dying.take());
        self.spawn(async move {
            if let Some(dying) = dying {
                let _ = dying.await; // the profile is free only then
            }
            Report::Launched(Box::new(errands::launch(spec).await))
        });
    }

    fn kill(&mut self) {
        self.link = None;
        self.site = None;
        for (_, (carrier, _)) in self.carriers.drain() {
            carrier.close();
        }
        if let Some(child) = self.child.take() {
            self.dying = Some(tokio::spawn(child.kill()));
        }
    }

    fn open_site(&mut self) {
        let (Some(link), site, url) = (self.link.clone(), self.site.clone(), self.spec.url.clone()) else {
            return;
        };
        self.spawn(async move {
            let open = async {
                let tab = match site {
                    Some(tab) => tab,
                    None => link.new_tab().await?,
                };
                Ok((tab.navigate(url.as_str()).await, tab))
            };
            Report::SiteOpened(match open.await {
                Ok((Ok(()), tab)) => Ok(tab),
                Ok((Err(error), _)) | Err(error) => Err(errands::plain(&error, &url)),
            })
        });
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
            Report::Link(event) => self.on_link(event),
            Report::SiteOpened(Ok(tab)) => self.site = Some(tab),
            Report::SiteOpened(Err(cause)) => self.apply(Event::SiteFailed(cause)),
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
            Report::CarrierClosed(generation) => self.lose_carrier(generation, "its channel was closed"),
            Report::Probed(generation, verdict) => self.apply(Event::Probed(generation, verdict)),
            Report::CarrierBeat(generation) => self.apply(Event::CarrierBeat(generation)),
            Report::BrowserBeat => self.apply(Event::BrowserBeat),
        }
    }

    fn launched(&mut self, running: Running) {
        let Running { child, link, mut events, site, version } = running;
        let (reports, incarnation, exited) = (self.reports.clone(), self.incarnation, child.exited());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let _ = reports.send((incarnation, Report::Link(event)));
            }
        });
        self.spawn(async move { Report::Exited(exited.await) });
        if self.version.as_ref() != Some(&version) {
            tracing::info!(pid = child.pid(), "browser: {version}");
        }
        self.child = Some(child);
        self.link = Some(link);
        self.site = Some(site);
        self.version = Some(version);
        self.apply(Event::BrowserUp);
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
            LinkEvent::Lost(cause) => self.apply(Event::BrowserLost(cause)),
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
        self.apply(Event::SiteLanded(origin, landing));
    }
}
