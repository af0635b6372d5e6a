//! The way out through a proxy that wants a user name and a password.
//!
//! Chromium cannot give them to a SOCKS proxy at all, and for an HTTP one it would ask a person. So for such
//! a proxy a small forwarder runs on loopback: Chromium speaks HTTP proxy with it, and it dials the real one.
//!
//! ```text
//! Chromium ──CONNECT host:port──> gateway ──CONNECT + Proxy-Authorization──> http(s) proxy
//!          ──GET http://host/──>          ──SOCKS5 + user, password───────> socks5 proxy
//! ```
//!
//! Each connection carries one tunnel, or one plain request (it is closed after the answer). While it runs,
//! any program on this machine could use the gateway too: its port is random and it never tells the password.
//! It must not know what passes through it.

mod head;
pub mod reach;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_socks::tcp::Socks5Stream;
use url::Url;

use head::{Request, is_hop, read_head, status};

use crate::config::{ProxyConfig, ProxyScheme, ProxyServer};

/// How long Chromium may take to send a request's head.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// How long reaching the proxy, and through it the host, may take.
const DIAL: Duration = Duration::from_secs(30);

/// What Chromium is told of the way out.
#[derive(Debug)]
pub struct WayOut {
    /// The value of `--proxy-server`; `None` for direct.
    pub server: Option<String>,
    /// The value of `--proxy-bypass-list`.
    pub bypass: String,
    /// The forwarders behind it, to be kept as long as the browser runs.
    pub gateways: Vec<Gateway>,
}

impl WayOut {
    /// No proxy.
    pub fn direct() -> WayOut {
        WayOut { server: None, bypass: String::new(), gateways: Vec::new() }
    }
}

/// Makes the way out: a proxy without credentials is named to Chromium, one with them gets a gateway.
///
/// # Errors
/// No loopback port, or no root certificates for an https proxy.
pub async fn way_out(proxy: &ProxyConfig) -> io::Result<WayOut> {
    let mut started: Vec<(&ProxyServer, Gateway)> = Vec::new();
    let mut rules = Vec::new();
    for (scheme, server) in [("https", &proxy.https), ("http", &proxy.http)] {
        let Some(server) = server else { continue };
        if server.credentials.is_none() {
            rules.push(format!("{scheme}={server}"));
            continue;
        }
        let addr = match started.iter().find(|(it, _)| *it == server) {
            Some((_, gateway)) => gateway.addr(),
            None => {
                let gateway = Gateway::start(GatewayUpstream::new(server.clone())?).await?;
                let addr = gateway.addr();
                started.push((server, gateway));
                addr
            }
        };
        rules.push(format!("{scheme}=http://{addr}"));
    }
    Ok(WayOut {
        server: (!rules.is_empty()).then(|| rules.join(";")),
        bypass: proxy.bypass.join(";"),
        gateways: started.into_iter().map(|(_, gateway)| gateway).collect(),
    })
}

/// The real proxy behind a gateway.
pub struct GatewayUpstream {
    server: ProxyServer,
    tls: Option<Arc<ClientConfig>>,
    /// Whether the refused credentials were reported already: once, not per request.
    refused: AtomicBool,
}

impl GatewayUpstream {
    /// A proxy; for an https one the machine's root certificates are read.
    ///
    /// # Errors
    /// There are no root certificates.
    pub fn new(server: ProxyServer) -> io::Result<GatewayUpstream> {
        let tls = if server.scheme == ProxyScheme::Https { Some(native_tls()?) } else { None };
        Ok(GatewayUpstream { server, tls, refused: AtomicBool::new(false) })
    }
}

pub(super) fn native_tls() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other("no root certificates for the https proxy; install ca-certificates"));
    }
    tls_with(roots)
}

fn tls_with(roots: RootCertStore) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(Arc::new(tls.with_root_certificates(roots).with_no_client_auth()))
}

