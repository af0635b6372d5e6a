//! Which paths go through the page, judged before the page sees them.
//!
//! A target must mean the same to us, to the browser and to the site, or the allow-list is worth nothing:
//! whatever one of them could normalise into something else (`..`, `//host`, `\`, their encodings, once or
//! several times over) is refused, not repaired. What is accepted is passed on as it came.

use std::borrow::Cow;

use axum::http::{Uri, Version};
use percent_encoding::percent_decode;

use crate::error::{Fault, FaultKind};

/// Where the site hands out the token of whoever is signed in.
const TOKENS: &str = "/api/auth/";
/// Where it tells who is signed in.
pub(super) const SESSION: &str = "/api/auth/session";

/// A path that is still encoded after so many decodings has no honest meaning. The bound also keeps a long
/// chain of `%2525…` from costing anything.
const DECODINGS: usize = 4;

/// The path and query to send for the request target `uri`, if it is under one of the prefixes `allow`.
///
/// A prefix that ends in `/` allows everything under it; another one allows itself and what is under it.
///
/// # Errors
/// `BadRequest` for a target that could mean something else elsewhere, `PathNotAllowed` for one outside.
pub fn check(uri: &Uri, version: Version, allow: &[String]) -> Result<String, Fault> {
    // HTTP/2 spells out scheme and host beside the path; in HTTP/1 that is a request to a forward proxy.
    if version != Version::HTTP_2 && (uri.scheme().is_some() || uri.authority().is_some()) {
        return Err(bad("This is no forward proxy: the request target must be a path."));
    }
    let path = uri.path();
    let decoded = plain(path)?;
    if uri.query().is_some_and(|query| query.bytes().any(is_control)) {
        return Err(bad("The query contains a control character."));
    }
    if !is_allowed(&decoded, allow) {
        return Err(Fault::new(
            FaultKind::PathNotAllowed,
            format!("This path is not served here; served are: {}.", allow.join(", ")),
        ));
    }
    Ok(match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    })
}

/// Whether the site hands out the token of whoever is signed in under this path, in whatever spelling.
pub(super) fn gives_tokens(path: &str) -> bool {
    plain(path).is_ok_and(|decoded| is_token_path(&decoded))
}

/// Whether `path` means something under one of these prefixes.
pub(super) fn is_under(path: &str, allow: &[String]) -> bool {
    plain(path).is_ok_and(|decoded| is_allowed(&decoded, allow))
}

/// The same target with another path and query.
pub(super) fn with_path(uri: &Uri, path_and_query: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// `path` decoded once, if it can mean nothing but what it says.
fn plain(path: &str) -> Result<Cow<'_, [u8]>, Fault> {
    if !path.starts_with('/') || path.starts_with("//") {
        return Err(bad("The path must start with exactly one slash."));
    }
    judge(path.as_bytes())?;
    let once: Cow<'_, [u8]> = percent_decode(path.as_bytes()).into();
    let mut decoded = once.clone();
    for _ in 0..DECODINGS {
        judge(&decoded)?;
        let next: Cow<'_, [u8]> = percent_decode(&decoded).into();
        if next == decoded {
            return Ok(once);
        }
        decoded = Cow::Owned(next.into_owned());
    }
    Err(bad("The path is encoded too many times."))
}

