//! scratch
use std::time::{Duration, Instant};
use tabproxy::browser::*;
use tabproxy::practice::*;
use tabproxy::exchange::PageRequest;

#[tokio::test(flavor = "multi_thread")]
async fn try_it() {
    let _ = tracing_subscriber::fmt().with_env_filter(std::env::var("LOG").unwrap_or("debug,tungstenite=info,hyper=info,h2=info,rustls=info,chromiumoxide=info".into())).try_init();
    let site = Practice::start(PracticeArgs { ..Default::default() }).await.unwrap();
    let profile = tempfile::tempdir().unwrap();
    let pem = pem_pin(site.cert_pem());
    let spec = BrowserSpec {
        launch: launch::LaunchSpec {
            binary: launch::find_chromium().unwrap(), profile: profile.path().into(), headless: true, sandbox: launch::Sandbox::Auto,
            extra: std::env::var("EXTRA").map(|e| e.split(' ').map(str::to_owned).collect()).unwrap_or_default(), resolve: site.resolve().split(',').map(|it| { let (a, b) = it.split_once('=').unwrap(); (a.to_owned(), b.to_owned()) }).collect(),
            pins: vec![pem], proxy_server: None, proxy_bypass: String::new(),
        },
        url: site.front_url().parse().unwrap(), timing: Timing::default(), buffers: Default::default(),
    };
    let t = Instant::now();
    let browser = Browser::start(spec).await.unwrap();
    let mut watch = browser.watch();
    tokio::time::timeout(Duration::from_secs(20), watch.wait_for(|s| s.is_ready())).await.unwrap().unwrap();
    eprintln!("ready after {:?}", t.elapsed());
    let rq = |path: &str| PageRequest { method: "GET".into(), path: path.into(), headers: vec![], body: vec![] };
    for path in ["/backend-api/practice/echo?x=1", "/backend-api/practice/redirect?to=/backend-api/models&code=302", &format!("/backend-api/practice/redirect?to=https://elsewhere.test:{}/landed%3Fsecret&code=307", site.addr().port())] {
        let t = Instant::now();
        match browser.fetch(rq(path), Instant::now() + Duration::from_secs(10)).await {
            Ok((head, mut ex)) => { let mut b = vec![]; while let Some(c) = ex.chunk().await { b.extend_from_slice(&c.unwrap().bytes) } eprintln!("{head:?} {} {:?}", String::from_utf8_lossy(&b), t.elapsed()); }
            Err(f) => eprintln!("{f:?}"),
        }
    }
    tokio::time::sleep(Duration::from_millis(3000)).await;
    browser.fetch(rq("/backend-api/models"), Instant::now() + Duration::from_secs(10)).await.unwrap();
    let t = Instant::now();
    let (_, mut ex) = browser.fetch(rq("/backend-api/practice/bytes?n=104857600"), Instant::now() + Duration::from_secs(10)).await.unwrap();
    let mut n = 0; while let Some(c) = ex.chunk().await { n += c.unwrap().bytes.len() }
    eprintln!("{n} {:?}", t.elapsed());
    eprintln!("{:#?}", site.counters());
    browser.stop().await;
    eprintln!("stopped");
}
fn pem_pin(pem: &str) -> String {
    use base64::Engine; use sha2::Digest;
    let (_, p) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let c = p.parse_x509().unwrap();
    base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(c.public_key().raw))
}
