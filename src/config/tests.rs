//! The whole of the configuration: defaults, every bad value, and where a value comes from.

use super::*;

const HOME: (&str, &str) = ("HOME", "/home/me");

fn check(vars: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    checked(Settings::default(), vars)
}

fn checked(settings: Settings, vars: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let find = |name: &str| vars.iter().chain(&[HOME]).find(|it| it.0 == name).map(|it| it.1.to_owned());
    settings.check(&find)
}

/// The one problem that a value makes.
fn problem(variable: &str, value: &str) -> String {
    match check(&[(variable, value)]) {
        Ok(_) => panic!("{variable}={value} was taken"),
        Err(problems) => {
            assert_eq!(problems.len(), 1, "{problems:?}");
            problems[0].to_string()
        }
    }
}

#[test]
fn the_defaults_are_those_of_the_table() {
    let config = check(&[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
    assert!(!config.instance.is_given() && !config.instance.name().is_empty());
    assert_eq!(config.origin.as_str(), "https://chat.openai.com/");
    assert_eq!(config.chromium, None);
    assert!(config.chromium_args.is_empty() && config.resolve.is_empty() && config.pins.is_empty());
    assert_eq!(config.profile, PathBuf::from("/home/me/.local/share/tabproxy/profile"));
    assert!(config.headless, "no display");
    assert_eq!(config.sandbox, SandboxMode::Auto);
    assert_eq!(config.proxy, ProxyConfig::default());
    assert_eq!(config.allow_paths, ["/backend-api/", "/backend-anon/"]);
    assert!(config.allow_headers.is_empty());
    assert_eq!(config.hosts, Hosts::Names(Vec::new()));
    assert_eq!((config.max_inflight, config.queue, config.browsers), (90, 256, 1));
    assert_eq!(config.profiles(), std::slice::from_ref(&config.profile));
    assert_eq!((config.queue_wait, config.drain), (Duration::from_secs(30), Duration::from_secs(20)));
    assert_eq!(config.drain_grace, Duration::ZERO);
    assert_eq!(config.max_body, 32 * 1024 * 1024);
    assert_eq!(config.ping, Some(Duration::from_secs(4)));
    assert_eq!((config.join, config.busy_waits), (Some(Duration::from_secs(300)), true));
    assert!(!config.snapshots);
    assert_eq!(config.log_file, None);
    assert_eq!((config.log_size, config.log_keep), (10 << 20, 3));
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.log, "info");
    assert_eq!((config.keys_file, config.accounts_file, config.require_key), (None, None, false));
    assert!(config.admin_password.is_none() && config.strip_headers.is_empty());
    assert_eq!((config.cors, config.api_target.as_str()), (Cors::Off, "https://api.openai.com/"));
}

#[test]
fn empty_is_unset() {
    let names = [
        "LISTEN",
        "INSTANCE",
        "ORIGIN",
        "CHROMIUM",
        "CHROMIUM_ARGS",
        "PROFILE",
        "HEADLESS",
        "SANDBOX",
        "RESOLVE",
        "TRUST_CERT",
        "ALLOW_PATHS",
        "ALLOW_HEADERS",
        "HOSTS",
        "CARRIERS",
        "PAGE_EXCHANGES",
        "PAGE_AGE",
        "PAGE_MEMORY",
        "MAX_INFLIGHT",
        "QUEUE",
        "QUEUE_WAIT",
        "MAX_BODY",
        "DRAIN",
        "DRAIN_GRACE",
        "PING",
        "JOIN",
        "FORMAT",
        "BUSY",
        "KEYS_FILE",
        "ACCOUNTS_FILE",
        "REQUIRE_KEY",
        "ADMIN_PASSWORD",
        "CORS",
        "API_TARGET",
        "STRIP_HEADER_PREFIX",
        "LOG_FILE",
        "LOG_SIZE",
        "LOG_KEEP",
        "LOG_FORMAT",
        "LOG",
    ];
    let names: Vec<_> = names.iter().map(|it| format!("TABPROXY_{it}")).collect();
    let proxies = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "https_proxy", "XDG_DATA_HOME"];
    let vars: Vec<_> = names.iter().map(String::as_str).chain(proxies).map(|it| (it, "")).collect();
    assert_eq!(format!("{:?}", check(&vars).unwrap()), format!("{:?}", check(&[]).unwrap()));
    let settings = Settings { queue: Some(String::new()), ..Settings::default() };
    assert_eq!(checked(settings, &[("TABPROXY_QUEUE", "x")]).unwrap().queue, 256, "an empty flag resets");
}

