//! The options as they are written: one flag and one environment variable each, nothing checked yet.
//!
//! Every value is text here, so that the command line parser never stops at the first bad one: the parent
//! module checks them all and reports every mistake at once. It must not know what a value means.

use std::path::PathBuf;

/// The options of `serve`, `check` and `doctor`, as given. [`Settings::check`] makes a [`super::Config`] of them.
///
/// `None` and empty text both mean "not given". It has no `Debug`: a proxy's password may be in it.
#[derive(Clone, Default, clap::Args)]
pub struct Settings {
    /// Address and port to serve on; port 0 picks a free one. Leave it on loopback unless something in front
    /// keeps strangers out. Example: 0.0.0.0:3000 [default: 127.0.0.1:3000]
    #[arg(long, env = "TABPROXY_LISTEN", hide_env_values = true, value_name = "ADDR:PORT")]
    #[arg(help_heading = "Serving")]
    pub listen: Option<String>,
    /// What this instance is called, in the log, the metrics and the header x-tabproxy-instance of each answer:
    /// letters, digits, dots, dashes and underscores, at most 64 [default: the host's name]
    #[arg(long, env = "TABPROXY_INSTANCE", hide_env_values = true, value_name = "NAME")]
    #[arg(help_heading = "Serving")]
    pub instance: Option<String>,
    /// Names this server answers to (the Host header), separated by commas, or * for any. Loopback names and
    /// IP addresses are always answered. Example: chat.example.com,proxy [default: none besides those]
    #[arg(long, env = "TABPROXY_HOSTS", hide_env_values = true, value_name = "NAMES")]
    #[arg(help_heading = "Serving")]
    pub hosts: Option<String>,
    /// Path prefixes served through the page, separated by commas. /api/auth/session is left out on purpose:
    /// it would hand the signed-in token to anyone [default: /backend-api/,/backend-anon/]
    #[arg(long, env = "TABPROXY_ALLOW_PATHS", hide_env_values = true, value_name = "PREFIXES")]
    #[arg(help_heading = "Serving")]
    pub allow_paths: Option<String>,
    /// Names of request and response headers let through besides the built-in list, separated by commas.
    /// Example: x-request-id,openai-model [default: none]
    #[arg(long, env = "TABPROXY_ALLOW_HEADERS", hide_env_values = true, value_name = "NAMES")]
    #[arg(help_heading = "Serving")]
    pub allow_headers: Option<String>,
    /// How long running streams may go on after SIGTERM, as 500ms, 20s, 2m or plain seconds; at most 24h
    /// [default: 20s]
    #[arg(long, env = "TABPROXY_DRAIN", hide_env_values = true, value_name = "TIME")]
    #[arg(help_heading = "Serving")]
    pub drain: Option<String>,
    /// How long requests are still served after SIGTERM, before the drain begins, while /readyz says no already:
    /// for balancers that look at it. The same forms; at most 24h [default: 0s]
    #[arg(long, env = "TABPROXY_DRAIN_GRACE", hide_env_values = true, value_name = "TIME")]
    #[arg(help_heading = "Serving")]
    pub drain_grace: Option<String>,
    /// How long an event stream may be silent before a comment line keeps it alive, for callers that accept
    /// event streams; 100ms at least, or off [default: 4s]
    #[arg(long, env = "TABPROXY_PING", hide_env_values = true, value_name = "TIME")]
    #[arg(help_heading = "Serving")]
    pub ping: Option<String>,
    /// For clients that ask again after ten seconds (library: chatgpt-plugin): how long the same turn joins the
    /// answer that is under way, or gets the one that was given, instead of being sent again; or off
    /// [default: 5m]
    #[arg(long, env = "TABPROXY_JOIN", hide_env_values = true, value_name = "TIME")]
    #[arg(help_heading = "Serving")]
    pub join: Option<String>,
    /// What clients read where the site streams deltas: raw (as it comes) or classic (snapshots). A client says
    /// otherwise with x-tabproxy-format: raw or classic, or with supported_encodings in its body
    /// [default: raw]
    #[arg(long, env = "TABPROXY_FORMAT", hide_env_values = true, value_name = "FORMAT")]
    #[arg(help_heading = "Serving")]
    pub format: Option<String>,
    /// A turn into a conversation that is still being answered: wait, as long as in the queue, or refuse (409)
    /// [default: wait]
    #[arg(long, env = "TABPROXY_BUSY", hide_env_values = true, value_name = "HOW")]
    #[arg(help_heading = "Serving")]
    pub busy: Option<String>,

