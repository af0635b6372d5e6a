//! The practice site: a built-in stand-in for the chat site, for the demo, the tests and the benchmarks.
//!
//! It is an HTTPS origin with a bot check, a home page that watches for intruders, a service worker, the
//! chat site's API in both stream formats, and knobs for every fault that a site can have. It is as
//! strict as a real one, and it counts all that it sees. It imports nothing else of this crate: what it
//! judges must not be able to help it.
//!
//! | file | what for |
//! |---|---|
//! | `server` | TLS, HTTP/1.1 and HTTP/2 |
//! | `routes`, `policy` | which route, and who may pass: the order of the layers is the policy |
//! | `gate` | the bot check, clearance and session cookies |
//! | `home`, `assets/` | pages and scripts |
//! | `conversation`, `answer`, `events`, `text`, `knobs` | from a prompt to a streamed answer |
//! | `api`, `helpers` | the small routes, and those for tests |
//! | `counters`, `reply` | what was seen; answers and refusals |

mod answer;
mod api;
mod conversation;
mod counters;
mod events;
mod gate;
mod helpers;
mod home;
mod knobs;
mod policy;
mod reply;
mod routes;
mod server;
mod text;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::builder::FalseyValueParser;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use counters::Counters;
pub use gate::Check;
pub use helpers::pattern;
pub use knobs::Format;
pub use text::answer_text;

/// How the practice site runs.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct PracticeArgs {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, env = "TABPROXY_PRACTICE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Offer HTTP/1.1 only
    #[arg(long, env = "TABPROXY_PRACTICE_HTTP1_ONLY", value_parser = FalseyValueParser::new())]
    pub http1_only: bool,
    /// Concurrent streams that one HTTP/2 connection may have
    #[arg(long, env = "TABPROXY_PRACTICE_MAX_STREAMS", value_name = "N", default_value_t = 1000)]
    pub max_streams: u32,
    /// The bot check in front of the pages and the API
    #[arg(long, env = "TABPROXY_PRACTICE_CHECK", value_enum, default_value_t = Check::Auto)]
    pub check: Check,
    /// The least time that the automatic check takes in the page, in milliseconds
    #[arg(long, env = "TABPROXY_PRACTICE_CHECK_MS", value_name = "MS", default_value_t = 100)]
    pub check_ms: u64,
    /// How long a passed check is good for, in seconds
    #[arg(long, env = "TABPROXY_PRACTICE_CHECK_TTL", value_name = "SECONDS", default_value_t = 3600)]
    pub check_ttl: u64,
    /// Want a sign-in before the home page and the API
    #[arg(long, env = "TABPROXY_PRACTICE_SIGN_IN", value_parser = FalseyValueParser::new())]
    pub sign_in: bool,
    /// How answers are streamed when the prompt does not say
    #[arg(long, env = "TABPROXY_PRACTICE_FORMAT", value_enum, default_value_t = Format::Classic)]
    pub format: Format,
    /// Write the site's certificate (PEM) to this file, for clients to trust
    #[arg(long, env = "TABPROXY_PRACTICE_CERT_OUT", value_name = "FILE")]
    pub cert_out: Option<PathBuf>,
}

/// The defaults of the command line, except that the port is any free one.
impl Default for PracticeArgs {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            http1_only: false,
            max_streams: 1000,
            check: Check::Auto,
            check_ms: 100,
            check_ttl: 3600,
            sign_in: false,
            format: Format::Classic,
            cert_out: None,
        }
    }
}

/// A running practice site. Dropping it stops it at once, running answers too.
#[derive(Debug)]
pub struct Practice {
    addr: SocketAddr,
    cert_pem: String,
    site: Arc<routes::Site>,
    _stop: DropGuard,
}

impl Practice {
    /// Starts a site on the current Tokio runtime; it is reachable when this returns.
    ///
    /// # Errors
    /// When the address cannot be bound, the certificate file cannot be written, or the system has no
    /// randomness for a key.
    pub async fn start(args: PracticeArgs) -> io::Result<Self> {
        let identity = server::Identity::new(args.http1_only)?;
        if let Some(file) = &args.cert_out {
            tokio::fs::write(file, &identity.pem).await?;
        }
        let listener = TcpListener::bind(args.listen).await?;
        let addr = listener.local_addr()?;
        let site = Arc::new(routes::Site {
            tally: Arc::default(),
            gate: gate::Gate::new(
                args.check,
                args.sign_in,
                Duration::from_millis(args.check_ms),
                Duration::from_secs(args.check_ttl),
            ),
            conversations: conversation::Conversations::default(),
            format: args.format,
            leak: AtomicU64::new(0),
            restless: AtomicBool::new(false),
        });
        let (cert_pem, stop) = (identity.pem.clone(), CancellationToken::new());
        tokio::spawn(server::serve(
            listener,
            identity,
            routes::router(Arc::clone(&site)),
            Arc::clone(&site.tally),
            args.max_streams,
            stop.clone(),
        ));
        Ok(Self { addr, cert_pem, site, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The self-made certificate, valid for all of the site's names.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The address that people type; every path of it redirects (308) to the home.
    pub fn front_url(&self) -> String {
        self.url(policy::FRONT)
    }

    /// Where the chat lives.
    pub fn home_url(&self) -> String {
        self.url(policy::HOME)
    }

    /// `NAME=IP:PORT,…` for each of the site's names: none of them is in any DNS.
    pub fn resolve(&self) -> String {
        // Whoever listens on every address is reached on the loopback one.
        let ip = if self.addr.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { self.addr.ip() };
        let addr = SocketAddr::new(ip, self.addr.port());
        [policy::FRONT, policy::HOME, policy::ELSEWHERE].map(|name| format!("{name}={addr}")).join(",")
    }

    /// Everything counted so far.
    pub fn counters(&self) -> Counters {
        self.site.tally.snapshot()
    }

    /// Starts counting anew; answers that are running stay counted as active.
    pub fn reset_counters(&self) {
        self.site.tally.reset();
    }

    /// Forgets every conversation, as if its owner had deleted them.
    pub fn forget_conversations(&self) {
        self.site.conversations.forget_all();
    }

    /// Makes every clearance cookie that was given so far invalid.
    pub fn expire_clearance(&self) {
        self.site.gate.expire_clearance();
    }

    /// Changes the bot check; clearances stay valid.
    pub fn set_check(&self, check: Check) {
        self.site.gate.set_check(check);
    }

    /// Raises or removes the sign-in wall; whoever is signed in stays so.
    pub fn set_sign_in(&self, wanted: bool) {
        self.site.gate.set_sign_in(wanted);
    }

    /// From its next load on the home page leaks so many megabytes a second; 0 for none.
    pub fn set_leak(&self, megabytes: u64) {
        self.site.leak.store(megabytes, Ordering::Relaxed);
    }

    /// From its next load on the home page reloads itself as soon as it is there, or no longer does.
    pub fn set_restless(&self, restless: bool) {
        self.site.restless.store(restless, Ordering::Relaxed);
    }

    /// `name=value` of a clearance cookie for this User-Agent: lets a benchmark's direct client in.
    pub fn clearance_for(&self, user_agent: &str) -> String {
        format!("{}={}", gate::CLEARANCE, self.site.gate.clearance(user_agent, self.site.now_ms()))
    }

    /// Runs until `shutdown` completes, then stops.
    pub async fn serve_until(self, shutdown: impl Future) {
        shutdown.await;
    }

    fn url(&self, host: &str) -> String {
        match self.addr.port() {
            443 => format!("https://{host}/"),
            port => format!("https://{host}:{port}/"),
        }
    }
}
