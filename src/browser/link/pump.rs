//! The one task that owns the connection: commands out, answers and events in.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chromiumoxide::Command;
use chromiumoxide::cdp::browser_protocol::{audits, dom_storage, fetch, log, page, target};
use chromiumoxide::cdp::js_protocol::runtime;
use chromiumoxide::types::MethodId;
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;

use super::binding::Bindings;
use super::crashes::Crashes;
use super::screencast::Screens;
use super::wire::Wire;
use super::{LinkEvent, TabId};

/// The document that a carrier lives in.
const CARRIER_PAGE: &[u8] = b"<!doctype html><title>tabproxy carrier</title>";

/// Whatever comes over the wire. What is large in it is not copied before it is known what it is.
#[derive(Deserialize)]
struct Incoming<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "sessionId")]
    session: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Refusal>,
}

/// Why the browser refused a command.
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    pub message: String,
}

/// The browser's answer to a command.
#[derive(Debug)]
pub(super) struct Answer {
    pub result: Option<serde_json::Value>,
    pub error: Option<Refusal>,
}

/// An event that is known to be none of the large ones.
struct Event {
    method: String,
    session: Option<String>,
    params: serde_json::Value,
}

/// A command on its way.
pub(super) struct Call {
    pub method: MethodId,
    pub session: Option<String>,
    pub params: serde_json::Value,
    /// `None`: nobody is interested in the answer.
    pub answer: Option<oneshot::Sender<Answer>>,
}

#[derive(Serialize)]
struct Outgoing<'a> {
    id: u64,
    method: &'a str,
    #[serde(rename = "sessionId", skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    params: &'a serde_json::Value,
}

/// The one task that owns the connection.
pub(super) struct Pump {
    lines: mpsc::UnboundedSender<String>,
    next: u64,
    pending: HashMap<u64, oneshot::Sender<Answer>>,
    /// Tabs by the session that we are attached with.
    tabs: HashMap<String, TabId>,
    /// Where a carrier's fetch was last stopped from going, until the issue says whose it was.
    blocked: HashMap<TabId, String>,
    /// Sessions that only look at a tab.
    screens: Screens,
    /// Carriers that speak over this connection.
    bindings: Bindings,
    /// Tabs whose renderer is gone.
    crashes: Crashes,
    /// Woken by whatever comes.
    heard: Arc<Notify>,
    events: mpsc::UnboundedSender<LinkEvent>,
}

impl Pump {
    /// Carries `calls` over `wire` until that is gone or no caller is left; then says so, as the last event. What
    /// happens unasked goes to `events`.
    pub async fn run(
        wire: Wire,
        (screens, bindings, crashes, heard): (Screens, Bindings, Crashes, Arc<Notify>),
        events: mpsc::UnboundedSender<LinkEvent>,
        mut calls: mpsc::UnboundedReceiver<Call>,
    ) {
        let (sink, mut stream) = wire.split();
        let (lines, outgoing) = mpsc::unbounded_channel();
        let (pending, tabs, blocked) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut pump =
            Pump { lines, next: 0, pending, tabs, blocked, screens, bindings, crashes, heard, events };
        let mut writing = pin!(write(sink, outgoing));
        let cause = loop {
            tokio::select! {
                call = calls.recv() => match call {
                    Some(call) => pump.submit(call),
                    None => break "closed by us".to_owned(),
                },
                message = stream.next() => match message {
                    Some(Ok(Message::Text(text))) => pump.take(&text),
                    Some(Ok(Message::Close(_))) | None => break "the browser closed the connection".to_owned(),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error.to_string(),
                },
                cause = &mut writing => break cause,
            }
        };
        let _ = pump.events.send(LinkEvent::Lost(cause));
    }

    fn submit(&mut self, call: Call) {
        // A caller that gave up leaves its entry behind; forget those before they add up.
        self.pending.retain(|_, answer| !answer.is_closed());
        self.next += 1;
        let (method, session, params) = (&*call.method, call.session.as_deref(), &call.params);
        match serde_json::to_string(&Outgoing { id: self.next, method, session, params }) {
            Ok(line) => {
                let _ = self.lines.send(line);
                if let Some(answer) = call.answer {
                    self.pending.insert(self.next, answer);
                }
            }
            Err(error) => tracing::error!(%error, "a command could not be written"),
        }
    }

