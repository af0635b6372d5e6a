//! The link: our CDP connection to the browser, and the only place that knows chromiumoxide.
//!
//! Of chromiumoxide we use the typed protocol, but not its `Browser`, `Handler` and `Page`: those attach to
//! every tab and enable domains there (the Network domain alone doubles the CPU of a busy page), have timeouts
//! of their own that do not hold when a renderer stands still, and can panic. Nor its connection, which knows
//! no TLS, no password, and no message that it does not copy. Here every call has one deadline, a tab gets only
//! what it needs, and an event that this version cannot parse is skipped. Commands only: bodies never cross this
//! connection (see [`super::channel`]), but where the browser cannot reach us by any other (`binding`).

mod binding;
mod crashes;
mod input;
mod pump;
mod screencast;
mod stores;
mod tab;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use chromiumoxide::Command;
use chromiumoxide::cdp::browser_protocol::{browser, target};
use chromiumoxide::types::MethodId;
use http::StatusCode;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use url::Url;

use super::claims::Claims;
use binding::Bindings;
pub(super) use binding::{BINDING, Bound};
use crashes::Crashes;
pub use input::{Button, Input, KeyKind, PointerKind};
use pump::{Answer, Call, Pump};
use screencast::Screens;
pub use screencast::{Cast, Picture, Seen};
pub use tab::{Tab, TabId};

/// The longest that any call may take. Generous, so that a starved machine is not taken for a dead one;
/// what must be noticed faster has a beat of its own.
const CALL: Duration = Duration::from_secs(10);
/// The first and the longest pause before a tab is told again to close; each is twice as long as the one before.
const CLOSE_AGAIN: Duration = Duration::from_millis(20);
const CLOSE_LAST: Duration = Duration::from_secs(3);

/// Why a call over the link failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection is gone.
    #[error("the connection to the browser is gone")]
    Gone,
    /// No connection can be made.
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    /// Somebody in front of the browser does not let us in.
    #[error("it refuses us ({0})")]
    Forbidden(StatusCode),
    /// Something else than a browser answers.
    #[error("no DevTools answer there: {0}")]
    NotDevTools(String),
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
    /// The tab's renderer is gone, and whatever was asked of it is never answered.
    #[error("its page crashed")]
    Crashed,
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
    bindings: Bindings,
    crashes: Crashes,
    heard: Arc<Notify>,
    claims: Option<Arc<Claims>>,
    /// Tabs that are being opened; closed when we leave.
    opening: TaskTracker,
    _close: Arc<DropGuard>,
}

impl Link {
    /// Connects to a browser of ours, at its `ws://…/devtools/browser/…` address. Events come out of the
    /// receiver, `Lost` last.
    pub async fn connect(address: &str) -> Result<(Link, mpsc::UnboundedReceiver<LinkEvent>), LinkError> {
        let address = Url::parse(address).map_err(|error| LinkError::NotDevTools(error.to_string()))?;
        Link::connect_as(&address, None).await
    }

