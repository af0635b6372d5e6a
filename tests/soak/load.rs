//! The load: clients of several kinds, each in a loop of its own, and every exchange in the books.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tabproxy::practice::pattern;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::{Expect, Reading, judge};
use super::ledger::{End, Ledger, Ticket};
use super::scale::{again, talk};
use super::wire::{self, Wire};
use super::{Fail, PATIENCE};

const CONVERSATION: &str = "/backend-api/conversation";

/// Kinds of clients, and how many of a hundred are of each.
pub const MIX: [(Client, u32); 9] = [
    (Client::Fast, 30),
    (Client::Long, 18),
    (Client::Slow, 8),
    (Client::LeavesEarly, 8),
    (Client::LeavesInMidStream, 10),
    (Client::Malformed, 8),
    (Client::AbortsUpload, 6),
    (Client::Uploads, 6),
    (Client::Bulk, 6),
];

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A short answer.
    Fast,
    /// A hundred events.
    Long,
    /// Reads slowly.
    Slow,
    /// Leaves before the head.
    LeavesEarly,
    /// Leaves in mid-stream.
    LeavesInMidStream,
    /// Sends what must be refused.
    Malformed,
    /// Leaves in its own body.
    AbortsUpload,
    /// Sends much.
    Uploads,
    /// Reads much that is no stream of events.
    Bulk,
    /// Asks the same turn again when it has no answer, as the bot plugin does.
    AsksAgain,
    /// Has two turns of one conversation at once.
    Talks,
}

/// Requests that must be refused, whatever state the browser is in, and never reach the site.
const MALFORMED: [&str; 9] = [
    "GET //evil.example/x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET http://evil.example/x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET /backend-api/%2e%2e/x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET /backend-api/a\\b HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "GET /backend-api/me HTTP/1.1\r\nhost: evil.example\r\n\r\n",
    "TRACE /backend-api/me HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "POST /backend-api/conversation HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    "POST /backend-api/conversation HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
    "\u{16}\u{3}\u{1} this is no HTTP \r\n\r\n",
];

/// How a client behaves once it has asked.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Reads to the end.
    Reads,
    /// Reads so much, then waits, and again.
    Dawdles { bytes: usize, pause: Duration },
    /// Leaves after that time, whatever has come.
    LeavesAfter(Duration),
    /// Leaves after so many pieces.
    LeavesAfterPieces(usize),
}

/// The load on one proxy, or on what stands in front of several. Clones share it.
#[derive(Clone)]
pub struct Load {
    addr: SocketAddr,
    mix: &'static [(Client, u32)],
    /// Whether it speaks HTTP/2 without TLS.
    speaks_http2: bool,
    /// The books.
    pub ledger: Ledger,
    running: Arc<watch::Sender<bool>>,
}

impl Load {
    /// No load yet, on a proxy.
    pub fn new(addr: SocketAddr, ledger: Ledger, mix: &'static [(Client, u32)]) -> Load {
        Load { addr, mix, speaks_http2: true, ledger, running: Arc::new(watch::channel(true).0) }
    }

    /// The same through nginx.
    pub fn through_nginx(addr: SocketAddr, ledger: Ledger, mix: &'static [(Client, u32)]) -> Load {
        Load { speaks_http2: false, ..Load::new(addr, ledger, mix) }
    }

    /// The proxy that it is put on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Runs so many clients until it is dropped or aborted; each goes on with another request when one has ended.
    pub fn start(&self, clients: u64, seed: u64) -> JoinSet<()> {
        let mut seats = JoinSet::new();
        for seat in 0..clients {
            let (load, mut rng) = (self.clone(), Rng::with_seed(seed.wrapping_add(seat)));
            let mut running = self.running.subscribe();
            seats.spawn(async move {
                while running.wait_for(|it| *it).await.is_ok() {
                    let client = pick(load.mix, &mut rng);
                    // In a task of its own: a panic is one lost exchange, and the seat goes on.
                    let (load, own) = (load.clone(), rng.fork());
                    let _ = tokio::spawn(async move { load.visit(client, own).await }).await;
                    sleep(Duration::from_millis(rng.u64(0..400))).await;
                }
            });
        }
        seats
    }

    /// Lets nobody begin another request, or lets them again.
    pub fn pause(&self, pause: bool) {
        self.running.send_replace(!pause);
    }

