//! The proxy under test: the program as users run it, in a process of its own, so that what it needs can be
//! measured apart from the load. Its way to the browser and the browser's way to the site lead through relays.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tabproxy::practice::Practice;
use tempfile::TempDir;
use tokio::process::Child;

use super::shared::procfs::{self, Process};
use super::shared::program;
use super::shared::relay::Relay;
use super::shared::wires;
use super::wire;
use super::{Fail, PATIENCE};

/// Fewer places than the burst has clients, so that queue and refusals have their turn.
const MAX_INFLIGHT: &str = "32";
const QUEUE: &str = "200";
/// How often a free port may turn out to be taken.
const PORT_TRIES: usize = 5;
const POLL: Duration = Duration::from_millis(50);

/// What stays from one start to the next: profile, certificate, the script, the relays.
pub struct Home {
    dir: TempDir,
    log: PathBuf,
    origin: String,
    resolve: String,
    /// Between the proxy and the browser's CDP port.
    pub link: Relay,
    /// Between the browser and the site.
    pub way: Arc<Relay>,
    /// What the proxy takes for the browser.
    browser: PathBuf,
}

impl Home {
    /// An empty one; the proxy's log goes to `log`.
    pub async fn new(site: &Practice, log: PathBuf) -> Result<Home, Fail> {
        let dir = tempfile::Builder::new().prefix("tabproxy-soak-").tempdir()?;
        fs::write(dir.path().join("site.pem"), site.cert_pem())?;
        File::create(&log)?;
        let (link, browser) = wires::to_the_browser(dir.path()).await?;
        let there = site.addr();
        let way = Arc::new(Relay::start(move || Ok(there)).await?);
        let resolve = site.resolve().replace(&there.to_string(), &way.addr().to_string());
        Ok(Home { dir, log, origin: site.front_url(), resolve, link, way, browser })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the proxy writes its log.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// A running proxy. Dropping it kills it, and its browser dies with it.
pub struct Proxy {
    child: Child,
    /// Its process.
    pub pid: i32,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Proxy {
    /// Starts one and waits until it is ready; on `addr`, or on any free port.
    pub async fn start(home: &Home, addr: Option<SocketAddr>) -> Result<Proxy, Fail> {
        for _ in 0..PORT_TRIES {
            let free = || Ok::<_, Fail>(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?);
            let mut proxy = Proxy::spawn(home, addr.map_or_else(free, Ok)?)?;
            match proxy.wait_ready(PATIENCE).await {
                Ok(()) => return Ok(proxy),
                // Another program was faster; whatever else is wrong stays wrong.
                Err(_) if proxy.child.try_wait()?.is_some() && has_lost_its_port(home) => {}
                Err(error) => return Err(error),
            }
        }
        Err("no port could be had".into())
    }

    fn spawn(home: &Home, addr: SocketAddr) -> Result<Proxy, Fail> {
        let log = OpenOptions::new().append(true).open(&home.log)?;
        let mut command = program::serve(log)?;
        command
            .env("TABPROXY_LISTEN", addr.to_string())
            .env("TABPROXY_ORIGIN", &home.origin)
            .env("TABPROXY_RESOLVE", &home.resolve)
            .env("TABPROXY_TRUST_CERT", home.file("site.pem"))
            .env("TABPROXY_PROFILE", home.file("profile"))
            .env("TABPROXY_CHROMIUM", &home.browser)
            .env("TABPROXY_HEADLESS", "true")
            .env("TABPROXY_MAX_INFLIGHT", MAX_INFLIGHT)
            .env("TABPROXY_QUEUE", QUEUE);
        let child = command.spawn()?;
        let pid = child.id().ok_or("no process id")?.cast_signed();
        Ok(Proxy { child, pid, addr })
    }

    /// Waits until it would serve a request.
    pub async fn wait_ready(&mut self, patience: Duration) -> Result<(), Fail> {
        let began = Instant::now();
        while !wire::is_ready(self.addr).await {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the proxy ended: {status}").into());
            }
            if began.elapsed() > patience {
                return Err("the proxy does not get ready".into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// The main process of its browser, while there is one. It leads its process group.
    pub fn browser(&self) -> Option<i32> {
        browser_of(self.pid)
    }

    /// Asks it to stop, and waits; the exit status, and `None` if it had to be killed.
    pub async fn stop(mut self) -> Result<Option<ExitStatus>, Fail> {
        if let Some(pid) = Pid::from_raw(self.pid) {
            kill_process(pid, Signal::TERM)?;
        }
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(Some(status?)),
            Err(_) => {
                self.child.kill().await?;
                Ok(None)
            }
        }
    }
}

/// The browser that belongs to the proxy of this process id.
pub fn browser_of(proxy: i32) -> Option<i32> {
    let is_browser = |it: &Process| it.parent == proxy && it.group == it.pid && it.state != 'Z';
    procfs::processes().into_iter().find(is_browser).map(|it| it.pid)
}

fn has_lost_its_port(home: &Home) -> bool {
    fs::read_to_string(&home.log).is_ok_and(|log| log.contains("cannot listen on"))
}

/// Reads what is new in the proxy's log.
pub struct Tail {
    file: File,
    rest: String,
}

impl Tail {
    /// From the present end on.
    pub fn new(log: &Path) -> io::Result<Tail> {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Tail { file, rest: String::new() })
    }

    /// Whole lines that have come since.
    pub fn lines(&mut self) -> Vec<String> {
        let mut new = Vec::new();
        if self.file.read_to_end(&mut new).is_err() {
            return Vec::new();
        }
        self.rest.push_str(&String::from_utf8_lossy(&new));
        let end = self.rest.rfind('\n').map_or(0, |at| at + 1);
        let whole: String = self.rest.drain(..end).collect();
        whole.lines().map(str::to_owned).collect()
    }
}
