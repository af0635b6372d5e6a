//! What monitors ask: is the process alive, would a request be served now, and the figures.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::App;
use super::reply::{self, Asked};
use crate::browser::timeline::Timeline;
use crate::browser::{Browser, Phase, Status};
use crate::error::{Fault, FaultKind};
use crate::store::Health;
use crate::telemetry::figures::BrowserFigure;
use crate::telemetry::metrics::{CONTENT_TYPE, Sample};

/// So many phases of the past are told, of the last so many that there were.
const BEFORE: usize = 5;
const LOOKED_AT: usize = 20;

/// `/healthz`: whoever reads this was answered, so the process is alive.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// `/readyz`: 200 only if a request would be served now; otherwise 503 with the phase and a reason.
///
/// Balancers take an instance out by this, so it says no before that hurts, and not in turn with yes: from the first
/// moment of a stop on, even while requests are served yet; and from a full queue until half of it is free (see
/// [`Admission::is_full`](crate::admission::Admission::is_full)).
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let status = app.browser.status();
    let busy = if app.leaving.is_cancelled() || app.admission.is_closed() {
        Some("the proxy is stopping")
    } else if app.admission.is_paused() {
        Some("the operator lets nobody in for now")
    } else if app.admission.is_full() {
        Some("the queue is full")
    } else {
        None
    };
    let shared = app.shared.as_ref().map(|it| it.borrow().clone());
    let busy = busy.map(str::to_owned).or_else(|| shared.as_ref().and_then(Health::keeps_out));
    let is_ready = status.is_ready() && busy.is_none();
    let phase = status.phase.name();
    // With several browsers, of all of them.
    let timelines: Vec<_> = app.browser.iter().map(Browser::timeline).collect();
    let mut answer = json!({
        "ready": is_ready,
        "phase": phase,
        "since_seconds": status.since.elapsed().as_secs(),
        "before": before(&timelines, SystemTime::now()),
        "running": app.admission.running(),
        "places": app.admission.places(),
        "queued": app.admission.queued(),
    });
    if app.browser.count() > 1 {
        answer["browsers"] = app.browser.figures().iter().map(|it| of_one(&app, it)).collect();
    }
    if let Some(shared) = shared {
        answer["shared"] = match shared.is_up {
            true => json!({"up": true}),
            false => {
                json!({"up": false, "since_seconds": shared.since.elapsed().as_secs(), "why": shared.why})
            }
        };
    }
    if is_ready {
        return Json(answer).into_response();
    }
    if let Some(usual) = timelines.iter().filter_map(|it| it.usual(phase)).max() {
        answer["usual_seconds"] = tenths(usual).into();
    }
    answer["reason"] = busy.unwrap_or(status.reason).into();
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, Json(answer)).into_response();
    let wait = reply::whole_seconds(next_look(&status.phase, Instant::now()));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    response
}

/// One of several browsers.
fn of_one(app: &App, it: &BrowserFigure) -> Value {
    let status = app.browser.get(it.number - 1).map(Browser::status);
    json!({
        "browser": it.number,
        "ready": it.up,
        "phase": it.phase,
        "reason": status.as_ref().map(|it| it.reason.as_str()),
        "since_seconds": status.as_ref().map(|it| it.since.elapsed().as_secs()),
        "running": it.running,
    })
}

/// The last phases, newest first, but for the ones in which all was well. Without their reasons, which are the
/// operator's business once they are over.
fn before(timelines: &[&Timeline], now: SystemTime) -> Vec<Value> {
    let mut past: Vec<_> = timelines.iter().flat_map(|it| it.last(LOOKED_AT)).collect();
    past.sort_by_key(|it| std::cmp::Reverse(it.at));
    let past = past.into_iter().filter(|it| it.phase != "ready");
    let past = past.filter_map(|it| {
        let (lasted, ago) = (it.lasted?, now.duration_since(it.at).unwrap_or_default());
        Some(json!({"phase": it.phase, "seconds": tenths(lasted), "ago_seconds": ago.as_secs()}))
    });
    past.take(BEFORE).collect()
}

fn tenths(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

/// `/metrics`, as OpenMetrics text.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let sample = sample(&app.browser.status(), &app);
    app.metrics.turns_now(app.floor.waiting(), app.turns.kept());
    let metrics = app.metrics.clone();
    // Adding up the memory of a browser's processes takes milliseconds, which no stream should wait for.
    match tokio::task::spawn_blocking(move || metrics.render(&sample)).await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// These routes are only read.
pub(super) async fn wrong_method(request: Request) -> Response {
    let fault = Fault::new(FaultKind::MethodNotAllowed, "This address is only read: use GET.");
    let mut response = reply::refuse(&fault, &Asked::of(&request));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn sample(status: &Status, app: &App) -> Sample {
    Sample {
        phase: status.phase.name(),
        browser_starts: status.browsers,
        pages: status.pages,
        inflight: app.admission.running(),
        places: app.admission.places(),
        queued: app.admission.queued(),
        buffered: status.buffered,
        events: app.board.events(),
        browser: status.version.clone(),
        browser_groups: app.browser.groups(),
    }
}

/// When asking again makes sense: a person takes longer than a browser.
fn next_look(phase: &Phase, now: Instant) -> Duration {
    match phase {
        Phase::NeedsOperator(_) => Duration::from_secs(60),
        Phase::Backoff { until, .. } => until.saturating_duration_since(now).max(Duration::from_secs(1)),
        _ => Duration::from_secs(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browser::Repair;
    use crate::telemetry::metrics::PHASES;

    #[test]
    fn what_was_before_is_told_without_reasons_and_the_present_phase_is_not_of_it() {
        let (timeline, ms) = (Timeline::default(), Duration::from_millis);
        timeline.enter("starting", "a reason", ms(0));
        timeline.enter("warming", "a reason", ms(640));
        timeline.enter("ready", "a reason", ms(250));
        timeline.enter("suspect", "a reason", ms(9000));
        let told = before(&[&timeline], SystemTime::now() + ms(3000));
        let entry = |phase, seconds| json!({"phase": phase, "seconds": seconds, "ago_seconds": 3});
        assert_eq!(told, [entry("warming", 0.3), entry("starting", 0.6)]);
        (0..9).for_each(|_| timeline.enter("backoff", "", ms(1)));
        assert_eq!(before(&[&timeline], SystemTime::now()).len(), BEFORE);
    }

    #[test]
    fn every_phase_has_a_series_and_a_time_to_look_again() {
        let now = Instant::now();
        let until = now + Duration::from_secs(7);
        for (phase, seconds) in [
            (Phase::Starting, 5),
            (Phase::Warming { until }, 5),
            (Phase::Suspect, 5),
            (Phase::Backoff { until, next: Repair::Site }, 7),
            (Phase::Backoff { until: now, next: Repair::Browser }, 1),
            (Phase::Draining, 5),
        ] {
            assert!(PHASES.contains(&phase.name()), "{phase:?}");
            assert_eq!(next_look(&phase, now), Duration::from_secs(seconds), "{phase:?}");
        }
    }
}
