//! No tests: the operator, who has a browser of their own. A second real Chromium, driven over its DevTools port
//! by what a person does: mouse, keys, touch, and looking.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tabproxy::browser::launch::find_chromium;
use tempfile::TempDir;

use crate::devtools::DevTools;
use crate::rig::{PATIENCE, eventually, until};

/// The operator's browser.
pub struct Operator {
    child: Child,
    profile: TempDir,
}

/// A tab of it.
pub struct Page {
    tools: DevTools,
    session: String,
}

impl Operator {
    pub async fn start() -> Operator {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(find_chromium().unwrap());
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.args(["--headless=new", "--remote-debugging-port=0", "--no-first-run", "--no-proxy-server"]);
        command.args(["--disable-gpu", "--hide-scrollbars", "--lang=en", "about:blank"]);
        if rustix::process::geteuid().is_root() {
            command.arg("--no-sandbox");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Operator { child, profile }
    }

    /// A window of this size, since what is behind another one is not looked at; a phone has touch.
    pub async fn page(&self, url: &str, (width, height): (u32, u32), phone: bool) -> Page {
        let mut tools = DevTools::connect(&self.address().await).await;
        let created =
            tools.call(None, "Target.createTarget", json!({"url": "about:blank", "newWindow": true})).await;
        let params = json!({"targetId": created["targetId"], "flatten": true});
        let attached = tools.call(None, "Target.attachToTarget", params).await;
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let mut page = Page { tools, session };
        let scale = if phone { 2 } else { 1 };
        let size = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone});
        page.call("Emulation.setDeviceMetricsOverride", size).await;
        page.call("Emulation.setTouchEmulationEnabled", json!({"enabled": phone})).await;
        page.call("Page.enable", json!({})).await;
        page.call("Page.navigate", json!({"url": url})).await;
        page
    }

    async fn address(&self) -> String {
        let file = self.profile.path().join("DevToolsActivePort");
        let read = || {
            let text = std::fs::read_to_string(&file).ok()?;
            let (port, path) = text.split_once('\n')?;
            (!path.is_empty()).then(|| format!("ws://127.0.0.1:{port}{}", path.trim()))
        };
        eventually(read, Option::is_some).await.unwrap()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Page {
    async fn call(&mut self, method: &str, params: Value) -> Value {
        let session = self.session.clone();
        self.tools.call(Some(&session), method, params).await
    }

    /// The value of an expression in the page.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let done = self.call("Runtime.evaluate", params).await;
        assert!(done["exceptionDetails"].is_null(), "{expression}: {done}");
        done["result"]["value"].clone()
    }

    /// Waits until the expression is true.
    pub async fn until(&mut self, expression: &str) {
        self.until_within(expression, PATIENCE).await;
    }

    pub async fn until_within(&mut self, expression: &str, patience: Duration) {
        let began = Instant::now();
        while self.eval(&format!("Boolean({expression})")).await != true {
            if began.elapsed() > patience {
                let seen = self.eval("document.body.innerText").await;
                panic!("never: {expression}; the page says {seen}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The middle of an element, in the page's pixels.
    async fn middle(&mut self, selector: &str) -> (f64, f64) {
        let selector = json!(selector);
        let found = self
            .eval(&format!(
                "(() => {{ const it = document.querySelector({selector}); it.scrollIntoView({{block: 'nearest'}}); \
                 const b = it.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
            ))
            .await;
        (found[0].as_f64().unwrap(), found[1].as_f64().unwrap())
    }

    pub async fn click(&mut self, selector: &str) {
        self.until(&format!("document.querySelector({})?.checkVisibility()", json!(selector))).await;
        let (x, y) = self.middle(selector).await;
        self.click_at(x, y).await;
    }

    pub async fn click_at(&mut self, x: f64, y: f64) {
        self.call("Input.dispatchMouseEvent", json!({"type": "mouseMoved", "x": x, "y": y})).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", params).await;
        }
    }

    pub async fn tap_at(&mut self, x: f64, y: f64) {
        let down = json!({"type": "touchStart", "touchPoints": [{"x": x, "y": y}]});
        self.call("Input.dispatchTouchEvent", down).await;
        self.call("Input.dispatchTouchEvent", json!({"type": "touchEnd", "touchPoints": []})).await;
    }

    /// Types as on a keyboard.
    pub async fn type_keys(&mut self, text: &str) {
        for letter in text.chars() {
            let number = letter.to_ascii_uppercase() as u32;
            for kind in ["keyDown", "keyUp"] {
                let mut key =
                    json!({"type": kind, "key": letter.to_string(), "windowsVirtualKeyCode": number});
                if kind == "keyDown" {
                    key["text"] = letter.to_string().into();
                }
                self.call("Input.dispatchKeyEvent", key).await;
            }
        }
    }

    /// A key that has no text.
    pub async fn press(&mut self, key: &str, number: u32) {
        for kind in ["rawKeyDown", "keyUp"] {
            let params = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": number});
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    /// Puts text in as an input method does.
    pub async fn insert(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Answers the question whether this is meant.
    pub async fn agree(&mut self) {
        let answer = async || self.call("Page.handleJavaScriptDialog", json!({"accept": true})).await;
        until(answer, |it| !it.is_null()).await;
    }

    /// The same as [`Page::click`], where the page asks whether this is meant: it stands still meanwhile.
    pub async fn click_and_agree(&mut self, selector: &str) {
        let (x, y) = self.middle(selector).await;
        let session = self.session.clone();
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1});
            self.tools.post(Some(&session), "Input.dispatchMouseEvent", params).await;
        }
        self.agree().await;
    }

    /// A click into the live view, at a place of what it shows, given in parts of its width and height.
    pub async fn touch_screen(&mut self, place: (f64, f64), by_finger: bool) {
        let found = self
            .eval(
                "(() => { const it = document.getElementById('screen'); it.scrollIntoView({block: 'center'}); \
                 const b = it.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()",
            )
            .await;
        let number = |n: usize| found[n].as_f64().unwrap();
        let (x, y) = (number(0) + place.0 * number(2), number(1) + place.1 * number(3));
        if by_finger { self.tap_at(x, y).await } else { self.click_at(x, y).await }
    }

    /// Signs in with this password.
    pub async fn sign_in(&mut self, password: &str) {
        self.click("#password").await;
        self.insert(password).await;
        self.click("#login button").await;
    }

    /// Keeps what it shows, where pictures are wanted.
    pub async fn picture(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("TABPROXY_TEST_PICTURES") else { return };
        // For the eye: what has just come is drawn.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let png = BASE64.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(Path::new(&dir).join(format!("{name}.png")), png).unwrap();
    }
}
