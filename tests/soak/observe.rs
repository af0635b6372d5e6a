//! What becomes of an injected fault: when it is first noticed, and when a fresh request is served again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use super::load::Load;
use super::proxy::Tail;
use super::wire;

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);
/// From one fresh request to the next, and how many may be under way.
const PROBE: Duration = Duration::from_millis(200);
const PROBES: usize = 16;

/// What was seen of one fault. Times count from the injection.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// When it was first noticed, and by what; `None` if nobody had to.
    pub detected: Option<(Duration, String)>,
    /// When a fresh request, begun after that, had been served; `None` if none was in time.
    pub recovered: Option<Duration>,
    /// What the proxy logged meanwhile, each thing once, apart from refusals of malformed requests.
    pub log: Vec<String>,
}

/// Observes what follows an injection at `injected` (since the start of the soak).
///
/// Noticed is what shows outside: a request fails, `/readyz` is not 200, or the log tells of a repair. When nothing
/// has shown for `notice`, nobody had to notice. It is given up `patience` after that.
pub async fn observe(
    load: &Load,
    tail: &mut Tail,
    injected: Duration,
    notice: Duration,
    patience: Duration,
) -> Seen {
    let ledger = &load.ledger;
    let (ready, _looking) = watch_ready(load);
    let mut seen = Seen::default();
    let mut probes = JoinSet::new();
    let mut served: Vec<(Duration, Duration)> = Vec::new();
    let (mut look, mut probe) = (interval(LOOK), interval(PROBE));
    loop {
        tokio::select! {
            _ = look.tick() => {}
            _ = probe.tick(), if probes.len() < PROBES => {
                let load = load.clone();
                probes.spawn(async move {
                    let began = load.ledger.now();
                    load.probe().await.then(|| (began, load.ledger.now()))
                });
            }
        }
        while let Some(probe) = probes.try_join_next() {
            served.extend(probe.ok().flatten());
        }
        let now = ledger.now() - injected;
        for line in tail.lines().into_iter().filter(|it| tells(it)) {
            if seen.detected.is_none() {
                seen.detected = Some((now, words(&line)));
            }
            // What is said of every single request says it once.
            if !seen.log.iter().any(|it| words(it) == words(&line)) {
                seen.log.push(line);
            }
        }
        if seen.detected.is_none() {
            let failed = ledger.failure_since(injected);
            let failed = failed.map(|(at, code)| (at - injected, format!("a request fails: {code}")));
            let unready = (!*ready.borrow()).then(|| (now, "/readyz".to_owned()));
            seen.detected = failed.or(unready);
        }
        let from = match &seen.detected {
            Some((at, _)) => Some(injected + *at),
            None if now >= notice => Some(injected),
            None => None,
        };
        let first =
            from.and_then(|from| served.iter().filter(|(began, _)| *began >= from).map(|it| it.1).min());
        if let Some(first) = first.filter(|_| *ready.borrow()) {
            seen.recovered = Some(first - injected);
            break;
        }
        if now > patience + seen.detected.as_ref().map_or(notice, |it| it.0) {
            break;
        }
    }
    // Probes have their own ends in the books.
    probes.detach_all();
    seen
}

/// Asks `/readyz` again and again.
fn watch_ready(load: &Load) -> (watch::Receiver<bool>, AbortOnDropHandle<()>) {
    let (said, ready) = watch::channel(true);
    let addr = load.addr();
    let asking = tokio::spawn(async move {
        loop {
            let now = wire::is_ready(addr).await;
            said.send_replace(now);
            tokio::time::sleep(LOOK).await;
        }
    });
    (ready, AbortOnDropHandle::new(asking))
}

/// Whether a line of the log tells of a fault or of a repair.
fn tells(line: &str) -> bool {
    line.contains(" WARN ") || line.contains(" ERROR ") || line.contains(" -> ")
}

/// A line without its time, in short.
fn words(line: &str) -> String {
    let line = line.split_once(" INFO ").or_else(|| line.split_once(" WARN ")).map_or(line, |it| it.1);
    line.trim().chars().take(70).collect()
}
