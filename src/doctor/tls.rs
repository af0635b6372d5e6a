//! TLS with a site, for looking at its certificate: any is taken, and what is to be said of it is noted.
//!
//! Nothing secret is ever sent over such a connection. Chromium on Linux knows the authorities that it brings along
//! and those in the user's NSS database, but not those in `/etc/ssl`, where a company puts the one of its
//! intercepting proxy. Mozilla's list, which is nearly the same as Chromium's, stands for the former here.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::browser::gateway::Stream;

/// What is to be said of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// There was none: plain http.
    Plain,
    /// The operator named its key.
    Pinned,
    /// An authority that browsers know vouches for it.
    Known,
    /// Only this machine knows the authority, of this name.
    Local(String),
    /// A browser does not take it: why, and who issued it.
    Refused(Flaw, String),
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is over, or not begun yet.
    Time(&'static str),
    /// No known authority vouches for it.
    Issuer,
    /// It is for other names.
    Name,
    /// Something else.
    Other(String),
}

/// Speaks TLS over `stream` as with `host`, and says what is to be thought of the certificate.
///
/// # Errors
/// No TLS could be spoken at all.
pub async fn connect(
    stream: Box<dyn Stream>,
    host: &str,
    pins: &[String],
) -> io::Result<(Box<dyn Stream>, Trust)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let witness = Arc::new(Witness::new(provider.clone(), pins.to_vec())?);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(witness.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let seen = witness.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((Box::new(stream), seen.unwrap_or(Trust::Refused(Flaw::Issuer, String::new()))))
}

/// Takes every certificate, and notes what a browser would say.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    pins: Vec<String>,
    known: Arc<WebPkiServerVerifier>,
    /// What this machine knows; absent if that is nothing.
    local: Option<Arc<WebPkiServerVerifier>>,
    seen: Mutex<Option<Trust>>,
}

impl Witness {
    fn new(provider: Arc<CryptoProvider>, pins: Vec<String>) -> io::Result<Witness> {
        let verifier = |roots: RootCertStore| {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()
        };
        let known = verifier(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect());
        let mut local = RootCertStore::empty();
        local.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let local = verifier(local).ok();
        let known = known.map_err(io::Error::other)?;
        Ok(Witness { provider, pins, known, local, seen: Mutex::default() })
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = X509Certificate::from_der(certificate).ok().map(|(_, it)| it);
        let pin = parsed.as_ref().map(|it| STANDARD.encode(Sha256::digest(it.public_key().raw)));
        let issuer = || parsed.as_ref().map(|it| it.issuer().to_string()).unwrap_or_default();
        let by = |verifier: &WebPkiServerVerifier| {
            verifier.verify_server_cert(certificate, chain, name, ocsp, now)
        };
        let trust = match by(&self.known) {
            _ if pin.is_some_and(|it| self.pins.contains(&it)) => Trust::Pinned,
            Ok(_) => Trust::Known,
            Err(_) if self.local.as_deref().is_some_and(|it| by(it).is_ok()) => Trust::Local(issuer()),
            Err(error) => Trust::Refused(flaw(&error), issuer()),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(trust);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn flaw(error: &Error) -> Flaw {
    use CertificateError as C;
    match error {
        Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => Flaw::Time("has expired"),
        Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            Flaw::Time("is not valid yet")
        }
        Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => Flaw::Name,
        Error::InvalidCertificate(C::UnknownIssuer) => Flaw::Issuer,
        other => Flaw::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flaws_have_names() {
        let of = |error| flaw(&Error::InvalidCertificate(error));
        assert_eq!(of(CertificateError::Expired), Flaw::Time("has expired"));
        assert_eq!(of(CertificateError::NotValidYet), Flaw::Time("is not valid yet"));
        assert_eq!(of(CertificateError::UnknownIssuer), Flaw::Issuer);
        assert_eq!(of(CertificateError::NotValidForName), Flaw::Name);
        assert!(matches!(of(CertificateError::Revoked), Flaw::Other(_)));
    }
}
