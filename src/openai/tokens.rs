//! Counting tokens with the vocabulary of the present models (`o200k_base`).
//!
//! The vocabulary is loaded once, at the first count, which takes a moment: count where nobody waits. The
//! count is exact for that vocabulary, and no text takes much longer than another of its length; which
//! vocabulary the site's model has is not ours to know.

use super::{Role, Turn};

/// What the chat format adds to each message, and to the whole, by OpenAI's own account of it.
const PER_MESSAGE: usize = 3;
const PER_REPLY: usize = 3;

/// How many tokens `text` has.
pub fn count(text: &str) -> usize {
    // It is compiled in, and so always there.
    vocabulary().map_or(0, |it| it.count(text))
}

fn vocabulary() -> Option<&'static tiktoken::CoreBpe> {
    tiktoken::get_encoding("o200k_base")
}

/// How many tokens a conversation has as input.
pub fn count_turns(turns: &[Turn]) -> usize {
    let role = |role: Role| match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    turns.iter().map(|it| PER_MESSAGE + count(role(it.role)) + count(&it.text)).sum::<usize>() + PER_REPLY
}

/// How many bytes of `text` its first `most` tokens are, in whole characters.
pub fn length_of(text: &str, most: usize) -> usize {
    let length = vocabulary().map_or(0, |it| {
        let mut tokens = it.encode(text);
        tokens.truncate(most);
        it.decode(&tokens).len()
    });
    (0..=length.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_vocabulary() {
        // As tiktoken counts them.
        for (text, tokens) in [("", 0), ("hello world", 2), ("Hello, world!", 4), ("你好，世界！", 4)] {
            assert_eq!(count(text), tokens, "{text}");
        }
        assert_eq!(count_turns(&[Turn { role: Role::User, text: "hello world".into() }]), 3 + 1 + 2 + 3);
    }

    #[test]
    fn a_text_is_cut_after_whole_characters() {
        assert_eq!(length_of("hello world again", 2), "hello world".len());
        assert_eq!(length_of("hello", 9), 5);
        assert_eq!(length_of("a🦊", 2), 1, "half a fox is none");
    }

    #[test]
    fn a_text_without_any_boundary_takes_no_longer_than_another() {
        let begun = std::time::Instant::now();
        // Ordinary tokenizers take time in proportion to the square of this.
        assert!(count(&"a".repeat(400_000)) > 1000);
        assert!(begun.elapsed().as_secs() < 20);
    }
}
