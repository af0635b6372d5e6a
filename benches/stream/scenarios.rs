//! What is measured, on each of the three sides in turn.

use std::fmt;
use std::time::Duration;

use tabproxy::practice::Practice;
use tokio::time::sleep;

use super::client::Client;
use super::figures::{
    BROWSER_CPU, BULK, BURST, BUSY_MEMORY, BUSY_PSS, CALM_CLOSED_CPU, CALM_CLOSED_P50, CALM_LOOKS_CPU,
    CALM_LOOKS_P50, CALM_TYPES_CPU, CALM_TYPES_P50, CLOSED_CPU, CLOSED_P50, FIRST_BYTE, FLOOD, Figure,
    HUNDRED_P50, HUNDRED_P99, IDLE_MEMORY, IDLE_PSS, LOOKS_CPU, LOOKS_P50, MANY, ONE_P50, ONE_P99, OUR_CPU,
    Samples, Side, TYPES_CPU, TYPES_P50,
};
use super::load::{Fail, Load, Outcome};
use super::operator::{Does, Operator};
use super::page::Page;
use super::proxy::Proxy;
use super::shared::procfs::{MB, cpu_of, cpu_of_group, resident, shared_memory_of_group};
use super::shared::stats::{median, percentile};

const ONE: Load = Load { streams: 1, events: 200, interval: 10 };
const HUNDRED: Load = Load { streams: 100, events: 200, interval: 10 };
/// What two cores carry with room to spare: twenty words a second to each.
const CALM: Load = Load { streams: 100, events: 100, interval: 50 };
const SHORT: Load = Load { streams: 100, events: 1, interval: 0 };
const OF_FLOOD: Load = Load { streams: 8, events: 5_000, interval: 0 };
const OF_MANY: Load = Load { streams: 256, events: 60, interval: 50 };
const BULK_BYTES: u64 = 100 << 20;
const SMALL_REQUESTS: usize = 50;
/// Bursts of one run: a hundred values alone make no 99th percentile.
const BURSTS: usize = 3;
/// Between two measurements: what the one left behind shall not count for the next.
const REST: Duration = Duration::from_millis(300);
/// After a start there is work to finish, in the browser most of all.
const SETTLE: Duration = Duration::from_secs(3);

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// The time from the start to ready; measured before all others
    Start,
    /// Delays in one stream
    One,
    /// Delays and CPU time of 100 streams
    Hundred,
    /// First bytes of 100 requests at once
    Burst,
    /// Events as fast as they come
    Flood,
    /// A large body
    Bulk,
    /// Small requests, one after the other
    FirstByte,
    /// Memory under 100 streams
    Memory,
    /// 256 streams at once
    Many,
    /// 100 streams while an operator looks or types, and while nobody does
    Console,
}

impl Scenario {
    /// All that are measured in each run.
    pub const ALL: [Scenario; 9] = [
        Scenario::One,
        Scenario::Hundred,
        Scenario::Burst,
        Scenario::Flood,
        Scenario::Bulk,
        Scenario::FirstByte,
        Scenario::Memory,
        Scenario::Many,
        Scenario::Console,
    ];
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scenario::Start => "start",
            Scenario::One => "1 stream",
            Scenario::Hundred => "100 streams",
            Scenario::Burst => "100 requests at once",
            Scenario::Flood => "flood",
            Scenario::Bulk => "100 MiB",
            Scenario::FirstByte => "first byte",
            Scenario::Memory => "memory",
            Scenario::Many => "256 streams",
            Scenario::Console => "100 streams, console open and closed",
        })
    }
}

/// The three sides, ready to be measured.
pub struct Sides {
    /// A client straight at the site.
    pub direct: Client,
    /// A browser with a loop that only counts.
    pub page: Page,
    /// The proxy.
    pub proxy: Proxy,
    /// Ask for a tenth only.
    pub tenth: bool,
    /// Streams that were incomplete, by side.
    pub lost: [usize; 3],
}

impl Sides {
    const ALL: [Side; 3] = [Side::Direct, Side::Page, Side::Proxy];

