//! Heads of HTTP/1.1 messages, as far as a proxy's client and a proxy need them.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};
use url::Url;

/// The longest head of a request or an answer, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;

/// Reads up to the empty line: the head without it, and what came after.
pub(super) async fn read_head(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let seen = bytes.len().saturating_sub(3);
        if from.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = bytes[seen..].windows(4).position(|it| it == b"\r\n\r\n") {
            let rest = bytes.split_off(seen + end + 4);
            bytes.truncate(seen + end);
            let head = String::from_utf8(bytes).map_err(|_| io::Error::other("the head is not text"))?;
            return Ok((head, rest));
        }
        if bytes.len() > HEAD_LIMIT {
            return Err(io::Error::other("the head is too long"));
        }
    }
}

/// The status in an answer's head.
pub(super) fn status(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

/// Whether a header line is for one hop only.
pub(super) fn is_hop(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default().trim();
    ["connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate"]
        .iter()
        .any(|it| name.eq_ignore_ascii_case(it))
}

/// What Chromium asked for.
pub(super) struct Request {
    pub tunnel: bool,
    pub method: String,
    /// As it came: `host:port` or the absolute URL.
    pub target: String,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<String>,
}

impl Request {
    /// Reads a head as [`read_head`] gives it; `None` for what no browser asks a proxy.
    pub fn parse(head: &str) -> Option<Request> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if !version.starts_with("HTTP/1.") || words.next().is_some() {
            return None;
        }
        let tunnel = method == "CONNECT";
        let (authority, path) = if tunnel {
            (target, String::new())
        } else {
            let rest = target.strip_prefix("http://")?;
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let path = &rest[end..];
            (&rest[..end], if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
        };
        let (host, port) = match authority.rsplit_once(':') {
            // The last colon of a bare `[::1]` is part of the address.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ if tunnel => return None,
            _ => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return None;
        }
        let headers = lines.filter(|it| !is_hop(it)).map(str::to_owned).collect();
        Some(Request { tunnel, method: method.into(), target: target.into(), host, port, path, headers })
    }

    /// What Chromium would ask for this address: a tunnel, or for plain http the page itself.
    pub fn of(url: &Url) -> Option<Request> {
        let tunnel = url.scheme() == "https";
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default()?;
        let path = url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
        let target = url[..url::Position::AfterQuery].to_owned();
        Some(Request { tunnel, method: "GET".into(), target, host, port, path, headers: Vec::new() })
    }

    /// `host:port`, as CONNECT wants it.
    pub fn authority(&self) -> String {
        let Request { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}
