//! Who asks, as far as we tell callers apart: the one place that decides it.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use axum::http::HeaderMap;
use sha2::{Digest, Sha256};

use super::journal;

/// What tells one caller from another: a digest, so that no key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller(pub [u8; 32]);

/// The caller by the keys that it shows, or by its address where it shows none.
pub(super) fn of(request: &Request) -> Caller {
    let headers = request.headers();
    let mut digest = Sha256::new();
    let mut shown = 0;
    for name in ["authorization", "x-authorization", "x-api-key"] {
        for value in headers.get_all(name) {
            let value = value.as_bytes().trim_ascii();
            shown += value.len();
            digest.update((value.len() as u64).to_le_bytes());
            digest.update(value);
        }
        digest.update([0]);
    }
    if shown == 0 {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|it| it.0.ip().to_canonical());
        digest.update(format!("{:?}", journal::caller(peer, headers)));
    }
    Caller(digest.finalize().into())
}

/// Whether this is the bot plugin, which says so itself.
pub(super) fn is_plugin(headers: &HeaderMap) -> bool {
    headers.get("library").is_some_and(|it| it.as_bytes().trim_ascii() == b"chatgpt-plugin")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn asking(headers: &[(&str, &str)], peer: &str) -> Request {
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer: SocketAddr = format!("{peer}:{}", 1000 + headers.len()).parse().unwrap();
        request.extension(ConnectInfo(peer)).body(Body::empty()).unwrap()
    }

    #[test]
    fn callers_are_told_apart_by_their_keys_and_else_by_their_addresses() {
        let who = |headers: &[(&str, &str)], peer| of(&asking(headers, peer));
        let key = ("authorization", "Bearer a");
        assert_eq!(who(&[key], "10.0.0.1"), who(&[key], "10.0.0.2"));
        assert_ne!(who(&[key], "10.0.0.1"), who(&[("authorization", "Bearer b")], "10.0.0.1"));
        assert_ne!(who(&[key], "10.0.0.1"), who(&[("x-api-key", "Bearer a")], "10.0.0.1"));
        assert_ne!(who(&[], "10.0.0.1"), who(&[], "10.0.0.2"));
        assert_eq!(who(&[("authorization", " ")], "10.0.0.1"), who(&[("authorization", "")], "10.0.0.1"));
        let behind = ("x-forwarded-for", "1.2.3.4");
        assert_ne!(who(&[behind], "127.0.0.1"), who(&[("x-forwarded-for", "1.2.3.5")], "127.0.0.1"));
    }

    #[test]
    fn the_plugin_says_so() {
        let is = |headers| is_plugin(asking(headers, "10.0.0.1").headers());
        assert!(is(&[("library", "chatgpt-plugin")]));
        assert!(!is(&[("library", "chatgpt-plugins")]) && !is(&[]));
    }
}
