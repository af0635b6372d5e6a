//! One or several browsers as one: what a request goes through, whichever of them performs it.
//!
//! ```text
//! request ──choose──> Seat (a place in one of them) ──fetch──> that Browser ──> answer
//!              ^                                        │
//!              └────────── Missed: it has not left ─────┘
//! ```
//!
//! Each has its supervisor, profile and sign-in; what happens to one touches the others in nothing. A single one is
//! asked without a detour: it has no places of its own, since the queue before it knows how many it takes. Which
//! conversation belongs to which browser is the caller's business.

mod choice;
mod merged;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::{Notify, watch};
use tracing::Instrument;

use super::{Browser, BrowserSpec, NotDone, Repair, Status};
use crate::error::{Fault, FaultKind};
use crate::exchange::{Exchange, Head, PageRequest};
use crate::telemetry::figures::BrowserFigure;
use choice::{Choice, Standing};
pub use choice::{Missed, Wish};

/// One of them.
struct Member {
    browser: Browser,
    /// Places that are taken.
    running: AtomicUsize,
    /// The number of the request that it got last.
    last: AtomicU64,
}

struct Shared {
    members: Vec<Member>,
    /// What each may have at most.
    most: usize,
    requests: AtomicU64,
    /// Told when a place becomes free.
    freed: Notify,
}

/// Handles to the browsers; clones are handles to the same ones. They run until [`Browsers::stop`], or until the
/// last handle is dropped.
#[derive(Clone)]
pub struct Browsers {
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
}

impl Browsers {
    /// Starts a supervisor for each of `specs`, which are not none. Where there are several, each performs `most`
    /// requests at once, or as many as its site lets through.
    ///
    /// # Errors
    /// Only if no loopback port can be had, or there is no spec.
    pub async fn start(specs: Vec<BrowserSpec>, most: usize) -> io::Result<Browsers> {
        let several = specs.len() > 1;
        let mut members = Vec::with_capacity(specs.len());
        for (n, spec) in (1..).zip(specs) {
            // Whatever is logged of it says which one it is. Of the highest level, so that no filter that lets a
            // line through leaves that out.
            let span =
                if several { tracing::error_span!("supervisor", browser = n) } else { tracing::Span::none() };
            let browser = Browser::start(spec).instrument(span).await?;
            members.push(Member { browser, running: AtomicUsize::new(0), last: AtomicU64::new(0) });
        }
        let status = match &members[..] {
            [] => return Err(io::Error::other("there is no browser")),
            [one] => one.browser.watch(),
            all => merged::follow(all.iter().map(|it| it.browser.watch()).collect()),
        };
        let shared = Shared { members, most, requests: AtomicU64::new(0), freed: Notify::new() };
        Ok(Browsers { shared: Arc::new(shared), status })
    }

    /// How many there are: at least one.
    pub fn count(&self) -> usize {
        self.shared.members.len()
    }

    /// One of them, counted from 0.
    pub fn get(&self, number: usize) -> Option<&Browser> {
        self.shared.members.get(number).map(|it| &it.browser)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Browser> {
        self.shared.members.iter().map(|it| &it.browser)
    }

    /// How they are now, seen as one: ready if any is. What adds up is added up.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows how they are.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// How many requests they take at once, as it is now; more would wait inside a browser, where nobody sees them.
    pub fn room(&self) -> usize {
        match &self.shared.members[..] {
            [one] => one.browser.status.borrow().lanes.unwrap_or(usize::MAX),
            _ => choice::room(&self.shared.standings()),
        }
    }

    /// The process groups of those that run.
    pub fn groups(&self) -> Vec<i32> {
        self.iter().filter_map(|it| it.status.borrow().pid).collect()
    }

    /// How each of them is, for the metrics.
    pub fn figures(&self) -> Vec<BrowserFigure> {
        let figure = |(n, it): (usize, &Member)| {
            let status = it.browser.status.borrow();
            BrowserFigure {
                number: n,
                phase: status.phase.name(),
                up: status.is_ready(),
                running: it.running.load(Ordering::Relaxed),
                starts: status.browsers,
            }
        };
        (1..).zip(&self.shared.members).map(figure).collect()
    }

    /// Finds the browser for a request, and keeps a place in it. Waits for one until `deadline`.
    ///
    /// # Errors
    /// When there is no use in waiting, or none is there in time. The request has not left.
    pub async fn choose(&self, wish: &Wish, deadline: Instant) -> Result<Seat, Fault> {
        if let [one] = &self.shared.members[..] {
            return Ok(Seat { number: 0, browser: one.browser.clone(), place: None, avoid: None });
        }
        if let Ok(seat) = self.shared.try_choose(wish) {
            return Ok(seat);
        }
        let mut status = self.status.clone();
        loop {
            status.borrow_and_update();
            let mut freed = pin!(self.shared.freed.notified());
            freed.as_mut().enable(); // before we look: what becomes free after that is not missed
            let why = match self.shared.try_choose(wish) {
                Ok(seat) => return Ok(seat),
                Err(why) => why,
            };
            if why == Choice::NotReady
                && let Some(fault) = self.shared.hopeless(wish, deadline)
            {
                return Err(fault);
            }
            let changed = async {
                tokio::select! { changed = status.changed() => changed.is_ok(), () = freed => true }
            };
            match tokio::time::timeout_at(deadline.into(), changed).await {
                Ok(true) => {}
                Ok(false) => return Err(Fault::new(FaultKind::Draining, "The proxy is stopping.")),
                Err(_) if why == Choice::Full => return Err(full()),
                Err(_) => return Err(self.shared.best().not_ready(deadline)),
            }
        }
    }

    /// Starts the page, or the whole browser, of each again. Exchanges in them end with a fault.
    pub fn restart(&self, what: Repair) {
        self.iter().for_each(|it| it.restart(what));
    }

    /// No new requests from now on; those under way go on.
    pub fn drain(&self) {
        self.iter().for_each(Browser::drain);
    }

    /// Closes all of them at once, so that they write their profiles, and waits until they are gone.
    pub async fn stop(&self) {
        join_all(self.iter().map(Browser::stop)).await;
    }

    /// Pictures captured so far, for all who looked.
    pub fn captured(&self) -> u64 {
        self.iter().map(Browser::captured).sum()
    }
}

fn full() -> Fault {
    Fault::new(
        FaultKind::QueueTimeout,
        "The proxy is busy: no browser had a place in time; try again in a few seconds.",
    )
    .retry_after(Duration::from_secs(5))
}

impl Shared {
    fn standings(&self) -> Vec<Standing> {
        self.members.iter().map(|it| it.standing(self.most)).collect()
    }

