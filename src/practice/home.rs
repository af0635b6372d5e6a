//! The pages: home, sign-in and check, their assets, and what their scripts report.
//!
//! The pages are files in `assets/`, so that they can be read and changed as what they are.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::counters::note;
use super::gate::{Proof, user_agent};
use super::policy::redirect;
use super::reply::{Refusal, html, ok, with_type};
use super::routes::{Site, whole_body};

const HOME: &str = include_str!("assets/home.html");
const LOGIN: &str = include_str!("assets/login.html");
const CHECK: &str = include_str!("assets/check.html");
const STYLE: &str = include_str!("assets/style.css");
const HOME_SCRIPT: &str = include_str!("assets/home.js");
const WATCHDOG: &str = include_str!("assets/watchdog.js");
const CHECK_SCRIPT: &str = include_str!("assets/check.js");
const SERVICE_WORKER: &str = include_str!("assets/sw.js");

/// Nothing but the site's own: whatever is injected into a page has to get past this.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                   worker-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The home page, under every path that has no meaning of its own.
pub(super) async fn page(State(site): State<Arc<Site>>, request: Request) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Refusal::WrongMethod.into_response();
    }
    if site.gate.wants_sign_in() && !site.gate.is_signed_in(request.headers()) {
        return redirect(StatusCode::FOUND, "/auth/login");
    }
    site.tally.add(|counters| counters.home_loads += 1);
    let mut page =
        strict(html(StatusCode::OK, HOME.replace("{{leak}}", &site.leak.load(Relaxed).to_string())));
    if site.restless.load(Relaxed) {
        page.headers_mut().insert("refresh", HeaderValue::from_static("0"));
    }
    page
}

/// `GET /auth/login`.
pub(super) async fn login_page() -> Response {
    strict(html(StatusCode::OK, LOGIN))
}

/// `POST /auth/login`: whoever sends the form is signed in; there is no password to handle.
pub(super) async fn login(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    if !is_same_origin(&headers) {
        return Refusal::NotSameOrigin.into_response();
    }
    let cookie = site.gate.session_cookie();
    ([(header::SET_COOKIE, cookie)], redirect(StatusCode::SEE_OTHER, "/")).into_response()
}

/// The page that stands in the way until the check is passed.
pub(super) fn challenge(site: &Site) -> Response {
    site.tally.add(|counters| counters.challenged += 1);
    let page = CHECK
        .replace("{{nonce}}", &site.gate.nonce(site.now_ms()))
        .replace("{{mode}}", site.gate.check().name())
        .replace("{{least}}", &site.gate.least_ms().to_string());
    let mut response = strict(html(StatusCode::FORBIDDEN, page));
    response.headers_mut().insert("cf-mitigated", HeaderValue::from_static("challenge"));
    response
}

/// `POST /practice/check`: the result of the check page's script.
pub(super) async fn check(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Refusal> {
    if !is_same_origin(request.headers()) {
        return Err(Refusal::NotSameOrigin);
    }
    let agent = user_agent(request.headers()).to_owned();
    let proof: Proof = report(request).await?;
    let now = site.now_ms();
    site.gate.judge(&proof, now).map_err(Refusal::CheckFailed)?;
    site.tally.add(|counters| counters.checks_passed += 1);
    Ok(([(header::SET_COOKIE, site.gate.clearance_cookie(&agent, now))], ok(&json!({"passed": true})))
        .into_response())
}

#[derive(Debug, Deserialize)]
struct Intrusion {
    kind: String,
    name: String,
}

/// `POST /practice/intrusion`: the watchdog found something that the page had not put there.
pub(super) async fn intrusion(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Refusal> {
    let Intrusion { kind, name } = report(request).await?;
    site.tally.add(|counters| note(&mut counters.intrusions, &format!("{kind}: {name}")));
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Deserialize)]
struct Saw {
    url: String,
    client: String,
}

/// `POST /practice/sw-saw`: the service worker saw a request that was not the home page's.
pub(super) async fn sw_saw(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Refusal> {
    let Saw { url, client } = report(request).await?;
    site.tally.add(|counters| note(&mut counters.sw_saw, &format!("{url} from {client}")));
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /practice/{asset}`.
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    match name.as_str() {
        "style.css" => with_type(StatusCode::OK, "text/css; charset=utf-8", STYLE),
        "home.js" => script(HOME_SCRIPT),
        "watchdog.js" => script(WATCHDOG),
        "check.js" => script(CHECK_SCRIPT),
        _ => Refusal::NotFound.into_response(),
    }
}

/// `GET /sw.js`: at the root, because that makes its scope the whole site.
pub(super) async fn service_worker() -> Response {
    script(SERVICE_WORKER)
}

/// `GET /favicon.ico`: none, and no challenge for asking.
pub(super) async fn no_icon() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

fn script(source: &'static str) -> Response {
    with_type(StatusCode::OK, "text/javascript; charset=utf-8", source)
}

/// A page under the site's policy, alone in its browsing context group.
fn strict(mut page: Response) -> Response {
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    page
}

fn is_same_origin(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin")
}

async fn report<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let body = whole_body(request).await?;
    serde_json::from_slice(&body).map_err(|error| Refusal::invalid(json!(["body"]), error.to_string()))
}