    /// Waits until nothing is under way; what still is when nobody may be so patient.
    pub async fn drained(&self) -> Vec<String> {
        let patient = async {
            while self.ledger.open() > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = timeout(2 * PATIENCE, patient).await;
        let open = self.ledger.open_ones();
        open.into_iter().map(|(id, client, age)| format!("{client} {id} for {age:.0?}")).collect()
    }

    /// A small fresh request; whether it was served.
    pub async fn probe(&self) -> bool {
        let ticket = self.ledger.begin("probe");
        let prompt = "hello count=3 interval=10";
        self.converse(ticket, Wire::Http1, prompt, Expect::Whole, Manner::Reads).await
    }

    /// A conversation that the site itself spoils.
    pub async fn spoilt(&self, knobs: &str, expect: Expect) {
        let ticket = self.ledger.begin("spoilt by the site");
        let prompt = format!("hello count=40 interval=25 {knobs}");
        self.converse(ticket, Wire::Http1, &prompt, expect, Manner::Reads).await;
    }

    /// One of a crowd; some of them do not wait for their turn.
    pub async fn crowded(&self, leaves_after: Option<Duration>) {
        let (name, manner) = match leaves_after {
            Some(time) => ("of the crowd, leaves the queue", Manner::LeavesAfter(time)),
            None => ("of the crowd", Manner::Reads),
        };
        let ticket = self.ledger.begin(name);
        self.converse(ticket, Wire::Http1, "hello count=5 interval=20", Expect::Whole, manner).await;
    }

    async fn visit(&self, client: Client, mut rng: Rng) {
        let wire = if self.speaks_http2 && rng.u8(0..4) == 0 { Wire::Http2 } else { Wire::Http1 };
        let text = ["ascii", "cjk", "emoji", "mixed"][rng.usize(0..4)];
        let format = ["classic", "delta"][rng.usize(0..2)];
        let (name, wire, prompt, manner) = match client {
            Client::Fast => {
                let (count, interval) = (rng.u32(3..30), rng.u32(5..40));
                let split = ["", "split=7", "ping=1"][rng.usize(0..3)];
                let prompt =
                    format!("hello count={count} interval={interval} text={text} format={format} {split}");
                ("fast", wire, prompt, Manner::Reads)
            }
            Client::Long => {
                let interval = [20, 50, 100, 200][rng.usize(0..4)];
                let prompt = format!("hello count=100 interval={interval} text={text} format={format}");
                ("of 100 events", wire, prompt, Manner::Reads)
            }
            Client::Slow => {
                let pause = Duration::from_millis(rng.u64(20..80));
                let prompt = "hello count=150 size=8000 interval=0 grow=0 format=delta".to_owned();
                ("slow reader", Wire::Narrow, prompt, Manner::Dawdles { bytes: 16 * 1024, pause })
            }
            Client::LeavesEarly => {
                let time = Duration::from_millis(rng.u64(0..1500));
                ("leaves before the head", wire, "hello first=8000".into(), Manner::LeavesAfter(time))
            }
            Client::LeavesInMidStream => {
                let prompt = format!("hello count=100 interval=50 text={text} format={format}");
                ("leaves in mid-stream", wire, prompt, Manner::LeavesAfterPieces(rng.usize(1..60)))
            }
            Client::Uploads => {
                let words = "狐狸 jumps 🦊 over ".repeat(rng.usize(4_000..40_000));
                let prompt = format!("echo=1 size=8192 interval=5 format=delta {words}");
                ("uploads", wire, prompt, Manner::Reads)
            }
            Client::Malformed => return self.malformed(MALFORMED[rng.usize(0..MALFORMED.len())]).await,
            Client::AbortsUpload => return self.aborted_upload(&mut rng).await,
            Client::Bulk => return self.bulk(wire, rng.usize(0..400_000)).await,
            Client::AsksAgain => return again::ask(self, rng).await,
            Client::Talks => return talk::converse(self, rng).await,
        };
        self.converse(self.ledger.begin(name), wire, &prompt, Expect::Whole, manner).await;
    }

    /// One conversation, to its end; whether it was complete.
    async fn converse(
        &self,
        ticket: Ticket,
        wire: Wire,
        prompt: &str,
        expect: Expect,
        manner: Manner,
    ) -> bool {
        let body = turn(&ticket.id, prompt, None, NEW);
        let reading = self.read(wire, CONVERSATION, Some(body), manner);
        let end = match timeout(PATIENCE, reading).await {
            Err(_) => End::Lost(format!("no end within {} s", PATIENCE.as_secs())),
            Ok(Err(error)) => no_head(&error),
            Ok(Ok(None)) => End::Left,
            Ok(Ok(Some(reading))) => judge(prompt, expect, &reading),
        };
        let complete = end == End::Completed;
        ticket.end(end);
        complete
    }

    /// Asks and reads as `manner` says; `None` when the client has left.
    async fn read(
        &self,
        wire: Wire,
        path: &str,
        body: Option<Vec<u8>>,
        manner: Manner,
    ) -> Result<Option<Reading>, Fail> {
        self.read_as(None, wire, path, body, manner).await
    }

    /// One turn asked for and read by `library`, by HTTP/1.1.
    pub async fn turn_as(
        &self,
        library: Option<&str>,
        body: Vec<u8>,
        manner: Manner,
    ) -> Result<Option<Reading>, Fail> {
        self.read_as(library, Wire::Http1, CONVERSATION, Some(body), manner).await
    }

    async fn read_as(
        &self,
        library: Option<&str>,
        wire: Wire,
        path: &str,
        body: Option<Vec<u8>>,
        manner: Manner,
    ) -> Result<Option<Reading>, Fail> {
        let asked = wire::send_as(self.addr, wire, path, body, library);
        let mut answer = match manner {
            Manner::LeavesAfter(time) => match timeout(time, asked).await {
                Ok(answer) => answer?,
                Err(_) => return Ok(None),
            },
            _ => asked.await?,
        };
        let (mut body, mut pieces, mut since_pause) = (Vec::new(), 0, 0);
        let ended = loop {
            match answer.piece().await {
                Some(Ok(piece)) => {
                    body.extend_from_slice(&piece);
                    (pieces, since_pause) = (pieces + 1, since_pause + piece.len());
                }
                Some(Err(_)) => break false,
                None => break true,
            }
            match manner {
                Manner::LeavesAfterPieces(most) if pieces >= most => return Ok(None),
                Manner::Dawdles { bytes, pause } if since_pause >= bytes => {
                    since_pause = 0;
                    sleep(pause).await;
                }
                _ => {}
            }
        };
        Ok(Some(Reading { status: answer.status, body, ended }))
    }

    async fn malformed(&self, request: &str) {
        let mut ticket = self.ledger.begin("malformed");
        ticket.most_posts = 0;
        let end = match timeout(PATIENCE, wire::raw(self.addr, request.as_bytes())).await {
            Ok(Ok(Some(status @ 400..=499))) => End::Refused(status.to_string()),
            Ok(Ok(None)) => End::Refused("closed".into()),
            // What nginx passes on, it passes on to somebody, or says that there is nobody.
            Ok(Ok(Some(status @ (502 | 504)))) if !self.speaks_http2 => {
                End::Failed(format!("nginx {status}"))
            }
            Ok(Ok(Some(status))) => End::Lost(format!("status {status} for {request:?}")),
            Ok(Err(error)) => no_head(&error),
            Err(_) => End::Lost(format!("no refusal of {request:?}")),
        };
        ticket.end(end);
    }

    /// Goes away in the middle of its own body, which therefore must never be sent.
    async fn aborted_upload(&self, rng: &mut Rng) {
        let mut ticket = self.ledger.begin("aborts its upload");
        ticket.most_posts = 0;
        let body = turn(&ticket.id, &"hello ".repeat(rng.usize(10..50_000)), None, NEW);
        let mut request = format!(
            "POST {CONVERSATION} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body[..rng.usize(0..body.len())]);
        let gone = wire::abandon(self.addr, &request, Duration::from_millis(rng.u64(0..300)));
        ticket.end(match timeout(PATIENCE, gone).await {
            Ok(_) => End::Left,
            Err(_) => End::Lost("its upload was taken by nobody".into()),
        });
    }

    /// A body that is no stream of events, byte for byte.
    async fn bulk(&self, wire: Wire, bytes: usize) {
        let mut ticket = self.ledger.begin("downloads");
        ticket.most_posts = 0;
        let path = format!("/backend-api/practice/bytes?n={bytes}");
        let reading = self.read(wire, &path, None, Manner::Reads);
        ticket.end(match timeout(PATIENCE, reading).await {
            Err(_) => End::Lost(format!("no end within {} s", PATIENCE.as_secs())),
            Ok(Err(error)) => no_head(&error),
            Ok(Ok(None)) => End::Left,
            Ok(Ok(Some(it))) if it.status != 200 => judge("", Expect::Whole, &it),
            Ok(Ok(Some(it))) if !pattern(0, bytes).starts_with(&it.body) => End::Lost("wrong bytes".into()),
            Ok(Ok(Some(it))) if it.body.len() == bytes => End::Completed,
            Ok(Ok(Some(it))) if !it.ended => End::Failed("cut".into()),
            Ok(Ok(Some(it))) => End::Lost(format!("a clean end after {} of {bytes} bytes", it.body.len())),
        });
    }
}

fn pick(mix: &[(Client, u32)], rng: &mut Rng) -> Client {
    let mut ticket = rng.u32(0..mix.iter().map(|(_, share)| share).sum());
    for (client, share) in mix {
        match ticket.checked_sub(*share) {
            Some(rest) => ticket = rest,
            None => return *client,
        }
    }
    Client::Fast
}

/// The proxy, or nginx, lives all the while: whoever gets no answer from it is lost.
pub fn no_head(error: &Fail) -> End {
    End::Lost(format!("no answer: {error}"))
}

/// What the first turn of a conversation follows.
pub const NEW: &str = "00000000-0000-4000-8000-000000000000";

/// The body of one turn, which begins a conversation or goes on with one.
pub fn turn(id: &str, prompt: &str, conversation: Option<&str>, parent: &str) -> Vec<u8> {
    let mut body = json!({
        "action": "next",
        "messages": [{
            "id": id,
            "author": {"role": "user"},
            "content": {"content_type": "text", "parts": [prompt]},
        }],
        "model": "auto",
        "parent_message_id": parent,
    });
    if let Some(conversation) = conversation {
        body["conversation_id"] = conversation.into();
    }
    body.to_string().into_bytes()
}
