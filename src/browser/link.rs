//! The link: our CDP connection to the browser, and the only file that knows chromiumoxide.
//!
//! Of chromiumoxide we use the typed protocol and its connection, but not its `Browser`, `Handler` and
//! `Page`: those attach to every tab and enable domains there (the Network domain alone doubles the CPU of
//! a busy page), have timeouts of their own that do not hold when a renderer stands still, and can panic.
//! Here every call has one deadline, a tab gets only what it needs, and an event that this version cannot
//! parse is skipped. Commands only: bodies never cross this connection (see [`super::channel`]).

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chromiumoxide::cdp::browser_protocol::{audits, browser, fetch, log, network, page, target};
use chromiumoxide::cdp::js_protocol::runtime;
use chromiumoxide::types::{CallId, EventMessage, Message, MethodId, Response};
use chromiumoxide::{Command, Connection, Method};
use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The longest that any call may take. Generous, so that a starved machine is not taken for a dead one;
/// what must be noticed faster has a beat of its own.
const CALL: Duration = Duration::from_secs(10);

/// Path of the carriers' document. The site never sees a request for it: we answer it ourselves.
const CARRIER_PATH: &str = "/.well-known/tabproxy-carrier";

/// The document that a carrier lives in.
const CARRIER_PAGE: &[u8] = b"<!doctype html><title>tabproxy carrier</title>";

/// Moves the carrier into the document that its script runs in.
const MOVE: &str = "location.replace(URL.createObjectURL(new Blob( \
                    ['<!doctype html><title>tabproxy carrier</title>'], {type: 'text/html'})))";

/// Why a call over the link failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection is gone.
    #[error("the connection to the browser is gone")]
    Gone,
    /// No answer in time.
    #[error("the browser did not answer {0} within {1:?}")]
    Timeout(MethodId, Duration),
    /// The browser refused.
    #[error("the browser refused {method}: {message}")]
    Refused {
        /// The method called.
        method: MethodId,
        /// The browser's words.
        message: String,
    },
    /// The browser answered something that we cannot read.
    #[error("unreadable answer to {0}: {1}")]
    Unreadable(MethodId, serde_json::Error),
    /// A page could not be opened; the browser's code, such as `net::ERR_NAME_NOT_RESOLVED`.
    #[error("{0}")]
    Navigation(String),
    /// The carrier's script threw.
    #[error("the carrier's script failed: {0}")]
    Script(String),
}

/// A tab, by the browser's own id for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TabId(String);

/// What happens in the browser without our asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A tab's main frame shows another document.
    Navigated(TabId, String),
    /// A tab's renderer is gone.
    TabCrashed(TabId),
    /// A tab was closed.
    TabGone(TabId),
    /// A fetch of a carrier was redirected to another origin, and stopped on the way.
    RedirectStopped {
        /// The carrier's tab.
        tab: TabId,
        /// The address that was fetched.
        from: String,
        /// The origin that it was redirected to.
        to: String,
    },
    /// The connection is gone; the last event.
    Lost(String),
}

/// An event as it comes over the wire.
#[derive(Debug, Deserialize)]
struct Event {
    method: MethodId,
    #[serde(rename = "sessionId")]
    session: Option<String>,
    #[serde(default)]
    params: serde_json::Value,
}

impl Method for Event {
    fn identifier(&self) -> MethodId {
        self.method.clone()
    }
}

impl EventMessage for Event {
    fn session_id(&self) -> Option<&str> {
        self.session.as_deref()
    }
}

struct Call {
    method: MethodId,
    session: Option<String>,
    params: serde_json::Value,
    /// `None`: nobody is interested in the answer.
    answer: Option<oneshot::Sender<Response>>,
}

/// The connection. Clones are handles to the same one; it closes when the last is dropped.
#[derive(Clone)]
pub struct Link {
    calls: mpsc::UnboundedSender<Call>,
    _close: std::sync::Arc<DropGuard>,
}

