//! Which headers the relay passes: all but what belongs to a connection, to a host, or to the operator's list.
//!
//! A deny-list, unlike the page's: what a foreign API will want tomorrow is not ours to know.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::headers;

/// Headers that belong to a connection, or name the host that is not the target.
const HOP: [&str; 10] = [
    "connection",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What an answer says of the target's host alone, which ours is not.
const OF_HOST: [&str; 2] = ["alt-svc", "strict-transport-security"];

/// The headers of a request as the target sees them.
pub(super) fn onward(sent: &HeaderMap, peer: Option<&str>, is_stripped: impl Fn(&str) -> bool) -> HeaderMap {
    let passes = |name: &HeaderName| {
        let name = name.as_str();
        !HOP.contains(&name)
            && name != "proxy-authorization"
            && !name.starts_with(headers::OURS)
            && !is_stripped(name)
            && !headers::is_for_connection(sent, name)
    };
    let mut headers: HeaderMap = sent
        .iter()
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let name = HeaderName::from_static("x-forwarded-for");
    if let (Some(peer), false) = (peer, is_stripped(name.as_str())) {
        let before = sent.get_all(&name).iter().filter_map(|it| it.to_str().ok());
        let list = before.chain([peer]).collect::<Vec<_>>().join(", ");
        if let Ok(list) = HeaderValue::try_from(list) {
            headers.insert(name, list);
        }
    }
    headers
}

/// The headers of an answer as the caller sees them.
pub(super) fn back(sent: &HeaderMap) -> HeaderMap {
    let passes = |name: &HeaderName| {
        let name = name.as_str();
        // Who may read it in a browser is for us to say.
        let is_ours =
            name.starts_with("access-control-") || name.starts_with(headers::OURS) || OF_HOST.contains(&name);
        !HOP.contains(&name) && !is_ours && !headers::is_for_connection(sent, name)
    };
    let mut headers = HeaderMap::with_capacity(sent.len() + 1);
    for (name, value) in sent.iter().filter(|(name, _)| passes(name)) {
        headers.append(name.clone(), value.clone());
    }
    if headers::is_event_stream(&headers) {
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let map = |all: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in all {
                map.append(HeaderName::from_static(name), value.parse().unwrap());
            }
            map
        };
        let sent = map(&[
            ("authorization", "Bearer sk-a"),
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("host", "us"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic a"),
            ("x-fc-region", "1"),
            ("x-tabproxy-instance", "caller"),
            ("content-length", "5"),
            ("x-forwarded-for", "1.2.3.4"),
            ("openai-beta", "a"),
            ("openai-beta", "b"),
        ]);
        let got = onward(&sent, Some("10.0.0.1"), |name| name.starts_with("x-fc"));
        let mut names: Vec<_> =
            got.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                ("authorization", "Bearer sk-a"),
                ("content-length", "5"),
                ("openai-beta", "a"),
                ("openai-beta", "b"),
                ("x-forwarded-for", "1.2.3.4, 10.0.0.1"),
            ]
        );
        let answer = map(&[
            ("content-type", "text/event-stream"),
            ("content-encoding", "gzip"),
            ("transfer-encoding", "chunked"),
            ("access-control-allow-origin", "*"),
            ("strict-transport-security", "1"),
            ("x-tabproxy-instance", "site"),
            ("location", "https://elsewhere"),
            ("content-length", "7"),
        ]);
        let got = back(&answer);
        let mut names: Vec<_> = got.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["content-encoding", "content-length", "content-type", "location", "x-accel-buffering"]
        );
    }
}
