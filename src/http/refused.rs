//! An answer of the site's that is no stream, made into a fault for a client that reads nothing else.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use tokio::time::Instant;

use super::body::Answer;
use crate::error::{Fault, SiteError};
use crate::site::refusal;

/// How long the text of an error is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// A longer wait that the site names is not passed on as it is: nobody waits for that.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Reads the beginning of `answer` and lets go of the rest. The fault has the site's status, its sentence and
/// its `Retry-After`, where there is one in seconds.
pub(super) async fn read(mut answer: Answer) -> Fault {
    let body = answer.exchange.peek(refusal::LOOK, (Instant::now() + PATIENCE).into_std()).await;
    let sentence = refusal::sentence(&body);
    let fault = Fault::of_site(SiteError { status: answer.status.as_u16(), sentence });
    match retry_after(&answer.headers) {
        Some(wait) => fault.retry_after(wait.min(LONGEST)),
        None => fault,
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
