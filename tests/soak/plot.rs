//! The plot: what proxy and browser needed over time, and when each fault was injected.

use super::report::Run;
use super::shared::stats::{number, percentile};
use super::shared::svg::{self, curve, line, text};
use super::watch::Sample;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 744.0;
/// Height of the curves of one panel.
const HEIGHT: f64 = 90.0;

const PROXY: &str = "#2f81f7";
const BROWSER: &str = "#d98a1f";

type Value = fn(&Sample) -> f64;

const PANELS: [(&str, &str, Value); 6] = [
    ("Proxy: resident memory, MB", PROXY, |it| it.proxy_memory),
    ("Proxy: open descriptors", PROXY, |it| it.proxy_descriptors),
    ("Proxy: memory mappings", PROXY, |it| it.proxy_mappings),
    ("Browser, all processes: memory (PSS), MB", BROWSER, |it| it.browser_memory),
    ("Browser, all processes: open descriptors", BROWSER, |it| it.browser_descriptors),
    ("Browser, all processes: memory mappings", BROWSER, |it| it.browser_mappings),
];

/// The whole image.
pub fn image<F>(run: &Run<F>) -> String {
    let mut out = String::new();
    let seconds = run.samples.last().map_or(1.0, |it| it.at);
    let x = |at: f64| LEFT + (at / seconds).min(1.0) * (RIGHT - LEFT);
    let mut y = 8.0;
    for (title, colour, value) in PANELS {
        let points: Vec<_> = run.samples.iter().map(|it| (it.at, value(it))).collect();
        y = panel(&mut out, title, colour, &points, &x, run, y);
    }
    for at in 0..=4 {
        let at = seconds * f64::from(at) / 4.0;
        text(&mut out, x(at) - 24.0, y + 4.0, "s t", &format!("{at:.0} s"));
    }
    text(&mut out, LEFT, y + 24.0, "s", "Upright lines: a fault was injected.");
    svg::document(WIDTH, y + 36.0, "What proxy and browser needed during the soak", &out)
}

/// Draws one panel from zero to its highest value; returns where the next may begin.
fn panel<F>(
    out: &mut String,
    title: &str,
    colour: &str,
    points: &[(f64, f64)],
    x: &impl Fn(f64) -> f64,
    run: &Run<F>,
    top: f64,
) -> f64 {
    let all: Vec<_> = points.iter().map(|it| it.1).collect();
    let most = percentile(&all, 1.0).max(1.0);
    let (above, below) = (top + 24.0, top + 24.0 + HEIGHT);
    text(out, 16.0, top + 16.0, "h", title);
    for (height, label) in [(above, most), (below, 0.0)] {
        line(out, (LEFT, height), (RIGHT, height), "g");
        text(out, 16.0, height + 4.0, "s t", &number(label));
    }
    for window in &run.windows {
        let at = x(window.injected.as_secs_f64());
        line(out, (at, above), (at, below), "g");
    }
    let points: Vec<_> = points.iter().map(|(at, value)| (x(*at), below - value / most * HEIGHT)).collect();
    curve(out, &points, colour);
    below + 14.0
}
