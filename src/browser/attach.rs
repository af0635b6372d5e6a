//! How we come into a browser that somebody else started, and how we leave it: a guest's manners.
//!
//! We open tabs of our own in its default context, where its owner's sign-in is, and close no others; we never
//! close the browser. What an earlier link, or an earlier process of ours, has left there is closed first. Why
//! a browser cannot be had is told in one line with its remedy, and without what is secret in its address.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::claims::Claims;
use super::errands::Running;
use super::link::{Link, LinkError};
use super::session::SessionFile;
use crate::config::BrowserAddress;

/// How long the closing of our tabs may take: they are found later, too.
const LEAVE: Duration = Duration::from_secs(2);

/// A browser that runs elsewhere.
#[derive(Clone, Debug)]
pub struct AttachSpec {
    /// Where its DevTools are.
    pub address: BrowserAddress,
    /// Beside this lie the saved session and the list of our tabs; nothing is in it.
    pub profile: PathBuf,
}

/// Connects to the browser and opens our tab. `site`: the page that is to be kept open there.
pub(super) async fn attach(spec: AttachSpec, site: &Url) -> Result<Running, String> {
    let claims = Arc::new(Claims::beside(&spec.profile));
    let come_in = async {
        let (link, events) = Link::connect_as(spec.address.url(), Some(claims)).await?;
        let version = link.version().await?;
        let left = link.leave().await?;
        if left > 0 {
            tracing::info!(tabs = left, "closed what was left of us in the browser");
        }
        let tab = link.new_tab().await?;
        Ok((link, events, version, tab))
    };
    let (link, events, version, tab) = come_in.await.map_err(|error| plain(&error, &spec.address))?;
    let (session, signed_in) = match SessionFile::beside(&spec.profile).lend(&link, site).await {
        Ok((session, signed_in)) => (Some(session), signed_in),
        Err(error) => {
            tracing::error!(%error, "the saved session could not be used: it is left as it is");
            (None, true)
        }
    };
    Ok(Running { child: None, link, events, site: tab, version, session, signed_in })
}

/// Closes our tabs there, for good.
pub(super) async fn leave(link: &Link) {
    let _ = tokio::time::timeout(LEAVE, link.leave_for_good()).await;
}

/// What is wrong, and what helps.
fn plain(error: &LinkError, address: &BrowserAddress) -> String {
    let remedy = match error {
        // What rustls says of a certificate.
        LinkError::Unreachable(why) if why.kind() == io::ErrorKind::InvalidData => {
            "if it is signed by an authority of your own, SSL_CERT_FILE names the file with that"
        }
        LinkError::Unreachable(_) => {
            "start it (with --remote-debugging-port), open the way to it, or correct TABPROXY_BROWSER_WS"
        }
        LinkError::Forbidden(_) => "correct the token or the password in TABPROXY_BROWSER_WS",
        LinkError::NotDevTools(_) | LinkError::Timeout(..) | LinkError::Unreadable(..) => {
            "TABPROXY_BROWSER_WS must lead to a Chromium's DevTools; with http://host:port it is asked for the address"
        }
        _ => "is it a Chromium whose DevTools may open tabs?",
    };
    format!("the browser at {address}: {error}; {remedy}")
}
