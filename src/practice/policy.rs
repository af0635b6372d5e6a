//! The layers in front of the routes: which host is meant, and who may pass.
//!
//! Each layer is one judgement with one refusal. Their order is set in `routes.rs` and is the policy.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::counters::note;
use super::home;
use super::reply::{Refusal, with_type};
use super::routes::Site;

/// The host on which the chat lives.
pub(super) const HOME: &str = "practice.test";
/// The host that people type, and that only redirects.
pub(super) const FRONT: &str = "chat.practice.test";
/// A foreign host, to which nothing of the home's may ever go.
pub(super) const ELSEWHERE: &str = "elsewhere.test";

/// The URI of a request as it arrived: a nested router shows its routes a shortened one.
#[derive(Clone, Debug)]
pub(super) struct Arrived(pub Uri);

/// Sends each request to the host it names: home goes on, the front redirects, elsewhere only counts.
pub(super) async fn by_host(State(site): State<Arc<Site>>, mut request: Request, next: Next) -> Response {
    let authority = authority(&request);
    let is_for_guests = request.uri().path().starts_with("/backend-anon/");
    let is_post = request.method() == Method::POST && is_conversation(request.uri().path());
    let host = authority.as_ref().map_or("", |a| a.host());
    site.tally.add(|counters| {
        counters.requests_total += 1;
        counters.posts_arrived += u64::from(is_post && host != ELSEWHERE);
        counters.posts_of_guests += u64::from(is_post && host != ELSEWHERE && is_for_guests);
        counters.elsewhere_hits += u64::from(host == ELSEWHERE);
    });
    match host {
        HOME | "localhost" | "127.0.0.1" => {
            let arrived = Arrived(request.uri().clone());
            request.extensions_mut().insert(arrived);
            let mut response = next.run(request).await;
            // The site's own headers: a caller must not see them as the proxy's.
            let headers = response.headers_mut();
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            response
        }
        FRONT => {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let port =
                authority.as_ref().and_then(|a| a.port()).map_or_else(String::new, |p| format!(":{p}"));
            redirect(StatusCode::PERMANENT_REDIRECT, &format!("https://{HOME}{port}{path}"))
        }
        ELSEWHERE if request.uri().path() == "/landed" => {
            with_type(StatusCode::OK, "text/plain; charset=utf-8", "You landed elsewhere.\n")
        }
        ELSEWHERE => Refusal::NotFound.into_response(),
        _ => with_type(StatusCode::MISDIRECTED_REQUEST, "text/plain; charset=utf-8", "No such site here.\n"),
    }
}

/// Only with a valid clearance; everyone else gets the challenge page.
pub(super) async fn with_clearance(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    if site.gate.lets_in(request.headers(), site.now_ms()) {
        next.run(request).await
    } else {
        home::challenge(&site)
    }
}

/// Only what a script of a page of this origin can have sent; what else looks odd is noted.
pub(super) async fn from_our_page(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let odd = odd_headers(&request);
    if !odd.is_empty() {
        site.tally.add(|counters| odd.iter().for_each(|header| note(&mut counters.odd_headers, header)));
    }
    if !is_script_of_ours(request.headers()) {
        site.tally.add(|counters| counters.refused_fetch_site += 1);
        return Refusal::NotSameOrigin.into_response();
    }
    next.run(request).await
}

/// Only signed in, where the site wants that.
pub(super) async fn signed_in(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    if site.gate.wants_sign_in() && !site.gate.is_signed_in(request.headers()) {
        return Refusal::Unauthorized.into_response();
    }
    next.run(request).await
}

/// A redirect to `location`; 500 when that cannot be a header.
pub(super) fn redirect(status: StatusCode, location: &str) -> Response {
    match HeaderValue::from_str(location) {
        Ok(location) => (status, [(header::LOCATION, location)]).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// What the fetch metadata, which no script can forge, says of the sender.
fn is_script_of_ours(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|v| v == value);
    is("sec-fetch-site", "same-origin") && !is("sec-fetch-mode", "navigate")
}

fn is_conversation(path: &str) -> bool {
    let route = path.strip_prefix("/backend-api").or(path.strip_prefix("/backend-anon"));
    matches!(route, Some("/conversation" | "/f/conversation"))
}

/// The host that a request names: `:authority` in HTTP/2, `Host` in HTTP/1.1.
fn authority(request: &Request) -> Option<Authority> {
    let named = || request.headers().get(header::HOST)?.to_str().ok()?.parse().ok();
    request.uri().authority().cloned().or_else(named)
}

/// Headers that no browser's fetch sends on a same-origin request, as `name: value`.
fn odd_headers(request: &Request) -> Vec<String> {
    const NEVER: [&str; 14] = [
        "forwarded",
        "via",
        "x-real-ip",
        "true-client-ip",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "x-http-method-override",
    ];
    let authority = authority(request);
    let own = |value: &str| authority.as_ref().is_some_and(|a| is_within(value, a));
    let odd = |name: &str, value: &str| match name {
        "host" => authority.as_ref().is_none_or(|a| a.as_str() != value),
        "connection" => request.version() == Version::HTTP_2 || !value.eq_ignore_ascii_case("keep-alive"),
        "origin" | "referer" => !own(value),
        _ => NEVER.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("cf-"),
    };
    let shown = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    pairs(request.headers())
        .filter(|(name, value)| odd(name, &shown(value)))
        .map(|(name, value)| format!("{name}: {}", shown(value)))
        .collect()
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &HeaderValue)> {
    headers.iter().map(|(name, value)| (name.as_str(), value))
}

/// Whether an `Origin` or `Referer` lies within `https://authority`.
fn is_within(url: &str, authority: &Authority) -> bool {
    url.strip_prefix("https://")
        .and_then(|rest| rest.strip_prefix(authority.as_str()))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn odd(headers: &[(&str, &str)]) -> Vec<String> {
        let mut request = Request::builder().uri("/backend-api/me").header("host", "practice.test:8443");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        odd_headers(&request.body(Body::empty()).expect("a request"))
    }

    #[test]
    fn a_browser_is_not_odd_and_a_proxy_is() {
        let browser = [
            ("connection", "keep-alive"),
            ("origin", "https://practice.test:8443"),
            ("referer", "https://practice.test:8443/"),
            ("accept-language", "en"),
            ("authorization", "Bearer x"),
        ];
        assert!(odd(&browser).is_empty());
        let proxy = [
            ("x-forwarded-for", "1.2.3.4"),
            ("via", "1.1 x"),
            ("connection", "close"),
            ("origin", "http://localhost:3000"),
            ("referer", "https://practice.test:84430/"),
        ];
        assert_eq!(odd(&proxy).len(), proxy.len());
    }
}
