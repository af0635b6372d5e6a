//! How the browser is started: which Chromium, and which flags, each with its reason.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::child::Child;
use super::gateway::WayOut;
use super::{profile, shm};
use crate::config::{Config, SandboxMode};

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
    #[error("the browser said nothing in time: {0}")]
    Silent(String),
    /// The kernel does not let Chromium build its sandbox.
    #[error(
        "Chromium cannot use its sandbox here: run as another user than root, or set TABPROXY_SANDBOX=auto ({0})"
    )]
    NoSandbox(String),
    /// Preparing for it failed.
    #[error("cannot prepare the browser's files: {0}")]
    Files(#[from] io::Error),
}

impl LaunchSpec {
    /// The browser that `config` describes, by the way out that was made for it.
    pub fn new(config: &Config, binary: PathBuf, way_out: &WayOut) -> LaunchSpec {
        LaunchSpec {
            binary,
            profile: config.profile.clone(),
            headless: config.headless,
            sandbox: match config.sandbox {
                SandboxMode::Auto => Sandbox::Auto,
                SandboxMode::On => Sandbox::On,
                SandboxMode::Off => Sandbox::Off,
            },
            extra: config.chromium_args.clone(),
            resolve: config.resolve.clone(),
            pins: config.pins.clone(),
            proxy_server: way_out.server.clone(),
            proxy_bypass: way_out.bypass.clone(),
        }
    }

    /// The command line, one flag each with its reason. `port` is where CDP is to listen.
    fn flags(&self, port: u16, sandbox: bool, shm: bool) -> Vec<String> {
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
        if !shm {
            // Files in TMPDIR in its place.
            flags.push("--disable-dev-shm-usage".into());
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
        let complaint = shm::complaint_about(&shm::room());
        if let Some(why) = &complaint {
            tracing::warn!(
                "{why}: the browser keeps shared memory in files, which is slower; give it more (docker run --shm-size=1gb, or shm_size: 1gb in compose)"
            );
        }
        let shm = complaint.is_none();
        match self.launch_with(sandbox, shm).await {
            Err(LaunchError::NoSandbox(why)) if self.sandbox == Sandbox::Auto => {
                tracing::warn!(%why, "the kernel does not allow Chromium's sandbox: it is off (to have it, allow user namespaces; in Docker, --security-opt seccomp=docker/seccomp.json)");
                self.launch_with(false, shm).await
            }
            other => other,
        }
    }

    async fn launch_with(&self, sandbox: bool, shm: bool) -> Result<Child, LaunchError> {
        profile::seed(&self.profile)?;
        let tmp = profile::scratch(&self.profile)?;
        let port = free_port()?;
        let mut command = Command::new(&self.binary);
        command
            .args(self.flags(port, sandbox, shm))
            .env("TMPDIR", &tmp)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child =
            Child::spawn(command, tmp).await.map_err(|e| LaunchError::Spawn(self.binary.clone(), e))?;
        child.listening(sandbox).await
    }
}

/// A loopback port that is free now. Another process may take it first: then the start fails and the next
/// attempt picks another.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
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
