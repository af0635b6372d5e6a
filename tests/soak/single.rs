//! One instance: whatever can happen to it, its browser and the site, one fault at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use fastrand::Rng;
use tabproxy::practice::{Practice, PracticeArgs};

use super::faults::{Fault, Scene};
use super::harm::{self, Harm};
use super::ledger::Ledger;
use super::load::{Load, MIX};
use super::observe::{Seen, observe};
use super::proxy::{Home, Proxy, Tail};
use super::report::{self, Run};
use super::watch::Watch;
use super::window::{Mended, Window};
use super::{Fail, Options, RECOVERY, WARM_UP, plot};

/// From one look at memory to the next.
const WATCH: Duration = Duration::from_secs(1);

/// One run; whether all held.
pub async fn soak(options: &Options) -> Result<bool, Fail> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000_000));
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("soak-proxy.log");
    println!("soak: {} minutes, --seed {seed}, the proxy's log is {}", options.minutes, log.display());
    for (fault, why) in Fault::value_variants().iter().filter_map(|it| Some((it, it.why_not()?))) {
        println!("soak: {} only when it is named: {why}", fault.name());
    }
    let chosen = harm::chosen(&options.faults, &options.without)?;
    let mut run = Run::new(Ledger::new(seed));

    let site = Arc::new(Practice::start(PracticeArgs::default()).await?);
    let home = Home::new(&site, log).await?;
    let mut proxy = Proxy::start(&home, None).await?;
    let version = report::browser_version(proxy.addr).await;
    let pid = Arc::new(Mutex::new(proxy.pid));
    let watch = Watch::start(pid.clone(), Instant::now(), WATCH);
    let load = Load::new(proxy.addr, run.ledger.clone(), &MIX);
    let clients = load.start(options.clients, seed);
    tokio::time::sleep(WARM_UP).await;

    let end = Instant::now() + Duration::from_secs_f64(options.minutes * 60.0);
    let mut rng = Rng::with_seed(seed);
    let mut bag = Vec::new();
    while Instant::now() < end {
        if bag.is_empty() {
            bag.clone_from(&chosen);
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

/// Injects one fault and stays until it is over; `None` when it cannot be done here.
async fn inject(fault: Fault, scene: &Scene<'_>, rng: &mut Rng) -> Result<Option<Window<Fault>>, Fail> {
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
    let mended =
        after.zip(before).map(|(after, before)| Mended::Parts(after.0 - before.0, after.1 - before.1));
    Ok(Some(Window { fault, what, injected, over, in_flight, seen, woken, mended }))
}
