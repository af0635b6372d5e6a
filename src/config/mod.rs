//! The configuration: flags and environment variables in, one checked [`Config`] or every mistake out.
//!
//! It exists so that the rest of the program meets typed, valid values only, and so that an operator reads
//! all that is wrong in one go. It must not know what uses a value: no browser, no server, no HTTP. Of the
//! machine it reads the environment it is handed and the certificate file; nothing else.

mod access;
mod browsers;
mod cert;
mod instance;
mod parse;
mod proxy;
mod redis;
mod remote;
mod settings;
mod shown;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use url::Url;

pub use access::{Cors, DEFAULT_API_TARGET, PASSWORD_HASH};
pub use browsers::MOST_BROWSERS;
pub use cert::pins_of;
pub use instance::Instance;
pub use parse::{Mistake, duration, headless, resolve, size};
pub use proxy::{ProxyConfig, ProxyScheme, ProxyServer};
pub use redis::{RedisServer, WhenLost};
pub use remote::BrowserAddress;
pub use settings::Settings;

/// The page that is kept open when nobody says another.
pub const DEFAULT_ORIGIN: &str = "https://chat.openai.com/";
/// The most exchanges that may run at once in one browser: it carries no more streams on one HTTP/2 connection.
pub const INFLIGHT_LIMIT: usize = 256;

/// Everything that the operator decides, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to serve; port 0 picks a free one.
    pub listen: SocketAddr,
    /// What this instance is called.
    pub instance: Instance,
    /// The page to keep open, http or https, without user name or password.
    pub origin: Url,
    /// Browsers that run elsewhere; empty to start one here.
    pub browser_ws: Vec<BrowserAddress>,
    /// Variables that are set, and are about a browser that is started here.
    pub unused: Vec<&'static str>,
    /// The browser to run; `None` to look for one.
    pub chromium: Option<PathBuf>,
    /// The operator's own Chromium flags.
    pub chromium_args: Vec<String>,
    /// The profile directory, absolute; it may not exist yet.
    pub profile: PathBuf,
    /// Whether to run without a window; `auto` is resolved already.
    pub headless: bool,
    /// Chromium's sandbox.
    pub sandbox: SandboxMode,
    /// Browsers that run side by side, 1 to [`MOST_BROWSERS`], each with a profile of its own
    /// ([`Config::profiles`]).
    pub browsers: usize,
    /// Pages that stand ready to perform requests, 1 to 8.
    pub carriers: usize,
    /// A page is replaced after so many requests,
    pub page_exchanges: u64,
    /// at this age,
    pub page_age: Duration,
    /// or when it uses so many bytes.
    pub page_memory: usize,
    /// Host names and where they are found, `addr` or `addr:port` (an IPv6 address in brackets).
    pub resolve: Vec<(String, String)>,
    /// Base64 of the SHA-256 of the SubjectPublicKeyInfo of every certificate that is trusted by name.
    pub pins: Vec<String>,
    /// The way out.
    pub proxy: ProxyConfig,
    /// Path prefixes served through the page; each starts with `/`.
    pub allow_paths: Vec<String>,
    /// Header names let through besides the built-in list, lower-case; never one that must not pass.
    pub allow_headers: Vec<String>,
    /// The names this server answers to.
    pub hosts: Hosts,
    /// The file with the access keys; `None` for no keys.
    pub keys_file: Option<PathBuf>,
    /// The file with the stored accounts.
    pub accounts_file: Option<PathBuf>,
    /// Whether callers with an upstream token of their own need an access key too.
    pub require_key: bool,
    /// The admin password, plain or as a hash that begins with [`PASSWORD_HASH`]; `None` for no admin.
    pub admin_password: Option<SecretString>,
    /// Whose pages may use this server.
    pub cors: Cors,
    /// Proxies in front that say who asks.
    pub trusted_proxies: Vec<IpNet>,
    /// The Redis that several instances share; `None` for one instance alone.
    pub redis: Option<RedisServer>,
    /// What happens to turns while it is gone.
    pub redis_lost: WhenLost,
    /// Where callers with an official key are served; its path ends in `/`.
    pub api_target: Url,
    /// Beginnings of header names, lower-case, that the official API is not shown.
    pub strip_headers: Vec<String>,
    /// Exchanges that run at once in all browsers, 1 to [`INFLIGHT_LIMIT`] for each of them.
    pub max_inflight: usize,
    /// Exchanges that run at once in each browser, where there are several: what nobody has decided is shared out
    /// evenly; otherwise each has what it can carry.
    pub browser_inflight: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// The longest wait in the queue.
    pub queue_wait: Duration,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// How long running streams may go on after the server was told to stop.
    pub drain: Duration,
    /// How long requests are still served before that, while `/readyz` says no already.
    pub drain_grace: Duration,
    /// How long an event stream may be silent before a comment is put in; `None` for never.
    pub ping: Option<Duration>,
    /// How long a turn that is asked again joins its answer; `None` for never.
    pub join: Option<Duration>,
    /// Whether clients that say nothing of it get snapshots where the site streams deltas.
    pub snapshots: bool,
    /// Whether a turn waits while its conversation is being answered; it is refused otherwise.
    pub busy_waits: bool,
    /// The log file beside stdout.
    pub log_file: Option<PathBuf>,
    /// The most bytes in the log file.
    pub log_size: usize,
    /// Older log files that are kept.
    pub log_keep: usize,
    /// How a line is written.
    pub log_format: LogFormat,
    /// What is logged: a filter that `tracing_subscriber::EnvFilter` takes.
    pub log: String,
}

