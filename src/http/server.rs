//! The listener: connections with limits on everything that a stranger could stretch.
//!
//! Knows the routes only as a service.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::Handle;
use axum_server::accept::Accept;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::{App, router};

/// A request's head must be complete by then.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// The largest head. Beyond it, the answer is 431.
const HEAD_BYTES: usize = 64 * 1024;
/// HTTP/2 streams on one connection: more than fit through the page, so that the queue decides, not this.
const STREAMS: u32 = 1024;
/// What one HTTP/2 stream may upload ahead of our reading.
const STREAM_WINDOW: u32 = 1 << 20;
/// An HTTP/2 peer that does not answer a ping is gone.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));
/// The protocol is known after this many bytes: the length of HTTP/2's opening.
const OPENING: usize = 24;

/// Serves `app` on `listener` until `shutdown`; then lets in nobody, and gives what is running up to
/// `drain` before it is cut.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let handle: Handle<SocketAddr> = Handle::new();
    let mut server = axum_server::from_tcp(listener)?.acceptor(Door).handle(handle.clone());
    let builder = server.http_builder();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        // A client that closes its side has left. Waiting for it would keep its fetch running.
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES as u32)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(4 * STREAM_WINDOW)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let stop = async {
        shutdown.cancelled().await;
        app.admission.close();
        handle.graceful_shutdown(Some(drain));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = server.serve(router(app.clone()).into_make_service_with_connect_info::<SocketAddr>()) => served,
        () = stop => Ok(()),
    }
}

/// Prepares each connection.
#[derive(Clone, Copy)]
struct Door;

impl<S> Accept<TcpStream, S> for Door {
    type Stream = Opening;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Opening, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // Without it, Nagle's algorithm holds small events back until the last one is acknowledged.
        let prepared = stream.set_nodelay(true).map(|()| (Opening::new(stream), service));
        std::future::ready(prepared)
    }
}

/// A connection that fails if its first bytes take too long. The limit on heads starts only once the
/// protocol is known, so a connection that says nothing would otherwise stay for ever.
struct Opening {
    stream: TcpStream,
    /// How much has come so far and until when the rest must; `None` once it has.
    awaited: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Opening {
    fn new(stream: TcpStream) -> Opening {
        let until = tokio::time::sleep_until(Instant::now() + HEAD_TIME);
        Opening { stream, awaited: Some((0, Box::pin(until))) }
    }
}

impl AsyncRead for Opening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some((come, until)) = &mut this.awaited {
            *come += buf.filled().len() - before;
            if *come >= OPENING {
                this.awaited = None;
            } else if read.is_pending() && until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Opening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
