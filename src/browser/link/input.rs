//! What a person does to a tab, as the console sends it, and as the browser takes it: mouse, wheel, keys and text.

use chromiumoxide::cdp::browser_protocol::{input, page};
use serde::Deserialize;

/// The longest text that is put in at once, in bytes.
const LONGEST_TEXT: usize = 64 * 1024;

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

/// A command of the browser.
pub(super) enum Do {
    Mouse(input::DispatchMouseEventParams),
    Key(input::DispatchKeyEventParams),
    Text(input::InsertTextParams),
    Answer(page::HandleJavaScriptDialogParams),
    Reload(page::ReloadParams),
}

impl Input {
    /// The command that does it in a page of this size; `None` where it is too much.
    pub(super) fn command(self, size: (f64, f64)) -> Option<Do> {
        let place = |x: f64, y: f64| (x.clamp(0.0, 1.0) * size.0, y.clamp(0.0, 1.0) * size.1);
        Some(match self {
            Input::Mouse { k, x, y, b, held, n, m } => {
                let (x, y) = place(x, y);
                let mut event = input::DispatchMouseEventParams::new(kind_of(k), x, y);
                event.button = Some(button_of(b));
                event.buttons = Some(i64::from(held & 7));
                event.click_count = Some(i64::from(n.min(3)));
                event.modifiers = Some(i64::from(m & 15));
                Do::Mouse(event)
            }
            Input::Wheel { x, y, dx, dy, m } => {
                let (x, y) = place(x, y);
                let kind = input::DispatchMouseEventType::MouseWheel;
                let mut event = input::DispatchMouseEventParams::new(kind, x, y);
                event.delta_x = Some(dx.clamp(-4000.0, 4000.0));
                event.delta_y = Some(dy.clamp(-4000.0, 4000.0));
                event.modifiers = Some(i64::from(m & 15));
                Do::Mouse(event)
            }
            Input::Key { k, key, code, n, m, again } => Do::Key(key_event(k, key, code, n, m, again)),
            Input::Text { s } if s.len() <= LONGEST_TEXT => Do::Text(input::InsertTextParams::new(s)),
            Input::Text { .. } => return None,
            Input::Answer { yes } => Do::Answer(page::HandleJavaScriptDialogParams::new(yes)),
            Input::Reload => Do::Reload(page::ReloadParams::default()),
        })
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
    fn places_are_parts_of_the_page_and_never_outside_of_it() {
        let at = |x, y| {
            let (k, b) = (PointerKind::Down, Button::Left);
            match (Input::Mouse { k, x, y, b, held: 1, n: 9, m: 0 }).command((1000.0, 800.0)) {
                Some(Do::Mouse(event)) => (event.x, event.y, event.click_count),
                _ => panic!("no mouse"),
            }
        };
        assert_eq!(at(0.5, 0.25), (500.0, 200.0, Some(3)));
        assert_eq!(at(-1.0, 7.0), (0.0, 800.0, Some(3)));
        assert!(Input::Text { s: "x".repeat(LONGEST_TEXT + 1) }.command((1.0, 1.0)).is_none());
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
