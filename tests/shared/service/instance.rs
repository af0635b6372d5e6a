//! One instance: the program as users run it, with a profile and a port of its own, both of which it keeps when it
//! is started again.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::process::Child;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::{Fail, PATIENCE, PORT_TRIES, ask, free_port};
use crate::shared::procfs::{self, Process};
use crate::shared::program;

const POLL: Duration = Duration::from_millis(20);
/// What a supervisor waits before it starts again what has ended.
const RESTART: Duration = Duration::from_millis(500);

/// An instance. Dropping it kills its process, and its browser dies with it.
pub struct Instance {
    /// Where it listens.
    pub addr: SocketAddr,
    directory: PathBuf,
    env: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
    pid: AtomicI32,
}

impl Instance {
    /// Starts one on a free port, with its files in `directory`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn start(
        directory: &Path,
        env: &[(&'static str, String)],
        log: &Path,
    ) -> Result<Instance, Fail> {
        for _ in 0..PORT_TRIES {
            let instance = Instance {
                addr: free_port()?,
                directory: directory.to_owned(),
                env: env.to_vec(),
                log: log.to_owned(),
                child: Mutex::new(None),
                pid: AtomicI32::new(0),
            };
            instance.spawn().await?;
            match instance.wait_ready(PATIENCE).await {
                Ok(_) => return Ok(instance),
                Err(_) if instance.has_lost_its_port() => {}
                Err(error) => return Err(error),
            }
        }
        Err("no port could be had".into())
    }

    async fn spawn(&self) -> Result<(), Fail> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = program::serve(log)?;
        if let Some(chromium) = std::env::var_os("TABPROXY_CHROMIUM") {
            command.env("TABPROXY_CHROMIUM", chromium);
        }
        command
            .env("TABPROXY_LISTEN", self.addr.to_string())
            .env("TABPROXY_PROFILE", self.directory.join("profile"))
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        let child = command.spawn()?;
        self.pid.store(child.id().ok_or("no process id")?.cast_signed(), Ordering::SeqCst);
        *self.child.lock().await = Some(child);
        Ok(())
    }

    /// Waits until it would serve a request; how long that took.
    ///
    /// # Errors
    /// When it ends, or is not ready within `patience`.
    pub async fn wait_ready(&self, patience: Duration) -> Result<Duration, Fail> {
        let began = Instant::now();
        while !ask::is_ready(self.addr).await {
            if let Some(child) = &mut *self.child.lock().await
                && let Some(status) = child.try_wait()?
            {
                return Err(format!("an instance ended: {status}\n{}", self.last_words()).into());
            }
            if began.elapsed() > patience {
                return Err(format!("an instance does not get ready\n{}", self.last_words()).into());
            }
            sleep(POLL).await;
        }
        Ok(began.elapsed())
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::SeqCst)
    }

    /// The main processes of its browsers. Each leads its process group.
    pub fn browsers(&self) -> Vec<i32> {
        let own = self.pid();
        let is_browser = |it: &Process| it.parent == own && it.group == it.pid && it.state != 'Z';
        procfs::processes().into_iter().filter(is_browser).map(|it| it.pid).collect()
    }

    /// Sends it a signal.
    pub fn signal(&self, how: Signal) {
        procfs::signal(self.pid(), how);
    }

    /// Waits until it has ended, and kills it if it does not: then `None`.
    pub async fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().await;
        let running = child.as_mut()?;
        let status = timeout(PATIENCE, running.wait()).await;
        if status.is_err() {
            let _ = running.kill().await;
        }
        *child = None;
        status.ok()?.ok()
    }

    /// Does what a supervisor does: waits until it has ended, and a moment, and starts it again. Returns when it is
    /// ready.
    ///
    /// # Errors
    /// When it does not get ready again.
    pub async fn supervise(&self) -> Result<(), Fail> {
        let began = Instant::now();
        self.ended().await;
        loop {
            sleep(RESTART).await;
            self.spawn().await?;
            match self.wait_ready(PATIENCE).await {
                Ok(_) => return Ok(()),
                // Somebody has the port for a while.
                Err(_) if began.elapsed() < PATIENCE && self.has_lost_its_port() => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn has_lost_its_port(&self) -> bool {
        self.last_words().contains(&format!("cannot listen on {}", self.addr))
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
