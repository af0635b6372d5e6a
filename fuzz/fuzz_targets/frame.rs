//! Messages from the page: whatever comes, no panic; an error ends a message; no frame holds more than came.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tabproxy::browser::frame::{self, FromPage, HEADER};

fuzz_target!(|message: &[u8]| {
    let frames: Vec<_> = frame::decode(Bytes::copy_from_slice(message)).collect();
    let error = frames.iter().position(Result::is_err);
    assert!(error.is_none_or(|at| at + 1 == frames.len()));
    let held: usize =
        frames.iter().map(|it| if let Ok(FromPage::Data(_, it)) = it { it.len() } else { 0 }).sum();
    assert!(held + HEADER * frames.iter().flatten().count() <= message.len());
});
