//! What monitors ask: is the process alive, would a request be served now, and the figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::App;
use super::reply::{self, Asked};
use crate::browser::{Phase, Status};
use crate::error::{Fault, FaultKind};
use crate::store::Health;
use crate::telemetry::metrics::{CONTENT_TYPE, Sample};

/// `/healthz`: whoever reads this was answered, so the process is alive.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// `/readyz`: 200 only if a request would be served now; otherwise 503 with the phase and a reason.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let status = app.browser.status();
    let busy = if app.admission.is_closed() {
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
    let mut answer = json!({
        "ready": is_ready,
        "phase": status.phase.name(),
        "since_seconds": status.since.elapsed().as_secs(),
        "running": app.admission.running(),
        "places": app.admission.places(),
        "queued": app.admission.queued(),
    });
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
    answer["reason"] = busy.unwrap_or(status.reason).into();
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, Json(answer)).into_response();
    let wait = reply::whole_seconds(next_look(&status.phase, Instant::now()));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    response
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
        browser: status.version.clone(),
        browser_group: status.pid,
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
