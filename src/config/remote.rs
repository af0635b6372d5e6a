//! Where browsers run that somebody else started: the addresses of `TABPROXY_BROWSER_WS`.
//!
//! An address may hold a token or a password, in its user part, its path or its query, so nothing but scheme, host
//! and port is ever shown, and a mistake never repeats it. It must not know what is spoken there.

use std::fmt;

use url::Url;

use super::browsers::MOST_BROWSERS;
use super::parse::{Mistake, list};

const REMEDY: &str = "write it as ws://host:port/path, wss://…, or http://host:port to have the browser asked for \
                      its address (a comma in it as %2C); several are separated by commas";

/// Where a browser's DevTools are. Neither `Debug` nor `Display` shows more than scheme, host and port.
#[derive(Clone, PartialEq, Eq)]
pub struct BrowserAddress(Url);

impl BrowserAddress {
    /// Reads `ws://`, `wss://`, `http://` or `https://host[:port][/path][?query]`.
    ///
    /// # Errors
    /// It is no such address.
    pub fn parse(value: &str) -> Result<BrowserAddress, Mistake> {
        // The value is never repeated: it may hold a token.
        let wrong = |why: String| Mistake::new(why, REMEDY);
        let url = Url::parse(value)
            .map_err(|error| wrong(format!("has an entry that is not a browser's address: {error}")))?;
        match url.scheme() {
            "ws" | "wss" | "http" | "https" => {}
            other if value.contains("://") => {
                return Err(wrong(format!(
                    "has an entry with the scheme `{other}`, which leads to no browser"
                )));
            }
            // `host:9222` reads as a scheme too.
            _ => return Err(wrong("has an entry without ws:// or http:// in front".into())),
        }
        Ok(BrowserAddress(url))
    }

    /// The whole address, with what is secret in it.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for BrowserAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        let port = self.0.port_or_known_default().unwrap_or_default();
        write!(f, "{}://{host}:{port}", self.0.scheme())
    }
}

impl fmt::Debug for BrowserAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Variables that are about a browser that is started here. (The official API is reached by the proxies all the
/// same.)
pub(super) const LOCAL_ONLY: [&str; 9] = [
    "TABPROXY_RESOLVE",
    "TABPROXY_TRUST_CERT",
    "TABPROXY_CHROMIUM",
    "TABPROXY_CHROMIUM_ARGS",
    "TABPROXY_HEADLESS",
    "TABPROXY_SANDBOX",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
];

/// What `TABPROXY_BROWSERS`, a number, has against so many addresses.
pub(super) fn contradiction(browsers: Option<usize>, addresses: usize) -> Option<Mistake> {
    match browsers {
        Some(number) if addresses > 0 && number != addresses => Some(Mistake::new(
            format!("names {addresses} of them, but TABPROXY_BROWSERS is {number}"),
            "leave TABPROXY_BROWSERS out: each address is one browser",
        )),
        _ => None,
    }
}

pub(super) fn addresses(value: &str) -> Result<Vec<BrowserAddress>, Mistake> {
    let all = list(value).map(BrowserAddress::parse).collect::<Result<Vec<_>, _>>()?;
    match all.len() {
        0..=MOST_BROWSERS => Ok(all),
        number => Err(Mistake::new(
            format!("names {number} browsers"),
            format!("name at most {MOST_BROWSERS}; start another tabproxy for the others"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_their_secrets_never_shown() {
        let read = addresses(
            "ws://user:hunter2@10.0.0.7:9222/devtools/browser/hunter2, https://b.example/?token=hunter2",
        );
        let read = read.unwrap();
        assert_eq!(format!("{} {}", read[0], read[1]), "ws://10.0.0.7:9222 https://b.example:443");
        assert_eq!(format!("{read:?}"), "[ws://10.0.0.7:9222, https://b.example:443]");
        assert_eq!(read[1].url().query(), Some("token=hunter2"));
    }

    #[test]
    fn a_number_of_browsers_that_is_another_is_a_contradiction() {
        assert!(contradiction(Some(3), 2).is_some());
        assert!(
            [(Some(2), 2), (None, 2), (Some(3), 0)].into_iter().all(|(n, of)| contradiction(n, of).is_none())
        );
    }

    #[test]
    fn what_is_no_address_is_named_without_repeating_it() {
        for wrong in
            ["hunter2:9222", "socks5://hunter2", "ws://", "hunter2", "ws://a,hunter2", "ws://h:99999/hunter2"]
        {
            let mistake = addresses(wrong).unwrap_err();
            assert!(!mistake.what.contains("hunter2") && !mistake.remedy.contains("hunter2"), "{mistake:?}");
        }
    }
}
