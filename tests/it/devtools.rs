//! No tests: a hand on the browser that the proxy knows nothing of, through its DevTools port.

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::rig::{PATIENCE, client};
use crate::shared::procfs::command_line;

/// A connection of its own to a running browser.
pub struct DevTools {
    socket: WebSocketStream<TcpStream>,
    next: u64,
}

impl DevTools {
    /// Connects to the browser with this main process.
    pub async fn of(browser: i32) -> DevTools {
        let line = command_line(browser);
        let port = line.iter().find_map(|it| it.strip_prefix("--remote-debugging-port=")).unwrap();
        let about = client().get(format!("http://127.0.0.1:{port}/json/version")).send().await.unwrap();
        let about: Value = about.json().await.unwrap();
        DevTools::connect(about["webSocketDebuggerUrl"].as_str().unwrap()).await
    }

    /// Connects to the browser at this address.
    pub async fn connect(address: &str) -> DevTools {
        let host = address.trim_start_matches("ws://").split('/').next().unwrap();
        let stream = TcpStream::connect(host).await.unwrap();
        let (socket, _) = client_async(address, stream).await.unwrap();
        DevTools { socket, next: 0 }
    }

    /// The result of a command; null where it was refused, as for a page that has gone meanwhile.
    pub async fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.post(session, method, params).await;
        loop {
            let message = self.socket.next().await.unwrap().unwrap();
            let Ok(text) = message.to_text() else { continue };
            let answer: Value = serde_json::from_str(text).unwrap_or_default();
            if answer["id"] == self.next {
                return answer["result"].clone();
            }
        }
    }

    /// Sends a command and does not wait for what comes of it.
    pub async fn post(&mut self, session: Option<&str>, method: &str, params: Value) {
        self.next += 1;
        let mut command = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        self.socket.send(Message::text(command.to_string())).await.unwrap();
    }

    /// The value of an expression in the first page whose address begins so; null where there is none.
    pub async fn eval(&mut self, address: &str, expression: &str) -> Value {
        let targets = self.call(None, "Target.getTargets", json!({})).await;
        let all = targets["targetInfos"].as_array().cloned().unwrap_or_default();
        let is_one = |it: &&Value| it["type"] == "page" && it["url"].as_str().unwrap().starts_with(address);
        let Some(page) = all.iter().find(is_one) else { return Value::Null };
        let params = json!({"targetId": page["targetId"], "flatten": true});
        let attached = self.call(None, "Target.attachToTarget", params).await;
        let session = attached["sessionId"].as_str().unwrap_or_default().to_owned();
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let done = self.call(Some(&session), "Runtime.evaluate", params).await;
        self.call(None, "Target.detachFromTarget", json!({"sessionId": session})).await;
        done["result"]["value"].clone()
    }

    /// The ids of all pages that there are.
    pub async fn pages(&mut self) -> Vec<String> {
        let targets = self.call(None, "Target.getTargets", json!({})).await;
        let all = targets["targetInfos"].as_array().cloned().unwrap_or_default();
        let pages = all.iter().filter(|it| it["type"] == "page");
        pages.map(|it| it["targetId"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until there are so many.
    pub async fn wait_for_pages(&mut self, number: usize) -> Vec<String> {
        let began = std::time::Instant::now();
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
        loop {
            tick.tick().await;
            let pages = self.pages().await;
            if pages.len() == number {
                return pages;
            }
            if began.elapsed() > PATIENCE {
                let targets = self.call(None, "Target.getTargets", json!({})).await;
                panic!("{} pages, and not {number}: {targets:#}", pages.len());
            }
        }
    }

    /// Reloads every page whose address begins so; how many there were.
    pub async fn reload(&mut self, address: &str) -> usize {
        let targets = self.call(None, "Target.getTargets", json!({})).await;
        let all = targets["targetInfos"].as_array().cloned().unwrap_or_default();
        let is_one = |it: &&Value| it["type"] == "page" && it["url"].as_str().unwrap().starts_with(address);
        let ids: Vec<_> = all.iter().filter(is_one).map(|it| it["targetId"].clone()).collect();
        for id in &ids {
            let params = json!({"targetId": id, "flatten": true});
            let attached = self.call(None, "Target.attachToTarget", params).await;
            if let Some(session) = attached["sessionId"].as_str() {
                self.call(Some(session), "Page.reload", json!({})).await;
            }
        }
        ids.len()
    }
}
