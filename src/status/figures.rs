//! Reads the text of `/metrics`, as far as it is ours. Pure.
//!
//! Not a parser of everything that OpenMetrics allows: no timestamps, no exemplars, which we never write. What it
//! cannot read it passes over, since a newer server may say more than we know.

use serde::Serialize;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure<'a> {
    /// Its name, with `_total`, `_bucket` and the like.
    pub name: &'a str,
    /// Its labels.
    pub labels: Vec<(&'a str, String)>,
    /// The value.
    pub value: f64,
}

impl Figure<'_> {
    /// The value of this label; empty if there is none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|it| it.0 == name).map_or("", |it| it.1.as_str())
    }
}

/// All figures of this text.
pub fn read(text: &str) -> Vec<Figure<'_>> {
    text.lines().filter(|it| !it.starts_with('#')).filter_map(figure).collect()
}

fn figure(line: &str) -> Option<Figure<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, value) = rest.split_once("=\"")?;
            let (value, after) = quoted(value)?;
            labels.push((label, value));
            rest = after;
        }
    }
    Some(Figure { name, labels, value: rest.trim().parse().ok()? })
}

/// The text up to the closing quote, and what is after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

/// How many values there were up to each bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Bounds in seconds, ascending, each with the number of values up to it; the last bound is infinite.
    buckets: Vec<(f64, f64)>,
}

/// What is said of a histogram: times in seconds, `None` where there are none or where the time is beyond the
/// last bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Values.
    pub count: u64,
    /// Half of the values are at most this.
    pub p50: Option<f64>,
    /// 95 of 100 are.
    pub p95: Option<f64>,
}

impl Histogram {
    /// The histogram of this name.
    pub fn of(figures: &[Figure<'_>], name: &str) -> Histogram {
        let buckets = figures.iter().filter(|it| it.name.strip_suffix("_bucket") == Some(name));
        let bound = |it: &Figure<'_>| it.label("le").replace("+Inf", "inf").parse().ok();
        Histogram { buckets: buckets.filter_map(|it| Some((bound(it)?, it.value))).collect() }
    }

    /// What came since `before`.
    pub fn since(&self, before: &Histogram) -> Histogram {
        let earlier = before.buckets.iter().map(|it| it.1).chain(std::iter::repeat(0.0));
        let buckets = self.buckets.iter().zip(earlier).map(|(it, was)| (it.0, (it.1 - was).max(0.0)));
        Histogram { buckets: buckets.collect() }
    }

    /// What is to be said of it.
    pub fn spread(&self) -> Spread {
        let count = self.buckets.last().map_or(0.0, |it| it.1);
        // To the microsecond: a bucket does not tell more.
        let at = |part| self.quantile(part, count).map(|it| (it * 1e6).round() / 1e6);
        Spread { count: count as u64, p50: at(0.5), p95: at(0.95) }
    }

    /// A value that this part of all are below: within its bucket as if they lay there evenly.
    fn quantile(&self, part: f64, count: f64) -> Option<f64> {
        let wanted = count * part;
        let mut below = (0.0, 0.0);
        for &(bound, values) in self.buckets.iter().filter(|_| count > 0.0) {
            if values >= wanted {
                let share = (wanted - below.1) / (values - below.1);
                return bound.is_finite().then_some(below.0 + (bound - below.0) * share);
            }
            below = (bound, values);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_labels_and_values_are_read() {
        let text =
            "# HELP a b\na 3\nb_total{x=\"1\",y=\"a \\\"b\\\\ }\"} 2.5\nc{} 1\nbad{x=\"} 1\nd\n# EOF\n";
        let all = read(text);
        assert_eq!(
            all.iter().map(|it| (it.name, it.value)).collect::<Vec<_>>(),
            [("a", 3.0), ("b_total", 2.5), ("c", 1.0)]
        );
        assert_eq!((all[1].label("x"), all[1].label("y"), all[1].label("z")), ("1", "a \"b\\ }", ""));
    }

    fn histogram(values: [u32; 3]) -> Histogram {
        let [a, b, c] = values;
        let text = format!(
            "t_bucket{{le=\"0.1\"}} {a}\nt_bucket{{le=\"1.0\"}} {b}\nt_bucket{{le=\"+Inf\"}} {c}\nt_sum 1\n"
        );
        Histogram::of(&read(&text), "t")
    }

    #[test]
    fn a_spread_is_of_what_came_in_between() {
        assert_eq!(Histogram::default().spread(), Spread::default());
        assert_eq!(histogram([0, 0, 0]).spread(), Spread::default());
        let spread = histogram([10, 10, 10]).spread();
        assert_eq!((spread.count, spread.p50), (10, Some(0.05)));
        // 10 more, all between 0.1 and 1 s.
        let spread = histogram([10, 20, 20]).since(&histogram([10, 10, 10])).spread();
        assert_eq!((spread.count, spread.p50), (10, Some(0.55)));
        let spread = histogram([0, 1, 9]).spread();
        assert_eq!((spread.p50, spread.p95), (None, None), "beyond the last bound nothing is known");
    }

    proptest! {
        #[test]
        fn no_text_and_no_histogram_makes_it_panic(text in ".*", a in 0u32..9, b in 0u32..9, c in 0u32..9) {
            let _ = Histogram::of(&read(&text), "t").spread();
            let _ = histogram([a, b, c]).since(&histogram([c, b, a])).spread();
        }
    }
}
