//! The little SVG that the plots need, legible on light and on dark ground.

use std::fmt::Write as _;

const STYLE: &str = "text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#24292f}\
    .h{font-weight:600}.s{fill:#57606a}.t{font-size:11px}.g{stroke:#8c959f;stroke-opacity:.35}\
    @media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}}";

/// An image of that size around `content`.
pub fn document(width: f64, height: f64, title: &str, content: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\"><title>{title}</title><style>{STYLE}</style>\n\
         {content}</svg>\n"
    )
}

/// A filled bar.
pub fn rect(out: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" rx=\"2\" fill=\"{colour}\"/>"
    );
}

/// A line of text; `class`: `h` a heading, `s` subdued, `t` small, and together.
pub fn text(out: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y}\" class=\"{class}\">{content}</text>");
}

/// A thin straight line for axes and marks; `class`: `g` is a grid's.
pub fn line(out: &mut String, from: (f64, f64), to: (f64, f64), class: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" class=\"{class}\"/>",
        from.0, from.1, to.0, to.1
    );
}

/// A curve through these points.
pub fn curve(out: &mut String, points: &[(f64, f64)], colour: &str) {
    let all: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" \
         stroke-linejoin=\"round\"/>",
        all.join(" ")
    );
}