    /// Takes a message. One that this version cannot read is skipped: a newer browser says more.
    fn take(&mut self, text: &str) {
        self.heard.notify_waiters();
        let Some(message) = read_text::<Incoming<'_>>(text) else { return };
        let value = |raw: &RawValue| read_text(raw.get());
        match (message.id, message.method) {
            (Some(id), _) => {
                if let Some(answer) = self.pending.remove(&id) {
                    let result = message.result.and_then(value);
                    let _ = answer.send(Answer { result, error: message.error });
                }
            }
            (None, Some(method)) if method == runtime::EventBindingCalled::IDENTIFIER => {
                if let (Some(session), Some(params)) = (&message.session, message.params) {
                    self.bindings.take(session, params.get());
                }
            }
            (None, Some(method)) => self.on_event(Event {
                method: method.into_owned(),
                session: message.session.map(Cow::into_owned),
                params: message.params.and_then(value).unwrap_or_default(),
            }),
            (None, None) => {}
        }
    }

    fn send<C: Command>(&mut self, session: Option<String>, command: C) {
        if let Ok(params) = serde_json::to_value(&command) {
            self.submit(Call { method: command.identifier(), session, params, answer: None });
        }
    }

    fn on_event(&mut self, event: Event) {
        // What such a session is told of a tab, the tab's own is told too.
        if let Some(session) = &event.session
            && self.screens.take(session, &event.method, &event.params)
        {
            return;
        }
        let told = match event.method.as_str() {
            target::EventAttachedToTarget::IDENTIFIER => {
                if let Some(it) = read::<target::EventAttachedToTarget>(event.params) {
                    self.tabs.insert(it.session_id.into(), TabId(it.target_info.target_id.into()));
                }
                None
            }
            target::EventDetachedFromTarget::IDENTIFIER => {
                if let Some(it) = read::<target::EventDetachedFromTarget>(event.params) {
                    let session = AsRef::<str>::as_ref(&it.session_id);
                    self.tabs.remove(session);
                    self.screens.remove(session);
                    self.bindings.remove(session);
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
            // A sign-in may end without another document.
            page::EventNavigatedWithinDocument::IDENTIFIER => {
                let tab = self.tab_of(&event);
                let moved = read::<page::EventNavigatedWithinDocument>(event.params);
                tab.zip(moved).map(|(tab, it)| LinkEvent::Navigated(tab, it.url))
            }
            target::EventTargetCrashed::IDENTIFIER => {
                let tab =
                    read::<target::EventTargetCrashed>(event.params).map(|it| TabId(it.target_id.into()));
                tab.inspect(|it| self.crashes.note(it)).map(LinkEvent::TabCrashed)
            }
            target::EventTargetDestroyed::IDENTIFIER => {
                let tab =
                    read::<target::EventTargetDestroyed>(event.params).map(|it| TabId(it.target_id.into()));
                tab.inspect(|it| self.crashes.forget(it)).map(LinkEvent::TabGone)
            }
            dom_storage::EventDomStorageItemAdded::IDENTIFIER
            | dom_storage::EventDomStorageItemUpdated::IDENTIFIER
            | dom_storage::EventDomStorageItemRemoved::IDENTIFIER
            | dom_storage::EventDomStorageItemsCleared::IDENTIFIER => {
                self.tab_of(&event).map(LinkEvent::StorageChanged)
            }
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

impl Drop for Pump {
    fn drop(&mut self) {
        // However it ends, carriers learn at once that nothing comes any more.
        self.bindings.clear();
    }
}

/// Writes what comes until that fails; says why.
async fn write(mut sink: SplitSink<Wire, Message>, mut lines: mpsc::UnboundedReceiver<String>) -> String {
    let writing = async {
        while let Some(line) = lines.recv().await {
            sink.feed(Message::text(line)).await?;
            while let Ok(line) = lines.try_recv() {
                sink.feed(Message::text(line)).await?;
            }
            sink.flush().await?;
        }
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    };
    match writing.await {
        Ok(()) => "closed by us".into(),
        Err(error) => error.to_string(),
    }
}

fn read_text<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    serde_json::from_str(text)
        .inspect_err(|error| tracing::debug!(%error, "skipped a message that this version cannot read"))
        .ok()
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
