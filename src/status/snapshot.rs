//! How a server is at one moment, from what it tells anybody: `/readyz` and `/metrics`. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::figures::{self, Figure, Histogram, Spread};

/// How a server is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// What `/readyz` says.
    pub ready: Ready,
    /// Its version.
    pub version: String,
    /// The browser's name and version; empty before one was up.
    pub browser: String,
    /// Browsers started.
    pub starts: u64,
    /// Browsers that run side by side.
    pub browsers: u64,
    /// Carriers opened.
    pub pages: u64,
    /// Memory of the server itself, in bytes.
    pub memory: u64,
    /// Memory of the browser, in bytes.
    pub browser_memory: u64,
    /// Bytes held for slow readers.
    pub buffered: u64,
    /// Log lines that could not be written.
    pub lost_lines: u64,
    /// The stored accounts.
    pub accounts: Vec<Account>,
    /// What has added up since its start.
    pub totals: Totals,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Ready {
    /// Whether a request would be served now.
    pub ready: bool,
    /// The phase, in one word.
    pub phase: String,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// Since when it is in this phase.
    pub since_seconds: u64,
    /// How long this phase usually takes.
    pub usual_seconds: Option<f64>,
    /// Requests that run,
    pub running: u64,
    /// that may run,
    pub places: u64,
    /// and that wait.
    pub queued: u64,
    /// The phases before, newest first, but for `ready`.
    #[serde(default)]
    pub before: Vec<Before>,
}

/// A phase that is over.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Before {
    /// Its name.
    pub phase: String,
    /// How long it lasted.
    pub seconds: f64,
    /// How long ago it began.
    pub ago_seconds: u64,
}

/// A stored account.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// `ready`, `resting` or `refused`.
    pub state: String,
    /// Requests that run with it.
    pub running: u64,
}

/// What adds up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Requests that ended, by how; those ends that never came are left out.
    pub outcomes: Vec<(String, u64)>,
    /// Requests without a right key where one is needed.
    pub keys_refused: u64,
    /// Events of event streams sent.
    pub events: u64,
    /// Bytes of bodies from clients,
    pub bytes_in: u64,
    /// and to clients.
    pub bytes_out: u64,
    /// From a request's arrival to the head of its answer.
    pub head: Histogram,
    /// From the page's read of a piece to our handing it on.
    pub delay: Histogram,
}

impl Totals {
    fn requests(&self) -> u64 {
        self.outcomes.iter().map(|it| it.1).sum()
    }
}

impl Snapshot {
    /// From the answers of `/readyz` and `/metrics`.
    ///
    /// # Errors
    /// The first of them is not what our server says.
    pub fn read(ready: &str, metrics: &str) -> Result<Snapshot, serde_json::Error> {
        let ready = serde_json::from_str(ready)?;
        let all = figures::read(metrics);
        let find = |name: &str| all.iter().find(|it| it.name == name);
        let value = |name: &str| find(name).map_or(0, |it| it.value as u64);
        let build =
            |label: &str| find("tabproxy_build_info").map_or_else(String::new, |it| it.label(label).into());
        let bytes = |direction: &str| {
            let is_it = |it: &&Figure<'_>| {
                it.name == "tabproxy_body_bytes_total" && it.label("direction") == direction
            };
            all.iter().find(is_it).map_or(0, |it| it.value as u64)
        };
        let outcomes = all.iter().filter(|it| it.name == "tabproxy_exchanges_total" && it.value > 0.0);
        let mut outcomes: Vec<_> =
            outcomes.map(|it| (it.label("outcome").to_owned(), it.value as u64)).collect();
        outcomes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(Snapshot {
            ready,
            version: build("version"),
            browser: build("browser"),
            starts: value("tabproxy_browser_starts_total"),
            // Only several of them have such a figure each.
            browsers: all.iter().filter(|it| it.name == "tabproxy_browser_up").count().max(1) as u64,
            pages: value("tabproxy_pages_total"),
            memory: value("tabproxy_process_resident_memory_bytes"),
            browser_memory: value("tabproxy_browser_resident_memory_bytes"),
            buffered: value("tabproxy_buffered_bytes"),
            lost_lines: value("tabproxy_log_lines_lost_total"),
            accounts: accounts(&all),
            totals: Totals {
                outcomes,
                keys_refused: value("tabproxy_keys_refused_total"),
                events: value("tabproxy_events_total"),
                bytes_in: bytes("in"),
                bytes_out: bytes("out"),
                head: Histogram::of(&all, "tabproxy_time_to_head_seconds"),
                delay: Histogram::of(&all, "tabproxy_event_delay_seconds"),
            },
        })
    }

    /// Browsers that had to be started after the first.
    pub fn restarts(&self) -> u64 {
        self.starts.saturating_sub(self.browsers)
    }

    /// Accounts in this state.
    pub fn accounts_in<'a>(&'a self, state: &'a str) -> impl Iterator<Item = &'a Account> {
        self.accounts.iter().filter(move |it| it.state == state)
    }
}

