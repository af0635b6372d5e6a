//! One fault, from its injection until it is over.

use std::fmt::Write as _;
use std::time::Duration;

use super::harm::Harm;
use super::observe::Seen;

/// Lines of the log that are shown for a fault that was not recovered from.
const LOG_LINES: usize = 12;

/// What was mended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mended {
    /// Browsers started and carriers opened.
    Parts(i64, i64),
    /// What was broken is there again itself, so long after the injection.
    Back(Duration),
}

/// From one injection until the fault is over.
pub struct Window<F> {
    /// What was injected.
    pub fault: F,
    /// Into what.
    pub what: String,
    /// When, since the start of the soak.
    pub injected: Duration,
    /// When it was over.
    pub over: Duration,
    /// Exchanges under way at that moment.
    pub in_flight: usize,
    /// What was observed.
    pub seen: Seen,
    /// Stopped processes that were there to be woken again.
    pub woken: usize,
    /// What was mended meanwhile, if that could be seen.
    pub mended: Option<Mended>,
}

impl<F: Harm> Window<F> {
    /// One line about it.
    pub fn line(&self) -> String {
        let mut line = format!(
            "{:6.1} s  {:<17} {:3} in flight",
            self.injected.as_secs_f64(),
            self.fault.name(),
            self.in_flight
        );
        // Writing to a string cannot fail.
        let _ = match &self.seen.detected {
            Some((after, by)) => write!(line, ", noticed after {:.2} s ({by})", after.as_secs_f64()),
            None => write!(line, ", nobody had to notice"),
        };
        let _ = match self.seen.recovered {
            Some(after) => write!(line, ", recovered after {:.2} s", after.as_secs_f64()),
            None => write!(line, ", NOT RECOVERED"),
        };
        let _ = match self.mended {
            None | Some(Mended::Parts(0, 0)) => Ok(()),
            Some(Mended::Parts(browsers, carriers)) => {
                write!(line, "; {browsers} browsers, {carriers} carriers started")
            }
            Some(Mended::Back(after)) => write!(line, "; back after {:.2} s", after.as_secs_f64()),
        };
        if !self.what.is_empty() {
            let _ = write!(line, "; {}", self.what);
        }
        if self.woken > 0 {
            let _ = write!(line, "; {} stopped processes were left", self.woken);
        }
        if self.seen.recovered.is_none() {
            let from = self.seen.log.len().saturating_sub(LOG_LINES);
            self.seen.log[from..].iter().for_each(|it| line += &format!("\n          {it}"));
        }
        line
    }
}
