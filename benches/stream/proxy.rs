//! The proxy as users run it: the release binary in a process of its own, spoken to over plain HTTP/1.1.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tabproxy::practice::Practice;
use tempfile::TempDir;
use tokio::process::Child;

use super::client::Client;
use super::load::Fail;
use super::operator::{Does, Operator, PASSWORD};
use super::shared::foreign::Foreign;
use super::shared::procfs::processes;
use super::shared::program;

/// The longest that a start may take.
const START: Duration = Duration::from_secs(60);
/// How long the proxy may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(5);
/// Enough for the largest load; the default is made for one person's page.
const MAX_INFLIGHT: &str = "256";

/// What stays from one start to the next: the profile, the certificate's file, the log.
pub struct Home {
    dir: TempDir,
    origin: String,
    resolve: String,
    /// The digest of the admin password.
    password: String,
    /// The address and the process group of a browser that runs elsewhere, if any.
    browser: Option<(String, i32)>,
}

impl Home {
    /// An empty one.
    pub fn new(site: &Practice, foreign: Option<&Foreign>) -> Result<Home, Fail> {
        let browser = foreign.map(|it| (it.address().to_owned(), it.pid()));
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("site.pem"), site.cert_pem())?;
        let password = tabproxy::access::password::hash(PASSWORD)?;
        Ok(Home { dir, origin: site.front_url(), resolve: site.resolve(), password, browser })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.file("proxy.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// A running proxy. Dropping it kills it, and its browser dies with it.
pub struct Proxy {
    child: Child,
    pid: i32,
    foreign: Option<i32>,
    http: reqwest::Client,
    base: String,
    client: Client,
}

impl Proxy {
    /// Starts it and waits until it is ready; the time from the start of the process to that.
    pub async fn start(home: &Home) -> Result<(Proxy, Duration), Fail> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let base = format!("http://{addr}");
        let http = reqwest::Client::builder().http1_only().tcp_nodelay(true).no_proxy();
        // TLS is never spoken here, but the builder wants to know how it would be.
        let http = http.tls_backend_preconfigured(no_tls()?).build()?;
        let log = File::create(home.file("proxy.log"))?;
        let mut command = program::serve(log)?;
        command
            .env("TABPROXY_LISTEN", addr.to_string())
            .env("TABPROXY_ORIGIN", &home.origin)
            .env("TABPROXY_RESOLVE", &home.resolve)
            .env("TABPROXY_TRUST_CERT", home.file("site.pem"))
            .env("TABPROXY_PROFILE", home.file("profile"))
            .env("TABPROXY_ADMIN_PASSWORD", &home.password)
            .env("TABPROXY_HEADLESS", "true")
            .env("TABPROXY_MAX_INFLIGHT", MAX_INFLIGHT);
        if let Some((address, _)) = &home.browser {
            command.env("TABPROXY_BROWSER_WS", address);
        }
        let began = Instant::now();
        let mut child = command.spawn()?;
        let pid = child.id().ok_or("no process id")?.cast_signed();
        let ready = async {
            loop {
                if let Some(status) = child.try_wait()? {
                    return Err(Fail::from(format!("the proxy ended: {status}\n{}", home.last_words())));
                }
                let answer = http.get(format!("{base}/readyz")).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(began.elapsed());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let took = tokio::time::timeout(START, ready)
            .await
            .map_err(|_| format!("the proxy did not get ready:\n{}", home.last_words()))??;
        let client = Client::new(http.clone(), &base);
        let foreign = home.browser.as_ref().map(|it| it.1);
        Ok((Proxy { child, pid, foreign, http, base, client }, took))
    }

    /// A client of it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Somebody who opens its console.
    pub async fn operator(&self, does: Does) -> Result<Operator, Fail> {
        Operator::look(&self.http, &self.base, does).await
    }

    /// The proxy's own process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The process group of its browser.
    pub fn browser_group(&self) -> Result<i32, Fail> {
        if let Some(group) = self.foreign {
            return Ok(group);
        }
        let browser = processes().into_iter().find(|it| it.parent == self.pid && it.group == it.pid);
        browser.map(|it| it.group).ok_or_else(|| "the proxy has no browser".into())
    }

    /// Asks it to stop, and waits.
    pub async fn stop(mut self) -> Result<(), Fail> {
        if let Some(pid) = Pid::from_raw(self.pid) {
            kill_process(pid, Signal::TERM)?;
        }
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            eprintln!("the proxy (pid {}) did not stop in time: killing it", self.pid);
            self.child.kill().await?;
        }
        Ok(())
    }
}

fn no_tls() -> Result<rustls::ClientConfig, Fail> {
    Ok(rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}
