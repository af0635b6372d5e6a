//! The supervisor's errands: what takes time, each a future that ends with what came of it.
//!
//! They hold nothing of the supervisor and decide nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::mpsc;
use url::Url;

use super::carrier::Carrier;
use super::channel::Channel;
use super::child::Child;
use super::launch::LaunchSpec;
use super::link::{Link, LinkError, LinkEvent, Tab, TabId};
use super::profile;
use super::session::{Session, SessionFile};
use crate::error::Fault;
use crate::exchange::{Leaves, PageRequest};
use crate::site::challenge::{self, Verdict};

/// How long the site may take to answer a fetch of its own page.
const PROBE: Duration = Duration::from_secs(10);
/// How long connecting to a running browser again may take.
const RELINK: Duration = Duration::from_secs(4);

/// A browser that is up, and our hold on it.
pub(super) struct Running {
    /// `None` for one that is not ours.
    pub child: Option<Child>,
    pub link: Link,
    pub events: mpsc::UnboundedReceiver<LinkEvent>,
    pub site: Tab,
    pub version: String,
    /// What it knows of the saved session; `None` if that could not be restored.
    pub session: Option<Arc<Session>>,
    /// Whether its profile has somebody's sign-in. Where that cannot be told, it is taken to have one.
    pub signed_in: bool,
}

/// Opens a carrier and waits until it has connected; the reason if it does not. `patience`: from when its
/// script runs.
pub(super) async fn open_carrier(
    link: &Link,
    channel: &Channel,
    origin: &str,
    generation: u64,
    patience: Duration,
) -> Result<(Carrier, Tab), String> {
    let loopback = match channel {
        Channel::Loopback(it) => it,
        Channel::Link(over) => {
            let opened = link.open_bound_carrier(origin, &over.script(), patience).await;
            let (tab, bound) = opened.map_err(|e| e.to_string())?;
            return Ok((over.carrier(bound, generation), tab));
        }
    };
    let invitation = loopback.expect(origin, generation).map_err(|e| e.to_string())?;
    link.allow_loopback(origin).await.map_err(|e| e.to_string())?;
    let opened = link.open_carrier(origin, &invitation.url(), &invitation.script()).await;
    let tab = opened.map_err(|e| e.to_string())?;
    match tokio::time::timeout(patience, invitation.accepted()).await {
        Ok(Some(carrier)) => Ok((carrier, tab)),
        Ok(None) | Err(_) => {
            tab.close();
            Err("its script did not connect".into())
        }
    }
}

/// Starts a browser, connects to it, and gives it back the session that it may have lost. With `suspicious`,
/// a profile on which it does not start, while it does on an empty one, is set aside.
pub(super) async fn launch(spec: LaunchSpec, suspicious: bool) -> Result<Running, String> {
    profile::released(&spec.profile).await;
    if suspicious {
        // Where nothing starts at all, the profile is not to blame.
        starts_afresh(&spec).await?;
    }
    let mut started = start(&spec).await;
    if let (Err(cause), true) = (&started, suspicious) {
        let aside = profile::set_aside(&spec.profile).map_err(|error| {
            let profile = spec.profile.display();
            format!(
                "the profile {profile} is damaged, and cannot be set aside ({error}): move it away by hand"
            )
        })?;
        let aside = aside.display();
        tracing::error!(cause, "the profile was damaged: it is now {aside}, and a new one is made");
        started = start(&spec).await;
    }
    let mut running = started?;
    running.session = match SessionFile::beside(&spec.profile).restore(&running.link).await {
        Ok((session, signed_in)) => {
            running.signed_in = signed_in;
            Some(session)
        }
        Err(error) => {
            // What is saved there is worth more than what this browser knows.
            tracing::error!(%error, "the saved session could not be restored: it is left as it is");
            None
        }
    };
    Ok(running)
}

async fn start(spec: &LaunchSpec) -> Result<Running, String> {
    let child = spec.launch().await.map_err(|e| e.to_string())?;
    let connect = async {
        let (link, events) = Link::connect(child.address()).await?;
        let version = link.version().await?;
        let site = link.first_tab().await?;
        Ok::<_, LinkError>((link, events, site, version))
    };
    let (link, events, site, version) = connect.await.map_err(|e| e.to_string())?;
    Ok(Running { child: Some(child), link, events, site, version, session: None, signed_in: true })
}

