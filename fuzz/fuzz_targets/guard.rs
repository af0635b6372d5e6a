//! Host and Origin: a foreign name never passes, however it is written.
#![no_main]

use http::{HeaderMap, HeaderValue, Uri, Version, header};
use libfuzzer_sys::fuzz_target;
use tabproxy::http::{HostPolicy, guard};

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Option<Vec<u8>>, bool)| {
    let (target, host, origin, http2) = input;
    let Ok(uri) = Uri::try_from(target) else { return };
    let mut headers = HeaderMap::new();
    let Ok(host) = HeaderValue::from_bytes(&host) else { return };
    headers.insert(header::HOST, host.clone());
    if let Some(origin) = origin.and_then(|it| HeaderValue::from_bytes(&it).ok()) {
        headers.insert(header::ORIGIN, origin);
    }
    let version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let named = HostPolicy::Names(vec!["bots.example".into()]);
    let strict = guard::check(version, &uri, &headers, &named);
    if strict.is_ok() {
        assert!(
            guard::check(version, &uri, &headers, &HostPolicy::Any).is_ok(),
            "what names allow, any allows"
        );
        let host = host.to_str().expect("a name that was let in").to_ascii_lowercase();
        // A name, or an address: what remains without the port.
        let end = if host.starts_with('[') { host.find(']').map(|it| it + 1) } else { host.find(':') };
        let name = &host[..end.unwrap_or(host.len())];
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_address = name.parse::<std::net::Ipv4Addr>().is_ok() || name.starts_with('[');
        let is_ours = name == "localhost" || name.ends_with(".localhost") || name == "bots.example";
        assert!(is_ours || is_address, "{host:?}");
    }
});
