//! What nginx in front does with an event stream, by the ticks of `/healthz/stream`: read once through it and once
//! straight from the server.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::header;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::asking::{self, STEP};
use super::finding::Finding;
use super::instance::Running;
use super::site::judge_trust;
use super::tls::Trust;
use crate::browser::gateway::Approach;
use crate::config::Config;
use crate::health;

const PATH: &str = "/healthz/stream";
/// Ticks that come soon after each other; after them it is silent as between two pings, then twice as long.
const QUICK: usize = 6;
/// How much later than without nginx an event may be.
const LATE: u64 = 500;
/// The server tries no longer time between pings than this, in milliseconds.
const LONGEST: u64 = 5000;
/// Whoever collects a stream answers only after its end.
const COLLECTED: Duration = Duration::from_secs(18);
/// Silence, in the end, for this long is more than the server ever makes.
const SILENCE: Duration = Duration::from_secs(15);

/// A tick as it was sent.
#[derive(Clone, Debug, Deserialize)]
struct Tick {
    at_ms: u64,
    ping_ms: Option<u64>,
    is_last: bool,
}

/// The stream as it came.
#[derive(Clone, Debug, Default)]
struct Stream {
    /// Each tick, and when it was here, in milliseconds from the request.
    ticks: Vec<(Tick, u64)>,
    /// How it was packed on the way.
    encoding: Option<String>,
    /// From the last tick to the end, in milliseconds.
    silent: u64,
    /// When its first bytes were here, and when its end, in milliseconds from the request.
    span: (u64, u64),
}

impl Stream {
    fn is_whole(&self) -> bool {
        self.ticks.last().is_some_and(|(tick, _)| tick.is_last)
    }

    /// The longest that a tick took, in milliseconds.
    fn latest(&self) -> u64 {
        self.ticks.iter().map(|(tick, here)| here.saturating_sub(tick.at_ms)).max().unwrap_or_default()
    }

    /// Whether nothing came before everything was sent.
    fn is_collected(&self) -> bool {
        if self.encoding.is_some() {
            // Its ticks cannot be read; but they began at once, and went on for a while.
            return self.span.0 * 10 > self.span.1 * 9;
        }
        match (self.ticks.first(), self.ticks.last()) {
            (Some((_, first)), Some((last, _))) => self.ticks.len() > 1 && *first >= last.at_ms,
            _ => false,
        }
    }
}

/// Why there is no stream.
#[derive(Clone, Debug)]
enum Trouble {
    /// Nobody answers.
    Unreachable(String),
    /// Another answer: its status, and the beginning of its text.
    Answer(u16, String),
}

/// Looks, through `front`, and straight where a server runs.
pub async fn look(front: &Url, config: &Config, running: &Running) -> Vec<Finding> {
    let through = read(with_path(front), None);
    let direct = async {
        if !running.is_tabproxy() {
            return None;
        }
        let addr = health::reachable(config.listen);
        read(Url::parse(&format!("http://{addr}{PATH}")).ok()?, Some(addr)).await.ok()
    };
    let (through, direct) = tokio::join!(through, direct);
    match through {
        Err(trouble) => vec![judge_trouble(front, &trouble)],
        Ok((stream, trust)) => {
            let mut all = vec![judge_flow(&stream, direct.as_ref().map(|it| &it.0))];
            // What is packed cannot be read.
            all.extend(stream.encoding.is_none().then(|| judge_patience(&stream)));
            all.extend(judge_trust("nginx tls", front.host_str().unwrap_or_default(), &trust));
            all
        }
    }
}

fn with_path(front: &Url) -> Url {
    let mut url = front.clone();
    url.set_path(&format!("{}{PATH}", front.path().trim_end_matches('/')));
    url.set_query(None);
    url
}

async fn read(url: Url, at: Option<SocketAddr>) -> Result<(Stream, Trust), Trouble> {
    let unreachable = |error: io::Error| Trouble::Unreachable(error.to_string());
    let begun = Instant::now();
    let addresses = match at {
        Some(addr) => vec![addr],
        None => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or(80);
            let found = timeout(STEP, tokio::net::lookup_host(format!("{host}:{port}"))).await;
            let late = || io::Error::other("its name is not found in time");
            found.unwrap_or_else(|_| Err(late())).map_err(unreachable)?.collect()
        }
    };
    let stream = asking::connect(addresses).await.map_err(unreachable)?;
    let approach = Approach { stream, target: url.path().to_owned(), authorization: None };
    let answer =
        asking::ask(approach, &url, "GET", "text/event-stream", &[], COLLECTED).await.map_err(unreachable)?;
    let of = |name| answer.headers.get(name).and_then(|it| it.to_str().ok());
    let kind = of(header::CONTENT_TYPE).unwrap_or_default();
    if answer.status != 200 || !kind.starts_with("text/event-stream") {
        let body = timeout(STEP, Limited::new(answer.body, 4096).collect()).await;
        let text = body.ok().and_then(Result::ok).map(|it| it.to_bytes()).unwrap_or_default();
        return Err(Trouble::Answer(answer.status, String::from_utf8_lossy(&text).into_owned()));
    }
    let encoding = of(header::CONTENT_ENCODING).filter(|it| *it != "identity").map(str::to_owned);
    let mut stream = Stream { encoding, ..Stream::default() };
    let (mut body, mut pending, mut heard) = (answer.body, Vec::new(), Instant::now());
    while let Ok(Some(Ok(frame))) = timeout(SILENCE, body.frame()).await {
        let Ok(data) = frame.into_data() else { continue };
        heard = Instant::now();
        let here = begun.elapsed().as_millis() as u64;
        if stream.span == (0, 0) {
            stream.span.0 = here;
        }
        stream.span.1 = here;
        if stream.encoding.is_some() {
            continue;
        }
        pending.extend_from_slice(&data);
        stream.ticks.extend(take_ticks(&mut pending).into_iter().map(|tick| (tick, here)));
        if stream.is_whole() || pending.len() > 4096 {
            break;
        }
    }
    stream.silent = heard.elapsed().as_millis() as u64;
    Ok((stream, answer.trust))
}

