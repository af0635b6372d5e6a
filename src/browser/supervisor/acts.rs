//! What the machine wants done: each [`Action`] performed. What takes time goes on beside, and reports back.

use std::future::Future;
use std::time::Instant;

use tracing::Instrument;

use super::Supervisor;
use super::reports::Report;
use crate::browser::child::Child;
use crate::browser::link::Tab;
use crate::browser::state::{Action, Event};
use crate::browser::{Source, attach, errands};

impl Supervisor {
    pub(super) fn perform(&mut self, action: Action) {
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

    /// Runs `work` beside us; its report comes in as one about the present browser.
    pub(super) fn spawn(&self, work: impl Future<Output = Report> + Send + 'static) {
        self.beat(async { Some(work.await) });
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
            old.close();
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

    pub(super) fn close_carrier(&mut self, generation: u64) {
        if let Some((carrier, tab)) = self.carriers.remove(&generation) {
            carrier.close();
            tab.close();
            self.kill_stopped();
        }
    }

    fn kill_stopped(&self) {
        if let Some(child) = &self.child {
            child.kill_stopped();
        }
    }
}
