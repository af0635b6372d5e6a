//! The way out: which proxy for which scheme, and who is reached without one.
//!
//! It exists to read the variables that curl and others know. It must not know how Chromium is told of them
//! beyond the form of a bypass rule, and it never shows a password.

use std::fmt;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use url::Url;

use super::Mistake;

const REMEDY: &str = "write it as http://host:port, https://host:port or socks5://host:port, \
                      with user:password@ before the host if needed (special characters percent-encoded)";

/// The browser's way out; the default is direct.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// For https sites.
    pub https: Option<ProxyServer>,
    /// For http sites.
    pub http: Option<ProxyServer>,
    /// Who is reached directly, as entries of Chromium's `--proxy-bypass-list`.
    pub bypass: Vec<String>,
}

impl ProxyConfig {
    /// From the four variables; `bypass` is `None` where nothing is to go through a proxy.
    pub(super) fn new(
        https: Option<ProxyServer>,
        http: Option<ProxyServer>,
        all: Option<ProxyServer>,
        bypass: Option<Vec<String>>,
    ) -> ProxyConfig {
        match bypass {
            Some(bypass) => ProxyConfig { https: https.or(all.clone()), http: http.or(all), bypass },
            None => ProxyConfig::default(),
        }
    }
}

impl ProxyConfig {
    /// The proxy on the way to `url`; `None` where it is reached directly.
    pub fn server_for(&self, url: &Url) -> Option<&ProxyServer> {
        let server = if url.scheme() == "https" { &self.https } else { &self.http };
        server.as_ref().filter(|_| !self.is_direct(url))
    }

    fn is_direct(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        self.bypass.iter().any(|rule| {
            let rule = rule.to_ascii_lowercase();
            let in_block =
                || rule.split_once('/').is_some_and(|(block, bits)| is_within(address, block, bits));
            let below = || rule.strip_prefix("*").is_some_and(|end| address.is_none() && host.ends_with(end));
            rule == host || rule == with_port || in_block() || below()
        })
    }
}

/// Whether `address` is in the CIDR block.
fn is_within(address: Option<IpAddr>, block: &str, bits: &str) -> bool {
    let (Some(address), Ok(block), Ok(bits)) = (address, block.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address, block) {
        (IpAddr::V4(a), IpAddr::V4(b)) if bits <= 32 => {
            let shift = 32 - bits;
            a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) if bits <= 128 => {
            let shift = 128 - bits;
            a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
        }
        _ => false,
    }
}

/// What is spoken with a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyScheme {
    /// HTTP, in the clear.
    Http,
    /// HTTP over TLS.
    Https,
    /// SOCKS version 5; names are resolved by the proxy.
    Socks5,
}

/// One proxy. Neither `Debug` nor `Display` shows the credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyServer {
    /// What is spoken with it.
    pub scheme: ProxyScheme,
    /// Its name or address; an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name and password, percent-decoded.
    pub credentials: Option<(String, String)>,
}

impl ProxyServer {
    /// Reads `[scheme://][user:password@]host[:port]`. No scheme means http; the port is by default 80, 443
    /// or 1080.
    pub fn parse(value: &str) -> Result<ProxyServer, Mistake> {
        // The value is never repeated: a broken one may still hold a password.
        let wrong = |why: &str| Mistake::new(why, REMEDY);
        let url = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
        let url = Url::parse(&url).map_err(|error| wrong(&format!("is not a proxy address: {error}")))?;
        let (scheme, port) = match url.scheme() {
            "http" => (ProxyScheme::Http, 80),
            "https" => (ProxyScheme::Https, 443),
            "socks5" | "socks5h" => (ProxyScheme::Socks5, 1080),
            other => return Err(wrong(&format!("has the scheme `{other}`, which no proxy here speaks"))),
        };
        let host = url.host_str().filter(|it| !it.is_empty()).ok_or_else(|| wrong("has no host"))?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("goes on after the port"));
        }
        let port = url.port().unwrap_or(port);
        if port == 0 {
            return Err(wrong("has port 0"));
        }
        let decode = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(|it| it.into_owned()).map_err(|_| wrong("has a user name or password that is not UTF-8"))
        };
        let (user, password) = (decode(url.username())?, decode(url.password().unwrap_or_default())?);
        let credentials = (!user.is_empty() || !password.is_empty()).then_some((user, password));
        if let Some((user, password)) = &credentials {
            if scheme == ProxyScheme::Socks5 {
                // RFC 1929: each has one length byte, and nothing has no length.
                if [user, password].iter().any(|it| it.is_empty() || it.len() > 255) {
                    return Err(wrong(
                        "has a user name or password of 0 or over 255 bytes, unfit for SOCKS5",
                    ));
                }
            } else if user.contains(':') {
                return Err(wrong("has a colon in the user name, which HTTP proxies cannot take"));
            }
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(ProxyServer { scheme, host, port, credentials })
    }
}

impl ProxyServer {
    /// The whole address, with credentials: a secret.
    pub fn url(&self) -> Option<Url> {
        // Names are resolved by the proxy, which is what the h says.
        let address = self.to_string().replacen("socks5:", "socks5h:", 1);
        let mut url = Url::parse(&address).ok()?;
        if let Some((user, password)) = &self.credentials {
            url.set_username(user).ok()?;
            url.set_password(Some(password)).ok()?;
        }
        Some(url)
    }
}

