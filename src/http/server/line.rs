//! A connection that does not wait for ever: for the rest of a request's head, or for a client that takes
//! nothing of what is written.
//!
//! The HTTP library has one timer, which runs from the end of one answer to the end of the next head: it
//! cannot tell a connection that stands idle, which is fine for a minute or two, from a head that comes in
//! drops, which is not fine for more than seconds. And it has none until the protocol is known, nor for
//! writing. This knows when bytes come ([`Line`]) and when requests begin and end ([`Noted`]), and nothing
//! of HTTP but the opening of HTTP/2, where connections are looked after with pings.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tower::Service;

/// A request's head must be complete so long after its first byte; the first one after the connection's
/// beginning.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(10);
/// A client that takes no byte of what is there for it for this long has left.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(30);

/// The opening of HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection and the service for its requests.
pub(super) fn new<T, S>(stream: T, service: S) -> (Line<T>, Noted<S>) {
    let traffic = Arc::new(Traffic::default());
    let line = Line {
        stream,
        traffic: traffic.clone(),
        begun: 0,
        preface: Some(0),
        is_http2: false,
        head: Alarm::set(HEAD_TIME),
        write: Alarm::unset(),
    };
    (line, Noted { service, traffic })
}

/// How many requests have begun, and ended, on one connection.
#[derive(Debug, Default)]
struct Traffic {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

/// The bytes of a connection.
pub(super) struct Line<T> {
    stream: T,
    traffic: Arc<Traffic>,
    /// How many requests had begun when we last looked: a head is complete when its request begins.
    begun: usize,
    /// How much of HTTP/2's opening has come; `None` once it is known whether it is one.
    preface: Option<usize>,
    is_http2: bool,
    /// When the head that is being read must be complete.
    head: Alarm,
    /// When the client must have taken something.
    write: Alarm,
}

impl<T> Line<T> {
    /// Looks at bytes that came just now.
    fn look(&mut self, came: &[u8]) {
        if let Some(matched) = self.preface {
            let rest = &PREFACE[matched..];
            let n = came.len().min(rest.len());
            self.preface = (came[..n] == rest[..n]).then_some(matched + n);
            if self.preface == Some(PREFACE.len()) {
                self.preface = None;
                self.is_http2 = true;
            }
        }
        let begun = self.traffic.begun.load(Ordering::Acquire);
        let is_idle = begun == self.traffic.ended.load(Ordering::Acquire);
        if self.is_http2 || !is_idle || begun != self.begun {
            self.begun = begun;
            self.head.stop();
        }
        if !came.is_empty() && !self.is_http2 && is_idle {
            self.head.start(HEAD_TIME);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Line<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.look(&buf.filled()[before..]);
        if read.is_pending() && this.head.poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> Line<T> {
    /// What came of writing, or the end of patience.
    fn written<R>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if wrote.is_ready() {
            self.write.stop();
            return wrote;
        }
        self.write.start(WRITE_TIME);
        ready!(self.write.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Line<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.written(cx, wrote)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.written(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A timer that may run. One that is stopped wakes nobody: a connection that stands still would take more.
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn unset() -> Alarm {
        Alarm(None)
    }

    fn set(after: Duration) -> Alarm {
        Alarm(Some(Box::pin(tokio::time::sleep(after))))
    }

    /// Starts it, unless it runs.
    fn start(&mut self, after: Duration) {
        if self.0.is_none() {
            *self = Alarm::set(after);
        }
    }

    fn stop(&mut self) {
        self.0 = None;
    }

    /// Ready when it runs and has gone off.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx))
    }
}

/// The service of one connection, which notes when requests begin and when their answers have ended.
#[derive(Clone)]
pub(super) struct Noted<S> {
    service: S,
    traffic: Arc<Traffic>,
}

impl<S> Service<Request<Incoming>> for Noted<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.traffic.begun.fetch_add(1, Ordering::AcqRel);
        let running = Running(Some(self.traffic.clone()));
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let mut running = running;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                // Another protocol is spoken from here on, and no head comes any more.
                running.0 = None;
            }
            Ok(answer.map(|body| Body::new(Answer { body, _running: running })))
        })
    }
}

/// A request that has begun; dropping it is its end, unless it never ends.
struct Running(Option<Arc<Traffic>>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(traffic) = &self.0 {
            traffic.ended.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// An answer's body, as it is, until it is written or given up.
struct Answer {
    body: Body,
    _running: Running,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
