//! The browser's processes, to look at and to harm.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A process of the browser's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// As in `ps`: `R`, `S`, `T`, `Z`…
    pub state: String,
    pub command: String,
}

/// The processes of the browser's group, its main process among them.
pub fn group(browser: i32) -> Vec<Process> {
    let numeric = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(numeric);
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // State, parent and group follow the name, which ends with the last parenthesis.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect();
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
        (fields[2] == browser.to_string()).then(|| Process { pid, state: fields[0].clone(), command })
    })
    .collect()
}

/// Those of a kind, such as `renderer`, `gpu-process`, `utility` or `zygote`.
pub fn of_kind(browser: i32, kind: &str) -> Vec<i32> {
    let mark = format!("--type={kind} ");
    group(browser).into_iter().filter(|it| it.command.contains(&mark)).map(|it| it.pid).collect()
}

/// Sends a signal; a process that is gone already is fine.
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

pub fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

pub fn exists(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}
