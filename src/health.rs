//! `tabproxy health`: asks the server on this machine whether it would serve a request now. It exists for
//! monitors that can only run a program, as Docker's, where there is no curl. It knows only the public port, and
//! `tabproxy status` asks through it too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

/// What can go wrong: anything, said as it is.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// What `/readyz` says, and whether that is "ready". `listen` is where the server was told to listen.
///
/// # Errors
/// Nobody answers there within four seconds.
pub async fn ask(listen: SocketAddr) -> Result<(bool, String), Error> {
    get(listen, "/readyz").await
}

/// What the server that was told to listen at `listen` answers at `path`, and whether with success.
///
/// # Errors
/// Nobody answers there within four seconds.
pub async fn get(listen: SocketAddr, path: &str) -> Result<(bool, String), Error> {
    let addr = reachable(listen);
    let answer = async {
        let stream = tokio::net::TcpStream::connect(addr).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request =
            hyper::Request::get(path).header("host", addr.to_string()).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let is_success = response.status().is_success();
        let text = response.into_body().collect().await?.to_bytes();
        Ok::<_, Error>((is_success, String::from_utf8_lossy(&text).into_owned()))
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("no answer from {addr}: {error}").into()),
        Err(_) => Err(format!("no answer from {addr} within {PATIENCE:?}").into()),
    }
}

/// Where a server that listens at `listen` is reached from this machine: whoever listens on every address is
/// reached on the loopback one.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
