//! The way to the site: the proxy, the name, TLS, an answer, and what time it is there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use tokio::time::timeout;
use url::{Host, Url};

use super::asking::{self, STEP};
use super::finding::Finding;
use super::tls::{Flaw, Trust};
use crate::browser::gateway::{Approach, GatewayUpstream, Refused, reach};
use crate::config::{Config, ProxyServer};

/// A clock this far off is told, and one so far off is broken: certificates and tokens are judged by it.
const OFF: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];
/// Addresses of other origins that are followed.
const HOPS: usize = 3;

const CORRECT_PROXY: &str = "start it, or correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY";

/// The proxy on the way, if there is one; nothing else can be looked at where this is red.
pub async fn way_out(config: &Config) -> Finding {
    const NAME: &str = "way out";
    let url = &config.origin;
    let host = url.host_str().unwrap_or_default();
    let others = [&config.proxy.https, &config.proxy.http];
    let Some(server) = config.proxy.server_for(url) else {
        let text = if others.iter().all(|it| it.is_none()) {
            "direct, without a proxy".to_owned()
        } else {
            format!("direct: no proxy is set for {host}")
        };
        return Finding::green(NAME, text);
    };
    if let Err(error) = reach::reach(server).await {
        return Finding::red(NAME, format!("the proxy {server} cannot be reached: {error}"), CORRECT_PROXY);
    }
    if let Some(finding) = refusal(server, host, approach(server, url).await.map(drop)) {
        return finding;
    }
    for other in others.into_iter().flatten().filter(|it| *it != server) {
        if let Err(error) = reach::reach(other).await {
            let text =
                format!("by the proxy {server}; but the other one, {other}, cannot be reached: {error}");
            return Finding::yellow(NAME, text, CORRECT_PROXY);
        }
    }
    let with = if server.credentials.is_some() { ", which takes the password" } else { "" };
    Finding::green(NAME, format!("by the proxy {server}{with}"))
}

async fn approach(server: &ProxyServer, url: &Url) -> Result<Approach, Refused> {
    let other = |error: io::Error| Refused::Other(error.to_string());
    let upstream = GatewayUpstream::new(server.clone()).map_err(other)?;
    let late = || Refused::Other(format!("no connection within {STEP:?}"));
    timeout(STEP, upstream.approach(url)).await.unwrap_or_else(|_| Err(late()))
}

fn refusal(server: &ProxyServer, host: &str, outcome: Result<(), Refused>) -> Option<Finding> {
    const NAME: &str = "way out";
    let encoded = "in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY (special characters percent-encoded)";
    Some(match outcome {
        Ok(()) => return None,
        Err(Refused::Credentials) if server.credentials.is_some() => Finding::red(
            NAME,
            format!("the proxy {server} refuses the user name and password"),
            format!("correct them {encoded}"),
        ),
        Err(Refused::Credentials) => Finding::red(
            NAME,
            format!("the proxy {server} wants a user name and a password"),
            format!("write user:password@ before its host {encoded}"),
        ),
        Err(Refused::Other(why)) => Finding::red(
            NAME,
            format!("the proxy {server} does not connect to {host}: {why}"),
            "see the proxy's own log: it may not know the site, or not allow it",
        ),
    })
}

/// Where the operator says that a host is to be found.
fn pinned<'a>(config: &'a Config, host: &str) -> Option<&'a str> {
    config.resolve.iter().find(|(name, _)| name.eq_ignore_ascii_case(host)).map(|(_, at)| at.as_str())
}

/// The site's name.
pub async fn dns(config: &Config) -> Finding {
    const NAME: &str = "dns";
    let url = &config.origin;
    let host = url.host_str().unwrap_or_default();
    if !matches!(url.host(), Some(Host::Domain(_))) {
        return Finding::green(NAME, format!("{host} is an address"));
    }
    if let Some(server) = config.proxy.server_for(url) {
        return Finding::green(NAME, format!("not needed: the proxy {server} looks names up"));
    }
    if let Some(at) = pinned(config, host) {
        return Finding::green(NAME, format!("not needed: TABPROXY_RESOLVE says {host} is {at}"));
    }
    judge_dns(host, &addresses(config, url).await)
}

