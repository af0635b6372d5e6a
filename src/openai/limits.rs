//! Where an answer ends before the site's does: at a stop sequence, or after so many tokens.
//!
//! The site knows neither, so they are kept on this side. A stop sequence may come in pieces: what could be
//! the beginning of one is held back until it is known. Tokens are counted only when there could be too many
//! of them, since each has a byte at least.

use super::tokens;

/// Why nothing more is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A stop sequence came.
    Stop,
    /// There are as many tokens as there may be.
    Length,
}

/// The limits of one answer, and what passed within them.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    stops: Vec<String>,
    most: Option<usize>,
    /// What may be the beginning of a stop sequence.
    held: String,
    said: String,
    /// The tokens in the first bytes of what is said, as last counted: both.
    counted: (usize, usize),
}

impl Limits {
    /// Ends before the first of `stops`, and after `most` tokens.
    pub fn new(stops: Vec<String>, most: Option<usize>) -> Limits {
        Limits { stops, most, ..Limits::default() }
    }

    /// Everything that has passed.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// The same limits for the same answer, from its beginning.
    pub fn anew(&self) -> Limits {
        Limits::new(self.stops.clone(), self.most)
    }

    /// More of the answer; `tell` is told what passes. After a cut nothing more does.
    pub fn pass(&mut self, text: &str, tell: &mut impl FnMut(&str)) -> Option<Cut> {
        if self.stops.is_empty() {
            return self.say(text, tell);
        }
        self.held.push_str(text);
        let found = first_of(&self.stops, &self.held);
        let end = found.unwrap_or_else(|| self.held.len() - self.doubtful());
        let rest = self.held.split_off(end);
        let passing = std::mem::replace(&mut self.held, rest);
        let cut = self.say(&passing, tell);
        cut.or(found.map(|_| Cut::Stop))
    }

    /// The answer has ended: what was held back was no stop sequence.
    pub fn end(&mut self, tell: &mut impl FnMut(&str)) -> Option<Cut> {
        let held = std::mem::take(&mut self.held);
        self.say(&held, tell)
    }

    /// How many bytes at the end of what is held could begin a stop sequence.
    fn doubtful(&self) -> usize {
        let held = self.held.as_bytes();
        let of_one = |stop: &String| {
            let most = held.len().min(stop.len().saturating_sub(1));
            (1..=most).rev().find(|length| stop.as_bytes().starts_with(&held[held.len() - length..]))
        };
        self.stops.iter().filter_map(of_one).max().unwrap_or(0)
    }

    fn say(&mut self, text: &str, tell: &mut impl FnMut(&str)) -> Option<Cut> {
        if text.is_empty() {
            return None;
        }
        let before = self.said.len();
        self.said.push_str(text);
        let mut cut = None;
        if let Some(most) = self.most {
            let (bytes, tokens) = self.counted;
            // So many more bytes could be as many more tokens.
            if self.said.len() - bytes >= most.saturating_sub(tokens) {
                self.counted = (self.said.len(), tokens::count(&self.said));
                if self.counted.1 > most {
                    let end = tokens::length_of(&self.said, most).max(before);
                    self.said.truncate(end);
                    cut = Some(Cut::Length);
                }
            }
        }
        if self.said.len() > before {
            tell(&self.said[before..]);
        }
        cut
    }
}

/// Where the stop sequence begins that is complete first, as if the text came letter by letter.
fn first_of(stops: &[String], text: &str) -> Option<usize> {
    let found = stops.iter().filter_map(|stop| text.find(&**stop).map(|at| (at + stop.len(), at)));
    found.min().map(|(_, at)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What passes of a text in these pieces.
    fn pass(pieces: &[&str], stops: &[&str], most: Option<usize>) -> (String, Option<Cut>) {
        let mut limits = Limits::new(stops.iter().map(|it| (*it).to_owned()).collect(), most);
        let mut told = String::new();
        let mut tell = |text: &str| told.push_str(text);
        let mut cut = None;
        for piece in pieces {
            cut = cut.or_else(|| limits.pass(piece, &mut tell));
        }
        cut = cut.or_else(|| limits.end(&mut tell));
        assert_eq!(limits.said(), told);
        (told, cut)
    }

    #[test]
    fn a_stop_sequence_ends_the_answer_before_itself_however_it_is_split() {
        for pieces in
            [&["one STOP two"][..], &["one S", "TO", "P two"], &["one ", "STOP", " two"], &["one ST", "OP"]]
        {
            assert_eq!(pass(pieces, &["STOP", "P"], None), ("one ".into(), Some(Cut::Stop)));
        }
        assert_eq!(pass(&["STOP"], &["STOP"], None), (String::new(), Some(Cut::Stop)));
        assert_eq!(pass(&["狐", "狸🦊", "x"], &["狸🦊x"], None), ("狐".into(), Some(Cut::Stop)));
        assert_eq!(pass(&["one ST", "ILL ST"], &["STOP"], None), ("one STILL ST".into(), None));
    }

    #[test]
    fn no_more_tokens_pass_than_may() {
        assert_eq!(pass(&["one two three four"], &[], Some(3)), ("one two three".into(), Some(Cut::Length)));
        assert_eq!(pass(&["one", " two", " three", " four"], &[], Some(3)).1, Some(Cut::Length));
        assert_eq!(pass(&["one", " two", " three"], &[], Some(3)), ("one two three".into(), None));
        assert_eq!(pass(&["one two STOP"], &[" STOP"], Some(9)), ("one two".into(), Some(Cut::Stop)));
        assert_eq!(pass(&["🦊🦊🦊"], &[], Some(2)).1, Some(Cut::Length));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference_to_stops(
            text in "[ab狐]{0,16}",
            cuts in prop::collection::vec(0usize..17, 0..6),
            stops in prop::collection::vec("[ab狐]{1,3}", 0..3),
        ) {
            let first = first_of(&stops, &text);
            let stops: Vec<&str> = stops.iter().map(|it| &**it).collect();
            let chars: Vec<char> = text.chars().collect();
            let mut at: Vec<usize> = cuts.into_iter().map(|it| it.min(chars.len())).collect();
            at.extend([0, chars.len()]);
            at.sort_unstable();
            let pieces: Vec<String> = at.windows(2).map(|it| chars[it[0]..it[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(|it| &**it).collect();
            let expected = (text[..first.unwrap_or(text.len())].to_owned(), first.map(|_| Cut::Stop));
            prop_assert_eq!(pass(&pieces, &stops, None), expected);
        }

        #[test]
        fn the_most_tokens_are_never_passed(pieces in prop::collection::vec("[a-z 狐]{0,9}", 0..12), most in 1usize..9) {
            let pieces: Vec<&str> = pieces.iter().map(|it| &**it).collect();
            let (told, cut) = pass(&pieces, &[], Some(most));
            prop_assert!(pieces.concat().starts_with(&told));
            prop_assert_eq!(cut.is_none(), told == pieces.concat());
            // Letters that join tokens already sent cannot be taken back: at most one token is between.
            prop_assert!(tokens::count(&told) <= most + 1);
        }
    }
}
