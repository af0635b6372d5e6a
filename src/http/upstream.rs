//! Under whose name a request goes to the site: the one place where that is decided.
//!
//! A caller's own token goes along as it is. Without one, the page's cookies speak if the profile is signed in;
//! if it is not, the bot plugin's turns go the way of the site's guests (`/backend-anon/`), since the signed-in
//! way (`/backend-api/`) would only refuse them. Whoever else writes a path means it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{App, path};
use crate::exchange::PageRequest;

const SIGNED_IN: &str = "/backend-api/";
const GUESTS: &str = "/backend-anon/";
/// Where the site says who is signed in; its answer stays with us.
const SESSION: &str = "/api/auth/session";
/// How long that holds. A person who has just signed in is noticed that late.
const HOLDS: Duration = Duration::from_secs(60);
/// How long it is waited for, and how much of it is read.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: usize = 64 * 1024;

/// Whether the profile is signed in, as last seen.
#[derive(Debug, Default)]
pub struct Standing(Mutex<Option<(Instant, bool)>>);

/// Sends a request without a token where guests go, if that is what the page is.
pub(super) async fn settle(app: &App, request: &mut PageRequest, deadline: Instant) {
    let has_token = request.headers.iter().any(|(name, _)| name == "authorization");
    let Some(rest) = request.path.strip_prefix(SIGNED_IN).filter(|_| !has_token) else { return };
    let guests = format!("{GUESTS}{rest}");
    let is_served = path::is_under(&guests, &app.policy.allow_paths);
    if is_served && is_signed_in(app, deadline).await == Some(false) {
        request.path = guests;
    }
}

/// Whether the page's cookies are somebody's; `None` if the site did not say.
async fn is_signed_in(app: &App, deadline: Instant) -> Option<bool> {
    let known = *app.standing.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((seen, is)) = known
        && seen.elapsed() < HOLDS
    {
        return Some(is);
    }
    let request = PageRequest {
        method: "GET".into(),
        path: SESSION.into(),
        headers: vec![("accept".into(), "application/json".into())],
        body: Vec::new(),
    };
    let deadline = deadline.min(Instant::now() + PATIENCE);
    let asked = app.browser.fetch(request, deadline);
    let (head, mut exchange) = tokio::time::timeout_at(deadline.into(), asked).await.ok()?.ok()?;
    let body = exchange.peek(LOOK, deadline).await;
    let session: Value = serde_json::from_slice(&body).ok()?;
    if head.status != 200 || !session.is_object() {
        return None;
    }
    let is = ["user", "accessToken"].iter().any(|it| !session[*it].is_null());
    *app.standing.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), is));
    Some(is)
}
