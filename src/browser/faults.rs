//! The faults that a carrier ends exchanges with, and why a redirect was stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frame::PageFailure;
use crate::error::{Fault, FaultKind, Sent};
use crate::pipe::Pipe;
use crate::site::challenge::{self, Wall};

/// Redirects to other origins that the browser stopped, by the address that was fetched.
///
/// The browser tells the page only that a fetch was stopped, and us, over the link, where it led: the two
/// meet here, in either order.
#[derive(Default)]
pub(super) struct Redirects {
    /// Where they led, as far as the link has told.
    known: HashMap<String, (String, Instant)>,
    /// Exchanges that the page says were stopped, and whose target is not known yet.
    waiting: HashMap<String, Vec<(Arc<Pipe>, Instant)>>,
}

/// How long one half of the story waits for the other.
const MEET: Duration = Duration::from_secs(1);

impl Redirects {
    /// The link says that the fetch of `from` was stopped on its way to the origin `to`.
    pub fn led(&mut self, from: String, to: String, now: Instant) {
        for (pipe, _) in self.waiting.remove(&from).unwrap_or_default() {
            pipe.finish(Err(redirected_away(Some(&to))));
        }
        self.known.insert(from, (to, now));
    }

    /// The page says that this exchange failed.
    pub fn fail(&mut self, pipe: Arc<Pipe>, failure: PageFailure, now: Instant) {
        if failure.what != "redirect" {
            return pipe.finish(Err(failed(failure)));
        }
        match self.known.get(&failure.message) {
            Some((to, _)) => pipe.finish(Err(redirected_away(Some(to)))),
            None => self.waiting.entry(failure.message).or_default().push((pipe, now)),
        }
    }

    /// Forgets what has met, and ends the exchanges that the link said nothing about in time.
    pub fn settle(&mut self, now: Instant) {
        let fresh = |since: Instant| now.saturating_duration_since(since) < MEET;
        self.known.retain(|_, (_, since)| fresh(*since));
        self.waiting.retain(|_, pipes| {
            pipes.retain(|(pipe, since)| {
                if !fresh(*since) {
                    pipe.finish(Err(redirected_away(None)));
                }
                fresh(*since)
            });
            !pipes.is_empty()
        });
    }

    /// Ends all that still waits: nobody will tell any more.
    pub fn give_up(&mut self) {
        for (pipe, _) in self.waiting.drain().flat_map(|(_, pipes)| pipes) {
            pipe.finish(Err(redirected_away(None)));
        }
    }
}

/// The carrier went while this was in it.
pub(super) fn lost(pipe: &Pipe, cause: &str) -> Fault {
    let fault = Fault::new(FaultKind::PageLost, "The browser page was lost while it worked on this request.")
        .because(cause)
        .retry_after(Duration::from_secs(5));
    match pipe.sent() {
        Sent::Maybe => fault.maybe_sent(),
        Sent::No => fault,
    }
}

/// The client did not take what came.
pub(super) fn slow(what: &str) -> Fault {
    Fault::new(FaultKind::SlowReader, format!("{what}, so it was ended: read faster, or ask for less."))
        .maybe_sent()
}

/// The request cannot be told to the page.
pub(super) fn internal(error: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Internal, "The proxy could not hand this request to the page.").because(error)
}

/// The site answered with a wall. It has not done what was asked, most likely; but it was asked.
pub(super) fn walled(wall: Wall) -> Fault {
    let (kind, public) = match wall {
        Wall::Check => (
            FaultKind::Challenged,
            "The site answered with its bot check; the proxy's browser is passing it now, try again in a moment.",
        ),
        Wall::SignIn => (
            FaultKind::SignInRequired,
            "The site wants the proxy's browser to sign in; if that does not renew itself, its operator must.",
        ),
    };
    Fault::new(kind, public).maybe_sent().retry_after(Duration::from_secs(10))
}

fn redirected_away(to: Option<&str>) -> Fault {
    let host = |origin: &str| url::Url::parse(origin).ok()?.host_str().map(str::to_owned);
    if to.and_then(host).is_some_and(|it| challenge::is_sign_in_host(&it)) {
        return walled(Wall::SignIn).because(format!("redirected to {}", to.unwrap_or_default()));
    }
    let public = match to {
        Some(to) => {
            format!("The site redirected this request to {to}; requests go to the site's own origin only.")
        }
        None => "The site redirected this request to another origin, where requests never go.".into(),
    };
    Fault::new(FaultKind::RedirectedAway, public).maybe_sent()
}

fn failed(failure: PageFailure) -> Fault {
    let fault = match failure.what.as_str() {
        "request" => Fault::new(FaultKind::BadRequest, "The browser refused this request before sending it."),
        "head" => Fault::new(FaultKind::FetchFailed, "The site's answer has too many header bytes."),
        _ => Fault::new(FaultKind::FetchFailed, "The browser could not complete this request to the site."),
    };
    let fault = fault.because(failure.message);
    if failure.sent { fault.maybe_sent() } else { fault }
}
