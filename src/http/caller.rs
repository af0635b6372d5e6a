//! What clients say of themselves. Who they are, `access` decides.

use axum::http::HeaderMap;

/// Whether this is the bot plugin, which says so itself.
pub(super) fn is_plugin(headers: &HeaderMap) -> bool {
    headers.get("library").is_some_and(|it| it.as_bytes().trim_ascii() == b"chatgpt-plugin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_says_so() {
        let of = |value: &str| HeaderMap::from_iter([("library".parse().unwrap(), value.parse().unwrap())]);
        assert!(is_plugin(&of("chatgpt-plugin")) && is_plugin(&of(" chatgpt-plugin ")));
        assert!(!is_plugin(&of("chatgpt-plugins")) && !is_plugin(&HeaderMap::new()));
    }
}
