//! The options that say who may use the server, and where the official API is: their values, checked.
//!
//! It must not know what a key or an account is used for. It never repeats a secret in a mistake.

use std::net::IpAddr;

use ipnet::IpNet;
use secrecy::SecretString;
use url::Url;

use super::parse::{Mistake, list};

/// The official API when nobody says another.
pub const DEFAULT_API_TARGET: &str = "https://api.openai.com/";
/// What every hash that `tabproxy password` prints begins with.
pub const PASSWORD_HASH: &str = "$argon2";

/// Which pages of other sites may use this server from a browser.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// None.
    #[default]
    Off,
    /// Those of every origin.
    Any,
    /// Those of these origins, as browsers write them: `https://chat.example.com`.
    Origins(Vec<String>),
}

impl Cors {
    /// Whether a page of `origin` may.
    pub fn allows(&self, origin: &str) -> bool {
        match self {
            Cors::Off => false,
            Cors::Any => true,
            Cors::Origins(origins) => origins.iter().any(|it| it == origin),
        }
    }
}

pub(super) fn cors(value: &str) -> Result<Cors, Mistake> {
    if matches!(value.to_ascii_lowercase().as_str(), "off" | "false" | "no" | "0") {
        return Ok(Cors::Off);
    }
    let mut origins = Vec::new();
    for entry in list(value) {
        if entry == "*" {
            return Ok(Cors::Any);
        }
        let url = Url::parse(entry).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && matches!(url.path(), "/" | "")
                && url.query().is_none()
        });
        let url = url.ok_or_else(|| {
            Mistake::new(
                format!("has the entry `{entry}`, which is not an origin"),
                "write origins as https://chat.example.com, separated by commas, or * for all",
            )
        })?;
        origins.push(url.origin().ascii_serialization());
    }
    Ok(Cors::Origins(origins))
}

/// The addresses whose word is taken for who asks: single ones, and networks as `10.0.0.0/8`.
pub(super) fn proxies(value: &str) -> Result<Vec<IpNet>, Mistake> {
    let entry = |entry: &str| {
        let net = entry.parse().ok().or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from));
        net.ok_or_else(|| {
            Mistake::new(
                format!("has the entry `{entry}`, which is neither an address nor a network"),
                "write them as 10.0.0.7 or 10.0.0.0/8, separated by commas",
            )
        })
    };
    list(value).map(entry).collect()
}

pub(super) fn switch(value: &str) -> Result<bool, Mistake> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(Mistake::new(format!("is `{value}`"), "write true or false")),
    }
}

pub(super) fn admin_password(value: &str) -> Result<Option<SecretString>, Mistake> {
    if value.starts_with(PASSWORD_HASH) && value.matches('$').count() < 5 {
        return Err(Mistake::new(
            "begins as a password hash but is not whole",
            "print one with `tabproxy password`, and put it in single quotes where a shell reads it",
        ));
    }
    Ok(Some(value.into()))
}

pub(super) fn api_target(value: &str) -> Result<Url, Mistake> {
    let mut url = super::parse::origin(value)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Mistake::new("has a query or a fragment", "end it with the path that routes go under"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

pub(super) fn header_prefixes(value: &str) -> Result<Vec<String>, Mistake> {
    let read = |entry: &str| match http::HeaderName::from_bytes(entry.as_bytes()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => Err(Mistake::new(
            format!("has the entry `{entry}`, which no header name begins with"),
            "list beginnings of header names separated by commas, as X-SCF,X-FC",
        )),
    };
    list(value).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_write_them() {
        assert_eq!(cors("*"), Ok(Cors::Any));
        let networks = ["10.0.0.0/8", "::1/128"].map(|it| it.parse().unwrap());
        assert_eq!(proxies("10.0.0.0/8, ::1"), Ok(networks.into()));
        assert!(proxies("10.0.0.0/33").is_err() && proxies("proxy").is_err());
        assert_eq!(cors("off"), Ok(Cors::Off));
        let some = cors("https://Chat.Example.com/, http://localhost:8080,https://a:443").unwrap();
        assert!(some.allows("https://chat.example.com") && some.allows("http://localhost:8080"));
        assert!(some.allows("https://a") && !some.allows("https://b") && !some.allows("null"));
        assert!(!Cors::Off.allows("https://a") && Cors::Any.allows("null"));
        for wrong in ["chat.example.com", "https://a/path", "ftp://a", "null"] {
            assert!(cors(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_targets_path_is_kept() {
        let target = |value| api_target(value).map(|it| it.to_string()).map_err(|it| it.what);
        assert_eq!(target("https://api.openai.com").unwrap(), "https://api.openai.com/");
        assert_eq!(target("https://a.azure.com/openai").unwrap(), "https://a.azure.com/openai/");
        assert!(target("api.openai.com").is_err() && target("https://a/?b").is_err());
    }

    #[test]
    fn a_torn_hash_is_noticed_and_not_repeated() {
        // What a shell leaves of it in double quotes.
        let mistake = admin_password("$argon2id=19=1,t=2").unwrap_err();
        assert!(!mistake.what.contains("t=2") && mistake.remedy.contains("single quotes"));
        assert!(admin_password("plain").is_ok());
    }
}