/// Starts a browser on an empty profile, and ends it; why it does not start, if so.
async fn starts_afresh(spec: &LaunchSpec) -> Result<(), String> {
    let empty = tempfile::tempdir().map_err(|e| e.to_string())?;
    let spec = LaunchSpec { profile: empty.path().join("profile"), ..spec.clone() };
    if let Some(child) = start(&spec).await?.child {
        child.kill().await;
    }
    Ok(())
}

/// What a new link to a running browser has found there.
pub(super) struct Relinked {
    pub link: Link,
    pub events: mpsc::UnboundedReceiver<LinkEvent>,
    /// `None` if the tab is gone.
    pub site: Option<Tab>,
    /// The carriers' tabs that are still there, by generation.
    pub carriers: Vec<(u64, Tab)>,
}

/// Connects to a browser that runs, and takes over its tabs.
pub(super) async fn relink(
    address: String,
    site: Option<TabId>,
    carriers: Vec<(u64, TabId)>,
) -> Result<Relinked, String> {
    let join = async {
        let (link, events) = Link::connect(&address).await?;
        let site = match site {
            Some(id) => {
                tokio::time::timeout(RELINK / 2, link.rejoin_site(&id)).await.ok().and_then(Result::ok)
            }
            None => None,
        };
        let rejoin = carriers.into_iter().map(|(generation, id)| {
            let link = link.clone();
            async move {
                // A page that stands still must not keep the others from being joined.
                let joined = tokio::time::timeout(RELINK / 2, link.rejoin_carrier(&id)).await;
                Some((generation, joined.ok()?.ok()?))
            }
        });
        let carriers = join_all(rejoin).await.into_iter().flatten().collect();
        Ok::<_, LinkError>(Relinked { link, events, site, carriers })
    };
    match tokio::time::timeout(RELINK, join).await {
        Ok(joined) => joined.map_err(|e| e.to_string()),
        Err(_) => Err(format!("the browser did not answer within {RELINK:?}")),
    }
}

/// Fetches the site's own page through the carrier and judges the answer.
pub(super) async fn probe(carrier: &Carrier, path: String) -> Verdict {
    let request = PageRequest {
        method: "GET".into(),
        path,
        headers: vec![("accept".into(), "text/html,*/*;q=0.8".into())],
        body: Vec::new(),
        keyed: true, // the proxy's own
        leaves: Leaves::default(),
    };
    let look = async {
        let mut exchange = carrier.fetch(request);
        let head = exchange.head().await?;
        let body = exchange.peek(challenge::LOOK, Instant::now() + PROBE).await;
        Ok::<_, Fault>(challenge::judge(&head, &body))
    };
    match tokio::time::timeout(PROBE, look).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(fault)) => Verdict::Unanswered(fault.cause().unwrap_or(fault.public()).to_owned()),
        Err(_) => Verdict::Unanswered(format!("the site did not answer within {PROBE:?}")),
    }
}

/// The browser's code for a page that it cannot open, with what it means and what helps.
pub(super) fn plain(error: &LinkError, url: &Url) -> String {
    let code = error.to_string();
    let host = url.host_str().unwrap_or_default();
    let hint = match code.as_str() {
        "net::ERR_NAME_NOT_RESOLVED" => {
            "the name is unknown: check DNS, or set HTTPS_PROXY or TABPROXY_RESOLVE"
        }
        "net::ERR_CONNECTION_REFUSED" => "nothing listens there",
        "net::ERR_PROXY_CONNECTION_FAILED" => "the proxy is out of reach: check HTTPS_PROXY",
        "net::ERR_TUNNEL_CONNECTION_FAILED" => {
            "the proxy refused, or is out of reach: check HTTPS_PROXY and its password"
        }
        "net::ERR_INTERNET_DISCONNECTED" | "net::ERR_ADDRESS_UNREACHABLE" => "there is no network",
        "net::ERR_CERT_AUTHORITY_INVALID" => "its certificate is not trusted: TABPROXY_TRUST_CERT pins one",
        _ => "the site's page cannot be opened",
    };
    format!("{host}: {hint} ({code})")
}
