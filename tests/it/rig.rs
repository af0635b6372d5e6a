//! A practice site and a proxy in front of it, as each test wants them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tabproxy::Server;
use tabproxy::config::{self, Config};
use tabproxy::practice::{Counters, Practice, PracticeArgs};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// The longest that anything in a test may take, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Rig {
    pub site: Practice,
    pub server: Server,
    pub client: reqwest::Client,
    pub profile: TempDir,
    stop: CancellationToken,
}

impl Rig {
    /// The usual: the site as it is, the proxy as it comes.
    pub async fn ready() -> Rig {
        Rig::with(PracticeArgs::default(), |_| {}).await
    }

    /// A site and a proxy that are set up differently, ready to serve.
    pub async fn with(site: PracticeArgs, change: impl FnOnce(&mut Config)) -> Rig {
        let rig = Rig::starting(site, change).await;
        rig.wait_ready().await;
        rig
    }

    /// The same, without waiting.
    pub async fn starting(args: PracticeArgs, change: impl FnOnce(&mut Config)) -> Rig {
        let site = Practice::start(args).await.unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut config = config_for(&site, &profile);
        change(&mut config);
        let stop = CancellationToken::new();
        let server = Server::start(config, stop.clone()).await.unwrap();
        let client = client();
        Rig { site, server, client, profile, stop }
    }

    pub async fn wait_ready(&self) {
        let mut status = self.server.browser().watch();
        let ready = tokio::time::timeout(PATIENCE, status.wait_for(|it| it.is_ready())).await;
        ready.expect("ready in time").expect("the supervisor lives");
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    pub fn counters(&self) -> Counters {
        self.site.counters()
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    /// Sends a prompt (with the practice site's knobs in it) as a bot does.
    pub async fn ask(&self, id: &str, prompt: &str) -> reqwest::Response {
        let request = self.client.post(self.url("/backend-api/conversation"));
        request.header("accept", "text/event-stream").json(&turn(id, prompt)).send().await.unwrap()
    }

    /// Stops the proxy as SIGTERM does, and waits for its end.
    pub async fn stop(self) -> (Practice, TempDir) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.server.finished()).await.unwrap().unwrap();
        (self.site, self.profile)
    }
}

pub fn client() -> reqwest::Client {
    // Needed to build one, although nothing here speaks TLS through it. The second time it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub fn config_for(site: &Practice, profile: &TempDir) -> Config {
    let mut config = Config::for_origin(site.front_url().parse().unwrap());
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.profile = profile.path().join("profile");
    config.headless = true;
    config.pins = config::pins_of(site.cert_pem().as_bytes()).unwrap();
    config.resolve = config::resolve(&site.resolve()).unwrap();
    config
}

/// The body of one turn.
pub fn turn(id: &str, prompt: &str) -> Value {
    json!({
        "action": "next",
        "messages": [{
            "id": id,
            "author": {"role": "user"},
            "content": {"content_type": "text", "parts": [prompt]},
        }],
        "model": "auto",
        "parent_message_id": "00000000-0000-4000-8000-000000000000",
    })
}

/// The last text that the events of a classic answer hold.
pub fn last_text(body: &[u8]) -> String {
    let body = std::str::from_utf8(body).expect("UTF-8");
    let snapshots = body.split("\n\n").filter_map(|event| event.strip_prefix("data: {"));
    let mut text = String::new();
    for json in snapshots {
        let event: Value = serde_json::from_str(&format!("{{{json}")).expect("whole JSON");
        if let Some(part) = event.pointer("/message/content/parts/0").and_then(Value::as_str) {
            part.clone_into(&mut text);
        }
    }
    text
}

/// Waits until `condition` holds; fails with what it last said.
pub async fn eventually<T: std::fmt::Debug>(
    mut look: impl FnMut() -> T,
    condition: impl Fn(&T) -> bool,
) -> T {
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tick.tick().await;
        let now = look();
        if condition(&now) {
            return now;
        }
        assert!(began.elapsed() < PATIENCE, "still {now:?}");
    }
}

/// The error code in a fault's JSON.
pub async fn code_of(response: reqwest::Response) -> String {
    let body: Value = response.json().await.unwrap();
    assert!(body["error"]["message"].as_str().is_some_and(|it| !it.is_empty()), "{body}");
    body["error"]["code"].as_str().unwrap().to_owned()
}
