//! The direct floor: an HTTP/2 client straight to the site, let in by a clearance cookie of its own.

use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderValue};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tabproxy::practice::Practice;

use super::client::Client;
use super::load::Fail;

const AGENT: &str = "tabproxy-bench";

/// A client that the site takes for a script of its own page.
pub fn client(site: &Practice) -> Result<Client, Fail> {
    let mut headers = HeaderMap::new();
    headers.insert("cookie", HeaderValue::from_str(&site.clearance_for(AGENT))?);
    headers.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
    headers.insert("sec-fetch-mode", HeaderValue::from_static("cors"));
    headers.insert("sec-fetch-dest", HeaderValue::from_static("empty"));
    let mut http = reqwest::Client::builder()
        .tls_backend_preconfigured(trusting(site.cert_pem())?)
        .default_headers(headers)
        .user_agent(AGENT)
        .tcp_nodelay(true)
        .no_proxy();
    for (name, addr) in resolved(site)? {
        http = http.resolve(&name, addr);
    }
    Ok(Client::new(http.build()?, &site.home_url()))
}

fn trusting(certificate: &str) -> Result<ClientConfig, Fail> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

fn resolved(site: &Practice) -> Result<Vec<(String, std::net::SocketAddr)>, Fail> {
    let resolve = site.resolve();
    let pairs = resolve.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, addr)| Ok((name.to_owned(), addr.parse()?))).collect()
}
