//! What comes of it: each report of a task, and each event of the link, told to the machine.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Supervisor;
use crate::browser::carrier::Carrier;
use crate::browser::child::Child;
use crate::browser::errands::{Relinked, Running};
use crate::browser::keeper::Saved;
use crate::browser::link::{Link, LinkEvent, Tab};
use crate::browser::state::Event;
use crate::site::challenge::{self, Verdict};

/// What a task has to say.
pub(super) enum Report {
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

impl Supervisor {
    pub(super) fn on_report(&mut self, report: Report) {
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

    fn lose_carrier(&mut self, generation: u64, cause: &str) {
        self.close_carrier(generation);
        self.apply(Event::CarrierLost(generation, cause.to_owned()));
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
