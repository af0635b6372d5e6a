//! An operator with the console open: asks for the state every second as its page does, looks at the site's page, and
//! may write into it, so that there is a new picture for every letter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::interval;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::task::AbortOnDropHandle;

use super::load::Fail;

/// The admin password of the proxy that is measured.
pub const PASSWORD: &str = "only for the benchmark";
/// How often the console's page asks.
const POLL: Duration = Duration::from_secs(1);
/// A fast typist.
const KEY: Duration = Duration::from_millis(100);

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Looks at the page, which stands still.
    Looks,
    /// Writes into it.
    Types,
}

/// Somebody who looks, until it is dropped.
pub struct Operator {
    pictures: Arc<AtomicU64>,
    _looking: AbortOnDropHandle<()>,
}

impl Operator {
    /// Comes in at `base` (`http://address`) and opens the live view.
    pub async fn look(http: &reqwest::Client, base: &str, does: Does) -> Result<Operator, Fail> {
        let login = http.post(format!("{base}/console/login")).json(&json!({"password": PASSWORD}));
        let login = login.send().await?.error_for_status()?;
        let cookie = login.headers().get("set-cookie").ok_or("no session")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let session = http.get(format!("{base}/console/api/session")).header("cookie", &cookie);
        let session: Value = session.send().await?.json().await?;
        let token = session["token"].as_str().ok_or("no token")?;
        let mut live = format!("{}/console/live", base.replacen("http", "ws", 1)).into_client_request()?;
        live.headers_mut().insert("cookie", cookie.parse()?);
        live.headers_mut()
            .insert("sec-websocket-protocol", format!("tabproxy-console, token.{token}").parse()?);
        live.headers_mut().insert("origin", base.parse()?);
        let line = TcpStream::connect(base.trim_start_matches("http://")).await?;
        let (socket, _) = tokio_tungstenite::client_async(live, line).await?;
        let state = http.get(format!("{base}/console/api/state")).header("cookie", cookie);
        let pictures = Arc::<AtomicU64>::default();
        let came = pictures.clone();
        let looking = tokio::spawn(async move {
            let (mut say, mut seen) = socket.split();
            let (mut poll, mut key) = (interval(POLL), interval(KEY));
            // Into the field for a message.
            for k in ["down", "up"].into_iter().filter(|_| does == Does::Types) {
                let tab = json!({"t": "key", "k": k, "key": "Tab", "code": "Tab", "n": 9});
                let _ = say.send(Message::text(tab.to_string())).await;
            }
            loop {
                let said = tokio::select! {
                    message = seen.next() => match message {
                        Some(Ok(Message::Binary(_))) => {
                            came.fetch_add(1, Ordering::Relaxed);
                            json!({"t": "seen"})
                        }
                        Some(Ok(_)) => continue,
                        _ => return,
                    },
                    _ = poll.tick() => {
                        if let Some(state) = state.try_clone() {
                            let _ = state.send().await;
                        }
                        continue;
                    }
                    _ = key.tick(), if does == Does::Types => json!({"t": "text", "s": "x"}),
                };
                if say.send(Message::text(said.to_string())).await.is_err() {
                    return;
                }
            }
        });
        Ok(Operator { pictures, _looking: AbortOnDropHandle::new(looking) })
    }

    /// Pictures that came so far.
    pub fn pictures(&self) -> u64 {
        self.pictures.load(Ordering::Relaxed)
    }
}
