//! Reads an event stream as it comes, in pieces split anywhere; bounded, because no reader that is kept up
//! has a limit on the size of an event.
//!
//! Follows the HTML standard's parsing of event streams, as far as a page that reads with `fetch` sees it:
//! `id` and `retry` say nothing here. Each byte is copied once. Knows nothing of what events mean.

use crate::error::{Fault, FaultKind};

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its name; `message` is the empty one.
    pub name: &'a str,
    /// Its data, lines joined by line feeds.
    pub data: &'a str,
}

/// Turns pieces of a stream into events.
#[derive(Debug)]
pub struct EventReader {
    most: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last line ended with CR: a line feed that follows belongs to it.
    after_cr: bool,
    is_first_line: bool,
    /// What was handed out is forgotten at the next call.
    is_out: bool,
}

impl EventReader {
    /// Takes events of up to `most` bytes, names and all.
    pub fn new(most: usize) -> EventReader {
        EventReader {
            most,
            line: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            is_first_line: true,
            is_out: false,
        }
    }

    /// The next event that ends within `piece`, of which what was read is taken off; `None` when it is used
    /// up. Bytes that are no UTF-8 are replaced by U+FFFD, as in a browser.
    ///
    /// # Errors
    /// When an event is larger than what is taken.
    pub fn next<'a>(&'a mut self, piece: &mut &[u8]) -> Result<Option<Event<'a>>, Fault> {
        if std::mem::take(&mut self.is_out) {
            self.forget();
        }
        loop {
            // An empty piece says nothing of what follows a CR.
            if !piece.is_empty() && std::mem::take(&mut self.after_cr) && piece[0] == b'\n' {
                *piece = &piece[1..];
            }
            let Some(end) = memchr::memchr2(b'\r', b'\n', piece) else {
                if self.size() + piece.len() > self.most {
                    return Err(self.too_large());
                }
                self.line.extend_from_slice(piece);
                *piece = &[];
                return Ok(None);
            };
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            self.after_cr = piece[end] == b'\r';
            *piece = rest;
            if self.size() + line.len() > self.most {
                return Err(self.too_large());
            }
            let is_end = if self.line.is_empty() {
                self.take_line(line)
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                let is_end = self.take_line(&whole);
                whole.clear();
                self.line = whole;
                is_end
            };
            if is_end {
                if self.has_data {
                    break;
                }
                self.forget();
            }
        }
        self.is_out = true;
        mend(&mut self.name);
        mend(&mut self.data);
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        Ok(Some(Event { name: text(&self.name), data: text(&self.data) }))
    }

    /// Takes one line; says whether it ends an event.
    fn take_line(&mut self, mut line: &[u8]) -> bool {
        if std::mem::take(&mut self.is_first_line) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return true;
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            _ => {}
        }
        false
    }

    fn size(&self) -> usize {
        self.line.len() + self.name.len() + self.data.len()
    }

    fn forget(&mut self) {
        self.name.clear();
        self.data.clear();
        self.has_data = false;
    }

    fn too_large(&self) -> Fault {
        Fault::new(FaultKind::SiteError, "The site sent an event that is larger than any answer.")
            .because(format_args!("more than {} bytes", self.most))
            .maybe_sent()
    }
}

/// Makes `bytes` valid UTF-8.
fn mend(bytes: &mut Vec<u8>) {
    if std::str::from_utf8(bytes).is_err() {
        *bytes = String::from_utf8_lossy(bytes).into_owned().into_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(stream: &[u8], length: usize, most: usize) -> Result<Vec<(String, String)>, Fault> {
        let mut reader = EventReader::new(most);
        let mut events = Vec::new();
        for mut piece in stream.chunks(length.max(1)) {
            while let Some(event) = reader.next(&mut piece)? {
                events.push((event.name.to_owned(), event.data.to_owned()));
            }
            assert!(piece.is_empty());
        }
        Ok(events)
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        for (stream, expected) in [
            ("data: a\n\n", &[("", "a")][..]),
            ("data:a\r\n\r\ndata:  b\r\rdata\n\n", &[("", "a"), ("", " b"), ("", "")]),
            ("event: delta\ndata: {\ndata: }\n\n: ping\n\ndata: x\n\n", &[("delta", "{\n}"), ("", "x")]),
            ("event: lost\n\ndata: a\nid: 7\nretry: 1\nother\n\n", &[("", "a")]),
            ("\u{feff}data: 狐狸🦊\n\ndata: half", &[("", "狐狸🦊")]),
            ("data: a\n", &[]),
        ] {
            for length in 1..8 {
                let events = read(stream.as_bytes(), length, 100).unwrap();
                let events: Vec<_> = events.iter().map(|(a, b)| (&**a, &**b)).collect();
                assert_eq!(events, expected, "{stream:?} by {length}");
            }
        }
    }

    #[test]
    fn no_utf_8_is_replaced_and_too_much_is_a_fault() {
        assert_eq!(read(b"data: \xffa\n\n", 3, 100).unwrap()[0].1, "\u{fffd}a");
        for stream in
            [&b"data: 0123456789\n\n"[..], b"data: 01234\ndata: 56789\n\n", b"0123456789 0123456789"]
        {
            assert_eq!(read(stream, 4, 9).unwrap_err().kind(), FaultKind::SiteError);
            assert!(read(stream, 4, 40).is_ok());
        }
        // What was said counts no more once it is handed out.
        assert_eq!(read(&b"data: 0123\n\n".repeat(100), 5, 16).unwrap().len(), 100);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_events(
            stream in prop::collection::vec(prop::sample::select(&b"da:ta event\r\n\r\n\xe7\x8b\x90"[..]), 0..120),
            length in 1usize..9,
        ) {
            let whole = read(&stream, usize::MAX, 1000).unwrap();
            prop_assert_eq!(read(&stream, length, 1000).unwrap(), whole);
        }
    }
}