    /// File with the access keys, as digests; made by `tabproxy key new`, and read again when it changes
    /// [default: none]
    #[arg(long, env = "TABPROXY_KEYS_FILE", hide_env_values = true, value_name = "FILE")]
    #[arg(help_heading = "Who may use it")]
    pub keys_file: Option<String>,
    /// JSON file with the stored accounts, upstream tokens by name, that serve holders of access keys; read
    /// again when it changes [default: none]
    #[arg(long, env = "TABPROXY_ACCOUNTS_FILE", hide_env_values = true, value_name = "FILE")]
    #[arg(help_heading = "Who may use it")]
    pub accounts_file: Option<String>,
    /// Whether a caller with an upstream token or an official key of its own needs an access key too: true or
    /// false. Once the profile is signed in, whoever goes through the page needs one anyway [default: false]
    #[arg(long, env = "TABPROXY_REQUIRE_KEY", hide_env_values = true, value_name = "WHEN")]
    #[arg(num_args = 0..=1, default_missing_value = "true", help_heading = "Who may use it")]
    pub require_key: Option<String>,
    /// Password of the console and of the /admin routes, plain or as `tabproxy password` prints it. As a flag,
    /// other users of this machine can read it: set the variable [default: none: the routes are closed, and the
    /// console opens by a link in the log, on loopback only]
    #[arg(long, env = "TABPROXY_ADMIN_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    #[arg(help_heading = "Who may use it")]
    pub admin_password: Option<String>,
    /// Origins whose pages may use this server from a browser, separated by commas, or * for all.
    /// Example: `https://chat.example.com` [default: off]
    #[arg(long, env = "TABPROXY_CORS", hide_env_values = true, value_name = "ORIGINS")]
    #[arg(help_heading = "Who may use it")]
    pub cors: Option<String>,
    /// Addresses and networks of proxies in front of this server, separated by commas: what they say in
    /// X-Forwarded-For is taken for who asks. Example: 10.0.0.0/8 [default: this machine]
    #[arg(long, env = "TABPROXY_TRUSTED_PROXIES", hide_env_values = true, value_name = "NETWORKS")]
    #[arg(help_heading = "Who may use it")]
    pub trusted_proxies: Option<String>,

    /// Redis that several instances share: whose turn it is in a conversation, where conversations are gone on
    /// with, answers that are asked for again, accounts, throttles. redis:// or rediss:// (TLS). As a flag, other
    /// users of this machine can read its password: set the variable.
    /// Example: rediss://user:password@cache.example.com:6379/0 [default: none: this instance is alone]
    #[arg(long, env = "TABPROXY_REDIS", hide_env_values = true, value_name = "URL")]
    #[arg(help_heading = "Many instances")]
    pub redis: Option<String>,
    /// PEM file with the authorities that signed the certificate of a rediss:// server [default: the system's]
    #[arg(long, env = "TABPROXY_REDIS_CA", hide_env_values = true, value_name = "FILE")]
    #[arg(help_heading = "Many instances")]
    pub redis_ca: Option<String>,
    /// What happens to turns of conversations while Redis is gone: refuse (503, since another instance may be
    /// speaking there) or alone (each instance decides for itself) [default: refuse]
    #[arg(long, env = "TABPROXY_REDIS_LOST", hide_env_values = true, value_name = "HOW")]
    #[arg(help_heading = "Many instances")]
    pub redis_lost: Option<String>,

    /// Where /platform/ and /v1/ lead for callers with an official key; a path in it is kept
    /// [default: `https://api.openai.com/`]
    #[arg(long, env = "TABPROXY_API_TARGET", hide_env_values = true, value_name = "URL")]
    #[arg(help_heading = "The official API")]
    pub api_target: Option<String>,
    /// Beginnings of header names that are not shown to the official API, separated by commas.
    /// Example: X-SCF,X-FC [default: none]
    #[arg(long, env = "TABPROXY_STRIP_HEADER_PREFIX", hide_env_values = true, value_name = "PREFIXES")]
    #[arg(help_heading = "The official API")]
    pub strip_header_prefix: Option<String>,