    /// A place in the best of them now; why there is none.
    fn try_choose(self: &Arc<Shared>, wish: &Wish) -> Result<Seat, Choice> {
        loop {
            let standings = self.standings();
            let number = match choice::choose(&standings, wish) {
                Choice::Take(number) => number,
                why => return Err(why),
            };
            let (member, seen) = (&self.members[number], standings[number].running);
            // Somebody may have been faster: then it is looked at again. Or a crowd that comes at once would all choose
            // the same one.
            let taken = member.running.compare_exchange(seen, seen + 1, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
                member.last.store(count, Ordering::Relaxed);
                let place = Some(Place { shared: self.clone(), number });
                let avoid = wish.missed.filter(|it| it.browser == number).and_then(|it| it.carrier);
                return Ok(Seat { number, browser: member.browser.clone(), place, avoid });
            }
        }
    }

    fn statuses(&self) -> Vec<Status> {
        self.members.iter().map(|it| it.browser.status()).collect()
    }

    fn best(&self) -> Status {
        merged::best(&self.statuses()).clone()
    }

    /// The fault of a request for which there is no use in waiting for any of those that may have it.
    fn hopeless(&self, wish: &Wish, deadline: Instant) -> Option<Fault> {
        let standings = self.standings();
        let open = self.statuses().into_iter().enumerate();
        let open: Vec<_> =
            open.filter(|(n, _)| choice::may_have(&standings, wish, *n)).map(|it| it.1).collect();
        let all_hopeless = open.iter().all(|it| it.hopeless(deadline).is_some());
        all_hopeless.then(|| merged::best(&open).hopeless(deadline)).flatten()
    }
}

impl Member {
    fn standing(&self, most: usize) -> Standing {
        let status = self.browser.status.borrow();
        Standing {
            ready: status.carrier(None).is_some(),
            running: self.running.load(Ordering::Relaxed),
            limit: status.lanes.unwrap_or(most).clamp(1, most.max(1)),
            last: self.last.load(Ordering::Relaxed),
            signed_in: status.signed_in == Some(true),
        }
    }
}

/// A taken place in one of several browsers, given back on drop.
struct Place {
    shared: Arc<Shared>,
    number: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.members[self.number].running.fetch_sub(1, Ordering::Relaxed);
        self.shared.freed.notify_waiters();
    }
}

/// The browser that was chosen for a request, and the request's place in it.
pub struct Seat {
    number: usize,
    browser: Browser,
    /// `None` where there is only one browser.
    place: Option<Place>,
    /// The carrier in it that did not take the request the last time.
    avoid: Option<u64>,
}

/// Why a seat has not brought an answer.
#[derive(Debug)]
pub enum Miss {
    /// For good.
    Fault(Fault),
    /// The request has provably not left: another browser may have it, if [`Wish::missed`] says this.
    Unsent(Missed),
}

impl Seat {
    /// Which browser it is, counted from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The origin that its requests go to.
    pub fn origin(&self) -> Option<String> {
        self.browser.status.borrow().origin.clone()
    }

    /// Performs `request`, as [`Browser::fetch`] does; the place is kept as long as the answer goes on.
    ///
    /// # Errors
    /// As there; only where there are several browsers, and the request has not left, it is [`Miss::Unsent`].
    pub async fn fetch(mut self, request: &PageRequest, deadline: Instant) -> Result<(Head, Exchange), Miss> {
        let (head, exchange) = self.ask(request, deadline).await?;
        if let Some(place) = self.place.take() {
            exchange.hold(place);
        }
        Ok((head, exchange))
    }

    /// The same for something short that has to be asked before, in the same browser; the seat stays.
    ///
    /// # Errors
    /// As there.
    pub async fn ask(&self, request: &PageRequest, deadline: Instant) -> Result<(Head, Exchange), Miss> {
        if self.place.is_none() {
            return self.browser.fetch(request, deadline).await.map_err(Miss::Fault);
        }
        let carrier = self.browser.status.borrow().carrier(self.avoid).cloned();
        let Some(carrier) = carrier else { return Err(self.missed(None)) };
        let done = self.browser.attempt(request, &carrier, deadline).await;
        done.map_err(|why| match why {
            NotDone::Fault(fault) => Miss::Fault(fault),
            NotDone::NotTaken => self.missed(Some(carrier.generation())),
            NotDone::Lost => self.missed(None),
        })
    }

    fn missed(&self, carrier: Option<u64>) -> Miss {
        Miss::Unsent(Missed { browser: self.number, carrier })
    }
}
