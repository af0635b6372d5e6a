//! `/backend-api/practice/*`: what tests and benchmarks need of an origin and no chat site has.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, Sleep};

use super::counters::Running;
use super::policy::{self, Arrived};
use super::reply::{Refusal, hex, new_id, ok, with_type};
use super::routes::{Site, whole_body};

/// The pattern repeats after so many bytes.
const PERIOD: usize = 65_536;
/// Two periods, so that a piece of one period can begin anywhere.
static BLOCK: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(pattern(0, 2 * PERIOD)));

/// The bytes that `bytes` and `synthesize` serve: `length` of them from `offset` on.
///
/// Byte `i` is `(i * 31 + (i >> 8)) & 0xff`: it differs from its neighbours and from the same place in
/// the next 256 bytes, so that a lost, doubled or moved piece shows.
pub fn pattern(offset: u64, length: usize) -> Vec<u8> {
    let byte = |i: u64| (i.wrapping_mul(31).wrapping_add(i >> 8) & 0xff) as u8;
    (offset..).take(length).map(byte).collect()
}

/// `ANY echo`: the request as it arrived.
pub(super) async fn echo(request: Request) -> Result<Response, Refusal> {
    let method = request.method().to_string();
    let headers = listed(request.headers());
    let arrived = request.extensions().get::<Arrived>();
    let uri = arrived.map_or_else(|| request.uri().clone(), |arrived| arrived.0.clone());
    let version = format!("{:?}", request.version());
    let body = whole_body(request).await?;
    Ok(ok(&json!({"method": method, "path": uri.path(), "query": uri.query(), "version": version,
                  "headers": headers, "body_len": body.len(), "body_sha256": hex(&Sha256::digest(&body))})))
}

/// `POST mirror`: the same bytes with the same content-type.
pub(super) async fn mirror(request: Request) -> Result<Response, Refusal> {
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = with_type(StatusCode::OK, "application/octet-stream", whole_body(request).await?);
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    Ok(response)
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    n: u64,
    rate: Option<u64>,
}

/// `GET bytes?n=N&rate=BYTES_PER_S`: the [`pattern`] from its beginning.
pub(super) async fn bytes(State(site): State<Arc<Site>>, Query(wanted): Query<Wanted>) -> Response {
    let mut running = site.tally.begin();
    if wanted.n == 0 {
        // Nobody polls a body that is known to be empty.
        running.finish();
    }
    let body = Bulk {
        sent: 0,
        total: wanted.n,
        rate: wanted.rate.filter(|&rate| rate > 0),
        began: Instant::now(),
        sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        running,
    };
    with_type(StatusCode::OK, "application/octet-stream", Body::new(body))
}

#[derive(Debug, Deserialize)]
pub(super) struct Code {
    code: u16,
}

/// `ANY status?code=N`: that status, with every header that must not pass through a proxy unseen.
pub(super) async fn status(Query(Code { code }): Query<Code>) -> Result<Response, Refusal> {
    let status = StatusCode::from_u16(code).ok().filter(|status| !status.is_informational());
    let status = status.ok_or_else(|| Refusal::invalid(json!(["query", "code"]), "not a final status"))?;
    let bodyless =
        matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let text = if bodyless { String::new() } else { json!({ "status": code }).to_string() };
    let mut response = with_type(status, "application/json", text);
    let site_headers = [
        (header::SET_COOKIE, "practice_status=1; Path=/; HttpOnly; Secure; SameSite=Lax"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::ALT_SVC, "clear"),
        (HeaderName::from_static("x-ratelimit-remaining"), "41"),
        (HeaderName::from_static("x-tabproxy-instance"), "the-site"),
        (header::ETAG, "\"practice\""),
        (header::LOCATION, "/landed"),
        (header::RETRY_AFTER, "3"),
    ];
    for (name, value) in site_headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[derive(Debug, Deserialize)]
pub(super) struct Target {
    to: String,
    code: Option<u16>,
}

/// `ANY redirect?to=URL&code=302|307|308`.
pub(super) async fn redirect(Query(target): Query<Target>) -> Result<Response, Refusal> {
    let status =
        StatusCode::from_u16(target.code.unwrap_or(302)).ok().filter(|status| status.is_redirection());
    let status = status.ok_or_else(|| Refusal::invalid(json!(["query", "code"]), "not a redirection"))?;
    Ok(policy::redirect(status, &target.to))
}

#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    ms: u64,
}

/// `ANY slow-head?ms=N`: an answer that begins late.
pub(super) async fn slow_head(State(site): State<Arc<Site>>, Query(wait): Query<Wait>) -> Response {
    let mut running = site.tally.begin();
    tokio::time::sleep(Duration::from_millis(wait.ms)).await;
    running.finish();
    ok(&json!({"waited_ms": wait.ms}))
}

/// `GET cookie-rotate`: a new value of `practice_rotating`, and for who is signed in a new session in place
/// of the old one, as a site that rotates its sign-in does.
pub(super) async fn cookie_rotate(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let value = new_id();
    let cookie = format!("practice_rotating={value}; Path=/; Max-Age=86400; HttpOnly; Secure; SameSite=Lax");
    let mut response = ([(header::SET_COOKIE, cookie)], ok(&json!({ "value": value }))).into_response();
    if site.gate.is_signed_in(&headers)
        && let Ok(session) = HeaderValue::try_from(site.gate.rotate_session())
    {
        response.headers_mut().append(header::SET_COOKIE, session);
    }
    response
}

fn listed(headers: &HeaderMap) -> Value {
    let values = |name| {
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
    };
    let list: Map<String, Value> = headers.keys().map(|name| (name.to_string(), values(name))).collect();
    Value::Object(list)
}

/// A long body out of one static block: nothing is copied.
#[derive(Debug)]
struct Bulk {
    sent: u64,
    total: u64,
    /// Bytes per second.
    rate: Option<u64>,
    began: Instant,
    sleep: Pin<Box<Sleep>>,
    running: Running,
}

impl Bulk {
    /// How long to wait until `length` more bytes may be sent.
    fn due(&self, length: u64) -> Option<Instant> {
        let seconds = (self.sent + length) as f64 / self.rate? as f64;
        // No clock reaches further than a few years.
        Some(self.began + Duration::from_secs_f64(seconds.min(1e8)))
    }

    /// With a rate, pieces of a twentieth of a second, so that it flows rather than jumps.
    fn next_length(&self) -> u64 {
        let most = self.rate.map_or(PERIOD as u64, |rate| (rate / 20).clamp(1, PERIOD as u64));
        most.min(self.total - self.sent)
    }
}

impl http_body::Body for Bulk {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.next_length();
        if length == 0 {
            self.running.finish();
            return Poll::Ready(None);
        }
        if let Some(due) = self.due(length).filter(|&due| due > Instant::now()) {
            self.sleep.as_mut().reset(due);
            ready!(self.sleep.as_mut().poll(cx));
        }
        let from = (self.sent % PERIOD as u64) as usize;
        let piece = BLOCK.slice(from..from + length as usize);
        self.sent += length;
        if self.sent == self.total {
            self.running.finish();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.total - self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_the_pattern_wherever_it_begins() {
        let whole = pattern(0, 3 * PERIOD);
        assert_eq!(pattern(70_001, 999), whole[70_001..71_000]);
        assert_eq!(whole[PERIOD..2 * PERIOD], whole[..PERIOD]);
        assert_eq!(BLOCK[..], whole[..2 * PERIOD]);
        assert_ne!(whole[..256], whole[256..512]);
    }
}
