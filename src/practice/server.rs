//! The listener: a certificate of its own making, TLS, and a connection per protocol.
//!
//! Knows the routes only as a service. Ends everything, running answers too, when its token is cancelled.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::counters::Tally;
use super::policy::{ELSEWHERE, FRONT, HOME};

/// Connections that do not finish their handshake by then are closed.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failed accept (no descriptors left): a pause instead of a spin.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// Room for uploads, per stream and per connection.
const WINDOW: u32 = 16 << 20;
/// What one HTTP/2 stream may have queued.
const SEND_BUFFER: usize = 1 << 20;

/// A self-made certificate and the TLS configuration that presents it.
pub(super) struct Identity {
    /// The certificate, for clients to trust.
    pub pem: String,
    tls: Arc<ServerConfig>,
}

impl Identity {
    /// A new certificate for all of the site's names.
    ///
    /// # Errors
    /// When the system has no randomness to make a key from.
    pub fn new(http1_only: bool) -> io::Result<Self> {
        let names = [HOME, FRONT, ELSEWHERE, "localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, "tabproxy practice site");
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // Named explicitly: another part of the process may install another provider, or none.
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .map_err(io::Error::other)?;
        let h2 = (!http1_only).then(|| b"h2".to_vec());
        tls.alpn_protocols = h2.into_iter().chain([b"http/1.1".to_vec()]).collect();
        Ok(Self { pem: certificate.pem(), tls: Arc::new(tls) })
    }
}

/// Serves `router` on `listener` until `stop` is cancelled.
pub(super) async fn serve(
    listener: TcpListener,
    identity: Identity,
    router: Router,
    tally: Arc<Tally>,
    max_streams: u32,
    stop: CancellationToken,
) {
    let server = Server { acceptor: TlsAcceptor::from(identity.tls), router, tally, max_streams };
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((tcp, _)) => {
                    tokio::spawn(stop.clone().run_until_cancelled_owned(server.clone().connection(tcp)));
                }
                Err(error) => {
                    tracing::warn!(%error, "practice site: cannot accept");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

#[derive(Clone)]
struct Server {
    acceptor: TlsAcceptor,
    router: Router,
    tally: Arc<Tally>,
    max_streams: u32,
}

impl Server {
    /// One connection, from its handshake to its end.
    async fn connection(self, tcp: TcpStream) {
        // Without it, Nagle's algorithm holds small events back until the last one is acknowledged.
        let _ = tcp.set_nodelay(true);
        let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(tcp)).await else { return };
        let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        self.tally.add(|counters| {
            let connections = if is_h2 { &mut counters.h2_connections } else { &mut counters.h1_connections };
            *connections += 1;
        });
        let service = TowerToHyperService::new(self.router);
        let io = TokioIo::new(tls);
        let served = if is_h2 {
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(4 * WINDOW)
                .max_concurrent_streams(self.max_streams)
                .max_send_buf_size(SEND_BUFFER)
                // Benchmarks abandon many streams at once; a real site's front bears that too.
                .max_pending_accept_reset_streams(10_000)
                .max_local_error_reset_streams(None)
                .serve_connection(io, service)
                .await
        } else {
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service).await
        };
        if let Err(error) = served {
            tracing::debug!(%error, "practice site: a connection ended early");
        }
    }
}
