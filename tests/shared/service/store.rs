//! A Redis of our own: in memory only, with a password, on a port of its own, which it keeps.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::{Fail, PATIENCE, PORT_TRIES, free_port};
use crate::shared::procfs;

const POLL: Duration = Duration::from_millis(20);
/// The longest that a look at it may take.
const LOOK: Duration = Duration::from_secs(5);
const PASSWORD: &str = "practice";

/// A running Redis; killed when dropped.
pub struct Store {
    addr: SocketAddr,
    home: PathBuf,
    child: Mutex<Child>,
}

impl Store {
    /// Starts one with its files in `home`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(home: &Path) -> Result<Store, Fail> {
        for _ in 0..PORT_TRIES {
            let addr = free_port()?;
            let store = Store { addr, home: home.to_owned(), child: Mutex::new(spawn(addr, home)?) };
            if store.wait_ready().await? {
                return Ok(store);
            }
        }
        Err("redis-server does not start".into())
    }

    /// What `TABPROXY_REDIS` is to be.
    pub fn url(&self) -> String {
        format!("redis://:{PASSWORD}@{}", self.addr)
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.lock().id().cast_signed()
    }

    /// Sends it a signal.
    pub fn signal(&self, how: Signal) {
        procfs::signal(self.pid(), how);
    }

    /// Kills it, and starts it again after `pause`, with nothing in it.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn lose(&self, pause: Duration) -> Result<(), Fail> {
        {
            let mut child = self.lock();
            child.kill()?;
            child.wait()?;
        }
        sleep(pause).await;
        let began = Instant::now();
        // Somebody may have the port for a while.
        while began.elapsed() < PATIENCE {
            let again = spawn(self.addr, &self.home)?;
            *self.lock() = again;
            if self.wait_ready().await? {
                return Ok(());
            }
            sleep(pause).await;
        }
        Err("redis-server does not start again".into())
    }

    /// A section of what it tells of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn info(&self, section: &str) -> Result<String, Fail> {
        let mut connection = self.connect().await?;
        Ok(timeout(LOOK, redis::cmd("INFO").arg(section).query_async(&mut connection)).await??)
    }

    /// Commands that it has carried out for others, by name.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn commands(&self) -> Result<Vec<(String, u64)>, Fail> {
        let text = self.info("commandstats").await?;
        let of = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        let ours = |name: &str| ["info", "auth", "hello", "client"].iter().any(|it| name.starts_with(it));
        Ok(text.lines().filter_map(of).filter(|(name, _)| !ours(name)).collect())
    }

    /// How many keys it holds.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn keys(&self) -> Result<u64, Fail> {
        let mut connection = self.connect().await?;
        Ok(timeout(LOOK, redis::cmd("DBSIZE").query_async(&mut connection)).await??)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Fail> {
        let client = redis::Client::open(self.url())?;
        Ok(timeout(LOOK, client.get_multiplexed_async_connection()).await??)
    }

    /// Waits until it answers; `false` when it has ended instead.
    async fn wait_ready(&self) -> Result<bool, Fail> {
        let began = Instant::now();
        while self.keys().await.is_err() {
            if self.lock().try_wait()?.is_some() {
                return Ok(false);
            }
            if began.elapsed() > PATIENCE {
                return Err("redis-server does not answer".into());
            }
            sleep(POLL).await;
        }
        Ok(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let mut child = self.lock();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn spawn(addr: SocketAddr, home: &Path) -> Result<Child, Fail> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", &addr.ip().to_string(), "--port", &addr.port().to_string()]);
    command.args(["--requirepass", PASSWORD, "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.arg("--dir").arg(home).arg("--logfile").arg(home.join("log"));
    // A group of its own: a Ctrl-C is for us alone.
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    Ok(command.spawn().map_err(|it| format!("redis-server: {it} (make deps-test)"))?)
}
