//! A whole service on this machine: several instances, the Redis that they share, and a real nginx in front with
//! the project's own files. Each part is a process of its own, and is ended by its id, whatever comes.
//!
//! ```text
//! clients ──> Nginx ──────────┬──> Instance ──> Chromium ──┬──> the practice site
//!                             └──> Instance ──> Chromium ──┘
//!                                     └── RedisProgram
//! ```
//!
//! Knows neither what is asked nor what is broken on purpose.

pub mod ask;
pub mod instance;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tabproxy::practice::Practice;
use tempfile::TempDir;

use instance::Instance;

use super::nginx::{Nginx, Setup};
use super::redis::RedisProgram;
pub use super::{Fail, PORT_TRIES, free_port};

/// The longest that a part may take to start or to stop: far more than any of them needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What is to run.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// How many instances.
    pub instances: usize,
    /// Whether they share a Redis.
    pub redis: bool,
    /// More of their environment.
    pub env: Vec<(&'static str, String)>,
    /// Where they all write their log.
    pub log: PathBuf,
}

/// A running service. Dropping it ends all of its processes.
pub struct Service {
    // Ended in this order: from the front to the back.
    /// nginx.
    pub front: Nginx,
    /// In the order of their numbers.
    pub instances: Vec<Arc<Instance>>,
    /// Redis, if they share one.
    pub store: Option<Arc<RedisProgram>>,
    _home: TempDir,
}

impl Service {
    /// Starts all of it, and waits until each instance is ready.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(site: &Practice, plan: &Plan) -> Result<Service, Fail> {
        let home = tempfile::Builder::new().prefix("tabproxy-service-").tempdir()?;
        let certificate = home.path().join("site.pem");
        fs::write(&certificate, site.cert_pem())?;
        let store = match plan.redis {
            true => Some(Arc::new(RedisProgram::launch(&[], false).await?)),
            false => None,
        };
        let mut env = vec![
            ("TABPROXY_ORIGIN", site.front_url()),
            ("TABPROXY_RESOLVE", site.resolve()),
            ("TABPROXY_TRUST_CERT", certificate.display().to_string()),
            ("TABPROXY_HEADLESS", "true".to_owned()),
        ];
        env.extend(store.iter().map(|it| ("TABPROXY_REDIS", it.url())));
        env.extend(plan.env.iter().cloned());
        let mut instances = Vec::new();
        // One after the other: on few cores, starting all at once takes no less time, and each its share of more.
        for number in 0..plan.instances {
            let name = format!("instance-{number}");
            let directory = subdirectory(home.path(), &name)?;
            let mut env = env.clone();
            env.push(("TABPROXY_INSTANCE", name));
            instances.push(Arc::new(Instance::start(&directory, &env, &plan.log).await?));
        }
        let pool: Vec<_> = instances.iter().map(|it| it.addr).collect();
        let front = Nginx::start(&Setup { workers: "auto", ..Setup::pool(pool) }).await?;
        Ok(Service { front, instances, store, _home: home })
    }

    /// Where it is spoken to.
    pub fn addr(&self) -> SocketAddr {
        self.front.addr
    }

    /// Asks all parts to stop, and waits; what did not stop as it should, in words.
    ///
    /// # Errors
    /// When a part cannot even be killed.
    pub async fn stop(self) -> Result<Vec<String>, Fail> {
        let mut odd = Vec::new();
        self.instances.iter().for_each(|it| it.signal(Signal::TERM));
        for (number, instance) in self.instances.iter().enumerate() {
            match instance.ended().await {
                Some(status) if status.success() => {}
                Some(status) => odd.push(format!("instance {number} ended with {status}")),
                None => odd.push(format!("instance {number} did not stop")),
            }
        }
        Ok(odd)
    }
}

fn subdirectory(home: &Path, name: &str) -> Result<PathBuf, Fail> {
    let path = home.join(name);
    fs::create_dir(&path)?;
    Ok(path)
}
