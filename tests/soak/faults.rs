//! The faults that are injected: the real thing each time, from outside, as it happens to people.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use tabproxy::practice::Practice;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Fail;
use super::answer::Expect;
use super::harm::Harm;
use super::load::Load;
use super::proxy::{Home, Proxy};
use super::shared::procfs::{self, Process};
use super::shared::relay::Cut;

/// How long the site says nothing, and how long the processor is taken away.
const FOR_A_WHILE: Duration = Duration::from_secs(8);
/// Long enough to see which renderer works, and for a request to reach the site.
const MOMENT: Duration = Duration::from_millis(700);
/// Conversations that the site spoils at once.
const SPOILT: usize = 8;
/// A crowd: more than there are places and turns in the queue.
const CROWD: usize = 300;
/// Processes that want a core each.
const BUSY: usize = 8;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// kill -9 of the browser's main process
    KillBrowser,
    /// kill -9 of the busiest renderer: a carrier
    KillCarrier,
    /// kill -9 of any one renderer
    KillRenderer,
    /// kill -9 of every renderer
    KillRenderers,
    /// SIGSTOP of the busiest renderer: a carrier
    StopCarrier,
    /// SIGSTOP of any one renderer
    StopRenderer,
    /// SIGSTOP of every renderer
    StopRenderers,
    /// SIGSTOP of the browser's main process
    StopBrowser,
    /// kill -9 of the GPU process
    KillGpu,
    /// kill -9 of the network service, which holds the connections to the site
    KillNetwork,
    /// kill -9 of another utility process (storage, audio…)
    KillUtility,
    /// kill -9 of a zygote, from which renderers are forked
    KillZygote,
    /// the CDP connection is closed cleanly by the browser's side
    LinkClosed,
    /// the CDP connection is reset
    LinkReset,
    /// the CDP connection stays open and nothing passes
    LinkSilent,
    /// the site resets eight answers in mid-stream
    SiteResets,
    /// the site answers 429, 500, 502 and its challenge page
    SiteRefuses,
    /// every connection between the browser and the site is reset
    SiteCut,
    /// nothing passes between the browser and the site for eight seconds
    SiteSilent,
    /// the site wants its check to be passed again
    ClearanceExpires,
    /// the site wants a sign-in for eight seconds
    SignInWanted,
    /// 300 clients at once, some of which leave the queue
    Crowd,
    /// eight busy processes beside the proxy for eight seconds
    Starved,
}

/// What a fault is injected into.
pub struct Scene<'a> {
    /// The site.
    pub site: &'a Arc<Practice>,
    /// The relays.
    pub home: &'a Home,
    /// The proxy.
    pub proxy: &'a Proxy,
    /// The load, for faults that are made of requests.
    pub load: &'a Load,
}

/// A fault that was injected, and may still be going on.
#[derive(Default)]
pub struct Injected {
    /// When, since the start of the soak.
    pub at: Duration,
    /// Exchanges under way at that moment.
    pub in_flight: usize,
    /// Done when the fault itself is over.
    going_on: JoinSet<()>,
    /// Processes that were stopped.
    stopped: Vec<i32>,
    /// What exactly was done.
    pub what: String,
}

impl Injected {
    /// Waits until the fault itself is over, and wakes what it stopped and nobody has replaced; says how many
    /// those were.
    pub async fn over(mut self) -> usize {
        while self.going_on.join_next().await.is_some() {}
        let asleep = |pid: &&i32| Process::read(**pid).is_some_and(|it| it.state == 'T');
        let left: Vec<i32> = self.stopped.iter().filter(asleep).copied().collect();
        left.iter().for_each(|pid| drop(signal(*pid, Signal::CONT)));
        left.len()
    }
}