fn judge_dns(host: &str, found: &io::Result<Vec<SocketAddr>>) -> Finding {
    const NAME: &str = "dns";
    match found {
        Ok(all) if all.iter().any(|it| is_nowhere(it.ip())) => Finding::yellow(
            NAME,
            format!("{host} leads to this machine itself"),
            "see /etc/hosts and the DNS server: a filter may block the name",
        ),
        Ok(all) if !all.is_empty() => {
            let shown: Vec<_> = all.iter().take(3).map(|it| it.ip().to_string()).collect();
            Finding::green(NAME, format!("{host} is {}", shown.join(", ")))
        }
        other => {
            let why = other.as_ref().err().map_or("no address".into(), ToString::to_string);
            Finding::red(
                NAME,
                format!("{host} is not found: {why}"),
                "see how TABPROXY_ORIGIN is written, and the machine's DNS (/etc/resolv.conf); or set HTTPS_PROXY \
                 or TABPROXY_RESOLVE",
            )
        }
    }
}

fn is_nowhere(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

async fn addresses(config: &Config, url: &Url) -> io::Result<Vec<SocketAddr>> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(443);
    let target = match pinned(config, host) {
        Some(at) if at.parse::<SocketAddr>().is_ok() => at.to_owned(),
        Some(at) => format!("{at}:{port}"),
        None => format!("{host}:{port}"),
    };
    let found = timeout(STEP, tokio::net::lookup_host(target)).await;
    Ok(found.map_err(|_| io::Error::other(format!("no answer within {STEP:?}")))??.collect())
}

/// What one address of the site's says.
#[derive(Clone, Debug)]
pub struct Landed {
    status: u16,
    /// Where it sends browsers, if that is another origin.
    onward: Option<Url>,
    trust: Trust,
    /// How far our clock is ahead, in seconds, where the answer says the time.
    ahead: Option<i64>,
}

/// The site's address, and those of other origins that it leads to; what came back from each.
#[derive(Clone, Debug)]
pub struct Visit(Vec<(Url, Result<Landed, String>)>);

/// Asks the site for nothing but the head of its page, and follows it to where requests will go.
pub async fn visit(config: &Config) -> Visit {
    let mut seen = Vec::new();
    let mut next = Some(config.origin.clone());
    while let Some(url) = next.take().filter(|_| seen.len() < HOPS) {
        let landed = land(config, &url).await;
        if let Ok(landed) = &landed {
            next = landed.onward.clone();
        }
        seen.push((url, landed));
    }
    Visit(seen)
}

async fn land(config: &Config, url: &Url) -> Result<Landed, String> {
    let approach = match config.proxy.server_for(url) {
        Some(server) => approach(server, url).await.map_err(|refused| match refused {
            Refused::Credentials => format!("the proxy {server} refuses the user name and password"),
            Refused::Other(why) => format!("the proxy {server} does not connect: {why}"),
        })?,
        None => {
            let addresses = addresses(config, url).await.map_err(|e| e.to_string())?;
            let stream = asking::connect(addresses).await.map_err(|e| e.to_string())?;
            let target = url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
            Approach { stream, target, authorization: None }
        }
    };
    let answer =
        asking::ask(approach, url, "HEAD", "*/*", &config.pins, STEP).await.map_err(|e| e.to_string())?;
    Ok(Landed {
        status: answer.status,
        onward: onward(url, answer.status, &answer.headers),
        ahead: ahead(&answer.headers, answer.at),
        trust: answer.trust,
    })
}

fn onward(url: &Url, status: u16, headers: &HeaderMap) -> Option<Url> {
    let location = headers.get(header::LOCATION).filter(|_| matches!(status, 301..=303 | 307 | 308))?;
    let target = url.join(location.to_str().ok()?).ok()?;
    let is_other = target.origin() != url.origin() && matches!(target.scheme(), "http" | "https");
    is_other.then_some(target)
}

