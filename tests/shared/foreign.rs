//! A browser that the proxy has not started, as somebody else would: with a plain `--remote-debugging-port`, on an
//! empty profile, and with the flags that the practice site needs.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tabproxy::browser::launch;
use tabproxy::config;
use tabproxy::practice::Practice;
use tempfile::TempDir;

use super::procfs;

/// How long it may take until it says where it listens.
const START: Duration = Duration::from_secs(30);
/// So many more free ports are tried.
const PORTS: usize = 2;

/// A running browser. Dropping it kills it with all its helpers.
pub struct Foreign {
    child: Child,
    address: String,
    _profile: TempDir,
}

impl Foreign {
    /// Starts it; `port` 0 for one that is free.
    ///
    /// # Errors
    /// There is no Chromium, or it does not say where it listens.
    pub fn start(site: &Practice, port: u16) -> io::Result<Foreign> {
        if port != 0 {
            return Foreign::start_at(site, port);
        }
        let mut tries = 0..PORTS;
        loop {
            // Told 0, Chromium would say to every page that it is automated. Somebody may take the port before it
            // does; Chromium then goes on without, and says nothing more.
            let free = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            match Foreign::start_at(site, free) {
                Err(_) if tries.next().is_some() => {}
                done => return done,
            }
        }
    }

    fn start_at(site: &Practice, port: u16) -> io::Result<Foreign> {
        let profile = tempfile::tempdir()?;
        let chosen = std::env::var_os("TABPROXY_CHROMIUM").filter(|it| !it.is_empty()).map(Into::into);
        let binary = chosen.or_else(launch::find_chromium).ok_or(io::Error::other("no Chromium found"))?;
        let resolve = config::resolve(&site.resolve()).map_err(|it| io::Error::other(it.what))?;
        let rules: Vec<_> = resolve.iter().map(|(host, at)| format!("MAP {host} {at}")).collect();
        let pins = config::pins_of(site.cert_pem().as_bytes()).map_err(io::Error::other)?;
        let mut command = Command::new(binary);
        command
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--remote-debugging-port={port}"))
            .arg(format!("--host-resolver-rules={}", rules.join(",")))
            .arg(format!("--ignore-certificate-errors-spki-list={}", pins.join(",")))
            .args([
                "--headless=new",
                "--no-first-run",
                "--disable-background-networking",
                "--no-proxy-server",
            ])
            .args(["--disable-dev-shm-usage", "--no-sandbox", "about:blank"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let said = BufReader::new(child.stderr.take().ok_or(io::Error::other("no stderr"))?).lines();
        let (sender, told) = mpsc::channel();
        // To its end: whatever else it says must not stop it.
        std::thread::spawn(move || {
            for line in said.map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    let _ = sender.send(address.to_owned());
                }
            }
        });
        let mut foreign = Foreign { child, address: String::new(), _profile: profile };
        let told = told.recv_timeout(START);
        foreign.address = told.map_err(|_| io::Error::other("the browser did not say where it listens"))?;
        Ok(foreign)
    }

    /// `ws://127.0.0.1:…/devtools/browser/…`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its DevTools listen.
    pub fn port(&self) -> SocketAddr {
        let host = self.address.trim_start_matches("ws://").split('/').next().unwrap_or_default();
        host.parse().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The same as seen through `port`.
    pub fn address_by(&self, port: SocketAddr) -> String {
        self.address.replace(&self.port().to_string(), &port.to_string())
    }

    /// Its main process, which leads its group.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        procfs::members(self.pid()).into_iter().for_each(|it| procfs::kill(it.pid));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
