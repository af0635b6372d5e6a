//! The configuration as the operator may see it: every option by its variable, and nothing secret.

use std::fmt::Display;
use std::path::Path;

use super::access::Cors;
use super::{Config, Hosts, LogFormat, SandboxMode, WhenLost};

impl Config {
    /// Every option and its value in words. Of passwords it says only whether there is one, and of Chromium's
    /// flags only their names.
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        let proxy = |it: &Option<super::ProxyServer>| match it {
            None => "direct".to_owned(),
            Some(it) if it.credentials.is_some() => format!("{it} (with a password)"),
            Some(it) => it.to_string(),
        };
        let is_set = |is: bool| if is { "set" } else { "not set" }.to_owned();
        let flag = |it: &String| it.split('=').next().unwrap_or_default().to_owned();
        vec![
            ("TABPROXY_LISTEN", self.listen.to_string()),
            ("TABPROXY_INSTANCE", self.instance.name().to_owned()),
            (
                "TABPROXY_HOSTS",
                match &self.hosts {
                    Hosts::Any => "*".into(),
                    Hosts::Names(names) => list(names),
                },
            ),
            ("TABPROXY_ALLOW_PATHS", list(&self.allow_paths)),
            ("TABPROXY_ALLOW_HEADERS", list(&self.allow_headers)),
            ("TABPROXY_DRAIN", format!("{:?}", self.drain)),
            ("TABPROXY_DRAIN_GRACE", format!("{:?}", self.drain_grace)),
            ("TABPROXY_PING", self.ping.map_or("off".into(), |it| format!("{it:?}"))),
            ("TABPROXY_KEYS_FILE", file(self.keys_file.as_deref())),
            ("TABPROXY_ACCOUNTS_FILE", file(self.accounts_file.as_deref())),
            ("TABPROXY_REQUIRE_KEY", self.require_key.to_string()),
            ("TABPROXY_ADMIN_PASSWORD", is_set(self.admin_password.is_some())),
            (
                "TABPROXY_CORS",
                match &self.cors {
                    Cors::Off => "off".into(),
                    Cors::Any => "*".into(),
                    Cors::Origins(origins) => list(origins),
                },
            ),
            (
                "TABPROXY_REDIS",
                match &self.redis {
                    None => "none".into(),
                    Some(it) if it.password.is_some() => format!("{it} (with a password)"),
                    Some(it) => it.to_string(),
                },
            ),
            (
                "TABPROXY_REDIS_LOST",
                match self.redis_lost {
                    WhenLost::Refuse => "refuse",
                    WhenLost::Alone => "alone",
                }
                .into(),
            ),
            ("TABPROXY_API_TARGET", self.api_target.origin().ascii_serialization() + self.api_target.path()),
            ("TABPROXY_STRIP_HEADER_PREFIX", list(&self.strip_headers)),
            ("TABPROXY_ORIGIN", self.origin.origin().ascii_serialization() + self.origin.path()),
            ("TABPROXY_RESOLVE", list(self.resolve.iter().map(|(host, at)| format!("{host}={at}")))),
            ("TABPROXY_TRUST_CERT", format!("{} keys", self.pins.len())),
            ("TABPROXY_BROWSER_WS", list(&self.browser_ws)),
            (
                "TABPROXY_CHROMIUM",
                self.chromium.as_deref().map_or("found".into(), |it| it.display().to_string()),
            ),
            ("TABPROXY_CHROMIUM_ARGS", list(self.chromium_args.iter().map(flag))),
            ("TABPROXY_PROFILE", self.profile.display().to_string()),
            ("TABPROXY_HEADLESS", self.headless.to_string()),
            (
                "TABPROXY_SANDBOX",
                match self.sandbox {
                    SandboxMode::Auto => "auto",
                    SandboxMode::On => "on",
                    SandboxMode::Off => "off",
                }
                .into(),
            ),
            ("TABPROXY_BROWSERS", self.browsers.to_string()),
            ("TABPROXY_CARRIERS", self.carriers.to_string()),
            ("TABPROXY_PAGE_EXCHANGES", self.page_exchanges.to_string()),
            ("TABPROXY_PAGE_AGE", format!("{:?}", self.page_age)),
            ("TABPROXY_PAGE_MEMORY", size(self.page_memory)),
            ("HTTPS_PROXY", proxy(&self.proxy.https)),
            ("HTTP_PROXY", proxy(&self.proxy.http)),
            ("NO_PROXY", list(&self.proxy.bypass)),
            ("TABPROXY_MAX_INFLIGHT", self.max_inflight.to_string()),
            ("TABPROXY_QUEUE", self.queue.to_string()),
            ("TABPROXY_QUEUE_WAIT", format!("{:?}", self.queue_wait)),
            ("TABPROXY_MAX_BODY", size(self.max_body)),
            ("TABPROXY_LOG_FILE", file(self.log_file.as_deref())),
            ("TABPROXY_LOG_SIZE", size(self.log_size)),
            ("TABPROXY_LOG_KEEP", self.log_keep.to_string()),
            (
                "TABPROXY_LOG_FORMAT",
                match self.log_format {
                    LogFormat::Text => "text",
                    LogFormat::Json => "json",
                }
                .into(),
            ),
            ("TABPROXY_LOG", self.log.clone()),
        ]
    }
}

fn list<T: Display>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<_> = all.into_iter().map(|it| it.to_string()).collect();
    if all.is_empty() { "none".into() } else { all.join(",") }
}

fn file(path: Option<&Path>) -> String {
    path.map_or("none".into(), |it| it.display().to_string())
}

fn size(bytes: usize) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{}MiB", bytes >> 20) } else { bytes.to_string() }
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;

    #[test]
    fn every_option_is_shown_and_no_secret() {
        let settings = Settings {
            profile: Some("/p".into()),
            admin_password: Some("hunter2".into()),
            https_proxy: Some("http://user:hunter2@h:1".into()),
            chromium_args: Some("--a=hunter2 --b".into()),
            redis: Some("rediss://bot:hunter2@cache/1".into()),
            ..Settings::default()
        };
        let config = settings.check(&|_| None).unwrap();
        let shown = config.shown();
        let of = |name: &str| shown.iter().find(|it| it.0 == name).unwrap().1.as_str();
        assert_eq!(of("TABPROXY_ADMIN_PASSWORD"), "set");
        assert_eq!(of("HTTPS_PROXY"), "http://h:1 (with a password)");
        assert_eq!(of("TABPROXY_REDIS"), "cache:6379 (with a password)");
        assert_eq!(of("TABPROXY_CHROMIUM_ARGS"), "--a,--b");
        assert_eq!(of("TABPROXY_MAX_BODY"), "32MiB");
        let all = format!("{shown:?}");
        assert!(!all.contains("hunter2"), "{all}");
    }
}