/// How many seconds `now` is ahead of what the answer says the time is.
fn ahead(headers: &HeaderMap, now: SystemTime) -> Option<i64> {
    let text = |name| headers.get(name)?.to_str().ok();
    let date = httpdate::parse_http_date(text(header::DATE)?).ok()?;
    // A cache gives the time of the original, and says how long ago that was.
    let age = text(header::AGE).and_then(|it| it.trim().parse().ok()).unwrap_or(0);
    let then = date.checked_add(Duration::from_secs(age))?;
    Some(match now.duration_since(then) {
        Ok(ahead) => ahead.as_secs().cast_signed(),
        Err(behind) => -behind.duration().as_secs().cast_signed(),
    })
}

/// The site.
pub fn judge_origin(visit: &Visit) -> Finding {
    const NAME: &str = "origin";
    let mut path = Vec::new();
    let mut worst: Option<Finding> = None;
    for (url, landed) in &visit.0 {
        let host = url.host_str().unwrap_or_default();
        let landed = match landed {
            Ok(landed) => landed,
            Err(why) => {
                return Finding::red(
                    NAME,
                    format!("{} cannot be reached: {why}", url.origin().ascii_serialization()),
                    "see the checks named dns and way out, a firewall, and how TABPROXY_ORIGIN is written",
                );
            }
        };
        if let Some(finding) = judge_trust(NAME, host, &landed.trust)
            && worst.as_ref().is_none_or(|it| it.state < finding.state)
        {
            worst = Some(finding);
        }
        match landed.status {
            407 => {
                let remedy = "correct its user name and password in HTTP_PROXY or ALL_PROXY";
                return Finding::red(NAME, format!("the proxy on the way to {host} answers 407"), remedy);
            }
            511 => {
                let remedy = "sign in to the network that this machine is in";
                return Finding::red(NAME, "the network itself wants a sign-in first (511)", remedy);
            }
            status => path.push(format!("{} answers {status}", url.origin().ascii_serialization())),
        }
    }
    worst.unwrap_or_else(|| Finding::green(NAME, path.join(", and leads on: ")))
}

/// What is wrong with a certificate, if anything.
pub fn judge_trust(name: &'static str, host: &str, trust: &Trust) -> Option<Finding> {
    let between = "something in between (a company's proxy, a filter, a network that wants a sign-in) answers in the \
                   site's place: take another way out";
    Some(match trust {
        Trust::Plain | Trust::Pinned | Trust::Known => return None,
        Trust::Local(issuer) => Finding::yellow(
            name,
            format!(
                "the certificate of {host} is issued by {issuer}, which this machine knows, but no browser"
            ),
            format!(
                "{between}; or name the certificate in TABPROXY_TRUST_CERT, or give its authority to Chromium: \
                 certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n NAME -i FILE"
            ),
        ),
        Trust::Refused(Flaw::Time(what), _) => Finding::red(
            name,
            format!("the certificate of {host} {what}"),
            "see the check named clock; if that is right, the site must renew it",
        ),
        Trust::Refused(Flaw::Issuer, issuer) => Finding::red(
            name,
            format!("the certificate of {host} is issued by {issuer}, which no browser knows"),
            format!("if it is yours, name it in TABPROXY_TRUST_CERT; otherwise {between}"),
        ),
        Trust::Refused(Flaw::Name, issuer) => Finding::red(
            name,
            format!("the certificate shown for {host} is for other names (issued by {issuer})"),
            format!("see TABPROXY_RESOLVE and DNS; or {between}"),
        ),
        Trust::Refused(Flaw::Other(why), issuer) => Finding::red(
            name,
            format!("the certificate of {host}, issued by {issuer}, is refused: {why}"),
            format!("the site must correct it; or {between}"),
        ),
    })
}

/// The clock, by what the site says.
pub fn clock(visit: &Visit) -> Finding {
    let ahead = visit.0.iter().find_map(|(_, landed)| landed.as_ref().ok()?.ahead);
    judge_clock(ahead)
}

