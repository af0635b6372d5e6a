//! Why a Redis server will not do: one line, with the remedy.
//!
//! Pure. What a server says may repeat what it was sent, a password among it: of its own words only those are
//! passed on that cannot.

use redis::{ErrorKind, RedisError};

use super::super::StoreError;
use super::{OLDEST, PATIENCE};
use crate::config::RedisServer;

/// Why it will not do.
#[derive(Debug)]
pub(super) enum Unfit {
    Error(RedisError),
    Silent,
    TooOld(String),
    Cluster,
    Sentinel,
    Replica,
}

impl From<RedisError> for Unfit {
    fn from(error: RedisError) -> Unfit {
        Unfit::Error(error)
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> StoreError {
        StoreError(format!("Redis: {}", without_arguments(&error)))
    }
}

const ONE: &str = "name a single server, or the primary of one with replicas";

impl Unfit {
    /// What is wrong, and what to do about it.
    pub(super) fn told(&self, server: &RedisServer) -> (String, String) {
        let (what, remedy) = match self {
            Unfit::Error(error) => return of_error(error, server),
            Unfit::Silent => (
                format!("does not answer within {PATIENCE:?}"),
                "see whether it is overloaded or stopped, or whether something else listens there",
            ),
            Unfit::TooOld(version) => {
                (format!("is version {version}, which is too old"), "update it: 6.2 is needed, or later")
            }
            Unfit::Cluster => ("is part of a cluster, which is not supported".into(), ONE),
            Unfit::Sentinel => ("is a Sentinel, which holds nothing itself".into(), ONE),
            Unfit::Replica => ("is a replica, which cannot be written".into(), ONE),
        };
        (format!("Redis at {server} {what}"), remedy.into())
    }
}

fn of_error(error: &RedisError, server: &RedisServer) -> (String, String) {
    let tls = if server.tls {
        "see whether TLS is spoken there: redis:// is without"
    } else {
        "see whether a Redis listens there, and whether it wants TLS: rediss:// is with"
    };
    let text = without_arguments(error);
    let (what, remedy) = match error.code().unwrap_or_default() {
        "WRONGPASS" | "NOAUTH" | "NOPERM" if server.password.is_none() => {
            ("wants a password".into(), "put it into TABPROXY_REDIS: redis://:password@host")
        }
        "NOPERM" => (
            "does not let this user do what is needed".into(),
            "give it `~tabproxy:* +@all -@admin -@dangerous +info`",
        ),
        "READONLY" => return Unfit::Replica.told(server),
        "MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT" => return Unfit::Cluster.told(server),
        "LOADING" => ("is still loading its data".into(), "wait: it is asked again each second"),
        "OOM" => ("has no memory left (maxmemory)".into(), "raise maxmemory, or see what else fills it"),
        "MISCONF" => {
            ("refuses to be written, since it cannot save".into(), "see its own log: its disk is full?")
        }
        "WRONGPASS" | "NOAUTH" => {
            ("refuses the password".into(), "correct user and password in TABPROXY_REDIS")
        }
        _ => match error.kind() {
            ErrorKind::AuthenticationFailed if server.password.is_none() => {
                ("wants a password".into(), "put it into TABPROXY_REDIS: redis://:password@host")
            }
            ErrorKind::AuthenticationFailed => {
                ("refuses the password".into(), "correct user and password in TABPROXY_REDIS")
            }
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                return (format!("what answers at {server} is no Redis"), tls.into());
            }
            ErrorKind::Io if text.contains("certificate") => (
                format!("shows a certificate that is not trusted ({text})"),
                "name its authority's file in TABPROXY_REDIS_CA, and the server as its certificate does",
            ),
            ErrorKind::Io if error.is_connection_refusal() => {
                (format!("cannot be reached ({text})"), "start it, or correct TABPROXY_REDIS")
            }
            ErrorKind::Io => (format!("cannot be reached ({text})"), tls),
            _ => (format!("refuses ({text})"), "see its own log"),
        },
    };
    (format!("Redis at {server} {what}"), remedy.into())
}

/// What `error` says, without what a server may have repeated of a command.
pub(super) fn without_arguments(error: &RedisError) -> String {
    let text = error.to_string();
    match text.split_once(", with args") {
        Some((before, _)) => before.to_owned(),
        None => text,
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The version that a server's `INFO` names; Valkey names the one that it stands for.
pub(super) fn version(info: &str) -> String {
    field(info, "redis_version").unwrap_or("unknown").to_owned()
}

/// Whether the server with this `INFO` will do.
pub(super) fn judge(info: &str) -> Result<(), Unfit> {
    match field(info, "redis_mode") {
        Some("cluster") => return Err(Unfit::Cluster),
        Some("sentinel") => return Err(Unfit::Sentinel),
        _ => {}
    }
    if field(info, "role") == Some("slave") {
        return Err(Unfit::Replica);
    }
    let version = version(info);
    let mut numbers = version.split('.').map(|it| it.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => Err(Unfit::TooOld(version)),
        _ => Ok(()),
    }
}

/// What an operator should know of the server with this `INFO`.
pub(super) fn careful(info: &str) -> Option<String> {
    let policy = field(info, "maxmemory_policy")?;
    let is_bounded = field(info, "maxmemory") != Some("0");
    (is_bounded && policy != "noeviction").then(|| {
        format!("may drop a conversation's lock when its memory is full ({policy}): set maxmemory-policy noeviction")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_will_not_do_are_known_by_what_they_say() {
        let info = |text: &str| judge(&text.replace(' ', "\r\n"));
        assert!(info("redis_version:7.0.15 redis_mode:standalone role:master").is_ok());
        assert!(info("redis_version:6.2.0 role:master").is_ok() && info("").is_ok());
        assert!(matches!(info("redis_version:6.0.16"), Err(Unfit::TooOld(it)) if it == "6.0.16"));
        assert!(matches!(info("redis_version:7.4.0 redis_mode:cluster"), Err(Unfit::Cluster)));
        assert!(matches!(info("redis_mode:sentinel"), Err(Unfit::Sentinel)));
        assert!(matches!(info("redis_version:7.0.0 role:slave"), Err(Unfit::Replica)));
        assert!(careful("maxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n").is_some());
        for fine in
            ["maxmemory:0\r\nmaxmemory_policy:allkeys-lru", "maxmemory:9\r\nmaxmemory_policy:noeviction"]
        {
            assert_eq!(careful(fine), None);
        }
    }

    #[test]
    fn what_a_server_repeats_is_not_passed_on() {
        let error = RedisError::from((
            ErrorKind::Extension,
            "an error",
            "unknown command 'AUTH', with args beginning with: 'hunter2'".to_owned(),
        ));
        assert!(error.to_string().contains("hunter2") && !without_arguments(&error).contains("hunter2"));
    }
}