/// Refuses what another parser could read as a separator, a step up, or the end of a line.
fn judge(path: &[u8]) -> Result<(), Fault> {
    if path.iter().any(|&byte| is_control(byte) || byte == b'\\') {
        return Err(bad("The path contains a control character or a backslash."));
    }
    if path.starts_with(b"//") || path.split(|&byte| byte == b'/').any(|it| it == b"." || it == b"..") {
        return Err(bad("The path contains a segment that leads elsewhere."));
    }
    let is_hidden = |it: &[u8]| {
        let code = [it[1].to_ascii_lowercase(), it[2].to_ascii_lowercase()];
        it[0] == b'%' && matches!(&code, b"2e" | b"2f" | b"5c")
    };
    if path.windows(3).any(is_hidden) {
        return Err(bad("The path contains an encoded dot or slash."));
    }
    Ok(())
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

fn is_allowed(path: &[u8], allow: &[String]) -> bool {
    let gives_tokens = is_token_path(path);
    allow.iter().any(|prefix| {
        let on_border = |rest: &[u8]| prefix.ends_with('/') || rest.is_empty() || rest[0] == b'/';
        path.strip_prefix(prefix.as_bytes()).is_some_and(on_border)
            && (!gives_tokens || is_token_path(prefix.as_bytes()))
    })
}

/// Whether a site that merges slashes and ignores case would see a path of [`TOKENS`].
fn is_token_path(path: &[u8]) -> bool {
    let mut merged = path.to_ascii_lowercase();
    merged.dedup_by(|a, b| *a == b'/' && *b == b'/');
    merged.starts_with(TOKENS.as_bytes()) || merged == TOKENS.trim_end_matches('/').as_bytes()
}

fn bad(why: &'static str) -> Fault {
    Fault::new(FaultKind::BadRequest, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use url::Url;

    fn ask(target: &str, allow: &[&str]) -> Result<String, FaultKind> {
        let allow: Vec<String> = allow.iter().map(|it| it.to_string()).collect();
        // A target that the HTTP library refuses never gets as far as this.
        let uri = target.parse::<Uri>().map_err(|_| FaultKind::BadRequest)?;
        check(&uri, Version::HTTP_11, &allow).map_err(|fault| fault.kind())
    }

    #[test]
    fn what_could_mean_something_else_is_refused() {
        for target in [
            "//evil/backend-api/",
            "///backend-api/x",
            "http://evil/backend-api/x",
            "http://localhost/backend-api/x",
            "evil:80",
            "*",
            "backend-api/x",
            "/backend-api/../api/auth/session",
            "/backend-api/./x",
            "/backend-api/..",
            "/backend-api/%2e%2e/x",
            "/backend-api/%2E./x",
            "/backend-api/a%2fb",
            "/backend-api/a%2Fb",
            "/backend-api/a%5cb",
            "/backend-api/a\\b",
            "/\\evil/backend-api",
            "/backend-api/%252e%252e/x",
            "/backend-api/%25252e/x",
            "/backend-api/%25%32%65/x",
            "/backend-api/%2525252525252525x",
            "/backend-api/a%00",
            "/backend-api/a%0d%0ab",
            "/backend-api/a%1f",
            "/backend-api/a%7F",
            "/backend-api/a%250a",
            "/backend-api/a\r\nb",
            "/%2fevil",
        ] {
            assert_eq!(ask(target, &["/"]), Err(FaultKind::BadRequest), "{target}");
        }
    }

    #[test]
    fn prefixes_end_at_segments() {
        let no = Err(FaultKind::PathNotAllowed);
        for (target, allow, expected) in [
            ("/backend-api/x", "/backend-api/", Ok(())),
            ("/backend-api/", "/backend-api/", Ok(())),
            ("/backend-api", "/backend-api/", no),
            ("/backend-apix", "/backend-api/", no),
            ("/backend-api", "/backend-api", Ok(())),
            ("/backend-api/x", "/backend-api", Ok(())),
            ("/backend-apix", "/backend-api", no),
            ("/BACKEND-API/x", "/backend-api/", no),
            ("/%62ackend-api/x", "/backend-api/", Ok(())),
            ("/", "/backend-api/", no),
            ("/anything", "/", Ok(())),
            ("/api/auth/session", "/", no),
            ("/api/auth", "/", no),
            ("/API/Auth/session", "/", no),
            ("/api/auth%73/x", "/", Ok(())),
            ("/api/%61uth/session", "/", no),
            ("/api//auth/session", "/", no),
            ("/api/auth/session", "/api/", no),
            ("/api/auth/session", "/api/auth/", Ok(())),
            ("/api/auth/session", "/api/auth/csrf", no),
        ] {
            assert_eq!(ask(target, &[allow]).map(|_| ()), expected, "{target} with {allow}");
        }
        assert_eq!(ask("/api/auth/session", &["/", "/api/auth/csrf"]), Err(FaultKind::PathNotAllowed));
        let fault = check(&Uri::from_static("/x"), Version::HTTP_11, &["/a/".into(), "/b/".into()]);
        assert!(fault.unwrap_err().public().contains("/a/, /b/"));
    }

    #[test]
    fn the_target_passes_as_it_came() {
        for target in [
            "/backend-api/x?",
            "/backend-api/x?a=%0d%0a&b=../..&c=http://evil//",
            "/backend-api/%E4%BD%A0%20x;y=1,2",
            "/backend-api/a//b/...",
            "/backend-api/100%",
            "/backend-api/%zz",
        ] {
            assert_eq!(ask(target, &["/"]).as_deref(), Ok(target));
        }
        let uri = Uri::from_static("http://localhost:3000/backend-api/x?y");
        assert_eq!(check(&uri, Version::HTTP_2, &["/".into()]).unwrap(), "/backend-api/x?y");
    }

    fn decoded(text: &str) -> Vec<u8> {
        percent_decode(text.as_bytes()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The browser resolves what we pass on with the same rules as `Url`.
        #[test]
        fn what_is_accepted_means_the_same_to_a_browser(
            target in r"(/|%2[efEF]|%5[cC]|%25|\.|\\|//|[a-z]|\?|[!-~]|\PC){1,24}"
        ) {
            if let Ok(sent) = ask(&format!("/{target}"), &["/"]) {
                let url = Url::parse("https://site.test").unwrap().join(&sent).unwrap();
                prop_assert_eq!(url.host_str(), Some("site.test"));
                let path = sent.split('?').next().unwrap();
                prop_assert_eq!(decoded(url.path()), decoded(path));
                prop_assert_eq!(url.path().matches('/').count(), path.matches('/').count());
            }
        }
    }
}
