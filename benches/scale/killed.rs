//! What a killed instance costs: its own streams, each with an explicit error, and a moment.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tabproxy::practice::Practice;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::load::{CONVERSATION, Fail};
use super::setups;
use super::shared::service::{PATIENCE, Service};
use super::streams::http;

const INSTANCES: usize = 3;
const STREAMS: usize = 60;
/// Of each: six seconds.
const PROMPT: &str = "count=300 interval=20 grow=0";
/// From one fresh request to the next.
const PROBE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(10);

/// What one kill has cost.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// Streams that were whole.
    pub complete: usize,
    /// Streams with an error that nobody can take for an answer.
    pub failed: usize,
    /// Streams with neither.
    pub lost: usize,
    /// Messages that the site saw more than once.
    pub twice: usize,
    /// Fresh requests, ten in a second, that failed until the instance was back.
    pub refused: usize,
    /// From the kill until a fresh request, begun after it, was served by the others, in seconds.
    pub served: f64,
    /// The longest that any fresh request after it took, in seconds.
    pub slowest: f64,
    /// From the kill until the instance was ready again, in seconds.
    pub back: f64,
}

impl Killed {
    /// Whether nothing was lost unseen and nothing sent twice.
    pub fn held(&self) -> bool {
        self.lost == 0 && self.twice == 0
    }
}

/// Kills one instance of three, `runs` times.
pub async fn measure(site: &Practice, log: &Path, runs: usize) -> Result<Vec<Killed>, Fail> {
    let service = setups::start(site, log, INSTANCES, 1, true).await?;
    let mut killed = Vec::new();
    for run in 0..runs {
        killed.push(once(&service, site, run).await?);
    }
    service.stop().await?;
    Ok(killed)
}

async fn once(service: &Service, site: &Practice, run: usize) -> Result<Killed, Fail> {
    let (http, url) = (http()?, Arc::<str>::from(format!("http://{}{CONVERSATION}", service.addr())));
    let begun = Arc::new(AtomicUsize::new(0));
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        let (http, url, begun) = (http.clone(), url.clone(), begun.clone());
        let id = format!("killed-{run}-{number}");
        streams.spawn(async move { ask(&http, &url, &id, PROMPT, &begun).await });
    }
    let all_run = async {
        while begun.load(Ordering::Relaxed) < STREAMS {
            sleep(POLL).await;
        }
    };
    timeout(PATIENCE, all_run).await.map_err(|_| "not all streams began")?;

    let one = service.instances[run % INSTANCES].clone();
    let struck = Instant::now();
    one.signal(Signal::KILL);
    let back = tokio::spawn(async move { one.supervise().await.map(|()| struck.elapsed()) });
    let (mut probes, mut number) = (JoinSet::new(), 0);
    while struck.elapsed() < Duration::from_secs(2) || !back.is_finished() {
        let (http, url, id) = (http.clone(), url.clone(), format!("probe-{run}-{number}"));
        number += 1;
        probes.spawn(async move {
            let began = Instant::now();
            let end = ask(&http, &url, &id, "count=1 interval=0", &AtomicUsize::new(0)).await;
            (end, struck.elapsed(), began.elapsed())
        });
        sleep(PROBE).await;
    }
    let back = back.await??.as_secs_f64();
    let (mut served, mut slowest, mut refused, mut lost) = (f64::INFINITY, 0_f64, 0, 0);
    while let Some(probe) = probes.join_next().await {
        let (end, at, took) = probe?;
        slowest = slowest.max(took.as_secs_f64());
        match end {
            Seen::Whole => served = served.min(at.as_secs_f64()),
            Seen::Failed => refused += 1,
            Seen::Lost => lost += 1,
        }
    }
    let (mut complete, mut failed) = (0, 0);
    while let Some(end) = timeout(PATIENCE, streams.join_next()).await.map_err(|_| "a stream never ended")? {
        match end? {
            Seen::Whole => complete += 1,
            Seen::Failed => failed += 1,
            Seen::Lost => lost += 1,
        }
    }
    let posts = site.counters().posts_by_message_id;
    let ours = posts.iter().filter(|(id, _)| id.starts_with("killed-") || id.starts_with("probe-"));
    let twice = ours.filter(|(_, times)| **times > 1).count();
    Ok(Killed { complete, failed, lost, twice, refused, served, slowest, back })
}

/// How a request ended.
enum Seen {
    Whole,
    Failed,
    Lost,
}

async fn ask(http: &reqwest::Client, url: &str, id: &str, prompt: &str, begun: &AtomicUsize) -> Seen {
    let body = json!({"action": "next", "model": "auto", "messages": [{
        "id": id, "author": {"role": "user"}, "content": {"content_type": "text", "parts": [prompt]},
    }]});
    let asked = http.post(url).header("accept", "text/event-stream").json(&body).send().await;
    begun.fetch_add(1, Ordering::Relaxed);
    // nginx lives: whoever gets no answer from it is lost.
    let Ok(mut answer) = asked else { return Seen::Lost };
    if answer.status() != 200 {
        return if answer.status().is_server_error() { Seen::Failed } else { Seen::Lost };
    }
    let mut end = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(piece)) => {
                end.extend_from_slice(&piece);
                end.drain(..end.len().saturating_sub(64));
            }
            Ok(None) if end.ends_with(b"data: [DONE]\n\n") => return Seen::Whole,
            Ok(None) => return Seen::Lost,
            Err(_) => return Seen::Failed,
        }
    }
}
