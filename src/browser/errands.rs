//! The supervisor's errands: what takes time, each a future that ends with what came of it.
//!
//! They hold nothing of the supervisor and decide nothing.

use std::time::Duration;

use tokio::sync::mpsc;

use super::carrier::Carrier;
use super::channel::Channel;
use super::child::Child;
use super::launch::LaunchSpec;
use super::link::{Link, LinkError, LinkEvent, Tab};
use crate::error::Fault;
use crate::exchange::PageRequest;
use crate::site::challenge::{self, Verdict};

/// How long the site may take to answer a fetch of its own page.
const PROBE: Duration = Duration::from_secs(10);
/// How much of the site's page is looked at for the marks of a check.
const PROBE_BODY: usize = 16 * 1024;

/// A browser that is up, and our hold on it.
pub(super) struct Running {
    pub child: Child,
    pub link: Link,
    pub events: mpsc::UnboundedReceiver<LinkEvent>,
    pub site: Tab,
    pub version: String,
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
    let invitation = channel.expect(origin, generation).map_err(|e| e.to_string())?;
    link.allow_loopback(origin).await.map_err(|e| e.to_string())?;
    let opened = link.open_carrier(origin, &invitation.url(), &invitation.script()).await;
    let tab = opened.map_err(|e| e.to_string())?;
    match tokio::time::timeout(patience, invitation.accepted()).await {
        Ok(Some(carrier)) => Ok((carrier, tab)),
        Ok(None) | Err(_) => {
            tab.close().await;
            Err("its script did not connect".into())
        }
    }
}

/// Starts a browser and connects to it.
pub(super) async fn launch(spec: LaunchSpec) -> Result<Running, String> {
    let child = spec.launch().await.map_err(|e| e.to_string())?;
    let connect = async {
        let (link, events) = Link::connect(child.address()).await?;
        let version = link.version().await?;
        let site = link.first_tab().await?;
        Ok::<_, LinkError>((link, events, site, version))
    };
    let (link, events, site, version) = connect.await.map_err(|e| e.to_string())?;
    Ok(Running { child, link, events, site, version })
}

/// Fetches the site's own page through the carrier and judges the answer.
pub(super) async fn probe(carrier: &Carrier, path: String) -> Verdict {
    let request = PageRequest {
        method: "GET".into(),
        path,
        headers: vec![("accept".into(), "text/html,*/*;q=0.8".into())],
        body: Vec::new(),
    };
    let look = async {
        let mut exchange = carrier.fetch(request);
        let head = exchange.head().await?;
        let mut body = Vec::new();
        while body.len() < PROBE_BODY {
            match exchange.chunk().await {
                Some(chunk) => body.extend_from_slice(&chunk?.bytes),
                None => break,
            }
        }
        Ok::<_, Fault>(challenge::judge(&head, &body))
    };
    match tokio::time::timeout(PROBE, look).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(fault)) => Verdict::Unwell(fault.cause().unwrap_or(fault.public()).to_owned()),
        Err(_) => Verdict::Unwell(format!("the site did not answer within {PROBE:?}")),
    }
}

/// The browser's code for a page that it cannot open, with what it means and what helps.
pub(super) fn plain(error: &LinkError, url: &url::Url) -> String {
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
