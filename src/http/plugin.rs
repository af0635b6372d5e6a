//! The bot plugin's turns: joined when they are asked again, and answered so that its user can read every fault.
//!
//! ```text
//! handler ──join──> Log <──writes── drive (a task for each answer) ──> conversation · page
//!    └── body <──reads──┘
//! ```
//!
//! The plugin gives up after ten seconds of silence and asks the same again within moments. So its answers
//! belong to a task: when it leaves, the answer goes on for [`GRACE`], and the next attempt joins it. Until the
//! request has its place there is no such grace: what has not been sent goes with whoever wanted it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::access::Caller;
use super::body::{Account, Answer, AnswerBody};
use super::conversation::Admitted;
use super::page::{self, Asking, Prepared};
use super::pulse::Pulse;
use super::reply::{self, Asked};
use super::{App, caller, conversation, headers, refused, upstream};
use crate::error::{Fault, FaultKind};
use crate::exchange::PageRequest;
use crate::site::plugin::{PluginStream, TAIL, whole};
use crate::site::turn::Turn;
use crate::telemetry::metrics::Outcome;
use crate::turns::log::{Log, Reader};
use crate::turns::{Head, Joined, Key, Writing};

/// How long an answer goes on that nobody reads.
const GRACE: Duration = Duration::from_secs(30);

/// How often another instance is looked at that reads one.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// Answers the plugin's `turn`, or what is none.
pub(super) async fn answer(
    app: Arc<App>,
    prepared: Prepared,
    turn: Option<Turn>,
    asking: Asking,
) -> Response {
    let Asking { every, arrived, account, asked, .. } = asking;
    let pulse = every.map(|every| Pulse::new(every, arrived.into()));
    let stream = PluginStream::new(turn.clone());
    let key = turn.as_ref().map(|turn| key(&prepared.request, turn, &prepared.caller));
    let conversation = turn.and_then(|it| it.conversation);
    if let Some((keep, key)) = app.policy.join.zip(key) {
        let mut reader = match join(app, prepared, conversation, key, keep, arrived).await {
            Ok(reader) => reader,
            Err(fault) => return tell(&stream, &fault, account, &asked),
        };
        return match unless_due(reader.head(), pulse).await {
            Ok((Err(fault), _)) => tell(&stream, &fault, account, &asked),
            Ok((Ok(headers), pulse)) => {
                AnswerBody::joined(reader, pulse, account).respond(headers, Some(Box::new(stream)))
            }
            Err(pulse) => {
                let body = AnswerBody::joined(reader, Some(pulse), account);
                body.respond(headers::of_event_stream(), Some(Box::new(stream)))
            }
        };
    }
    let mut answer = ask(app, prepared, conversation, arrived).boxed();
    match unless_due(&mut answer, pulse).await {
        Ok((Err(fault), _)) => tell(&stream, &fault, account, &asked),
        Ok((Ok(Answer { headers, exchange, permit, .. }), pulse)) => {
            AnswerBody::new(exchange, permit, pulse, account).respond(headers, Some(Box::new(stream)))
        }
        Err(pulse) => AnswerBody::early(answer, pulse, account)
            .respond(headers::of_event_stream(), Some(Box::new(stream))),
    }
}

/// What `waits` brings, unless a ping is due before.
async fn unless_due<T>(
    waits: impl Future<Output = T>,
    pulse: Option<Pulse>,
) -> Result<(T, Option<Pulse>), Pulse> {
    let Some(mut pulse) = pulse else { return Ok((waits.await, None)) };
    tokio::select! {
        biased;
        it = waits => Ok((it, Some(pulse))),
        () = pulse.due() => Err(pulse),
    }
}

/// Answers with `fault` alone; `turn` is what was asked, if that is known.
pub(super) fn told(turn: Option<Turn>, fault: &Fault, account: Account, asked: &Asked) -> Response {
    tell(&PluginStream::new(turn), fault, account, asked)
}

/// Answers a request that gets no further, if it is the plugin's for an answer.
pub(super) fn turned_away(fault: &Fault, request: &Request) -> Option<Response> {
    let is_turn = request.method() == Method::POST && request.uri().path().ends_with("/conversation");
    let is_told = is_turn && caller::is_plugin(request.headers());
    let stream = || PluginStream::new(None).told(fault);
    is_told.then(|| reply::tell(fault, &Asked::of(request), headers::of_event_stream(), stream()))
}

fn tell(stream: &PluginStream, fault: &Fault, account: Account, asked: &Asked) -> Response {
    account.ending.end(Outcome::Fault(fault.kind()));
    reply::tell(fault, asked, headers::of_event_stream(), stream.told(fault))
}

/// What makes another request the same turn.
fn key(request: &PageRequest, turn: &Turn, caller: &Caller) -> Key {
    let digest = |follows: &[&str]| {
        let mut digest = Sha256::new();
        digest.update(turn.said);
        for part in [&*caller.id, &request.path].iter().chain(follows) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    };
    let conversation = turn.conversation.as_deref().unwrap_or_default();
    let exact = digest(&[conversation, turn.parent.as_deref().unwrap_or_default()]);
    Key { exact, loose: turn.conversation.is_none().then(|| digest(&[])) }
}

/// A reader of the answer to this turn, which is asked for if it is new.
async fn join(
    app: Arc<App>,
    prepared: Prepared,
    conversation: Option<String>,
    key: Key,
    keep: Duration,
    arrived: Instant,
) -> Result<Reader<HeaderMap>, Fault> {
    Ok(match app.turns.join(key).await? {
        Joined::New(writing, reader) => {
            tokio::spawn(drive(app, prepared, conversation, arrived, writing, keep));
            reader
        }
        Joined::Running(reader) => {
            tracing::info!("a turn that was asked again joins the answer under way");
            app.metrics.turn_joined();
            reader
        }
        Joined::Over(reader) => {
            tracing::info!("a turn that was asked again gets the answer that was given");
            app.metrics.turn_replayed();
            reader
        }
    })
}

