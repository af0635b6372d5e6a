//! Recognising a wall: the site's bot check or its sign-in page in place of what was asked for.
//!
//! Recognising only. A check is passed by being a browser and waiting, or by a person in the console.

use crate::exchange::Head;

/// Something that stands between the page and the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wall {
    /// The site's bot check.
    Check,
    /// The site's sign-in.
    SignIn,
}

/// What an answer to a fetch of the site's own page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The site lets the page in.
    Passed,
    /// There is a wall.
    Wall(Wall),
    /// Neither: the site is in trouble, in words.
    Unwell(String),
    /// There was no answer: the site, the way to it, or the page itself is in trouble, in words.
    Unanswered(String),
}

/// What the address says that the site's tab landed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// A page of the site.
    Site,
    /// Plainly a wall.
    Wall(Wall),
    /// A page of somebody else.
    Elsewhere,
}

/// What a check's page has in it. The title is Cloudflare's, in use since 2022; the others are the names of
/// its script and its options.
const CHECK_MARKS: [&str; 4] = ["<title>just a moment", "challenge-platform", "_cf_chl_opt", "cf-turnstile"];

/// What a sign-in page has in it.
const SIGN_IN_MARKS: [&str; 4] = ["type=\"password\"", "type=password", "<title>log in", "<title>sign in"];

/// How much of an answer's beginning is looked at.
pub const LOOK: usize = 16 * 1024;

/// Path segments of sign-in pages.
const SIGN_IN_PATHS: [&str; 6] =
    ["login", "log-in", "signin", "sign-in", "log-in-or-create-account", "authorize"];

/// First labels of hosts that do nothing but sign people in.
const SIGN_IN_HOSTS: [&str; 5] = ["auth.", "auth0.", "login.", "accounts.", "signin."];

/// Judges an answer to a fetch of the site's own page, from its head and the beginning of its body.
pub fn judge(head: &Head, body: &[u8]) -> Verdict {
    if is_mitigated(head) {
        return Verdict::Wall(Wall::Check);
    }
    let html = is_html(head);
    if html && has_check_marks(body) {
        return Verdict::Wall(Wall::Check);
    }
    if head.redirected_to.as_deref().is_some_and(is_sign_in_path) {
        return Verdict::Wall(Wall::SignIn);
    }
    match head.status {
        401 => Verdict::Wall(Wall::SignIn),
        403 if html => Verdict::Wall(Wall::Check),
        500 | 502..=599 => {
            Verdict::Unwell(format!("the site answers its own page with status {}", head.status))
        }
        _ => Verdict::Passed,
    }
}

/// Whether only the beginning of an answer's body can tell if it is a wall: see [`judge_answer`].
pub fn needs_body(head: &Head) -> bool {
    is_html(head) && matches!(head.status, 200 | 401 | 403 | 429 | 503) && !is_mitigated(head)
}

/// Judges an answer to a caller's request: is it a wall in place of what was asked for? More careful than
/// [`judge`], because what is none must pass as it is. `body` is its beginning, as far as [`needs_body`]
/// wants it; `page` says that the caller asked for a page, so that one to sign in may be what it wants.
pub fn judge_answer(head: &Head, body: &[u8], page: bool) -> Option<Wall> {
    if is_mitigated(head) || (needs_body(head) && has_check_marks(body)) {
        return Some(Wall::Check);
    }
    let redirected = head.redirected_to.as_deref().is_some_and(is_sign_in_path);
    let sign_in = redirected && is_html(head) || needs_body(head) && has_sign_in_marks(body);
    (sign_in && !page).then_some(Wall::SignIn)
}

/// Whether a host does nothing but sign people in.
pub fn is_sign_in_host(host: &str) -> bool {
    SIGN_IN_HOSTS.iter().any(|it| host.starts_with(it))
}

/// Judges the address that the site's tab landed on, given the host that was asked for.
pub fn judge_landing(asked: &str, host: &str, path: &str) -> Landing {
    if is_sign_in_host(host) || is_sign_in_path(path) {
        Landing::Wall(Wall::SignIn)
    } else if site_of(asked) == site_of(host) {
        Landing::Site
    } else {
        Landing::Elsewhere
    }
}

/// A name that hosts of one site share: the last two labels, or the first of two names of one site.
fn site_of(host: &str) -> &str {
    let site = host.rmatch_indices('.').nth(1).map_or(host, |(dot, _)| &host[dot + 1..]);
    if site == "chatgpt.com" { "openai.com" } else { site }
}

fn header<'a>(head: &'a Head, name: &str) -> Option<&'a str> {
    head.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
}