const BAD: [(&str, &str, &str); 62] = [
    ("TABPROXY_INSTANCE", "two words", "tabproxy-0"),
    ("TABPROXY_INSTANCE", "a\r\nset-cookie: b", "`\\r`"),
    ("TABPROXY_DRAIN_GRACE", "soon", "write seconds"),
    ("TABPROXY_LISTEN", "3000", "127.0.0.1:3000"),
    ("TABPROXY_LISTEN", "example.com:80", "127.0.0.1:3000"),
    ("TABPROXY_ORIGIN", "chatgpt.com", "write https://chatgpt.com"),
    ("TABPROXY_ORIGIN", "chatgpt.com:443", "write https://chatgpt.com:443"),
    ("TABPROXY_ORIGIN", "ftp://chatgpt.com/", "scheme `ftp`"),
    ("TABPROXY_ORIGIN", "https://", "not a URL"),
    ("TABPROXY_ORIGIN", "https://me:hunter2@chatgpt.com/", "user name or password"),
    ("TABPROXY_CHROMIUM_ARGS", "--a 'b", "not closed"),
    ("TABPROXY_CHROMIUM_ARGS", "--a b", "`b`, which is not a flag"),
    ("TABPROXY_CHROMIUM_ARGS", "--remote-debugging-port=9222", "tabproxy sets itself"),
    ("TABPROXY_HEADLESS", "maybe", "auto"),
    ("TABPROXY_SANDBOX", "maybe", "auto"),
    ("TABPROXY_BROWSER_WS", "chrome:9222", "ws://host:port"),
    ("TABPROXY_RESOLVE", "a.test", "host=address"),
    ("TABPROXY_RESOLVE", "a.test=b.test", "host=address"),
    ("TABPROXY_RESOLVE", "a.test=127.0.0.1:0", "host=address"),
    ("TABPROXY_RESOLVE", "a b=127.0.0.1", "host=address"),
    ("TABPROXY_TRUST_CERT", "/nowhere.pem", "cannot be read"),
    ("TABPROXY_TRUST_CERT", "/dev/null", "no certificate"),
    ("HTTPS_PROXY", "ftp://h:1", "scheme `ftp`"),
    ("HTTP_PROXY", "http://", "not a proxy address"),
    ("ALL_PROXY", "h:1/x", "after the port"),
    ("NO_PROXY", "a;b", "no host"),
    ("TABPROXY_ALLOW_PATHS", "backend-api/", "`backend-api/`"),
    ("TABPROXY_ALLOW_PATHS", "/a/../b", "`/a/../b`"),
    ("TABPROXY_ALLOW_PATHS", "//host", "`//host`"),
    ("TABPROXY_ALLOW_PATHS", "/a%2f", "`/a%2f`"),
    ("TABPROXY_ALLOW_PATHS", ",", "lists no path"),
    ("TABPROXY_ALLOW_HEADERS", "a b", "not a header name"),
    ("TABPROXY_ALLOW_HEADERS", "Cookie", "never passes"),
    ("TABPROXY_ALLOW_HEADERS", "x-ok,Sec-Fetch-Site", "`sec-fetch-site`"),
    ("TABPROXY_ALLOW_HEADERS", "proxy-authorization", "never passes"),
    ("TABPROXY_HOSTS", "a.test:3000", "without scheme and port"),
    ("TABPROXY_HOSTS", "*.a.test", "* alone"),
    ("TABPROXY_CARRIERS", "0", "from 1 to 8"),
    ("TABPROXY_PAGE_EXCHANGES", "0", "from 1"),
    ("TABPROXY_PAGE_AGE", "2s", "at least 1m"),
    ("TABPROXY_PAGE_AGE", "old", "not a time"),
    ("TABPROXY_PAGE_MEMORY", "1M", "at least 16MiB"),
    ("TABPROXY_MAX_INFLIGHT", "0", "256 streams"),
    ("TABPROXY_MAX_INFLIGHT", "257", "256 streams"),
    ("TABPROXY_QUEUE", "-1", "from 0"),
    ("TABPROXY_QUEUE", "65537", "from 0"),
    ("TABPROXY_QUEUE_WAIT", "soon", "not a time"),
    ("TABPROXY_DRAIN", "25h", "too long"),
    ("TABPROXY_DRAIN", "-1s", "not a time"),
    ("TABPROXY_PING", "never", "not a time"),
    ("TABPROXY_PING", "5ms", "100ms or more"),
    ("TABPROXY_JOIN", "later", "not a time"),
    ("TABPROXY_FORMAT", "delta", "raw or classic"),
    ("TABPROXY_BUSY", "drop", "wait or refuse"),
    ("TABPROXY_MAX_BODY", "0", "nothing through"),
    ("TABPROXY_MAX_BODY", "12 parsecs", "not a size"),
    ("TABPROXY_MAX_BODY", "MiB", "not a size"),
    ("TABPROXY_MAX_BODY", "99999999999GiB", "more than memory"),
    ("TABPROXY_LOG_SIZE", "0", "nothing through"),
    ("TABPROXY_LOG_KEEP", "101", "from 0 to 100"),
    ("TABPROXY_LOG_FORMAT", "xml", "text or json"),
    ("TABPROXY_LOG", "info,a=loud", "not a log filter"),
];