/// Has an answer made and written down, and keeps it for a while.
async fn drive(
    app: Arc<App>,
    prepared: Prepared,
    conversation: Option<String>,
    arrived: Instant,
    mut writing: Writing<HeaderMap>,
    keep: Duration,
) {
    let turns = app.turns.clone();
    let log = writing.begin();
    let end = write(app, prepared, conversation, arrived, &log, &writing).await;
    log.finish(end);
    turns.make_room();
    if !log.is_spent() {
        tokio::time::sleep(keep).await;
    }
    turns.forget(&log);
}

async fn write(
    app: Arc<App>,
    prepared: Prepared,
    conversation: Option<String>,
    arrived: Instant,
    log: &Log<HeaderMap>,
    writing: &Writing<HeaderMap>,
) -> Result<(), Fault> {
    let reading = log.reading();
    let deserted = |grace| deserted(reading.clone(), grace, writing);
    let admitted = tokio::select! {
        biased;
        () = deserted(Duration::ZERO) => return Err(left()),
        admitted = conversation::admit(&app, prepared, conversation.as_deref(), arrived) => admitted,
    };
    let mut admitted = admitted?;
    writing.leave().into_iter().for_each(|it| admitted.request.leaves.add(it));
    let answer = tokio::select! {
        biased;
        answer = send(app.clone(), admitted, arrived) => answer?,
        () = deserted(GRACE) => return Err(given_up()),
    };
    let Answer { headers, mut exchange, permit, .. } = answer;
    exchange.hold(permit);
    log.head(headers);
    let mut tail = Vec::with_capacity(2 * TAIL);
    loop {
        let next = async {
            log.room().await;
            exchange.chunk().await
        };
        let taken = tokio::select! {
            biased;
            next = next => next,
            () = deserted(GRACE) => return Err(given_up()),
        };
        match taken {
            Some(Ok(taken)) => {
                let last = taken.bytes.len().saturating_sub(TAIL);
                tail.extend_from_slice(&taken.bytes[last..]);
                tail.drain(..tail.len().saturating_sub(TAIL));
                if whole(&tail).is_ok() {
                    log.push_last(taken.bytes);
                    // What is left is the end, which costs the site nothing, while an abort would be one.
                    let _ = tokio::time::timeout(GRACE, exchange.chunk()).await;
                    return Ok(());
                }
                log.push(taken.bytes);
                app.turns.make_room();
            }
            Some(Err(fault)) => return Err(fault),
            // One that is cut short is no answer to give again.
            None => return whole(&tail),
        }
    }
}

/// Waits for the conversation, a place, a page, and the stream.
async fn ask(
    app: Arc<App>,
    prepared: Prepared,
    conversation: Option<String>,
    arrived: Instant,
) -> Result<Answer, Fault> {
    let admitted = conversation::admit(&app, prepared, conversation.as_deref(), arrived).await?;
    send(app, admitted, arrived).await
}

/// What has a place goes to the site. Anything but a stream is a fault here.
async fn send(app: Arc<App>, admitted: Admitted, arrived: Instant) -> Result<Answer, Fault> {
    let Admitted { mut request, permit, caller } = admitted;
    upstream::settle(&app, &mut request);
    let answer = page::send(app, request, permit, caller, arrived).await?;
    if answer.status.is_success() && headers::is_event_stream(&answer.headers) {
        Ok(answer)
    } else {
        Err(refused::read(answer).await)
    }
}

/// Returns when nobody has read for `grace`, here or at another instance.
async fn deserted(mut reading: watch::Receiver<usize>, grace: Duration, writing: &Writing<HeaderMap>) {
    // The log holds the other end, and lives as long as this is waited for.
    while reading.wait_for(|readers| *readers == 0).await.is_ok() {
        let back = reading.wait_for(|readers| *readers > 0);
        if tokio::time::timeout(grace, back).await.is_ok() {
            continue;
        }
        // What has not been sent can be begun anew by whoever asks next.
        if !writing.is_read_elsewhere(grace.is_zero()).await {
            return;
        }
        let back = reading.wait_for(|readers| *readers > 0);
        let _ = tokio::time::timeout(ELSEWHERE, back).await;
    }
}

impl Head for HeaderMap {
    fn to_bytes(&self) -> Bytes {
        // Neither a name nor a value can have the end of a line in it, nor a name a colon.
        let lines =
            self.iter().map(|(name, value)| [name.as_str().as_bytes(), b":", value.as_bytes()].concat());
        lines.collect::<Vec<_>>().join(&b'\n').into()
    }

    fn from_bytes(bytes: &[u8]) -> Option<HeaderMap> {
        let lines = bytes.split(|it| *it == b'\n').filter(|it| !it.is_empty());
        let header = |line: &[u8]| {
            let colon = memchr::memchr(b':', line)?;
            Some((line[..colon].try_into().ok()?, line[colon + 1..].try_into().ok()?))
        };
        lines.map(header).collect()
    }
}

fn left() -> Fault {
    Fault::new(FaultKind::QueueTimeout, "The client left before its request had a place; ask again.")
}

fn given_up() -> Fault {
    let text = "This turn was sent before, and given up when nobody waited for its answer.";
    Fault::new(FaultKind::NotKept, text).maybe_sent()
}
