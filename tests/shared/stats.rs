//! Middle values.

/// The value below which the share `p` (0 to 1) of the values lies; NaN of nothing.
pub fn percentile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// As many digits as mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        it if it >= 10_000.0 => format!("{:.0}k", value / 1_000.0),
        it if it >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        it if it >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
