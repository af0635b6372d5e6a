//! The history's answers in both shapes: the site's own members, and the whole of them once more as `body`,
//! where older clients look. Pure.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The longest answer that is changed, in bytes.
pub const LARGEST: usize = 8 << 20;

/// Whether there is such a member.
#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    body: Option<IgnoredAny>,
}

/// A JSON object with itself as its member `body`, in pieces that share its memory. `None` for anything else, and
/// for an object that has such a member already.
pub fn in_both_shapes(answer: &Bytes) -> Option<[Bytes; 4]> {
    if serde_json::from_slice::<Members>(answer).ok()?.body.is_some() {
        return None;
    }
    let object = answer.trim_ascii();
    let inside = object.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let is_empty = inside.trim_ascii().is_empty();
    let open = answer.slice_ref(&object[..object.len() - 1]);
    let name: &[u8] = if is_empty { br#""body":"# } else { br#","body":"# };
    Some([open, Bytes::from_static(name), answer.slice_ref(object), Bytes::from_static(b"}")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn both(answer: &str) -> Option<String> {
        let pieces = in_both_shapes(&Bytes::copy_from_slice(answer.as_bytes()))?;
        Some(String::from_utf8(pieces.concat()).unwrap())
    }

    #[test]
    fn objects_get_a_body_and_nothing_else_changes() {
        assert_eq!(both(r#" {"a": 1.50} "#).unwrap(), r#"{"a": 1.50,"body":{"a": 1.50}}"#);
        assert_eq!(both("{ }").unwrap(), r#"{ "body":{ }}"#);
        let strange =
            ["", "[]", "[{}]", "7", "{", r#"{"body":1}"#, r#"{"body":1,"body":2}"#, "{} {}", "<html>"];
        for strange in strange {
            assert_eq!(both(strange), None, "{strange}");
        }
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(both(&deep).unwrap().len(), 2 * deep.len() + 8);
    }

    proptest! {
        #[test]
        fn the_sites_members_stay_and_the_body_is_the_same(
            members in prop::collection::hash_map("[a-z\"}{\\\\]{0,5}", ".{0,8}", 0..5),
        ) {
            let answer = json!(members);
            let changed: Value = serde_json::from_str(&both(&answer.to_string()).unwrap()).unwrap();
            let mut expected = answer.clone();
            expected["body"] = answer;
            prop_assert_eq!(changed, expected);
        }
    }
}