fn accounts(all: &[Figure<'_>]) -> Vec<Account> {
    let running = |name: &str| {
        let is_it = |it: &&Figure<'_>| it.name == "tabproxy_account_running" && it.label("account") == name;
        all.iter().find(is_it).map_or(0, |it| it.value as u64)
    };
    let states = all.iter().filter(|it| it.name == "tabproxy_account_state" && it.value == 1.0);
    let account = |it: &Figure<'_>| {
        let (name, state) = (it.label("account").to_owned(), it.label("state").to_owned());
        Account { running: running(&name), name, state }
    };
    states.map(account).collect()
}

/// What happened between two snapshots, per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Over how long.
    pub over: Duration,
    /// Requests that ended.
    pub requests: f64,
    /// Events.
    pub events: f64,
    /// Bytes from clients,
    pub bytes_in: f64,
    /// and to clients.
    pub bytes_out: f64,
    /// Times to the head.
    pub head: Spread,
    /// Delays of pieces.
    pub delay: Spread,
}

impl Flow {
    /// From `before` to `now`, which were so far apart; `None` where they are not of the same run of a server.
    pub fn between(before: &Totals, now: &Totals, over: Duration) -> Option<Flow> {
        let seconds = over.as_secs_f64();
        let rate = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 / seconds);
        if seconds <= 0.0 {
            return None;
        }
        Some(Flow {
            over,
            requests: rate(before.requests(), now.requests())?,
            events: rate(before.events, now.events)?,
            bytes_in: rate(before.bytes_in, now.bytes_in)?,
            bytes_out: rate(before.bytes_out, now.bytes_out)?,
            head: now.head.since(&before.head).spread(),
            delay: now.delay.since(&before.delay).spread(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const READY: &str = r#"{"ready":true,"phase":"ready","since_seconds":723,"running":2,"places":90,"queued":0,
        "before":[{"phase":"warming","seconds":0.4,"ago_seconds":724},{"phase":"starting","seconds":0.6,"ago_seconds":725}]}"#;

    /// A server that has answered `n` requests of 10 events each.
    pub fn metrics(n: u64) -> String {
        let (events, bytes) = (n * 10, n * 4000);
        format!(
            r#"# TYPE tabproxy_exchanges counter
tabproxy_exchanges_total{{outcome="complete"}} {n}
tabproxy_exchanges_total{{outcome="queue_full"}} 3
tabproxy_exchanges_total{{outcome="page_lost"}} 0
tabproxy_time_to_head_seconds_bucket{{le="0.02"}} {n}
tabproxy_time_to_head_seconds_bucket{{le="+Inf"}} {n}
tabproxy_event_delay_seconds_bucket{{le="0.001"}} {events}
tabproxy_event_delay_seconds_bucket{{le="+Inf"}} {events}
tabproxy_body_bytes_total{{direction="in"}} 120
tabproxy_body_bytes_total{{direction="out"}} {bytes}
tabproxy_events_total {events}
tabproxy_browser_starts_total 2
tabproxy_pages_total 5
tabproxy_process_resident_memory_bytes 36700160
tabproxy_browser_resident_memory_bytes 654311424
tabproxy_keys_refused_total 1
tabproxy_account_state{{account="work",state="ready"}} 1
tabproxy_account_state{{account="work",state="resting"}} 0
tabproxy_account_state{{account="家里的账号",state="resting"}} 1
tabproxy_account_running{{account="work"}} 2
tabproxy_build_info{{version="0.1.0",browser="Chrome/156.0.8078.79"}} 1
# EOF
"#
        )
    }

    #[test]
    fn a_snapshot_is_what_the_server_tells() {
        let it = Snapshot::read(READY, &metrics(40)).unwrap();
        assert_eq!((it.ready.ready, it.ready.phase.as_str(), it.ready.running), (true, "ready", 2));
        assert_eq!((it.browser.as_str(), it.restarts(), it.pages), ("Chrome/156.0.8078.79", 1, 5));
        assert_eq!((it.memory, it.browser_memory), (35 << 20, 624 << 20));
        assert_eq!(it.totals.outcomes, [("complete".into(), 40), ("queue_full".into(), 3)]);
        assert_eq!((it.totals.keys_refused, it.totals.bytes_in, it.totals.bytes_out), (1, 120, 160_000));
        assert_eq!(
            it.accounts_in("ready").map(|it| (it.name.as_str(), it.running)).next(),
            Some(("work", 2))
        );
        assert_eq!(it.accounts_in("resting").count(), 1);
        // An older server says less; another program says something else.
        let short = r#"{"ready":false,"phase":"warming","reason":"r","since_seconds":1,"running":0,"places":1,"queued":0}"#;
        assert_eq!(Snapshot::read(short, "").unwrap().ready.reason.as_deref(), Some("r"));
        assert!(Snapshot::read("<html>", "").is_err());
    }

    #[test]
    fn a_flow_is_what_came_between_two_snapshots_of_one_run() {
        let of = |n| Snapshot::read(READY, &metrics(n)).unwrap().totals;
        let flow = Flow::between(&of(40), &of(50), Duration::from_secs(5)).unwrap();
        assert_eq!((flow.requests, flow.events, flow.bytes_in, flow.bytes_out), (2.0, 20.0, 0.0, 8000.0));
        assert_eq!((flow.head.count, flow.delay.count), (10, 100));
        assert_eq!(Flow::between(&of(50), &of(40), Duration::from_secs(5)), None, "it was started again");
        assert_eq!(Flow::between(&of(50), &of(50), Duration::ZERO), None);
    }
}
