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

mod body;
mod headers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use http_body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::access::bearer;
use super::reply::Asked;
use super::{App, path, shape};
use crate::config::ProxyConfig;
use crate::error::{Fault, FaultKind};
use crate::telemetry::metrics::Outcome;
use body::RelayBody;

/// How long reaching the target may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the target may say nothing: models that think can be silent for minutes.
const SILENCE: Duration = Duration::from_secs(600);
/// How long a caller may send nothing of its body.
const UPLOAD: Duration = Duration::from_secs(60);
/// Relayed requests that run at once: each costs two connections.
const AT_ONCE: usize = 512;

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
            // Shorter than what servers keep: one that is just being closed would lose the next request.
            .pool_idle_timeout(Duration::from_secs(30))
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
            let body = RelayBody::new(body, ending, place);
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
    let headers = headers::onward(&parts.headers, peer.as_deref(), |name| relay.is_stripped(name));
    let mut onward = relay.client.request(parts.method, url).headers(headers);
    if !body.is_end_stream() {
        onward = onward.body(reqwest::Body::wrap_stream(patient(body.into_data_stream())));
    }
    let answer = onward.send().await.map_err(|error| fault_of(&error))?;
    let mut response = Response::new(());
    *response.status_mut() = answer.status();
    *response.headers_mut() = headers::back(answer.headers());
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

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
}