    /// The same, to a browser that somebody else started: what we open there is noted in `claims`.
    pub async fn connect_as(
        address: &Url,
        claims: Option<Arc<Claims>>,
    ) -> Result<(Link, mpsc::UnboundedReceiver<LinkEvent>), LinkError> {
        let wire = wire::connect(address).await?;
        let (calls, receiver) = mpsc::unbounded_channel();
        let (events, event_receiver) = mpsc::unbounded_channel();
        let close = CancellationToken::new();
        let (screens, bindings, heard) = (Screens::default(), Bindings::default(), Arc::<Notify>::default());
        let crashes = Crashes::default();
        let shared = (screens.clone(), bindings.clone(), crashes.clone(), heard.clone());
        let pump = Pump::run(wire, shared, events, receiver);
        tokio::spawn(close.clone().run_until_cancelled_owned(pump));
        let _close = Arc::new(close.drop_guard());
        let opening = TaskTracker::new();
        let link = Link { calls, screens, bindings, crashes, heard, claims, opening, _close };
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
        let answer = self.begin(session, &command)?;
        let answer = tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| LinkError::Timeout(method.clone(), patience))?
            .map_err(|_| LinkError::Gone)?;
        let result = read::<serde_json::Value>(method.clone(), answer)?;
        C::response_from_value(result).map_err(|error| LinkError::Unreadable(method, error))
    }

    /// Sends a command; its answer comes out of the receiver.
    fn begin<C: Command>(
        &self,
        session: Option<&str>,
        command: &C,
    ) -> Result<oneshot::Receiver<Answer>, LinkError> {
        let method = command.identifier();
        let params = serde_json::to_value(command).map_err(|e| LinkError::Unreadable(method.clone(), e))?;
        let (sender, answer) = oneshot::channel();
        let session = session.map(str::to_owned);
        let call = Call { method, session, params, answer: Some(sender) };
        self.calls.send(call).map_err(|_| LinkError::Gone)?;
        Ok(answer)
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

    /// As [`Link::version`], for a browser that is far: whatever it says meanwhile shows that it is alive, while
    /// the answer itself may be behind much else on a slow way.
    pub async fn sign_of_life(&self) -> Result<(), LinkError> {
        tokio::select! {
            answered = self.version() => answered.map(drop),
            () = self.heard.notified() => Ok(()),
        }
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
            None => self.create(false).await?,
        };
        self.site_tab(id).await
    }

    /// Opens a tab for the site, in place of one that is gone.
    pub async fn new_tab(&self) -> Result<Tab, LinkError> {
        let id = self.create(false).await?;
        self.site_tab(id).await
    }

    async fn site_tab(&self, id: target::TargetId) -> Result<Tab, LinkError> {
        let tab = self.attach(id).await?;
        self.crashes.unless(&tab.id, tab.report_site()).await?;
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
        match self.crashes.unless(&tab.id, tab.become_carrier(origin, channel, script)).await {
            Ok(()) => Ok(tab),
            Err(error) => {
                tab.close();
                Err(error)
            }
        }
    }

    /// An empty tab behind the operator's.
    async fn background_tab(&self) -> Result<Tab, LinkError> {
        let id = self.create(true).await?;
        self.attach(id).await
    }

    async fn create(&self, background: bool) -> Result<target::TargetId, LinkError> {
        let mut create = target::CreateTargetParams::new("about:blank");
        create.background = background.then_some(true);
        // In this order, so that whoever leaves either waits for this one or stops it.
        let _known_in_the_end = self.opening.token();
        if self.opening.is_closed() {
            return Err(LinkError::Gone);
        }
        let id = self.call(None, create).await?.target_id;
        if let Some(claims) = &self.claims {
            claims.add(id.as_ref());
        }
        Ok(id)
    }

    /// Closes all tabs that we have opened in a browser that is not ours, over this link or an earlier one, and
    /// no others; how many there were.
    pub async fn leave(&self) -> Result<usize, LinkError> {
        let Some(claims) = &self.claims else { return Ok(0) };
        let targets = self.call(None, target::GetTargetsParams::default()).await?.target_infos;
        let ours: Vec<_> = targets.into_iter().filter(|it| claims.has(it.target_id.as_ref())).collect();
        let closing = ours.iter().map(|it| self.close_tab(it.target_id.clone()));
        futures::future::join_all(closing).await;
        Ok(ours.len())
    }

    /// The same, for good: no tab can be opened any more, and one that is just being opened is closed too.
    pub async fn leave_for_good(&self) -> Result<usize, LinkError> {
        self.opening.close();
        self.opening.wait().await;
        self.leave().await
    }

    /// Told to close a tab whose document is just being replaced, Chromium (156) says yes and lets it be. So it is told
    /// again, until it knows of no such tab.
    async fn close_tab(&self, id: target::TargetId) {
        let mut pause = CLOSE_AGAIN;
        while pause <= CLOSE_LAST {
            match self.call(None, target::CloseTargetParams::new(id.clone())).await {
                Ok(_) => tokio::time::sleep(pause).await,
                Err(LinkError::Refused { .. }) => {
                    self.claims.iter().for_each(|it| it.remove(id.as_ref()));
                    return;
                }
                Err(_) => return,
            }
            pause *= 2;
        }
        tracing::warn!("the browser does not close one of our tabs");
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

/// What an answer says.
fn read<T: serde::de::DeserializeOwned>(method: MethodId, answer: Answer) -> Result<T, LinkError> {
    match (answer.result, answer.error) {
        (Some(result), _) => serde_json::from_value(result).map_err(|e| LinkError::Unreadable(method, e)),
        (None, Some(error)) => Err(LinkError::Refused { method, message: error.message }),
        (None, None) => Err(LinkError::Refused { method, message: "no reason given".into() }),
    }
}
