//! Whose request it is: the address at the other end, or what a trusted proxy there says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Extensions, HeaderMap};
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;

use super::App;

/// The address that a request comes from.
#[derive(Clone, Copy)]
struct Peer(IpAddr);

/// Notes where each request comes from, once, for all that ask later.
pub(super) async fn layer(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|it| it.0.ip().to_canonical());
    if let Some(peer) = peer {
        let peer = Peer(origin(peer, request.headers(), &app.policy.trusted_proxies));
        request.extensions_mut().insert(peer);
    }
    next.run(request).await
}

/// Where the request with these extensions comes from; `None` for one that came over no connection.
pub(super) fn of(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|it| it.0)
}

/// Each proxy adds the address that it sees at the end of the list. The last one that is no proxy of ours is who
/// asks; what stands before it, anybody can have written.
fn origin(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |it: &IpAddr| trusted.iter().any(|net| net.contains(it));
    let lists = headers.get_all("x-forwarded-for").iter().filter_map(|it| it.to_str().ok());
    let said: Vec<_> = lists.flat_map(|it| it.split(',')).map(|it| it.trim().parse::<IpAddr>()).collect();
    let mut asks = peer;
    for said in said.into_iter().rev() {
        match said {
            Ok(before) if is_trusted(&asks) => asks = before.to_canonical(),
            _ => break,
        }
    }
    asks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_peers_unless_a_trusted_proxy_says_otherwise() {
        let trusted: Vec<IpNet> =
            ["127.0.0.0/8", "::1/128", "10.0.0.0/8"].map(|it| it.parse().unwrap()).into();
        let who = |peer: &str, lists: &[&str]| {
            let mut headers = HeaderMap::new();
            lists.iter().for_each(|it| {
                headers.append("x-forwarded-for", it.parse().unwrap());
            });
            origin(peer.parse().unwrap(), &headers, &trusted).to_string()
        };
        assert_eq!(who("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(who("127.0.0.1", &["1.2.3.4, 192.168.0.9"]), "192.168.0.9");
        assert_eq!(who("127.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.9"]), "1.2.3.4", "through two of ours");
        assert_eq!(who("::1", &["1.2.3.4", "2001:db8::1"]), "2001:db8::1");
        assert_eq!(who("127.0.0.1", &["::ffff:1.2.3.4"]), "1.2.3.4");
        assert_eq!(who("127.0.0.1", &["1.2.3.4, a secret"]), "127.0.0.1");
        assert_eq!(who("192.168.0.1", &["1.2.3.4"]), "192.168.0.1", "strangers say nothing of themselves");
    }
}
