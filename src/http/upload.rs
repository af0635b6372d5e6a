//! A request's body on its way in: bounded in size and in patience.

use std::time::Duration;

use axum::body::{Body, Bytes};
use bytes::BytesMut;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::error::{Fault, FaultKind};
use crate::telemetry::metrics::Metrics;

/// A caller that sends no byte for this long is not waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// A whole body may take this long, and [`RATE`] more with its size: one that comes in drops would otherwise
/// keep its place for ever.
const GRACE: Duration = Duration::from_secs(30);
/// The slowest upload that is taken, in bytes per second.
const RATE: usize = 1024;
/// Pieces below this size are copied together: kept apart, each costs more than it holds.
const SMALL: usize = 4 * 1024;
/// So many bytes of small pieces make up one.
const GATHERED: usize = 64 * 1024;

/// A body that is being read.
pub(super) struct Upload {
    body: Body,
    limit: usize,
    metrics: Metrics,
    total: usize,
    pieces: Vec<Bytes>,
    small: BytesMut,
}

impl Upload {
    /// Will take at most `limit` bytes from `body`. Nothing is read yet.
    pub fn new(body: Body, limit: usize, metrics: Metrics) -> Upload {
        Upload { body, limit, metrics, total: 0, pieces: Vec::new(), small: BytesMut::new() }
    }

    /// Whether there is nothing (more) to read.
    pub fn is_read(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Reads to the end. Once it has, it returns at once.
    ///
    /// # Errors
    /// `TooLarge` as soon as the limit is passed, `BodyTimeout` when nothing comes or too little,
    /// `BadRequest` for a body that is cut or malformed.
    pub async fn read(&mut self) -> Result<(), Fault> {
        self.read_until(usize::MAX).await
    }

    /// As [`Upload::read`], but stops once `enough` bytes are here: there may be more then.
    pub async fn read_until(&mut self, enough: usize) -> Result<(), Fault> {
        let begun = Instant::now();
        let mut last = begun;
        while !self.is_read() {
            if self.total >= enough {
                return Ok(());
            }
            let slowest = begun + GRACE + Duration::from_secs((self.total / RATE) as u64);
            let next = timeout_at(slowest.min(last + PATIENCE), self.body.frame()).await;
            let Some(frame) = next.map_err(|_| late())? else { break };
            // Trailers have no use here.
            let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
            if piece.is_empty() {
                continue; // no byte, so no new patience either
            }
            self.total = self.total.saturating_add(piece.len());
            if self.total > self.limit {
                return Err(too_large(self.limit));
            }
            self.metrics.received(piece.len());
            self.keep(piece);
            last = Instant::now();
        }
        self.gather();
        self.body = Body::empty();
        Ok(())
    }

    /// As [`Upload::read`], where even one byte is too much.
    pub async fn read_nothing(&mut self) -> Result<(), Fault> {
        self.limit = 0;
        self.read().await
    }

    /// What was read; the next call gets nothing.
    pub fn take_pieces(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.pieces)
    }

    fn keep(&mut self, piece: Bytes) {
        if piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
            if self.small.len() >= GATHERED {
                self.gather();
            }
        } else {
            self.gather();
            self.pieces.push(piece);
        }
    }

    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }
}

/// The refusal of a body over `limit` bytes.
pub(super) fn too_large(limit: usize) -> Fault {
    Fault::new(
        FaultKind::TooLarge,
        format!("The request body is larger than the {limit} bytes allowed here."),
    )
}

fn late() -> Fault {
    let seconds = PATIENCE.as_secs();
    Fault::new(
        FaultKind::BodyTimeout,
        format!("The request body came too slowly: nothing for {seconds} seconds, or under {RATE} bytes/s."),
    )
}

fn broken(error: axum::Error) -> Fault {
    Fault::new(FaultKind::BadRequest, "The request body is cut short or malformed.").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};
    use prometheus_client::registry::Registry;

    fn upload(pieces: Vec<Vec<u8>>, limit: usize) -> Upload {
        let pieces = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
        Upload::new(Body::from_stream(stream::iter(pieces)), limit, Metrics::new(Registry::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_the_order_and_copies_only_small_pieces() {
        let mut it = upload(vec![vec![1], vec![], vec![2; 10], vec![3; SMALL], vec![4]], 1 << 20);
        it.read().await.unwrap();
        it.read().await.unwrap();
        assert!(it.is_read());
        let pieces = it.take_pieces();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [11, SMALL, 1]);
        assert_eq!(pieces.concat(), [vec![1], vec![2; 10], vec![3; SMALL], vec![4]].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_is_exact_and_an_endless_body_ends() {
        assert!(upload(vec![vec![0; 100]], 100).read().await.is_ok());
        let fault = upload(vec![vec![0; 100], vec![0]], 100).read().await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::TooLarge);
        let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 64])));
        let mut endless = Upload::new(Body::from_stream(endless), 1000, Metrics::new(Registry::default()));
        assert_eq!(endless.read().await.unwrap_err().kind(), FaultKind::TooLarge);
        assert!(!endless.is_read());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_waited_for_only_so_long() {
        let silent = stream::pending::<Result<Bytes, std::io::Error>>();
        let mut silent = Upload::new(Body::from_stream(silent), 10, Metrics::new(Registry::default()));
        let begun = Instant::now();
        assert_eq!(silent.read().await.unwrap_err().kind(), FaultKind::BodyTimeout);
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    /// One piece of `size` bytes every second, `count` times.
    fn drops(count: usize, size: usize) -> Upload {
        let drops = stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, std::io::Error>(Bytes::from(vec![7; size]))
        });
        Upload::new(Body::from_stream(drops), usize::MAX, Metrics::new(Registry::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_in_drops_ends_and_a_slow_line_does_not() {
        let begun = Instant::now();
        let fault = drops(usize::MAX, 1).read().await.unwrap_err();
        assert_eq!((fault.kind(), begun.elapsed()), (FaultKind::BodyTimeout, GRACE));
        let begun = Instant::now();
        drops(600, RATE).read().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(600));
        assert!(drops(600, RATE / 2).read().await.is_err());
    }
}
