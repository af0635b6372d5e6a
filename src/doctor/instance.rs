//! The port, and whoever has it: people look beside a tabproxy that runs.

use std::io;
use std::net::{SocketAddr, TcpListener};

use serde_json::Value;

use super::finding::Finding;
use crate::config::{Config, Problem};
use crate::health;

/// Who answers where the server is to listen.
#[derive(Clone, Debug)]
pub enum Running {
    /// Nobody, or somebody who is no tabproxy.
    Nobody,
    /// A tabproxy: whether it is ready, its phase, and why it is not ready.
    Tabproxy {
        /// Whether it would serve a request now.
        is_ready: bool,
        /// Its phase, as `/readyz` says.
        phase: String,
        /// In words.
        reason: String,
        /// Requests that run, and that wait.
        busy: (u64, u64),
    },
}

impl Running {
    /// Asks there; four seconds at most.
    pub async fn look(listen: SocketAddr) -> Running {
        match health::ask(listen).await {
            Ok((is_ready, said)) => Running::read(is_ready, &said),
            Err(_) => Running::Nobody,
        }
    }

    fn read(is_ready: bool, said: &str) -> Running {
        let said: Value = serde_json::from_str(said).unwrap_or_default();
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| said[name].as_u64().unwrap_or_default();
        if !said["ready"].is_boolean() || !said["phase"].is_string() {
            return Running::Nobody;
        }
        let busy = (number("running"), number("queued"));
        Running::Tabproxy { is_ready, phase: text("phase"), reason: text("reason"), busy }
    }

    /// Whether a tabproxy runs there.
    pub fn is_tabproxy(&self) -> bool {
        matches!(self, Running::Tabproxy { .. })
    }

    /// Whether one runs there that is ready.
    pub fn is_ready(&self) -> bool {
        matches!(self, Running::Tabproxy { is_ready: true, .. })
    }

    /// One that is ready.
    #[cfg(test)]
    pub fn ready_for_tests() -> Running {
        Running::Tabproxy { is_ready: true, phase: "ready".into(), reason: String::new(), busy: (0, 0) }
    }
}

/// Takes the port for a moment.
///
/// # Errors
/// It cannot be had.
pub fn try_port(config: &Config) -> Result<(), (io::ErrorKind, Problem)> {
    TcpListener::bind(config.listen).map(drop).map_err(|error| (error.kind(), unusable(config, &error)))
}

fn unusable(config: &Config, error: &io::Error) -> Problem {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "stop the program that has the port, or choose another port",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 on",
        _ => "choose an address of this machine, such as 127.0.0.1:3000",
    };
    Problem {
        variable: "TABPROXY_LISTEN",
        what: format!("TABPROXY_LISTEN (--listen): cannot serve on {}: {error}", config.listen),
        remedy: remedy.into(),
    }
}

/// The port.
pub fn port(config: &Config, running: &Running) -> Finding {
    let at = config.listen;
    match try_port(config) {
        Ok(()) => Finding::green("port", format!("{at} is free")),
        Err((io::ErrorKind::AddrInUse, _)) if running.is_tabproxy() => {
            Finding::green("port", format!("{at} is taken, by a tabproxy that runs"))
        }
        Err((_, problem)) => Finding::of("port", &problem),
    }
}

/// The tabproxy that runs there.
pub fn judge(config: &Config, running: &Running) -> Finding {
    const NAME: &str = "instance";
    let Running::Tabproxy { is_ready, phase, reason, busy: (busy, queued) } = running else {
        return Finding::green(NAME, format!("no tabproxy runs at {}", config.listen));
    };
    if *is_ready {
        return Finding::green(NAME, format!("{phase}; {busy} requests run, {queued} wait"));
    }
    let text = format!("{phase}: {reason}");
    match phase.as_str() {
        "needs_operator" => {
            Finding::red(NAME, text, "act in the browser window, or open /console with the admin password")
        }
        "backoff" => Finding::red(NAME, text, "see the checks above, and the last lines of its log"),
        "ready" => Finding::yellow(NAME, text, "wait, or let callers in again (/console)"),
        _ => Finding::yellow(NAME, text, "wait some seconds and look again"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Light::{Green, Red, Yellow};
    use super::*;

    #[test]
    fn what_readyz_says_is_judged_and_others_are_nobody() {
        let config = Config::for_origin("https://site.test/".parse().unwrap());
        for (said, is_ready, state) in [
            (r#"{"ready":true,"phase":"ready","running":1,"queued":0}"#, true, Green),
            (r#"{"ready":false,"phase":"warming","reason":"the page is being opened"}"#, false, Yellow),
            (r#"{"ready":false,"phase":"ready","reason":"the queue is full"}"#, false, Yellow),
            (r#"{"ready":false,"phase":"needs_operator","reason":"a sign-in"}"#, false, Red),
            (r#"{"ready":false,"phase":"backoff","reason":"no browser"}"#, false, Red),
        ] {
            let running = Running::read(is_ready, said);
            assert!(running.is_tabproxy(), "{said}");
            let finding = judge(&config, &running);
            assert_eq!(finding.state, state, "{finding:?}");
            assert_eq!(finding.remedy.is_none(), state == Green);
        }
        for said in ["ok", "{}", "[]", r#"{"ready":"yes","phase":"x"}"#] {
            assert!(!Running::read(true, said).is_tabproxy(), "{said}");
        }
        assert_eq!(judge(&config, &Running::Nobody).state, Green);
    }
}
