//! What processes use, as Linux tells it under `/proc`. Read when somebody asks, never in between.
//!
//! Every function answers zero where it cannot look: a figure is no reason to fail.

use std::fs;
use std::path::Path;

/// Our own resident memory in bytes.
pub(super) fn resident() -> u64 {
    resident_of(Path::new("/proc/self"))
}

/// Our open descriptors.
pub(super) fn descriptors() -> u64 {
    // Listing the directory takes one itself.
    fs::read_dir("/proc/self/fd").map_or(0, |entries| (entries.count() as u64).saturating_sub(1))
}

/// Memory of all processes in process group `group`, in bytes: the proportional share where the kernel lets
/// us read it (Chromium's processes share much), the resident size elsewhere.
pub(super) fn group_memory(group: i32) -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<i32>().is_ok()))
        .map(|entry| entry.path())
        .filter(|dir| fs::read_to_string(dir.join("stat")).is_ok_and(|stat| group_of(&stat) == Some(group)))
        .map(|dir| {
            let share = fs::read_to_string(dir.join("smaps_rollup")).ok();
            share.and_then(|text| field(&text, "Pss:")).unwrap_or_else(|| resident_of(&dir))
        })
        .sum()
}

fn resident_of(dir: &Path) -> u64 {
    fs::read_to_string(dir.join("status")).ok().and_then(|text| field(&text, "VmRSS:")).unwrap_or(0)
}

/// The process group in a line of `/proc/<pid>/stat`. The name before it may hold spaces and parentheses.
fn group_of(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

/// A `Name:   123 kB` line, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_formats() {
        assert_eq!(group_of("42 (a) b (c)) S 1 77 77 0 -1"), Some(77));
        assert_eq!(group_of("nonsense"), None);
        assert_eq!(field("Rss:  9 kB\nPss:   12 kB\nPss_Anon: 3 kB\n", "Pss:"), Some(12 * 1024));
        assert_eq!(field("VmSize: 1 kB\n", "VmRSS:"), None);
    }

    #[test]
    fn we_use_something() {
        assert!(resident() > 100_000);
        assert!(descriptors() >= 3);
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        assert!(group_memory(group) > 100_000);
        assert_eq!(group_memory(-7), 0);
    }
}
