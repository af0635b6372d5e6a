//! The link: our CDP connection to the browser, and the only place that knows chromiumoxide.
//!
//! Of chromiumoxide we use the typed protocol and its connection, but not its `Browser`, `Handler` and
//! `Page`: those attach to every tab and enable domains there (the Network domain alone doubles the CPU of
//! a busy page), have timeouts of their own that do not hold when a renderer stands still, and can panic.
//! Here every call has one deadline, a tab gets only what it needs, and an event that this version cannot
//! parse is skipped. Commands only: bodies never cross this connection (see [`super::channel`]).

mod input;
mod pump;
mod screencast;
mod stores;
mod tab;

use std::sync::Arc;
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::{browser, target};
use chromiumoxide::types::MethodId;
use chromiumoxide::{Command, Connection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use input::{Button, Input, KeyKind, PointerKind};
use pump::{Call, Event, Pump};
use screencast::Screens;
pub use screencast::{Cast, Picture, Seen};
pub use tab::{Tab, TabId};

/// The longest that any call may take. Generous, so that a starved machine is not taken for a dead one;
/// what must be noticed faster has a beat of its own.
const CALL: Duration = Duration::from_secs(10);

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

/// What happens in the browser without our asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A tab's main frame shows another document.
    Navigated(TabId, String),
    /// A tab's renderer is gone.
    TabCrashed(TabId),
    /// A tab was closed.
    TabGone(TabId),
    /// The local storage of a tab's origin changed.
    StorageChanged(TabId),
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

/// The connection. Clones are handles to the same one; it closes when the last is dropped.
#[derive(Clone)]
pub struct Link {
    calls: mpsc::UnboundedSender<Call>,
    screens: Screens,
    _close: Arc<DropGuard>,
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
        let screens = Screens::default();
        let pump = Pump::new(connection, screens.clone(), events);
        tokio::spawn(close.clone().run_until_cancelled_owned(pump.run(receiver)));
        let link = Link { calls, screens, _close: Arc::new(close.drop_guard()) };
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

    /// Sends a command whose answer nobody waits for. Commands leave in the order in which they are sent.
    fn post<C: Command>(&self, session: &str, command: C) {
        self.send(Some(session), command);
    }

    /// The same, to the browser itself.
    fn post_to_browser<C: Command>(&self, command: C) {
        self.send(None, command);
    }

    fn send<C: Command>(&self, session: Option<&str>, command: C) {
        if let Ok(params) = serde_json::to_value(&command) {
            let session = session.map(str::to_owned);
            let _ = self.calls.send(Call { method: command.identifier(), session, params, answer: None });
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
            browser::PermissionDescriptor::new("loopback-network"),
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
        tab.report_site().await?;
        Ok(tab)
    }

    /// Takes over, over this link, a site's tab that an earlier link opened.
    pub async fn rejoin_site(&self, id: &TabId) -> Result<Tab, LinkError> {
        self.site_tab(target::TargetId::new(id.0.clone())).await
    }

    /// Takes over, over this link, a carrier that an earlier link opened.
    pub async fn rejoin_carrier(&self, id: &TabId) -> Result<Tab, LinkError> {
        let tab = self.attach(target::TargetId::new(id.0.clone())).await?;
        tab.report_carrier().await?;
        Ok(tab)
    }

    /// Opens a tab of `origin` with an empty document of ours in it, and runs `script` there.
    ///
    /// The document is same-origin with the site, but the site neither serves it nor hears of it: the
    /// request is answered by us, past the site's service worker. Its policy lets it reach its own origin
    /// and `channel` (`ws://address`), so that a redirect can carry no request anywhere else.
    pub async fn open_carrier(&self, origin: &str, channel: &str, script: &str) -> Result<Tab, LinkError> {
        let tab = self.background_tab().await?;
        match tab.become_carrier(origin, channel, script).await {
            Ok(()) => Ok(tab),
            Err(error) => {
                tab.close().await;
                Err(error)
            }
        }
    }

    /// An empty tab behind the operator's.
    async fn background_tab(&self) -> Result<Tab, LinkError> {
        let mut create = target::CreateTargetParams::new("about:blank");
        create.background = Some(true);
        let id = self.call(None, create).await?.target_id;
        self.attach(id).await
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
