//! One request without a body, over any connection: status, headers, and what is to be thought of the certificate.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::select_ok;
use http::{HeaderMap, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::tls::{self, Trust};
use crate::browser::gateway::{Approach, Stream};

/// How long each part of it may take: the connection, TLS, the head of the answer.
pub const STEP: Duration = Duration::from_secs(6);

/// An answer, up to its body.
#[derive(Debug)]
pub struct Answer {
    /// Of any kind.
    pub status: u16,
    /// As it sent them.
    pub headers: HeaderMap,
    /// What is to be thought of the certificate.
    pub trust: Trust,
    /// What our clock said in the middle between question and answer.
    pub at: SystemTime,
    /// The rest.
    pub body: Incoming,
}

/// Connects to the first of the addresses that takes it, as browsers do with IPv4 and IPv6.
///
/// # Errors
/// None does in time.
pub async fn connect(addresses: Vec<SocketAddr>) -> io::Result<Box<dyn Stream>> {
    if addresses.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    let tries = addresses.into_iter().map(|it| Box::pin(TcpStream::connect(it)));
    let (stream, _) = timeout(STEP, select_ok(tries)).await.map_err(|_| late("connection", STEP))??;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

fn late(what: &str, patience: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no {what} within {patience:?}"))
}

/// Asks for `url`. `accept` is what the answer may be, `patience` how long its head may take.
///
/// # Errors
/// In words, what came in between.
pub async fn ask(
    approach: Approach,
    url: &Url,
    method: &str,
    accept: &str,
    pins: &[String],
    patience: Duration,
) -> io::Result<Answer> {
    let host = url.host_str().unwrap_or_default();
    let (stream, trust) = if url.scheme() == "https" {
        let speak = timeout(STEP, tls::connect(approach.stream, host, pins)).await;
        let spoken = speak.map_err(|_| late("TLS", STEP))?;
        spoken.map_err(|error| io::Error::other(format!("no TLS could be spoken: {error}")))?
    } else {
        (approach.stream, Trust::Plain)
    };
    let authority = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
    let mut request = hyper::Request::builder()
        .method(method)
        .uri(approach.target)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("tabproxy/", env!("CARGO_PKG_VERSION"), " (doctor)"))
        .header(header::ACCEPT, accept)
        // As most clients: what is compressed on the way is seen.
        .header(header::ACCEPT_ENCODING, "gzip");
    if let Some(authorization) = approach.authorization {
        request = request.header(header::PROXY_AUTHORIZATION, authorization);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let begun = SystemTime::now();
        let response = sender.send_request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|it| format!(": {it}")).unwrap_or_default();
            io::Error::other(format!("no HTTP came back: {error}{cause}"))
        })?;
        let half = begun.elapsed().unwrap_or_default() / 2;
        Ok::<_, io::Error>((response, begun + half))
    };
    let (response, at) = timeout(patience, exchange).await.map_err(|_| late("answer", patience))??;
    let (head, body) = response.into_parts();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, trust, at, body })
}
