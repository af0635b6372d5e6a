//! A look at the start whether the proxies can be reached: without it, an operator who mistyped one would only
//! see a site that does not load. It must not hold up anything: a proxy may come up later than we do.

use std::io;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{ProxyConfig, ProxyServer};

/// How long a proxy may take to accept a connection before we say so.
const WAIT: Duration = Duration::from_secs(5);

/// Warns of each proxy that takes no connection now, by address and without its password.
pub async fn warn_of_unreachable(proxy: ProxyConfig) {
    let same = proxy.https == proxy.http;
    let named = [("HTTPS_PROXY", proxy.https), ("HTTP_PROXY", proxy.http.filter(|_| !same))];
    let looks = named.into_iter().filter_map(|(name, server)| Some((name, server?))).map(look);
    join_all(looks).await;
}

async fn look((name, server): (&'static str, ProxyServer)) {
    if let Err(error) = reach(&server).await {
        tracing::warn!(
            "the proxy {server} cannot be reached: {error}; nothing passes until it can: start it, or correct {name} (or ALL_PROXY)"
        );
    }
}

/// Whether the proxy takes connections.
///
/// # Errors
/// None within five seconds.
pub async fn reach(server: &ProxyServer) -> io::Result<()> {
    let connection = TcpStream::connect((server.host.as_str(), server.port));
    timeout(WAIT, connection).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(drop)
}
