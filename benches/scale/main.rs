//! `make bench-scale`: what several instances, several browsers, nginx and Redis give and cost on one machine, as
//! ratios against one instance alone, measured in the same run.
//!
//! All of it shares the cores with the site and the clients: it says what a part costs, and that adding parts breaks
//! nothing; it cannot show how much more two machines carry than one.
//!
//! | file | what for |
//! |---|---|
//! | `setups` | the services that are measured |
//! | `streams` | throughput, delays, processor time and memory under streams |
//! | `toll` | what a shared Redis costs a short request |
//! | `killed` | what a killed instance costs |
//! | `samples`, `report` | what was measured, and `docs/bench-scale.md` |
//! | `sizing` | from these figures to a layout: pure |
//! | `../stream/{load,client,direct,site}` | loads and clients, as in `make bench` |

#[allow(dead_code)]
#[path = "../stream/client.rs"]
mod client;
#[path = "../stream/direct.rs"]
mod direct;
mod killed;
#[allow(dead_code)]
#[path = "../stream/load.rs"]
mod load;
mod report;
mod samples;
mod setups;
#[path = "../../tests/shared/mod.rs"]
mod shared;
#[path = "../stream/site.rs"]
mod site;
mod sizing;
mod streams;
mod toll;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use load::Fail;
use samples::Samples;
use setups::Setup;
use site::Site;

/// Measures instances, browsers, nginx and Redis on the practice site.
#[derive(Debug, Parser)]
struct Options {
    /// How often everything is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// One run of everything with a tenth of the load, to see that it works
    #[arg(long, conflicts_with = "write")]
    quick: bool,
    /// Write docs/bench-scale.md
    #[arg(long)]
    write: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // One thread for the clients: they are to take as little from what is measured as they can.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Fail::from).and_then(|runtime| runtime.block_on(interruptible(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One run, unless we are told to end: then what it has started ends with it.
async fn interruptible(options: &Options) -> Result<(), Fail> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        done = bench(options) => done,
        _ = term.recv() => Err("it was ended".into()),
        _ = int.recv() => Err("it was ended".into()),
    }
}

async fn bench(options: &Options) -> Result<(), Fail> {
    let runs = if options.quick { 1 } else { usize::from(options.runs) };
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-scale.log");
    fs::File::create(&log)?;
    let site = Site::start().await?;
    let practice = site.practice()?;
    let mut samples = Samples::default();
    let size = streams::Size { tenth: options.quick };
    let direct = direct::client(practice)?;
    let browser = streams::browser(practice, &log).await?;
    eprintln!("direct: {runs} runs");
    for _ in 0..runs {
        streams::direct(&direct, size, &mut samples).await?;
    }
    for setup in Setup::ALL {
        eprintln!("{setup}: {runs} runs");
        streams::measure(setup, practice, &log, size, runs, &mut samples).await?;
    }
    for redis in [false, true] {
        eprintln!("short requests, Redis: {redis}");
        toll::measure(practice, &log, redis, size, runs, &mut samples).await?;
    }
    eprintln!("killed instances: {runs}");
    let killed = killed::measure(practice, &log, runs).await?;

    let command = match options.runs {
        3 => "make bench-scale".to_owned(),
        other => format!("make bench-scale ARGS='--runs {other}'"),
    };
    let about = report::About { browser, command, runs };
    let measured = report::tables(&samples, &killed);
    println!("\n{measured}");
    if options.write {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bench-scale.md");
        fs::write(file, report::document(&samples, &measured, &about))?;
        println!("Written: docs/bench-scale.md");
    }
    match killed.iter().all(killed::Killed::held) {
        true => Ok(()),
        false => Err("something was lost without a trace, or sent twice".into()),
    }
}