impl Harm for Fault {
    /// Shorter ones need not be noticed: the work goes on beside them.
    fn notice(self) -> Duration {
        Duration::from_secs(match self {
            Fault::KillBrowser | Fault::KillCarrier | Fault::KillRenderers => 15,
            Fault::LinkClosed | Fault::LinkReset => 15,
            Fault::StopCarrier | Fault::StopRenderers | Fault::LinkSilent | Fault::ClearanceExpires => 30,
            Fault::StopBrowser => 40,
            Fault::StopRenderer | Fault::SiteSilent | Fault::Starved => 12,
            Fault::SiteResets | Fault::SiteRefuses | Fault::SiteCut => 10,
            Fault::SignInWanted | Fault::Crowd => 10,
            Fault::KillRenderer
            | Fault::KillGpu
            | Fault::KillNetwork
            | Fault::KillUtility
            | Fault::KillZygote => 3,
        })
    }

    fn why_not(self) -> Option<&'static str> {
        match self {
            Fault::SiteCut => Some(
                "Chromium itself repeats a request, also a POST, whose connection is reset before the head of its \
                 answer, if the connection was used before",
            ),
            _ => None,
        }
    }
}

impl Fault {
    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done here: there is no such process.
    pub async fn inject(self, scene: &Scene<'_>, rng: &mut Rng) -> Result<Injected, Fail> {
        let carrier = match self {
            Fault::KillCarrier | Fault::StopCarrier => scene.carrier().await?,
            _ => Vec::new(),
        };
        let ledger = &scene.load.ledger;
        let mut done = Injected { at: ledger.now(), in_flight: ledger.open(), ..Injected::default() };
        match self {
            Fault::KillBrowser => done.signal(&scene.browser()?, Signal::KILL)?,
            Fault::StopBrowser => done.signal(&scene.browser()?, Signal::STOP)?,
            Fault::KillCarrier => done.signal(&carrier, Signal::KILL)?,
            Fault::StopCarrier => done.signal(&carrier, Signal::STOP)?,
            Fault::KillRenderer => done.signal(&one(scene.helpers("renderer", "")?, rng), Signal::KILL)?,
            Fault::KillRenderers => done.signal(&scene.helpers("renderer", "")?, Signal::KILL)?,
            Fault::StopRenderer => done.signal(&one(scene.helpers("renderer", "")?, rng), Signal::STOP)?,
            Fault::StopRenderers => done.signal(&scene.helpers("renderer", "")?, Signal::STOP)?,
            Fault::KillGpu => done.signal(&scene.helpers("gpu-process", "")?, Signal::KILL)?,
            Fault::KillNetwork => done.signal(&scene.helpers("utility", "network.")?, Signal::KILL)?,
            Fault::KillUtility => {
                let mut others = scene.helpers("utility", "")?;
                let network = scene.helpers("utility", "network.").unwrap_or_default();
                others.retain(|pid| !network.contains(pid));
                done.signal(&one(others, rng), Signal::KILL)?;
            }
            Fault::KillZygote => done.signal(&one(scene.helpers("zygote", "")?, rng), Signal::KILL)?,
            Fault::LinkClosed => scene.home.link.cut(Cut::Close),
            Fault::LinkReset => scene.home.link.cut(Cut::Reset),
            Fault::LinkSilent => scene.home.link.cut(Cut::Silence),
            Fault::SiteResets => {
                for _ in 0..SPOILT {
                    let knobs = format!("reset={}", rng.u32(0..40));
                    done.spoil(scene.load, knobs, Expect::Broken);
                }
            }
            Fault::SiteRefuses => {
                for (status, knobs) in [(429, "status=429"), (500, "status=500"), (502, "status=502")] {
                    for wait in ["", " first=300"] {
                        done.spoil(scene.load, format!("{knobs}{wait}"), Expect::Status(status));
                    }
                }
                // Once: a second check soon after the first is a person's business, and takes a minute here.
                done.spoil(scene.load, "status=403".into(), Expect::Status(403));
            }
            Fault::SiteCut => {
                // With requests among them that were sent and not yet answered: those a browser might repeat.
                for _ in 0..SPOILT {
                    done.spoil(scene.load, "first=3000".into(), Expect::Whole);
                }
                sleep(MOMENT).await;
                done.at = ledger.now();
                scene.home.way.cut(Cut::Reset);
            }
            Fault::SiteSilent => {
                let way = scene.home.way.clone();
                way.hold(true);
                done.going_on.spawn(async move {
                    sleep(FOR_A_WHILE).await;
                    way.hold(false);
                });
            }
            Fault::ClearanceExpires => scene.site.expire_clearance(),
            Fault::SignInWanted => {
                let site = scene.site.clone();
                site.set_sign_in(true);
                done.going_on.spawn(async move {
                    sleep(FOR_A_WHILE).await;
                    site.set_sign_in(false);
                });
            }
            Fault::Crowd => {
                for _ in 0..CROWD {
                    let leaves = (rng.u8(0..5) == 0).then(|| Duration::from_millis(rng.u64(0..1500)));
                    let load = scene.load.clone();
                    done.going_on.spawn(async move { load.crowded(leaves).await });
                }
            }
            Fault::Starved => starve(&mut done)?,
        }
        Ok(done)
    }
}

