//! The official API, relayed without the page: for callers with a key of theirs.
//!
//! ```text
//! /platform/v1/x, /platform/dashboard/x ──> target/v1/x, target/dashboard/x
//! /v1/x with an official key            ──> target/v1/x
//! ```
//!
//! Bodies pass as they come, in both directions, and are never read: a typed copy of a foreign API breaks with
//! its next version. Only what belongs to a connection, and what the operator strips, stays behind. Nothing is
//! kept for a slow reader but what its connection holds.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use http_body::{Body as _, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::access::bearer;
use super::body::Cut;
use super::reply::Asked;
use super::{App, headers, path, shape};
use crate::config::ProxyConfig;
use crate::error::{Fault, FaultKind};
use crate::telemetry::metrics::{Ending, Outcome};

/// How long reaching the target may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the target may say nothing: models that think can be silent for minutes.
const SILENCE: Duration = Duration::from_secs(600);
/// How long a caller may send nothing of its body.
const UPLOAD: Duration = Duration::from_secs(60);
/// Relayed requests that run at once: each costs two connections.
const AT_ONCE: usize = 512;

/// Headers that belong to a connection, or name the host that is not the target.
const HOP: [&str; 10] = [
    "connection",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What an answer says of the target's host alone, which ours is not.
const OF_HOST: [&str; 2] = ["alt-svc", "strict-transport-security"];

/// The way to the official API.
pub struct Relay {
    client: reqwest::Client,
    target: Url,
    strip: Vec<String>,
    places: Arc<Semaphore>,
}

impl Relay {
    /// To `target`, whose path ends in `/`, without headers that begin as `strip` says.
    ///
    /// # Errors
    /// When no client can be made of the proxy.
    pub fn new(target: Url, strip: Vec<String>, proxy: &ProxyConfig) -> io::Result<Relay> {
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .tcp_nodelay(true)
            .no_proxy();
        let builder = match proxy.server_for(&target) {
            Some(server) => {
                let url = server.url().ok_or_else(|| io::Error::other("the proxy has no address"))?;
                builder.proxy(reqwest::Proxy::all(url).map_err(io::Error::other)?)
            }
            None => builder,
        };
        let client = builder.build().map_err(io::Error::other)?;
        Ok(Relay { client, target, strip, places: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// Where a request for this path and query goes.
    fn address(&self, path_and_query: &str) -> Option<Url> {
        let path = path_and_query.strip_prefix("/platform").unwrap_or(path_and_query);
        let url = Url::parse(&format!("{}{}", self.target, path.strip_prefix('/')?)).ok()?;
        (url.origin() == self.target.origin()).then_some(url)
    }

    fn is_stripped(&self, name: &str) -> bool {
        self.strip.iter().any(|it| name.starts_with(it.as_str()))
    }
}

fn tls() -> io::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Whether a request is for the official API, and not for the page.
pub(super) fn is_relayed(path: &str, headers: &HeaderMap) -> bool {
    path.starts_with("/platform/") || shape::is_official(path) && has_official_key(headers)
}

/// Whether the headers show a key that only the official API can mean. What Azure calls `api-key` is one.
fn has_official_key(headers: &HeaderMap) -> bool {
    let key = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok()).map(bearer);
    key.is_some_and(|it| it.starts_with("sk-") || it.starts_with("sess-")) || has_azure_key(headers)
}

fn has_azure_key(headers: &HeaderMap) -> bool {
    headers.get("api-key").is_some_and(|it| !it.as_bytes().trim_ascii().is_empty())
}

/// Takes what is for the official API out of the way of everything else.
pub(super) async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if !is_relayed(&path, request.headers()) {
        return next.run(request).await;
    }
    let ending = app.metrics.begin();
    let mut asked = Asked::of(&request);
    match relay(&app, request).await {
        Ok((mut response, place)) => {
            let body = std::mem::take(response.body_mut());
            let body = RelayBody { body, ending: Some(ending), _place: place };
            response.map(|_| Body::new(body))
        }
        Err(fault) => {
            ending.end(Outcome::Fault(fault.kind()));
            asked.unread &= fault.kind() != FaultKind::BodyTimeout;
            shape::refuse(&fault, &asked, &path)
        }
    }
}

/// A route of the official API that nothing here serves, for a caller without a key of theirs.
pub(super) async fn unserved(request: Request) -> Response {
    shape::refuse(&needs_key(), &Asked::of(&request), request.uri().path())
}

fn needs_key() -> Fault {
    Fault::new(
        FaultKind::OfficialKeyRequired,
        "Only the official API has this route, and it wants a key of its own: send it as \
         `Authorization: Bearer sk-…`.",
    )
}

async fn relay(app: &App, request: Request) -> Result<(Response, OwnedSemaphorePermit), Fault> {
    let relay = &app.relay;
    let (parts, body) = request.into_parts();
    // The same rules as for the page: what two parsers could read differently goes nowhere.
    let allow = ["/v1".to_owned(), "/platform/".to_owned()];
    let target = path::check(&parts.uri, parts.version, &allow)?;
    let is_blank = |it: &HeaderValue| it.as_bytes().trim_ascii().is_empty();
    if parts.headers.get(header::AUTHORIZATION).is_none_or(is_blank) && !has_azure_key(&parts.headers) {
        return Err(needs_key());
    }
    let url = relay.address(&target).ok_or_else(|| {
        Fault::new(FaultKind::BadRequest, "The path does not lead to a place of the official API.")
    })?;
    let place = relay.places.clone().try_acquire_owned().map_err(|_| {
        let text = "Too many requests for the official API are running; try again in a few seconds.";
        Fault::new(FaultKind::QueueFull, text).retry_after(Duration::from_secs(5))
    })?;
    let peer =
        parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|it| it.0.ip().to_canonical().to_string());
    let headers = onward(&parts.headers, peer.as_deref(), |name| relay.is_stripped(name));
    let mut onward = relay.client.request(parts.method, url).headers(headers);
    if !body.is_end_stream() {
        onward = onward.body(reqwest::Body::wrap_stream(patient(body.into_data_stream())));
    }
    let answer = onward.send().await.map_err(|error| fault_of(&error))?;
    let mut response = Response::new(());
    *response.status_mut() = answer.status();
    *response.headers_mut() = back(answer.headers());
    Ok((response.map(|()| Body::new(reqwest::Body::from(answer))), place))
}

/// A caller's body, unless it stands still.
fn patient(body: BodyDataStream) -> impl futures::Stream<Item = Result<Bytes, io::Error>> + Send {
    futures::stream::unfold(Some(body), |body| async {
        let mut body = body?;
        match tokio::time::timeout(UPLOAD, body.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    })
}

/// The headers of a request as the target sees them.
fn onward(sent: &HeaderMap, peer: Option<&str>, is_stripped: impl Fn(&str) -> bool) -> HeaderMap {
    let passes = |name: &HeaderName| {
        let name = name.as_str();
        !HOP.contains(&name)
            && name != "proxy-authorization"
            && !is_stripped(name)
            && !headers::is_for_connection(sent, name)
    };
    let mut headers: HeaderMap = sent
        .iter()
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let name = HeaderName::from_static("x-forwarded-for");
    if let (Some(peer), false) = (peer, is_stripped(name.as_str())) {
        let before = sent.get_all(&name).iter().filter_map(|it| it.to_str().ok());
        let list = before.chain([peer]).collect::<Vec<_>>().join(", ");
        if let Ok(list) = HeaderValue::try_from(list) {
            headers.insert(name, list);
        }
    }
    headers
}

/// The headers of an answer as the caller sees them.
fn back(sent: &HeaderMap) -> HeaderMap {
    let passes = |name: &HeaderName| {
        let name = name.as_str();
        // Who may read it in a browser is for us to say.
        let is_ours = name.starts_with("access-control-") || OF_HOST.contains(&name);
        !HOP.contains(&name) && !is_ours && !headers::is_for_connection(sent, name)
    };
    let mut headers = HeaderMap::with_capacity(sent.len() + 1);
    for (name, value) in sent.iter().filter(|(name, _)| passes(name)) {
        headers.append(name.clone(), value.clone());
    }
    if headers::is_event_stream(&headers) {
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    headers
}

/// What went wrong on the way. The error's own words hold the address, and so a query: only its sources are
/// told, to the log.
fn fault_of(error: &reqwest::Error) -> Fault {
    let cause = std::error::Error::source(error).map(std::string::ToString::to_string).unwrap_or_default();
    let fault = if error.is_timeout() && !error.is_connect() {
        Fault::new(FaultKind::ApiTimeout, "The official API did not answer in time.").maybe_sent()
    } else if error.is_connect() {
        let fault = Fault::new(FaultKind::ApiUnreachable, "The official API cannot be reached.");
        fault.retry_after(Duration::from_secs(10))
    } else {
        Fault::new(FaultKind::ApiUnreachable, "The official API broke off.").maybe_sent()
    };
    fault.because(cause)
}

/// An answer's body on its way; dropping it drops the request.
struct RelayBody {
    body: Body,
    ending: Option<Ending>,
    _place: OwnedSemaphorePermit,
}

impl RelayBody {
    fn end(&mut self, outcome: Outcome) {
        if let Some(ending) = self.ending.take() {
            ending.end(outcome);
        }
    }
}

impl http_body::Body for RelayBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match next {
            Some(Ok(frame)) => {
                if self.body.is_end_stream() {
                    self.end(Outcome::Complete);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let source =
                    std::error::Error::source(&error).and_then(|it| it.downcast_ref::<reqwest::Error>());
                let fault = source.map_or_else(
                    || Fault::new(FaultKind::ApiUnreachable, "The official API broke off.").maybe_sent(),
                    fault_of,
                );
                self.end(Outcome::Fault(fault.kind()));
                Some(Err(Cut { code: fault.kind().code(), fault }))
            }
            None => {
                self.end(Outcome::Complete);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(target: &str) -> Relay {
        Relay::new(target.parse().unwrap(), Vec::new(), &ProxyConfig::default()).unwrap()
    }

    #[test]
    fn addresses_stay_below_the_target() {
        let official = relay("https://api.openai.com/");
        let azure = relay("https://a.azure.com/openai/");
        for (relay, path, expected) in [
            (&official, "/v1/models?a=b", "https://api.openai.com/v1/models?a=b"),
            (&official, "/platform/v1/models", "https://api.openai.com/v1/models"),
            (
                &official,
                "/platform/dashboard/billing/credit_grants",
                "https://api.openai.com/dashboard/billing/credit_grants",
            ),
            (
                &azure,
                "/v1/chat/completions?api-version=1",
                "https://a.azure.com/openai/v1/chat/completions?api-version=1",
            ),
            (&azure, "/platform/deployments/d/x", "https://a.azure.com/openai/deployments/d/x"),
        ] {
            assert_eq!(relay.address(path).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn only_a_key_of_theirs_leads_there() {
        let with = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
        };
        let none = HeaderMap::new();
        for (path, headers, expected) in [
            ("/v1/models", &with("authorization", "Bearer sk-a"), true),
            ("/v1/models", &with("authorization", "sk-a"), true),
            ("/v1/models", &with("authorization", "Bearer sess-a"), true),
            ("/v1/models", &with("api-key", "0123"), true),
            ("/v1/models", &with("api-key", " "), false),
            ("/v1/models", &with("authorization", "Bearer eyJ"), false),
            ("/v1/models", &none, false),
            ("/v1x", &with("api-key", "0123"), false),
            ("/backend-api/me", &with("authorization", "Bearer sk-a"), false),
            ("/platform/v1/models", &none, true),
        ] {
            assert_eq!(is_relayed(path, headers), expected, "{path} {headers:?}");
        }
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let map = |all: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in all {
                map.append(HeaderName::from_static(name), value.parse().unwrap());
            }
            map
        };
        let sent = map(&[
            ("authorization", "Bearer sk-a"),
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("host", "us"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic a"),
            ("x-fc-region", "1"),
            ("content-length", "5"),
            ("x-forwarded-for", "1.2.3.4"),
            ("openai-beta", "a"),
            ("openai-beta", "b"),
        ]);
        let got = onward(&sent, Some("10.0.0.1"), |name| name.starts_with("x-fc"));
        let mut names: Vec<_> =
            got.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                ("authorization", "Bearer sk-a"),
                ("content-length", "5"),
                ("openai-beta", "a"),
                ("openai-beta", "b"),
                ("x-forwarded-for", "1.2.3.4, 10.0.0.1"),
            ]
        );
        let answer = map(&[
            ("content-type", "text/event-stream"),
            ("content-encoding", "gzip"),
            ("transfer-encoding", "chunked"),
            ("access-control-allow-origin", "*"),
            ("strict-transport-security", "1"),
            ("location", "https://elsewhere"),
            ("content-length", "7"),
        ]);
        let got = back(&answer);
        let mut names: Vec<_> = got.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["content-encoding", "content-length", "content-type", "location", "x-accel-buffering"]
        );
    }
}
