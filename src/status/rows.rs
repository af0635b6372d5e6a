//! A snapshot in words: rows of a name and a text, most important first. Pure; how they are put on a screen or into
//! a pipe is not known here.

use std::net::SocketAddr;

use super::figures::Spread;
use super::snapshot::{Before, Flow, Snapshot};

/// How a text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// It passes by itself.
    Busy,
    /// Somebody should look.
    Bad,
    /// Neither.
    Plain,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub name: &'static str,
    /// What there is to say.
    pub text: String,
    /// How it is meant.
    pub tone: Tone,
}

impl Row {
    fn new(name: &'static str, text: impl Into<String>) -> Row {
        Row { name, text: text.into(), tone: Tone::Plain }
    }

    fn with(self, tone: Tone) -> Row {
        Row { tone, ..self }
    }
}

/// How a phase is meant.
fn tone_of(phase: &str, is_ready: bool) -> Tone {
    match phase {
        "ready" if is_ready => Tone::Good,
        "needs_operator" | "backoff" | "stopped" => Tone::Bad,
        _ => Tone::Busy,
    }
}

/// Everything about `it`, the snapshot of the server that is reached at `addr`. `rates` are of the last seconds,
/// `times` of the last minute.
pub fn rows(it: &Snapshot, rates: Option<&Flow>, times: Option<&Flow>, addr: SocketAddr) -> Vec<Row> {
    let ready = &it.ready;
    let mut rows = vec![Row::new("phase", phase(it)).with(tone_of(&ready.phase, ready.ready))];
    if let Some(reason) = &ready.reason {
        rows.push(Row::new("why", reason).with(tone_of(&ready.phase, ready.ready)));
    }
    let console = format!("http://{addr}/console");
    if ready.phase == "needs_operator" {
        rows.push(Row::new("what to do", format!("open {console} and act in the page")).with(Tone::Bad));
    }
    let running = format!("{} of {} running, {} waiting", ready.running, ready.places, ready.queued);
    let is_full = ready.running >= ready.places && ready.queued > 0;
    rows.push(Row::new("requests", running).with(if is_full { Tone::Busy } else { Tone::Plain }));
    if let Some(rates) = rates {
        let text = format!(
            "{:.1} requests/s, {:.1} events/s, {}/s out, {}/s in",
            rates.requests,
            rates.events,
            bytes(rates.bytes_out),
            bytes(rates.bytes_in)
        );
        rows.push(Row::new("rates", text));
    }
    rows.push(Row::new("first byte", spread(times.map(|it| it.head), it.totals.head.spread())));
    rows.push(Row::new("event delay", spread(times.map(|it| it.delay), it.totals.delay.spread())));
    rows.push(Row::new("browser", browser(it)));
    let text = format!("{} browser, {} proxy", bytes(it.browser_memory as f64), bytes(it.memory as f64));
    let held = if it.buffered > 0 {
        format!(", {} held for slow readers", bytes(it.buffered as f64))
    } else {
        String::new()
    };
    rows.push(Row::new("memory", text + &held));
    if !it.accounts.is_empty() {
        let tone = if it.accounts_in("refused").next().is_some() { Tone::Bad } else { Tone::Plain };
        rows.push(Row::new("accounts", accounts(it)).with(tone));
    }
    let (complete, other): (Vec<_>, Vec<_>) = it.totals.outcomes.iter().partition(|it| it.0 == "complete");
    let complete = complete.first().map_or(0, |it| it.1);
    rows.push(Row::new("answered", format!("{complete} whole, {} sent", bytes(it.totals.bytes_out as f64))));
    let mut refusals: Vec<_> = other.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    if it.totals.keys_refused > 0 {
        refusals.push(format!("{} without a right key", it.totals.keys_refused));
    }
    if !refusals.is_empty() {
        rows.push(Row::new("otherwise", refusals.join(", ")));
    }
    if it.lost_lines > 0 {
        rows.push(
            Row::new("log", format!("{} lines lost: the disk is full, or too slow", it.lost_lines))
                .with(Tone::Bad),
        );
    }
    if !ready.before.is_empty() {
        rows.push(Row::new("before", ready.before.iter().map(before).collect::<Vec<_>>().join("; ")));
    }
    rows.push(Row::new("console", console));
    rows
}

fn phase(it: &Snapshot) -> String {
    let ready = &it.ready;
    let mut text = format!("{} for {}", ready.phase, duration(ready.since_seconds as f64));
    if ready.phase == "ready" && !ready.ready {
        text.push_str(", but not ready to serve");
    }
    if let Some(usual) = ready.usual_seconds {
        text.push_str(&format!(" (usually {})", duration(usual)));
    }
    text
}

fn browser(it: &Snapshot) -> String {
    let name = if it.browser.is_empty() { "not up yet" } else { &it.browser };
    format!("{name}, {}, {}", counted(it.restarts(), "restart"), counted(it.pages, "page opened"))
}

