//! Stdout as a screen: whole lines from several writers, and below them one live line that is written anew in place.
//!
//! ```text
//! log ──write──┐
//!              ├── one lock ──> live line off, lines, live line on
//! progress ────┘
//! ```
//!
//! Where there is never a live line, as in a pipe, bytes pass as they are. Knows nothing of what is shown.

use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// To the line's beginning, and clear to its end.
const OFF: &str = "\r\x1b[K";
/// A live line ends at the margin and does not go on in the next row, from where it could not be taken back.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// What stdout can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ability {
    /// It is a terminal.
    pub is_terminal: bool,
    /// A line in it can be written anew.
    pub can_redraw: bool,
    /// Colours are wanted.
    pub color: bool,
}

impl Ability {
    /// That of our stdout. `NO_COLOR` (<https://no-color.org>) and `TERM=dumb` in the environment are heeded.
    pub fn of_stdout() -> Ability {
        let is_set = |name| std::env::var_os(name).is_some_and(|it| !it.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|it| it.is_empty() || it == "dumb");
        Ability::of(io::stdout().is_terminal(), is_set("NO_COLOR"), is_dumb)
    }

    fn of(is_terminal: bool, no_color: bool, is_dumb: bool) -> Ability {
        let can_redraw = is_terminal && !is_dumb;
        Ability { is_terminal, can_redraw, color: can_redraw && !no_color }
    }
}

/// A screen; clones are the same one.
#[derive(Debug)]
pub struct Screen<W>(Arc<Mutex<Inner<W>>>);

impl<W> Clone for Screen<W> {
    fn clone(&self) -> Screen<W> {
        Screen(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<W> {
    out: W,
    /// Empty if there is none.
    live: String,
}

/// There is one stdout in a process.
static STDOUT: LazyLock<Screen<Stdout>> = LazyLock::new(|| Screen::new(io::stdout()));

/// Our stdout. Writing blocks while nobody reads it.
pub fn stdout() -> Screen<Stdout> {
    STDOUT.clone()
}

impl<W: Write> Screen<W> {
    fn new(out: W) -> Screen<W> {
        Screen(Arc::new(Mutex::new(Inner { out, live: String::new() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows this line below all others from now on, in place of the one before; an empty one takes it away.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn live(&self, line: &str) -> io::Result<()> {
        let inner = &mut *self.inner();
        if inner.live == line {
            return Ok(());
        }
        line.clone_into(&mut inner.live);
        let shown = inner.shown();
        inner.out.write_all(format!("{OFF}{shown}").as_bytes())?;
        inner.out.flush()
    }
}

impl<W> Inner<W> {
    fn shown(&self) -> String {
        if self.live.is_empty() { String::new() } else { format!("{NO_WRAP}{}{WRAP}", self.live) }
    }
}

impl<W: Write> Write for Screen<W> {
    /// Takes whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let inner = &mut *self.inner();
        if inner.live.is_empty() {
            inner.out.write_all(lines)?;
        } else {
            // In one piece, so that nothing is seen half.
            let shown = inner.shown();
            inner.out.write_all(&[OFF.as_bytes(), lines, shown.as_bytes()].concat())?;
            inner.out.flush()?;
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner().out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(screen: &Screen<Vec<u8>>) -> String {
        String::from_utf8(std::mem::take(&mut screen.inner().out)).unwrap()
    }

    #[test]
    fn without_a_live_line_bytes_pass_as_they_are() {
        let mut screen = Screen::new(Vec::new());
        screen.write_all(b"a line\nanother\n").unwrap();
        screen.live("").unwrap();
        assert_eq!(text(&screen), "a line\nanother\n");
    }

    #[test]
    fn a_live_line_stays_below_the_others() {
        let mut screen = Screen::new(Vec::new());
        screen.live("1 s").unwrap();
        screen.clone().write_all(b"a line\n").unwrap();
        screen.live("2 s").unwrap();
        screen.live("2 s").unwrap();
        screen.live("").unwrap();
        screen.write_all(b"the last\n").unwrap();
        let live = |it| format!("{NO_WRAP}{it}{WRAP}");
        let expected =
            format!("{OFF}{}{OFF}a line\n{}{OFF}{}{OFF}the last\n", live("1 s"), live("1 s"), live("2 s"));
        assert_eq!(text(&screen), expected);
    }

    #[test]
    fn colours_and_live_lines_are_for_terminals_that_can_and_want_them() {
        let of = |a, b, c| (Ability::of(a, b, c).can_redraw, Ability::of(a, b, c).color);
        assert_eq!(of(true, false, false), (true, true));
        assert_eq!(of(true, true, false), (true, false));
        assert_eq!(of(true, false, true), (false, false));
        assert_eq!(of(false, false, false), (false, false));
    }
}
