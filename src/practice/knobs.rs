//! The knobs: `key=value` words in a prompt that say how the site shall answer it.
//!
//! Knobs travel in the prompt because that is the one thing every client can set. Pure: knows neither
//! HTTP nor time. A known key with a value that cannot be meant is refused rather than ignored, so that
//! a mistyped test fails instead of passing by accident; unknown keys are ordinary text.

use std::time::Duration;

/// The two ways in which the site writes a streamed answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Every event is a whole snapshot of the message.
    #[default]
    Classic,
    /// Every event is a change to a tree ("v1").
    Delta,
}

/// What the answer's text is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Script {
    /// One byte a character.
    #[default]
    Ascii,
    /// Three bytes a character.
    Cjk,
    /// Four bytes a character, and joined sequences of them.
    Emoji,
    /// All of them, with characters that JSON must escape.
    Mixed,
}

/// How to answer one prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Knobs {
    /// `count`: how many text events.
    pub count: u64,
    /// `interval`, ms: from one text event to the next; zero is as fast as possible.
    pub interval: Duration,
    /// `size`: bytes of text that each event adds, up to the end of the character.
    pub size: usize,
    /// `first`, ms: silence before the head.
    pub first: Duration,
    /// `firstbyte`, ms: silence between the head and the first event.
    pub first_byte: Duration,
    /// `stall=K:MS`: silence after event K.
    pub stall: Option<(u64, Duration)>,
    /// `cut`: a clean end of body after so many text events, without `[DONE]`.
    pub cut: Option<u64>,
    /// `reset`: a broken body after so many text events.
    pub reset: Option<u64>,
    /// `status`: an error instead of an answer.
    pub status: Option<u16>,
    /// `retry`, seconds: the `retry-after` of a 429.
    pub retry: u64,
    /// `text`: what the text is made of.
    pub script: Script,
    /// `split`: write the byte stream in pieces of so many bytes.
    pub split: Option<usize>,
    /// `format`: how the events are written.
    pub format: Format,
    /// `ping=1`: now and then an `event: ping`.
    pub ping: bool,
    /// `auth=required`: refuse without an `Authorization`.
    pub auth_required: bool,
    /// `echo=1`: the answer is the prompt itself; `count` is then what that takes.
    pub echo: bool,
    /// `grow=0`: an event carries only its own piece, so that a flood does not grow quadratically.
    pub grow: bool,
}

/// A knob whose value cannot be meant; the text is safe to show.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("practice knob {key}={value}: expected {expected}")]
pub(super) struct BadKnob {
    key: String,
    value: String,
    expected: &'static str,
}

/// One hour: no knob waits longer than that.
const MAX_WAIT_MS: f64 = 3_600_000.0;
const MAX_SIZE: u64 = 1 << 20;

impl Knobs {
    /// The answer to a prompt without knobs.
    pub fn new(format: Format) -> Self {
        Self {
            count: 20,
            interval: Duration::from_millis(30),
            size: 12,
            first: Duration::ZERO,
            first_byte: Duration::ZERO,
            stall: None,
            cut: None,
            reset: None,
            status: None,
            retry: 7,
            script: Script::Ascii,
            split: None,
            format,
            ping: false,
            auth_required: false,
            echo: false,
            grow: true,
        }
    }

    /// Reads the knobs out of a prompt; a later word overrides an earlier one.
    ///
    /// # Errors
    /// [`BadKnob`] for a known key with a value out of its range.
    pub fn parse(prompt: &str, format: Format) -> Result<Self, BadKnob> {
        let mut knobs = Self::new(format);
        for (key, value) in prompt.split_whitespace().filter_map(|word| word.split_once('=')) {
            knobs.set(key, value).map_err(|expected| BadKnob {
                key: key.to_owned(),
                value: value.chars().take(40).collect(),
                expected,
            })?;
        }
        Ok(knobs)
    }

