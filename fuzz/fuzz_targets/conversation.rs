//! The site's stream, whatever it is: no panic, and how it is split makes no difference.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tabproxy::site::classic::Classic;
use tabproxy::site::conversation::{MOST_EVENT, Reader};
use tabproxy::site::sse::EventReader;
use tabproxy::translate::Translate;

/// All text, as it was told; `None` after a fault.
fn read(stream: &[u8], length: usize) -> Option<String> {
    let (mut events, mut reader, mut text) = (EventReader::new(MOST_EVENT), Reader::default(), String::new());
    for mut piece in stream.chunks(length) {
        while let Some(event) = events.next(&mut piece).ok()? {
            reader.read(event).ok()?;
            text.push_str(&reader.take_text());
        }
    }
    Some(text)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (length, stream) = (usize::from(input.0) + 1, input.1);
    assert_eq!(read(stream, length), read(stream, usize::MAX));
    let (mut classic, mut out) = (Classic::default(), BytesMut::new());
    for piece in stream.chunks(length) {
        if classic.pass(&Bytes::copy_from_slice(piece), &mut out).is_err() {
            return;
        }
    }
    let _ = classic.end(&mut out);
});
