//! What the site answers in place of its page: judged, whatever it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tabproxy::exchange::Head;
use tabproxy::site::challenge;

fuzz_target!(|input: (u16, Vec<(String, String)>, Option<String>, Vec<u8>)| {
    let (status, headers, redirected_to, body) = input;
    let path = redirected_to.clone().unwrap_or_default();
    let head = Head { status, headers, redirected_to };
    let _ = challenge::judge(&head, &body);
    for (name, value) in &head.headers {
        let _ = challenge::judge_landing(name, value, &path);
    }
});
