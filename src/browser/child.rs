//! The browser's process: ours from birth to death.
//!
//! It leads a process group of its own that is killed as a whole, it dies when we die, it leaves no core
//! dumps, and its last lines of stderr are kept to explain a failed start. Knows nothing of flags or CDP.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStderr, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::sync::{oneshot, watch};

use super::launch::LaunchError;
use crate::telemetry::process;

/// How long the browser may take to say where it listens.
const STARTUP: Duration = Duration::from_secs(30);
/// How long it may take to write its profile down once asked to go.
const FAREWELL: Duration = Duration::from_secs(5);
/// Lines of the browser's stderr that are kept to explain a failed start.
const STDERR_LINES: usize = 20;

/// A running browser. Dropping it kills the whole process group.
pub struct Child {
    pid: Pid,
    address: String,
    sandboxed: bool,
    stderr: Arc<Mutex<VecDeque<String>>>,
    listening: Option<oneshot::Receiver<String>>,
    exit: watch::Receiver<Option<String>>,
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// It runs, or would if there were a processor or a disk free.
    pub wants_to_run: bool,
    /// Processor time that it has used, in clock ticks.
    pub used: u64,
}

impl Child {
    /// Spawns from a thread that lives as long as the child: the kernel takes the end of the spawning
    /// *thread* for the end of the parent.
    ///
    /// `scratch` is removed when the child has ended.
    pub(super) async fn spawn(mut command: Command, scratch: PathBuf) -> io::Result<Child> {
        die_with_parent(&mut command);
        let (spawned, child) = oneshot::channel();
        let (exited, exit) = watch::channel(None);
        std::thread::Builder::new().name("browser-parent".into()).spawn(move || match command.spawn() {
            Ok(mut child) => {
                let stderr = child.stderr.take();
                let _ = spawned.send(Ok((child.id(), stderr)));
                let status = child.wait();
                // What is left there is of no use to anyone; the next start would remove it too.
                let _ = std::fs::remove_dir_all(scratch);
                exited.send_replace(Some(describe(status)));
            }
            Err(error) => drop(spawned.send(Err(error))),
        })?;
        let (id, stderr) = child.await.map_err(|_| io::Error::other("the spawning thread ended"))??;
        let pid = Pid::from_raw(id.cast_signed()).ok_or_else(|| io::Error::other("no process id"))?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (found, listening) = oneshot::channel();
        if let Some(stderr) = stderr {
            let lines = lines.clone();
            std::thread::Builder::new()
                .name("browser-stderr".into())
                .spawn(move || read_stderr(stderr, &lines, found))?;
        }
        Ok(Child {
            pid,
            address: String::new(),
            sandboxed: false,
            stderr: lines,
            listening: Some(listening),
            exit,
        })
    }

    /// Waits until it says where it listens, or why it does not. `sandbox`: whether it was to have one.
    pub(super) async fn listening(mut self, sandbox: bool) -> Result<Child, LaunchError> {
        let Some(listening) = self.listening.take() else { return Ok(self) };
        let mut exit = self.exit.clone();
        tokio::select! {
            Ok(address) = listening => {
                self.address = address;
                self.sandboxed = sandbox;
                Ok(self)
            }
            status = ended(&mut exit) => {
                // Its last words may still be in the pipe for a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let stderr = self.last_words();
                if sandbox && (stderr.contains("No usable sandbox") || stderr.contains("--no-sandbox")) {
                    return Err(LaunchError::NoSandbox(stderr));
                }
                Err(LaunchError::Exited { status, stderr })
            }
            () = tokio::time::sleep(STARTUP) => Err(LaunchError::Silent(self.last_words())),
        }
    }

    /// The CDP address, `ws://127.0.0.1:…/devtools/browser/…`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it was started with its sandbox.
    pub fn is_sandboxed(&self) -> bool {
        self.sandboxed
    }

    /// The process id of the browser's main process, which leads its process group.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The end of the process, in words, once it comes.
    pub fn exited(&self) -> impl Future<Output = String> + Send + 'static {
        let mut exit = self.exit.clone();
        async move { ended(&mut exit).await }
    }

    /// The last lines of its stderr, the useful ones first.
    pub fn last_words(&self) -> String {
        let lines = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let telling: Vec<_> = lines.iter().filter(|line| !is_noise(line)).map(String::as_str).collect();
        telling.join(" | ")
    }

    /// Waits for it to go by itself after it was asked to, then makes it go. Returns whether it went in
    /// peace, with everything written down.
    pub async fn farewell(self) -> bool {
        if tokio::time::timeout(FAREWELL, self.exited()).await.is_ok() {
            return true;
        }
        tracing::warn!("the browser does not close: asking again");
        let _ = rustix::process::kill_process_group(self.pid, Signal::TERM);
        tokio::time::timeout(FAREWELL, self.exited()).await.is_ok()
    }

    /// Kills those of its helpers that somebody has stopped: their tabs are given up, and closing a tab does
    /// not end a process that stands still.
    pub fn kill_stopped(&self) {
        let stopped = process::members(self.pid()).into_iter().filter(|it| it.is_stopped);
        for helper in stopped.filter(|it| it.pid != self.pid()) {
            if let Some(pid) = Pid::from_raw(helper.pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// The helper that does the browser's networking and holds its cookies until they are on disk.
    pub fn network_service(&self) -> Option<i32> {
        let is_network = |it: &process::Member| it.command().contains("network.mojom.NetworkService");
        process::members(self.pid()).into_iter().find(is_network).map(|it| it.pid)
    }

    /// How its main process is doing, as the kernel tells; `None` if it is gone.
    pub fn pulse(&self) -> Option<Pulse> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        // proc(5): state is the first field after the name, which may hold anything but ends with the last
        // parenthesis; utime and stime are the 12th and 13th.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let wants_to_run = matches!(*fields.first()?, "R" | "D");
        Some(Pulse { wants_to_run, used: ticks(11)? + ticks(12)? })
    }

    /// Kills the whole group and waits until the main process is reaped, so that the profile is free.
    pub async fn kill(self) {
        let exited = self.exited();
        drop(self);
        let _ = tokio::time::timeout(FAREWELL, exited).await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Also after the main process has ended: helpers of it may not have noticed yet.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }
}

#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, setrlimit, getppid.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::other("the parent is gone already"));
            }
            Ok(())
        });
    }
}

async fn ended(exit: &mut watch::Receiver<Option<String>>) -> String {
    match exit.wait_for(Option::is_some).await {
        Ok(how) => how.clone().unwrap_or_default(),
        Err(_) => "its parent thread ended".into(),
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Logs the browser's stderr and keeps its last lines; reports the CDP address when it comes by.
fn read_stderr(stderr: ChildStderr, lines: &Mutex<VecDeque<String>>, found: oneshot::Sender<String>) {
    let mut found = Some(found);
    // Read as bytes: a browser may write anything, and a line of any length.
    let mut reader = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(4096).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if let Some(address) = line.strip_prefix("DevTools listening on ") {
            if let Some(found) = found.take() {
                let _ = found.send(address.to_owned());
            }
            continue;
        }
        tracing::debug!(target: "chromium", "{line}");
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == STDERR_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Lines that every Chromium in a container writes and that explain nothing.
fn is_noise(line: &str) -> bool {
    line.is_empty() || ["dbus", "Fontconfig", "vaapi", "vulkan", "gcm"].iter().any(|it| line.contains(it))
}
