//! The name of this instance among others of its kind: in the log, the metrics and a header of each answer.

use http::HeaderValue;

use super::parse::Mistake;

/// The longest name, in bytes: as long as a host name on Linux can be.
const LONGEST: usize = 64;

/// A name that stands in a header, in a label and in a line of the log without any escaping: a token of RFC 9110
/// of at most 64 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    name: String,
    is_given: bool,
}

impl Instance {
    /// The host's name, as far as it is one.
    pub(super) fn of_host() -> Instance {
        let host = rustix::system::uname();
        let host = host.nodename().to_str().unwrap_or_default();
        let name: String = host.chars().filter(|it| is_token(*it)).take(LONGEST).collect();
        let name = if name.is_empty() { "tabproxy".into() } else { name };
        Instance { name, is_given: false }
    }

    /// The name itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the operator gave it. Who does has several, and wants to tell their lines apart.
    pub fn is_given(&self) -> bool {
        self.is_given
    }

    /// As the value of a header. There is one for every name.
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.name).unwrap_or(HeaderValue::from_static("tabproxy"))
    }
}

/// A name that the operator gives.
pub(super) fn instance(value: &str) -> Result<Instance, Mistake> {
    let remedy = "write a name of letters, digits, dots, dashes and underscores, as tabproxy-0";
    if let Some(bad) = value.chars().find(|it| !is_token(*it)) {
        // A control character must not reach the terminal as it is.
        let what = format!("has the character `{}`, which no name can have", bad.escape_debug());
        return Err(Mistake::new(what, remedy));
    }
    if value.len() > LONGEST {
        let what = format!("has {} characters, more than the {LONGEST} that a name may have", value.len());
        return Err(Mistake::new(what, remedy));
    }
    Ok(Instance { name: value.to_owned(), is_given: true })
}

/// RFC 9110's tchar: what the name of a header may consist of, and so its value without quotes.
fn is_token(it: char) -> bool {
    it.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_token_of_at_most_64_characters() {
        for good in ["a", "tabproxy-0", "10.0.0.7", "a_b~c", &"x".repeat(64)] {
            let name = instance(good).unwrap();
            assert_eq!((name.name(), name.is_given()), (good, true));
            assert_eq!(name.header(), good);
        }
        for bad in ["a b", "a\nb", "a\"b", "a{b", "ä", "a/b", "a\u{202e}", &"x".repeat(65)] {
            let mistake = instance(bad).unwrap_err();
            assert!(mistake.what.chars().all(|it| !it.is_control() && it != '\u{202e}'), "{mistake:?}");
            assert!(mistake.remedy.contains("tabproxy-0"), "{mistake:?}");
        }
    }

    #[test]
    fn the_host_has_a_name_that_can_be_shown() {
        let host = Instance::of_host();
        assert!(!host.is_given());
        assert!(instance(host.name()).is_ok(), "{host:?}");
    }
}