    /// Page to keep open, http or https. Where it redirects to is the site that requests go to
    /// [default: `https://chat.openai.com/`]
    #[arg(long, env = "TABPROXY_ORIGIN", hide_env_values = true, value_name = "URL")]
    #[arg(help_heading = "The site")]
    pub origin: Option<String>,
    /// Where the browser finds a host, instead of asking DNS, as curl's --resolve; separated by commas.
    /// Example: chat.example=127.0.0.1:8443,cdn.example=10.0.0.7 [default: none]
    #[arg(long, env = "TABPROXY_RESOLVE", hide_env_values = true, value_name = "HOST=ADDR:PORT")]
    #[arg(help_heading = "The site")]
    pub resolve: Option<String>,
    /// PEM file with certificates whose public keys the browser accepts although no authority signed them;
    /// nothing else is relaxed [default: none]
    #[arg(long, env = "TABPROXY_TRUST_CERT", hide_env_values = true, value_name = "FILE")]
    #[arg(help_heading = "The site")]
    pub trust_cert: Option<String>,

    /// DevTools address of a browser that runs elsewhere, in place of one that is started here: ws://, wss://, or
    /// http:// to have it asked. It opens tabs there and touches no others. It may hold a token: as a flag, other
    /// users of this machine can read it. Example: ws://10.0.0.7:3000?token=SECRET [default: none]
    #[arg(long, env = "TABPROXY_BROWSER_WS", hide_env_values = true, value_name = "URLS")]
    #[arg(help_heading = "The browser")]
    pub browser_ws: Option<String>,
    /// Chromium or Chrome to run [default: found on PATH and in the usual places]
    #[arg(long, env = "TABPROXY_CHROMIUM", hide_env_values = true, value_name = "FILE")]
    #[arg(help_heading = "The browser")]
    pub chromium: Option<String>,
    /// Further Chromium flags, quoted as in a shell. Example: --lang=de --window-size=1200,900
    /// [default: none]
    #[arg(long, env = "TABPROXY_CHROMIUM_ARGS", hide_env_values = true, value_name = "FLAGS")]
    #[arg(allow_hyphen_values = true, help_heading = "The browser")]
    pub chromium_args: Option<String>,
    /// Profile directory: made if missing, kept, and it holds the sign-in
    /// [default: $XDG_DATA_HOME/tabproxy/profile or ~/.local/share/tabproxy/profile]
    #[arg(long, env = "TABPROXY_PROFILE", hide_env_values = true, value_name = "DIR")]
    #[arg(help_heading = "The browser")]
    pub profile: Option<String>,
    /// Run without a window: true, false, or auto (a window where DISPLAY or WAYLAND_DISPLAY is set)
    /// [default: auto]
    #[arg(long, env = "TABPROXY_HEADLESS", hide_env_values = true, value_name = "WHEN")]
    #[arg(num_args = 0..=1, default_missing_value = "true", help_heading = "The browser")]
    pub headless: Option<String>,
    /// Chromium's sandbox: on, off, or auto (off only where it cannot work, with a warning) [default: auto]
    #[arg(long, env = "TABPROXY_SANDBOX", hide_env_values = true, value_name = "WHEN")]
    #[arg(help_heading = "The browser")]
    pub sandbox: Option<String>,

    /// Browsers that run side by side, 1 to 16, for more streams than one carries. Each takes about 450 MB, has a
    /// profile of its own (the second one's is the directory of --profile with -2 at its end, and so on), and is
    /// signed in by itself, through the console [default: 1]
    #[arg(long, env = "TABPROXY_BROWSERS", hide_env_values = true, value_name = "N")]
    #[arg(help_heading = "The browser")]
    pub browsers: Option<String>,
    /// Pages that stand ready to perform requests, 1 to 8: one more than works at a time, so that one that
    /// crashes costs milliseconds [default: 2]
    #[arg(long, env = "TABPROXY_CARRIERS", hide_env_values = true, value_name = "N")]
    #[arg(help_heading = "The browser")]
    pub carriers: Option<String>,
    /// A page is replaced by a fresh one, without a gap, after so many requests, 1 or more [default: 2000]
    #[arg(long, env = "TABPROXY_PAGE_EXCHANGES", hide_env_values = true, value_name = "N")]
    #[arg(help_heading = "The browser")]
    pub page_exchanges: Option<String>,
    /// The same, at this age, as 30m or 6h; at most 24h [default: 6h]
    #[arg(long, env = "TABPROXY_PAGE_AGE", hide_env_values = true, value_name = "TIME")]
    #[arg(help_heading = "The browser")]
    pub page_age: Option<String>,
    /// The same, when a page uses so much memory; so is the site's own page [default: 512MiB]
    #[arg(long, env = "TABPROXY_PAGE_MEMORY", hide_env_values = true, value_name = "SIZE")]
    #[arg(help_heading = "The browser")]
    pub page_memory: Option<String>,

