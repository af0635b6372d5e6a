//! How a profile shows that somebody is signed in: the cookies by which the site knows a session.
//!
//! Only names are looked at. A session that has ended at the site still counts: better to ask a caller for a
//! key in vain than to lend him a sign-in. Pure.

/// The beginnings of the names: a session too long for one cookie is in several, with `.0`, `.1`, … after the
/// name.
const SESSIONS: [&str; 5] = [
    // The site's own sign-in library, by its older and newer name, with and without TLS.
    "__Secure-next-auth.session-token",
    "next-auth.session-token",
    "__Secure-authjs.session-token",
    "authjs.session-token",
    // The practice site's.
    "practice_session",
];

/// Whether a cookie of this name is a sign-in.
pub fn is_session(cookie: &str) -> bool {
    let part = |rest: &str| {
        rest.is_empty() || rest.strip_prefix('.').is_some_and(|n| n.bytes().all(|it| it.is_ascii_digit()))
    };
    SESSIONS.iter().any(|name| cookie.strip_prefix(name).is_some_and(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_told_from_what_guests_have() {
        for name in [
            "__Secure-next-auth.session-token",
            "__Secure-next-auth.session-token.0",
            "__Secure-next-auth.session-token.12",
            "authjs.session-token",
            "practice_session",
        ] {
            assert!(is_session(name), "{name}");
        }
        for name in [
            "__Host-next-auth.csrf-token",
            "__Secure-next-auth.callback-url",
            "__Secure-next-auth.session-token.x",
            "practice_session_other",
            "practice_clearance",
            "oai-did",
            "cf_clearance",
            "",
        ] {
            assert!(!is_session(name), "{name}");
        }
    }
}
