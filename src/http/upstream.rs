//! Which way of the site's a turn without a token takes. Whose token a request has is decided before
//! (`access`).
//!
//! If the profile is signed in, the page's cookies speak. If it is not, the bot plugin's turns go the way of the
//! site's guests (`/backend-anon/`), since the way of the signed in (`/backend-api/`) would only refuse them.
//! Whoever else writes a path means it.

use super::{App, path};
use crate::exchange::PageRequest;

const SIGNED_IN: &str = "/backend-api/";
const GUESTS: &str = "/backend-anon/";

/// Sends a request without a token where guests go, if nobody is signed in.
pub(super) fn settle(app: &App, request: &mut PageRequest) {
    let has_token = request.headers.iter().any(|(name, _)| name == "authorization");
    if has_token || app.browser.watch().borrow().signed_in != Some(false) {
        return;
    }
    let guests = request.path.strip_prefix(SIGNED_IN).map(|rest| format!("{GUESTS}{rest}"));
    let is_served = |it: &String| path::is_under(it.split('?').next().unwrap_or(it), &app.policy.allow_paths);
    if let Some(guests) = guests.filter(is_served) {
        request.path = guests;
    }
}