    /// Measures memory at rest, then runs a little of everything, so that code is compiled, connections are
    /// open and caches are filled on all sides.
    pub async fn warm_up(&mut self, samples: &mut Samples) -> Result<(), Fail> {
        sleep(SETTLE).await;
        samples.add(IDLE_MEMORY, Side::Proxy, resident(self.proxy.pid()) as f64 / MB);
        samples.add(IDLE_PSS, Side::Proxy, shared_memory_of_group(self.proxy.browser_group()?));
        samples.add(IDLE_PSS, Side::Page, shared_memory_of_group(self.page.group()));
        for side in Self::ALL {
            for load in [Load { events: 30, ..HUNDRED }, Load { events: 1_000, ..OF_FLOOD }] {
                self.streams(side, &load).await?;
            }
            self.bulk(side, 8 << 20).await?;
            self.first_bytes(side, 10).await?;
        }
        Ok(())
    }

    /// Measures one scenario on all sides.
    pub async fn measure(
        &mut self,
        scenario: Scenario,
        site: &Practice,
        samples: &mut Samples,
    ) -> Result<(), Fail> {
        for side in Self::ALL {
            sleep(REST).await;
            match scenario {
                Scenario::Start => {}
                Scenario::One => {
                    let outcome = self.streams(side, &self.scaled(ONE)).await?;
                    add_delays(samples, side, &outcome, [ONE_P50, ONE_P99]);
                }
                Scenario::Hundred => self.hundred(side, samples).await?,
                Scenario::Burst => {
                    let mut first = Vec::new();
                    for _ in 0..BURSTS {
                        first.extend(self.streams(side, &SHORT).await?.first);
                        sleep(REST).await;
                    }
                    samples.add(BURST, side, percentile(&first, 0.99));
                }
                Scenario::Flood => {
                    let outcome = self.streams(side, &self.scaled(OF_FLOOD)).await?;
                    samples.add(FLOOD, side, outcome.delays.len() as f64 / outcome.seconds);
                }
                Scenario::Bulk => {
                    let bytes = if self.tenth { BULK_BYTES / 10 } else { BULK_BYTES };
                    samples.add(BULK, side, bytes as f64 / 1e6 / self.bulk(side, bytes).await?);
                }
                Scenario::FirstByte => {
                    samples.add(FIRST_BYTE, side, median(&self.first_bytes(side, SMALL_REQUESTS).await?));
                }
                Scenario::Console if side == Side::Proxy => self.console(samples).await?,
                Scenario::Console => {}
                Scenario::Memory => self.memory(side, samples).await?,
                Scenario::Many => {
                    site.reset_counters();
                    let outcome = self.streams(side, &OF_MANY).await?;
                    let at_once = site.counters().max_active;
                    if at_once != OF_MANY.streams as u64 {
                        eprintln!("{side:?}: only {at_once} streams ran at once");
                    }
                    samples.add(MANY, side, outcome.complete as f64);
                }
            }
        }
        Ok(())
    }

    async fn hundred(&mut self, side: Side, samples: &mut Samples) -> Result<(), Fail> {
        let browser = match side {
            Side::Direct => None,
            Side::Page => Some(self.page.group()),
            Side::Proxy => Some(self.proxy.browser_group()?),
        };
        let cpu = |proxy| (cpu_of(proxy), browser.map(cpu_of_group));
        let before = cpu(self.proxy.pid());
        let outcome = self.streams(side, &self.scaled(HUNDRED)).await?;
        let after = cpu(self.proxy.pid());
        add_delays(samples, side, &outcome, [HUNDRED_P50, HUNDRED_P99]);
        let per_100k = 100_000.0 / outcome.delays.len() as f64;
        if side == Side::Proxy {
            samples.add(OUR_CPU, side, (after.0 - before.0) * per_100k);
        }
        if let (Some(before), Some(after)) = (before.1, after.1) {
            samples.add(BROWSER_CPU, side, (after - before) * per_100k);
        }
        Ok(())
    }

    /// The same load while an operator looks and while nobody does, in an order in which a drift of the machine
    /// falls on both alike.
    async fn console(&mut self, samples: &mut Samples) -> Result<(), Fail> {
        let calm = [
            (CALM_CLOSED_P50, CALM_CLOSED_CPU),
            (CALM_LOOKS_P50, CALM_LOOKS_CPU),
            (CALM_TYPES_P50, CALM_TYPES_CPU),
        ];
        self.console_under(&CALM, calm, samples).await?;
        let full = [(CLOSED_P50, CLOSED_CPU), (LOOKS_P50, LOOKS_CPU), (TYPES_P50, TYPES_CPU)];
        self.console_under(&HUNDRED, full, samples).await
    }