/// The events that are here whole; what is left is the beginning of the next.
fn take_ticks(pending: &mut Vec<u8>) -> Vec<Tick> {
    let mut ticks = Vec::new();
    while let Some(end) = memchr::memmem::find(pending, b"\n\n") {
        let event: Vec<u8> = pending.drain(..end + 2).collect();
        let json = event.strip_prefix(b"data: ").unwrap_or_default();
        ticks.extend(serde_json::from_slice::<Tick>(json).ok());
    }
    ticks
}

fn judge_flow(stream: &Stream, direct: Option<&Stream>) -> Finding {
    const NAME: &str = "nginx";
    let unbuffered = "proxy_buffering off; gzip off; and no proxy_ignore_headers X-Accel-Buffering (nginx/ in this \
                      project has it all)";
    if let Some(encoding) = &stream.encoding {
        let text = format!("it packs event streams ({encoding})");
        let remedy = "set gzip off for what is proxied to tabproxy";
        return if stream.is_collected() {
            Finding::red(NAME, format!("{text}, and nothing came before all was sent"), remedy)
        } else {
            Finding::yellow(NAME, format!("{text}, which may hold events back"), remedy)
        };
    }
    let latest = stream.latest();
    if stream.is_collected() {
        let text = format!("it collects event streams: nothing came before all was sent, {latest} ms later");
        return Finding::red(NAME, text, unbuffered);
    }
    if stream.ticks.is_empty() {
        return Finding::red(NAME, "it begins an event stream, but no event came through", unbuffered);
    }
    let straight = direct.map(Stream::latest);
    let without = straight.map(|it| format!(", {it} ms without it")).unwrap_or_default();
    if latest > straight.unwrap_or(0) + LATE {
        return Finding::yellow(
            NAME,
            format!("events come through up to {latest} ms late{without}"),
            unbuffered,
        );
    }
    Finding::green(
        NAME,
        format!("events come through as they are written (at most {latest} ms late{without})"),
    )
}

fn judge_patience(stream: &Stream) -> Finding {
    const NAME: &str = "nginx waits";
    let ping = stream.ticks.first().and_then(|(tick, _)| tick.ping_ms);
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
    let silent = seconds(stream.silent);
    let longer =
        "make proxy_read_timeout more than twice TABPROXY_PING (nginx/ in this project has 10s for 4s)";
    if !stream.is_whole() && stream.ticks.len() < QUICK {
        return Finding::red(NAME, "it cut the stream soon after its beginning", "see nginx's error log");
    }
    let Some(ping) = ping else {
        let text =
            "there are no pings (TABPROXY_PING=off): a stream that is silent for longer than it waits is cut";
        return Finding::yellow(NAME, text, "set TABPROXY_PING=4s, or a proxy_read_timeout of some minutes");
    };
    let every = seconds(ping);
    if !stream.is_whole() && stream.ticks.len() == QUICK {
        let text = format!("it cut the stream after {silent} of silence; pings come every {every}");
        return Finding::red(NAME, text, longer);
    }
    if !stream.is_whole() {
        let text =
            format!("it cut the stream after {silent} of silence; pings come every {every}, and may be late");
        return Finding::yellow(NAME, text, longer);
    }
    if ping > LONGEST {
        let text = format!("it waits {} in silence, but pings come every {every}", seconds(2 * LONGEST));
        return Finding::yellow(
            NAME,
            text,
            "set TABPROXY_PING=4s, or see that proxy_read_timeout is twice as long",
        );
    }
    Finding::green(NAME, format!("it waits {} in silence; pings come every {every}", seconds(2 * ping)))
}

