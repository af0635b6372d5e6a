//! The one task that owns the connection: commands out, answers and events in.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chromiumoxide::cdp::browser_protocol::{audits, dom_storage, fetch, log, page, target};
use chromiumoxide::types::{CallId, EventMessage, Message, MethodId, Response};
use chromiumoxide::{Command, Connection, Method};
use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::screencast::Screens;
use super::{LinkEvent, TabId};

/// The document that a carrier lives in.
const CARRIER_PAGE: &[u8] = b"<!doctype html><title>tabproxy carrier</title>";

/// An event as it comes over the wire.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
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

/// A command on its way.
pub(super) struct Call {
    pub method: MethodId,
    pub session: Option<String>,
    pub params: serde_json::Value,
    /// `None`: nobody is interested in the answer.
    pub answer: Option<oneshot::Sender<Response>>,
}

/// The one task that owns the connection.
pub(super) struct Pump {
    connection: Connection<Event>,
    pending: HashMap<CallId, oneshot::Sender<Response>>,
    /// Tabs by the session that we are attached with.
    tabs: HashMap<String, TabId>,
    /// Where a carrier's fetch was last stopped from going, until the issue says whose it was.
    blocked: HashMap<TabId, String>,
    /// Sessions that only look at a tab.
    screens: Screens,
    events: mpsc::UnboundedSender<LinkEvent>,
}

impl Pump {
    /// A pump for `connection`; what happens unasked goes to `events`.
    pub fn new(
        connection: Connection<Event>,
        screens: Screens,
        events: mpsc::UnboundedSender<LinkEvent>,
    ) -> Pump {
        Pump {
            connection,
            pending: HashMap::new(),
            tabs: HashMap::new(),
            blocked: HashMap::new(),
            screens,
            events,
        }
    }

    /// Carries `calls` until the connection is gone or no caller is left; then says so, as the last event.
    pub async fn run(mut self, mut calls: mpsc::UnboundedReceiver<Call>) {
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
        // What such a session is told of a tab, the tab's own is told too.
        if let Some(session) = &event.session
            && self.screens.take(session, event.method.as_ref(), &event.params)
        {
            return;
        }
        let told = match event.method.as_ref() {
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
            target::EventTargetCrashed::IDENTIFIER => read::<target::EventTargetCrashed>(event.params)
                .map(|it| LinkEvent::TabCrashed(TabId(it.target_id.into()))),
            target::EventTargetDestroyed::IDENTIFIER => read::<target::EventTargetDestroyed>(event.params)
                .map(|it| LinkEvent::TabGone(TabId(it.target_id.into()))),
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