impl Link {
    /// Connects to the browser's `ws://…/devtools/browser/…` address. Events come out of the receiver,
    /// `Lost` last.
    pub async fn connect(address: &str) -> Result<(Link, mpsc::UnboundedReceiver<LinkEvent>), LinkError> {
        let connecting = Connection::<Event>::connect(address);
        let connection = tokio::time::timeout(CALL, connecting)
            .await
            .map_err(|_| LinkError::Timeout("connect".into(), CALL))?
            .map_err(|_| LinkError::Gone)?;
        let (calls, receiver) = mpsc::unbounded_channel();
        let (events, event_receiver) = mpsc::unbounded_channel();
        let close = CancellationToken::new();
        let pump = Pump {
            connection,
            pending: HashMap::new(),
            tabs: HashMap::new(),
            blocked: HashMap::new(),
            events,
        };
        tokio::spawn(close.clone().run_until_cancelled_owned(pump.run(receiver)));
        let link = Link { calls, _close: std::sync::Arc::new(close.drop_guard()) };
        // Tells of closed and crashed tabs; of all others (workers, extensions) we need not know.
        let filter = vec![target::FilterEntry { exclude: None, r#type: Some("page".into()) }];
        let discover = target::SetDiscoverTargetsParams {
            discover: true,
            filter: Some(target::TargetFilter::new(filter)),
        };
        link.call(None, discover).await?;
        Ok((link, event_receiver))
    }

    async fn call<C: Command>(&self, session: Option<&str>, command: C) -> Result<C::Response, LinkError> {
        self.call_within(CALL, session, command).await
    }

    async fn call_within<C: Command>(
        &self,
        patience: Duration,
        session: Option<&str>,
        command: C,
    ) -> Result<C::Response, LinkError> {
        let method = command.identifier();
        let unreadable = |e| LinkError::Unreadable(method.clone(), e);
        let params = serde_json::to_value(&command).map_err(unreadable)?;
        let (sender, answer) = oneshot::channel();
        self.calls
            .send(Call {
                method: method.clone(),
                session: session.map(str::to_owned),
                params,
                answer: Some(sender),
            })
            .map_err(|_| LinkError::Gone)?;
        let response = tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| LinkError::Timeout(method.clone(), patience))?
            .map_err(|_| LinkError::Gone)?;
        match (response.result, response.error) {
            (Some(result), _) => C::response_from_value(result).map_err(unreadable),
            (None, Some(error)) => Err(LinkError::Refused { method, message: error.message }),
            (None, None) => Err(LinkError::Refused { method, message: "no reason given".into() }),
        }
    }

    /// Name and version of the browser; also the beat that shows that its main process is alive.
    pub async fn version(&self) -> Result<String, LinkError> {
        Ok(self.call(None, browser::GetVersionParams {}).await?.product)
    }

    /// Lets pages of `origin` reach our loopback listener: since Chrome 142 a public page may not, unless
    /// the user says so (Local Network Access). Nothing else is granted or denied by this.
    pub async fn allow_loopback(&self, origin: &str) -> Result<(), LinkError> {
        let mut permission = browser::SetPermissionParams::new(
            descriptor("loopback-network"),
            browser::PermissionSetting::Granted,
        );
        permission.origin = Some(origin.to_owned());
        match self.call(None, permission).await {
            // A browser that does not know the permission does not need it either.
            Ok(_) | Err(LinkError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes over the tab that the browser opened at its start, or opens one.
    pub async fn first_tab(&self) -> Result<Tab, LinkError> {
        let targets = self.call(None, target::GetTargetsParams::default()).await?.target_infos;
        let id = match targets.into_iter().find(|it| it.r#type == "page") {
            Some(info) => info.target_id,
            None => self.call(None, target::CreateTargetParams::new("about:blank")).await?.target_id,
        };
        self.site_tab(id).await
    }

    /// Opens a tab for the site, in place of one that is gone.
    pub async fn new_tab(&self) -> Result<Tab, LinkError> {
        let id = self.call(None, target::CreateTargetParams::new("about:blank")).await?.target_id;
        self.site_tab(id).await
    }

    async fn site_tab(&self, id: target::TargetId) -> Result<Tab, LinkError> {
        let tab = self.attach(id).await?;
        tab.call(page::EnableParams::default()).await?; // for `Navigated`
        Ok(tab)
    }

    /// Opens a tab of `origin` with an empty document of ours in it, and runs `script` there.
    ///
    /// The document is same-origin with the site, but the site neither serves it nor hears of it: the
    /// request is answered by us, past the site's service worker. Its policy lets it reach its own origin
    /// and `channel` (`ws://address`), so that a redirect can carry no request anywhere else.
    pub async fn open_carrier(&self, origin: &str, channel: &str, script: &str) -> Result<Tab, LinkError> {
        let mut create = target::CreateTargetParams::new("about:blank");
        create.background = Some(true); // the operator's tab stays in front
        let id = self.call(None, create).await?.target_id;
        let tab = self.attach(id).await?;
        match tab.become_carrier(origin, channel, script).await {
            Ok(()) => Ok(tab),
            Err(error) => {
                tab.close().await;
                Err(error)
            }
        }
    }

    async fn attach(&self, id: target::TargetId) -> Result<Tab, LinkError> {
        let mut attach = target::AttachToTargetParams::new(id.clone());
        attach.flatten = Some(true);
        let session = self.call(None, attach).await?.session_id;
        Ok(Tab { id: TabId(id.into()), session: session.into(), link: self.clone() })
    }

    /// Asks the browser to write everything down and go.
    pub async fn close_browser(&self) -> Result<(), LinkError> {
        self.call(None, browser::CloseParams {}).await.map(drop)
    }
}

fn descriptor(name: &str) -> browser::PermissionDescriptor {
    browser::PermissionDescriptor::new(name)
}

/// A tab that we are attached to.
#[derive(Clone)]
pub struct Tab {
    id: TabId,
    session: String,
    link: Link,
}

impl Tab {
    /// The browser's id of this tab.
    pub fn id(&self) -> &TabId {
        &self.id
    }

    async fn call<C: Command>(&self, command: C) -> Result<C::Response, LinkError> {
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

    async fn become_carrier(&self, origin: &str, channel: &str, script: &str) -> Result<(), LinkError> {
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
        self.call(network::DisableParams {}).await?;
        // Both for `RedirectStopped`: the log names where the redirect led, the issue whose it was.
        self.call(log::EnableParams {}).await?;
        self.call(audits::EnableParams {}).await?;
        // From there into a document made of nothing, still of the same origin and under the same policy.
        // Its address is outside the scope of any service worker, so none can take it over later (a site's
        // `clients.claim()` does take over a page that was merely loaded past it).
        self.call(page::EnableParams::default()).await?;
        let script = format!("if (location.protocol === 'blob:') {script}");
        self.call(page::AddScriptToEvaluateOnNewDocumentParams::new(script)).await?;
        let moved = self.call(runtime::EvaluateParams::new(MOVE)).await?;
        match moved.exception_details {
            Some(details) => Err(LinkError::Script(details.text)),
            None => Ok(()),
        }
    }

    /// Closes the tab. A failure means that it is gone already, or the whole browser.
    pub async fn close(&self) {
        let id = target::TargetId::new(self.id.0.clone());
        let _ = self.link.call(None, target::CloseTargetParams::new(id)).await;
    }
}

/// The one task that owns the connection.
struct Pump {
    connection: Connection<Event>,
    pending: HashMap<CallId, oneshot::Sender<Response>>,
    /// Tabs by the session that we are attached with.
    tabs: HashMap<String, TabId>,
    /// Where a carrier's fetch was last stopped from going, until the issue says whose it was.
    blocked: HashMap<TabId, String>,
    events: mpsc::UnboundedSender<LinkEvent>,
}

impl Pump {
    async fn run(mut self, mut calls: mpsc::UnboundedReceiver<Call>) {
        let cause = loop {
            tokio::select! {
                call = calls.recv() => match call {
                    Some(call) => self.submit(call),
                    None => break "closed by us".to_owned(),
                },
                message = self.connection.next() => match message {
                    Some(Ok(Message::Response(response))) => {
                        if let Some(answer) = self.pending.remove(&response.id) {
                            let _ = answer.send(response);
                        }
                    }
                    Some(Ok(Message::Event(event))) => self.on_event(event),
                    Some(Err(chromiumoxide::error::CdpError::InvalidMessage(_, error))) => {
                        tracing::debug!(%error, "skipped a message that this version cannot read");
                    }
                    Some(Err(error)) => break error.to_string(),
                    None => break "the browser closed the connection".to_owned(),
                },
            }
        };
        let _ = self.events.send(LinkEvent::Lost(cause));
    }

    fn submit(&mut self, call: Call) {
        // A caller that gave up leaves its entry behind; forget those before they add up.
        self.pending.retain(|_, answer| !answer.is_closed());
        let session = call.session.map(target::SessionId::new);
        match self.connection.submit_command(call.method, session, call.params) {
            Ok(id) => {
                if let Some(answer) = call.answer {
                    self.pending.insert(id, answer);
                }
            }
            Err(error) => tracing::error!(%error, "a command could not be written"),
        }
    }

    fn send<C: Command>(&mut self, session: Option<String>, command: C) {
        if let Ok(params) = serde_json::to_value(&command) {
            self.submit(Call { method: command.identifier(), session, params, answer: None });
        }
    }

    fn on_event(&mut self, event: Event) {
        let told = match event.method.as_ref() {
            target::EventAttachedToTarget::IDENTIFIER => {
                if let Some(it) = read::<target::EventAttachedToTarget>(event.params) {
                    self.tabs.insert(it.session_id.into(), TabId(it.target_info.target_id.into()));
                }
                None
            }
            target::EventDetachedFromTarget::IDENTIFIER => {
                if let Some(it) = read::<target::EventDetachedFromTarget>(event.params) {
                    self.tabs.remove(AsRef::<str>::as_ref(&it.session_id));
                }
                None
            }
            fetch::EventRequestPaused::IDENTIFIER => {
                self.serve_carrier_page(event);
                None
            }
            page::EventFrameNavigated::IDENTIFIER => {
                let tab = self.tab_of(&event);
                let frame = read::<page::EventFrameNavigated>(event.params).map(|it| it.frame);
                // An error page says where it should have been; the failed navigation tells of it.
                match (tab, frame) {
                    (Some(tab), Some(frame))
                        if frame.parent_id.is_none() && frame.unreachable_url.is_none() =>
                    {
                        Some(LinkEvent::Navigated(tab, frame.url))
                    }
                    _ => None,
                }
            }
            target::EventTargetCrashed::IDENTIFIER => read::<target::EventTargetCrashed>(event.params)
                .map(|it| LinkEvent::TabCrashed(TabId(it.target_id.into()))),
            target::EventTargetDestroyed::IDENTIFIER => read::<target::EventTargetDestroyed>(event.params)
                .map(|it| LinkEvent::TabGone(TabId(it.target_id.into()))),
            audits::EventIssueAdded::IDENTIFIER => self.tab_of(&event).and_then(|tab| {
                let from = blocked_request(&event.params)?.to_owned();
                let to = self.blocked.remove(&tab)?;
                Some(LinkEvent::RedirectStopped { tab, from, to })
            }),
            log::EventEntryAdded::IDENTIFIER => {
                if let (Some(tab), Some(to)) = (self.tab_of(&event), blocked_target(&event.params)) {
                    self.blocked.insert(tab, to);
                }
                None
            }
            _ => None,
        };
        if let Some(told) = told {
            let _ = self.events.send(told);
        }
    }

    fn tab_of(&self, event: &Event) -> Option<TabId> {
        self.tabs.get(event.session.as_deref()?).cloned()
    }

    /// Interception is on only while a carrier opens, for one address: answer it.
    fn serve_carrier_page(&mut self, event: Event) {
        let Some(paused) = read::<fetch::EventRequestPaused>(event.params) else { return };
        let channel = paused.request.url_fragment.as_deref().unwrap_or("#").trim_start_matches('#');
        let header = |name: &str, value: String| fetch::HeaderEntry { name: name.into(), value };
        let mut answer = fetch::FulfillRequestParams::new(paused.request_id, 200);
        answer.response_headers = Some(vec![
            header("content-type", "text/html; charset=utf-8".into()),
            header("cache-control", "no-store".into()),
            header("content-security-policy", format!("default-src 'none'; connect-src 'self' {channel}")),
        ]);
        answer.body = Some(BASE64.encode(CARRIER_PAGE).into());
        self.send(event.session, answer);
    }
}

fn read<T: DeserializeOwned>(params: serde_json::Value) -> Option<T> {
    serde_json::from_value(params)
        .inspect_err(|error| tracing::debug!(%error, "skipped an event that this version cannot read"))
        .ok()
}

/// The origin that a carrier's policy kept a fetch from, out of the browser's message about it:
/// "Connecting to 'https://…' violates the following Content Security Policy directive…".
fn blocked_target(params: &serde_json::Value) -> Option<String> {
    let text = params.pointer("/entry/text")?.as_str()?;
    let url = text.contains("Content Security Policy").then(|| text.split('\'').nth(1))??;
    Some(url::Url::parse(url).ok()?.origin().ascii_serialization())
}

/// The address that was asked for, in the issue about the same.
fn blocked_request(params: &serde_json::Value) -> Option<&str> {
    params.pointer("/issue/details/contentSecurityPolicyIssueDetails/blockedURL")?.as_str()
}
