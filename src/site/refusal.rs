//! What the site says when it refuses: the sentence in its error, for a person. Pure.

use serde_json::Value;

/// How much of an error's body is worth reading, in bytes.
pub const LOOK: usize = 16 * 1024;
/// The longest sentence that is passed on, in characters.
const LONGEST: usize = 300;

/// The sentence in the body of an error: `{"detail": "…"}`, `{"detail": {"message": "…"}}`, `{"detail": [{"loc",
/// "msg"}]}`, or the official API's `{"error": {"message"}}`. `None` for a page, and for what says nothing.
pub fn sentence(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let detail = &body["detail"];
    let first = &detail[0];
    let found = [detail, &detail["message"], &first["msg"], &body["error"]["message"], &body["message"]];
    let text = found.into_iter().find_map(Value::as_str)?;
    let place = match (first["msg"].is_string(), first["loc"].as_array()) {
        (true, Some(steps)) => format!(" ({})", steps.iter().map(step).collect::<Vec<_>>().join(".")),
        _ => String::new(),
    };
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let line: String = text.chars().chain(place.chars()).map(plain).take(LONGEST).collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// A step of a path in the body that was refused.
fn step(step: &Value) -> String {
    step.as_str().map_or_else(|| step.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_shape_of_the_site_has_a_sentence() {
        for (body, expected) in [
            (r#"{"detail":"Unauthorized"}"#, Some("Unauthorized")),
            (r#"{"detail":{"message":"Too many.","code":"x"}}"#, Some("Too many.")),
            (
                r#"{"detail":[{"loc":["body","messages",0],"msg":"field required","type":"t"}]}"#,
                Some("field required (body.messages.0)"),
            ),
            (r#"{"error":{"message":"No."}}"#, Some("No.")),
            (r#"{"detail":"two\nlines"}"#, Some("two lines")),
            (r#"{"detail":""}"#, None),
            (r#"{"detail":7}"#, None),
            ("<html><title>502</title></html>", None),
            ("", None),
        ] {
            assert_eq!(sentence(body.as_bytes()).as_deref(), expected, "{body}");
        }
        let long = format!(r#"{{"detail":"{}"}}"#, "é".repeat(1000));
        assert_eq!(sentence(long.as_bytes()).unwrap().chars().count(), LONGEST);
        assert_eq!(sentence("[".repeat(LOOK).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_it_is_one_short_line(body in prop::collection::vec(any::<u8>(), 0..60), text in ".{0,400}") {
            let told = serde_json::json!({"detail": [{"msg": text, "loc": [1, "x"]}]}).to_string();
            for line in [sentence(&body), sentence(told.as_bytes())].into_iter().flatten() {
                prop_assert!(line.chars().count() <= LONGEST && !line.chars().any(char::is_control));
            }
        }
    }
}