    // The four proxies are not read by clap: lower-case names come first, as in curl, but after the flag.
    /// Proxy for https sites: http, https or socks5 (names are resolved by the proxy), user and password
    /// percent-encoded. Example: socks5://user:p%40ss@10.0.0.1:1080 [env: https_proxy, HTTPS_PROXY]
    /// [default: direct]
    #[arg(long, value_name = "URL", help_heading = "The way out")]
    pub https_proxy: Option<String>,
    /// Proxy for http sites, in the same form [env: http_proxy, HTTP_PROXY] [default: direct]
    #[arg(long, value_name = "URL", help_heading = "The way out")]
    pub http_proxy: Option<String>,
    /// Proxy where the one for the scheme is not set [env: all_proxy, ALL_PROXY] [default: direct]
    #[arg(long, value_name = "URL", help_heading = "The way out")]
    pub all_proxy: Option<String>,
    /// Hosts reached directly, separated by commas: names (with their subdomains), IP addresses, CIDR blocks,
    /// host:port, or * for all. Example: example.com,10.0.0.0/8 [env: no_proxy, NO_PROXY] [default: none]
    #[arg(long, value_name = "HOSTS", help_heading = "The way out")]
    pub no_proxy: Option<String>,

    /// Exchanges that run at once, 1 to 256 for each browser: it runs no more on one HTTP/2 connection
    /// [default: 90 for each browser]
    #[arg(long, env = "TABPROXY_MAX_INFLIGHT", hide_env_values = true, value_name = "N")]
    #[arg(help_heading = "Limits")]
    pub max_inflight: Option<String>,
    /// Requests that may wait for their turn, 0 to 65536; one more is refused at once [default: 256]
    #[arg(long, env = "TABPROXY_QUEUE", hide_env_values = true, value_name = "N")]
    #[arg(help_heading = "Limits")]
    pub queue: Option<String>,
    /// The longest wait in the queue, as 500ms, 30s, 2m or plain seconds; at most 24h [default: 30s]
    #[arg(long, env = "TABPROXY_QUEUE_WAIT", hide_env_values = true, value_name = "TIME")]
    #[arg(help_heading = "Limits")]
    pub queue_wait: Option<String>,
    /// The largest request body, in bytes or as 512K, 32MiB, 10MB (K, M, G and KiB, MiB, GiB count by 1024,
    /// KB, MB, GB by 1000) [default: 32MiB]
    #[arg(long, env = "TABPROXY_MAX_BODY", hide_env_values = true, value_name = "SIZE")]
    #[arg(help_heading = "Limits")]
    pub max_body: Option<String>,

    /// Log file beside stdout [default: none]
    #[arg(long, env = "TABPROXY_LOG_FILE", hide_env_values = true, value_name = "FILE")]
    #[arg(help_heading = "Log")]
    pub log_file: Option<String>,
    /// The largest log file, as TABPROXY_MAX_BODY; a full one is copied to FILE.1 and emptied [default: 10MiB]
    #[arg(long, env = "TABPROXY_LOG_SIZE", hide_env_values = true, value_name = "SIZE")]
    #[arg(help_heading = "Log")]
    pub log_size: Option<String>,
    /// Older log files that are kept, 0 to 100, as FILE.1, FILE.2 and so on [default: 3]
    #[arg(long, env = "TABPROXY_LOG_KEEP", hide_env_values = true, value_name = "N")]
    #[arg(help_heading = "Log")]
    pub log_keep: Option<String>,
    /// How a line is written: text or json [default: text]
    #[arg(long, env = "TABPROXY_LOG_FORMAT", hide_env_values = true, value_name = "FORMAT")]
    #[arg(help_heading = "Log")]
    pub log_format: Option<String>,
    /// What is logged: off, error, warn, info, debug, trace, or per module.
    /// Example: info,tabproxy::browser=debug [default: info]
    #[arg(long, env = "TABPROXY_LOG", hide_env_values = true, value_name = "FILTER")]
    #[arg(help_heading = "Log")]
    pub log: Option<String>,
}

/// Where the profile lies when nobody says: under the user's data directory.
pub(super) fn default_profile(env: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    // The XDG base directory specification: a relative path is to be ignored.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|it| it.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join("tabproxy/profile"))
}
