//! What the kernel says about processes: CPU time, memory, descriptors, and what they were started as; and
//! signals, which harm them.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// The kernel counts CPU time for `/proc` in hundredths of a second, on every Linux.
const TICKS: f64 = 100.0;

/// Bytes in what is called a megabyte here.
pub const MB: f64 = 1_048_576.0;

/// A process, out of `/proc/PID/stat`.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// What it does: `R`, `S`, `T` (stopped), `Z` (dead, not yet waited for)…
    pub state: char,
    own: u64,
    children: u64,
}

impl Process {
    /// CPU seconds of the process itself.
    pub fn cpu(&self) -> f64 {
        self.own as f64 / TICKS
    }

    /// The process of that id, if there is one.
    pub fn read(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
        let sum = |a, b| Some(u64::try_from(number(a)? + number(b)?).unwrap_or(0));
        Some(Process {
            pid,
            parent: i32::try_from(number(1)?).ok()?,
            group: i32::try_from(number(2)?).ok()?,
            state: fields.first()?.chars().next()?,
            own: sum(11, 12)?,
            children: sum(13, 14)?,
        })
    }
}

/// All processes that can be seen, those too that have ended and are not waited for.
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The living processes of a group.
pub fn members(group: i32) -> Vec<Process> {
    processes().into_iter().filter(|it| it.group == group && !matches!(it.state, 'Z' | 'X')).collect()
}

/// The living helpers of a browser of a kind such as `renderer`, `gpu-process`, `utility` or `zygote`.
pub fn of_kind(browser: i32, kind: &str) -> Vec<i32> {
    let mark = format!("--type={kind}");
    let is_one = |it: &Process| command_line(it.pid).contains(&mark);
    members(browser).into_iter().filter(is_one).map(|it| it.pid).collect()
}

/// Whether there is such a process, living or not.
pub fn exists(pid: i32) -> bool {
    Process::read(pid).is_some()
}

/// Sends a signal; a process that is gone already is fine.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills it; a process that is gone already is fine.
pub fn kill(pid: i32) {
    signal(pid, Signal::KILL);
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

/// Resident memory of one process, in bytes; none when it is gone.
pub fn resident(pid: i32) -> u64 {
    kilobytes(&format!("/proc/{pid}/status"), "VmRSS:").map_or(0, |kb| kb as u64 * 1024)
}

/// Memory of a process group, in MB; what processes share counts once.
pub fn shared_memory_of_group(group: i32) -> f64 {
    let members = processes().into_iter().filter(|process| process.group == group);
    let each = members.filter_map(|it| kilobytes(&format!("/proc/{}/smaps_rollup", it.pid), "Pss:"));
    each.sum::<f64>() / 1024.0
}

/// Open descriptors of one process; `None` when it is gone.
pub fn descriptors(pid: i32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Memory mappings of one process; `None` when it is gone.
pub fn mappings(pid: i32) -> Option<usize> {
    Some(fs::read_to_string(format!("/proc/{pid}/maps")).ok()?.lines().count())
}

/// The words that a process was started with; none when it is gone.
pub fn command_line(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).filter(|it| !it.is_empty());
    // Chromium joins the words of its helpers by spaces.
    words
        .flat_map(|it| String::from_utf8_lossy(it).split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn kilobytes(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