/// Cloudflare's own word that this is its check and not the site's answer.
fn is_mitigated(head: &Head) -> bool {
    header(head, "cf-mitigated").is_some_and(|it| it.eq_ignore_ascii_case("challenge"))
}

fn is_html(head: &Head) -> bool {
    header(head, "content-type")
        .is_some_and(|it| it.trim_start().to_ascii_lowercase().starts_with("text/html"))
}

fn has_sign_in_marks(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    SIGN_IN_MARKS.iter().any(|it| text.contains(it))
}

fn has_check_marks(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    // A page that has passed may still carry the script that watches over it: only in the beginning of a
    // short page, or with the title, is it the check itself.
    text.contains(CHECK_MARKS[0]) || (body.len() < LOOK && CHECK_MARKS.iter().any(|it| text.contains(it)))
}

fn is_sign_in_path(path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    path.split('/').any(|segment| SIGN_IN_PATHS.iter().any(|it| segment.eq_ignore_ascii_case(it)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, headers: &[(&str, &str)]) -> Head {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Head { status, headers, redirected_to: None }
    }

    const HTML: (&str, &str) = ("content-type", "text/html; charset=UTF-8");

    #[test]
    fn a_check_is_seen_by_its_header_its_title_or_a_forbidden_page() {
        let check = Verdict::Wall(Wall::Check);
        assert_eq!(judge(&head(403, &[("cf-mitigated", "challenge")]), b""), check);
        assert_eq!(judge(&head(200, &[HTML]), b"<html><head><title>Just a moment...</title>"), check);
        assert_eq!(judge(&head(403, &[HTML]), b"<html>"), check);
    }

    #[test]
    fn an_ordinary_page_passes_even_with_a_watching_script() {
        let mut page =
            b"<!doctype html><title>Chat</title><script src=/cdn-cgi/challenge-platform/x.js>".to_vec();
        page.resize(32 * 1024, b' ');
        assert_eq!(judge(&head(200, &[HTML]), &page), Verdict::Passed);
        assert_eq!(judge(&head(404, &[]), b""), Verdict::Passed);
        assert_eq!(judge(&head(403, &[("content-type", "application/json")]), b"{}"), Verdict::Passed);
    }

    #[test]
    fn sign_in_is_seen_by_status_and_by_address() {
        let mut redirected = head(200, &[HTML]);
        redirected.redirected_to = Some("/auth/login?next=%2F".into());
        assert_eq!(judge(&redirected, b""), Verdict::Wall(Wall::SignIn));
        assert_eq!(judge(&head(401, &[]), b""), Verdict::Wall(Wall::SignIn));
        let wall = Landing::Wall(Wall::SignIn);
        assert_eq!(judge_landing("example.com", "auth.example.com", "/"), wall);
        assert_eq!(judge_landing("example.com", "example.com", "/auth/login"), wall);
        assert_eq!(judge_landing("chat.openai.com", "chatgpt.com", "/"), Landing::Site);
        assert_eq!(judge_landing("chat.example.com", "example.com", "/"), Landing::Site);
        assert_eq!(judge_landing("example.com", "appleid.apple.com", "/"), Landing::Elsewhere);
    }

    #[test]
    fn a_wall_in_place_of_an_answer() {
        const FORM: &[u8] = b"<!doctype html><form><input type=\"password\">";
        const CHECK: &[u8] = b"<html><head><title>Just a moment...</title>";
        let mut redirected = head(200, &[HTML]);
        redirected.redirected_to = Some("/auth/login".into());
        let json = ("content-type", "application/json");
        for (head, body, page, expected) in [
            (head(403, &[("cf-mitigated", "challenge"), json]), &b"{}"[..], false, Some(Wall::Check)),
            (head(403, &[HTML]), CHECK, false, Some(Wall::Check)),
            (head(503, &[HTML]), CHECK, true, Some(Wall::Check)),
            (head(200, &[HTML]), FORM, false, Some(Wall::SignIn)),
            (head(200, &[HTML]), FORM, true, None),
            (redirected.clone(), b"", false, Some(Wall::SignIn)),
            (redirected, b"", true, None),
            // What the site itself says passes, however it reads.
            (head(403, &[HTML]), b"<html>forbidden", false, None),
            (head(403, &[json]), b"{\"detail\":\"<title>just a moment\"}", false, None),
            (head(401, &[json]), b"{}", false, None),
            (head(429, &[json]), b"{}", false, None),
            (head(502, &[HTML]), CHECK, false, None),
        ] {
            assert_eq!(judge_answer(&head, body, page), expected, "{head:?}");
        }
    }

    #[test]
    fn a_failing_site_is_neither() {
        assert!(matches!(judge(&head(502, &[HTML]), b"<html>bad gateway"), Verdict::Unwell(_)));
    }
}
