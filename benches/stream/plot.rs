//! The plot: bars for delays and throughput, as an SVG that is legible on light and on dark ground.

use super::figures::{FLOOD, Figure, HUNDRED_P50, HUNDRED_P99, ONE_P50, ONE_P99, Samples, Side};
use super::shared::stats::number;
use super::shared::svg::{self, rect, text};

const WIDTH: f64 = 760.0;
/// Where bars begin, and the longest one.
const LEFT: f64 = 150.0;
const LONGEST: f64 = 500.0;
const BAR: f64 = 15.0;
const STEP: f64 = 18.0;

/// Colours that keep apart for people who see few of them.
const SIDES: [(Side, &str, &str); 3] = [
    (Side::Direct, "direct", "#8c959f"),
    (Side::Page, "page floor", "#d98a1f"),
    (Side::Proxy, "tabproxy", "#2f81f7"),
];

/// The whole image.
pub fn image(samples: &Samples) -> String {
    let mut out = String::new();
    let mut y = legend(&mut out);
    let panels: [(&str, &[(Figure, &str)]); 3] = [
        ("Event delay, 1 stream of 10 ms events: ms, less is better", &[(ONE_P50, "p50"), (ONE_P99, "p99")]),
        (
            "Event delay, 100 streams of 10 ms events: ms, less is better",
            &[(HUNDRED_P50, "p50"), (HUNDRED_P99, "p99")],
        ),
        ("Flood of 8 streams: events per second, more is better", &[(FLOOD, "")]),
    ];
    for (title, groups) in panels {
        y = panel(&mut out, samples, title, groups, y);
    }
    svg::document(WIDTH, y, "tabproxy beside its floors", &out)
}

fn legend(out: &mut String) -> f64 {
    let mut x = LEFT;
    for (_, name, colour) in SIDES {
        rect(out, x, 12.0, 13.0, 13.0, colour);
        text(out, x + 19.0, 23.0, "s", name);
        x += 120.0;
    }
    40.0
}

/// Draws one panel, whose bars share a scale; returns where the next may begin.
fn panel(out: &mut String, samples: &Samples, title: &str, groups: &[(Figure, &str)], top: f64) -> f64 {
    let value = |figure: Figure, side| samples.median(figure, side).unwrap_or(0.0).max(0.0);
    let all = groups.iter().flat_map(|(figure, _)| SIDES.map(|(side, ..)| value(*figure, side)));
    let longest = all.fold(f64::MIN_POSITIVE, f64::max);
    text(out, 16.0, top + 20.0, "h", title);
    let mut y = top + 32.0;
    for (figure, label) in groups {
        for (at, (side, name, colour)) in SIDES.into_iter().enumerate() {
            let value = value(*figure, side);
            if at == 0 {
                text(out, 16.0, y + 12.0, "h", label);
            }
            text(out, 56.0, y + 12.0, "s", name);
            rect(out, LEFT, y, (value / longest * LONGEST).max(1.0), BAR, colour);
            text(out, LEFT + value / longest * LONGEST + 7.0, y + 12.0, "", &number(value));
            y += STEP;
        }
        y += 8.0;
    }
    y + 8.0
}
