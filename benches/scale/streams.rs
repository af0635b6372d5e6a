//! Streams through a service: how many events pass, how late, and what they need.

use std::path::Path;
use std::time::Duration;

use tabproxy::practice::Practice;
use tokio::time::sleep;

use super::client::Client;
use super::load::{Fail, Load, Outcome};
use super::samples::{
    BROWSER_MEMORY, BUSY_CPU, FLOOD, FORTY_P50, FORTY_P99, HUNDRED_P50, HUNDRED_P99, HUNDRED_RATE,
    IDLE_MEMORY, INCOMPLETE, NGINX_MEMORY, PROXY_MEMORY, STEADY_CPU, STEADY_P50, STEADY_P99, Samples,
};
use super::setups::Setup;
use super::shared::procfs::{MB, cpu_of, cpu_of_group, resident, shared_memory_of_group};
use super::shared::service::{Service, ask};
use super::shared::stats::percentile;

const FORTY: Load = Load { streams: 40, events: 150, interval: 20 };
const HUNDRED: Load = Load { streams: 100, events: 200, interval: 20 };
/// What the sizing counts with: a full page, as fast as people read.
const STEADY: Load = Load { streams: 90, events: 100, interval: 50 };
const OF_FLOOD: Load = Load { streams: 16, events: 4_000, interval: 0 };
/// Looked at for its memory only.
const BRIEF: Load = Load { streams: 100, events: 75, interval: 20 };
/// After a start there is work to finish, in the browsers most of all.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two measurements: what the one left behind shall not count for the next.
const REST: Duration = Duration::from_millis(300);

/// The column of a client straight at the site.
pub const DIRECT: &str = "direct";

/// How much is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// A tenth of the events only.
    pub tenth: bool,
}

impl Size {
    fn of(self, load: Load) -> Load {
        if self.tenth { Load { events: load.events / 10, ..load } } else { load }
    }
}

/// A client of HTTP/1.1 at `origin`, over connections that it keeps.
pub fn client(origin: &str) -> Result<Client, Fail> {
    Ok(Client::new(http()?, origin))
}

/// A client that speaks no TLS; the builder wants to know how it would.
pub fn http() -> Result<reqwest::Client, Fail> {
    let provider = rustls::crypto::ring::default_provider().into();
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let http = reqwest::Client::builder().http1_only().tcp_nodelay(true).no_proxy();
    Ok(http.tls_backend_preconfigured(tls).build()?)
}

/// The browser's name and version.
pub async fn browser(site: &Practice, log: &Path) -> Result<String, Fail> {
    let service = Setup::ALONE.start(site, log).await?;
    let (_, metrics) = ask::get(service.instances[0].addr, "/metrics").await?;
    let version = metrics.split_once("browser=\"").and_then(|(_, rest)| rest.split_once('"'));
    Ok(version.map_or_else(String::new, |(version, _)| version.to_owned()))
}

/// One run straight at the site.
pub async fn direct(direct: &Client, size: Size, samples: &mut Samples) -> Result<(), Fail> {
    loads(direct, &DIRECT, None, size, samples).await
}

/// All runs of one setup.
pub async fn measure(
    setup: Setup,
    site: &Practice,
    log: &Path,
    size: Size,
    runs: usize,
    samples: &mut Samples,
) -> Result<(), Fail> {
    let service = setup.start(site, log).await?;
    let at = if setup.nginx { service.addr() } else { service.instances[0].addr };
    let client = client(&format!("http://{at}"))?;
    sleep(SETTLE).await;
    samples.add(IDLE_MEMORY, &setup, browser_memory(&service));
    // So that code is compiled, connections are open and caches are filled.
    client.streams(&Load { events: 30, ..HUNDRED }).await?;
    client.streams(&Load { events: 500, ..OF_FLOOD }).await?;
    for _ in 0..runs {
        loads(&client, &setup, Some((&service, setup)), size, samples).await?;
        memory(&service, &client, setup, samples).await?;
    }
    service.stop().await.map(drop)
}

