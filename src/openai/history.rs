//! Turns of a conversation: as one prompt, and as the key by which a conversation is known again.

use sha2::{Digest, Sha256};

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions: `system` or `developer`.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// What one of them says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who.
    pub role: Role,
    /// What.
    pub text: String,
}

/// Under which a place in a conversation is kept.
pub type Key = [u8; 32];

/// What is said after the last answer, and everything up to it; `None` where nothing was answered yet, or
/// nothing is asked.
pub fn new_turn(turns: &[Turn]) -> Option<(&[Turn], &[Turn])> {
    let answered = turns.iter().rposition(|it| it.role == Role::Assistant)? + 1;
    let (before, new) = turns.split_at(answered);
    new.iter().any(|it| !it.text.trim().is_empty()).then_some((before, new))
}

/// The key of a conversation that has come as far as `turns`, for one caller. The model is no part of it, nor
/// is white space around a text: clients trim.
pub fn key<'a>(caller: &[u8], turns: impl IntoIterator<Item = (Role, &'a str)>) -> Key {
    let mut digest = Sha256::new();
    let mut put = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    put(b"turns");
    put(caller);
    for (role, text) in turns {
        put(&[role as u8]);
        put(text.trim().as_bytes());
    }
    digest.finalize().into()
}

/// The key of one answer, by its id.
pub fn key_of_answer(caller: &[u8], id: &str) -> Key {
    let mut digest = Sha256::new();
    for bytes in [b"answer", caller, id.as_bytes()] {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    }
    digest.finalize().into()
}

/// All turns as one prompt, for a conversation that the site does not know.
///
/// A text that looks like a turn cannot be told from one: nothing in a prompt can be.
pub fn render(turns: &[Turn]) -> String {
    let texts = turns.iter().filter(|it| !it.text.trim().is_empty());
    if turns.iter().all(|it| it.role != Role::Assistant) {
        return texts.map(|it| &*it.text).collect::<Vec<_>>().join("\n\n");
    }
    let instructions = turns.iter().take_while(|it| it.role == Role::System).count();
    let mut prompt = Vec::new();
    for turn in turns[..instructions].iter().filter(|it| !it.text.trim().is_empty()) {
        prompt.push(turn.text.clone());
    }
    prompt.push("This is a conversation so far. Answer its last message.".to_owned());
    for turn in turns[instructions..].iter().filter(|it| !it.text.trim().is_empty()) {
        let who = match turn.role {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
        };
        prompt.push(format!("{who}: {}", turn.text));
    }
    prompt.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turns(list: &[(Role, &str)]) -> Vec<Turn> {
        list.iter().map(|(role, text)| Turn { role: *role, text: (*text).to_owned() }).collect()
    }

    #[test]
    fn what_is_new_comes_after_the_last_answer() {
        use Role::*;
        let all = turns(&[(System, "s"), (User, "a"), (Assistant, "b"), (User, "c"), (User, "d")]);
        let (before, new) = new_turn(&all).unwrap();
        assert_eq!((before.len(), new.len()), (3, 2));
        assert_eq!(render(new), "c\n\nd");
        assert_eq!(new_turn(&all[..2]), None);
        assert_eq!(new_turn(&all[..3]), None, "nothing is asked");
    }

    #[test]
    fn a_history_becomes_one_prompt() {
        use Role::*;
        assert_eq!(render(&turns(&[(User, " as it is ")])), " as it is ");
        assert_eq!(render(&turns(&[(System, "s"), (User, "u"), (System, "")])), "s\n\nu");
        assert_eq!(
            render(&turns(&[(System, "s"), (User, "狐"), (Assistant, "b"), (System, "t"), (User, "c")])),
            "s\n\nThis is a conversation so far. Answer its last message.\n\nUser: 狐\n\nAssistant: b\n\n\
             System: t\n\nUser: c"
        );
    }

    proptest! {
        /// Neither another caller nor another split of the same letters has the same key.
        #[test]
        fn keys_are_of_callers_roles_and_texts(
            a in prop::collection::vec("[ab]{0,2}", 1..4),
            b in prop::collection::vec("[ab]{0,2}", 1..4),
            callers in ("[xy]", "[xy]"),
        ) {
            let key_of = |caller: &str, texts: &[String]| {
                key(caller.as_bytes(), texts.iter().map(|it| (Role::User, &**it)))
            };
            let is_same = callers.0 == callers.1 && a == b;
            prop_assert_eq!(key_of(&callers.0, &a) == key_of(&callers.1, &b), is_same);
            prop_assert_ne!(key(b"x", [(Role::User, &*a[0])]), key(b"x", [(Role::Assistant, &*a[0])]));
            let padded = format!(" {}\n", a[0]);
            prop_assert_eq!(key(b"x", [(Role::User, &*padded)]), key(b"x", [(Role::User, &*a[0])]));
            prop_assert_ne!(key_of_answer(b"x", &a[0]), key(b"x", [(Role::User, &*a[0])]));
        }
    }
}
