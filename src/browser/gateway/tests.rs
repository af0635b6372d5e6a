//! The gateway between real sockets: a fake proxy that checks credentials stands for the world.

use std::sync::Mutex;

use tokio::io::AsyncReadExt;

use super::*;

/// Heads that the fake proxy was sent.
type Seen = Arc<Mutex<Vec<String>>>;

/// An HTTP proxy that knows `user:p@ss`; a tunnel through it echoes, a plain request is answered with `hello`.
async fn http_proxy(tls: Option<tokio_rustls::TlsAcceptor>) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let heads = seen.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (heads, tls) = (heads.clone(), tls.clone());
            tokio::spawn(async move {
                let mut client: Box<dyn Stream> = match tls {
                    Some(tls) => Box::new(tls.accept(tcp).await.unwrap()),
                    None => Box::new(tcp),
                };
                let (head, rest) = read_head(&mut client).await.unwrap();
                heads.lock().unwrap().push(head.clone());
                // base64 of `user:p@ss`, written out: the test must not share the code it tests.
                if !head.contains("Proxy-Authorization: Basic dXNlcjpwQHNz") {
                    let refusal = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n";
                    client.write_all(refusal.as_bytes()).await.unwrap();
                } else if head.starts_with("CONNECT") {
                    // The host speaks first, in the same packet as the proxy's answer.
                    client.write_all(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nfirst ").await.unwrap();
                    let (mut from, mut to) = split(client);
                    copy(&mut from, &mut to).await.unwrap();
                } else {
                    let mut body = rest;
                    while body.len() < 4 {
                        client.read_buf(&mut body).await.unwrap();
                    }
                    let answer =
                        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: keep-alive\r\n\r\nhello";
                    client.write_all(answer.as_bytes()).await.unwrap();
                    client.write_all(&body).await.unwrap();
                }
            });
        }
    });
    (port, seen)
}

/// A SOCKS5 proxy (RFC 1928, 1929) that knows `user` / `p@ss`; it echoes after the name it was asked for.
async fn socks_proxy() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut greeting = vec![0; 2];
                client.read_exact(&mut greeting).await.unwrap();
                let mut methods = vec![0; greeting[1].into()];
                client.read_exact(&mut methods).await.unwrap();
                assert!(methods.contains(&2));
                client.write_all(&[5, 2]).await.unwrap();
                let mut texts = Vec::new();
                assert_eq!(client.read_u8().await.unwrap(), 1);
                for _ in 0..2 {
                    let mut text = vec![0; client.read_u8().await.unwrap().into()];
                    client.read_exact(&mut text).await.unwrap();
                    texts.push(String::from_utf8(text).unwrap());
                }
                let good = texts == ["user", "p@ss"];
                client.write_all(&[1, u8::from(!good)]).await.unwrap();
                if !good {
                    return;
                }
                let mut request = [0; 4];
                client.read_exact(&mut request).await.unwrap();
                assert_eq!(request, [5, 1, 0, 3], "connect, by name: the proxy resolves it");
                let mut name = vec![0; client.read_u8().await.unwrap().into()];
                client.read_exact(&mut name).await.unwrap();
                let port = client.read_u16().await.unwrap();
                client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 1]).await.unwrap();
                if port == 80 {
                    let (head, _) = read_head(&mut client).await.unwrap();
                    let body = head.replace("\r\n", "|");
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    client.write_all(answer.as_bytes()).await.unwrap();
                    return;
                }
                client
                    .write_all(format!("{}:{port} ", String::from_utf8(name).unwrap()).as_bytes())
                    .await
                    .unwrap();
                let (mut from, mut to) = client.split();
                copy(&mut from, &mut to).await.unwrap();
            });
        }
    });
    port
}

async fn gateway(proxy: &str) -> Gateway {
    Gateway::start(GatewayUpstream::new(ProxyServer::parse(proxy).unwrap()).unwrap()).await.unwrap()
}

/// Sends a head; gives the answer's head, the bytes read with it, and the connection.
async fn ask(gateway: &Gateway, head: &str) -> (String, Vec<u8>, TcpStream) {
    let mut client = TcpStream::connect(gateway.addr()).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    let (head, rest) = read_head(&mut client).await.unwrap();
    (head, rest, client)
}

const TUNNEL: &str = "CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\n\r\n";

async fn echoes(mut rest: Vec<u8>, mut client: TcpStream, expected: &str) {
    client.write_all(b"ping").await.unwrap();
    while rest.len() < expected.len() {
        assert!(client.read_buf(&mut rest).await.unwrap() > 0, "closed after {rest:?}");
    }
    assert_eq!(String::from_utf8(rest).unwrap(), expected);
}

#[tokio::test]
async fn a_tunnel_through_an_http_proxy() {
    let (port, seen) = http_proxy(None).await;
    let gateway = gateway(&format!("http://user:p%40ss@127.0.0.1:{port}")).await;
    let (head, rest, client) = ask(&gateway, TUNNEL).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    echoes(rest, client, "first ping").await;
    assert!(seen.lock().unwrap()[0].starts_with("CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443"));
}