#[test]
fn each_bad_value_is_named_with_a_remedy() {
    for (variable, value, part) in BAD {
        let text = problem(variable, value);
        let flag = variable.trim_start_matches("TABPROXY_").to_lowercase().replace('_', "-");
        assert!(text.starts_with(&format!("{variable} (--{flag}) ")), "{text}");
        assert!(text.contains(" — ") && !text.contains('\n'), "{text}");
        assert!(text.contains(part), "{variable}={value}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn every_mistake_at_once() {
    let mut vars: Vec<(&str, &str)> = Vec::new();
    for (variable, value, _) in BAD {
        if vars.iter().all(|it| it.0 != variable) {
            vars.push((variable, value));
        }
    }
    let mut named: Vec<_> = check(&vars).unwrap_err().iter().map(|it| it.variable).collect();
    let mut expected: Vec<_> = vars.iter().map(|it| it.0).collect();
    named.sort_unstable();
    expected.sort_unstable();
    assert_eq!(named, expected);
}

#[test]
fn values_are_read() {
    let config = check(&[
        ("TABPROXY_LISTEN", "localhost:0"),
        ("TABPROXY_ORIGIN", "http://Site.test:8080/chat"),
        ("TABPROXY_CHROMIUM", "/opt/c"),
        ("TABPROXY_CHROMIUM_ARGS", "--lang=de '--user-agent=My Browser'"),
        ("TABPROXY_PROFILE", "/srv/p"),
        ("TABPROXY_RESOLVE", "A.test=127.0.0.1:8443, b.test=10.0.0.1,c.test=::1,d.test=[::1]:9"),
        ("TABPROXY_SANDBOX", "OFF"),
        ("TABPROXY_HOSTS", "Chat.Example.com, proxy"),
        ("TABPROXY_ALLOW_HEADERS", "X-Request-Id"),
        ("TABPROXY_MAX_INFLIGHT", "256"),
        ("DISPLAY", ":0"),
    ])
    .unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.origin.as_str(), "http://site.test:8080/chat");
    assert_eq!(config.chromium, Some("/opt/c".into()));
    assert_eq!(config.chromium_args, ["--lang=de", "--user-agent=My Browser"]);
    assert_eq!(config.profile, PathBuf::from("/srv/p"));
    let resolve: Vec<_> = config.resolve.iter().map(|(host, at)| format!("{host} {at}")).collect();
    assert_eq!(resolve, ["a.test 127.0.0.1:8443", "b.test 10.0.0.1", "c.test [::1]", "d.test [::1]:9"]);
    assert_eq!(config.sandbox, SandboxMode::Off);
    assert_eq!(config.hosts, Hosts::Names(vec!["chat.example.com".into(), "proxy".into()]));
    assert_eq!(config.allow_headers, ["x-request-id"]);
    assert_eq!(config.max_inflight, 256);
    assert!(!config.headless, "there is a display");
    assert_eq!(check(&[("TABPROXY_LOG_FORMAT", "JSON")]).unwrap().log_format, LogFormat::Json);
    assert_eq!(check(&[("TABPROXY_PING", "Off")]).unwrap().ping, None);
    assert_eq!(check(&[("TABPROXY_JOIN", "OFF")]).unwrap().join, None);
    assert_eq!(check(&[("TABPROXY_JOIN", "2m")]).unwrap().join, Some(Duration::from_secs(120)));
    assert!(check(&[("TABPROXY_FORMAT", "Classic")]).unwrap().snapshots);
    assert!(!check(&[("TABPROXY_BUSY", "Refuse")]).unwrap().busy_waits);
    assert_eq!(check(&[("TABPROXY_PING", "250ms")]).unwrap().ping, Some(Duration::from_millis(250)));
    assert_eq!(check(&[("TABPROXY_HOSTS", "*")]).unwrap().hosts, Hosts::Any);
    assert!(check(&[("TABPROXY_HEADLESS", "true"), ("DISPLAY", ":0")]).unwrap().headless);
    assert!(check(&[("TABPROXY_PROFILE", "p")]).unwrap().profile.is_absolute());
    let xdg = check(&[("XDG_DATA_HOME", "/data")]).unwrap();
    assert_eq!(xdg.profile, PathBuf::from("/data/tabproxy/profile"));
}

#[test]
fn nowhere_for_the_profile() {
    let problems = Settings::default().check(&|_| None).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].variable, "TABPROXY_PROFILE");
}

