//! `make bench`: how fast a conversation streams through the page, beside the floors measured in the same run.
//!
//! | file | what for |
//! |---|---|
//! | `load` | what is asked for and what came back, the same for all sides |
//! | `site` | the practice site, on a thread of its own |
//! | `direct`, `page`, `proxy` | the three sides; `client` reads for the first and the last |
//! | `operator` | somebody with the console open |
//! | `scenarios` | what is measured, and how |
//! | `figures` | goals and numbers |
//! | `report`, `plot` | `docs/bench.md` and `docs/bench.svg` |
//! | `shared` | what the soak needs too: `/proc`, middle values, SVG |

mod client;
mod direct;
mod figures;
mod load;
mod operator;
mod page;
mod plot;
mod proxy;
mod report;
mod scenarios;
#[path = "../../tests/shared/mod.rs"]
mod shared;
mod site;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use figures::{FIRST_START, LOST, Samples, Side, WARM_START};
use load::Fail;
use page::Page;
use proxy::{Home, Proxy};
use report::Circumstances;
use scenarios::{Scenario, Sides};
use shared::foreign::Foreign;
use site::Site;

/// Measures tabproxy, a direct client and a loop in the page on the practice site.
#[derive(Debug, Parser)]
struct Options {
    /// How often everything is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Measure this only
    #[arg(long, value_enum, value_name = "NAME")]
    only: Option<Scenario>,
    /// One run of everything with a tenth of the load, to see that it works
    #[arg(long)]
    quick: bool,
    /// The proxy attaches to a browser that it has not started: what is measured is the channel over DevTools
    #[arg(long)]
    elsewhere: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // One thread for the clients: they are to take as little from what is measured as they can.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Fail::from).and_then(|runtime| runtime.block_on(bench(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(options: &Options) -> Result<(), Fail> {
    let runs = if options.quick { 1 } else { usize::from(options.runs) };
    let wanted = |scenario| options.only.is_none_or(|only| only == scenario);
    let site = Site::start().await?;
    let practice = site.practice()?;
    let mut samples = Samples::default();
    let foreign = options.elsewhere.then(|| Foreign::start(practice, 0)).transpose()?;
    let home = Home::new(practice, foreign.as_ref())?;
    let proxy = start_proxy(&home, if wanted(Scenario::Start) { runs } else { 0 }, &mut samples).await?;
    let page = Page::start(practice).await?;
    let browser = page.version().to_owned();
    let mut sides =
        Sides { direct: direct::client(practice)?, page, proxy, tenth: options.quick, lost: [0; 3] };
    sides.warm_up(&mut samples).await?;
    for run in 1..=runs {
        for scenario in Scenario::ALL.into_iter().filter(|scenario| wanted(*scenario)) {
            eprintln!("run {run} of {runs}: {scenario}");
            sides.measure(scenario, practice, &mut samples).await?;
        }
    }
    for (side, lost) in [Side::Direct, Side::Page, Side::Proxy].into_iter().zip(sides.lost) {
        samples.add(LOST, side, lost as f64);
    }
    sides.page.stop().await;
    sides.proxy.stop().await?;

    let mut command = String::from("make bench");
    if usize::from(options.runs) != 3 {
        command += &format!(" ARGS='--runs {}'", options.runs);
    }
    let about = Circumstances { browser, command, runs };
    println!("\n{}", report::table(&samples));
    if options.quick || options.elsewhere || options.only.is_some() {
        println!("Not written to docs/: this was not all of it.");
        return Ok(());
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    fs::create_dir_all(&docs)?;
    fs::write(docs.join("bench.md"), report::document(&samples, &about, "bench.svg"))?;
    fs::write(docs.join("bench.svg"), plot::image(&samples))?;
    println!("Written: docs/bench.md, docs/bench.svg");
    Ok(())
}

/// Starts the proxy for the first time ever, and again `times` times; the last one runs on.
async fn start_proxy(home: &Home, times: usize, samples: &mut Samples) -> Result<Proxy, Fail> {
    eprintln!("starting");
    let (mut proxy, took) = Proxy::start(home).await?;
    samples.add(FIRST_START, Side::Proxy, took.as_secs_f64());
    for _ in 0..times {
        proxy.stop().await?;
        let took;
        (proxy, took) = Proxy::start(home).await?;
        samples.add(WARM_START, Side::Proxy, took.as_secs_f64());
    }
    Ok(proxy)
}
