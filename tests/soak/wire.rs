//! One HTTP exchange on a connection of its own: so that a client can read as slowly as it likes, and leave by
//! closing its socket. Nothing is ever sent again, by nobody.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::Fail;

/// The longest that a look at the proxy's state may take.
const LOOK: Duration = Duration::from_secs(10);

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1 with a receive buffer so small that the sender feels how slowly we read.
    Narrow,
    /// HTTP/2.
    Http2,
}

/// The head of an answer, and the connection on which its body comes. Dropping it closes the connection.
pub struct Answer {
    /// The status.
    pub status: u16,
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl Answer {
    /// The next piece of the body; `None` is its clean end.
    pub async fn piece(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_) => continue,
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Sends a request (`GET` without a body, `POST` of JSON with one) and waits for the head of its answer.
pub async fn send(addr: SocketAddr, wire: Wire, path: &str, body: Option<Vec<u8>>) -> Result<Answer, Fail> {
    send_as(addr, wire, path, body, None).await
}

/// The same as a client that says who it is in the header `library`.
pub async fn send_as(
    addr: SocketAddr,
    wire: Wire,
    path: &str,
    body: Option<Vec<u8>>,
    library: Option<&str>,
) -> Result<Answer, Fail> {
    let socket = TcpSocket::new_v4()?;
    if wire == Wire::Narrow {
        socket.set_recv_buffer_size(8 * 1024)?;
    }
    let stream = socket.connect(addr).await?;
    stream.set_nodelay(true)?;
    let method = if body.is_some() { "POST" } else { "GET" };
    // Only who asks a question takes events: to anyone else an early answer of pings would be wrong bytes.
    let accept = if body.is_none() { "*/*" } else { "text/event-stream" };
    let mut request = Request::builder().method(method).header("accept", accept);
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    if let Some(library) = library {
        request = request.header("library", library);
    }
    request = match wire {
        Wire::Http2 => request.uri(format!("http://{addr}{path}")),
        Wire::Http1 | Wire::Narrow => request.uri(path).header("host", addr.to_string()),
    };
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let (answer, connection): (Response<Incoming>, _) = match wire {
        Wire::Http2 => {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            let connection = tokio::spawn(async move { drop(connection.await) });
            let connection = AbortOnDropHandle::new(connection);
            (sender.send_request(request).await?, connection)
        }
        Wire::Http1 | Wire::Narrow => {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(async move { drop(connection.await) });
            let connection = AbortOnDropHandle::new(connection);
            (sender.send_request(request).await?, connection)
        }
    };
    let (head, body) = answer.into_parts();
    Ok(Answer { status: head.status.as_u16(), body, _connection: connection })
}

/// Writes bytes as they are and reads the status of the answer; `None` when the connection ends without one.
pub async fn raw(addr: SocketAddr, request: &[u8]) -> Result<Option<u16>, Fail> {
    let mut stream = TcpStream::connect(addr).await?;
    // A refusal may come before all of it is written.
    let _ = stream.write_all(request).await;
    let mut head = Vec::new();
    while head.len() < 12 {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
    let status = std::str::from_utf8(&head[..12]).ok().and_then(|it| it.strip_prefix("HTTP/1.1 "));
    Ok(status.and_then(|it| it.parse().ok()))
}

/// Writes the beginning of a request and goes away.
pub async fn abandon(addr: SocketAddr, beginning: &[u8], after: Duration) -> Result<(), Fail> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(beginning).await?;
    tokio::time::sleep(after).await;
    Ok(())
}

/// Whether `/readyz` says so.
pub async fn is_ready(addr: SocketAddr) -> bool {
    let look = send(addr, Wire::Http1, "/readyz", None);
    matches!(tokio::time::timeout(LOOK, look).await, Ok(Ok(answer)) if answer.status == 200)
}

/// The text at `path`.
pub async fn text(addr: SocketAddr, path: &str) -> Result<String, Fail> {
    let look = async {
        let answer = send(addr, Wire::Http1, path, None).await?;
        let body = Limited::new(answer.body, 1 << 20).collect().await?;
        Ok::<_, Fail>(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    tokio::time::timeout(LOOK, look).await?
}