#[test]
fn sizes_and_times() {
    for (text, bytes) in
        [("1048576", 1 << 20), ("1b", 1), ("10M", 10 << 20), ("32 MiB", 32 << 20), ("2kb", 2000)]
    {
        assert_eq!(size(text).unwrap(), bytes, "{text}");
    }
    for (text, ms) in
        [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("7", 7_000), ("24h", 86_400_000), ("0", 0)]
    {
        assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
    }
}

#[test]
fn proxies_come_from_the_flag_then_lower_case_then_upper_case() {
    let https = |settings, vars: &[_]| checked(settings, vars).unwrap().proxy.https.map(|it| it.host);
    let both = [("HTTPS_PROXY", "upper:1"), ("https_proxy", "lower:1"), ("ALL_PROXY", "all:1")];
    let flag = Settings { https_proxy: Some("flag:1".into()), ..Settings::default() };
    assert_eq!(https(flag, &both).as_deref(), Some("flag"));
    assert_eq!(https(Settings::default(), &both).as_deref(), Some("lower"));
    assert_eq!(https(Settings::default(), &both[..1]).as_deref(), Some("upper"));
    assert_eq!(https(Settings::default(), &both[2..]).as_deref(), Some("all"));
    let off = check(&[both[0], ("no_proxy", "*")]).unwrap();
    assert_eq!(off.proxy, ProxyConfig::default());
    let some = check(&[both[2], ("NO_PROXY", "a.test")]).unwrap().proxy;
    assert_eq!(some.bypass, ["a.test", "*.a.test"]);
    assert_eq!(some.http, some.https);
}

