//! A TCP relay that fails on purpose: between the proxy and the browser's CDP port, and between the browser and
//! the site.
//!
//! Whatever passes is unchanged. It knows nothing of what it carries, except where a WebSocket frame ends, so
//! that a clean close can be put between two of them. It stands alone, for other tests to include by path.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long the peer of a clean close may take to answer it.
const FAREWELL: Duration = Duration::from_secs(1);
/// A WebSocket Close frame, as a server sends it: status 1001, "going away".
const CLOSE: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A WebSocket Close frame from the server, then the end of the TCP connection.
    Close,
    /// A TCP reset, on both sides.
    Reset,
    /// Both sides stay connected, and nothing passes any more.
    Silence,
}

#[derive(Clone, Debug, Default)]
struct Orders {
    /// Nothing passes for now.
    hold: bool,
    /// Connections with a lower number are to end.
    cut: Option<(u64, Cut)>,
}

impl Orders {
    fn for_connection(&self, number: u64) -> Option<Cut> {
        self.cut.and_then(|(below, how)| (number < below).then_some(how))
    }
}

/// A running relay. Dropping it ends its connections.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    orders: watch::Sender<Orders>,
    accepted: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl Relay {
    /// Listens on a loopback port; each connection goes on to where `target` says at that moment.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(
        target: impl Fn() -> io::Result<SocketAddr> + Send + Sync + 'static,
    ) -> io::Result<Relay> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (orders, receiver) = watch::channel(Orders::default());
        let (accepted, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let (counter, stopped) = (accepted.clone(), stop.clone());
        let accepting = async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let number = counter.fetch_add(1, Ordering::SeqCst);
                if let Ok(server) = target() {
                    let carried = carry(number, client, server, receiver.clone());
                    tokio::spawn(stopped.clone().run_until_cancelled_owned(carried));
                }
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Relay { addr, orders, accepted, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends every connection that there is now; later ones pass.
    pub fn cut(&self, how: Cut) {
        let below = self.accepted.load(Ordering::SeqCst);
        self.orders.send_modify(|orders| orders.cut = Some((below, how)));
    }

    /// Lets nothing pass, on these and on new connections, until it is told `false`. Nothing is lost.
    pub fn hold(&self, hold: bool) {
        self.orders.send_modify(|orders| orders.hold = hold);
    }
}

async fn carry(number: u64, client: TcpStream, target: SocketAddr, orders: watch::Receiver<Orders>) {
    let Ok(server) = TcpStream::connect(target).await else { return drop(client.set_zero_linger()) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = pump(number, from_client, to_server, orders.clone(), None);
    let down = pump(number, from_server, to_client, orders.clone(), Some(Frames::default()));
    let ((mut from_client, to_server), (mut from_server, to_client)) = tokio::join!(up, down);
    let how = orders.borrow().for_connection(number);
    match how {
        // Both sides have ended by themselves.
        None => {}
        Some(Cut::Close) => drop(timeout(FAREWELL, discard(&mut from_client)).await),
        Some(Cut::Silence) => {
            tokio::join!(discard(&mut from_client), discard(&mut from_server));
        }
        Some(Cut::Reset) => {
            for (read, write) in [(from_client, to_client), (from_server, to_server)] {
                drop(read.reunite(write).map(|stream| stream.set_zero_linger()));
            }
        }
    }
}

/// Carries one direction until it ends or is ordered to.
async fn pump(
    number: u64,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut orders: watch::Receiver<Orders>,
    mut frames: Option<Frames>,
) -> (OwnedReadHalf, OwnedWriteHalf) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let halted = |it: &Orders| it.hold || it.for_connection(number).is_some();
        let read = tokio::select! {
            biased;
            order = orders.wait_for(halted) => Err(order.map(|it| it.for_connection(number)).unwrap_or_default()),
            read = from.read(&mut buffer) => Ok(read),
        };
        match read {
            Ok(Ok(length @ 1..)) => {
                if let Some(frames) = &mut frames {
                    frames.take(&buffer[..length]);
                }
                if to.write_all(&buffer[..length]).await.is_err() {
                    return (from, to);
                }
            }
            Ok(_) => {
                let _ = to.shutdown().await;
                return (from, to);
            }
            Err(None) => {
                let passes = |it: &Orders| !it.hold || it.for_connection(number).is_some();
                if orders.wait_for(passes).await.is_err() {
                    return (from, to);
                }
            }
            Err(Some(how)) => {
                if let (Cut::Close, Some(frames)) = (how, &mut frames) {
                    let _ = close_cleanly(&mut from, &mut to, frames).await;
                }
                return (from, to);
            }
        }
    }
}

/// Lets the frame under way pass and puts a Close frame behind it.
async fn close_cleanly(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    frames: &mut Frames,
) -> io::Result<()> {
    while !frames.is_between() {
        let byte = [from.read_u8().await?];
        frames.take(&byte);
        to.write_all(&byte).await?;
    }
    to.write_all(&CLOSE).await?;
    to.shutdown().await
}

async fn discard(from: &mut OwnedReadHalf) {
    let mut buffer = [0; 1024];
    while from.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
}

/// Knows whether a server's bytes stand between two WebSocket frames.
#[derive(Debug, Default)]
struct Frames {
    /// The last bytes of the HTTP head, until it has ended.
    head: Option<[u8; 4]>,
    upgraded: bool,
    header: Vec<u8>,
    payload: u64,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.upgraded && self.header.is_empty() && self.payload == 0
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(&byte) = bytes.first() {
            if !self.upgraded {
                let head = self.head.get_or_insert_default();
                head.rotate_left(1);
                head[3] = byte;
                self.upgraded = head == b"\r\n\r\n";
                bytes = &bytes[1..];
            } else if self.payload > 0 {
                let here = self.payload.min(bytes.len() as u64);
                self.payload -= here;
                bytes = &bytes[here as usize..];
            } else {
                self.header.push(byte);
                self.read_header();
                bytes = &bytes[1..];
            }
        }
    }

    /// A server masks nothing: the header is two bytes, and two or eight more for a long payload.
    fn read_header(&mut self) {
        let length = match self.header.as_slice() {
            [_, short @ 0..=125] => u64::from(*short),
            [_, 126, high, low] => u64::from(u16::from_be_bytes([*high, *low])),
            [_, 127, rest @ ..] if rest.len() == 8 => {
                rest.iter().fold(0, |length, byte| length << 8 | u64::from(*byte))
            }
            _ => return,
        };
        self.payload = length;
        self.header.clear();
    }
}