    async fn console_under(
        &mut self,
        load: &Load,
        figures: [(Figure, Figure); 3],
        samples: &mut Samples,
    ) -> Result<(), Fail> {
        let (proxy, browser) = (self.proxy.pid(), self.proxy.browser_group()?);
        let cpu = || cpu_of(proxy) + cpu_of_group(browser);
        for state in [0, 1, 2, 2, 1, 0] {
            let operator = match state {
                0 => None,
                1 => Some(self.proxy.operator(Does::Looks).await?),
                _ => Some(self.proxy.operator(Does::Types).await?),
            };
            sleep(SETTLE).await;
            let (before, seen) = (cpu(), operator.as_ref().map_or(0, Operator::pictures));
            let outcome = self.streams(Side::Proxy, &self.scaled(*load)).await?;
            let used = (cpu() - before) / outcome.seconds;
            if let Some(operator) = operator {
                let pictures = (operator.pictures() - seen) as f64 / outcome.seconds;
                eprintln!("  the operator saw {pictures:.0} pictures a second");
            }
            let (p50, cores) = figures[state];
            samples.add(p50, Side::Proxy, percentile(&outcome.delays, 0.5) / 1e3);
            samples.add(cores, Side::Proxy, used);
        }
        Ok(())
    }

    /// Looks in the middle of a load. Apart from the others: counting shared memory stops the processes.
    async fn memory(&mut self, side: Side, samples: &mut Samples) -> Result<(), Fail> {
        let middle = Duration::from_millis(HUNDRED.interval * HUNDRED.events as u64 / 2);
        let browser = match side {
            Side::Direct => return Ok(()),
            Side::Page => self.page.group(),
            Side::Proxy => self.proxy.browser_group()?,
        };
        let proxy = self.proxy.pid();
        let look = async {
            sleep(middle).await;
            (resident(proxy) as f64 / MB, shared_memory_of_group(browser))
        };
        let (outcome, (resident, shared)) = tokio::join!(self.streams(side, &HUNDRED), look);
        outcome?;
        if side == Side::Proxy {
            samples.add(BUSY_MEMORY, side, resident);
        }
        samples.add(BUSY_PSS, side, shared);
        Ok(())
    }

    fn scaled(&self, load: Load) -> Load {
        if self.tenth { Load { events: load.events / 10, ..load } } else { load }
    }

    async fn streams(&mut self, side: Side, load: &Load) -> Result<Outcome, Fail> {
        let outcome = match side {
            Side::Direct => self.direct.streams(load).await,
            Side::Page => self.page.streams(load).await,
            Side::Proxy => self.proxy.client().streams(load).await,
        }?;
        if let Some(failure) = outcome.failures.first() {
            eprintln!(
                "{side:?}: {} of {} streams were incomplete: {failure}",
                outcome.failures.len(),
                load.streams
            );
        }
        self.lost[side as usize] += load.streams - outcome.complete;
        Ok(outcome)
    }

    async fn bulk(&self, side: Side, bytes: u64) -> Result<f64, Fail> {
        match side {
            Side::Direct => self.direct.bulk(bytes).await,
            Side::Page => self.page.bulk(bytes).await,
            Side::Proxy => self.proxy.client().bulk(bytes).await,
        }
    }

    async fn first_bytes(&self, side: Side, requests: usize) -> Result<Vec<f64>, Fail> {
        match side {
            Side::Direct => self.direct.first_bytes(requests).await,
            Side::Page => self.page.first_bytes(requests).await,
            Side::Proxy => self.proxy.client().first_bytes(requests).await,
        }
    }
}

fn add_delays(samples: &mut Samples, side: Side, outcome: &Outcome, [p50, p99]: [Figure; 2]) {
    samples.add(p50, side, percentile(&outcome.delays, 0.5) / 1e3);
    samples.add(p99, side, percentile(&outcome.delays, 0.99) / 1e3);
}