#[tokio::test]
async fn a_tunnel_through_an_https_proxy() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (port, _) = http_proxy(Some(Arc::new(server).into())).await;
    let server = ProxyServer::parse(&format!("https://user:p%40ss@localhost:{port}")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let tls = Some(tls_with(roots).unwrap());
    let upstream = GatewayUpstream { server: server.clone(), tls, refused: AtomicBool::new(false) };
    let trusting = Gateway::start(upstream).await.unwrap();
    let (head, rest, client) = ask(&trusting, TUNNEL).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    echoes(rest, client, "first ping").await;

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(other.cert.der().clone()).unwrap();
    let tls = Some(tls_with(roots).unwrap());
    let wary =
        Gateway::start(GatewayUpstream { server, tls, refused: AtomicBool::new(false) }).await.unwrap();
    assert!(ask(&wary, TUNNEL).await.0.starts_with("HTTP/1.1 502"));
}

#[tokio::test]
async fn wrong_credentials_are_a_502() {
    let (http, _) = http_proxy(None).await;
    let socks = socks_proxy().await;
    let plain = "GET http://site.test/ HTTP/1.1\r\nHost: site.test\r\n\r\n";
    for proxy in
        [format!("http://user:wrong@127.0.0.1:{http}"), format!("socks5://user:wrong@127.0.0.1:{socks}")]
    {
        let gateway = gateway(&proxy).await;
        for request in [TUNNEL, plain] {
            let (head, _, _) = ask(&gateway, request).await;
            assert!(head.starts_with("HTTP/1.1 502"), "{head}");
            assert!(!head.to_lowercase().contains("authenticate"), "Chromium would ask a person: {head}");
        }
    }
}

#[tokio::test]
async fn a_tunnel_through_a_socks_proxy() {
    let gateway = gateway(&format!("socks5h://user:p%40ss@127.0.0.1:{}", socks_proxy().await)).await;
    let (head, rest, client) = ask(&gateway, TUNNEL).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    echoes(rest, client, "site.test:443 ping").await;
}

#[tokio::test]
async fn plain_requests() {
    let request = "POST http://site.test/a?b HTTP/1.1\r\nHost: site.test\r\nProxy-Connection: keep-alive\r\n\
                   Content-Length: 4\r\n\r\nbody";
    let (port, seen) = http_proxy(None).await;
    let through_http = gateway(&format!("http://user:p%40ss@127.0.0.1:{port}")).await;
    let (head, mut body, mut client) = ask(&through_http, request).await;
    client.read_to_end(&mut body).await.unwrap();
    assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close");
    assert_eq!(body, b"hellobody");
    assert_eq!(
        seen.lock().unwrap()[0],
        "POST http://site.test/a?b HTTP/1.1\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\nHost: site.test\r\n\
         Content-Length: 4\r\nConnection: close"
    );

    let through_socks = gateway(&format!("socks5://user:p%40ss@127.0.0.1:{}", socks_proxy().await)).await;
    let (_, mut body, mut client) = ask(&through_socks, &request.replace("Content-Length: 4", "X: y")).await;
    client.read_to_end(&mut body).await.unwrap();
    let body = String::from_utf8(body).unwrap();
    assert_eq!(body, "POST /a?b HTTP/1.1|Host: site.test|X: y|Connection: close");
}

#[tokio::test]
async fn what_is_no_request_to_a_proxy_is_refused() {
    let gateway = gateway("http://user:p@127.0.0.1:9").await;
    for head in
        ["GET / HTTP/1.1", "GET https://a/ HTTP/1.1", "CONNECT a HTTP/1.1", "CONNECT :1 HTTP/1.1", "x"]
    {
        let (answer, _, _) = ask(&gateway, &format!("{head}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head}: {answer}");
    }
}

#[tokio::test]
async fn dropping_the_gateway_ends_its_connections() {
    let (port, _) = http_proxy(None).await;
    let gateway = gateway(&format!("http://user:p%40ss@127.0.0.1:{port}")).await;
    let (_, mut rest, mut client) = ask(&gateway, TUNNEL).await;
    let addr = gateway.addr();
    drop(gateway);
    // Ends, with an end of file or a reset; both mean closed.
    let _ = client.read_to_end(&mut rest).await;
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn the_way_out() {
    let server = |value: &str| Some(ProxyServer::parse(value).unwrap());
    let direct = way_out(&ProxyConfig::default()).await.unwrap();
    assert_eq!((direct.server, direct.gateways.len()), (None, 0));

    let bypass = vec!["a.test".to_owned(), "*.a.test".to_owned()];
    let open = ProxyConfig { https: server("socks5://h"), http: server("h:3128"), bypass };
    let open = way_out(&open).await.unwrap();
    assert_eq!(open.server.as_deref(), Some("https=socks5://h:1080;http=http://h:3128"));
    assert_eq!(open.bypass, "a.test;*.a.test");
    assert!(open.gateways.is_empty());

    let locked = ProxyConfig { https: server("u:p@h:1"), http: server("u:p@h:1"), bypass: Vec::new() };
    let locked = way_out(&locked).await.unwrap();
    let [gateway] = &locked.gateways[..] else { panic!("one gateway serves both") };
    let at = gateway.addr();
    assert_eq!(locked.server, Some(format!("https=http://{at};http=http://{at}")));
}
