//! The channel of a carrier whose browser cannot reach our loopback: over the link itself, both ways as base64.
//!
//! ```text
//! page ── a function of the page's that the browser calls us with (Runtime.addBinding) ──> Inlet
//!      <── a function of the page's that we call (Runtime.callFunctionOn) ──────────────── Outlet
//! ```
//!
//! What travels is none of this file's business. It is bounded both ways: the page by the credit of its exchanges,
//! and we by the messages that the page has not taken yet, so that a beat never waits behind a whole upload.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chromiumoxide::cdp::browser_protocol::emulation;
use chromiumoxide::cdp::js_protocol::runtime;
use futures::{FutureExt, Sink, Stream, sink, stream};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::pump::Answer;
use super::{Link, LinkError, Tab};

/// The function that the page calls us by; its property `deliver` is the one that we call it by. Nobody else's
/// script sees it: it is in the carrier's own document.
pub(in crate::browser) const BINDING: &str = "tabproxyChannel";
const DELIVER: &str = "message => tabproxyChannel.deliver(message)";

/// So many messages of ours may be on their way: enough for full speed over a long way, and no more than a
/// megabyte.
const AHEAD: usize = 16;

/// A message from the page, and the document that it comes from.
struct Batch {
    context: i64,
    bytes: Bytes,
}

/// Who gets what a page says, by the session of its tab.
#[derive(Clone, Default)]
pub(super) struct Bindings(Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Batch>>>>);

#[derive(Deserialize)]
struct Called<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(rename = "executionContextId")]
    context: i64,
}

impl Bindings {
    fn all(&self) -> MutexGuard<'_, HashMap<String, mpsc::UnboundedSender<Batch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands on what the page of this session says.
    pub fn take(&self, session: &str, params: &str) {
        let mut all = self.all();
        let Some(inbox) = all.get(session) else { return };
        let called = serde_json::from_str::<Called<'_>>(params).ok();
        let batch = called.and_then(|it| {
            Some(Batch { context: it.context, bytes: BASE64.decode(it.payload.as_bytes()).ok()?.into() })
        });
        // What is missing is missed: better no channel than one with a hole in it.
        if batch.is_none_or(|it| inbox.send(it).is_err()) {
            all.remove(session);
        }
    }

    /// The session is over.
    pub fn remove(&self, session: &str) {
        self.all().remove(session);
    }

    /// All are.
    pub fn clear(&self) {
        self.all().clear();
    }
}

/// What we say to a page.
struct Outlet {
    link: Link,
    session: String,
    context: i64,
    /// Messages that the page has not been seen to take yet.
    untaken: VecDeque<oneshot::Receiver<Answer>>,
}

impl Outlet {
    async fn send(&mut self, message: Bytes) -> Result<(), LinkError> {
        while let Some(first) = self.untaken.front_mut() {
            let answer = match first.now_or_never() {
                None if self.untaken.len() < AHEAD => break,
                None => self.untaken.front_mut().ok_or(LinkError::Gone)?.await,
                Some(answer) => answer,
            };
            self.untaken.pop_front();
            let method = runtime::CallFunctionOnParams::IDENTIFIER.into();
            let done: runtime::CallFunctionOnReturns =
                super::read(method, answer.map_err(|_| LinkError::Gone)?)?;
            if let Some(thrown) = done.exception_details {
                return Err(LinkError::Script(thrown.text));
            }
        }
        let mut call = runtime::CallFunctionOnParams::new(DELIVER);
        call.execution_context_id = Some(runtime::ExecutionContextId::new(self.context));
        call.silent = Some(true);
        let message = serde_json::Value::String(BASE64.encode(message));
        call.arguments = Some(vec![runtime::CallArgument::builder().value(message).build()]);
        self.untaken.push_back(self.link.begin(Some(&self.session), &call)?);
        Ok(())
    }
}

/// The two ends of a channel, ours.
pub(in crate::browser) struct Bound<O, I> {
    /// Takes messages for the page.
    pub outlet: O,
    /// Brings those of the page; ends with why there are no more.
    pub inlet: I,
}

/// Messages to the page.
pub(in crate::browser) trait Out:
    Sink<Bytes, Error = LinkError> + Unpin + Send + 'static
{
}
impl<T: Sink<Bytes, Error = LinkError> + Unpin + Send + 'static> Out for T {}
/// Messages from the page.
pub(in crate::browser) trait In:
    Stream<Item = Result<Bytes, String>> + Unpin + Send + 'static
{
}
impl<T: Stream<Item = Result<Bytes, String>> + Unpin + Send + 'static> In for T {}

impl Link {
    /// As [`Link::open_carrier`], where `script` reaches us by [`BINDING`] and nothing else. `patience`: from when
    /// it runs until it has said something.
    pub(in crate::browser) async fn open_bound_carrier(
        &self,
        origin: &str,
        script: &str,
        patience: Duration,
    ) -> Result<(Tab, Bound<impl Out + use<>, impl In + use<>>), LinkError> {
        let tab = self.background_tab().await?;
        let (sender, inbox) = mpsc::unbounded_channel();
        self.bindings.all().insert(tab.session.clone(), sender);
        match self.crashes.unless(&tab.id, tab.bind(origin, script, patience, inbox)).await {
            Ok(bound) => Ok((tab, bound)),
            Err(error) => {
                self.bindings.remove(&tab.session);
                tab.close();
                Err(error)
            }
        }
    }
}

impl Tab {
    async fn bind(
        &self,
        origin: &str,
        script: &str,
        patience: Duration,
        mut inbox: mpsc::UnboundedReceiver<Batch>,
    ) -> Result<Bound<impl Out + use<>, impl In + use<>>, LinkError> {
        // Our own browsers do not slow tabs down that nobody looks at; others are told so for this one.
        self.call(emulation::SetFocusEmulationEnabledParams::new(true)).await?;
        // Without it documents that follow are not given the binding.
        self.call(runtime::EnableParams {}).await?;
        self.call(runtime::AddBindingParams::new(BINDING)).await?;
        self.become_carrier(origin, "", script).await?;
        let hello = tokio::time::timeout(patience, inbox.recv()).await;
        let context =
            hello.ok().flatten().ok_or_else(|| LinkError::Script("it does not speak".into()))?.context;
        let (link, session) = (self.link.clone(), self.session.clone());
        let outlet = Outlet { link, session, context, untaken: VecDeque::new() };
        let outlet = sink::unfold(outlet, |mut outlet, message| async move {
            outlet.send(message).await?;
            Ok(outlet)
        });
        let inlet = stream::unfold(inbox, move |mut inbox| async move {
            let batch = inbox.recv().await?;
            let same = batch.context == context;
            Some((same.then_some(batch.bytes).ok_or_else(|| "the page was loaded again".to_owned()), inbox))
        });
        Ok(Bound { outlet: Box::pin(outlet), inlet: Box::pin(inlet) })
    }
}