/// One run of all loads; with a service, the processor time of its parts.
async fn loads(
    client: &Client,
    column: &impl ToString,
    service: Option<(&Service, Setup)>,
    size: Size,
    samples: &mut Samples,
) -> Result<(), Fail> {
    let mut incomplete = 0;
    for (load, (p50, p99), cpu) in [
        (FORTY, (FORTY_P50, FORTY_P99), None),
        (HUNDRED, (HUNDRED_P50, HUNDRED_P99), Some(BUSY_CPU)),
        (STEADY, (STEADY_P50, STEADY_P99), Some(STEADY_CPU)),
    ] {
        sleep(REST).await;
        let load = size.of(load);
        let before = service.map(|(it, setup)| cpu_of_parts(it, setup));
        let outcome = client.streams(&load).await?;
        let after = service.map(|(it, setup)| cpu_of_parts(it, setup));
        incomplete += told(&load, &outcome);
        samples.add(p50, column, percentile(&outcome.delays, 0.5) / 1e3);
        samples.add(p99, column, percentile(&outcome.delays, 0.99) / 1e3);
        if load.streams == HUNDRED.streams {
            samples.add(HUNDRED_RATE, column, outcome.delays.len() as f64 / outcome.seconds);
        }
        let per_100k = 100_000.0 / outcome.delays.len() as f64;
        if let Some(((figures, after), before)) = cpu.zip(after).zip(before) {
            for (figure, (after, before)) in figures.into_iter().zip(after.into_iter().zip(before)) {
                if let Some((after, before)) = after.zip(before) {
                    samples.add(figure, column, (after - before) * per_100k);
                }
            }
        }
    }
    sleep(REST).await;
    let load = size.of(OF_FLOOD);
    let outcome = client.streams(&load).await?;
    incomplete += told(&load, &outcome);
    samples.add(FLOOD, column, outcome.delays.len() as f64 / outcome.seconds);
    samples.add(INCOMPLETE, column, incomplete as f64);
    Ok(())
}

/// Processor time so far, in seconds, of instances, browsers, nginx and Redis, as far as they are in use.
fn cpu_of_parts(service: &Service, setup: Setup) -> [Option<f64>; 4] {
    let browsers = service.instances.iter().flat_map(|it| it.browsers());
    [
        Some(service.instances.iter().map(|it| cpu_of(it.pid())).sum()),
        Some(browsers.map(cpu_of_group).sum()),
        setup.nginx.then(|| cpu_of_group(service.front.pid())),
        service.store.as_ref().map(|it| cpu_of(it.pid())),
    ]
}

/// Looks in the middle of a load. Apart from the others: counting shared memory stops the processes.
async fn memory(service: &Service, client: &Client, setup: Setup, samples: &mut Samples) -> Result<(), Fail> {
    let middle = Duration::from_millis(BRIEF.interval * BRIEF.events as u64 / 2);
    let look = async {
        sleep(middle).await;
        let proxies = service.instances.iter().map(|it| resident(it.pid()) as f64 / MB);
        let nginx = shared_memory_of_group(service.front.pid());
        (proxies.sum::<f64>() / service.instances.len() as f64, browser_memory(service), nginx)
    };
    let (outcome, (proxy, browsers, nginx)) = tokio::join!(client.streams(&BRIEF), look);
    told(&BRIEF, &outcome?);
    samples.add(PROXY_MEMORY, &setup, proxy);
    samples.add(BROWSER_MEMORY, &setup, browsers);
    if setup.nginx {
        samples.add(NGINX_MEMORY, &setup, nginx);
    }
    Ok(())
}

/// Memory of the browsers of one instance, on average, in MB.
fn browser_memory(service: &Service) -> f64 {
    let browsers = service.instances.iter().flat_map(|it| it.browsers());
    browsers.map(shared_memory_of_group).sum::<f64>() / service.instances.len() as f64
}

/// How many streams were incomplete; says so.
fn told(load: &Load, outcome: &Outcome) -> usize {
    if let Some(failure) = outcome.failures.first() {
        eprintln!("{} of {} streams were incomplete: {failure}", outcome.failures.len(), load.streams);
    }
    load.streams - outcome.complete
}
