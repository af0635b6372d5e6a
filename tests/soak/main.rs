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
//! | `single`, `faults` | one instance, and what happens to it |
//! | `scale` | several instances behind nginx (`--instances`), and what happens to them |
//! | `load`, `answer` | clients of every kind, and what an answer must be |
//! | `wire` | one exchange on one connection |
//! | `ledger` | the books: each exchange from its beginning to its one end |
//! | `harm`, `window` | what each fault says of itself, and what becomes of one |
//! | `observe` | when a fault is noticed, and when it is over |
//! | `proxy` | the program under test |
//! | `watch` | memory, descriptors and mappings over time |
//! | `report`, `plot` | the table, `docs/soak.md` and `docs/soak.svg` |
//! | `shared` | what others need too: `/proc`, middle values, SVG, the wires that can be cut, a whole service |

mod answer;
mod faults;
mod harm;
mod ledger;
mod load;
mod observe;
mod plot;
mod proxy;
mod report;
mod scale;
#[path = "../shared/mod.rs"]
mod shared;
mod single;
mod watch;
mod window;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use faults::Fault;
use scale::Blow;

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

/// Injects random faults into a proxy under load, and counts what is lost
#[derive(Debug, Parser)]
#[command(name = "soak", after_help = listed())]
struct Options {
    /// So many instances behind an nginx, which share a Redis; otherwise one alone
    #[arg(long, overrides_with = "instances", value_name = "N")]
    instances: Option<usize>,
    /// Instances that share nothing
    #[arg(long, requires = "instances")]
    no_redis: bool,
    /// For how long faults are injected
    #[arg(long, default_value_t = 1.0, overrides_with = "minutes", value_name = "N")]
    minutes: f64,
    /// Repeats the choices of an earlier run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only these, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    faults: Vec<String>,
    /// All but these
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    without: Vec<String>,
    /// Clients at once
    #[arg(long, default_value_t = CLIENTS, value_name = "N")]
    clients: u64,
    /// Write docs/soak.md and docs/soak.svg, or docs/soak-scale.md
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
        let target = if self.instances.is_some() { "soak-scale" } else { "soak" };
        let mut command = format!("make {target} ARGS=\"--minutes {} --seed {seed}", self.minutes);
        if let Some(instances) = self.instances.filter(|it| *it != scale::INSTANCES) {
            command += &format!(" --instances {instances}");
        }
        if self.no_redis {
            command += " --no-redis";
        }
        for (option, names) in [("faults", &self.faults), ("without", &self.without)] {
            if !names.is_empty() {
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

/// The faults of both modes.
fn listed() -> String {
    format!("Faults:\n{}\nWith --instances:\n{}", harm::listed::<Fault>(), harm::listed::<Blow>())
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
    let run = async {
        match options.instances {
            Some(instances) => scale::soak(options, instances).await,
            None => single::soak(options).await,
        }
    };
    tokio::select! {
        held = run => held,
        _ = term.recv() => Err("it was ended".into()),
        _ = int.recv() => Err("it was ended".into()),
    }
}
