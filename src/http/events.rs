//! Counts the events of a stream as it passes. Pure.

/// How many events have ended. Looks at line feeds only; a stream whose lines end with CR alone, which no
/// site writes, counts as none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Events {
    count: u64,
    /// Whether there is text since the last line feed.
    in_line: bool,
    /// Whether a line with text has ended since the last event.
    begun: bool,
}

impl Events {
    /// These bytes passed.
    pub fn pass(&mut self, piece: &[u8]) {
        let mut from = 0;
        for at in memchr::memchr_iter(b'\n', piece) {
            let line = &piece[from..at];
            let has_text = self.in_line || !matches!(line, b"" | b"\r");
            if !has_text && self.begun {
                self.count += 1;
            }
            self.begun = has_text;
            self.in_line = false;
            from = at + 1;
        }
        self.in_line |= !matches!(&piece[from..], b"" | b"\r");
    }

    /// How many there were.
    pub fn count(self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut events = Events::default();
        pieces.into_iter().for_each(|it| events.pass(it));
        events.count()
    }

    #[test]
    fn events_are_what_ends_with_a_blank_line() {
        for (stream, expected) in [
            ("", 0),
            ("data: a", 0),
            ("data: a\n", 0),
            ("data: a\n\n", 1),
            ("event: x\ndata: a\n\ndata: b\n\n", 2),
            ("data: a\r\n\r\ndata: b\r\n\r\n", 2),
            ("\n\n\ndata: a\n\n\n\n", 1),
        ] {
            assert_eq!(count([stream.as_bytes()]), expected, "{stream:?}");
        }
    }

    proptest! {
        #[test]
        fn in_any_pieces_there_are_as_many(
            stream in "([ab]{0,2}(\n|\r\n)){0,12}",
            length in 1usize..5,
        ) {
            prop_assert_eq!(count(stream.as_bytes().chunks(length)), count([stream.as_bytes()]));
        }
    }
}
