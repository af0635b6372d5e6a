//! What a shared Redis costs a request: short ones of each kind, with and without it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tabproxy::practice::Practice;
use tokio::task::JoinSet;

use super::load::{CONVERSATION, Fail, SMALL, ms};
use super::samples::{COMMANDS, LATENCY_P50, LATENCY_P99, REDIS_MS, REQUESTS, Samples};
use super::setups;
use super::shared::procfs::cpu_of;
use super::shared::service::Service;
use super::shared::stats::percentile;
use super::streams::{Size, http};

const INSTANCES: usize = 2;
/// Requests of a kind and run, and how many are under way at once.
const TIMES: u64 = 400;
const AT_ONCE: u64 = 8;
/// A short answer.
const PROMPT: &str = "count=3 interval=0";

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A small GET: nothing of it is shared.
    Small,
    /// A turn that begins a conversation.
    Begins,
    /// A turn that goes on with one, whose lock is shared.
    GoesOn,
    /// A turn of the bot plugin, whose answer other instances can give again.
    Plugin,
    /// A turn of the official API's clients, whose conversation is looked up.
    Official,
}

impl Kind {
    /// In the order of the table.
    pub const ALL: [Kind; 5] = [Kind::Small, Kind::Begins, Kind::GoesOn, Kind::Plugin, Kind::Official];

    /// The column with or without a Redis.
    pub fn column(self, redis: bool) -> String {
        format!("{self}, {}", if redis { "Redis" } else { "none" })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Small => "a small GET",
            Kind::Begins => "a turn that begins a conversation",
            Kind::GoesOn => "a turn that goes on with one",
            Kind::Plugin => "a turn of the bot plugin",
            Kind::Official => "a turn on `/v1/chat/completions`",
        })
    }
}

/// All runs of all kinds, with or without a Redis.
pub async fn measure(
    site: &Practice,
    log: &Path,
    redis: bool,
    size: Size,
    runs: usize,
    samples: &mut Samples,
) -> Result<(), Fail> {
    let service = setups::start(site, log, INSTANCES, 1, redis).await?;
    let asker = Asker::new(&service)?;
    let times = if size.tenth { TIMES / 10 } else { TIMES };
    for kind in Kind::ALL {
        asker.times(kind, AT_ONCE * 2).await?;
        for _ in 0..runs {
            let before = shared(&service).await?;
            let began = Instant::now();
            let took = asker.times(kind, times).await?;
            let seconds = began.elapsed().as_secs_f64();
            let column = kind.column(redis);
            samples.add(REQUESTS, &column, took.len() as f64 / seconds);
            samples.add(LATENCY_P50, &column, percentile(&took, 0.5));
            samples.add(LATENCY_P99, &column, percentile(&took, 0.99));
            if let Some((after, before)) = shared(&service).await?.zip(before) {
                samples.add(COMMANDS, &column, (after.0 - before.0) as f64 / took.len() as f64);
                samples.add(REDIS_MS, &column, (after.1 - before.1) * 1e3 / took.len() as f64);
            }
        }
    }
    service.stop().await.map(drop)
}

/// Commands that Redis has carried out for the instances, and its seconds, so far.
async fn shared(service: &Service) -> Result<Option<(u64, f64)>, Fail> {
    let Some(store) = &service.store else { return Ok(None) };
    let told: String = store.command(&["INFO", "commandstats"]).await?;
    let calls = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let is_theirs = !["info", "auth", "hello", "client"].iter().any(|it| name.starts_with(it));
        is_theirs.then(|| rest.split(',').next()?.parse::<u64>().ok()).flatten()
    };
    Ok(Some((told.lines().filter_map(calls).sum(), cpu_of(store.pid()))))
}

/// Clients that ask again and again. Clones share what they count.
#[derive(Clone)]
struct Asker {
    http: reqwest::Client,
    origin: Arc<str>,
    asked: Arc<AtomicU64>,
}

impl Asker {
    fn new(service: &Service) -> Result<Asker, Fail> {
        Ok(Asker {
            http: http()?,
            origin: format!("http://{}", service.addr()).into(),
            asked: Arc::default(),
        })
    }

    /// So many requests, some at once; milliseconds that each took.
    async fn times(&self, kind: Kind, times: u64) -> Result<Vec<f64>, Fail> {
        let mut seats = JoinSet::new();
        for _ in 0..AT_ONCE {
            let asker = self.clone();
            seats.spawn(async move {
                // Each seat has a conversation of its own: the site answers one turn at a time in each.
                let mut place = match kind {
                    Kind::GoesOn => asker.ask(Kind::Begins, None).await?.1,
                    _ => None,
                };
                let mut took = Vec::new();
                for _ in 0..times / AT_ONCE {
                    let (time, next) = asker.ask(kind, place.take()).await?;
                    place = next;
                    took.push(time);
                }
                Ok::<_, Fail>(took)
            });
        }
        let mut all = Vec::new();
        while let Some(seat) = seats.join_next().await {
            all.extend(seat??);
        }
        Ok(all)
    }

    /// One request; milliseconds, and where the next turn goes on.
    async fn ask(&self, kind: Kind, place: Option<Place>) -> Result<(f64, Option<Place>), Fail> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let url = |path: &str| format!("{}{path}", self.origin);
        // Words that nobody else says: who says the same as another may share its answer.
        let prompt = format!("hello {number} {PROMPT}");
        let request = match kind {
            Kind::Small => self.http.get(url(SMALL)),
            Kind::Official => self.http.post(url("/v1/chat/completions")).json(
                &json!({"model": "auto", "stream": true, "messages": [{"role": "user", "content": prompt}]}),
            ),
            Kind::Begins | Kind::GoesOn => self.http.post(url(CONVERSATION)).json(&turn(&prompt, place)),
            Kind::Plugin => {
                let request = self.http.post(url(CONVERSATION)).json(&turn(&prompt, None));
                request.header("library", "chatgpt-plugin")
            }
        };
        let is_turn = kind != Kind::Small;
        let request = request.header("accept", if is_turn { "text/event-stream" } else { "*/*" });
        let began = Instant::now();
        let answer = request.send().await?.error_for_status()?.bytes().await?;
        let took = ms(began.elapsed());
        if is_turn && !answer.ends_with(b"data: [DONE]\n\n") {
            return Err(format!("{kind}: an answer without an end").into());
        }
        let next = match kind {
            Kind::Begins | Kind::GoesOn => Some(Place::of(&answer).ok_or("an answer without a place")?),
            _ => None,
        };
        Ok((took, next))
    }
}

/// Where a turn goes on.
struct Place {
    conversation: String,
    parent: String,
}

impl Place {
    /// After the answer in snapshots.
    fn of(answer: &[u8]) -> Option<Place> {
        let body = std::str::from_utf8(answer).ok()?;
        let data = body.lines().filter_map(|it| it.strip_prefix("data: "));
        let mut events = data.filter_map(|it| serde_json::from_str::<Value>(it).ok());
        let last = events.rfind(|it| it["message"]["id"].is_string())?;
        Some(Place {
            conversation: last["conversation_id"].as_str()?.to_owned(),
            parent: last["message"]["id"].as_str()?.to_owned(),
        })
    }
}

fn turn(prompt: &str, place: Option<Place>) -> Value {
    let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let mut body = json!({"action": "next", "model": "auto", "messages": [{
        "id": id, "author": {"role": "user"}, "content": {"content_type": "text", "parts": [prompt]},
    }]});
    body["parent_message_id"] = place.as_ref().map_or("none", |it| it.parent.as_str()).into();
    if let Some(place) = place {
        body["conversation_id"] = place.conversation.into();
    }
    body
}
