//! The Redis that several instances share, as an address: checked, with its password out of sight.
//!
//! It must not know what is kept there. It never repeats the address in a mistake: a password may be in it.

use std::fmt;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Url};

use super::Mistake;

const REMEDY: &str = "write it as redis://host:6379 or rediss://user:password@host:6379/0 (special characters of \
                      the password percent-encoded)";
const PORT: u16 = 6379;

/// A Redis server. Shown by its host and port alone.
#[derive(Clone, Debug)]
pub struct RedisServer {
    /// Name or address, an IPv6 one without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// The number of its database.
    pub database: u16,
    /// The user to sign in as; `None` for the one that every server has.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<SecretString>,
    /// PEM of the authorities that may have signed its certificate; `None` for those of the system.
    pub authorities: Option<Vec<u8>>,
}

impl fmt::Display for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What happens to a turn while Redis, which would say whose turn it is, is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenLost {
    /// It is refused: another instance may be speaking in its conversation.
    #[default]
    Refuse,
    /// This instance decides alone.
    Alone,
}

pub(super) fn server(value: &str) -> Result<Option<RedisServer>, Mistake> {
    let wrong = |what: &str| Mistake::new(what, REMEDY);
    let url = Url::parse(value).map_err(|_| wrong("is not an address"))?;
    let tls = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        _ => return Err(wrong("does not begin with redis:// or rediss://")),
    };
    let host = match url.host() {
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Ipv6(ip)) => ip.to_string(),
        Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
        _ => return Err(wrong("names no host")),
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or a fragment"));
    }
    let database = match url.path().trim_matches('/') {
        "" => 0,
        number => number.parse().map_err(|_| wrong("ends in something that is no number of a database"))?,
    };
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().map(|it| it.into_owned());
        text.map_err(|_| wrong("has a user or a password that is not UTF-8"))
    };
    let user = Some(decode(url.username())?).filter(|it| !it.is_empty());
    let password = url.password().map(decode).transpose()?.map(SecretString::from);
    let port = url.port().unwrap_or(PORT);
    Ok(Some(RedisServer { host, port, tls, database, user, password, authorities: None }))
}

pub(super) fn authorities(path: &str) -> Result<Option<Vec<u8>>, Mistake> {
    let remedy = "give the path of a PEM file with -----BEGIN CERTIFICATE----- in it";
    let pem = std::fs::read(path)
        .map_err(|error| Mistake::new(format!("names `{path}`, which cannot be read: {error}"), remedy))?;
    super::pins_of(&pem).map_err(|why| Mistake::new(format!("names `{path}`, {why}"), remedy))?;
    Ok(Some(pem))
}

pub(super) fn when_lost(value: &str) -> Result<WhenLost, Mistake> {
    match value.to_ascii_lowercase().as_str() {
        "refuse" => Ok(WhenLost::Refuse),
        "alone" => Ok(WhenLost::Alone),
        _ => Err(Mistake::new(format!("is `{value}`"), "write refuse or alone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn an_address_is_read_and_its_password_not_shown() {
        let read = |value: &str| server(value).unwrap().unwrap();
        let plain = read("redis://cache");
        assert_eq!((plain.to_string().as_str(), plain.tls, plain.database), ("cache:6379", false, 0));
        assert!(plain.user.is_none() && plain.password.is_none());
        let whole = read("rediss://bot:hunter2%2Fx@[::1]:7000/3");
        assert_eq!((whole.to_string().as_str(), whole.tls, whole.database), ("[::1]:7000", true, 3));
        assert_eq!(whole.user.as_deref(), Some("bot"));
        assert_eq!(whole.password.as_ref().unwrap().expose_secret(), "hunter2/x");
        assert!(!format!("{whole:?}").contains("hunter2"));
        assert!(read("redis://:hunter2@10.0.0.1").user.is_none());
        for wrong in [
            "cache:6379",
            "hunter2",
            "http://u:hunter2@cache",
            "redis://:hunter2@",
            "redis://:hunter2@h/x",
            "redis://:hunter2@h?db=1",
            "unix:///run/redis",
            "redis://u:hunter2@h:99999",
            "redis:///0",
        ] {
            let mistake = server(wrong).map(drop).unwrap_err();
            assert!(!mistake.what.contains("hunter2") && mistake.remedy.contains("redis://host"), "{wrong}");
        }
        assert_eq!(when_lost("Alone"), Ok(WhenLost::Alone));
        assert!(when_lost("never").is_err());
    }
}
