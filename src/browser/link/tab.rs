//! A tab, and how one becomes a carrier.

use std::time::Duration;

use chromiumoxide::Command;
use chromiumoxide::cdp::browser_protocol::{audits, dom_storage, fetch, log, network, page, target};
use chromiumoxide::cdp::js_protocol::runtime;
use tracing::Instrument;

use super::{Link, LinkError};

/// Path of the carriers' document. The site never sees a request for it: we answer it ourselves.
const CARRIER_PATH: &str = "/.well-known/tabproxy-carrier";

/// Moves the carrier into the document that its script runs in.
const MOVE: &str = "location.replace(URL.createObjectURL(new Blob( \
                    ['<!doctype html><title>tabproxy carrier</title>'], {type: 'text/html'})))";

/// A tab, by the browser's own id for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TabId(pub(super) String);

/// A tab that we are attached to.
#[derive(Clone)]
pub struct Tab {
    pub(super) id: TabId,
    pub(super) session: String,
    pub(super) link: Link,
}

impl Tab {
    /// The browser's id of this tab.
    pub fn id(&self) -> &TabId {
        &self.id
    }

    /// Whether it is the same tab, over the same link.
    pub fn is(&self, other: &Tab) -> bool {
        self.id == other.id && self.session == other.session
    }

    /// Has its navigations reported as [`super::LinkEvent::Navigated`], and changes of its local storage as
    /// [`super::LinkEvent::StorageChanged`].
    pub(super) async fn report_site(&self) -> Result<(), LinkError> {
        self.call(page::EnableParams::default()).await?;
        self.call(dom_storage::EnableParams {}).await.map(drop)
    }

    /// Has its navigations reported, and its [`super::LinkEvent::RedirectStopped`]: for that the log names
    /// where the redirect led, and the issue whose it was.
    pub(super) async fn report_carrier(&self) -> Result<(), LinkError> {
        self.call(log::EnableParams {}).await?;
        self.call(audits::EnableParams {}).await?;
        self.call(page::EnableParams::default()).await.map(drop)
    }

    /// Bytes that its page uses: scripts' objects, documents, buffers. Also a sign of life of its renderer.
    pub async fn memory(&self) -> Result<u64, LinkError> {
        let heap = self.call(runtime::GetHeapUsageParams {}).await?;
        Ok((heap.used_size + heap.embedder_heap_used_size + heap.backing_storage_size) as u64)
    }

    pub(super) async fn call<C: Command>(&self, command: C) -> Result<C::Response, LinkError> {
        self.link.call(Some(&self.session), command).await
    }

    /// Opens `url`; returns when the new document has begun, or says why it could not.
    pub async fn navigate(&self, url: &str) -> Result<(), LinkError> {
        let done = self.call(page::NavigateParams::new(url)).await?;
        match done.error_text {
            Some(error) if !error.is_empty() => Err(LinkError::Navigation(error)),
            _ => Ok(()),
        }
    }

    /// The value of `expression` in this tab's document, once its promise is kept.
    pub async fn evaluate(
        &self,
        expression: &str,
        patience: Duration,
    ) -> Result<serde_json::Value, LinkError> {
        let mut evaluate = runtime::EvaluateParams::new(expression);
        evaluate.await_promise = Some(true);
        evaluate.return_by_value = Some(true);
        let done = self.link.call_within(patience, Some(&self.session), evaluate).await?;
        match done.exception_details {
            Some(details) => {
                let thrown = details.exception.and_then(|it| it.description);
                Err(LinkError::Script(thrown.unwrap_or(details.text)))
            }
            None => Ok(done.result.value.unwrap_or_default()),
        }
    }

    /// Opens the empty page of our own, as one of `origin`. Its policy lets it reach `channel`
    /// (`ws://address`, or nothing) besides its own origin.
    pub(super) async fn open_own_page(&self, origin: &str, channel: &str) -> Result<(), LinkError> {
        let document = format!("{origin}{CARRIER_PATH}");
        let pattern = fetch::RequestPattern {
            url_pattern: Some(document.clone()),
            resource_type: None,
            request_stage: None,
        };
        self.call(network::EnableParams::default()).await?;
        self.call(network::SetBypassServiceWorkerParams::new(true)).await?;
        self.call(fetch::EnableParams { patterns: Some(vec![pattern]), handle_auth_requests: None }).await?;
        // The document's policy needs the channel's address, which the pump does not know: it travels in
        // the fragment, which never goes on any wire.
        self.navigate(&format!("{document}#{channel}")).await?;
        self.call(fetch::DisableParams {}).await?;
        self.call(network::DisableParams {}).await.map(drop)
    }

    /// See [`Link::open_carrier`].
    pub(super) async fn become_carrier(
        &self,
        origin: &str,
        channel: &str,
        script: &str,
    ) -> Result<(), LinkError> {
        self.open_own_page(origin, channel).await?;
        self.report_carrier().await?;
        // From there into a document made of nothing, still of the same origin and under the same policy.
        // Its address is outside the scope of any service worker, so none can take it over later (a site's
        // `clients.claim()` does take over a page that was merely loaded past it).
        let script = format!("if (location.protocol === 'blob:') {script}");
        self.call(page::AddScriptToEvaluateOnNewDocumentParams::new(script)).await?;
        self.evaluate(MOVE, super::CALL).await.map(drop)
    }

    /// Has the tab closed. Nobody waits for that: one that stands still takes some seconds.
    pub fn close(&self) {
        let (link, id) = (self.link.clone(), target::TargetId::new(self.id.0.clone()));
        tokio::spawn(async move { link.close_tab(id).await }.in_current_span());
    }
}
