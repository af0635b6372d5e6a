//! Puts what there is to say on a terminal's screen, whatever its size. Pure: a frame from a [`View`].

use std::net::SocketAddr;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::rows::{Row, Tone, duration, rows};
use super::snapshot::{Flow, Snapshot};

/// What is shown.
#[derive(Clone, Debug)]
pub struct View {
    /// Where the server is reached.
    pub addr: SocketAddr,
    /// What came of asking it.
    pub look: Look,
    /// What happened in the last seconds,
    pub rates: Option<Flow>,
    /// and in the last minute.
    pub times: Option<Flow>,
}

/// What came of asking a server.
#[derive(Clone, Debug)]
pub enum Look {
    /// Nothing yet.
    Asking,
    /// It answered.
    Seen(Box<Snapshot>),
    /// It does not answer.
    Lost {
        /// Why, as a sentence.
        why: String,
        /// For how long.
        since: Duration,
    },
}

/// The names are this wide, with the space after them.
const NAMES: usize = 13;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let head = match &view.look {
        Look::Seen(it) => format!("tabproxy {}  http://{}", it.version, view.addr),
        _ => format!("tabproxy  http://{}", view.addr),
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let body = match &view.look {
        Look::Asking => vec![Line::raw("asking")],
        Look::Seen(it) => {
            rows(it, view.rates.as_ref(), view.times.as_ref(), view.addr).into_iter().map(line).collect()
        }
        Look::Lost { why, since } => lost(why, *since),
    };
    let [top, middle, bottom] = parts(area);
    frame.render_widget(Paragraph::new(Line::styled(head, bold)), top);
    frame.render_widget(Paragraph::new(body).wrap(Wrap { trim: false }), middle);
    let dim = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Paragraph::new(Line::styled("q or Esc leaves", dim)), bottom);
}

/// The head, the body and the foot: where there is little room, the body has it.
fn parts(area: Rect) -> [Rect; 3] {
    let frame = u16::from(area.height >= 8);
    let gap = u16::from(area.height >= 20);
    let head = frame + gap;
    let body = area.height.saturating_sub(head + gap + frame);
    let row = |y, height| Rect { y: area.y + y, height, ..area };
    [row(0, frame), row(head, body), row(area.height - frame, frame)]
}

fn line(row: Row) -> Line<'static> {
    let name = Style::new().add_modifier(Modifier::DIM);
    Line::from(vec![
        Span::styled(format!("{:<NAMES$}", row.name), name),
        Span::styled(row.text, style(row.tone)),
    ])
}

fn lost(why: &str, since: Duration) -> Vec<Line<'static>> {
    let since = duration(since.as_secs() as f64);
    vec![
        Line::styled(why.to_owned(), style(Tone::Bad)),
        Line::raw(format!("asking again each second, for {since} now")),
    ]
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Good => Style::new().fg(Color::Green).add_modifier(Modifier::BOLD),
        Tone::Busy => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Plain => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Cell;

    use super::super::snapshot::tests::{READY, metrics};
    use super::*;

    fn seen() -> View {
        let of = |n| Snapshot::read(READY, &metrics(n)).unwrap();
        let flow = Flow::between(&of(40).totals, &of(50).totals, Duration::from_secs(10));
        View {
            addr: "127.0.0.1:3000".parse().unwrap(),
            look: Look::Seen(Box::new(of(50))),
            rates: flow,
            times: flow,
        }
    }

    fn shown(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |cells: &[Cell]| {
            let (mut text, mut at) = (String::new(), 0);
            while at < cells.len() {
                text.push_str(cells[at].symbol());
                at += Span::raw(cells[at].symbol()).width().max(1); // behind a wide character is an empty cell
            }
            text.trim_end().to_owned()
        };
        buffer.content().chunks(width.max(1).into()).map(row).collect()
    }

    #[test]
    fn everything_is_on_one_screen_of_the_usual_size() {
        insta::assert_snapshot!(shown(&seen(), 80, 24).join("\n"), @r"
        tabproxy 0.1.0  http://127.0.0.1:3000

        phase        ready for 12 min 3 s
        requests     2 of 90 running, 0 waiting
        rates        1.0 requests/s, 10.0 events/s, 3.9 KiB/s out, 0 B/s in
        first byte   half within 10 ms, 95 % within 19 ms (10 in the last minute)
        event delay  half within 0.5 ms, 95 % within 0.9 ms (100 in the last minute)
        browser      Chrome/156.0.8078.79, 1 restart, 5 pages opened
        memory       624 MiB browser, 35.0 MiB proxy
        accounts     1 resting (家里的账号), 1 ready (work ×2)
        answered     50 whole, 195 KiB sent
        otherwise    3 queue_full, 1 without a right key
        before       warming 0.4 s, 12 min 4 s ago; starting 0.6 s, 12 min 5 s ago
        console      http://127.0.0.1:3000/console









        q or Esc leaves
        ");
    }

    #[test]
    fn a_wide_character_breaks_no_line_and_what_is_too_long_goes_on_in_the_next() {
        let mut view = seen();
        if let Look::Seen(it) = &mut view.look {
            it.ready.ready = false;
            it.ready.phase = "needs_operator".into();
            it.ready.reason = Some("网站需要有人来登录：请在浏览器里完成。".repeat(4));
        }
        for width in [80, 41, 40, 39] {
            let rows = shown(&view, width, 40);
            let text: String = rows.iter().flat_map(|it| it.chars()).filter(|it| *it != ' ').collect();
            assert!(text.contains(&"网站需要有人来登录：请在浏览器里完成。".repeat(4)), "{width}: {rows:#?}");
        }
    }

    #[test]
    fn no_size_is_too_small() {
        let lost = Look::Lost { why: "没有回答: no answer".into(), since: Duration::from_secs(61) };
        for look in [seen().look, Look::Asking, lost] {
            let view = View { look, ..seen() };
            for (width, height) in (0..30).flat_map(|width| (0..30).map(move |height| (width, height))) {
                shown(&view, width, height);
            }
        }
        let rows = shown(&seen(), 30, 3);
        assert_eq!(rows[0], "phase        ready for 12 min", "the phase has the room that there is");
    }

    #[test]
    fn a_server_that_does_not_answer_is_told_plainly() {
        let why = "no answer from 127.0.0.1:3000: Connection refused".to_owned();
        let view = View { look: Look::Lost { why: why.clone(), since: Duration::from_secs(61) }, ..seen() };
        let text = shown(&view, 80, 24).join("\n");
        assert!(
            text.contains(&why) && text.contains("asking again each second, for 1 min 1 s now"),
            "{text}"
        );
    }
}
