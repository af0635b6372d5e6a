//! `tabproxy status`: how the server on this machine is, live on a terminal, or once as lines or JSON.
//!
//! ```text
//! /readyz, /metrics ──ask──> Snapshot ──rows──┬──> screen (live)
//!    (figures)                  │ Flow        └──> lines, JSON (once)
//! ```
//!
//! It exists for those inside the container. It knows only what the public port tells anybody, so it needs no
//! password; whatever wants one is in the console.

pub mod figures;
mod live;
pub mod rows;
pub mod screen;
pub mod snapshot;

use std::io;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::health;
use snapshot::Snapshot;

pub use live::run as live;

/// Why there is no snapshot: a line with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nobody answers.
    #[error(
        "{0}; start the server with `tabproxy serve`, or name its address with --listen (TABPROXY_LISTEN)"
    )]
    Silent(String),
    /// Somebody else does.
    #[error(
        "{0} answers, but not as tabproxy does; name the server's address with --listen (TABPROXY_LISTEN)"
    )]
    Stranger(SocketAddr),
}

/// Asks the server that was told to listen at `listen` how it is.
///
/// # Errors
/// It does not answer, or is another program.
pub async fn ask(listen: SocketAddr) -> Result<Snapshot, Unanswered> {
    let get =
        async |path| health::get(listen, path).await.map_err(|error| Unanswered::Silent(error.to_string()));
    let (_, ready) = get("/readyz").await?;
    let (_, metrics) = get("/metrics").await?;
    Snapshot::read(&ready, &metrics).map_err(|_| Unanswered::Stranger(health::reachable(listen)))
}

/// Writes how the server at `listen` is to `out`: lines, or one JSON object. Returns whether it is ready.
///
/// # Errors
/// It does not answer: then a JSON object says so too. Or `out` cannot be written to.
pub async fn once(listen: SocketAddr, as_json: bool, out: &mut impl io::Write) -> Result<bool, String> {
    let (told, addr) = (ask(listen).await, health::reachable(listen));
    let text = match &told {
        Ok(it) if as_json => format!("{}\n", json_of(it, addr)),
        Ok(it) => lines(it, addr),
        Err(error) if as_json => format!("{}\n", json!({"ready": false, "error": error.to_string()})),
        Err(_) => String::new(),
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| error.to_string())?;
    told.map(|it| it.ready.ready).map_err(|error| error.to_string())
}

/// One line each.
fn lines(it: &Snapshot, addr: SocketAddr) -> String {
    let rows = rows::rows(it, None, None, addr);
    rows.iter().map(|it| format!("{:<12} {}\n", it.name, it.text)).collect()
}

/// Everything, with units in the names.
fn json_of(it: &Snapshot, addr: SocketAddr) -> Value {
    let (ready, totals) = (&it.ready, &it.totals);
    json!({
        "ready": ready.ready,
        "phase": ready.phase,
        "reason": ready.reason,
        "since_seconds": ready.since_seconds,
        "usual_seconds": ready.usual_seconds,
        "before": ready.before,
        "running": ready.running,
        "places": ready.places,
        "queued": ready.queued,
        "version": it.version,
        "browser": it.browser,
        "restarts": it.restarts(),
        "pages": it.pages,
        "memory_bytes": it.memory,
        "browser_memory_bytes": it.browser_memory,
        "buffered_bytes": it.buffered,
        "lost_lines": it.lost_lines,
        "accounts": it.accounts,
        "outcomes": totals.outcomes.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "keys_refused": totals.keys_refused,
        "events": totals.events,
        "body_bytes_in": totals.bytes_in,
        "body_bytes_out": totals.bytes_out,
        "first_byte_seconds": totals.head.spread(),
        "event_delay_seconds": totals.delay.spread(),
        "console": format!("http://{addr}/console"),
    })
}