fn judge_clock(ahead: Option<i64>) -> Finding {
    const NAME: &str = "clock";
    let remedy =
        "set it, and keep it right: timedatectl set-ntp true (in a container: the clock of the machine)";
    let Some(ahead) = ahead else {
        let text = "not compared: no answer of the site's says the time";
        return Finding::yellow(NAME, text, "see the check named origin; compare it by hand: date -u");
    };
    let off = Duration::from_secs(ahead.unsigned_abs());
    let text =
        format!("{} s {} that of the site", off.as_secs(), if ahead < 0 { "behind" } else { "ahead of" });
    if off > OFF[1] {
        Finding::red(NAME, format!("{text}: certificates and sign-ins fail"), remedy)
    } else if off > OFF[0] {
        Finding::yellow(NAME, text, remedy)
    } else {
        Finding::green(NAME, format!("within {} s of the site's", off.as_secs().max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Light::{self, Green, Red, Yellow};
    use super::*;

    fn landed(status: u16, trust: Trust) -> Result<Landed, String> {
        Ok(Landed { status, onward: None, trust, ahead: None })
    }

    fn origin(landed: Result<Landed, String>) -> Finding {
        judge_origin(&Visit(vec![("https://site.test/".parse().unwrap(), landed)]))
    }

    #[test]
    fn any_answer_will_do_but_not_from_anybody() {
        assert_eq!(origin(landed(403, Trust::Known)).state, Green);
        assert_eq!(origin(landed(200, Trust::Pinned)).state, Green);
        assert_eq!(origin(landed(511, Trust::Plain)).state, Red);
        assert_eq!(origin(Err("refused".into())).state, Red);
        assert_eq!(origin(landed(200, Trust::Local("CN=Company".into()))).state, Yellow);
        for flaw in [Flaw::Time("has expired"), Flaw::Issuer, Flaw::Name, Flaw::Other("odd".into())] {
            let finding = origin(landed(200, Trust::Refused(flaw, "CN=X".into())));
            assert!(finding.state == Red && finding.text.contains("site.test"), "{finding:?}");
        }
    }

    #[test]
    fn a_clock_may_be_off_by_a_minute() {
        let state = |ahead| -> Light { judge_clock(Some(ahead)).state };
        assert_eq!([0, 1, -59, 60].map(state), [Green; 4]);
        assert_eq!([61, -300, 300].map(state), [Yellow; 3]);
        assert_eq!([301, -86_400].map(state), [Red; 2]);
        assert!(judge_clock(Some(-400)).text.contains("400 s behind"));
        assert_eq!(judge_clock(None).state, Yellow);
    }

    #[test]
    fn the_time_of_a_cached_answer_is_older_by_its_age() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let headers = |seconds: u64, age: Option<&str>| {
            let date = httpdate::fmt_http_date(now - Duration::from_secs(seconds));
            let mut headers = HeaderMap::from_iter([(header::DATE, date.parse().unwrap())]);
            age.map(|it| headers.insert(header::AGE, it.parse().unwrap()));
            headers
        };
        assert_eq!(ahead(&headers(90, None), now), Some(90));
        assert_eq!(ahead(&headers(90, Some("88")), now), Some(2));
        assert_eq!(ahead(&headers(0, Some("5")), now), Some(-5));
        assert_eq!(ahead(&HeaderMap::new(), now), None);
    }

    #[test]
    fn names_that_lead_nowhere_are_told() {
        let found = |text: &str| Ok(vec![text.parse().unwrap()]);
        assert_eq!(judge_dns("a.test", &found("192.0.2.1:443")).state, Green);
        assert_eq!(judge_dns("a.test", &found("0.0.0.0:443")).state, Yellow);
        assert_eq!(judge_dns("a.test", &Ok(Vec::new())).state, Red);
        assert_eq!(judge_dns("a.test", &Err(io::Error::other("no such name"))).state, Red);
    }

    #[test]
    fn only_other_origins_are_followed() {
        let url = "https://a.test/".parse().unwrap();
        let to = |status, location: &str| {
            let headers = HeaderMap::from_iter([(header::LOCATION, location.parse().unwrap())]);
            onward(&url, status, &headers).map(String::from)
        };
        assert_eq!(to(308, "https://b.test/x").as_deref(), Some("https://b.test/x"));
        assert_eq!(to(302, "/login"), None);
        assert_eq!(to(200, "https://b.test/"), None);
        assert_eq!(to(302, "ftp://b.test/"), None);
    }
}
