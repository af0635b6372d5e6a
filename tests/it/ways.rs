//! The way out: the browser behind a proxy that wants a user name and a password.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tabproxy::config::{ProxyConfig, ProxyScheme, ProxyServer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::Rig;

/// Tunnels that a proxy has opened.
pub type Tunnels = Arc<AtomicUsize>;

/// base64 of `bot:pass word`.
const BASIC: &str = "Basic Ym90OnBhc3Mgd29yZA==";

pub async fn http_proxy(listener: TcpListener, tunnels: Tunnels) {
    while let Ok((stream, _)) = listener.accept().await {
        let tunnels = tunnels.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let (mut target, mut authorized) = (String::new(), false);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let line = line.trim_end();
                if let Some(rest) = line.strip_prefix("CONNECT ") {
                    rest.split(' ').next().unwrap().clone_into(&mut target);
                }
                if let Some((name, value)) = line.split_once(": ") {
                    authorized |= name.eq_ignore_ascii_case("proxy-authorization") && value == BASIC;
                }
                if line.is_empty() {
                    break;
                }
            }
            if !authorized {
                stream.write_all(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                return;
            }
            tunnels.fetch_add(1, Ordering::Relaxed);
            let port = target.rsplit(':').next().unwrap().parse::<u16>().unwrap();
            let mut site = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut site).await;
        });
    }
}

/// RFC 1928 with RFC 1929, as little of it as a CONNECT needs.
async fn socks5_proxy(listener: TcpListener, tunnels: Tunnels) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let tunnels = tunnels.clone();
        tokio::spawn(async move {
            let mut head = [0; 2];
            stream.read_exact(&mut head).await.unwrap();
            let mut methods = vec![0; head[1] as usize];
            stream.read_exact(&mut methods).await.unwrap();
            assert!(methods.contains(&2), "offers a password");
            stream.write_all(&[5, 2]).await.unwrap();
            stream.read_u8().await.unwrap();
            let mut word = async || {
                let mut bytes = vec![0; stream.read_u8().await.unwrap() as usize];
                stream.read_exact(&mut bytes).await.unwrap();
                bytes
            };
            assert_eq!((word().await, word().await), (b"bot".to_vec(), b"pass word".to_vec()));
            stream.write_all(&[1, 0]).await.unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            let length = match request[3] {
                1 => 4,
                3 => stream.read_u8().await.unwrap() as usize,
                other => panic!("address type {other}"),
            };
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            let port = stream.read_u16().await.unwrap();
            tunnels.fetch_add(1, Ordering::Relaxed);
            let mut site = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut site).await;
        });
    }
}

async fn through(scheme: ProxyScheme) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tunnels = Tunnels::default();
    match scheme {
        ProxyScheme::Socks5 => drop(tokio::spawn(socks5_proxy(listener, tunnels.clone()))),
        _ => drop(tokio::spawn(http_proxy(listener, tunnels.clone()))),
    }
    let rig = Rig::with(Default::default(), |config| {
        let server = ProxyServer {
            scheme,
            host: "127.0.0.1".into(),
            port,
            credentials: Some(("bot".into(), "pass word".into())),
        };
        config.proxy = ProxyConfig { https: Some(server), ..ProxyConfig::default() };
    })
    .await;
    assert_eq!(rig.ask("m", "hello count=2").await.status(), 200);
    assert!(tunnels.load(Ordering::Relaxed) > 0, "the site was reached through the proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_proxy_with_a_password() {
    through(ProxyScheme::Http).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socks_proxy_with_a_password() {
    through(ProxyScheme::Socks5).await;
}
