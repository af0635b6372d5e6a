//! Pieces of a text that end where a character does.
//!
//! Many a client decodes each piece of a stream on its own (the npm client `chatgpt` is one), and reads U+FFFD where a
//! character is torn. The site's pieces end anywhere. So the bytes of a character that is not there in whole, three at
//! most, wait for the rest of it; nobody could show them anyway. No byte is changed, and none is lost: what waits goes
//! out with the next piece, or with the end. Bytes that cannot be UTF-8 wait for nothing.

use axum::body::Bytes;
use bytes::BytesMut;

/// What waits of one stream.
#[derive(Debug, Default)]
pub struct Characters {
    held: Bytes,
}

impl Characters {
    /// What of the stream can go out now that `piece` has come. Empty if all of it waits.
    pub fn pass(&mut self, piece: Bytes) -> Bytes {
        let mut whole = match self.held.is_empty() {
            true => piece,
            false => {
                let mut joined = BytesMut::with_capacity(self.held.len() + piece.len());
                joined.extend_from_slice(&self.held);
                joined.extend_from_slice(&piece);
                joined.freeze()
            }
        };
        self.held = whole.split_off(whole.len() - torn(&whole));
        whole
    }

    /// What still waits: the stream is over.
    pub fn end(&mut self) -> Bytes {
        std::mem::take(&mut self.held)
    }
}

/// How many bytes at the end of `piece` begin a character and do not end it.
fn torn(piece: &[u8]) -> usize {
    for (behind, byte) in (1..=3).zip(piece.iter().rev()) {
        // The first byte of a character says how many it has (RFC 3629, section 3).
        let length = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return 0,
        };
        return if length > behind { behind } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What goes out of a stream that comes in pieces of these sizes, in turn.
    fn passed(text: &[u8], sizes: &[usize]) -> Vec<Bytes> {
        let (mut characters, mut rest, mut out) = (Characters::default(), text, Vec::new());
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            out.push(characters.pass(Bytes::copy_from_slice(piece)));
            rest = after;
        }
        out.push(characters.end());
        out
    }

    /// Bytes of all kinds that characters are made of, and others.
    fn telling() -> impl Strategy<Value = u8> {
        prop::sample::select(b"a\x80\xa0\xbf\xc0\xc3\xe0\xe6\xed\xf0\xf4\xf5\xff".to_vec())
    }

    proptest! {
        #[test]
        fn each_piece_of_a_text_is_a_text_and_together_they_are_the_same(
            text in "\\PC{0,40}", sizes in prop::collection::vec(1usize..9, 1..5)
        ) {
            let out = passed(text.as_bytes(), &sizes);
            for piece in &out {
                prop_assert!(std::str::from_utf8(piece).is_ok(), "{piece:?}");
            }
            prop_assert_eq!(out.last().unwrap().len(), 0, "nothing waits at the end");
            prop_assert_eq!(out.concat(), text.into_bytes());
        }

        #[test]
        fn no_byte_is_lost_of_anything(
            bytes in prop::collection::vec(any::<u8>(), 0..60), sizes in prop::collection::vec(1usize..9, 1..5)
        ) {
            prop_assert_eq!(passed(&bytes, &sizes).concat(), bytes);
        }

        #[test]
        fn nothing_goes_out_that_the_standard_library_calls_unfinished(bytes in prop::collection::vec(telling(), 0..9)) {
            let unfinished = match std::str::from_utf8(&bytes) {
                Err(error) if error.error_len().is_none() => bytes.len() - error.valid_up_to(),
                _ => 0,
            };
            // Ours looks at the end alone, and so takes for a beginning some of what can never become a character.
            prop_assert!(torn(&bytes) >= unfinished);
        }
    }

    #[test]
    fn a_piece_that_is_whole_is_passed_as_it_is() {
        let piece = Bytes::from_static("data: 早 👩\n\n".as_bytes());
        let passed = Characters::default().pass(piece.clone());
        assert_eq!((passed.as_ptr(), passed.len()), (piece.as_ptr(), piece.len()), "not copied");
    }
}
