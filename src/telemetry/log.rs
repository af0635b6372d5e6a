//! Log lines: one compact line per event, to stdout and, if wanted, the same to a file.
//!
//! Both are written by threads of their own and lose lines rather than wait: a reader of our stdout that
//! hangs, or a full disk, must not stall streams. Knows nothing of what is logged; keeping secrets out is
//! the duty of whoever logs.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Keeps the log's writers alive; dropping it writes out what is buffered.
#[must_use = "dropping the guard ends the log"]
#[derive(Debug)]
pub struct LogGuard {
    _writers: Vec<WorkerGuard>,
}

/// Starts logging to stdout and, if given, to `file`, which is appended to and readable by its owner only.
///
/// `filter` is a list of directives such as `info` or `warn,tabproxy=debug`.
///
/// # Errors
/// A filter that cannot be read, a file that cannot be opened (the message names it), or a log that was
/// started before.
pub fn init(filter: &str, file: Option<&Path>) -> Result<LogGuard, io::Error> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("the log filter {filter:?}: {error}"))
    })?;
    let (stdout, stdout_guard) = writer(io::stdout());
    let mut writers = vec![stdout_guard];
    let mut layers = vec![lines(stdout, io::stdout().is_terminal())];
    if let Some(path) = file {
        let (file, guard) = writer(open(path)?);
        writers.push(guard);
        layers.push(lines(file, false));
    }
    tracing_subscriber::registry().with(layers).with(filter).try_init().map_err(io::Error::other)?;
    Ok(LogGuard { _writers: writers })
}

fn open(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot open the log file {}: {error}", path.display()))
    })
}

fn writer(to: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).finish(to)
}

fn lines<S>(to: NonBlocking, ansi: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fmt::layer().compact().with_target(false).with_ansi(ansi).with_writer(to).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn mistakes_are_named() {
        let missing = Path::new("/nowhere/at/all.log");
        let error = open(missing).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all.log"), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(init("tabproxy=loud", None).unwrap_err().to_string().contains("tabproxy=loud"));
    }

    #[test]
    fn the_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let file = open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
