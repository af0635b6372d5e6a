//! Requests in the official API's forms, whatever they are: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tabproxy::openai::history;
use tabproxy::openai::responses_types::read_responses;
use tabproxy::openai::types::read_chat;

fuzz_target!(|body: &[u8]| {
    for asked in [read_chat(body), read_responses(body)].into_iter().flatten() {
        assert!(!history::render(&asked.turns).is_empty());
        let _ = history::new_turn(&asked.turns);
    }
});
