//! The child process: which Chromium, with which flags and for what reason, on which profile.
//!
//! The browser is ours from birth to death: its own process group, killed when we die, no core dumps, its
//! stderr kept for the log, and its profile held by a lock of our own.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::sync::{oneshot, watch};

/// How long the browser may take to say where it listens.
const STARTUP: Duration = Duration::from_secs(30);
/// How long it may take to write its profile down once asked to go.
const FAREWELL: Duration = Duration::from_secs(5);
/// Lines of the browser's stderr that are kept to explain a failed start.
const STDERR_LINES: usize = 20;

/// Everything that decides how the browser is started.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// The program.
    pub binary: PathBuf,
    /// The profile directory; made if missing.
    pub profile: PathBuf,
    /// Without a window.
    pub headless: bool,
    /// Whether Chromium's sandbox is on.
    pub sandbox: Sandbox,
    /// The operator's own flags, last so that they win.
    pub extra: Vec<String>,
    /// Host names and where they are to be found, `addr` or `addr:port`.
    pub resolve: Vec<(String, String)>,
    /// Public keys (base64 of the SHA-256 of the SPKI) whose certificates are accepted.
    pub pins: Vec<String>,
    /// The value of `--proxy-server`; `None` for a direct way out.
    pub proxy_server: Option<String>,
    /// The value of `--proxy-bypass-list`.
    pub proxy_bypass: String,
}

/// Chromium's sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// On, unless it cannot work here; then off, with a warning.
    Auto,
    /// On, or the browser does not start.
    On,
    /// Off.
    Off,
}

/// Why the browser did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program cannot be run.
    #[error("cannot run {0}: {1}")]
    Spawn(PathBuf, io::Error),
    /// It ended before it listened.
    #[error("the browser ended at once ({status}): {stderr}")]
    Exited {
        /// How it ended.
        status: String,
        /// Its last words.
        stderr: String,
    },
    /// It did not say in time where it listens.
    #[error("the browser said nothing within {STARTUP:?}: {0}")]
    Silent(String),
    /// The kernel does not let Chromium build its sandbox.
    #[error("Chromium cannot use its sandbox here: {0}")]
    NoSandbox(String),
    /// Preparing for it failed.
    #[error("cannot prepare the browser's files: {0}")]
    Files(#[from] io::Error),
}

impl LaunchSpec {
    /// The command line, one flag each with its reason. `port` is where CDP is to listen.
    fn flags(&self, port: u16, sandbox: bool) -> Vec<String> {
        let mut flags = vec![
            format!("--user-data-dir={}", self.profile.display()),
            // A port that we pick: port 0 would make Chromium announce itself as automated to every page,
            // although the person who owns the profile drives it too. It binds to loopback only.
            format!("--remote-debugging-port={port}"),
            // Nothing asks questions at the first start.
            "--no-first-run".into(),
            "--no-default-browser-check".into(),
            "--disable-search-engine-choice-screen".into(),
            // No bubble about the last crash over the page that the operator looks at.
            "--hide-crash-restore-bubble".into(),
            // No crash reports, no traffic of the browser's own; the component updater filled disks.
            "--disable-breakpad".into(),
            "--disable-component-update".into(),
            "--disable-background-networking".into(),
            "--disable-domain-reliability".into(),
            "--disable-sync".into(),
            "--metrics-recording-only".into(),
            "--no-pings".into(),
            // Carriers are background tabs: they must run at full speed all the same.
            "--disable-background-timer-throttling".into(),
            "--disable-backgrounding-occluded-windows".into(),
            "--disable-renderer-backgrounding".into(),
            // We look after stuck pages ourselves; its dialog would wait for a person.
            "--disable-hang-monitor".into(),
            // No key ring daemon to ask or to wait for.
            "--password-store=basic".into(),
            // Bounded on disk.
            "--disk-cache-size=104857600".into(),
            // One key, all values: a second one would replace the first.
            concat!(
                "--disable-features=",
                "Translate,",                            // a bubble over the page
                "MediaRouter,",                          // looks for devices in the local network
                "OptimizationHints,",                    // downloads models
                "ProcessPerSiteUpToMainFrameThreshold,", // tabs of one site share a process: and its death
                "HighEfficiencyModeAvailable",           // discards tabs that nobody looks at
            )
            .into(),
            // The size of an ordinary window.
            "--window-size=1280,900".into(),
        ];
        if self.headless {
            flags.push("--headless=new".into());
        }
        if !sandbox {
            flags.push("--no-sandbox".into());
        }
        if !self.resolve.is_empty() {
            let rules: Vec<_> = self.resolve.iter().map(|(host, at)| format!("MAP {host} {at}")).collect();
            flags.push(format!("--host-resolver-rules={}", rules.join(",")));
        }
        if !self.pins.is_empty() {
            flags.push(format!("--ignore-certificate-errors-spki-list={}", self.pins.join(",")));
        }
        match &self.proxy_server {
            Some(server) => {
                flags.push(format!("--proxy-server={server}"));
                if !self.proxy_bypass.is_empty() {
                    flags.push(format!("--proxy-bypass-list={}", self.proxy_bypass));
                }
            }
            // The way out is what our configuration says, not what a desktop's settings happen to say.
            None => flags.push("--no-proxy-server".into()),
        }
        flags.extend(self.extra.iter().cloned());
        flags.push("about:blank".into());
        flags
    }

