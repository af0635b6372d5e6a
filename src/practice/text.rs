//! The words of an answer: a deterministic text, handed out in pieces.
//!
//! Pure. A test can compute the whole text beforehand with [`answer_text`] and compare what came out of
//! the far end with it.

use super::knobs::{Format, Knobs, Script};

const ASCII: &str = "the quick brown fox jumps over the lazy dog and then sits down to think about it ";
const CJK: &str = "敏捷的棕色狐狸跳过了懒狗，然后坐下来想一想。素早い茶色の狐はのろまな犬を飛び越える。";
const EMOJI: &str = "🦊🐶🎉👩‍👩‍👧‍👦🇯🇵👍🏽🧠🌍🚀";
/// With everything that JSON, HTML or a line splitter could trip over.
const MIXED: &str = "plain, \"quoted\" \\ 狐狸 🦊 é\n\tline\u{2028}sep </script> & data: x\r\n\u{7f}ß ";

/// Hands out a text piece by piece; it never ends a piece inside a character.
#[derive(Debug)]
pub(super) struct Pieces {
    text: String,
    cursor: usize,
    size: usize,
    /// A sample goes round for ever; an echoed prompt is said once.
    endless: bool,
}

impl Pieces {
    /// The pieces of the answer that `knobs` ask for.
    pub fn new(knobs: &Knobs, prompt: &str) -> Self {
        let text = match knobs.script {
            _ if knobs.echo => prompt,
            Script::Ascii => ASCII,
            Script::Cjk => CJK,
            Script::Emoji => EMOJI,
            Script::Mixed => MIXED,
        };
        Self { text: text.to_owned(), cursor: 0, size: knobs.size.max(1), endless: !knobs.echo }
    }

    /// Replaces what is in `piece` by the next piece: at least `size` bytes, up to the end of the
    /// character. Empty when the text is said.
    pub fn next_into(&mut self, piece: &mut String) {
        piece.clear();
        while piece.len() < self.size && self.cursor < self.text.len() {
            let end = char_boundary(&self.text, self.cursor + self.size - piece.len());
            piece.push_str(&self.text[self.cursor..end]);
            self.cursor = if self.endless && end == self.text.len() { 0 } else { end };
        }
    }
}

/// The whole text with which the site answers `prompt`, knobs and all.
///
/// Empty when the prompt asks for an error, or when a knob in it is malformed (the site answers 422).
pub fn answer_text(prompt: &str) -> String {
    let Ok(mut knobs) = Knobs::parse(prompt, Format::Classic) else { return String::new() };
    if knobs.status.is_some() {
        return String::new();
    }
    knobs.settle(prompt);
    let mut pieces = Pieces::new(&knobs, prompt);
    let (mut whole, mut piece) = (String::new(), String::new());
    for _ in 0..knobs.text_events() {
        pieces.next_into(&mut piece);
        whole.push_str(&piece);
    }
    whole
}

impl Knobs {
    /// Fills in what depends on the prompt: an echo takes as many events as it takes.
    pub fn settle(&mut self, prompt: &str) {
        if self.echo {
            let mut cursor = 0;
            self.count = 0;
            while cursor < prompt.len() {
                cursor = char_boundary(prompt, cursor + self.size.max(1));
                self.count += 1;
            }
        }
    }
}

/// The first character boundary at or after `index`, or the end of the text.
fn char_boundary(text: &str, index: usize) -> usize {
    (index..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_the_prompt_whatever_the_size() {
        for size in 1..9 {
            let prompt = format!("echo=1 size={size} 狐狸 🦊 and more");
            assert_eq!(answer_text(&prompt), prompt);
        }
    }

    #[test]
    fn pieces_have_their_size_and_go_round() {
        let whole = answer_text("count=50 size=10 text=ascii");
        assert_eq!(whole.len(), 500);
        assert!(whole.starts_with(ASCII) && whole[ASCII.len()..].starts_with(ASCII));
        assert!(answer_text("count=40 text=cjk").starts_with(CJK));
        assert!(answer_text("status=500").is_empty());
    }
}