/// A running forwarder. Dropping it closes its port and every connection.
#[derive(Debug)]
pub struct Gateway {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Gateway {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// No port to be had.
    pub async fn start(upstream: GatewayUpstream) -> io::Result<Gateway> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        Ok(Gateway { addr, task: tokio::spawn(serve(listener, Arc::new(upstream))) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, upstream: Arc<GatewayUpstream>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let upstream = upstream.clone();
                    connections.spawn(async move {
                        if let Err(error) = upstream.carry(client).await {
                            tracing::debug!(%error, "a connection through the proxy ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the gateway to the proxy cannot accept");
                    // Out of file descriptors, most likely: some come back when connections end.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A connection, whatever it is made of.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Why the proxy does not let us through: for the operator only.
#[derive(Debug)]
pub enum Refused {
    /// It wants a user name and a password, or others.
    Credentials,
    /// Something else, in words.
    Other(String),
}

/// A connection on which one request for a site may be made.
pub struct Approach {
    /// To the site, or to a proxy that passes one request on.
    pub stream: Box<dyn Stream>,
    /// What the request line names: a path, or for a proxy the whole address.
    pub target: String,
    /// The value of `Proxy-Authorization` that such a proxy wants: a secret.
    pub authorization: Option<String>,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Other(error.to_string())
    }
}

impl GatewayUpstream {
    /// Reaches the site of `url` through the proxy, as it is done for the browser. TLS with the site is the
    /// caller's business. Takes as long as the proxy does: give it a deadline.
    ///
    /// # Errors
    /// As the proxy refuses.
    pub async fn approach(&self, url: &Url) -> Result<Approach, Refused> {
        let request = Request::of(url).ok_or_else(|| Refused::Other(format!("{url} names no host")))?;
        let (stream, _) = self.dial(&request).await?;
        if request.tunnel || self.server.scheme == ProxyScheme::Socks5 {
            return Ok(Approach { stream, target: request.path, authorization: None });
        }
        Ok(Approach { stream, target: request.target, authorization: self.basic() })
    }

    async fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let (head, early) = match timeout(HEAD_WAIT, read_head(&mut client)).await {
            Ok(Ok(read)) => read,
            // Chromium opens connections ahead of need and closes them unused.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(_)) | Err(_) => return answer(&mut client, "400 Bad Request").await,
        };
        let Some(request) = Request::parse(&head) else {
            return answer(&mut client, "400 Bad Request").await;
        };
        match timeout(DIAL, self.dial(&request)).await {
            Err(_) => self.refuse(&mut client, &Refused::Other("no answer in time".into())).await,
            Ok(Err(why)) => self.refuse(&mut client, &why).await,
            Ok(Ok((mut proxy, _))) if !request.tunnel => {
                proxy.write_all(self.plain(&request).as_bytes()).await?;
                proxy.write_all(&early).await?;
                self.exchange(client, proxy).await
            }
            Ok(Ok((mut proxy, first))) => {
                self.refused.store(false, Ordering::Relaxed);
                client.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n").await?;
                client.write_all(&first).await?;
                proxy.write_all(&early).await?;
                copy_bidirectional(&mut client, &mut proxy).await.map(drop)
            }
        }
    }

    /// Reaches the proxy and, for a tunnel or SOCKS, through it the host. Also what the host has said already.
    async fn dial(&self, request: &Request) -> Result<(Box<dyn Stream>, Vec<u8>), Refused> {
        let tcp = TcpStream::connect((self.server.host.as_str(), self.server.port)).await?;
        tcp.set_nodelay(true)?;
        if self.server.scheme == ProxyScheme::Socks5 {
            return Ok((Box::new(self.socks(tcp, request).await?), Vec::new()));
        }
        let mut proxy: Box<dyn Stream> = match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(self.server.host.clone()).map_err(io::Error::other)?;
                Box::new(TlsConnector::from(tls.clone()).connect(name, tcp).await?)
            }
            None => Box::new(tcp),
        };
        if !request.tunnel {
            return Ok((proxy, Vec::new()));
        }
        let at = request.authority();
        let ask = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n{}\r\n", self.authorization());
        proxy.write_all(ask.as_bytes()).await?;
        let (head, first) = read_head(&mut proxy).await?;
        match status(&head) {
            Some(200..=299) => Ok((proxy, first)),
            Some(407) => Err(Refused::Credentials),
            _ => Err(Refused::Other(format!("it answered `{}`", head.lines().next().unwrap_or_default()))),
        }
    }

    async fn socks(&self, tcp: TcpStream, request: &Request) -> Result<Socks5Stream<TcpStream>, Refused> {
        let target = (request.host.as_str(), request.port);
        let dialled = match &self.server.credentials {
            Some((user, password)) => {
                Socks5Stream::connect_with_password_and_socket(tcp, target, user, password).await
            }
            None => Socks5Stream::connect_with_socket(tcp, target).await,
        };
        dialled.map_err(|error| match error {
            tokio_socks::Error::PasswordAuthFailure(_)
            | tokio_socks::Error::AuthorizationRequired
            | tokio_socks::Error::NoAcceptableAuthMethods => Refused::Credentials,
            other => Refused::Other(other.to_string()),
        })
    }

    /// The head of a plain request as the next hop takes it, for one request on this connection.
    fn plain(&self, request: &Request) -> String {
        let mut head = if self.server.scheme == ProxyScheme::Socks5 {
            format!("{} {} HTTP/1.1\r\n", request.method, request.path)
        } else {
            format!("{} {} HTTP/1.1\r\n{}", request.method, request.target, self.authorization())
        };
        for line in &request.headers {
            head += line;
            head += "\r\n";
        }
        head + "Connection: close\r\n\r\n"
    }

    fn authorization(&self) -> String {
        self.basic().map(|it| format!("Proxy-Authorization: {it}\r\n")).unwrap_or_default()
    }

    fn basic(&self) -> Option<String> {
        let (user, password) = self.server.credentials.as_ref()?;
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    /// Carries one plain request's body and its answer.
    async fn exchange(&self, mut client: TcpStream, proxy: Box<dyn Stream>) -> io::Result<()> {
        let (mut from_proxy, mut to_proxy) = split(proxy);
        let (mut from_client, mut to_client) = client.split();
        let answer = async {
            loop {
                let (head, rest) = read_head(&mut from_proxy).await?;
                let code = status(&head);
                if code == Some(407) {
                    return self.refuse(&mut to_client, &Refused::Credentials).await;
                }
                self.refused.store(false, Ordering::Relaxed);
                // So that Chromium takes a new connection for the next request, which needs the password too.
                let (first, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
                let headers: Vec<_> = headers.lines().filter(|it| !is_hop(it)).collect();
                let close = if matches!(code, Some(100..=199)) { "" } else { "Connection: close\r\n" };
                let headers: String = headers.iter().map(|it| format!("{it}\r\n")).collect();
                to_client.write_all(format!("{first}\r\n{headers}{close}\r\n").as_bytes()).await?;
                if close.is_empty() && rest.is_empty() {
                    continue;
                }
                to_client.write_all(&rest).await?;
                copy(&mut from_proxy, &mut to_client).await?;
                return to_client.shutdown().await;
            }
        };
        // The client's end is the end of the exchange: Chromium never closes one half only.
        tokio::select! {
            done = answer => done,
            gone = copy(&mut from_client, &mut to_proxy) => gone.map(drop),
        }
    }

    async fn refuse(&self, client: &mut (impl AsyncWrite + Unpin), why: &Refused) -> io::Result<()> {
        let proxy = &self.server;
        match why {
            Refused::Credentials if !self.refused.swap(true, Ordering::Relaxed) => tracing::warn!(
                "the proxy {proxy} refuses the user name and password; correct them in HTTPS_PROXY, \
                 HTTP_PROXY or ALL_PROXY (special characters percent-encoded) and start again"
            ),
            Refused::Credentials => tracing::debug!("the proxy {proxy} refuses the user name and password"),
            Refused::Other(why) => tracing::warn!("the proxy {proxy} does not connect: {why}"),
        }
        answer(client, "502 Bad Gateway").await
    }
}

async fn answer(client: &mut (impl AsyncWrite + Unpin), status: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    client.write_all(head.as_bytes()).await?;
    client.shutdown().await
}

#[cfg(test)]
mod tests;
