//! The way to a browser's DevTools: a WebSocket, over TCP or TLS, to an address that may have to be asked for.
//!
//! Knows no command and no event. An address may hold secrets: no error says more of it than it must.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use url::Url;

use super::LinkError;
use crate::browser::gateway;

/// How long a browser may take to be reached.
const REACH: Duration = Duration::from_secs(10);
/// The most that is read of what a browser says of itself.
const ABOUT: usize = 64 * 1024;

/// A byte stream, whatever it runs over.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// An open connection; its messages are JSON.
pub(super) type Wire = WebSocketStream<Box<dyn Io>>;

/// Connects to a `ws://` or `wss://` address; an `http://` or `https://` one is asked for it.
pub(super) async fn connect(address: &Url) -> Result<Wire, LinkError> {
    let connecting = async {
        match address.scheme() {
            "http" | "https" => open(&ask(address.clone()).await?).await,
            _ => open(address).await,
        }
    };
    tokio::time::timeout(REACH, connecting)
        .await
        .unwrap_or_else(|_| Err(LinkError::Unreachable(io::ErrorKind::TimedOut.into())))
}

async fn open(address: &Url) -> Result<Wire, LinkError> {
    let mut request =
        address.as_str().into_client_request().map_err(|_| not_devtools("no usable address"))?;
    if let Some(value) = authorization(address) {
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    // What a browser says has any size: a picture, the whole of somebody's cookies.
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    match client_async_with_config(request, dial(address).await?, Some(config)).await {
        Ok((wire, _)) => Ok(wire),
        Err(tungstenite::Error::Http(answer)) => Err(turned_away(answer.status())),
        Err(tungstenite::Error::Io(error)) => Err(LinkError::Unreachable(error)),
        Err(error) => Err(not_devtools(error)),
    }
}

async fn dial(address: &Url) -> Result<Box<dyn Io>, LinkError> {
    let host = address.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = address.port_or_known_default().unwrap_or_default();
    let tcp = TcpStream::connect((host, port)).await.map_err(LinkError::Unreachable)?;
    tcp.set_nodelay(true).map_err(LinkError::Unreachable)?;
    if !matches!(address.scheme(), "wss" | "https") {
        return Ok(Box::new(tcp));
    }
    let tls = async {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(gateway::native_tls()?).connect(name, tcp).await
    };
    Ok(Box::new(tls.await.map_err(LinkError::Unreachable)?))
}

/// Asks a browser for its address, as every DevTools port can be.
async fn ask(mut address: Url) -> Result<Url, LinkError> {
    let mut about = inquire(&address).await?;
    if about.0 == StatusCode::INTERNAL_SERVER_ERROR && about.1.starts_with("Host header") {
        // Chromium answers to no name but localhost, lest a page reach it by one: so by its number.
        let host = address.host_str().unwrap_or_default().to_owned();
        let port = address.port_or_known_default().unwrap_or_default();
        let mut found = tokio::net::lookup_host((host, port)).await.map_err(LinkError::Unreachable)?;
        let number = found.next().ok_or_else(|| not_devtools("no address"))?.ip();
        address.set_ip_host(number).map_err(|()| not_devtools("no usable address"))?;
        about = inquire(&address).await?;
    }
    let (status, text) = about;
    if status != StatusCode::OK {
        return Err(turned_away(status));
    }
    let about: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let said = about.get("webSocketDebuggerUrl").and_then(serde_json::Value::as_str);
    let said = said.and_then(|it| Url::parse(it).ok());
    let said = said.ok_or_else(|| not_devtools("it does not say where its DevTools are"))?;
    // It knows the way within itself, but not the way to it.
    let secure = address.scheme() == "https";
    let query = said.query().or(address.query()).map(str::to_owned);
    let _ = address.set_scheme(if secure { "wss" } else { "ws" });
    address.set_path(said.path());
    address.set_query(query.as_deref());
    Ok(address)
}

/// Status and text of what the browser at this address says of itself.
async fn inquire(address: &Url) -> Result<(StatusCode, String), LinkError> {
    let query = address.query().map(|it| format!("?{it}")).unwrap_or_default();
    let path = format!("{}/json/version{query}", address.path().trim_end_matches('/'));
    let host = &address[url::Position::BeforeHost..url::Position::AfterPort];
    let mut request = hyper::Request::get(path).header(header::HOST, host);
    if let Some(value) = authorization(address) {
        request = request.header(header::AUTHORIZATION, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| not_devtools("no usable address"))?;
    let io = TokioIo::new(dial(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(not_devtools)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(not_devtools)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ABOUT).collect().await;
        let body = body.map_err(|error| not_devtools(error.to_string()))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // What it has said before it closed is still to be read.
        _ = connection => answer.await,
    }
}

fn authorization(address: &Url) -> Option<HeaderValue> {
    let decoded = |it| percent_encoding::percent_decode_str(it).decode_utf8_lossy();
    let password = address.password().unwrap_or_default();
    if address.username().is_empty() && password.is_empty() {
        return None;
    }
    let both = format!("{}:{}", decoded(address.username()), decoded(password));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(both))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn turned_away(status: StatusCode) -> LinkError {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => LinkError::Forbidden(status),
        other => not_devtools(format!("it answers {other}")),
    }
}

fn not_devtools(why: impl std::fmt::Display) -> LinkError {
    LinkError::NotDevTools(why.to_string())
}
