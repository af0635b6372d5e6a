//! A browser that runs elsewhere, and is somebody else's: the channel over its DevTools carries what the other one
//! does, its loss is noticed as fast, and nothing there is touched that is not ours.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde_json::json;
use tabproxy::config::BrowserAddress;
use tabproxy::practice::{Practice, PracticeArgs, answer_text};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::browsers::{both_ready, running};
use crate::devtools::DevTools;
use crate::program::Program;
use crate::rig::{PATIENCE, Rig, code_of, eventually, last_text, until};
use crate::session::{holder, open_sign_in};
use crate::shared::foreign::Foreign;
use crate::shared::relay::{Cut, Relay};
use crate::{bodies, clients, site};

/// The tabs of a proxy that has nothing to repair: the site's, and two carriers.
const OURS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn any_method_and_any_body() {
    bodies::methods_and_bodies(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_answer() {
    bodies::answers(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_split_of_a_stream() {
    bodies::splits(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects() {
    bodies::redirects(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave() {
    clients::departures(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stand_still() {
    clients::standing_still(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_site_finds_nothing_of_ours() {
    site::unseen(Rig::elsewhere().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_streams_and_large_bodies_beside_them() {
    let rig = Rig::elsewhere().await;
    let prompt = "hello count=40 interval=50 text=mixed";
    let expected = answer_text(prompt);
    let streams = join_all((0..40).map(|n| {
        let (rig, expected) = (&rig, &expected);
        async move {
            let answer = rig.ask(&format!("m{n}"), prompt).await.bytes().await.unwrap();
            answer.ends_with(b"data: [DONE]\n\n") && last_text(&answer) == *expected
        }
    }));
    let body: Vec<u8> = (0..12 << 20).map(|at: u32| (at ^ (at >> 8)) as u8).collect();
    let mirror = rig.client.post(rig.url("/backend-api/practice/mirror")).body(body.clone()).send();
    let (whole, mirrored) = tokio::join!(streams, async { mirror.await.unwrap().bytes().await.unwrap() });
    let beginning = String::from_utf8_lossy(&mirrored[..mirrored.len().min(200)]);
    assert!(mirrored == body, "{} of {} bytes came back, or others: {beginning}", mirrored.len(), body.len());
    assert_eq!(whole, [true; 40]);
    rig.sent_once();
}

/// What the streams end with: each with an error, none cleanly.
async fn all_cut(streams: Vec<reqwest::Response>) {
    let ends = join_all(streams.into_iter().map(|it| it.bytes()));
    let ends = tokio::time::timeout(PATIENCE, ends).await.expect("nothing hangs");
    assert!(ends.iter().all(Result::is_err), "each ends with an error, none cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_dies_cuts_its_streams_and_the_next_one_at_its_address_is_used_with_the_same_sign_in()
{
    let mut key = None;
    let mut rig = Rig::elsewhere_with(|config| key = Some(open_sign_in(config))).await;
    rig.client = holder(&key.unwrap());
    let done = rig.client.post(rig.url("/auth/login")).send().await.unwrap();
    assert!(done.status().is_success() || done.status().is_redirection(), "{}", done.status());
    rig.site.set_sign_in(true);
    let session = rig.profile.path().join("profile.session.json");
    let saved = || std::fs::read_to_string(&session).unwrap_or_default();
    eventually(saved, |it| it.contains("practice_session")).await;

    let streams = rig.five_streams().await;
    let address = rig.foreign.take().unwrap().port(); // and with that it is killed
    all_cut(streams).await;
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.reason.contains("cannot be reached")).await.unwrap();
    assert_eq!(rig.get("/readyz").await.status(), 503);
    // On an empty profile.
    rig.foreign = Some(Foreign::start(&rig.site, address.port()).unwrap());
    rig.wait_ready().await;
    rig.answers("after").await;
    rig.sent_once();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_leaves_no_tabs_behind_and_those_of_others_are_never_touched() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let foreign = Foreign::start(&site, 0).unwrap();
    let mut hand = DevTools::connect(foreign.address()).await;
    // Somebody looks at the same site there.
    let theirs = hand.call(None, "Target.createTarget", json!({"url": site.home_url()})).await;
    let theirs = theirs["targetId"].as_str().unwrap().to_owned();
    let before = hand.wait_for_pages(2).await;

    let target = foreign.port();
    let relay = Relay::start(move || Ok(target)).await.unwrap();
    let address = BrowserAddress::parse(&foreign.address_by(relay.addr())).unwrap();
    let mut rig = Rig::beside(site, Some(foreign), |config| config.browser_ws = vec![address]).await;
    for cut in [Cut::Reset, Cut::Close, Cut::Silence] {
        rig.wait_ready().await;
        let all = hand.wait_for_pages(2 + OURS).await;
        assert!(before.iter().all(|it| all.contains(it)));
        let streams = rig.five_streams().await;
        let links = rig.server.browser().status().links;
        relay.cut(cut);
        all_cut(streams).await;
        let mut status = rig.server.browser().watch();
        status.wait_for(|it| it.links > links && it.is_ready()).await.unwrap();
        rig.answers(&format!("after {cut:?}")).await;
        // What is left of the five streams at the site ends with the pages.
        eventually(|| rig.counters(), |it| it.active == 0).await;
        rig.site.reset_counters();
    }
    hand.wait_for_pages(2 + OURS).await;
    let _alive = rig.foreign.take();
    rig.stop().await;
    // A tab that is told to close takes a moment to.
    let mut left = hand.wait_for_pages(before.len()).await;
    left.sort();
    let mut expected = before;
    expected.sort();
    assert_eq!(left, expected, "ours are closed, theirs are not");
    assert!(left.contains(&theirs));
}

/// Chromium forgets that it was told to close a tab whose document is just being replaced.
#[tokio::test(flavor = "multi_thread")]
async fn who_stops_while_a_page_is_being_made_ready_leaves_no_tab_behind() {
    let mut site = Practice::start(PracticeArgs::default()).await.unwrap();
    let foreign = Foreign::start(&site, 0).unwrap();
    let mut hand = DevTools::connect(foreign.address()).await;
    hand.wait_for_pages(1).await;
    let address = BrowserAddress::parse(foreign.address()).unwrap();
    for moment in 0..16 {
        let rig = Rig::beside(site, None, |config| config.browser_ws = vec![address.clone()]).await;
        // The last of ours is there and empty, and becomes a carrier: each time it has come further.
        until(async || hand.pages().await.len(), |it| *it == 1 + OURS).await;
        tokio::time::sleep(Duration::from_millis(8 * moment)).await;
        (site, _) = rig.stop().await;
        hand.wait_for_pages(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_proxy_left_there_is_closed_by_the_next_one() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let foreign = Foreign::start(&site, 0).unwrap();
    let mut hand = DevTools::connect(foreign.address()).await;
    let home = tempfile::tempdir().unwrap();
    let profile = home.path().join("profile");
    let vars = [("TABPROXY_BROWSER_WS", foreign.address()), ("TABPROXY_PROFILE", profile.to_str().unwrap())];
    let mut proxy = Program::start(&site, &vars).await;
    proxy.wait_ready().await;
    let log = proxy.log();
    let unused = log.lines().find(|it| it.contains("without effect")).unwrap();
    assert!(unused.contains("TABPROXY_RESOLVE, TABPROXY_TRUST_CERT"), "{unused}");
    let left = hand.wait_for_pages(1 + OURS).await;
    // A tab is there a moment before its answer, and with that its id, has come.
    let noted =
        || std::fs::read_to_string(home.path().join("profile.tabs")).unwrap_or_default().lines().count();
    eventually(noted, |it| *it == OURS).await;
    proxy.signal(rustix::process::Signal::KILL);
    proxy.ended().await;
    assert_eq!(hand.pages().await.len(), 1 + OURS, "they are still there");

    let next = Program::start(&site, &vars).await;
    next.wait_ready().await;
    let now = hand.wait_for_pages(1 + OURS).await;
    let stayed: Vec<_> = now.iter().filter(|it| left.contains(it)).collect();
    assert_eq!(stayed.len(), 1, "of the old ones only the browser's own stays: {stayed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_addresses_each_has_its_streams_and_one_that_is_lost_and_found_is_nothing_to_the_other() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let [one, other] = [(); 2].map(|()| Foreign::start(&site, 0).unwrap());
    let target = other.port();
    let relay = Relay::start(move || Ok(target)).await.unwrap();
    let addresses = [one.address().to_owned(), other.address_by(relay.addr())];
    let rig = Rig::beside(site, None, |config| {
        config.browser_ws = addresses.map(|it| BrowserAddress::parse(&it).unwrap()).to_vec();
        config.browsers = 2;
    })
    .await;
    both_ready(&rig).await;
    let prompt = "hello count=200 interval=30";
    let mut streams = Vec::new();
    for n in 0..6 {
        let mut answer = rig.ask(&format!("m{n}"), prompt).await;
        answer.chunk().await.unwrap().unwrap();
        streams.push(answer);
    }
    assert_eq!(running(&rig), [3, 3]);
    relay.cut(Cut::Reset);
    rig.answers("meanwhile").await;
    let ends = join_all(streams.into_iter().map(|it| it.bytes()));
    let ends = tokio::time::timeout(PATIENCE, ends).await.expect("nothing hangs");
    let whole = |it: &&reqwest::Result<Bytes>| it.as_ref().is_ok_and(|it| it.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(ends.iter().filter(|it| it.is_err()).count(), 3, "{ends:?}");
    assert_eq!(ends.iter().filter(whole).count(), 3, "{ends:?}");
    both_ready(&rig).await;
    let answers = join_all(["b1", "b2"].map(|id| rig.ask(id, "hello count=100 interval=50"))).await;
    assert_eq!(running(&rig), [1, 1], "it gets work again");
    for answer in answers {
        answer.bytes().await.unwrap();
    }
    rig.sent_once();
}

/// A port that leads to `target` for who speaks TLS; and what proves that it is `localhost`, in PEM.
fn behind_tls(target: SocketAddr) -> (u16, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(stream).await?;
                let mut server = TcpStream::connect(target).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    (port, certificate.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_behind_tls_is_used_if_its_certificate_is_trusted() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let foreign = Foreign::start(&site, 0).unwrap();
    let (port, pem) = behind_tls(foreign.port());
    let home = tempfile::tempdir().unwrap();
    let trusted = home.path().join("ca.pem");
    std::fs::write(&trusted, pem).unwrap();
    let path = foreign.address().split_once("/devtools").unwrap().1;
    for address in [format!("https://localhost:{port}"), format!("wss://localhost:{port}/devtools{path}")] {
        let vars = [("TABPROXY_BROWSER_WS", &*address), ("SSL_CERT_FILE", trusted.to_str().unwrap())];
        let proxy = Program::start(&site, &vars).await;
        proxy.wait_ready().await;
        let answer = proxy.ask("m", "hello count=3").await.bytes().await.unwrap();
        assert_eq!(last_text(&answer), answer_text("hello count=3"), "{address}");

        let strict = Program::start(&site, &vars[..1]).await;
        let log = eventually(|| strict.log(), |it| it.contains("cannot be reached")).await;
        let line = log.lines().find(|it| it.contains("cannot be reached")).unwrap();
        assert!(line.contains("certificate") && line.contains("SSL_CERT_FILE"), "{line}");
    }
}

/// Answers every connection so.
fn answering(with: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(with.as_bytes());
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_to_no_browser_is_one_clear_line_and_no_secret_is_in_it() {
    let site = Practice::start(PracticeArgs::default()).await.unwrap();
    let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let closed = answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let page = answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    for (address, told, remedy) in [
        (format!("ws://{nobody}/hunter2?token=hunter2"), "cannot be reached", "--remote-debugging-port"),
        (format!("ws://user:hunter2@{closed}/"), "refuses us (403 Forbidden)", "correct the token"),
        (format!("http://{closed}/?token=hunter2"), "refuses us (403 Forbidden)", "correct the token"),
        (format!("ws://{page}/hunter2"), "no DevTools answer there", "must lead to a Chromium's DevTools"),
        (format!("http://{page}/?hunter2"), "no DevTools answer there", "must lead to a Chromium's DevTools"),
    ] {
        let vars =
            [("TABPROXY_BROWSER_WS", &*address), ("TABPROXY_LOG", "trace"), ("TABPROXY_QUEUE_WAIT", "1s")];
        let proxy = Program::start(&site, &vars).await;
        let log = eventually(|| proxy.log(), |it| it.matches(told).count() >= 2).await;
        assert_eq!(proxy.get("/readyz").await.status(), 503);
        assert_eq!(code_of(proxy.ask("m", "hello").await).await, "not_ready");
        let line = log.lines().find(|it| it.contains(told)).unwrap();
        assert!(
            line.contains(remedy) && line.contains("TABPROXY_BROWSER_WS") || line.contains(remedy),
            "{line}"
        );
        let about = proxy.get("/readyz").await.text().await.unwrap()
            + &proxy.get("/metrics").await.text().await.unwrap();
        assert!(!proxy.log().contains("hunter2") && !about.contains("hunter2"), "{}", proxy.log());
    }
    assert_eq!(site.counters().posts, 0);
}
