//! A tab's picture as it changes, and the way back for what a person does to it.
//!
//! A cast has a session of its own with the tab, so that its end leaves nothing behind, and so that its events
//! are told from those of the tab's own session. The browser makes a picture only when something has changed,
//! and none before the last one was asked for: what nobody takes is never made. Nothing of this is seen by the
//! page but the input itself, which it cannot tell from that of a mouse. What is typed is never logged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chromiumoxide::cdp::browser_protocol::{page, target};
use serde_json::Value;
use tokio::sync::mpsc;

use super::input::{Do, Input};
use super::{Link, LinkError, Tab};

/// The largest picture, in pixels of each side.
const SIDE: i64 = 1280;
/// How good a picture is, of 100: text is readable, and a frame has some 50 kB.
const QUALITY: i64 = 60;
/// How long a single picture may take.
const STILL: Duration = Duration::from_secs(5);
/// The browser sends two pictures ahead.
const AHEAD: usize = 8;

/// One picture of a tab.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// JPEG.
    pub jpeg: Bytes,
    /// The size of what it shows, in the page's own pixels; input is placed in these.
    pub size: (f64, f64),
}

/// What a cast brings.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// Another picture.
    Picture(Picture),
    /// The page asks something, and stands still until it is answered with [`Input::Answer`].
    Question(String),
    /// The question is answered.
    Answered,
}

/// Who gets the pictures, by the session of the cast.
#[derive(Clone, Default)]
pub(super) struct Screens(Arc<Mutex<HashMap<String, mpsc::Sender<Raw>>>>);

/// What comes over the wire.
pub(super) enum Raw {
    Frame(page::EventScreencastFrame),
    Question(String),
    Answered,
}

impl Screens {
    fn all(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<Raw>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event, if it is one of a cast's session.
    pub fn take(&self, session: &str, method: &str, params: &Value) -> bool {
        let all = self.all();
        let Some(screen) = all.get(session) else { return false };
        let raw = match method {
            page::EventScreencastFrame::IDENTIFIER => {
                serde_json::from_value(params.clone()).ok().map(Raw::Frame)
            }
            page::EventJavascriptDialogOpening::IDENTIFIER => {
                let text = params.get("message").and_then(Value::as_str).unwrap_or_default();
                Some(Raw::Question(text.chars().take(500).collect()))
            }
            page::EventJavascriptDialogClosed::IDENTIFIER => Some(Raw::Answered),
            _ => None,
        };
        if let Some(raw) = raw {
            // The browser never has more than two pictures ahead, so that there is room.
            let _ = screen.try_send(raw);
        }
        true
    }

    pub fn remove(&self, session: &str) {
        self.all().remove(session);
    }
}

/// The picture of one tab, as long as this is kept. [`Cast::stop`] ends it in order.
pub struct Cast {
    link: Link,
    session: String,
    seen: mpsc::Receiver<Raw>,
    size: (f64, f64),
}

impl Tab {
    /// One picture of a tab that is behind others, of which a cast would bring none.
    ///
    /// # Errors
    /// When the tab is gone, or does not answer within a few seconds.
    pub async fn still(&self) -> Result<Picture, LinkError> {
        let params = page::CaptureScreenshotParams {
            format: Some(page::CaptureScreenshotFormat::Jpeg),
            quality: Some(QUALITY),
            ..Default::default()
        };
        let taken = self.link.call_within(STILL, Some(&self.session), params).await?;
        let jpeg = BASE64.decode(AsRef::<str>::as_ref(&taken.data)).unwrap_or_default();
        Ok(Picture { jpeg: jpeg.into(), size: (1.0, 1.0) })
    }

    /// Begins to show this tab, which is put before the others first: the browser makes no pictures of what is
    /// behind.
    ///
    /// # Errors
    /// When the tab is gone or does not answer.
    pub async fn cast(&self) -> Result<Cast, LinkError> {
        let mut attach = target::AttachToTargetParams::new(target::TargetId::new(self.id.0.clone()));
        attach.flatten = Some(true);
        let session: String = self.link.call(None, attach).await?.session_id.into();
        let (sender, seen) = mpsc::channel(AHEAD);
        self.link.screens.all().insert(session.clone(), sender);
        // From here on its drop ends the session.
        let cast = Cast { link: self.link.clone(), session, seen, size: (1.0, 1.0) };
        cast.link.call(Some(&cast.session), page::BringToFrontParams {}).await?;
        cast.link.call(Some(&cast.session), page::EnableParams::default()).await?;
        let mut start = page::StartScreencastParams::builder().build();
        start.format = Some(page::StartScreencastFormat::Jpeg);
        start.quality = Some(QUALITY);
        start.max_width = Some(SIDE);
        start.max_height = Some(SIDE);
        cast.link.call(Some(&cast.session), start).await?;
        Ok(cast)
    }
}

impl Cast {
    /// What comes next; `None` when the tab or the link is gone. Taking a picture lets the browser make
    /// another.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            let frame = match self.seen.recv().await? {
                Raw::Frame(frame) => frame,
                Raw::Question(text) => return Some(Seen::Question(text)),
                Raw::Answered => return Some(Seen::Answered),
            };
            self.link.post(&self.session, page::ScreencastFrameAckParams::new(frame.session_id));
            let size = (frame.metadata.device_width, frame.metadata.device_height);
            if let Ok(jpeg) = BASE64.decode(AsRef::<str>::as_ref(&frame.data)) {
                self.size = size;
                return Some(Seen::Picture(Picture { jpeg: jpeg.into(), size }));
            }
        }
    }

    /// Does what the person does. In order, and without waiting for what the page makes of it.
    pub fn put(&self, it: Input) {
        match it.command(self.size) {
            Some(Do::Mouse(event)) => self.link.post(&self.session, event),
            Some(Do::Key(event)) => self.link.post(&self.session, event),
            Some(Do::Text(event)) => self.link.post(&self.session, event),
            Some(Do::Answer(event)) => self.link.post(&self.session, event),
            Some(Do::Reload(event)) => self.link.post(&self.session, event),
            None => {}
        }
    }

    /// Ends it.
    pub async fn stop(self) {
        let _ = self.link.call(Some(&self.session), page::StopScreencastParams {}).await;
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        self.link.screens.remove(&self.session);
        // The end of the session ends the cast with it, also where it has not been stopped.
        let session_id = Some(self.session.clone().into());
        self.link.post_to_browser(target::DetachFromTargetParams { session_id });
    }
}
