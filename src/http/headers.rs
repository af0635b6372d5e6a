//! Which headers cross, in each direction: two allow-lists.
//!
//! The page is a browser: it sends its own cookies, user agent, origin and fetch metadata, and a caller's
//! would only contradict them. The other way, what tells a browser how to treat the *site* (cookies, CSP,
//! HSTS), or describes bytes that are no longer there (encoding, length), stays behind. Values are bytes;
//! inside, each byte is one character (ISO 8859-1), as in the Fetch standard.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use url::Url;

use crate::exchange::Head;

/// Headers between us and our callers: what the site says under such a name is not ours, and what a caller says is
/// not for the site.
pub(super) const OURS: &str = "x-tabproxy-";

const TO_PAGE: [&str; 12] = [
    "accept",
    "authorization",
    "content-language",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-event-id",
    "range",
];
const TO_PAGE_PREFIXES: [&str; 4] = ["openai-", "oai-", "x-openai-", "chatgpt-"];

/// Headers that never go into the page, whatever the operator allows: the browser's own, the connection's.
const NEVER_TO_PAGE: [&str; 14] = [
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
const NEVER_TO_PAGE_PREFIXES: [&str; 4] = ["sec-", "proxy-", "x-forwarded-", OURS];

const TO_CLIENT: [&str; 18] = [
    "accept-ranges",
    "age",
    "cache-control",
    "cf-mitigated",
    "cf-ray",
    "content-disposition",
    "content-language",
    "content-range",
    "content-type",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "retry-after",
    "vary",
    "www-authenticate",
    "x-request-id",
];
const TO_CLIENT_PREFIXES: [&str; 5] = ["x-ratelimit-", "ratelimit", "openai-", "oai-", "x-openai-"];

/// Headers that never reach a client, whatever the operator allows.
const NEVER_TO_CLIENT: [&str; 12] = [
    "alt-svc",
    "connection",
    "content-encoding",
    "content-length",
    "keep-alive",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
const NEVER_TO_CLIENT_PREFIXES: [&str; 4] = ["access-control-", "content-security-policy", "proxy-", OURS];

/// The caller's headers that go into the page, in their order. `extra` names the operator's additions.
pub fn to_page(headers: &HeaderMap, extra: &[String]) -> Vec<(String, String)> {
    let passes = |name: &str| {
        let is_wanted = TO_PAGE.contains(&name) || starts(name, &TO_PAGE_PREFIXES) || is_extra(name, extra);
        let is_never = NEVER_TO_PAGE.contains(&name) || starts(name, &NEVER_TO_PAGE_PREFIXES);
        is_wanted && !is_never && !is_for_connection(headers, name)
    };
    headers
        .iter()
        .filter(|(name, _)| passes(name.as_str()))
        // An empty Authorization is a form field left blank, and would hide the page's own sign-in.
        .filter(|(name, value)| **name != header::AUTHORIZATION || !value.as_bytes().trim_ascii().is_empty())
        .map(|(name, value)| {
            (name.as_str().to_owned(), value.as_bytes().iter().map(|&b| b as char).collect())
        })
        .collect()
}

/// The headers of the site's answer that reach the client. `origin` is the site's, `extra` names the
/// operator's additions.
pub fn to_client(head: &Head, origin: Option<&str>, extra: &[String]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(head.headers.len() + 2);
    for (name, text) in &head.headers {
        let name = name.to_ascii_lowercase();
        let is_wanted =
            TO_CLIENT.contains(&&*name) || starts(&name, &TO_CLIENT_PREFIXES) || is_extra(&name, extra);
        if !is_wanted || NEVER_TO_CLIENT.contains(&&*name) || starts(&name, &NEVER_TO_CLIENT_PREFIXES) {
            continue;
        }
        let text = if name == "location" {
            let Some(text) = location(text, origin, head.status) else { continue };
            text
        } else {
            text.clone()
        };
        if let (Ok(name), Some(value)) = (HeaderName::try_from(name), value(&text)) {
            headers.append(name, value);
        }
    }
    if let Some(value) = head.redirected_to.as_deref().and_then(value) {
        headers.insert(header::CONTENT_LOCATION, value);
    }
    if is_event_stream(&headers) {
        let_flow(&mut headers);
    }
    headers
}

/// The headers of an event stream that begins before the site has answered.
pub fn of_event_stream() -> HeaderMap {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    let mut headers = HeaderMap::from_iter([kind]);
    let_flow(&mut headers);
    headers
}

/// Without these, nginx collects a stream before it passes it on.
fn let_flow(headers: &mut HeaderMap) {
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
}

/// A `Location` as a client of ours can follow it: relative within the site. What leads to another origin
/// would lead around us; only as the address of something created (201) is it mere information.
fn location(text: &str, origin: Option<&str>, status: u16) -> Option<String> {
    let as_is = (status == StatusCode::CREATED).then(|| text.to_owned());
    let Some(base) = origin.and_then(|origin| Url::parse(origin).ok()) else { return as_is };
    let Ok(target) = base.join(text) else { return as_is };
    if target.origin() != base.origin() {
        return as_is;
    }
    // Relative to whatever it is read against: a client reads `\\/host` and the like as another host.
    let is_relative = Url::parse(text).is_err()
        && elsewhere().is_some_and(|it| it.join(text).is_ok_and(|at| at.origin() == it.origin()));
    if is_relative {
        return Some(text.to_owned());
    }
    let path = &target[url::Position::BeforePath..];
    // An empty first segment would read as the name of another host.
    if path.starts_with("//") { as_is } else { Some(path.to_owned()) }
}

/// Some other place.
fn elsewhere() -> Option<Url> {
    Url::parse("http://elsewhere.invalid").ok()
}

/// Whether these are of an event stream.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| means_event_stream(kind.as_bytes()))
}

/// The same of a head as it comes from the page.
pub(super) fn is_head_of_event_stream(head: &Head) -> bool {
    head.headers.iter().any(|(name, kind)| name == "content-type" && means_event_stream(kind.as_bytes()))
}

fn means_event_stream(kind: &[u8]) -> bool {
    kind.get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Whether `Connection` names this header as one for the next hop only.
pub(super) fn is_for_connection(headers: &HeaderMap, name: &str) -> bool {
    let mut lists = headers.get_all(header::CONNECTION).iter().filter_map(|list| list.to_str().ok());
    lists.any(|list| list.split(',').any(|it| it.trim().eq_ignore_ascii_case(name)))
}

fn is_extra(name: &str, extra: &[String]) -> bool {
    extra.iter().any(|it| it.eq_ignore_ascii_case(name))
}

fn starts(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// `None` for a value that no header can have.
fn value(text: &str) -> Option<HeaderValue> {
    let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>()?;
    HeaderValue::from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(sent: &[(&str, &[u8])], extra: &[&str]) -> Vec<(String, String)> {
        let mut map = HeaderMap::new();
        for (name, value) in sent {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        to_page(&map, &extra.iter().map(|it| it.to_string()).collect::<Vec<_>>())
    }

    fn head(status: u16, headers: &[(&str, &str)]) -> Head {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Head { status, headers, redirected_to: None }
    }

    #[test]
    fn into_the_page_goes_only_what_belongs_there() {
        for name in
            ["accept", "authorization", "content-type", "range", "oai-device-id", "chatgpt-account-id"]
        {
            assert_eq!(page(&[(name, b"x")], &[]), [(name.to_string(), "x".to_string())], "{name}");
        }
        let never = [
            "cookie",
            "x-tabproxy-instance",
            "host",
            "origin",
            "referer",
            "user-agent",
            "sec-fetch-site",
            "sec-ch-ua",
            "connection",
            "proxy-authorization",
            "x-forwarded-for",
            "transfer-encoding",
            "te",
            "upgrade",
            "content-length",
        ];
        for name in never {
            assert_eq!(page(&[(name, b"x")], &never), [], "{name}");
        }
        for name in ["accept-language", "accept-encoding", "x-real-ip", "x-api-key", "x-custom"] {
            assert_eq!(page(&[(name, b"x")], &[]), [], "{name}");
        }
        assert_eq!(page(&[("x-custom", b"x")], &["X-Custom"]).len(), 1);
        assert_eq!(page(&[("authorization", b" ")], &[]), []);
        assert_eq!(page(&[("connection", b"close, Range"), ("range", b"x")], &[]), []);
    }

    #[test]
    fn values_are_bytes_and_keep_their_order() {
        let sent = page(&[("accept", b"a\xe9"), ("accept", b"b")], &[]);
        assert_eq!(sent, [("accept".into(), "a\u{e9}".into()), ("accept".into(), "b".into())]);
        let back = to_client(&head(200, &[("etag", "a\u{e9}"), ("vary", "a\u{4f60}")]), None, &[]);
        assert_eq!(back["etag"].as_bytes(), b"a\xe9");
        assert!(!back.contains_key("vary"));
    }

    #[test]
    fn to_the_client_goes_only_what_it_can_use() {
        for name in
            ["content-type", "etag", "retry-after", "cf-mitigated", "x-ratelimit-limit", "openai-model"]
        {
            assert!(to_client(&head(200, &[(name, "x")]), None, &[]).contains_key(name), "{name}");
        }
        let never = [
            "set-cookie",
            "x-tabproxy-instance",
            "content-security-policy",
            "content-security-policy-report-only",
            "alt-svc",
            "strict-transport-security",
            "content-encoding",
            "content-length",
            "transfer-encoding",
            "access-control-allow-origin",
            "connection",
            "proxy-authenticate",
        ];
        let extra: Vec<String> = never.iter().map(|it| it.to_string()).collect();
        for name in never {
            assert!(to_client(&head(200, &[(name, "x")]), None, &extra).is_empty(), "{name}");
        }
    }

    #[test]
    fn a_location_stays_with_us() {
        for (status, text, expected) in [
            (302, "https://site.test/a?b#c", Some("/a?b#c")),
            (302, "//site.test/a", Some("/a")),
            (302, "/a/b", Some("/a/b")),
            (302, "b", Some("b")),
            (302, "/\\site.test/a", Some("/a")),
            (302, "https://site.test//evil.test/a", None),
            (302, "//site.test//evil.test/a", None),
            (302, "https://other.test/a", None),
            (302, "//other.test/a", None),
            (302, "javascript:1", None),
            (201, "https://other.test/a", Some("https://other.test/a")),
        ] {
            let headers = to_client(&head(status, &[("location", text)]), Some("https://site.test"), &[]);
            let got = headers.get("location").map(|it| it.to_str().unwrap());
            assert_eq!(got, expected, "{status} {text}");
        }
    }

    #[test]
    fn streams_are_marked_for_proxies() {
        let stream = ("content-type", "text/event-stream; charset=utf-8");
        let headers = to_client(&head(200, &[stream]), None, &[]);
        assert_eq!(
            (&headers["x-accel-buffering"], &headers["cache-control"]),
            (&"no".parse().unwrap(), &"no-cache".parse().unwrap())
        );
        let headers = to_client(&head(200, &[stream, ("cache-control", "private")]), None, &[]);
        assert_eq!(headers["cache-control"], "private");
        let moved =
            Head { redirected_to: Some("/b?c".into()), ..head(200, &[("content-type", "text/html")]) };
        let headers = to_client(&moved, None, &[]);
        assert_eq!(headers["content-location"], "/b?c");
        assert!(!headers.contains_key("x-accel-buffering"));
    }

    /// Written down apart from the lists above, so that one of them cannot lose a name unnoticed.
    fn is_forbidden(name: &str, to_page: bool) -> bool {
        let both =
            ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
        let one = if to_page {
            &["cookie", "expect", "forwarded", "host", "origin", "referer", "user-agent"][..]
        } else {
            &["alt-svc", "content-encoding", "set-cookie", "set-cookie2", "strict-transport-security"][..]
        };
        let families = if to_page {
            &["sec-", "proxy-", "x-forwarded-"][..]
        } else {
            &["access-control-", "content-security-policy", "proxy-"][..]
        };
        both.contains(&name) || one.contains(&name) || families.iter().any(|it| name.starts_with(it))
    }

    /// Names that matter, names that hardly differ from them, and any.
    fn names() -> impl Strategy<Value = String> {
        let known: Vec<_> = [&TO_PAGE[..], &NEVER_TO_PAGE, &TO_CLIENT, &NEVER_TO_CLIENT].concat();
        let families =
            ["sec-", "proxy-", "x-forwarded-", "access-control-", "content-security-policy", "oai-"];
        prop_oneof![
            prop::sample::select(known).prop_map(String::from),
            (prop::sample::select(families.to_vec()), "[a-zA-Z-]{0,6}").prop_map(|(a, b)| format!("{a}{b}")),
            "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,12}",
        ]
        .prop_flat_map(|name| prop_oneof![Just(name.clone()), Just(name.to_ascii_uppercase())])
    }

    proptest! {
        #[test]
        fn nothing_forbidden_crosses_whatever_is_sent_and_allowed(
            sent in prop::collection::vec((names(), prop::collection::vec(any::<u8>(), 0..12)), 0..8),
            extra in prop::collection::vec(names(), 0..4),
            status in any::<u16>(),
            redirected_to in prop::option::of(".{0,12}"),
        ) {
            let mut map = HeaderMap::new();
            for (name, value) in &sent {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
                    map.append(name, value);
                }
            }
            let all: Vec<_> = extra.iter().chain(sent.iter().map(|it| &it.0)).cloned().collect();
            for (name, _) in to_page(&map, &all) {
                prop_assert!(!is_forbidden(&name, true), "{}", name);
                prop_assert!(map.contains_key(&name), "{} was not sent", name);
            }
            let headers =
                sent.iter().map(|(name, value)| (name.clone(), value.iter().map(|&it| it as char).collect()));
            let head = Head { status, headers: headers.collect(), redirected_to };
            for origin in [None, Some("https://site.test")] {
                for (name, value) in &to_client(&head, origin, &all) {
                    prop_assert!(!is_forbidden(name.as_str(), false), "{}", name);
                    prop_assert!(!value.as_bytes().iter().any(|it| matches!(it, b'\r' | b'\n' | 0)));
                }
            }
        }

        /// A redirection that is passed on leads nowhere but to the site.
        #[test]
        fn a_location_never_leads_to_another_origin(
            text in r"(https?:|//|/|\\|[.]{1,2}/|evil[.]test|site[.]test|@|:|#|[?]|%2f|\t|[!-~]|\PC){1,12}",
            status in prop::sample::select(&[300u16, 301, 302, 303, 307, 308, 200][..]),
        ) {
            let headers = to_client(&head(status, &[("location", &text)]), Some("https://site.test"), &[]);
            // As a client reads it that asked the site under our name.
            let ours = Url::parse("http://localhost:3000/backend-api/x").unwrap();
            if let Some(location) = headers.get("location") {
                let text: String = location.as_bytes().iter().map(|&it| it as char).collect();
                if let Ok(target) = ours.join(&text) {
                    prop_assert_eq!(target.origin(), ours.origin(), "{:?}", text);
                }
            }
        }
    }
}