/// Chromium's sandbox, as the operator wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxMode {
    /// On, unless it cannot work here.
    Auto,
    /// On, or the browser does not start.
    On,
    /// Off.
    Off,
}

/// The names this server answers to, besides loopback names and IP addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Any name.
    Any,
    /// These, lower-case (ASCII form), without a port.
    Names(Vec<String>),
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// As one JSON object.
    Json,
}

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The environment variable of the option.
    pub variable: &'static str,
    /// What is wrong, starting with the variable and the flag. Never a secret.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} — {}", self.what, self.remedy)
    }
}

impl Config {
    /// The defaults for a page: what `check` gives where nothing but the origin is set. The profile and
    /// `headless` follow this process's environment; no proxy does.
    pub fn for_origin(origin: Url) -> Config {
        Config::defaults(origin, &|name| std::env::var(name).ok())
    }

    fn defaults(origin: Url, env: &impl Fn(&str) -> Option<String>) -> Config {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3000)),
            instance: Instance::of_host(),
            origin,
            browser_ws: Vec::new(),
            unused: Vec::new(),
            chromium: None,
            chromium_args: Vec::new(),
            profile: settings::default_profile(env)
                .unwrap_or_else(|| std::env::temp_dir().join("tabproxy/profile")),
            headless: !parse::has_display(env),
            sandbox: SandboxMode::Auto,
            browsers: 1,
            carriers: 2,
            page_exchanges: 2000,
            page_age: Duration::from_secs(6 * 3600),
            page_memory: 512 << 20,
            resolve: Vec::new(),
            pins: Vec::new(),
            proxy: ProxyConfig::default(),
            allow_paths: vec!["/backend-api/".into(), "/backend-anon/".into()],
            allow_headers: Vec::new(),
            hosts: Hosts::Names(Vec::new()),
            keys_file: None,
            accounts_file: None,
            require_key: false,
            admin_password: None,
            cors: Cors::Off,
            trusted_proxies: vec![
                IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), 8).trunc(),
                IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
            ],
            redis: None,
            redis_lost: WhenLost::default(),
            api_target: default_api_target(),
            strip_headers: Vec::new(),
            max_inflight: browsers::INFLIGHT,
            browser_inflight: browsers::INFLIGHT,
            queue: 256,
            queue_wait: Duration::from_secs(30),
            max_body: 32 << 20,
            drain: Duration::from_secs(20),
            drain_grace: Duration::ZERO,
            ping: Some(Duration::from_secs(4)),
            join: Some(Duration::from_secs(5 * 60)),
            snapshots: false,
            busy_waits: true,
            log_file: None,
            log_size: 10 << 20,
            log_keep: 3,
            log_format: LogFormat::Text,
            log: "info".into(),
        }
    }
}

