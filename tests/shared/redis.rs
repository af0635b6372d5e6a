//! A real Redis, in memory only, with a password, on a port of its own, which it keeps.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::FromRedisValue;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{Fail, PORT_TRIES, free_port, procfs};

const POLL: Duration = Duration::from_millis(20);
/// The longest that a look at it may take.
const LOOK: Duration = Duration::from_secs(5);
/// The longest that it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Its password, with characters that have to be percent-encoded in an address.
pub const PASSWORD: &str = "canary/pass:word";
const PASSWORD_ENCODED: &str = "canary%2Fpass%3Aword";

/// A running `redis-server`; killed when dropped.
pub struct RedisProgram {
    /// Where it listens.
    pub addr: SocketAddr,
    child: Mutex<Child>,
    home: TempDir,
    options: Vec<String>,
    tls: bool,
}

impl RedisProgram {
    /// Starts one with further options on a free port, which with `tls` speaks nothing else.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn launch(options: &[&str], tls: bool) -> Result<RedisProgram, Fail> {
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        for _ in 0..PORT_TRIES {
            let (addr, home) = (free_port()?, TempDir::with_prefix("tabproxy-redis-")?);
            let child = Mutex::new(spawn(addr, &home, &options, tls)?);
            let redis = RedisProgram { addr, child, home, options: options.clone(), tls };
            if redis.is_up().await? {
                return Ok(redis);
            }
        }
        Err("redis-server does not start".into())
    }

    /// What `TABPROXY_REDIS` is to be.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://:{PASSWORD_ENCODED}@{}", self.addr)
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.lock().id().cast_signed()
    }

    /// Sends it a signal.
    pub fn signal(&self, how: Signal) {
        procfs::signal(self.pid(), how);
    }

    /// It ends at once, and with it all that it held.
    pub fn kill(&self) {
        let mut child = self.lock();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts it again where it was, empty.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&self) -> Result<(), Fail> {
        let began = Instant::now();
        // Somebody may have the port for a while.
        while began.elapsed() < PATIENCE {
            let again = spawn(self.addr, &self.home, &self.options, self.tls)?;
            *self.lock() = again;
            if self.is_up().await? {
                return Ok(());
            }
            sleep(POLL).await;
        }
        Err("redis-server does not start again".into())
    }

    /// The answer to a command, on a connection of its own.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, Fail> {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|it| {
            command.arg(it);
        });
        let ask = async {
            let client = redis::Client::open(self.url())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            command.query_async(&mut connection).await
        };
        Ok(timeout(LOOK, ask).await??)
    }

    /// Whether it takes connections; `false` when it has ended instead.
    async fn is_up(&self) -> Result<bool, Fail> {
        let began = Instant::now();
        while self.lock().try_wait()?.is_none() {
            let log = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            if log.contains("Ready to accept connections") {
                return Ok(true);
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("redis-server does not start: {log}").into());
            }
            sleep(POLL).await;
        }
        Ok(false)
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RedisProgram {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(addr: SocketAddr, home: &TempDir, options: &[String], tls: bool) -> Result<Child, Fail> {
    // What an earlier one has said is not of this one.
    let _ = fs::remove_file(home.path().join("log"));
    let mut command = Command::new("redis-server");
    command.args([if tls { "--tls-port" } else { "--port" }, &addr.port().to_string()]);
    if tls {
        command.args(["--port", "0"]);
    }
    command.args(["--bind", &addr.ip().to_string(), "--save", "", "--appendonly", "no"]);
    command.args(["--requirepass", PASSWORD, "--logfile", "log", "--dir"]).arg(home.path()).args(options);
    // A group of its own: a Ctrl-C is for us alone.
    let command = command.current_dir(home.path()).process_group(0);
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.spawn().map_err(|it| format!("redis-server: {it} (make deps-test)"))?)
}
