//! Small readers: one text in, one value or one mistake with its remedy out.
//!
//! Pure, but for making a path absolute. It must not know which option it reads for: the caller adds the
//! variable and the flag.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use url::{Host, ParseError, Url};

use super::{Hosts, LogFormat, SandboxMode};

/// The longest queue.
const QUEUE_LIMIT: usize = 65_536;
/// The shortest time between two pings.
const SHORTEST_PING: Duration = Duration::from_millis(100);
/// The longest time that any option takes.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What is wrong with a value, without the option's name, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, to be read after the option's name.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Mistake {
    /// A mistake and its remedy.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Mistake {
        Mistake { what: what.into(), remedy: remedy.into() }
    }
}

/// The entries of a list separated by commas.
pub(super) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|it| !it.is_empty())
}

/// A size in bytes: `1048576`, `512K`, `32MiB` (by 1024), `10MB` (by 1000). Not zero.
pub fn size(value: &str) -> Result<usize, Mistake> {
    let wrong = |why: &str| {
        Mistake::new(format!("is `{value}`, which {why}"), "write bytes, or a size as 512K, 32MiB or 10MB")
    };
    let (number, unit) = split_unit(value);
    let scale: usize = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(wrong("is not a size")),
    };
    let number: usize = number.parse().map_err(|_| wrong("is not a size"))?;
    match number.checked_mul(scale) {
        Some(0) => Err(wrong("lets nothing through")),
        Some(size) => Ok(size),
        None => Err(wrong("is more than memory can hold")),
    }
}

/// A time: `500ms`, `30s`, `2m`, `1h`, or plain seconds. At most a day.
pub fn duration(value: &str) -> Result<Duration, Mistake> {
    let wrong = |why: &str| {
        Mistake::new(
            format!("is `{value}`, which {why}"),
            "write seconds, or a time as 500ms, 30s or 2m, up to 24h",
        )
    };
    let (number, unit) = split_unit(value);
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong("is not a time")),
    };
    let number: u64 = number.parse().map_err(|_| wrong("is not a time"))?;
    let time = number.checked_mul(scale).map(Duration::from_millis);
    time.filter(|it| *it <= LONGEST).ok_or_else(|| wrong("is too long"))
}

/// The time between two pings; `None` for `off`.
pub(super) fn ping(value: &str) -> Result<Option<Duration>, Mistake> {
    match value.to_ascii_lowercase().as_str() {
        "off" | "false" | "no" | "0" => Ok(None),
        _ => match duration(value)? {
            short if short < SHORTEST_PING => {
                Err(Mistake::new(format!("is `{value}`, which is too often"), "write 100ms or more, or off"))
            }
            time => Ok(Some(time)),
        },
    }
}

/// How long a turn's answer is kept for another attempt; `None` for `off`.
pub(super) fn join(value: &str) -> Result<Option<Duration>, Mistake> {
    match value.to_ascii_lowercase().as_str() {
        "off" | "false" | "no" | "0" => Ok(None),
        _ => duration(value).map(Some),
    }
}

/// Whether clients get snapshots where the site streams deltas.
pub(super) fn format(value: &str) -> Result<bool, Mistake> {
    match value.to_ascii_lowercase().as_str() {
        "classic" => Ok(true),
        "raw" => Ok(false),
        _ => Err(Mistake::new(format!("is `{value}`"), "write raw or classic")),
    }
}

/// Whether a turn into a conversation that is being answered waits.
pub(super) fn busy(value: &str) -> Result<bool, Mistake> {
    match value.to_ascii_lowercase().as_str() {
        "wait" => Ok(true),
        "refuse" => Ok(false),
        _ => Err(Mistake::new(format!("is `{value}`"), "write wait or refuse")),
    }
}

fn split_unit(value: &str) -> (&str, &str) {
    let end = value.find(|it: char| !it.is_ascii_digit()).unwrap_or(value.len());
    (&value[..end], value[end..].trim())
}

/// Whether to run without a window: `true`, `false`, or `auto` for what the environment has.
pub fn headless(value: &str, env: &impl Fn(&str) -> Option<String>) -> Result<bool, Mistake> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" if has_display(env) => Ok(false),
        "false" | "0" | "no" | "off" => Err(Mistake::new(
            format!("is `{value}`, but there is no display: neither DISPLAY nor WAYLAND_DISPLAY is set"),
            "start it with xvfb-run, or write auto",
        )),
        "auto" => Ok(!has_display(env)),
        _ => Err(Mistake::new(format!("is `{value}`"), "write true, false or auto")),
    }
}

/// Whether a window could be shown.
pub(super) fn has_display(env: &impl Fn(&str) -> Option<String>) -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|it| env(it).is_some_and(|it| !it.is_empty()))
}

