//! A tab's picture as it changes, and a person's hand on it: mouse, wheel, keys and text.
//!
//! A cast has a session of its own with the tab, so that its end leaves nothing behind, and so that its events
//! are told from those of the tab's own session. The browser makes a picture only when something has changed,
//! and none before the last one was asked for: what nobody takes is never made. Nothing of this is seen by the
//! page but the input itself, which it cannot tell from that of a mouse. What is typed is never logged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chromiumoxide::cdp::browser_protocol::{input, page, target};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Link, LinkError, Tab};

/// The largest picture, in pixels of each side.
const SIDE: i64 = 1280;
/// How good a picture is, of 100: text is readable, and a frame has some 50 kB.
const QUALITY: i64 = 60;
/// The browser sends two pictures ahead.
const AHEAD: usize = 8;
/// The longest text that is put in at once, in bytes.
const LONGEST_TEXT: usize = 64 * 1024;

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

/// A button of the mouse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Button {
    #[default]
    None,
    Left,
    Middle,
    Right,
}

/// What a mouse does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum PointerKind {
    Move,
    Down,
    Up,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum KeyKind {
    Down,
    Up,
}

/// Something that a person does. Places are parts of the picture's width and height, from 0 to 1. It has no
/// `Debug`: what is typed may be a password.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub enum Input {
    /// The mouse.
    Mouse {
        /// What it does.
        k: PointerKind,
        /// Where, from the left,
        x: f64,
        /// and from the top.
        y: f64,
        /// With which button.
        #[serde(default)]
        b: Button,
        /// Which buttons are held, as `MouseEvent.buttons` counts them.
        #[serde(default)]
        held: u8,
        /// The how manieth click it is.
        #[serde(default)]
        n: u8,
        /// Alt 1, Ctrl 2, Meta 4, Shift 8.
        #[serde(default)]
        m: u8,
    },
    /// The wheel, in pixels.
    Wheel {
        /// Where, from the left,
        x: f64,
        /// and from the top.
        y: f64,
        /// To the right.
        dx: f64,
        /// Down.
        dy: f64,
        /// As in `Mouse`.
        #[serde(default)]
        m: u8,
    },
    /// A key, as `KeyboardEvent` describes it.
    Key {
        /// What it does.
        k: KeyKind,
        /// `key`.
        key: String,
        /// `code`.
        #[serde(default)]
        code: String,
        /// `keyCode`.
        #[serde(default)]
        n: u16,
        /// As in `Mouse`.
        #[serde(default)]
        m: u8,
        /// Whether it is held down.
        #[serde(default)]
        again: bool,
    },
    /// Text that is no key: pasted, or of an input method.
    Text {
        /// The text.
        s: String,
    },
    /// The answer to a question of the page.
    Answer {
        /// Whether it is yes.
        yes: bool,
    },
    /// The page is to be loaded again.
    Reload,
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
    /// Begins to show this tab. `front`: puts it before the others first, since the browser makes no
    /// pictures of what is behind.
    ///
    /// # Errors
    /// When the tab is gone or does not answer.
    pub async fn cast(&self, front: bool) -> Result<Cast, LinkError> {
        let mut attach = target::AttachToTargetParams::new(target::TargetId::new(self.id.0.clone()));
        attach.flatten = Some(true);
        let session: String = self.link.call(None, attach).await?.session_id.into();
        let (sender, seen) = mpsc::channel(AHEAD);
        self.link.screens.all().insert(session.clone(), sender);
        // From here on its drop ends the session.
        let cast = Cast { link: self.link.clone(), session, seen, size: (1.0, 1.0) };
        if front {
            cast.link.call(Some(&cast.session), page::BringToFrontParams {}).await?;
        }
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
        let place = |x: f64, y: f64| (x.clamp(0.0, 1.0) * self.size.0, y.clamp(0.0, 1.0) * self.size.1);
        match it {
            Input::Mouse { k, x, y, b, held, n, m } => {
                let (x, y) = place(x, y);
                let mut event = input::DispatchMouseEventParams::new(kind_of(k), x, y);
                event.button = Some(button_of(b));
                event.buttons = Some(i64::from(held & 7));
                event.click_count = Some(i64::from(n.min(3)));
                event.modifiers = Some(i64::from(m & 15));
                self.link.post(&self.session, event);
            }
            Input::Wheel { x, y, dx, dy, m } => {
                let (x, y) = place(x, y);
                let kind = input::DispatchMouseEventType::MouseWheel;
                let mut event = input::DispatchMouseEventParams::new(kind, x, y);
                event.delta_x = Some(dx.clamp(-4000.0, 4000.0));
                event.delta_y = Some(dy.clamp(-4000.0, 4000.0));
                event.modifiers = Some(i64::from(m & 15));
                self.link.post(&self.session, event);
            }
            Input::Key { k, key, code, n, m, again } => {
                self.link.post(&self.session, key_event(k, key, code, n, m, again))
            }
            Input::Text { s } if s.len() <= LONGEST_TEXT => {
                self.link.post(&self.session, input::InsertTextParams::new(s));
            }
            Input::Text { .. } => {}
            Input::Answer { yes } => {
                self.link.post(&self.session, page::HandleJavaScriptDialogParams::new(yes));
            }
            Input::Reload => self.link.post(&self.session, page::ReloadParams::default()),
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

fn kind_of(kind: PointerKind) -> input::DispatchMouseEventType {
    match kind {
        PointerKind::Move => input::DispatchMouseEventType::MouseMoved,
        PointerKind::Down => input::DispatchMouseEventType::MousePressed,
        PointerKind::Up => input::DispatchMouseEventType::MouseReleased,
    }
}

fn button_of(button: Button) -> input::MouseButton {
    match button {
        Button::None => input::MouseButton::None,
        Button::Left => input::MouseButton::Left,
        Button::Middle => input::MouseButton::Middle,
        Button::Right => input::MouseButton::Right,
    }
}

fn key_event(
    kind: KeyKind,
    key: String,
    code: String,
    number: u16,
    modifiers: u8,
    again: bool,
) -> input::DispatchKeyEventParams {
    let text = text_of(&key, modifiers);
    let kind = match (kind, &text) {
        (KeyKind::Up, _) => input::DispatchKeyEventType::KeyUp,
        (KeyKind::Down, Some(_)) => input::DispatchKeyEventType::KeyDown,
        // Without text, a key that goes down would still make a character event.
        (KeyKind::Down, None) => input::DispatchKeyEventType::RawKeyDown,
    };
    let is_down = kind == input::DispatchKeyEventType::KeyDown;
    let mut event = input::DispatchKeyEventParams::new(kind);
    event.text = text.filter(|_| is_down);
    event.windows_virtual_key_code = Some(i64::from(number));
    event.native_virtual_key_code = Some(i64::from(number));
    event.key = Some(key);
    event.code = Some(code);
    event.modifiers = Some(i64::from(modifiers & 15));
    event.auto_repeat = Some(again);
    event
}

/// The text that a key puts in.
fn text_of(key: &str, modifiers: u8) -> Option<String> {
    const ALT_CTRL_META: u8 = 7;
    let mut letters = key.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if modifiers & ALT_CTRL_META == 0 => Some(letter.into()),
        _ if key == "Enter" => Some("\r".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_put_in_what_a_keyboard_would() {
        for (key, modifiers, text) in [
            ("a", 0, Some("a")),
            ("A", 8, Some("A")),
            ("é", 0, Some("é")),
            ("a", 2, None),
            ("a", 4, None),
            ("Enter", 0, Some("\r")),
            ("Backspace", 0, None),
            ("F5", 0, None),
            ("", 0, None),
        ] {
            assert_eq!(text_of(key, modifiers).as_deref(), text, "{key} {modifiers}");
        }
        let down = key_event(KeyKind::Down, "Tab".into(), "Tab".into(), 9, 0, false);
        assert_eq!((down.r#type, down.text), (input::DispatchKeyEventType::RawKeyDown, None));
    }

    #[test]
    fn input_is_read_as_the_console_sends_it() {
        let read = |text: &str| serde_json::from_str::<Input>(text).is_ok();
        for good in [
            r#"{"t":"mouse","k":"down","x":0.5,"y":0.25,"b":"left","held":1,"n":1}"#,
            r#"{"t":"wheel","x":0,"y":1,"dx":0,"dy":-120}"#,
            r#"{"t":"key","k":"down","key":"a","code":"KeyA","n":65,"m":8}"#,
            r#"{"t":"text","s":"漢字"}"#,
            r#"{"t":"answer","yes":true}"#,
            r#"{"t":"reload"}"#,
        ] {
            assert!(read(good), "{good}");
        }
        for bad in [
            r#"{"t":"eval","s":"1"}"#,
            r#"{"t":"mouse","k":"down"}"#,
            "{}",
            r#"{"t":"key","k":"x","key":"a"}"#,
        ] {
            assert!(!read(bad), "{bad}");
        }
    }
}
