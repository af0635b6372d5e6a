//! How many browsers there are, what each has for itself, and how many requests all of them take.

use std::path::PathBuf;

use super::parse::Mistake;
use super::{Config, INFLIGHT_LIMIT};

/// The most browsers of one process: each takes some 450 MB.
pub const MOST_BROWSERS: usize = 16;
/// Exchanges that run at once in a browser where nobody says more: what sites let one HTTP/2 connection have.
pub(super) const INFLIGHT: usize = 90;

impl Config {
    /// The profile of each browser: the first has the one that is named, number n a directory beside it whose name
    /// ends in `-n`.
    pub fn profiles(&self) -> Vec<PathBuf> {
        let profile = |n| match n {
            1 => self.profile.clone(),
            _ => {
                let mut name = self.profile.file_name().unwrap_or_default().to_owned();
                name.push(format!("-{n}"));
                self.profile.with_file_name(name)
            }
        };
        (1..=self.browsers).map(profile).collect()
    }
}

pub(super) fn browsers(value: &str) -> Result<usize, Mistake> {
    let number = value.parse().ok().filter(|it| (1..=MOST_BROWSERS).contains(it));
    number.ok_or_else(|| {
        let what = format!("is `{value}`, which is not a number from 1 to {MOST_BROWSERS}");
        Mistake::new(what, "1 is enough up to some 90 streams; each browser takes about 450 MB")
    })
}

/// How many exchanges run at once in all of `browsers`.
pub(super) fn inflight(value: &str, browsers: usize) -> Result<usize, Mistake> {
    let most = INFLIGHT_LIMIT * browsers;
    let number = value.parse().ok().filter(|it| (1..=most).contains(it));
    number.ok_or_else(|| {
        Mistake::new(
            format!("is `{value}`, which is not a number from 1 to {most}"),
            "a browser runs at most 256 streams on one HTTP/2 connection (TABPROXY_BROWSERS starts more of \
             them); 90 is a good start",
        )
    })
}