pub(super) fn sandbox(value: &str) -> Result<SandboxMode, Mistake> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Ok(SandboxMode::Auto),
        "on" | "true" | "1" | "yes" => Ok(SandboxMode::On),
        "off" | "false" | "0" | "no" => Ok(SandboxMode::Off),
        _ => Err(Mistake::new(format!("is `{value}`"), "write auto, on or off")),
    }
}

pub(super) fn listen(value: &str) -> Result<SocketAddr, Mistake> {
    // Not a name: what it resolves to could be more than loopback.
    let named = value.replace("localhost:", "127.0.0.1:");
    named.parse().map_err(|_| {
        Mistake::new(
            format!("is `{value}`, which is not an IP address and a port"),
            "write it as 127.0.0.1:3000, or 0.0.0.0:3000 to be reached from other machines",
        )
    })
}

pub(super) fn origin(value: &str) -> Result<Url, Mistake> {
    let example = "write the page's whole address, as https://chatgpt.com/";
    // Not repeated where it may hold a password.
    let shown = if value.contains('@') { "a URL with `@` in it".to_owned() } else { format!("`{value}`") };
    let url = match Url::parse(value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        Ok(url) if value.contains("://") => {
            let what = format!("has the scheme `{}`, which is not a page", url.scheme());
            return Err(Mistake::new(what, example));
        }
        // `chatgpt.com:443` reads as a scheme too.
        Ok(_) | Err(ParseError::RelativeUrlWithoutBase) => {
            let remedy = if value.contains('@') { example.into() } else { format!("write https://{value}") };
            return Err(Mistake::new(format!("is {shown}, without https:// or http://"), remedy));
        }
        Err(error) => {
            return Err(Mistake::new(format!("is {shown}, which is not a URL: {error}"), example));
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Mistake::new("has a user name or password in it", "sign in on the page itself instead"));
    }
    Ok(url)
}

pub(super) fn path(value: &str) -> Result<PathBuf, Mistake> {
    std::path::absolute(value).map_err(|error| {
        Mistake::new(format!("is `{value}`, which cannot be made absolute: {error}"), "write it from / on")
    })
}

/// Flags that are ours alone: each would take the profile or the control of the browser elsewhere.
const OURS: [&str; 5] = [
    "--user-data-dir",
    "--remote-debugging-port",
    "--remote-debugging-address",
    "--remote-debugging-pipe",
    "--remote-allow-origins",
];

pub(super) fn chromium_args(value: &str) -> Result<Vec<String>, Mistake> {
    let words = shell_words::split(value).map_err(|_| {
        Mistake::new("has a quote that is not closed", "quote it as in a shell: \"--user-agent=My Browser\"")
    })?;
    for word in &words {
        let name = word.split('=').next().unwrap_or_default();
        if !word.starts_with("--") {
            let what = format!("has the word `{word}`, which is not a flag");
            return Err(Mistake::new(what, "start each with --, and quote values with spaces in them"));
        }
        if OURS.contains(&name) {
            let remedy = "leave it out; the profile is TABPROXY_PROFILE, the control port stays private";
            return Err(Mistake::new(format!("has {name}, which tabproxy sets itself"), remedy));
        }
    }
    Ok(words)
}

/// Where hosts are to be found: `host=address` or `host=address:port`, separated by commas.
pub fn resolve(value: &str) -> Result<Vec<(String, String)>, Mistake> {
    list(value).map(rule).collect()
}

fn rule(entry: &str) -> Result<(String, String), Mistake> {
    let wrong = || {
        let what = format!("has the entry `{entry}`, which is not a host and an address");
        Mistake::new(what, "write host=address or host=address:port, as chat.example=127.0.0.1:8443")
    };
    let (host, at) = entry.split_once('=').ok_or_else(wrong)?;
    let host = Host::parse(host.trim()).map_err(|_| wrong())?.to_string();
    let at = at.trim();
    let bare = at.trim_start_matches('[').trim_end_matches(']');
    let at = match (at.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
        (Ok(address), _) if address.port() != 0 => address.to_string(),
        (Err(_), Ok(IpAddr::V4(address))) => address.to_string(),
        (Err(_), Ok(IpAddr::V6(address))) => format!("[{address}]"),
        _ => return Err(wrong()),
    };
    Ok((host, at))
}

pub(super) fn hosts(value: &str) -> Result<Hosts, Mistake> {
    let mut names = Vec::new();
    for entry in list(value) {
        if entry == "*" {
            return Ok(Hosts::Any);
        }
        // Host::parse lower-cases and refuses ports, slashes and spaces, but lets a star pass.
        let name = Host::parse(entry).ok().filter(|_| !entry.contains('*'));
        let name = name.ok_or_else(|| {
            Mistake::new(
                format!("has the entry `{entry}`, which is not a host name"),
                "write names without scheme and port, as chat.example.com, or * alone",
            )
        })?;
        names.push(name.to_string());
    }
    Ok(Hosts::Names(names))
}

