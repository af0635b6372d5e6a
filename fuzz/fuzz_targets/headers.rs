//! Headers in both directions: a forbidden one never crosses, even where the operator lists it.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tabproxy::exchange::Head;
use tabproxy::http::headers;

const NEVER_IN: [&str; 12] = [
    "connection",
    "content-length",
    "cookie",
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
const NEVER_OUT: [&str; 9] = [
    "alt-svc",
    "connection",
    "content-encoding",
    "content-length",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "upgrade",
    "content-security-policy",
];

fuzz_target!(|input: (Vec<(String, Vec<u8>)>, Vec<(String, String)>, u16, Option<String>)| {
    let (sent, answered, status, redirected_to) = input;
    let extra: Vec<String> =
        sent.iter().map(|it| &it.0).chain(answered.iter().map(|it| &it.0)).cloned().collect();
    let mut map = HeaderMap::new();
    for (name, value) in &sent {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value)) {
            let _ = map.try_append(name, value);
        }
    }
    for (name, _) in headers::to_page(&map, &extra) {
        assert!(
            !NEVER_IN.contains(&name.as_str()) && !name.starts_with("sec-") && !name.starts_with("proxy-"),
            "{name}"
        );
    }
    let head = Head { status, headers: answered, redirected_to };
    for origin in [None, Some("https://site.test")] {
        for (name, value) in &headers::to_client(&head, origin, &extra) {
            assert!(!NEVER_OUT.contains(&name.as_str()) && !name.as_str().starts_with("proxy-"), "{name}");
            assert!(!value.as_bytes().iter().any(|it| matches!(it, b'\r' | b'\n' | 0)));
        }
    }
});
