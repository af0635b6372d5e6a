//! A practice site and a proxy in front of it, as each test wants them.

// Two programs of tests include it, and each uses its part.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Once;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tabproxy::Server;
use tabproxy::config::{self, BrowserAddress, Config};
use tabproxy::practice::{Counters, Practice, PracticeArgs, answer_text};
use tempfile::TempDir;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::shared::foreign::Foreign;
use crate::shared::limit::Limit;

/// The longest that anything in a test may take, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Rig {
    pub site: Practice,
    pub server: Server,
    pub client: reqwest::Client,
    pub profile: TempDir,
    /// Its browser, where that is not its own.
    pub foreign: Option<Foreign>,
    stop: CancellationToken,
    _limit: Limit,
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
        Rig::beside(Practice::start(args).await.unwrap(), None, change).await
    }

    /// With a browser that somebody else has started, ready to serve.
    pub async fn elsewhere() -> Rig {
        Rig::elsewhere_with(|_| {}).await
    }

    /// The same with a proxy that is set up differently.
    pub async fn elsewhere_with(change: impl FnOnce(&mut Config)) -> Rig {
        let site = Practice::start(PracticeArgs::default()).await.unwrap();
        let foreign = Foreign::start(&site, 0).unwrap();
        let at = format!("http://{}", foreign.port());
        let change = |config: &mut Config| {
            config.browser_ws = vec![BrowserAddress::parse(&at).unwrap()];
            change(config);
        };
        let rig = Rig::beside(site, Some(foreign), change).await;
        rig.wait_ready().await;
        rig
    }

    /// For a site and a browser that are there already, without waiting.
    pub async fn beside(site: Practice, foreign: Option<Foreign>, change: impl FnOnce(&mut Config)) -> Rig {
        log();
        let profile = tempfile::tempdir().unwrap();
        let mut config = config_for(&site, &profile);
        change(&mut config);
        let stop = CancellationToken::new();
        let server = Server::start(config, stop.clone()).await.unwrap();
        let client = client();
        let browser = server.browser().watch();
        let limit = Limit::new(move || {
            let status = browser.borrow();
            format!(
                "{}: {}; pages {}, links {}",
                status.phase.name(),
                status.reason,
                status.pages,
                status.links
            )
        });
        Rig { site, server, client, profile, foreign, stop, _limit: limit }
    }

    pub async fn wait_ready(&self) {
        let mut status = self.server.browser().watch();
        let ready = tokio::time::timeout(PATIENCE, status.wait_for(|it| it.is_ready())).await;
        let status = self.server.browser().status();
        ready.unwrap_or_else(|_| panic!("not ready: {}", status.reason)).expect("the supervisor lives");
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

    /// Five streams under way.
    pub async fn five_streams(&self) -> Vec<reqwest::Response> {
        let mut streams = Vec::new();
        for n in 0..5 {
            let mut answer = self.ask(&format!("m{n}"), "hello count=100000 interval=20").await;
            answer.chunk().await.unwrap().unwrap();
            streams.push(answer);
        }
        streams
    }

    /// Asks, and checks that the answer is whole.
    pub async fn answers(&self, id: &str) {
        let prompt = "hello again count=3";
        let answer = self.ask(id, prompt).await.bytes().await.unwrap();
        assert_eq!(last_text(&answer), answer_text(prompt), "{id}");
    }

    /// Checks that the site has seen each message at most once.
    pub fn sent_once(&self) {
        let seen = self.counters().posts_by_message_id;
        assert!(seen.values().all(|it| *it == 1), "{seen:?}");
    }

    /// The browser's main process.
    pub fn browser(&self) -> i32 {
        self.server.browser().status().pid.unwrap()
    }

    /// Stops the proxy as SIGTERM does, and waits for its end.
    pub async fn stop(self) -> (Practice, TempDir) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.server.finished()).await.unwrap().unwrap();
        (self.site, self.profile)
    }
}

/// Shows what the proxies log, where that is wanted: `TABPROXY_TEST_LOG=tabproxy=debug`.
fn log() {
    static ONCE: Once = Once::new();
    let Ok(filter) = std::env::var("TABPROXY_TEST_LOG") else { return };
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
        log.with_writer(std::io::stderr).init();
    });
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
    until(async || look(), condition).await
}

/// The same for a look that has to wait itself.
pub async fn until<T: std::fmt::Debug>(
    mut look: impl AsyncFnMut() -> T,
    condition: impl Fn(&T) -> bool,
) -> T {
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = look().await;
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
