//! Percentiles, and what the kernel says about processes: CPU time and memory.

use std::fs;

/// The kernel counts CPU time for `/proc` in hundredths of a second, on every Linux.
const TICKS: f64 = 100.0;

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

/// A process, out of `/proc/PID/stat`.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    own: u64,
    children: u64,
}

impl Process {
    /// CPU seconds of the process itself.
    pub fn cpu(&self) -> f64 {
        self.own as f64 / TICKS
    }

    fn read(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
        let sum = |a, b| Some(u64::try_from(number(a)? + number(b)?).unwrap_or(0));
        Some(Process {
            pid,
            parent: i32::try_from(number(1)?).ok()?,
            group: i32::try_from(number(2)?).ok()?,
            own: sum(11, 12)?,
            children: sum(13, 14)?,
        })
    }
}

/// All processes that can be seen.
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// CPU seconds of one process.
pub fn cpu_of(pid: i32) -> f64 {
    Process::read(pid).map_or(f64::NAN, |process| process.cpu())
}

/// CPU seconds of a process group, with those of members that have ended and been waited for.
pub fn cpu_of_group(group: i32) -> f64 {
    let members = processes().into_iter().filter(|process| process.group == group);
    members.map(|process| process.own + process.children).sum::<u64>() as f64 / TICKS
}

/// Resident memory of one process, in MB (2^20 bytes).
pub fn resident(pid: i32) -> f64 {
    kilobytes(&format!("/proc/{pid}/status"), "VmRSS:").map_or(f64::NAN, |kb| kb / 1024.0)
}

/// Memory of a process group, in MB; what processes share counts once.
pub fn shared_memory_of_group(group: i32) -> f64 {
    let members = processes().into_iter().filter(|process| process.group == group);
    let each = members.filter_map(|it| kilobytes(&format!("/proc/{}/smaps_rollup", it.pid), "Pss:"));
    each.sum::<f64>() / 1024.0
}

fn kilobytes(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
