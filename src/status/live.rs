//! The live view: asks each second and draws, until somebody leaves. Gives the terminal back as it was, however it
//! ends.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::screen::{Look, View, draw};
use super::snapshot::{Flow, Snapshot, Totals};
use super::{Unanswered, ask};

/// From one look to the next.
const STEP: Duration = Duration::from_secs(1);
/// Rates are of so long, times of so long.
const RATES: Duration = Duration::from_secs(10);
const TIMES: Duration = Duration::from_secs(60);

/// Shows the server at `listen` until somebody leaves, or until `shutdown`.
///
/// # Errors
/// The terminal cannot be had.
pub async fn run(listen: SocketAddr, shutdown: CancellationToken) -> io::Result<()> {
    // From here on a panic restores the terminal too.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, listen, shutdown).await;
    ratatui::try_restore()?;
    shown
}

async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    listen: SocketAddr,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let mut view =
        View { addr: crate::health::reachable(listen), look: Look::Asking, rates: None, times: None };
    let (mut past, mut keys) = (Past::default(), EventStream::new());
    let mut tick = tokio::time::interval(STEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asking = None;
    loop {
        terminal.draw(|frame| draw(frame, &view))?;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            event = keys.next() => match event {
                Some(Ok(event)) if leaves(&event) => return Ok(()),
                Some(Ok(_)) => {} // another size is drawn by the next turn of the loop
                Some(Err(error)) => return Err(error),
                None => return Ok(()), // the terminal is gone
            },
            // While an answer is waited for, nobody is asked again.
            _ = tick.tick(), if asking.is_none() => asking = Some(Box::pin(ask(listen))),
            told = async { match asking.as_mut() { Some(it) => it.await, None => std::future::pending().await } } => {
                asking = None;
                past.take(told, &mut view, Instant::now());
            }
        }
    }
}

fn leaves(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
    match code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
        KeyCode::Char('c' | 'd') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// What was told in the last minute.
#[derive(Debug, Default)]
struct Past {
    totals: VecDeque<(Instant, Totals)>,
    lost: Option<Instant>,
}

impl Past {
    /// Puts what was told `now` into `view`.
    fn take(&mut self, told: Result<Snapshot, Unanswered>, view: &mut View, now: Instant) {
        match told {
            Ok(snapshot) => {
                self.lost = None;
                view.rates = self.since(&snapshot.totals, RATES, now);
                view.times = self.since(&snapshot.totals, TIMES, now);
                if view.rates.is_none() {
                    self.totals.clear(); // the first one, or that of a server that was started again
                }
                while self.totals.front().is_some_and(|it| now.duration_since(it.0) > TIMES) {
                    self.totals.pop_front();
                }
                self.totals.push_back((now, snapshot.totals.clone()));
                view.look = Look::Seen(Box::new(snapshot));
            }
            Err(error) => {
                let since = *self.lost.get_or_insert(now);
                (view.rates, view.times) = (None, None);
                view.look = Look::Lost { why: error.to_string(), since: now.duration_since(since) };
            }
        }
    }

    /// What came in the last `time`, or in as much of it as is known.
    fn since(&self, totals: &Totals, time: Duration, now: Instant) -> Option<Flow> {
        let (at, before) = self.totals.iter().find(|it| now.duration_since(it.0) <= time)?;
        Flow::between(before, totals, now.duration_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::{READY, metrics};
    use super::*;

    fn view() -> View {
        View { addr: "127.0.0.1:1".parse().unwrap(), look: Look::Asking, rates: None, times: None }
    }

    #[test]
    fn rates_are_of_ten_seconds_and_times_of_a_minute_of_one_run() {
        let (mut past, mut view, start) = (Past::default(), view(), Instant::now());
        let mut told = |n, seconds| {
            let at = start + Duration::from_secs(seconds);
            past.take(Ok(Snapshot::read(READY, &metrics(n)).unwrap()), &mut view, at);
            (view.rates.map(|it| it.requests), view.times.map(|it| it.head.count), past.totals.len())
        };
        assert_eq!(told(100, 0), (None, None, 1));
        assert_eq!(told(102, 1), (Some(2.0), Some(2), 2));
        for second in 2..=70 {
            told(100 + 2 * second, second);
        }
        assert_eq!(told(262, 71), (Some(4.0), Some(140), 61));
        assert_eq!(told(5, 72), (None, None, 1), "it was started again");
    }

    #[test]
    fn a_server_that_is_lost_is_shown_as_lost_since_then() {
        let (mut past, mut view, start) = (Past::default(), view(), Instant::now());
        for (seconds, expected) in [(0, 0), (5, 5)] {
            let at = start + Duration::from_secs(seconds);
            past.take(Err(Unanswered::Silent("x".into())), &mut view, at);
            let Look::Lost { since, .. } = view.look else { panic!("{view:?}") };
            assert_eq!(since.as_secs(), expected);
        }
        past.take(Ok(Snapshot::read(READY, &metrics(1)).unwrap()), &mut view, start);
        assert!(matches!(view.look, Look::Seen(_)) && past.lost.is_none());
    }

    #[test]
    fn q_escape_and_control_c_leave() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        assert!(leaves(&key(KeyCode::Char('q'), KeyModifiers::NONE)));
        assert!(leaves(&key(KeyCode::Esc, KeyModifiers::NONE)));
        assert!(leaves(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!leaves(&key(KeyCode::Char('c'), KeyModifiers::NONE)) && !leaves(&Event::Resize(1, 1)));
    }
}
