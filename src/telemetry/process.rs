//! What processes use, as Linux tells it under `/proc`. Read when somebody asks, never in between.
//!
//! Every function answers zero where it cannot look: a figure is no reason to fail.

use std::fs;
use std::path::Path;

/// Our own resident memory in bytes.
pub fn resident() -> u64 {
    resident_of(Path::new("/proc/self"))
}

/// Our open descriptors.
pub(super) fn descriptors() -> u64 {
    // Listing the directory takes one itself.
    fs::read_dir("/proc/self/fd").map_or(0, |entries| (entries.count() as u64).saturating_sub(1))
}

/// Memory of all processes in process group `group`, in bytes: the proportional share where the kernel lets
/// us read it (Chromium's processes share much), the resident size elsewhere.
pub fn group_memory(group: i32) -> u64 {
    members(group)
        .into_iter()
        .map(|member| {
            let dir = Path::new("/proc").join(member.pid.to_string());
            let share = fs::read_to_string(dir.join("smaps_rollup")).ok();
            share.and_then(|text| field(&text, "Pss:")).unwrap_or_else(|| resident_of(&dir))
        })
        .sum()
}

/// A process of a group.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its id.
    pub pid: i32,
    /// Whether it has been stopped by a signal.
    pub is_stopped: bool,
}

impl Member {
    /// Its command line, the arguments apart by NUL; empty if it cannot be read.
    pub fn command(&self) -> String {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&line).into_owned()
    }
}

/// Whether a process of this id lives: one that has ended but was not waited for does not.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// All processes in process group `group`. Reads some lines of every process there is: a few milliseconds.
pub fn members(group: i32) -> Vec<Member> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let member = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let is_stopped = stat.rsplit_once(')')?.1.trim_start().starts_with('T');
        (group_of(&stat)? == group).then_some(Member { pid, is_stopped })
    };
    entries.flatten().filter_map(member).collect()
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