    /// Starts the browser and waits until it listens.
    pub async fn launch(&self) -> Result<Child, LaunchError> {
        let root = rustix::process::geteuid().is_root();
        let sandbox = match self.sandbox {
            Sandbox::On => true,
            Sandbox::Off => false,
            Sandbox::Auto => !root,
        };
        if self.sandbox == Sandbox::Auto && root {
            tracing::warn!("running as root, where Chromium has no sandbox: it is off; run as another user");
        }
        match self.launch_with(sandbox).await {
            Err(LaunchError::NoSandbox(why)) if self.sandbox == Sandbox::Auto => {
                tracing::warn!(%why, "the kernel does not allow Chromium's sandbox: it is off");
                self.launch_with(false).await
            }
            other => other,
        }
    }

    async fn launch_with(&self, sandbox: bool) -> Result<Child, LaunchError> {
        seed_profile(&self.profile)?;
        let tmp = scratch(&self.profile)?;
        let port = free_port()?;
        let mut command = Command::new(&self.binary);
        command
            .args(self.flags(port, sandbox))
            .env("TMPDIR", &tmp)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = Child::spawn(command).await.map_err(|e| LaunchError::Spawn(self.binary.clone(), e))?;
        child.listening(sandbox).await
    }
}

/// A running browser. Dropping it kills the whole process group.
pub struct Child {
    pid: Pid,
    address: String,
    stderr: Arc<Mutex<VecDeque<String>>>,
    listening: Option<oneshot::Receiver<String>>,
    exit: watch::Receiver<Option<String>>,
}

