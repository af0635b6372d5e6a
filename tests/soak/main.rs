//! `make soak`: random faults against a steady load, and the books about every single request.
//!
//! The invariant: each request ends exactly once, complete or with an error that nobody can take for an answer, and
//! the site sees its POST at most once. The program exits non-zero when that is broken, when a fault is not
//! recovered from, or when something is left behind. It judges no times: those go into the table.
//!
//! Under a plain `cargo test` it runs for a minute; `--seed` repeats the choices of a run, though not its timing.
//!
//! | file | what for |
//! |---|---|
//! | `load`, `answer` | clients of every kind, and what an answer must be |
//! | `wire` | one exchange on one connection |
//! | `ledger` | the books: each exchange from its beginning to its one end |
//! | `faults` | what is injected |
//! | `observe` | when a fault is noticed, and when it is over |
//! | `proxy` | the program under test |
//! | `watch` | memory, descriptors and mappings over time |
//! | `report`, `plot` | the table, `docs/soak.md` and `docs/soak.svg` |
//! | `shared` | what others need too: `/proc`, middle values, SVG, the wires that can be cut |

mod answer;
mod faults;
mod ledger;
mod load;
mod observe;
mod plot;
mod proxy;
mod report;
#[path = "../shared/mod.rs"]
mod shared;
mod watch;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use fastrand::Rng;
use tabproxy::practice::{Practice, PracticeArgs};
use tokio::signal::unix::{SignalKind, signal};

use faults::{Fault, Scene};
use ledger::Ledger;
use load::Load;
use observe::{Seen, observe};
use proxy::{Home, Proxy, Tail};
use report::{Run, Window};
use watch::Watch;

/// Why the soak cannot go on.
type Fail = Box<dyn std::error::Error + Send + Sync>;

/// The longest that one request may take, and the proxy to stop: far more than any of them needs.
const PATIENCE: Duration = Duration::from_secs(120);
/// A fault must be recovered from within this time of being noticed.
const RECOVERY: Duration = Duration::from_secs(90);
/// Clients at once: a load that two cores carry, so that faults show and not the load.
const CLIENTS: u64 = 20;
/// Load without a fault, before the first one.
const WARM_UP: Duration = Duration::from_secs(5);
/// From one look at memory to the next.
const WATCH: Duration = Duration::from_secs(1);

/// Injects random faults into a proxy under load, and counts what is lost
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Options {
    /// For how long faults are injected
    #[arg(long, default_value_t = 1.0, overrides_with = "minutes", value_name = "N")]
    minutes: f64,
    /// Repeats the choices of an earlier run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only these, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    faults: Vec<Fault>,
    /// All but these
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    without: Vec<Fault>,
    /// Clients at once
    #[arg(long, default_value_t = CLIENTS, value_name = "N")]
    clients: u64,
    /// Write docs/soak.md and docs/soak.svg
    #[arg(long)]
    write: bool,
    /// Be one of the processes that keep a core busy, for so many seconds
    #[arg(long, hide = true)]
    burn: Option<u64>,
    /// What `cargo test` passes on: names of tests, and how to show them
    #[command(flatten)]
    harness: Harness,
}

impl Options {
    /// The command that makes the same choices again.
    fn command(&self, seed: u64) -> String {
        let mut command = format!("make soak ARGS=\"--minutes {} --seed {seed}", self.minutes);
        for (option, faults) in [("faults", &self.faults), ("without", &self.without)] {
            if !faults.is_empty() {
                let names: Vec<_> = faults.iter().map(|it| it.name()).collect();
                command += &format!(" --{option} {}", names.join(","));
            }
        }
        if self.clients != CLIENTS {
            command += &format!(" --clients {}", self.clients);
        }
        command + " --write\""
    }
}

/// The arguments of every test program, as far as they mean anything here.
#[derive(Debug, clap::Args)]
struct Harness {
    #[arg(hide = true)]
    filters: Vec<String>,
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, hide = true)]
    skip: Vec<String>,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
    #[arg(short, long, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    format: Option<String>,
}