impl Injected {
    fn signal(&mut self, pids: &[i32], how: Signal) -> Result<(), Fail> {
        if pids.is_empty() {
            return Err("there is no such process".into());
        }
        for pid in pids {
            signal(*pid, how)?;
        }
        if how == Signal::STOP {
            self.stopped = pids.to_vec();
        }
        self.what = format!("pid {pids:?}");
        Ok(())
    }

    fn spoil(&mut self, load: &Load, knobs: String, expect: Expect) {
        let load = load.clone();
        self.going_on.spawn(async move { load.spoilt(&knobs, expect).await });
    }
}

impl Scene<'_> {
    fn browser(&self) -> Result<Vec<i32>, Fail> {
        Ok(self.proxy.browser().into_iter().collect())
    }

    /// The renderer that has used the most processor time during a moment of the load: nothing outside tells which
    /// one a tab lives in, but this one carries.
    async fn carrier(&self) -> Result<Vec<i32>, Fail> {
        let renderers = self.helpers("renderer", "")?;
        let before: Vec<_> = renderers.iter().map(|pid| procfs::cpu_of(*pid)).collect();
        sleep(MOMENT).await;
        let used = renderers.iter().zip(before).map(|(pid, before)| (*pid, procfs::cpu_of(*pid) - before));
        let busiest = used.filter(|it| it.1.is_finite()).max_by(|a, b| a.1.total_cmp(&b.1));
        Ok(busiest.map(|it| it.0).into_iter().collect())
    }

    /// The browser's processes of this type whose `--utility-sub-type` begins so.
    fn helpers(&self, kind: &str, sub: &str) -> Result<Vec<i32>, Fail> {
        let group = self.proxy.browser().ok_or("there is no browser")?;
        let (kind, sub) = (format!("--type={kind}"), format!("--utility-sub-type={sub}"));
        let members = procfs::processes().into_iter().filter(|it| it.group == group && it.state != 'Z');
        let is_such = |pid: &i32| {
            let words = procfs::command_line(*pid);
            let is_extension = words.iter().any(|it| it == "--extension-process");
            let of_sub = sub.ends_with('=') || words.iter().any(|it| it.starts_with(&sub));
            words.contains(&kind) && of_sub && !is_extension
        };
        let pids: Vec<i32> = members.map(|it| it.pid).filter(is_such).collect();
        if pids.is_empty() { Err(format!("there is no process with {kind}").into()) } else { Ok(pids) }
    }
}

fn one(pids: Vec<i32>, rng: &mut Rng) -> Vec<i32> {
    rng.choice(pids).into_iter().collect()
}

fn signal(pid: i32, how: Signal) -> Result<(), Fail> {
    let pid = Pid::from_raw(pid).ok_or("no process id")?;
    Ok(kill_process(pid, how)?)
}

/// Keeps every core busy, with processes of our own that end by themselves.
fn starve(done: &mut Injected) -> Result<(), Fail> {
    let program = std::env::current_exe()?;
    for _ in 0..BUSY {
        let mut busy = Command::new(&program);
        busy.args(["--burn", &FOR_A_WHILE.as_secs().to_string()]).kill_on_drop(true);
        let mut busy = busy.spawn()?;
        done.going_on.spawn(async move { drop(busy.wait().await) });
    }
    Ok(())
}

/// What such a process does.
pub fn burn(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}
