//! The last hour in figures: a bounded ring of samples, one every ten seconds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;

use super::{answer, session_of};
use crate::http::App;
use crate::http::reply::Asked;
use crate::telemetry::metrics::Sums;
use crate::telemetry::process;

/// From one sample to the next.
const STEP: Duration = Duration::from_secs(10);
/// An hour of them.
const KEPT: usize = 360;

/// How it was at one moment. Times are in milliseconds, the mean since the sample before; `None` where nothing
/// came. Memory is in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Sample {
    head: Option<f64>,
    delay: Option<f64>,
    running: usize,
    queued: usize,
    memory: u64,
    browser: u64,
}

/// The samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct Charts(Mutex<VecDeque<Sample>>);

impl Charts {
    fn push(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    fn all(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn mean(micros: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| micros as f64 / count as f64 / 1000.0)
}

/// What was added from `before` to `now`: the mean time to the head, and of a piece on its way.
fn means(before: Sums, now: Sums) -> (Option<f64>, Option<f64>) {
    (
        mean(now.head_micros - before.head_micros, now.heads - before.heads),
        mean(now.delay_micros - before.delay_micros, now.pieces - before.pieces),
    )
}

/// Takes samples, until it is dropped.
pub(super) async fn keep(app: Arc<App>) {
    let mut before = app.metrics.sums();
    let mut tick = tokio::time::interval_at((Instant::now() + STEP).into(), STEP);
    loop {
        tick.tick().await;
        let now = app.metrics.sums();
        let (head, delay) = means(before, now);
        before = now;
        let groups = app.browser.groups();
        // Reading the memory of a browser's processes takes milliseconds, which no stream should wait for.
        let of_all = move || groups.iter().map(|it| process::group_memory(*it)).sum();
        let memory = move || (process::resident(), of_all());
        let (memory, browser) = tokio::task::spawn_blocking(memory).await.unwrap_or_default();
        let (running, queued) = (app.admission.running(), app.admission.queued());
        app.console.charts.push(Sample { head, delay, running, queued, memory, browser });
    }
}

/// `GET /console/api/charts`.
pub(super) async fn charts(State(app): State<Arc<App>>, request: Request) -> Response {
    let told = session_of(&app, request.headers())
        .map(|_| json!({"step": STEP.as_secs(), "kept": KEPT, "samples": app.console.charts.all()}));
    answer(told, &Asked::of(&request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_what_came_since_the_sample_before() {
        let before = Sums { heads: 1, head_micros: 9_000, pieces: 10, delay_micros: 5_000 };
        let now = Sums { heads: 3, head_micros: 13_000, ..before };
        assert_eq!(means(before, now), (Some(2.0), None));
    }

    #[test]
    fn an_hour_is_kept() {
        let charts = Charts::default();
        let sample = Sample { head: None, delay: None, running: 0, queued: 0, memory: 0, browser: 0 };
        (0..KEPT + 3).for_each(|running| charts.push(Sample { running, ..sample.clone() }));
        let all = charts.all();
        assert_eq!((all.len(), all[0].running), (KEPT, 3));
    }
}
