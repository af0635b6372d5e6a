//! Several instances behind nginx, which share a Redis: whatever can happen to one of them, one at a time.
//!
//! | file | what for |
//! |---|---|
//! | `blows` | what happens, and what a supervisor does about it |
//! | `again`, `talk` | clients that find out whether instances know of each other |
//! | `tally` | what the instances tell of that |
//! | `report` | `docs/soak-scale.md` |

pub mod again;
mod blows;
mod report;
pub mod talk;
mod tally;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tabproxy::practice::{Practice, PracticeArgs};

pub use blows::Blow;

use super::harm::{self, Harm};
use super::ledger::{End, Exchange, Ledger};
use super::load::{Client, Load, MIX};
use super::observe::observe;
use super::proxy::Tail;
use super::report::{Run, clients, faults, left_behind};
use super::shared::service::{Plan, Service};
use super::window::{Mended, Window};
use super::{Fail, Options, RECOVERY, WARM_UP};
use tally::Tally;

/// How many instances there are when nobody says.
pub const INSTANCES: usize = 3;

/// Instances that know of each other have clients that need that.
const SHARED_MIX: [(Client, u32); 11] = [
    (Client::Fast, 22),
    (Client::Long, 12),
    (Client::Slow, 6),
    (Client::LeavesEarly, 6),
    (Client::LeavesInMidStream, 8),
    (Client::Malformed, 6),
    (Client::AbortsUpload, 4),
    (Client::Uploads, 5),
    (Client::Bulk, 5),
    (Client::AsksAgain, 16),
    (Client::Talks, 10),
];

/// One run; whether all held.
pub async fn soak(options: &Options, instances: usize) -> Result<bool, Fail> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000_000));
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("soak-scale.log");
    fs::File::create(&log)?;
    let redis = !options.no_redis;
    println!(
        "soak: {instances} instances{}, {} minutes, --seed {seed}, their log is {}",
        if redis { " with a Redis" } else { " that share nothing" },
        options.minutes,
        log.display()
    );
    let mut chosen: Vec<Blow> = harm::chosen(&options.faults, &options.without)?;
    chosen.retain(|it| redis || !it.needs_redis());
    let mut run = Run::new(Ledger::new(seed));

    let site = Practice::start(PracticeArgs::default()).await?;
    let plan = Plan { instances, redis, log: log.clone(), ..Plan::default() };
    let service = Service::start(&site, &plan).await?;
    let version = super::report::browser_version(service.instances[0].addr).await;
    let mix: &[_] = if redis { &SHARED_MIX } else { &MIX };
    let load = Load::through_nginx(service.addr(), run.ledger.clone(), mix);
    let seats = load.start(options.clients, seed);
    tokio::time::sleep(WARM_UP).await;

    let end = Instant::now() + Duration::from_secs_f64(options.minutes * 60.0);
    let mut rng = Rng::with_seed(seed);
    let (mut bag, mut tally) = (Vec::new(), Tally::default());
    while Instant::now() < end {
        if bag.is_empty() {
            bag.clone_from(&chosen);
            rng.shuffle(&mut bag);
        }
        let Some(blow) = bag.pop() else { break };
        tally.look(&service).await;
        let window = strike(blow, &service, &load, &log, &mut rng).await?;
        println!("{}", window.line());
        run.windows.push(window);
        tokio::time::sleep(Duration::from_millis(rng.u64(1000..4000))).await;
    }

    load.pause(true);
    run.left_open(load.drained().await);
    drop(seats);
    tally.look(&service).await;
    for (number, instance) in service.instances.iter().enumerate() {
        let left = left_behind(instance.addr, &site).await;
        run.broken.extend(left.into_iter().map(|it| format!("instance {number}: {it}")));
    }
    let processes: Vec<i32> = service.instances.iter().flat_map(|it| it.browsers()).collect();
    run.broken.extend(service.stop().await?);
    let left = processes.iter().filter(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(false)).count();
    if left > 0 {
        run.broken.push(format!("{left} browsers were left behind"));
    }
    run.close(&site.counters().posts_by_message_id);
    let spoken: Vec<_> = run.ledger.ended().into_iter().filter(|it| is_odd(it, &run)).collect();
    run.broken
        .extend(spoken.iter().map(|it| format!("the site refused {} {}: {:?}", it.client, it.id, it.end)));

    println!("\n{}\n{}\n{}", faults(&run), clients(&run), report::notes(&run, &tally));
    run.broken.iter().for_each(|what| println!("BROKEN: {what}"));
    if options.write {
        let about =
            report::About { browser: version, command: options.command(seed), instances, redis, tally };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/soak-scale.md");
        fs::write(file, report::document(&run, &about))?;
        println!("Written: docs/soak-scale.md");
    }
    println!("soak: {} (--seed {seed})", if run.broken.is_empty() { "all held" } else { "BROKEN" });
    Ok(run.broken.is_empty())
}

/// Strikes once, and stays until it is mended.
async fn strike(
    blow: Blow,
    service: &Service,
    load: &Load,
    log: &Path,
    rng: &mut Rng,
) -> Result<Window<Blow>, Fail> {
    let mut tail = Tail::new(log)?;
    let (injected, in_flight) = (load.ledger.now(), load.ledger.open());
    let struck = blow.strike(service, rng)?;
    let (ledger, mended) = (load.ledger.clone(), struck.mended);
    let mended = tokio::spawn(async move { mended.await?.map(|()| ledger.now()) });
    let seen = observe(load, &mut tail, injected, blow.notice(), RECOVERY).await;
    let back = mended.await?.map_err(|it| format!("{} was not mended: {it}", blow.name()))?;
    let over = load.ledger.now();
    let mended = Some(Mended::Back(back - injected));
    Ok(Window { fault: blow, what: struck.what, injected, over, in_flight, seen, woken: 0, mended })
}

/// The site refuses nothing here, but for a second turn in a conversation whose lock could not be kept: its holder
/// stood still for longer than the lease, or Redis had lost it.
fn is_odd(exchange: &Exchange, run: &Run<Blow>) -> bool {
    let loses_locks = |it: &Window<Blow>| {
        matches!(it.fault, Blow::FreezeInstance | Blow::KillRedis | Blow::FreezeRedis)
            && exchange.began <= it.over
            && exchange.ended >= it.injected
    };
    match &exchange.end {
        End::Failed(code) if code == "site 429" => !run.windows.iter().any(loses_locks),
        End::Failed(code) => code.starts_with("site "),
        _ => false,
    }
}
