//! Who may talk to us at all: the `Host` and `Origin` checks that come before everything else.
//!
//! A page somewhere on the web can make a browser send requests here, and with DNS rebinding it can even
//! read the answers. Such an attack needs a host *name* of its own and, for most requests, shows its
//! `Origin`. So names must be known (loopback names and IP addresses always are), and a foreign origin is
//! refused. Knows nothing of paths and of the page.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use url::Url;

use super::reply::{self, Asked};
use super::{App, HostPolicy};
use crate::config::Cors;
use crate::error::{Fault, FaultKind};

/// Lets only requests pass that [`check`] accepts.
pub(super) async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match check(request.version(), request.uri(), request.headers(), &app.policy.hosts) {
        Ok(()) => next.run(request).await,
        Err(fault) if fault.kind() == FaultKind::ForeignOrigin && is_welcome(&request, &app.policy.cors) => {
            next.run(request).await
        }
        Err(fault) => reply::refuse(&fault, &Asked::of(&request)),
    }
}

/// Whether the operator lets pages of this request's one origin use this server. Its host is known to be ours.
fn is_welcome(request: &Request, cors: &Cors) -> bool {
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) => origin.to_str().is_ok_and(|it| cors.allows(it)),
        _ => false,
    }
}

/// Whether a request with this target and these headers may be served. Pure, for whatever bytes they hold.
///
/// # Errors
/// `BadRequest` where no single host can be read from them, `ForeignHost` and `ForeignOrigin`.
pub fn check(version: Version, uri: &Uri, headers: &HeaderMap, hosts: &HostPolicy) -> Result<(), Fault> {
    let host = host_of(version, uri, headers)?;
    if !host.is_allowed(hosts) {
        return Err(Fault::new(
            FaultKind::ForeignHost,
            "This server does not answer to that host name; its operator can add it to TABPROXY_HOSTS.",
        )
        .because(format_args!("host {:?}", host.name)));
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let foreign = match (origins.next(), origins.next()) {
        (None, _) => elsewhere(headers),
        (Some(origin), None) => !origin.to_str().is_ok_and(|origin| host.is_origin(origin)),
        (Some(_), Some(_)) => true,
    };
    if foreign {
        return Err(Fault::new(FaultKind::ForeignOrigin, "Pages of other sites may not use this server."));
    }
    Ok(())
}

/// Whether a browser says that a page of another site makes it send this.
fn elsewhere(headers: &HeaderMap) -> bool {
    let sites = headers.get_all("sec-fetch-site");
    sites.iter().any(|site| matches!(site.as_bytes(), b"cross-site" | b"same-site"))
}

/// The one host that a request names: `:authority` or `Host`.
fn host_of(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<Host, Fault> {
    let bad = |why| Fault::new(FaultKind::BadRequest, why);
    let mut named = headers.get_all(header::HOST).iter();
    let header = match (named.next(), named.next()) {
        (_, Some(_)) => return Err(bad("The request names several hosts.")),
        (header, None) => header.map(|value| value.as_bytes()),
    };
    // In HTTP/1 an authority in the target is an absolute form, which is judged with the path.
    let authority = (version == Version::HTTP_2).then(|| uri.authority().map(|it| it.as_str())).flatten();
    let parse = |text: &[u8]| Host::parse(text).ok_or_else(|| bad("The request's host is malformed."));
    match (authority, header) {
        (None, None) => Err(bad("The request names no host.")),
        (None, Some(host)) => parse(host),
        (Some(host), None) => parse(host.as_bytes()),
        (Some(host), Some(other)) => {
            let host = parse(host.as_bytes())?;
            if host == parse(other)? { Ok(host) } else { Err(bad("The request names several hosts.")) }
        }
    }
}

/// A host with its port, in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    /// A lower-case name, or an address in its usual form (IPv6 in brackets).
    name: String,
    is_address: bool,
    port: Option<u16>,
}

impl Host {
    fn parse(text: &[u8]) -> Option<Host> {
        let text = std::str::from_utf8(text).ok()?;
        let (name, rest) = match text.strip_prefix('[') {
            Some(inner) => {
                let (address, rest) = inner.split_once(']')?;
                (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), rest)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                let (name, rest) = text.split_at(end);
                // A trailing dot says that a name is complete, which ours always are.
                let name = name.strip_suffix('.').unwrap_or(name);
                let is_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
                if name.is_empty() || !name.bytes().all(is_name) {
                    return None;
                }
                (name.to_ascii_lowercase(), rest)
            }
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
        };
        let is_address = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
        Some(Host { name, is_address, port })
    }

    fn is_allowed(&self, hosts: &HostPolicy) -> bool {
        let is_loopback = self.name == "localhost" || self.name.ends_with(".localhost");
        let is_known = |names: &[String]| {
            names.iter().filter_map(|name| Host::parse(name.as_bytes())).any(|host| host.name == self.name)
        };
        match hosts {
            HostPolicy::Any => true,
            HostPolicy::Names(names) => is_loopback || self.is_address || is_known(names),
        }
    }

    /// Whether `origin` is a page that we ourselves would have served. The scheme may differ: TLS may end
    /// in front of us.
    fn is_origin(&self, origin: &str) -> bool {
        let Ok(url) = Url::parse(origin) else { return false };
        let default = match url.scheme() {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        url.host_str() == Some(&self.name) && url.port().unwrap_or(default) == self.port.unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(version: Version, target: &str, headers: &[(&str, &str)]) -> Result<(), FaultKind> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = axum::http::HeaderName::try_from(*name).unwrap();
            map.append(name, value.parse().unwrap());
        }
        let hosts = HostPolicy::Names(vec!["Chat.Example.org".into()]);
        check(version, &target.parse().unwrap(), &map, &hosts).map_err(|fault| fault.kind())
    }

    #[test]
    fn hosts() {
        for (host, expected) in [
            ("localhost", Ok(())),
            ("LOCALHOST:3000", Ok(())),
            ("a.localhost:1", Ok(())),
            ("127.0.0.1:3000", Ok(())),
            ("192.168.1.7", Ok(())),
            ("[::1]:3000", Ok(())),
            ("[0:0::1]", Ok(())),
            ("chat.example.org", Ok(())),
            ("chat.example.org.:8080", Ok(())),
            ("evil.example", Err(FaultKind::ForeignHost)),
            ("notlocalhost", Err(FaultKind::ForeignHost)),
            ("localhost.evil.example", Err(FaultKind::ForeignHost)),
            ("127.0.0.1.evil.example", Err(FaultKind::ForeignHost)),
            ("127.1", Err(FaultKind::ForeignHost)),
            ("", Err(FaultKind::BadRequest)),
            (":3000", Err(FaultKind::BadRequest)),
            ("localhost:", Ok(())),
            ("localhost:99999", Err(FaultKind::BadRequest)),
            ("localhost:+1", Err(FaultKind::BadRequest)),
            ("[::1", Err(FaultKind::BadRequest)),
            ("[::1]x", Err(FaultKind::BadRequest)),
            ("::1", Err(FaultKind::BadRequest)),
            ("a@localhost", Err(FaultKind::BadRequest)),
            ("localhost/evil", Err(FaultKind::BadRequest)),
            ("localhost, evil", Err(FaultKind::BadRequest)),
        ] {
            assert_eq!(ask(Version::HTTP_11, "/", &[("host", host)]), expected, "{host:?}");
        }
        assert_eq!(ask(Version::HTTP_10, "/", &[]), Err(FaultKind::BadRequest));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(ask(Version::HTTP_11, "/", &twice), Err(FaultKind::BadRequest));
    }

    #[test]
    fn authority_in_http2_counts_as_the_host() {
        let h2 = Version::HTTP_2;
        assert_eq!(ask(h2, "http://localhost:1/", &[]), Ok(()));
        assert_eq!(ask(h2, "http://localhost:1/", &[("host", "localhost:1")]), Ok(()));
        assert_eq!(ask(h2, "http://evil.example/", &[]), Err(FaultKind::ForeignHost));
        let other = [("host", "localhost:2")];
        assert_eq!(ask(h2, "http://localhost:1/", &other), Err(FaultKind::BadRequest));
        // In HTTP/1 the target's authority does not count.
        assert_eq!(ask(Version::HTTP_11, "http://localhost/", &[]), Err(FaultKind::BadRequest));
    }

    #[test]
    fn a_host_policy_of_any_takes_every_name_but_no_nonsense() {
        let headers = |host: &str| HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
        let ask = |host| check(Version::HTTP_11, &Uri::from_static("/"), &headers(host), &HostPolicy::Any);
        assert!(ask("evil.example").is_ok());
        assert!(ask("evil example").is_err());
    }

    #[test]
    fn origins() {
        let foreign = Err(FaultKind::ForeignOrigin);
        for (host, origin, expected) in [
            ("localhost:3000", "http://localhost:3000", Ok(())),
            ("localhost:3000", "https://localhost:3000", Ok(())),
            ("chat.example.org", "https://chat.example.org", Ok(())),
            ("chat.example.org:443", "https://chat.example.org", Ok(())),
            ("localhost:80", "http://LOCALHOST", Ok(())),
            ("[::1]:3000", "http://[0::1]:3000", Ok(())),
            ("localhost:3000", "http://localhost", foreign),
            ("localhost:3000", "http://localhost:3001", foreign),
            ("localhost", "http://evil.example", foreign),
            ("localhost", "null", foreign),
            ("localhost", "", foreign),
            ("localhost", "chrome-extension://localhost", foreign),
        ] {
            let asked = ask(Version::HTTP_11, "/", &[("host", host), ("origin", origin)]);
            assert_eq!(asked, expected, "{origin:?} at {host:?}");
        }
        let two = [("host", "a.localhost"), ("origin", "http://a.localhost"), ("origin", "null")];
        assert_eq!(ask(Version::HTTP_11, "/", &two), foreign);
        for (site, expected) in
            [("none", Ok(())), ("same-origin", Ok(())), ("same-site", foreign), ("cross-site", foreign)]
        {
            let headers = [("host", "localhost"), ("sec-fetch-site", site)];
            assert_eq!(ask(Version::HTTP_11, "/", &headers), expected, "{site}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// A foreign name does not pass, however it is written, and neither does a foreign page.
        #[test]
        fn a_foreign_name_never_passes(
            host in r"(evil|localhost|bots|chat|127|0|1|[.]|:|@|/|\[|\]|#|-|_|%|[ -~]|\PC){1,8}",
            origin in prop::option::of(r"(https?://|evil[.]example|localhost|:3000|/|@|null){1,4}"),
            http2 in any::<bool>(),
        ) {
            let Ok(value) = axum::http::HeaderValue::try_from(&host) else { return Ok(()) };
            let mut headers = HeaderMap::from_iter([(header::HOST, value)]);
            if let Some(origin) = &origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            let hosts = HostPolicy::Names(vec!["bots.example".into()]);
            let version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
            if check(version, &Uri::from_static("/"), &headers, &hosts).is_ok() {
                // A browser reads the host in the same way.
                let url = Url::parse(&format!("http://{host}/")).unwrap();
                let seen = url.host_str().unwrap().trim_end_matches('.');
                let is_ours = seen == "localhost" || seen.ends_with(".localhost") || seen == "bots.example";
                let is_address = !matches!(url.host(), Some(url::Host::Domain(_)));
                prop_assert!(is_ours || is_address, "{} is {}", host, seen);
                if let Some(origin) = origin {
                    let page = Url::parse(&origin).unwrap();
                    prop_assert_eq!(page.host_str().unwrap().trim_end_matches('.'), seen);
                }
            }
        }
    }
}
