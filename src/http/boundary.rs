//! Whether the bytes of an event stream so far end between two events: only there may a comment be put in.
//!
//! An event ends with a blank line. A line ends with LF, CR or CRLF, and a piece of the stream may end
//! anywhere, so the last three bytes that passed are kept; nothing else of a piece is looked at. Pure; it
//! knows neither time nor HTTP.

/// The last three bytes of a stream. Before its start stand line feeds: there, no event has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Boundary([u8; 3]);

impl Boundary {
    /// Of a stream that has not begun.
    pub fn new() -> Boundary {
        Boundary([b'\n'; 3])
    }

    /// These bytes passed.
    pub fn pass(&mut self, piece: &[u8]) {
        let Boundary(last) = self;
        match *piece {
            [.., a, b, c] => *last = [a, b, c],
            [b, c] => *last = [last[2], b, c],
            [c] => *last = [last[1], last[2], c],
            [] => {}
        }
    }

    /// Whether no event has begun that has not ended.
    pub fn is_between_events(self) -> bool {
        match self.0 {
            [_, b'\n', b'\n'] | [b'\n' | b'\r', b'\r', b'\n'] => true,
            // The stream ends its lines with CR alone. After LF, a CR may be the first half of CRLF.
            [_, b'\r', b'\r'] => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PING: &str = ": ping\n\n";

    /// A stream's lines, each with its end, by the rules of the HTML standard.
    fn lines(stream: &str) -> Vec<(&str, &str)> {
        let mut lines = Vec::new();
        let mut rest = stream;
        while let Some(at) = rest.find(['\r', '\n']) {
            let end = if rest[at..].starts_with("\r\n") { 2 } else { 1 };
            lines.push((&rest[..at], &rest[at..at + end]));
            rest = &rest[at + end..];
        }
        lines.push((rest, ""));
        lines
    }

    /// What a reader gets: the data of each event.
    fn events(stream: &str) -> Vec<String> {
        let (mut events, mut data) = (Vec::new(), Vec::new());
        for (line, end) in lines(stream) {
            if line.is_empty() && !end.is_empty() && !data.is_empty() {
                events.push(data.join("\n"));
                data.clear();
            } else if !line.is_empty() && !end.is_empty() && !line.starts_with(':') {
                data.push(line.to_owned());
            }
        }
        events
    }

    /// The stream with a ping wherever one may be, if it comes in pieces of these lengths.
    fn pinged(stream: &str, pieces: &[usize]) -> (String, usize) {
        let (mut out, mut rest, mut pings) = (String::new(), stream, 0);
        let mut boundary = Boundary::new();
        for length in pieces.iter().cycle() {
            if boundary.is_between_events() {
                out.push_str(PING);
                pings += 1;
            }
            if rest.is_empty() {
                break;
            }
            let (piece, later) = rest.split_at((*length).min(rest.len()));
            boundary.pass(piece.as_bytes());
            out.push_str(piece);
            rest = later;
        }
        (out, pings)
    }

    proptest! {
        #[test]
        fn a_ping_changes_no_event_and_taken_out_again_no_byte(
            stream in "([ab]{0,2}(\r|\n|\r\n)){0,12}[ab]{0,2}",
            pieces in prop::collection::vec(1usize..5, 1..8),
        ) {
            let (out, _) = pinged(&stream, &pieces);
            prop_assert_eq!(events(&out), events(&stream));
            prop_assert_eq!(out.replace(PING, ""), stream);
        }

        #[test]
        fn every_end_of_an_event_is_seen_in_every_split(
            events in prop::collection::vec("[ab]{1,3}", 1..6),
            end in "\r|\n|\r\n",
            pieces in prop::collection::vec(1usize..5, 1..8),
        ) {
            let stream: String = events.iter().map(|event| format!("{event}{end}{end}")).collect();
            let mut boundary = Boundary::new();
            let mut seen = 0;
            for byte in stream.bytes() {
                boundary.pass(&[byte]);
                seen += usize::from(boundary.is_between_events());
            }
            prop_assert_eq!(seen, events.len(), "byte by byte");
            let mut rest = stream.as_bytes();
            for length in pieces.iter().cycle() {
                let (piece, later) = rest.split_at((*length).min(rest.len()));
                boundary.pass(piece);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(boundary.is_between_events(), "at the end, in any pieces");
        }
    }

    #[test]
    fn where_events_end() {
        for (stream, expected) in [
            ("", true),
            ("\n", true),
            ("\r\n", true),
            ("data: a", false),
            ("data: a\n", false),
            ("data: a\n\n", true),
            ("data: a\r\n", false),
            ("data: a\r\n\r", false),
            ("data: a\r\n\r\n", true),
            ("data: a\r", false),
            ("data: a\r\r", true),
            ("data: a\n\ndata: b", false),
            (": ping\n\n", true),
        ] {
            let mut boundary = Boundary::new();
            boundary.pass(stream.as_bytes());
            assert_eq!(boundary.is_between_events(), expected, "{stream:?}");
        }
    }
}