impl Settings {
    /// Checks everything and reports every mistake at once, in the order of the options. `env` looks up an
    /// environment variable; an option that was not given as a flag is taken from there.
    pub fn check(self, env: &impl Fn(&str) -> Option<String>) -> Result<Config, Vec<Problem>> {
        let (config, problems) = self.examine(env);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// As [`Settings::check`], but also with mistakes in it: a value that cannot be used is at its default.
    pub fn examine(self, env: &impl Fn(&str) -> Option<String>) -> (Config, Vec<Problem>) {
        #[allow(clippy::expect_used)]
        let origin = Url::parse(DEFAULT_ORIGIN).expect("the default is a URL");
        let mut config = Config::defaults(origin, env);
        let c = &mut config;
        let mut r = Reader { env, given: Vec::new(), problems: Vec::new() };

        r.read("TABPROXY_LISTEN", self.listen, &mut c.listen, parse::listen);
        r.read("TABPROXY_INSTANCE", self.instance, &mut c.instance, instance::instance);
        r.read("TABPROXY_HOSTS", self.hosts, &mut c.hosts, parse::hosts);
        r.read("TABPROXY_ALLOW_PATHS", self.allow_paths, &mut c.allow_paths, parse::paths);
        r.read("TABPROXY_ALLOW_HEADERS", self.allow_headers, &mut c.allow_headers, parse::headers);
        r.read("TABPROXY_DRAIN", self.drain, &mut c.drain, duration);
        r.read("TABPROXY_DRAIN_GRACE", self.drain_grace, &mut c.drain_grace, duration);
        r.read("TABPROXY_PING", self.ping, &mut c.ping, parse::ping);
        r.read("TABPROXY_JOIN", self.join, &mut c.join, parse::join);
        r.read("TABPROXY_FORMAT", self.format, &mut c.snapshots, parse::format);
        r.read("TABPROXY_BUSY", self.busy, &mut c.busy_waits, parse::busy);
        r.read("TABPROXY_KEYS_FILE", self.keys_file, &mut c.keys_file, |value| parse::path(value).map(Some));
        r.read("TABPROXY_ACCOUNTS_FILE", self.accounts_file, &mut c.accounts_file, |value| {
            parse::path(value).map(Some)
        });
        let required = r.read("TABPROXY_REQUIRE_KEY", self.require_key, &mut c.require_key, access::switch);
        if required && c.require_key && c.keys_file.is_none() {
            r.problem(
                "TABPROXY_REQUIRE_KEY",
                Mistake::new(
                    "is set, but there are no keys",
                    "make one with `tabproxy key new` and set TABPROXY_KEYS_FILE",
                ),
            );
        }
        r.read("TABPROXY_ADMIN_PASSWORD", self.admin_password, &mut c.admin_password, access::admin_password);
        r.read("TABPROXY_CORS", self.cors, &mut c.cors, access::cors);
        r.read("TABPROXY_TRUSTED_PROXIES", self.trusted_proxies, &mut c.trusted_proxies, access::proxies);
        r.read("TABPROXY_REDIS", self.redis, &mut c.redis, redis::server);
        let mut authorities = None;
        r.read("TABPROXY_REDIS_CA", self.redis_ca, &mut authorities, redis::authorities);
        if let Some(server) = &mut c.redis {
            server.authorities = authorities;
        }
        r.read("TABPROXY_REDIS_LOST", self.redis_lost, &mut c.redis_lost, redis::when_lost);
        r.read("TABPROXY_API_TARGET", self.api_target, &mut c.api_target, access::api_target);
        r.read(
            "TABPROXY_STRIP_HEADER_PREFIX",
            self.strip_header_prefix,
            &mut c.strip_headers,
            access::header_prefixes,
        );
        r.read("TABPROXY_ORIGIN", self.origin, &mut c.origin, parse::origin);
        r.read("TABPROXY_RESOLVE", self.resolve, &mut c.resolve, parse::resolve);
        r.read("TABPROXY_TRUST_CERT", self.trust_cert, &mut c.pins, cert::pins);
        r.read("TABPROXY_BROWSER_WS", self.browser_ws, &mut c.browser_ws, remote::addresses);
        r.read("TABPROXY_CHROMIUM", self.chromium, &mut c.chromium, |value| parse::path(value).map(Some));
        r.read("TABPROXY_CHROMIUM_ARGS", self.chromium_args, &mut c.chromium_args, parse::chromium_args);
        let no_home = settings::default_profile(env).is_none();
        if !r.read("TABPROXY_PROFILE", self.profile, &mut c.profile, parse::path) && no_home {
            r.problem(
                "TABPROXY_PROFILE",
                Mistake::new(
                    "is not set and neither XDG_DATA_HOME nor HOME says where data goes",
                    "set it to a directory that is kept, such as /var/lib/tabproxy",
                ),
            );
        }
        r.read("TABPROXY_HEADLESS", self.headless, &mut c.headless, |value| headless(value, env));
        r.read("TABPROXY_SANDBOX", self.sandbox, &mut c.sandbox, parse::sandbox);
        let counted = r.read("TABPROXY_BROWSERS", self.browsers, &mut c.browsers, browsers::browsers);
        match remote::contradiction(counted.then_some(c.browsers), c.browser_ws.len()) {
            Some(mistake) => r.problem("TABPROXY_BROWSER_WS", mistake),
            None => c.browsers = c.browsers.max(c.browser_ws.len()),
        }
        r.read("TABPROXY_CARRIERS", self.carriers, &mut c.carriers, parse::carriers);
        r.read("TABPROXY_PAGE_EXCHANGES", self.page_exchanges, &mut c.page_exchanges, parse::page_exchanges);
        r.read("TABPROXY_PAGE_AGE", self.page_age, &mut c.page_age, parse::page_age);
        r.read("TABPROXY_PAGE_MEMORY", self.page_memory, &mut c.page_memory, parse::page_memory);

        let (mut https, mut http, mut all, mut bypass) = (None, None, None, Some(Vec::new()));
        let server = |value: &str| ProxyServer::parse(value).map(Some);
        r.read("HTTPS_PROXY", self.https_proxy, &mut https, server);
        r.read("HTTP_PROXY", self.http_proxy, &mut http, server);
        r.read("ALL_PROXY", self.all_proxy, &mut all, server);
        r.read("NO_PROXY", self.no_proxy, &mut bypass, proxy::bypass);
        c.proxy = ProxyConfig::new(https, http, all, bypass);

        let browsers = c.browsers;
        c.max_inflight = browsers::INFLIGHT * browsers;
        if r.read("TABPROXY_MAX_INFLIGHT", self.max_inflight, &mut c.max_inflight, |value| {
            browsers::inflight(value, browsers)
        }) {
            c.browser_inflight = INFLIGHT_LIMIT;
        }
        r.read("TABPROXY_QUEUE", self.queue, &mut c.queue, parse::queue);
        r.read("TABPROXY_QUEUE_WAIT", self.queue_wait, &mut c.queue_wait, duration);
        r.read("TABPROXY_MAX_BODY", self.max_body, &mut c.max_body, size);
        r.read("TABPROXY_LOG_FILE", self.log_file, &mut c.log_file, |value| parse::path(value).map(Some));
        r.read("TABPROXY_LOG_SIZE", self.log_size, &mut c.log_size, size);
        r.read("TABPROXY_LOG_KEEP", self.log_keep, &mut c.log_keep, parse::log_keep);
        r.read("TABPROXY_LOG_FORMAT", self.log_format, &mut c.log_format, parse::log_format);
        r.read("TABPROXY_LOG", self.log, &mut c.log, parse::log);

        c.unused = r.given.iter().copied().filter(|it| remote::LOCAL_ONLY.contains(it)).collect();
        let problems = r.problems;
        (config, problems)
    }
}

#[allow(clippy::expect_used)]
fn default_api_target() -> Url {
    Url::parse(DEFAULT_API_TARGET).expect("the default is a URL")
}

/// Reads one option after the other and collects what is wrong.
struct Reader<'a, E> {
    env: &'a E,
    given: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<E: Fn(&str) -> Option<String>> Reader<'_, E> {
    /// Puts the option's value into `slot`, if it is given and good; says whether it was given.
    fn read<T>(
        &mut self,
        variable: &'static str,
        field: Option<String>,
        slot: &mut T,
        parse: impl FnOnce(&str) -> Result<T, Mistake>,
    ) -> bool {
        let value = field.or_else(|| self.lookup(variable)).unwrap_or_default();
        let value = value.trim();
        if value.is_empty() {
            return false;
        }
        self.given.push(variable);
        match parse(value) {
            Ok(value) => *slot = value,
            Err(mistake) => self.problem(variable, mistake),
        }
        true
    }

    /// The proxy variables are everybody's and known in lower case, which comes first as in curl; ours have
    /// one spelling.
    fn lookup(&self, variable: &str) -> Option<String> {
        let given = |name: &str| (self.env)(name).filter(|it| !it.trim().is_empty());
        let lower = variable.ends_with("_PROXY").then(|| given(&variable.to_lowercase()));
        lower.flatten().or_else(|| given(variable))
    }

    fn problem(&mut self, variable: &'static str, mistake: Mistake) {
        let flag = variable.trim_start_matches("TABPROXY_").to_lowercase().replace('_', "-");
        let what = format!("{variable} (--{flag}) {}", mistake.what);
        self.problems.push(Problem { variable, what, remedy: mistake.remedy });
    }
}