/// Every option that `check` reads, and three that are everybody's.
const OPTIONS: [&str; 23] = [
    "TABPROXY_LISTEN",
    "TABPROXY_HOSTS",
    "TABPROXY_ALLOW_PATHS",
    "TABPROXY_ALLOW_HEADERS",
    "TABPROXY_DRAIN",
    "TABPROXY_ORIGIN",
    "TABPROXY_RESOLVE",
    "TABPROXY_TRUST_CERT",
    "TABPROXY_CHROMIUM",
    "TABPROXY_CHROMIUM_ARGS",
    "TABPROXY_BROWSER_WS",
    "TABPROXY_PROFILE",
    "TABPROXY_HEADLESS",
    "TABPROXY_SANDBOX",
    "TABPROXY_BROWSERS",
    "TABPROXY_MAX_INFLIGHT",
    "TABPROXY_QUEUE",
    "TABPROXY_QUEUE_WAIT",
    "TABPROXY_MAX_BODY",
    "TABPROXY_LOG",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

proptest::proptest! {
    /// Whatever is written: a valid configuration, or one mistake with its remedy, under the right name.
    #[test]
    fn any_value_of_any_option_is_taken_or_told(
        option in proptest::sample::select(&OPTIONS[..]),
        value in r#"([a-z0-9]|[0-9]{1,20}|https?://|socks5://|user:p%40ss@|[%@:/,=*\[\]."' -]|\PC){0,12}"#,
    ) {
        match check(&[(option, &value)]) {
            Ok(config) => {
                let most = INFLIGHT_LIMIT * config.browsers;
                assert!((1..=most).contains(&config.max_inflight) && config.max_body > 0);
                assert!((1..=MOST_BROWSERS).contains(&config.browsers));
                assert!(config.allow_paths.iter().all(|it| it.starts_with('/') && !it.starts_with("//")));
                assert!(matches!(config.origin.scheme(), "http" | "https"));
                assert!(config.profile.is_absolute());
            }
            Err(problems) => {
                assert_eq!(problems.len(), 1);
                assert!(problems[0].variable == option && !problems[0].remedy.is_empty());
            }
        }
    }

    #[test]
    fn a_proxys_password_is_never_told(rest in r"([a-z0-9]|[:/@%?#\[\] ]|\PC){0,10}", scheme in "(https?|socks5|ftp)?(://)?") {
        if let Err(mistake) = ProxyServer::parse(&format!("{scheme}user:hunter2canary@{rest}")) {
            assert!(!format!("{mistake:?}").contains("hunter2canary"), "{mistake:?}");
        }
    }
}

#[test]
fn several_browsers_have_a_profile_each_and_take_as_many_requests_more() {
    let config = check(&[("TABPROXY_BROWSERS", "3"), ("TABPROXY_PROFILE", "/data/profile")]).unwrap();
    let profiles = ["/data/profile", "/data/profile-2", "/data/profile-3"].map(PathBuf::from);
    assert_eq!(config.profiles(), profiles);
    assert_eq!((config.max_inflight, config.browser_inflight), (270, 90));
    let config = check(&[("TABPROXY_BROWSERS", "2"), ("TABPROXY_MAX_INFLIGHT", "512")]).unwrap();
    assert_eq!((config.max_inflight, config.browser_inflight), (512, INFLIGHT_LIMIT));
    for (value, words) in [("0", "from 1 to 16"), ("17", "from 1 to 16"), ("two", "`two`")] {
        assert!(problem("TABPROXY_BROWSERS", value).contains(words));
    }
    assert!(problem("TABPROXY_MAX_INFLIGHT", "257").contains("TABPROXY_BROWSERS"));
    let both = check(&[("TABPROXY_BROWSERS", "2"), ("TABPROXY_MAX_INFLIGHT", "513")]).unwrap_err();
    assert!(both.len() == 1 && both[0].what.contains("1 to 512"), "{both:?}");
}

#[test]
fn who_may_use_it() {
    assert!(problem("TABPROXY_REQUIRE_KEY", "true").contains("tabproxy key new"));
    assert!(problem("TABPROXY_CORS", "nowhere").contains("nowhere"));
    assert!(problem("TABPROXY_STRIP_HEADER_PREFIX", "a b").contains("`a b`"));
    assert!(!problem("TABPROXY_ADMIN_PASSWORD", "$argon2id$torn").contains("torn"));
    let vars = [
        ("TABPROXY_REQUIRE_KEY", "yes"),
        ("TABPROXY_KEYS_FILE", "/keys.json"),
        ("TABPROXY_STRIP_HEADER_PREFIX", "X-SCF, x-fc"),
        ("TABPROXY_ADMIN_PASSWORD", "hunter2"),
    ];
    let config = check(&vars).unwrap();
    assert!(config.require_key && !format!("{config:?}").contains("hunter2"));
    assert_eq!(config.strip_headers, ["x-scf", "x-fc"]);
}

#[test]
fn each_address_of_a_browser_elsewhere_is_one_browser() {
    let two = ("TABPROXY_BROWSER_WS", "ws://a:1/?token=hunter2, http://b:2");
    let config = check(&[two, ("TABPROXY_CHROMIUM", "/c"), ("TABPROXY_HEADLESS", "true")]).unwrap();
    assert_eq!((config.browsers, config.profiles().len(), config.browser_ws.len()), (2, 2, 2));
    assert_eq!(config.unused, ["TABPROXY_CHROMIUM", "TABPROXY_HEADLESS"]);
    assert!(!format!("{config:?} {:?}", config.shown()).contains("hunter2"));
    assert!(check(&[two, ("TABPROXY_BROWSERS", "2")]).is_ok());
    let problems = check(&[two, ("TABPROXY_BROWSERS", "3")]).unwrap_err();
    assert!(
        problems.len() == 1 && problems[0].to_string().contains("TABPROXY_BROWSERS is 3"),
        "{problems:?}"
    );
}
