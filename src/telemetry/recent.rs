//! The last lines of the log, kept in memory for whoever looks at them.
//!
//! A bounded ring that a layer of the log fills with what is written anyway: no line is here that is not in the
//! log. Lines are numbered, so that a reader asks for those after the last that it has.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// So many lines are kept,
const KEPT: usize = 1000;
/// and so much of each, in bytes.
const LONGEST: usize = 2000;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number; the first is 1.
    pub number: u64,
    /// When it was written.
    pub at: SystemTime,
    /// `ERROR` to `TRACE`.
    pub level: &'static str,
    /// What it says, and its fields.
    pub text: String,
}

#[derive(Debug)]
struct Ring {
    lines: VecDeque<Line>,
    next: u64,
}

/// There is one log in a process.
static RECENT: Mutex<Ring> = Mutex::new(Ring { lines: VecDeque::new(), next: 1 });

fn ring() -> MutexGuard<'static, Ring> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lines after the one of this number, oldest first, at most `count` and then the newest of them.
pub fn after(number: u64, count: usize) -> Vec<Line> {
    let ring = ring();
    let new = ring.lines.iter().rev().take_while(|it| it.number > number).take(count);
    let mut lines: Vec<_> = new.cloned().collect();
    lines.reverse();
    lines
}

/// Keeps what it is told.
pub(super) struct Keep;

/// The fields of a span, which belong to all lines in it.
struct Fields(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keep {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, of: Context<'_, S>) {
        let mut text = Text::default();
        attributes.record(&mut text);
        if let Some(span) = of.span(id) {
            span.extensions_mut().insert(Fields(text.fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, of: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        for span in of.event_scope(event).into_iter().flatten() {
            if let Some(Fields(fields)) = span.extensions().get() {
                text.fields.push_str(fields);
            }
        }
        push(event.metadata().level().as_str(), text.whole());
    }
}

fn push(level: &'static str, mut text: String) {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|it| text.is_char_boundary(*it));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    let mut ring = ring();
    let number = ring.next;
    ring.next += 1;
    if ring.lines.len() == KEPT {
        ring.lines.pop_front();
    }
    ring.lines.push_back(Line { number, at: SystemTime::now(), level, text });
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn whole(mut self) -> String {
        self.message.push_str(&self.fields);
        self.message
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Writing into a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn the_last_lines_are_kept_with_their_fields() {
        // Other tests of this process have no log, so that these lines are all.
        let subscriber = tracing_subscriber::registry().with(Keep);
        tracing::subscriber::with_default(subscriber, || {
            (0..KEPT + 5).for_each(|n| tracing::debug!("line {n}"));
            tracing::error_span!("of", browser = 2)
                .in_scope(|| tracing::info!(count = 3, name = "a b", "done"));
        });
        let all = after(0, usize::MAX);
        assert_eq!((all.len(), all[0].text.as_str()), (KEPT, "line 6"));
        let last = all[KEPT - 1].number;
        assert_eq!(
            (all[KEPT - 1].text.as_str(), all[KEPT - 1].level),
            ("done count=3 name=\"a b\" browser=2", "INFO")
        );
        assert_eq!(after(last - 1, 10).len(), 1);
        assert_eq!(after(last, 10), []);
        let three = after(0, 3);
        assert_eq!(three[0].number, last - 2);
        push("INFO", "é".repeat(LONGEST));
        let line = after(last, 1).remove(0);
        assert!(line.text.len() < LONGEST + 8 && line.text.ends_with('…'));
    }
}
