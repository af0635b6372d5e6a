//! The listener: connections with limits on everything that a stranger could stretch.
//!
//! Knows the routes only as a service.

mod line;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::accept::Accept;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{App, router};
use line::{Line, Noted};

/// A connection without a request is kept for this long: longer than what stands in front of us (nginx and
/// the usual load balancers: 60 s) keeps it, so that it is they who close it and no request crosses its end.
const IDLE: Duration = Duration::from_secs(90);
/// Connections that may wait to be let in: a crowd larger than the 128 of the standard library would be told
/// nothing for a second, until its next attempt.
const BACKLOG: i32 = 4096;
/// The largest head. Beyond it, the answer is 431.
const HEAD_BYTES: usize = 64 * 1024;
/// HTTP/2 streams on one connection: more than fit through the page, so that the queue decides, not this.
const STREAMS: u32 = 1024;
/// What one HTTP/2 stream may upload ahead of our reading.
const STREAM_WINDOW: u32 = 1 << 20;
/// An HTTP/2 peer that does not answer a ping is gone.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));

/// Serves `app` on `listener` until `shutdown`; then lets in nobody, and gives what is running up to
/// `drain` before it is cut.
///
/// Without free descriptors it pauses for 50 ms between attempts to accept, and goes on when there are some.
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
    // On a socket that listens already, this only changes the length of its queue.
    rustix::net::listen(&listener, BACKLOG)?;
    let handle: Handle<SocketAddr> = Handle::new();
    let mut server = axum_server::from_tcp(listener)?.acceptor(Door).handle(handle.clone());
    limit(server.http_builder());
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

fn limit(builder: &mut Builder<TokioExecutor>) {
    builder
        .http1()
        .timer(TokioTimer::new())
        // Counts from the end of the answer before, so it also ends connections that stand idle. How long a
        // head itself may take is for `Line` to say.
        .header_read_timeout(IDLE)
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
}

/// Prepares each connection.
#[derive(Clone, Copy)]
struct Door;

impl<S> Accept<TcpStream, S> for Door {
    type Stream = Line<TcpStream>;
    type Service = Noted<S>;
    type Future = std::future::Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // Without it, Nagle's algorithm holds small events back until the last one is acknowledged.
        let prepared = stream.set_nodelay(true).map(|()| line::new(stream, service));
        std::future::ready(prepared)
    }
}