    /// How many text events are written before the answer ends, in whatever way.
    pub fn text_events(&self) -> u64 {
        [self.cut, self.reset].into_iter().flatten().fold(self.count, u64::min)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "count" => self.count = whole(value, 0, 100_000_000)?,
            "interval" => self.interval = millis(value)?,
            "size" => self.size = usize::try_from(whole(value, 1, MAX_SIZE)?).unwrap_or(1),
            "first" => self.first = millis(value)?,
            "firstbyte" => self.first_byte = millis(value)?,
            "stall" => {
                let (after, silence) = value.split_once(':').ok_or("EVENT:MS")?;
                self.stall = Some((whole(after, 0, u64::MAX)?, millis(silence)?));
            }
            "cut" => self.cut = Some(whole(value, 0, u64::MAX)?),
            "reset" => self.reset = Some(whole(value, 0, u64::MAX)?),
            "status" => {
                self.status = Some(u16::try_from(whole(value, 400, 599)?).unwrap_or(500));
            }
            "retry" => self.retry = whole(value, 0, u64::MAX)?,
            "text" => {
                self.script = match value {
                    "ascii" => Script::Ascii,
                    "cjk" => Script::Cjk,
                    "emoji" => Script::Emoji,
                    "mixed" => Script::Mixed,
                    _ => return Err("ascii, cjk, emoji or mixed"),
                }
            }
            "split" => self.split = Some(usize::try_from(whole(value, 1, MAX_SIZE)?).unwrap_or(1)),
            "format" => {
                self.format = match value {
                    "classic" => Format::Classic,
                    "delta" => Format::Delta,
                    _ => return Err("classic or delta"),
                }
            }
            "ping" => self.ping = switch(value)?,
            "auth" => self.auth_required = (value == "required").then_some(true).ok_or("required")?,
            "echo" => self.echo = switch(value)?,
            "grow" => self.grow = switch(value)?,
            _ => {}
        }
        Ok(())
    }
}

fn whole(value: &str, least: u64, most: u64) -> Result<u64, &'static str> {
    let number: u64 = value.parse().map_err(|_| "a whole number")?;
    if (least..=most).contains(&number) { Ok(number) } else { Err("a number within its range") }
}

fn millis(value: &str) -> Result<Duration, &'static str> {
    let ms: f64 = value.parse().map_err(|_| "milliseconds")?;
    if (0.0..=MAX_WAIT_MS).contains(&ms) {
        Ok(Duration::from_secs_f64(ms / 1_000.0))
    } else {
        Err("milliseconds, at most an hour")
    }
}

fn switch(value: &str) -> Result<bool, &'static str> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err("0 or 1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_found_among_ordinary_words() {
        let prompt = "please count=3 interval=0.5 stall=2:1500 text=cjk x=y format=delta grow=0";
        let knobs = Knobs::parse(prompt, Format::Classic).expect("valid");
        assert_eq!(knobs.count, 3);
        assert_eq!(knobs.interval, Duration::from_micros(500));
        assert_eq!(knobs.stall, Some((2, Duration::from_millis(1500))));
        assert_eq!((knobs.script, knobs.format, knobs.grow), (Script::Cjk, Format::Delta, false));
        assert_eq!(Knobs::parse("a = b, 1+1=2", Format::Delta), Ok(Knobs::new(Format::Delta)));
    }

    #[test]
    fn a_value_that_cannot_be_meant_is_refused() {
        for prompt in [
            "count=many",
            "interval=-1",
            "interval=NaN",
            "interval=inf",
            "stall=3",
            "size=0",
            "status=200",
            "split=0",
            "ping=yes",
            "auth=1",
            "text=latin",
            "format=v2",
        ] {
            assert!(Knobs::parse(prompt, Format::Classic).is_err(), "{prompt}");
        }
    }

    #[test]
    fn the_earliest_end_wins() {
        let knobs = Knobs::parse("count=9 cut=4 reset=6", Format::Classic).expect("valid");
        assert_eq!(knobs.text_events(), 4);
    }
}
