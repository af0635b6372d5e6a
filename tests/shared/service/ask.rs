//! A look at a part's state: one small GET on a connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Fail;

/// The longest that a look may take.
const LOOK: Duration = Duration::from_secs(10);

/// The status and the body at `path`.
///
/// # Errors
/// When there is no answer, or none in time.
pub async fn get(addr: SocketAddr, path: &str) -> Result<(u16, String), Fail> {
    let look = async {
        let mut stream = TcpStream::connect(addr).await?;
        // Of this version, an answer ends with its connection.
        let request = format!("GET {path} HTTP/1.0\r\nhost: {addr}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
        let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
        Ok::<_, Fail>((status, body.to_owned()))
    };
    tokio::time::timeout(LOOK, look).await?
}

/// Whether `/readyz` says so.
pub async fn is_ready(addr: SocketAddr) -> bool {
    matches!(get(addr, "/readyz").await, Ok((200, _)))
}

/// What `metrics`, the text at `/metrics`, says of `name`; of several series, their sum.
pub fn figure(metrics: &str, name: &str) -> Option<f64> {
    let of_it = |line: &str| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    let values: Vec<f64> = metrics.lines().filter_map(of_it).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
