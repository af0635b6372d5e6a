//! On what and when a run was made, for the documents that it writes.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// A table of one row: machine, browser, date, commit, and the command with how it counts.
pub fn facts(browser: &str, command: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok();
    let commit = commit.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!(
        "| machine | browser | date | commit | command |\n|---|---|---|---|---|\n\
         | {cores} cores, {}, Linux {} | {browser} | {} | {commit} | {command} |\n",
        model.as_deref().unwrap_or("unknown processor"),
        kernel.trim(),
        date(now.as_secs()),
    )
}

/// `2026-01-31 12:34 UTC`.
fn date(seconds: u64) -> String {
    // Days to a civil date, by counting 400-year eras from 0000-03-01 (H. Hinnant's algorithm).
    let z = seconds / 86_400 + 719_468;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = z / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}
