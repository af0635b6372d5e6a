//! The longest that a test may take: one that hangs would hold up all the others for ever, and say nothing.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Far longer than any test takes on a busy machine.
const MOST: Duration = Duration::from_secs(300);

/// Ends the whole run when it is not dropped in time.
pub struct Limit {
    _over: mpsc::Sender<()>,
}

impl Limit {
    /// For the test that this thread runs; `state` is told when it hangs.
    pub fn new(state: impl FnOnce() -> String + Send + 'static) -> Limit {
        let (sender, over) = mpsc::channel::<()>();
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            if over.recv_timeout(MOST) == Err(RecvTimeoutError::Timeout) {
                // Not by `eprintln!`, which is kept back until the test has ended.
                let _ = writeln!(io::stderr(), "\n{test}: no end within {} s; {}", MOST.as_secs(), state());
                std::process::exit(101);
            }
        });
        Limit { _over: sender }
    }
}
