//! The document against the router: neither says more than the other.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

/// The paths with their parameters' names left out: `/x/{id}` and `/x/{*rest}` are the same thing.
fn plain(path: &str) -> String {
    path.split('/').map(|it| if it.starts_with('{') { "{}" } else { it }).collect::<Vec<_>>().join("/")
}

fn documented() -> BTreeSet<String> {
    ROUTES.iter().map(|it| plain(it.path)).collect()
}

/// The routes as the router's source names them: a router does not tell.
fn routed() -> BTreeSet<String> {
    let source = include_str!("../mod.rs");
    let named: BTreeSet<_> =
        source.split(".route(\"").skip(1).map(|it| plain(it.split('"').next().expect("a path"))).collect();
    assert!(named.len() > 10, "{named:?}");
    named
}

/// Routes that there are so that nothing lies below them.
const NOTHING: [&str; 2] = ["/v1", "/admin/{}"];

#[test]
fn every_route_is_in_the_document() {
    let documented = documented();
    for path in routed().iter().filter(|it| !NOTHING.contains(&it.as_str())) {
        // What is not named there is told with everything else of the site's.
        let is_told = documented.contains(path) || path.starts_with("/backend-");
        assert!(is_told, "{path} is not in routes.rs");
    }
}

#[test]
fn everything_in_the_document_is_served() {
    let routed = routed();
    // By these prefixes the page, the relay and the earlier names are chosen.
    let elsewhere = ["/backend-api/", "/backend-anon/", "/api/auth/", "/platform/", "/chatgpt/"];
    for route in ROUTES {
        let is_served =
            routed.contains(&plain(route.path)) || elsewhere.iter().any(|it| route.path.starts_with(it));
        assert!(is_served, "{} is served by nothing", route.path);
    }
}

#[test]
fn no_route_is_told_twice_and_each_has_a_known_group() {
    let mut seen = BTreeSet::new();
    for route in ROUTES {
        assert!(TAGS.iter().any(|(name, _)| *name == route.tag), "{}", route.path);
        for method in route.methods {
            let method = serde_json::to_string(method).expect("a word");
            assert!(seen.insert((plain(route.path), method.clone())), "{method} {}", route.path);
        }
    }
}

#[test]
fn the_document_is_whole_and_every_reference_leads_somewhere() {
    let document: Value = serde_json::from_slice(&DOCUMENT).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let operations: usize = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .map(|it| it.as_object().map_or(0, |it| it.len()))
        .sum();
    assert_eq!(operations, ROUTES.iter().map(|it| it.methods.len()).sum::<usize>());
    let text = document.to_string();
    let referred: BTreeSet<_> =
        text.split("\"#").skip(1).map(|it| it.split('"').next().expect("a pointer")).collect();
    assert!(referred.len() > 10, "{referred:?}");
    for pointer in referred {
        assert!(document.pointer(pointer).is_some(), "#{pointer} leads nowhere");
    }
    let chat = &document["components"]["schemas"]["ChatRequest"];
    assert_eq!(chat["required"], serde_json::json!(["messages"]));
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    for word in ["http://", "https://", "src=", "@import", "innerHTML"] {
        assert!(!PAGE.contains(word), "{word}");
    }
    assert!(POLICY.to_str().expect("text").contains("script-src 'sha256-"));
}