pub(super) fn paths(value: &str) -> Result<Vec<String>, Mistake> {
    let prefixes: Vec<_> = list(value).map(str::to_owned).collect();
    let remedy = "write prefixes such as /backend-api/ separated by commas";
    if prefixes.is_empty() {
        return Err(Mistake::new("lists no path", remedy));
    }
    // What the router never lets through could never match either.
    let plain = |it: &String| {
        it.starts_with('/')
            && !it.starts_with("//")
            && !it.contains("..")
            && it.bytes().all(|byte| byte.is_ascii_graphic() && !br#"?#\%"#.contains(&byte))
    };
    match prefixes.iter().find(|it| !plain(it)) {
        Some(bad) => Err(Mistake::new(
            format!("has the entry `{bad}`, which is not a plain path"),
            format!("{remedy}; each starts with one / and has no .., %, ?, # or backslash"),
        )),
        None => Ok(prefixes),
    }
}

/// Headers that belong to the browser or to one connection, or would carry the stored sign-in.
const NEVER: [&str; 20] = [
    "cookie",
    "cookie2",
    "set-cookie",
    "set-cookie2",
    "host",
    "origin",
    "referer",
    "user-agent",
    "connection",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "content-length",
    "content-encoding",
    "alt-svc",
    "strict-transport-security",
    "expect",
    "forwarded",
];

const NEVER_PREFIXES: [&str; 6] =
    ["sec-", "proxy-", "x-forwarded-", "x-tabproxy-", "access-control-", "content-security-policy"];

pub(super) fn headers(value: &str) -> Result<Vec<String>, Mistake> {
    let remedy = "list header names separated by commas, as x-request-id";
    let read = |entry: &str| {
        let name = http::HeaderName::from_bytes(entry.as_bytes()).map_err(|_| {
            Mistake::new(format!("has the entry `{entry}`, which is not a header name"), remedy)
        })?;
        let name = name.as_str();
        if NEVER.contains(&name) || NEVER_PREFIXES.iter().any(|it| name.starts_with(it)) {
            let what =
                format!("has the entry `{name}`, which never passes: it is the browser's own, or tabproxy's");
            return Err(Mistake::new(what, "leave it out"));
        }
        Ok(name.to_owned())
    };
    list(value).map(read).collect()
}

pub(super) fn carriers(value: &str) -> Result<usize, Mistake> {
    let number = value.parse().ok().filter(|it| (1..=8).contains(it));
    number.ok_or_else(|| {
        let what = format!("is `{value}`, which is not a number from 1 to 8");
        Mistake::new(what, "2 is one page that works and one in reserve")
    })
}

pub(super) fn page_exchanges(value: &str) -> Result<u64, Mistake> {
    let number = value.parse().ok().filter(|it| *it >= 1);
    number.ok_or_else(|| {
        let what = format!("is `{value}`, which is not a number from 1");
        Mistake::new(what, "write after how many requests a page is replaced; 2000 is a good start")
    })
}

pub(super) fn page_age(value: &str) -> Result<Duration, Mistake> {
    let age = duration(value)?;
    if age < Duration::from_secs(60) {
        let what = format!("is `{value}`, which is too short: opening a page takes a part of a second");
        return Err(Mistake::new(what, "write a time of at least 1m; 6h is a good start"));
    }
    Ok(age)
}

pub(super) fn page_memory(value: &str) -> Result<usize, Mistake> {
    let bytes = size(value)?;
    if bytes < 16 << 20 {
        let what = format!("is `{value}`, which an empty page needs already");
        return Err(Mistake::new(what, "write at least 16MiB; 512MiB is a good start"));
    }
    Ok(bytes)
}

pub(super) fn queue(value: &str) -> Result<usize, Mistake> {
    let number = value.parse().ok().filter(|it| *it <= QUEUE_LIMIT);
    number.ok_or_else(|| {
        let what = format!("is `{value}`, which is not a number from 0 to {QUEUE_LIMIT}");
        Mistake::new(what, "write how many requests may wait; 0 lets none wait")
    })
}

pub(super) fn log_keep(value: &str) -> Result<usize, Mistake> {
    value.parse().ok().filter(|it| *it <= 100).ok_or_else(|| {
        let what = format!("is `{value}`, which is not a number from 0 to 100");
        Mistake::new(what, "write how many older log files to keep; 0 keeps none")
    })
}

pub(super) fn log_format(value: &str) -> Result<LogFormat, Mistake> {
    match value.to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(Mistake::new(format!("is `{value}`"), "write text or json")),
    }
}

pub(super) fn log(value: &str) -> Result<String, Mistake> {
    EnvFilter::try_new(value).map(|_| value.to_owned()).map_err(|error| {
        let remedy =
            "write off, error, warn, info, debug or trace, or per module: info,tabproxy::browser=debug";
        Mistake::new(format!("is `{value}`, which is not a log filter: {error}"), remedy)
    })
}