impl Harness {
    fn wants_us(&self) -> bool {
        let us = |name: &String| if self.exact { name == "soak" } else { "soak".contains(name.as_str()) };
        !self.list
            && !self.ignored
            && !self.skip.iter().any(us)
            && (self.filters.is_empty() || self.filters.iter().any(us))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seconds) = options.burn {
        faults::burn(Duration::from_secs(seconds));
        return ExitCode::SUCCESS;
    }
    if !options.harness.wants_us() {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.map_err(Fail::from).and_then(|runtime| runtime.block_on(interruptible(&options))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the soak could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One run, unless we are told to end: then what it has started ends with it.
async fn interruptible(options: &Options) -> Result<bool, Fail> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        held = soak(options) => held,
        _ = term.recv() => Err("it was ended".into()),
        _ = int.recv() => Err("it was ended".into()),
    }
}

/// One run; whether all held.
async fn soak(options: &Options) -> Result<bool, Fail> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000_000));
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("soak-proxy.log");
    println!("soak: {} minutes, --seed {seed}, the proxy's log is {}", options.minutes, log.display());
    for (fault, why) in Fault::value_variants().iter().filter_map(|it| Some((it, it.why_not()?))) {
        println!("soak: {} only when it is named: {why}", fault.name());
    }
    let mut run = Run::new(Ledger::new(seed));

    let site = Arc::new(Practice::start(PracticeArgs::default()).await?);
    let home = Home::new(&site, log).await?;
    let mut proxy = Proxy::start(&home, None).await?;
    let version = report::browser_version(proxy.addr).await;
    let pid = Arc::new(Mutex::new(proxy.pid));
    let watch = Watch::start(pid.clone(), Instant::now(), WATCH);
    let load = Load::new(proxy.addr, run.ledger.clone());
    let clients = load.start(options.clients, seed);
    tokio::time::sleep(WARM_UP).await;

    let end = Instant::now() + Duration::from_secs_f64(options.minutes * 60.0);
    let mut rng = Rng::with_seed(seed);
    let mut bag = Vec::new();
    while Instant::now() < end {
        if bag.is_empty() {
            bag = chosen(options);
            rng.shuffle(&mut bag);
        }
        let Some(fault) = bag.pop() else { break };
        let scene = Scene { site: &site, home: &home, proxy: &proxy, load: &load };
        let Some(window) = inject(fault, &scene, &mut rng).await? else { continue };
        println!("{}", window.line());
        let recovered = window.seen.recovered.is_some();
        run.windows.push(window);
        if !recovered && Instant::now() < end {
            // The rest of the soak is to tell of other faults: begin anew with another proxy.
            let at = load.ledger.now().as_secs_f64();
            println!("{at:6.1} s  giving this proxy up");
            load.pause(true);
            run.left_open(load.drained().await);
            let addr = proxy.addr;
            proxy.stop().await?;
            proxy = Proxy::start(&home, Some(addr)).await?;
            *pid.lock().unwrap_or_else(PoisonError::into_inner) = proxy.pid;
            load.pause(false);
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(1000..4000))).await;
    }

    load.pause(true);
    run.left_open(load.drained().await);
    drop(clients);
    run.samples = watch.end();
    run.broken.extend(report::left_behind(proxy.addr, &site).await);
    let browser = proxy.browser();
    match proxy.stop().await? {
        Some(status) if status.success() => {}
        Some(status) => run.broken.push(format!("the proxy ended with {status}")),
        None => run.broken.push("the proxy did not stop".into()),
    }
    if browser.is_some_and(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(false)) {
        run.broken.push("a browser was left behind".into());
    }
    run.close(&site.counters().posts_by_message_id);

    println!("\n{}\n{}\n{}", report::faults(&run), report::clients(&run), report::needs(&run.samples));
    run.broken.iter().for_each(|what| println!("BROKEN: {what}"));
    if options.write {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        fs::write(docs.join("soak.md"), report::document(&run, &version, &options.command(seed)))?;
        fs::write(docs.join("soak.svg"), plot::image(&run))?;
        println!("Written: docs/soak.md, docs/soak.svg");
    }
    println!("soak: {} (--seed {seed})", if run.broken.is_empty() { "all held" } else { "BROKEN" });
    Ok(run.broken.is_empty())
}

/// What is asked for; otherwise all that can be survived.
fn chosen(options: &Options) -> Vec<Fault> {
    let wanted: Vec<Fault> = match options.faults.as_slice() {
        [] => Fault::value_variants().iter().copied().filter(|it| it.why_not().is_none()).collect(),
        named => named.to_vec(),
    };
    wanted.into_iter().filter(|it| !options.without.contains(it)).collect()
}

/// Injects one fault and stays until it is over; `None` when it cannot be done here.
async fn inject(fault: Fault, scene: &Scene<'_>, rng: &mut Rng) -> Result<Option<Window>, Fail> {
    let before = report::repairs(scene.proxy.addr).await;
    let mut tail = Tail::new(scene.home.log())?;
    let done = match fault.inject(scene, rng).await {
        Ok(done) => done,
        Err(error) => {
            println!("          {}: not injected: {error}", fault.name());
            return Ok(None);
        }
    };
    let (injected, in_flight, what) = (done.at, done.in_flight, done.what.clone());
    let seen: Seen = observe(scene.load, &mut tail, injected, fault.notice(), RECOVERY).await;
    let woken = done.over().await;
    let over = scene.load.ledger.now();
    let after = report::repairs(scene.proxy.addr).await;
    let repairs = after.zip(before).map(|(after, before)| (after.0 - before.0, after.1 - before.1));
    Ok(Some(Window { fault, what, injected, over, in_flight, seen, woken, repairs }))
}