impl Child {
    /// Spawns from a thread that lives as long as the child: the kernel takes the end of the spawning
    /// *thread* for the end of the parent.
    async fn spawn(mut command: Command) -> io::Result<Child> {
        die_with_parent(&mut command);
        let (spawned, child) = oneshot::channel();
        let (exited, exit) = watch::channel(None);
        std::thread::Builder::new().name("browser-parent".into()).spawn(move || match command.spawn() {
            Ok(mut child) => {
                let stderr = child.stderr.take();
                let _ = spawned.send(Ok((child.id(), stderr)));
                let status = child.wait();
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
        Ok(Child { pid, address: String::new(), stderr: lines, listening: Some(listening), exit })
    }

    async fn listening(mut self, sandbox: bool) -> Result<Child, LaunchError> {
        let Some(listening) = self.listening.take() else { return Ok(self) };
        let mut exit = self.exit.clone();
        tokio::select! {
            Ok(address) = listening => {
                self.address = address;
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

    /// Waits for it to go by itself after it was asked to, then makes it go.
    pub async fn farewell(self) {
        if tokio::time::timeout(FAREWELL, self.exited()).await.is_err() {
            tracing::warn!("the browser does not close: asking again");
            let _ = rustix::process::kill_process_group(self.pid, Signal::TERM);
            let _ = tokio::time::timeout(FAREWELL, self.exited()).await;
        }
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

/// A loopback port that is free now. Another process may take it first: then the start fails and the next
/// attempt picks another.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Gives a new profile its first preferences (see `browser-profile/`); leaves an existing one alone.
fn seed_profile(profile: &Path) -> io::Result<()> {
    let preferences = profile.join("Default/Preferences");
    if preferences.exists() {
        return Ok(());
    }
    private_dir(&profile.join("Default"))?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(preferences)?;
    file.write_all(include_bytes!("../../browser-profile/preferences.json"))
}

/// An empty directory for the browser's temporary files, the same one for each start on this profile.
/// Short, because Chromium puts a Unix socket into it, whose path is limited to 107 bytes.
fn scratch(profile: &Path) -> io::Result<PathBuf> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    profile.hash(&mut hasher);
    let dir = std::env::temp_dir().join(format!("tabproxy-{:08x}", hasher.finish() as u32));
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    private_dir(&dir)?;
    Ok(dir)
}

fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Another tabproxy has it.
    #[error(
        "profile {0} is in use by another tabproxy; stop it, or set TABPROXY_PROFILE to another directory"
    )]
    Ours(PathBuf),
    /// A browser that somebody else started has it.
    #[error(
        "profile {0} is open in a running browser (pid {1}); close it, or set TABPROXY_PROFILE to another directory"
    )]
    Browser(PathBuf, i32),
    /// It cannot be written.
    #[error("cannot write to profile {0}: {1}; set TABPROXY_PROFILE to a directory of yours")]
    Unwritable(PathBuf, io::Error),
}

/// Our hold on a profile, for as long as this lives.
#[derive(Debug)]
pub struct ProfileLock {
    _file: File,
}

impl ProfileLock {
    /// Takes the profile, or says who has it. Marks that a dead browser left behind are removed: Chromium
    /// itself gives up on those that name another host, as after a container was replaced.
    pub fn take(profile: &Path) -> Result<ProfileLock, ProfileError> {
        let unwritable = |e| ProfileError::Unwritable(profile.to_owned(), e);
        private_dir(profile).map_err(unwritable)?;
        let path = profile.join("tabproxy.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(unwritable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(ProfileError::Ours(profile.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(unwritable(error)),
        }
        if let Some(pid) = live_owner(profile) {
            return Err(ProfileError::Browser(profile.to_owned(), pid));
        }
        for mark in ["SingletonLock", "SingletonSocket", "SingletonCookie"] {
            match fs::remove_file(profile.join(mark)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(error)),
                _ => {}
            }
        }
        Ok(ProfileLock { _file: file })
    }
}

/// The process that Chromium's own mark names, if it lives on this host. The mark is a symbolic link to
/// `host-pid`.
fn live_owner(profile: &Path) -> Option<i32> {
    let mark = fs::read_link(profile.join("SingletonLock")).ok()?;
    let (host, pid) = mark.to_str()?.rsplit_once('-')?;
    let pid: i32 = pid.parse().ok()?;
    let here = rustix::system::uname();
    if here.nodename().to_str() != Ok(host) {
        return None;
    }
    rustix::process::test_kill_process(Pid::from_raw(pid)?).is_ok().then_some(pid)
}

/// Names under which a Chromium may be on PATH, and places where it usually is.
const NAMES: [&str; 5] = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"];
const PLACES: [&str; 5] = [
    "/usr/lib/chromium/chromium",
    "/usr/lib/chromium-browser/chromium-browser",
    "/opt/google/chrome/chrome",
    "/snap/bin/chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/// Debian's `chromium` is a script that switches shared memory off where /dev/shm has less than 3.8 GB,
/// which makes `docker run --shm-size=1gb` pointless: run the program behind it.
const DEBIAN_SCRIPT: &str = "/usr/bin/chromium";
const DEBIAN_PROGRAM: &str = "/usr/lib/chromium/chromium";

/// Finds a Chromium on PATH or in the usual places.
pub fn find_chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = NAMES.iter().flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)));
    let found = on_path.chain(PLACES.iter().map(PathBuf::from)).find(|it| is_program(it))?;
    let behind = Path::new(DEBIAN_PROGRAM);
    Some(if found == Path::new(DEBIAN_SCRIPT) && is_program(behind) { behind.to_owned() } else { found })
}

/// Whether `path` is a file that may be executed.
pub fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