fn judge_trouble(front: &Url, trouble: &Trouble) -> Finding {
    const NAME: &str = "nginx";
    let host = front.host_str().unwrap_or_default();
    match trouble {
        Trouble::Unreachable(why) => Finding::red(
            NAME,
            format!("nothing answers at {host}: {why}"),
            "see that nginx runs, and the address after --nginx",
        ),
        Trouble::Answer(403, text) if text.contains("foreign_host") => Finding::red(
            NAME,
            format!("tabproxy does not answer to the name {host}"),
            format!("add it: TABPROXY_HOSTS={host}"),
        ),
        Trouble::Answer(403 | 404, _) => Finding::yellow(
            NAME,
            format!("it does not pass {PATH}, so streams cannot be looked at"),
            "take nginx/tabproxy.conf.template of this version, and reload nginx",
        ),
        Trouble::Answer(429, _) => {
            Finding::yellow(NAME, "others look at the same stream now", "look again in a moment")
        }
        Trouble::Answer(status @ (502..=504), _) => Finding::red(
            NAME,
            format!("it does not reach tabproxy: {status}"),
            "start tabproxy, and see TABPROXY_UPSTREAM in nginx's configuration",
        ),
        Trouble::Answer(status, _) => Finding::red(
            NAME,
            format!("it answers {status} and no event stream"),
            "see that the address after --nginx is that of tabproxy's nginx",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Light::{Green, Red, Yellow};
    use super::*;

    /// The usual ticks with pings every 4 seconds, of which `count` came; `here` says when.
    fn stream(count: usize, here: impl Fn(u64) -> u64) -> Stream {
        let at = [0, 100, 200, 300, 400, 500, 4500, 12_500];
        let tick = |(number, at_ms): (usize, u64)| Tick { at_ms, ping_ms: Some(4000), is_last: number == 7 };
        let ticks = at.into_iter().enumerate().take(count).map(|it| (tick(it), here(it.1))).collect();
        Stream { ticks, silent: 3000, ..Stream::default() }
    }

    #[test]
    fn a_collected_stream_is_red_and_a_late_one_yellow() {
        let direct = stream(8, |at| at + 2);
        assert_eq!(judge_flow(&stream(8, |at| at + 5), Some(&direct)).state, Green);
        assert_eq!(judge_flow(&stream(8, |_| 12_510), Some(&direct)).state, Red);
        assert_eq!(judge_flow(&stream(6, |_| 3500), None).state, Red, "cut, and given out then");
        assert_eq!(judge_flow(&stream(8, |at| at + 900), Some(&direct)).state, Yellow);
        let slow = stream(8, |at| at + 880);
        assert_eq!(judge_flow(&stream(8, |at| at + 900), Some(&slow)).state, Green, "it is not nginx's");
        assert_eq!(judge_flow(&Stream::default(), None).state, Red);
        let packed = |span| Stream { encoding: Some("gzip".into()), span, ..Stream::default() };
        assert_eq!(judge_flow(&packed((5, 12_500)), None).state, Yellow);
        assert_eq!(judge_flow(&packed((12_480, 12_500)), None).state, Red);
    }

    #[test]
    fn it_must_wait_longer_than_two_pings_take() {
        let of = |count| judge_patience(&stream(count, |at| at)).state;
        assert_eq!((of(8), of(7), of(6), of(3), of(0)), (Green, Yellow, Red, Red, Red));
        let mut none = stream(6, |at| at);
        none.ticks.iter_mut().for_each(|(tick, _)| tick.ping_ms = None);
        none.ticks[5].0.is_last = true;
        assert_eq!(judge_patience(&none).state, Yellow);
        let mut rare = stream(8, |at| at);
        rare.ticks.iter_mut().for_each(|(tick, _)| tick.ping_ms = Some(30_000));
        assert_eq!(judge_patience(&rare).state, Yellow);
    }

    #[test]
    fn what_answers_in_its_place_is_told_apart() {
        let front = "http://chat.example.com/".parse().unwrap();
        let of = |status, text: &str| judge_trouble(&front, &Trouble::Answer(status, text.into()));
        assert!(of(403, "{\"code\":\"foreign_host\"}").remedy.unwrap().contains("TABPROXY_HOSTS"));
        assert_eq!(of(403, "This path is not served here.").state, Yellow);
        assert_eq!((of(502, "").state, of(200, "hello").state), (Red, Red));
        assert_eq!(with_path(&"http://h:8/x/?a".parse().unwrap()).as_str(), "http://h:8/x/healthz/stream");
    }

    #[test]
    fn events_are_read_in_any_pieces() {
        let mut pending =
            b"data: {\"at_ms\":1,\"ping_ms\":null,\"is_last\":false}\n\n: ping\n\ndata: {\"at".to_vec();
        assert_eq!(take_ticks(&mut pending).len(), 1);
        pending.extend_from_slice(b"_ms\":2,\"ping_ms\":4000,\"is_last\":true}\n\n");
        let ticks = take_ticks(&mut pending);
        assert!(ticks.len() == 1 && ticks[0].is_last && ticks[0].at_ms == 2 && pending.is_empty());
    }
}
