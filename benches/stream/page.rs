//! The page floor: a browser like the proxy's, with a fetch loop in a carrier's document that only counts.

use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tabproxy::browser::child::Child;
use tabproxy::browser::launch::{LaunchSpec, Sandbox, find_chromium};
use tabproxy::browser::link::{Link, LinkEvent, Tab};
use tabproxy::practice::Practice;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::load::{CONVERSATION, Fail, Load, Outcome, SMALL, bulk_path};

/// The longest that any measurement may take in the page.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the page may take to become what we need.
const SETUP: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// A browser that has passed the site's check, with our script in a quiet tab of the site's origin.
pub struct Page {
    tab: Tab,
    link: Link,
    child: Child,
    version: String,
    _site: Tab,
    _events: mpsc::UnboundedReceiver<LinkEvent>,
    _profile: TempDir,
}

impl Page {
    /// Starts the browser and gets it through the check.
    pub async fn start(site: &Practice) -> Result<Page, Fail> {
        let profile = tempfile::tempdir()?;
        let child = launch_spec(site, &profile)?.launch().await?;
        let (link, events) = Link::connect(child.address()).await?;
        let version = link.version().await?;
        let tab = link.first_tab().await?;
        let passed = site.counters().checks_passed;
        tab.navigate(&site.front_url()).await?;
        let check = async {
            while site.counters().checks_passed == passed {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(SETUP, check).await.map_err(|_| "the page did not pass the check")?;
        let origin = site.home_url();
        // The policy wants the address of a channel; there is none here.
        let quiet = link
            .open_carrier(origin.trim_end_matches('/'), "ws://127.0.0.1:9", include_str!("page.js"))
            .await?;
        let there = async {
            loop {
                let found = quiet.evaluate("typeof floor === 'object'", PATIENCE).await;
                match found {
                    Ok(Value::Bool(true)) => return,
                    _ => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        tokio::time::timeout(SETUP, there).await.map_err(|_| "the script did not start in the page")?;
        Ok(Page { tab: quiet, link, child, version, _site: tab, _events: events, _profile: profile })
    }

    /// Name and version of the browser.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The browser's process group.
    pub fn group(&self) -> i32 {
        self.child.pid()
    }

    /// Asks for all streams at once and reads them to their ends.
    pub async fn streams(&self, load: &Load) -> Result<Outcome, Fail> {
        let body = load.request().to_string();
        self.run(
            "streams",
            json!({"path": CONVERSATION, "body": body, "count": load.streams, "events": load.events}),
        )
        .await
    }

    /// Reads a body of so many bytes; seconds that it took.
    pub async fn bulk(&self, bytes: u64) -> Result<f64, Fail> {
        #[derive(Deserialize)]
        struct Read {
            bytes: u64,
            seconds: f64,
        }
        let read: Read = self.run("bulk", json!({ "path": bulk_path(bytes) })).await?;
        if read.bytes != bytes {
            return Err(format!("{} of {bytes} bytes arrived in the page", read.bytes).into());
        }
        Ok(read.seconds)
    }

    /// Small requests, one after the other: milliseconds to the first byte of each.
    pub async fn first_bytes(&self, requests: usize) -> Result<Vec<f64>, Fail> {
        self.run("firstBytes", json!({"path": SMALL, "requests": requests})).await
    }

    async fn run<T: DeserializeOwned>(&self, what: &str, arguments: Value) -> Result<T, Fail> {
        let result = self.tab.evaluate(&format!("floor.{what}({arguments})"), PATIENCE).await?;
        Ok(serde_json::from_value(result)?)
    }

    /// Closes the browser.
    pub async fn stop(self) {
        let _ = self.link.close_browser().await;
        self.child.farewell().await;
    }
}

fn launch_spec(site: &Practice, profile: &TempDir) -> Result<LaunchSpec, Fail> {
    let resolve = site.resolve();
    let pairs = resolve.split(',').filter_map(|pair| pair.split_once('='));
    Ok(LaunchSpec {
        binary: find_chromium().ok_or("no Chromium found")?,
        profile: profile.path().to_owned(),
        headless: true,
        sandbox: Sandbox::Auto,
        extra: Vec::new(),
        resolve: pairs.map(|(name, addr)| (name.to_owned(), addr.to_owned())).collect(),
        pins: vec![pin(site.cert_pem())?],
        proxy_server: None,
        proxy_bypass: String::new(),
    })
}

/// The certificate's public key, as the browser wants it named.
fn pin(certificate: &str) -> Result<String, Fail> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())?;
    let key = Sha256::digest(pem.parse_x509()?.public_key().raw);
    Ok(base64::engine::general_purpose::STANDARD.encode(key))
}
