//! `tabproxy demo`: the practice site, a proxy in front of it, and one conversation, printed as it arrives.
//!
//! It is a client of the public HTTP port like any other; nothing is shown that a user could not do.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::Server;
use crate::browser::Phase;
use crate::cli::DemoArgs;
use crate::practice::{Practice, PracticeArgs};

/// What can go wrong in a demo: anything, said as it is.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// The conversation of the demo. The site says it back, as its last words, its knobs, tell it to.
const PROMPT: &str = "Each of these words was fetched inside a page of a real browser, and reached you as the \
                      site wrote it. 这些字是在真实浏览器的页面里取得的，一个字节也没有改。 🙂 echo=1 interval=60";

/// How long the demo waits for the browser.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs the demo; it ends at `shutdown`, or after the conversation if that is wanted. `env` looks up an
/// environment variable.
pub async fn run(
    args: DemoArgs,
    env: &impl Fn(&str) -> Option<String>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let once = args.once;
    let began = Instant::now();
    let practice = Practice::start(PracticeArgs::default()).await?;
    say(
        began,
        &format!("practice site      {}  (redirects to {})", practice.front_url(), practice.home_url()),
    );

    let profile = tempfile::Builder::new().prefix("tabproxy-demo-").tempdir()?;
    let made = args.config(practice.front_url().parse()?, profile.path().join("profile"), env);
    let mut config =
        made.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    config.pins = crate::config::pins_of(practice.cert_pem().as_bytes())?;
    config.resolve = crate::config::resolve(&practice.resolve()).map_err(|mistake| mistake.what)?;
    let stop = shutdown.child_token();
    let server = Server::start(config, stop.clone()).await?;
    let addr = server.addr();
    say(began, &format!("proxy              http://{addr}"));

    watch_start(&server, began).await?;
    tokio::select! {
        told = converse(addr, began) => told?,
        () = shutdown.cancelled() => {}
    }
    if !once {
        println!(
            "\nIt stays up. Try it yourself, in another terminal (end with Ctrl-C here):\n\n{}\n",
            curl(addr)
        );
        shutdown.cancelled().await;
    }
    stop.cancel();
    server.finished().await?;
    Ok(())
}

fn say(began: Instant, line: &str) {
    println!("{:7.2} s  {line}", began.elapsed().as_secs_f64());
}

/// Prints each phase of the start until the page is ready.
async fn watch_start(server: &Server, began: Instant) -> Result<(), Error> {
    let mut status = server.browser().watch();
    let follow = async {
        let mut last = String::new();
        loop {
            let now = status.borrow_and_update().clone();
            let line = format!("{:<18} {}", now.phase.name(), now.reason);
            if line != last {
                say(began, &line);
                last = line;
            }
            match now.phase {
                Phase::Ready if now.is_ready() => return Ok(()),
                Phase::NeedsOperator(_) => return Err(now.reason.into()),
                _ => status.changed().await.map_err(|_| "the browser's supervisor ended")?,
            }
        }
    };
    tokio::time::timeout(PATIENCE, follow).await.map_err(|_| "the browser did not get ready")?
}

/// A message of the site in its classic format, as far as the demo looks at it.
#[derive(Deserialize)]
struct Snapshot {
    message: Option<Message>,
}

#[derive(Deserialize)]
struct Message {
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    parts: Vec<String>,
}

async fn converse(addr: SocketAddr, began: Instant) -> Result<(), Error> {
    println!("\n> {PROMPT}\n");
    let asked = Instant::now();
    let mut body = ask(addr).await?;
    let head = asked.elapsed();
    let (mut buffer, mut shown, mut events) = (Vec::new(), String::new(), 0u32);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.windows(2).position(|it| it == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            events += 1;
            show(&event, &mut shown)?;
        }
    }
    println!("\n");
    let all = asked.elapsed();
    say(
        began,
        &format!("{events} events, head after {:.1} ms, all after {:.2} s", millis(head), all.as_secs_f64()),
    );
    Ok(())
}

/// Prints what this event adds to the answer.
fn show(event: &[u8], shown: &mut String) -> Result<(), Error> {
    let Some(json) = event.strip_prefix(b"data: {") else { return Ok(()) };
    let snapshot: Snapshot = serde_json::from_slice(&[b"{", json].concat())?;
    let text = snapshot.message.and_then(|it| it.content.parts.into_iter().next()).unwrap_or_default();
    if let Some(more) = text.strip_prefix(shown.as_str()) {
        print!("{more}");
        std::io::stdout().flush()?;
        *shown = text;
    }
    Ok(())
}

async fn ask(addr: SocketAddr) -> Result<Incoming, Error> {
    let stream = tokio::net::TcpStream::connect(addr).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::post("/backend-api/conversation")
        .header("host", addr.to_string())
        .header("accept", "text/event-stream")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(request_body())))?;
    let response = sender.send_request(request).await?;
    if response.status().is_success() {
        return Ok(response.into_body());
    }
    let status = response.status();
    let text = response.into_body().collect().await?.to_bytes();
    Err(format!("the proxy answered {status}: {}", String::from_utf8_lossy(&text)).into())
}

fn request_body() -> String {
    serde_json::json!({
        "action": "next",
        "messages": [{
            "id": "aaaaaaaa-0000-4000-8000-000000000001",
            "author": {"role": "user"},
            "content": {"content_type": "text", "parts": [PROMPT]},
        }],
        "model": "auto",
        "parent_message_id": "aaaaaaaa-0000-4000-8000-000000000000",
    })
    .to_string()
}

fn curl(addr: SocketAddr) -> String {
    let body = r#"{"messages":[{"id":"1","author":{"role":"user"},"content":{"content_type":"text","parts":["Hello! count=20 interval=100"]}}]}"#;
    format!(
        "  curl -N http://{addr}/backend-api/conversation -H 'content-type: application/json' -d '{body}'"
    )
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
