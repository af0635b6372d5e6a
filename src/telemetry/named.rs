//! The name of the instance in each line of the log.
//!
//! Around a format of the library's, which has no place for what stands in every line: a span would, but is not
//! with tasks that are started elsewhere. Must not know what a name may look like; it has been checked to need no
//! escaping.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Where the name goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere.
    None,
    /// The last field of a line of text.
    Last(String),
    /// The first member of a JSON object.
    Member(String),
}

impl Place {
    /// A whole line with the name in it.
    fn put(&self, line: &str, to: &mut Writer<'_>) -> fmt::Result {
        match (self, line.trim_end_matches('\n'), line.strip_prefix('{')) {
            (Place::Last(name), text, _) => writeln!(to, "{text} instance={name}"),
            (Place::Member(name), _, Some(rest)) => write!(to, "{{\"instance\":\"{name}\",{rest}"),
            _ => to.write_str(line),
        }
    }
}

/// A format with the name in each line.
#[derive(Clone, Debug)]
pub(super) struct Named<F> {
    pub(super) format: F,
    pub(super) place: Place,
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.place == Place::None {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::with_capacity(256);
        self.format.format_event(context, Writer::new(&mut line), event)?;
        self.place.put(&line, &mut writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(place: Place, line: &str) -> String {
        let mut text = String::new();
        place.put(line, &mut Writer::new(&mut text)).unwrap();
        text
    }

    #[test]
    fn the_name_is_the_last_field_of_a_text_and_the_first_member_of_an_object() {
        assert_eq!(put(Place::None, "a b=1\n"), "a b=1\n");
        assert_eq!(put(Place::Last("one".into()), "a b=1\n"), "a b=1 instance=one\n");
        let line = put(Place::Member("one".into()), "{\"message\":\"a\"}\n");
        assert_eq!(line, "{\"instance\":\"one\",\"message\":\"a\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["instance"], "one");
    }
}