/// The address without credentials, `scheme://host:port`, as Chromium takes it.
impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            ProxyScheme::Http => "http",
            ProxyScheme::Https => "https",
            ProxyScheme::Socks5 => "socks5",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = if self.credentials.is_some() { ", with credentials" } else { "" };
        write!(f, "ProxyServer({self}{with})")
    }
}

/// `NO_PROXY` as Chromium's bypass rules; `None` for `*`, no proxy at all.
pub(super) fn bypass(value: &str) -> Result<Option<Vec<String>>, Mistake> {
    let mut rules = Vec::new();
    for entry in value.split([',', ' ', '\t']).filter(|it| !it.is_empty()) {
        if entry == "*" {
            return Ok(None);
        }
        // `<-loopback>` would send our own channel to the proxy, and `;` starts another rule.
        if !entry.chars().all(|it| it.is_alphanumeric() || ".-_:*/[]".contains(it)) {
            return Err(Mistake::new(
                format!("has the entry `{entry}`, which is no host"),
                "list host names, IP addresses, CIDR blocks or host:port, separated by commas, or * alone",
            ));
        }
        if let Ok(address) = entry.parse::<IpAddr>() {
            rules.push(if address.is_ipv6() { format!("[{address}]") } else { address.to_string() });
        } else if entry.contains([':', '/', '*', '[']) {
            rules.push(entry.to_owned());
        } else {
            // In Chromium a plain name means that host only; for curl it means its subdomains too.
            let name = entry.trim_start_matches('.');
            rules.push(name.to_owned());
            rules.push(format!("*.{name}"));
        }
    }
    Ok(Some(rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let read = |value| {
            let server = ProxyServer::parse(value).unwrap();
            (server.to_string(), server.credentials)
        };
        let with = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(read("proxy:3128"), ("http://proxy:3128".into(), None));
        assert_eq!(read("http://proxy"), ("http://proxy:80".into(), None));
        assert_eq!(read("https://proxy/"), ("https://proxy:443".into(), None));
        assert_eq!(read("socks5h://[::1]"), ("socks5://[::1]:1080".into(), None));
        assert_eq!(read("socks5://h:80"), ("socks5://h:80".into(), None));
        assert_eq!(read("user:p%40ss@h:1"), ("http://h:1".into(), with("user", "p@ss")));
        assert_eq!(read("http://user@h:1"), ("http://h:1".into(), with("user", "")));
    }

    #[test]
    fn bad_servers_never_show_the_password() {
        for value in [
            "ftp://u:hunter2@h:1",
            "http://u:hunter2@",
            "http://u:hunter2@h:99999",
            "http://u:hunter2@h/x",
            "u:hunter2@h:0",
            "http//u:hunter2@h:1",
            "socks5://:hunter2@h",
            "http://a%3Ab:hunter2@h",
            "http://u:hunter2%ff@h",
        ] {
            let mistake = ProxyServer::parse(value).unwrap_err();
            assert!(!format!("{mistake:?}").contains("hunter2"), "{mistake:?}");
        }
        let server = ProxyServer::parse("u:hunter2@h:1").unwrap();
        assert_eq!(format!("{server:?}"), "ProxyServer(http://h:1, with credentials)");
    }

    #[test]
    fn who_is_reached_directly() {
        let config = |no_proxy: &str| ProxyConfig {
            https: Some(ProxyServer::parse("u:p%40@h:1").unwrap()),
            http: None,
            bypass: bypass(no_proxy).unwrap().unwrap(),
        };
        for (no_proxy, url, direct) in [
            ("", "https://api.openai.com/", false),
            ("openai.com", "https://api.openai.com/", true),
            ("openai.com", "https://myopenai.com/", false),
            ("api.openai.com:443", "https://api.openai.com/", true),
            ("api.openai.com:80", "https://api.openai.com/", false),
            ("10.0.0.0/8", "https://10.1.2.3/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("0.0.0.0/0", "https://11.1.2.3/", true),
            ("fd00::/8", "https://[fd00::1]/", true),
            ("::1", "https://[::1]/", true),
            ("", "http://api.openai.com/", true),
        ] {
            let config = config(no_proxy);
            assert_eq!(config.server_for(&url.parse().unwrap()).is_none(), direct, "{no_proxy} {url}");
        }
        assert_eq!(config("").https.unwrap().url().unwrap().as_str(), "http://u:p%40@h:1/");
        let socks = ProxyServer::parse("socks5://h").unwrap();
        assert_eq!(socks.url().unwrap().as_str(), "socks5h://h:1080");
    }

    #[test]
    fn bypass_rules() {
        let rules = |value| bypass(value).unwrap().map(|it| it.join(";"));
        assert_eq!(rules("example.com").as_deref(), Some("example.com;*.example.com"));
        assert_eq!(rules(".example.com, b").as_deref(), Some("example.com;*.example.com;b;*.b"));
        assert_eq!(
            rules("10.0.0.1,10.0.0.0/8,::1,h:8080").as_deref(),
            Some("10.0.0.1;10.0.0.0/8;[::1];h:8080")
        );
        assert_eq!(rules("a,*"), None);
        assert!(bypass("<-loopback>").is_err());
        assert!(bypass("a;b").is_err());
    }
}
