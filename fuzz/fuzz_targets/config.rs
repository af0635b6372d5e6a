//! Every option's reader, through the one way in: whatever is written, either a valid configuration or
//! mistakes with remedies, and never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tabproxy::config::{self, ProxyServer, Settings};

const OPTIONS: [&str; 24] = [
    "TABPROXY_LISTEN",
    "TABPROXY_HOSTS",
    "TABPROXY_ALLOW_PATHS",
    "TABPROXY_ALLOW_HEADERS",
    "TABPROXY_DRAIN",
    "TABPROXY_REDIS",
    "TABPROXY_REDIS_LOST",
    "TABPROXY_ORIGIN",
    "TABPROXY_RESOLVE",
    "TABPROXY_CHROMIUM",
    "TABPROXY_CHROMIUM_ARGS",
    "TABPROXY_BROWSER_WS",
    "TABPROXY_PROFILE",
    "TABPROXY_HEADLESS",
    "TABPROXY_SANDBOX",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "TABPROXY_BROWSERS",
    "TABPROXY_MAX_INFLIGHT",
    "TABPROXY_QUEUE",
    "TABPROXY_QUEUE_WAIT",
    "TABPROXY_MAX_BODY",
    "TABPROXY_LOG_FILE",
    "TABPROXY_LOG",
];

fuzz_target!(|input: (u8, String)| {
    let (which, value) = input;
    let option = OPTIONS[usize::from(which) % OPTIONS.len()];
    let env = |name: &str| match name {
        _ if name == option => Some(value.clone()),
        "HOME" => Some("/home/somebody".to_owned()),
        _ => None,
    };
    match Settings::default().check(&env) {
        Ok(config) => {
            assert!((1..=config::INFLIGHT_LIMIT * config.browsers).contains(&config.max_inflight));
            assert!(config.max_body > 0 && config.profile.is_absolute());
            assert!(config.allow_paths.iter().all(|it| it.starts_with('/') && !it.starts_with("//")));
            assert!(matches!(config.origin.scheme(), "http" | "https"));
        }
        Err(problems) => {
            assert!(problems.iter().all(|it| it.variable == option && !it.remedy.is_empty()));
        }
    }
    let _ = (config::size(&value), config::duration(&value), config::resolve(&value));
    if let Err(mistake) = ProxyServer::parse(&format!("http://user:hunter2canary@{value}")) {
        assert!(!mistake.what.contains("hunter2canary"));
    }
});
