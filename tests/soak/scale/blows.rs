//! What happens to a service of several instances: the real thing each time, and what a supervisor does about it.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use fastrand::Rng;
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::super::Fail;
use super::super::harm::Harm;
use super::super::shared::procfs;
use super::super::shared::redis::RedisProgram;
use super::super::shared::service::{Service, ask, instance::Instance};

/// Longer than the lease of a lock lasts, and than nginx waits in silence.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(25);
/// How long Redis is away, and how long it is silent.
const REDIS_AWAY: Duration = Duration::from_secs(4);
const REDIS_SILENT: Duration = Duration::from_secs(6);
/// After which the next look at a repair comes.
const POLL: Duration = Duration::from_millis(20);

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Blow {
    /// kill -9 of an instance, which its supervisor starts again
    KillInstance,
    /// SIGTERM of an instance, which drains and is started again
    RollInstance,
    /// SIGSTOP of an instance, for longer than its leases last
    FreezeInstance,
    /// kill -9 of one instance's browser
    KillBrowser,
    /// kill -9 of Redis, which comes back with nothing in it
    KillRedis,
    /// SIGSTOP of Redis for six seconds
    FreezeRedis,
    /// nginx reads its files again
    ReloadNginx,
}

impl Harm for Blow {
    fn notice(self) -> Duration {
        Duration::from_secs(match self {
            Blow::KillInstance | Blow::KillBrowser => 5,
            Blow::FreezeInstance => 20,
            Blow::RollInstance | Blow::KillRedis | Blow::FreezeRedis => 8,
            Blow::ReloadNginx => 2,
        })
    }
}

/// A blow whose repair is under way: how long after it everything was there again.
pub struct Struck {
    /// Into what.
    pub what: String,
    /// Ends when what was struck is there again, or says why it is not.
    pub mended: JoinHandle<Result<(), Fail>>,
}

impl Blow {
    /// Whether it needs a Redis.
    pub fn needs_redis(self) -> bool {
        matches!(self, Blow::KillRedis | Blow::FreezeRedis)
    }

    /// Strikes.
    ///
    /// # Errors
    /// When there is nothing to strike.
    pub fn strike(self, service: &Service, rng: &mut Rng) -> Result<Struck, Fail> {
        let number = rng.usize(0..service.instances.len());
        let one = service.instances[number].clone();
        let name = format!("instance {number}, pid {}", one.pid());
        let redis = || service.store.clone().ok_or("there is no Redis");
        Ok(match self {
            Blow::KillInstance => Struck::instance(name, one, Signal::KILL),
            Blow::RollInstance => Struck::instance(name, one, Signal::TERM),
            Blow::FreezeInstance => {
                one.signal(Signal::STOP);
                let mended = async move {
                    sleep(BEYOND_THE_LEASE).await;
                    one.signal(Signal::CONT);
                    one.wait_ready(super::super::RECOVERY).await.map(drop)
                };
                Struck { what: name, mended: tokio::spawn(mended) }
            }
            Blow::KillBrowser => {
                let browser = one.browsers().into_iter().next().ok_or("there is no browser")?;
                procfs::kill(browser);
                Struck { what: format!("of {name}"), mended: tokio::spawn(another_browser(one, browser)) }
            }
            Blow::KillRedis => {
                let redis = redis()?;
                let what = format!("pid {}", redis.pid());
                Struck { what, mended: tokio::spawn(async move { lose(&redis).await }) }
            }
            Blow::FreezeRedis => {
                let redis = redis()?;
                redis.signal(Signal::STOP);
                let what = format!("pid {}", redis.pid());
                let mended = async move {
                    sleep(REDIS_SILENT).await;
                    redis.signal(Signal::CONT);
                    redis.command::<u64>(&["DBSIZE"]).await.map(drop)
                };
                Struck { what, mended: tokio::spawn(mended) }
            }
            Blow::ReloadNginx => {
                service.front.reload();
                Struck { what: String::new(), mended: tokio::spawn(async { Ok(()) }) }
            }
        })
    }
}

impl Struck {
    fn instance(what: String, one: Arc<Instance>, how: Signal) -> Struck {
        one.signal(how);
        Struck { what, mended: tokio::spawn(async move { one.supervise().await }) }
    }
}

/// Kills Redis, and starts it again after a while, with nothing in it.
async fn lose(redis: &RedisProgram) -> Result<(), Fail> {
    redis.kill();
    sleep(REDIS_AWAY).await;
    redis.restart().await
}

/// Waits until an instance has another browser than this one, and is ready with it.
async fn another_browser(instance: Arc<Instance>, dead: i32) -> Result<(), Fail> {
    let again = async {
        loop {
            let living = instance.browsers();
            if living.iter().any(|it| *it != dead) && !living.contains(&dead) {
                break;
            }
            sleep(POLL).await;
        }
        while !ask::is_ready(instance.addr).await {
            sleep(POLL).await;
        }
    };
    tokio::time::timeout(super::super::RECOVERY, again).await.map_err(|_| "there is no other browser".into())
}
