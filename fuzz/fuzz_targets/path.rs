//! Request targets: what is let through means the same to a browser, which resolves it against the origin.
#![no_main]

use http::{Uri, Version};
use libfuzzer_sys::fuzz_target;
use tabproxy::http::path;
use url::Url;

fuzz_target!(|target: &[u8]| {
    let Ok(uri) = Uri::try_from(target) else { return };
    let allow = ["/backend-api/".to_owned(), "/files".to_owned()];
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let Ok(sent) = path::check(&uri, version, &allow) else { continue };
        let url = Url::parse("https://site.test").and_then(|origin| origin.join(&sent)).expect("a path");
        assert_eq!(url.origin().ascii_serialization(), "https://site.test", "{sent:?}");
        let seen = url.path().to_ascii_lowercase();
        assert_eq!(
            seen.matches('/').count(),
            sent.split('?').next().unwrap_or_default().matches('/').count()
        );
        // A site may merge slashes; where they stand further back, it is another path.
        assert!(!seen.trim_start_matches('/').starts_with("api/auth"), "{sent:?}");
        assert!(!sent.bytes().any(|it| it < 0x20 || it == 0x7f), "{sent:?}");
    }
});