fn counted(count: u64, what: &str) -> String {
    let (first, rest) = what.split_once(' ').map_or((what, String::new()), |it| (it.0, format!(" {}", it.1)));
    format!("{count} {first}{}{rest}", if count == 1 { "" } else { "s" })
}

fn accounts(it: &Snapshot) -> String {
    let of = |state| {
        let names: Vec<_> = it
            .accounts_in(state)
            .map(|it| if it.running > 0 { format!("{} ×{}", it.name, it.running) } else { it.name.clone() })
            .collect();
        (!names.is_empty()).then(|| format!("{} {state} ({})", names.len(), names.join(", ")))
    };
    // Those that want somebody come first: a long line may be cut.
    ["refused", "resting", "ready"].into_iter().filter_map(of).collect::<Vec<_>>().join(", ")
}

fn before(it: &Before) -> String {
    format!("{} {}, {} ago", it.phase, duration(it.seconds), duration(it.ago_seconds as f64))
}

/// The times of the last minute, or since the start if there were none.
fn spread(minute: Option<Spread>, all: Spread) -> String {
    let (spread, when) = match minute.filter(|it| it.count > 0) {
        Some(minute) => (minute, "in the last minute"),
        None if all.count > 0 => (all, "since the start"),
        None => return "none yet".into(),
    };
    let time = |it: Option<f64>| it.map_or_else(|| "long".into(), seconds);
    format!("half within {}, 95 % within {} ({} {when})", time(spread.p50), time(spread.p95), spread.count)
}

/// A short time with its unit.
fn seconds(it: f64) -> String {
    match it {
        _ if it < 0.01 => format!("{:.1} ms", it * 1000.0),
        _ if it < 1.0 => format!("{:.0} ms", it * 1000.0),
        _ => format!("{it:.1} s"),
    }
}

/// How long something takes, for a person.
pub fn duration(it: f64) -> String {
    let whole = it as u64;
    match whole {
        0..10 if it.fract() > 0.0 => format!("{it:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

fn bytes(it: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut it, mut unit) = (it, 0);
    while it >= 1000.0 && unit + 1 < UNITS.len() {
        (it, unit) = (it / 1024.0, unit + 1);
    }
    if unit == 0 || it >= 100.0 {
        format!("{it:.0} {}", UNITS[unit])
    } else {
        format!("{it:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::{READY, metrics};
    use super::*;

    fn text(it: &Snapshot) -> String {
        let rows = rows(it, None, None, "127.0.0.1:3000".parse().unwrap());
        rows.iter().map(|it| format!("{}: {}\n", it.name, it.text)).collect()
    }

    #[test]
    fn everything_is_said_in_words() {
        let text = text(&Snapshot::read(READY, &metrics(40)).unwrap());
        for line in [
            "phase: ready for 12 min 3 s",
            "requests: 2 of 90 running, 0 waiting",
            "first byte: half within 10 ms, 95 % within 19 ms (40 since the start)",
            "browser: Chrome/156.0.8078.79, 1 restart, 5 pages opened",
            "memory: 624 MiB browser, 35.0 MiB proxy",
            "accounts: 1 resting (家里的账号), 1 ready (work ×2)",
            "answered: 40 whole, 156 KiB sent",
            "otherwise: 3 queue_full, 1 without a right key",
            "before: warming 0.4 s, 12 min 4 s ago; starting 0.6 s, 12 min 5 s ago",
            "console: http://127.0.0.1:3000/console",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn who_is_wanted_is_told_what_to_do() {
        let ready = r#"{"ready":false,"phase":"needs_operator","reason":"the site wants a sign-in","since_seconds":4,
            "usual_seconds":61.5,"running":0,"places":90,"queued":0}"#;
        let text = text(&Snapshot::read(ready, "").unwrap());
        assert!(text.starts_with(
            "phase: needs_operator for 4 s (usually 1 min 1 s)\nwhy: the site wants a sign-in\n"
        ));
        assert!(text.contains("what to do: open http://127.0.0.1:3000/console"), "{text}");
        assert!(
            text.contains("first byte: none yet") && text.contains("browser: not up yet, 0 restarts"),
            "{text}"
        );
    }

    #[test]
    fn amounts_have_fitting_units() {
        for (it, expected) in
            [(0.0, "0 s"), (0.4, "0.4 s"), (59.0, "59 s"), (3700.0, "1 h 1 min"), (90_000.0, "1 d 1 h")]
        {
            assert_eq!(duration(it), expected);
        }
        for (it, expected) in
            [(0.0, "0 B"), (999.0, "999 B"), (1000.0, "1.0 KiB"), (2e5, "195 KiB"), (5e9, "4.7 GiB")]
        {
            assert_eq!(bytes(it), expected);
        }
        assert_eq!([seconds(0.0004), seconds(0.02), seconds(2.0)], ["0.4 ms", "20 ms", "2.0 s"]);
    }
}
