//! Log lines: one line per event, as text or JSON, to stdout and, if wanted, the same to a file.
//!
//! Both are written by threads of their own and lose lines rather than wait: a reader of our stdout that
//! hangs, or a full disk, must not stall streams. What is lost is counted. Knows nothing of what is logged;
//! keeping secrets out is the duty of whoever logs. The libraries below us do not know secrets from other
//! bytes, so nothing finer than `info` is ever taken from them.

use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::named::{Named, Place};
use super::recent;
use super::rotate::RotatingFile;
use super::screen::{self, Ability};

/// Lines that wait for a slow writer; more are lost.
const WAITING: usize = 16 * 1024;

use crate::config::Instance;
pub use crate::config::LogFormat as Format;

/// The log file beside stdout.
#[derive(Clone, Copy, Debug)]
pub struct LogFile<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// It never has more bytes than this.
    pub size: u64,
    /// So many older ones are kept, as `path.1`, `path.2` and so on.
    pub keep: usize,
}

/// Keeps the log's writers alive; dropping it writes out what is buffered.
#[must_use = "dropping the guard ends the log"]
#[derive(Debug)]
pub struct LogGuard {
    _writers: Vec<WorkerGuard>,
}

/// Lines that could not be written.
static FAILED: AtomicU64 = AtomicU64::new(0);
/// Lines that did not fit into a queue, for each writer.
static CROWDED: OnceLock<Vec<ErrorCounter>> = OnceLock::new();

/// Starts logging to stdout and, if given, to `file`, which is appended to and readable by its owner only.
///
/// `filter` is a list of directives such as `info` or `warn,tabproxy=debug`. The name of the `instance` is in each
/// line of JSON, which machines collect from many; in text only if the operator gave it.
///
/// # Errors
/// A filter that cannot be read, a file that cannot be opened (the message names it), or a log that was
/// started before.
pub fn init(
    filter: &str,
    format: Format,
    instance: Option<&Instance>,
    file: Option<LogFile>,
) -> Result<LogGuard, io::Error> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("the log filter {filter:?}: {error}"))
    })?;
    let (stdout, stdout_guard) = writer(screen::stdout());
    let (mut writers, mut counters) = (vec![stdout_guard], vec![stdout.error_counter()]);
    let lines = match file {
        None => lines(stdout, format, instance, Ability::of_stdout().color),
        Some(LogFile { path, size, keep }) => {
            let (file, guard) = writer(RotatingFile::open(path, size, keep)?);
            writers.push(guard);
            counters.push(file.error_counter());
            // One text for both: whoever compares them finds the same times.
            lines(stdout.and(file), format, instance, false)
        }
    };
    let lines = lines.with_filter(filter_fn(is_fit));
    let kept = recent::Keep.with_filter(filter_fn(is_fit));
    tracing_subscriber::registry()
        .with(lines)
        .with(kept)
        .with(filter)
        .try_init()
        .map_err(io::Error::other)?;
    let _ = CROWDED.set(counters);
    Ok(LogGuard { _writers: writers })
}

/// Lines lost so far: the disk was full, or a writer too slow.
pub fn lost() -> u64 {
    let crowded = CROWDED.get().into_iter().flatten().map(|it| it.dropped_lines() as u64).sum::<u64>();
    FAILED.load(Ordering::Relaxed) + crowded
}

/// Whether a line may be written at all.
fn is_fit(line: &Metadata<'_>) -> bool {
    let is_ours = ["tabproxy", "chromium"].contains(&line.target().split("::").next().unwrap_or_default());
    is_ours || *line.level() <= Level::INFO
}

fn writer(to: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).finish(Counted(to))
}

/// Takes every line; those that cannot be written are counted.
struct Counted<W>(W);

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.write_all(line).is_err() {
            FAILED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

fn lines<S, W>(
    to: W,
    format: Format,
    instance: Option<&Instance>,
    ansi: bool,
) -> Box<dyn Layer<S> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let (lines, form) = (fmt::layer().with_ansi(ansi).with_writer(to), fmt::format().with_target(false));
    match format {
        Format::Text => {
            let name = instance.filter(|it| it.is_given());
            let place = name.map_or(Place::None, |it| Place::Last(it.name().to_owned()));
            lines.event_format(Named { format: form.compact().with_ansi(ansi), place }).boxed()
        }
        Format::Json => {
            let place = instance.map_or(Place::None, |it| Place::Member(it.name().to_owned()));
            let format = form.json().flatten_event(true);
            lines.fmt_fields(JsonFields::new()).event_format(Named { format, place }).boxed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let error = init("tabproxy=loud", Format::Text, None, None).unwrap_err();
        assert!(error.to_string().contains("tabproxy=loud"));
        let path = Path::new("/nowhere/at/all.log");
        let error = init("info", Format::Json, None, Some(LogFile { path, size: 1, keep: 1 })).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all.log"), "{error}");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_stops_nothing() {
        let before = lost();
        let mut full = Counted(RotatingFile::open(Path::new("/dev/full"), 1000, 1).unwrap());
        for _ in 0..3 {
            full.write_all(b"a line\n").unwrap();
            full.flush().unwrap();
        }
        assert!(lost() >= before + 3);
    }
}
