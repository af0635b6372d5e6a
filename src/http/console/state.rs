//! How everything is now, in one answer: what the page asks for every second.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Query, Request, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{answer, first, one, session_of};
use crate::accounts::{AccountState, Condition};
use crate::browser::timeline::Entry;
use crate::browser::{Browser, Phase};
use crate::http::App;
use crate::http::board::Seen;
use crate::http::reply::Asked;
use crate::telemetry::figures::BrowserFigure;
use crate::telemetry::recent;

/// Phases of the past that are shown.
const PHASES: usize = 40;
/// Lines of the log in one answer.
const LINES: usize = 300;

#[derive(Deserialize)]
pub(super) struct Wanted {
    /// The last line of the log that is there already.
    #[serde(default)]
    log: u64,
    /// The browser that is looked at, from 1.
    #[serde(default = "first")]
    of: usize,
}

/// `GET /console/api/state?log=N&of=BROWSER`.
pub(super) async fn state(
    State(app): State<Arc<App>>,
    Query(Wanted { log, of }): Query<Wanted>,
    request: Request,
) -> Response {
    let told = session_of(&app, request.headers()).and_then(|_| Ok(describe(&app, one(&app, of)?, log)));
    answer(told, &Asked::of(&request))
}

fn describe(app: &App, browser: &Browser, log: u64) -> Value {
    let status = browser.status();
    let now = Instant::now();
    let timeline = browser.timeline();
    let number = |it: BrowserFigure| json!({"phase": it.phase, "running": it.running});
    let each: Vec<_> = app.browser.figures().into_iter().map(number).collect();
    let phase = status.phase.name();
    let until = match status.phase {
        Phase::Warming { until } | Phase::Backoff { until, .. } => {
            Some(until.saturating_duration_since(now).as_secs_f64())
        }
        _ => None,
    };
    let (here, requests) = app.board.look();
    let (viewers, driven) = app.console.desk.count();
    json!({
        "phase": phase,
        "reason": status.reason,
        "since": status.since.elapsed().as_secs_f64(),
        "until": until,
        "usual": timeline.usual(phase).map(|it| it.as_secs_f64()),
        "ready": status.is_ready(),
        "paused": app.admission.is_paused(),
        "origin": status.origin,
        "signed_in": status.signed_in,
        "each": each,
        "all": app.browser.watch().borrow().phase.name(),
        "browser": status.version,
        "version": env!("CARGO_PKG_VERSION"),
        "browsers": status.browsers,
        "pages": status.pages,
        "running": app.admission.running(),
        "places": app.admission.places(),
        "queued": app.admission.queued(),
        "here": here,
        "requests": requests.iter().map(|it| request_of(it, now)).collect::<Vec<_>>(),
        "timeline": timeline.last(PHASES).iter().map(entry_of).collect::<Vec<_>>(),
        "accounts": app.gate.accounts.states(now).iter().map(|it| account_of(it, now)).collect::<Vec<_>>(),
        "log": recent::after(log, LINES).iter().map(line_of).collect::<Vec<_>>(),
        "viewers": viewers,
        "driven": driven,
        "captured": app.browser.captured(),
    })
}

fn request_of(it: &Seen, now: Instant) -> Value {
    json!({
        "id": it.id,
        "method": it.method,
        "path": it.path,
        "age": now.saturating_duration_since(it.arrived).as_secs_f64(),
        "bytes": it.bytes,
        "stage": it.stage.name(),
    })
}

fn entry_of(it: &Entry) -> Value {
    json!({
        "at": millis(it.at),
        "phase": it.phase,
        "reason": it.reason,
        "lasted": it.lasted.as_ref().map(Duration::as_secs_f64),
    })
}

fn account_of(it: &AccountState, now: Instant) -> Value {
    let (state, rests) = match it.condition {
        Condition::Ready if it.running > 0 => ("busy", None),
        Condition::Ready => ("ready", None),
        Condition::Resting(until) => ("resting", Some(until.saturating_duration_since(now).as_secs())),
        Condition::Refused => ("refused", None),
    };
    json!({"name": it.name, "state": state, "rests": rests, "running": it.running})
}

fn line_of(it: &recent::Line) -> Value {
    json!({"n": it.number, "at": millis(it.at), "level": it.level, "text": it.text})
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64)
}
