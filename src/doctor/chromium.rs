//! The browser: which one, how old, and whether it starts here, tried on an empty profile that is thrown away.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::finding::Finding;
use super::instance::Running;
use super::machine::Memory;
use crate::browser::child::Child;
use crate::browser::gateway::WayOut;
use crate::browser::launch::{LaunchError, LaunchSpec, find_chromium, is_program};
use crate::browser::link::Link;
use crate::config::{Config, Problem, SandboxMode};

/// How long the browser may take to say its version.
const VERSION_WAIT: Duration = Duration::from_secs(10);
/// How long it may take to start and to answer.
const LAUNCH_WAIT: Duration = Duration::from_secs(15);
/// The first version whose pages read answers into buffers of their own, which `carrier.js` needs.
const OLDEST: u32 = 115;
/// Older ones work, but get no security updates, and are not tried by anybody.
const RECENT: u32 = 140;

/// The browser to run and its version.
///
/// # Errors
/// There is none, or it does not say its version within ten seconds.
pub fn find(config: &Config) -> Result<(PathBuf, String), Problem> {
    let of =
        |what: String, remedy: &str| Problem { variable: "TABPROXY_CHROMIUM", what, remedy: remedy.into() };
    let install = "install one (apt-get install chromium) or set TABPROXY_CHROMIUM to its path";
    let path = match config.chromium.as_deref() {
        Some(path) if is_program(path) => path.to_owned(),
        Some(path) => {
            let what = format!("TABPROXY_CHROMIUM (--chromium): {} is not a program", path.display());
            return Err(of(what, install));
        }
        None => find_chromium()
            .ok_or_else(|| of("TABPROXY_CHROMIUM (--chromium): no Chromium found".into(), install))?,
    };
    match version(&path) {
        Ok(version) => Ok((path, version)),
        Err(error) => {
            let what = format!("TABPROXY_CHROMIUM (--chromium): {} does not run: {error}", path.display());
            Err(of(what, "reinstall it, or set TABPROXY_CHROMIUM to a Chromium that runs"))
        }
    }
}

/// What `<program> --version` prints.
fn version(program: &Path) -> io::Result<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let (sender, said) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.take(4096).read_to_string(&mut text);
            let _ = sender.send(read.map(|_| text));
        });
    }
    let said = said.recv_timeout(VERSION_WAIT);
    let _ = child.kill();
    child.wait()?;
    let text = said.map_err(|_| io::Error::other("it does not say its version in time"))??;
    match text.trim() {
        "" => Err(io::Error::other("it says no version")),
        text => Ok(text.to_owned()),
    }
}

/// Whether this browser will do.
pub fn judge(found: &Result<(PathBuf, String), Problem>) -> Finding {
    const NAME: &str = "chromium";
    let (path, version) = match found {
        Ok(found) => found,
        Err(problem) => return Finding::of(NAME, problem),
    };
    let text = format!("{} ({version})", path.display());
    let newer = "install a newer Chromium or Chrome, or set TABPROXY_CHROMIUM to one";
    if path.starts_with("/snap") {
        let remedy = "take the Google Chrome package, or a Chromium that is no snap";
        return Finding::yellow(NAME, format!("{text} is a snap, shut off from hidden directories"), remedy);
    }
    match major(version) {
        None => Finding::red(NAME, format!("{text} says no version that a Chromium would"), newer),
        Some(major) if major < OLDEST => {
            Finding::red(NAME, format!("{text} is too old: {OLDEST} is the oldest that can do this"), newer)
        }
        Some(major) if major < RECENT => Finding::yellow(NAME, format!("{text} is old"), newer),
        Some(_) => Finding::green(NAME, text),
    }
}

/// The first number in `Chromium 156.0.8078.79 built on …`.
fn major(version: &str) -> Option<u32> {
    let word = version.split_whitespace().find(|it| it.starts_with(|c: char| c.is_ascii_digit()))?;
    let (major, rest) = word.split_once('.')?;
    rest.starts_with(|c: char| c.is_ascii_digit()).then(|| major.parse().ok())?
}

/// How the try went.
enum Tried {
    Started {
        took: Duration,
        sandboxed: bool,
    },
    Failed(LaunchError),
    /// It started, but its control port did not answer.
    Mute(String),
}

/// Starts it for a moment.
pub async fn launch(
    config: &Config,
    found: &Result<(PathBuf, String), Problem>,
    memory: Option<Memory>,
    running: &Running,
) -> Finding {
    const NAME: &str = "launch";
    let Ok((binary, _)) = found else {
        return Finding::yellow(NAME, "not tried: there is no browser", "see the check named chromium");
    };
    if running.is_ready() && !memory.is_some_and(Memory::fits_another) {
        let text = "not tried, since a second one might take the running one's memory; that one has started";
        return Finding::green(NAME, text);
    }
    match try_launch(config, binary.clone()).await {
        Ok(tried) => judge_launch(&tried, config),
        Err(error) => Finding::red(
            NAME,
            format!("no place for an empty profile: {error}"),
            "make room in the directory for temporary files, or set TMPDIR to another",
        ),
    }
}

async fn try_launch(config: &Config, binary: PathBuf) -> io::Result<Tried> {
    // Short and private; it goes with this.
    let empty = tempfile::Builder::new().prefix("tabproxy-doctor").tempdir()?;
    let direct = WayOut::direct();
    let spec =
        LaunchSpec { profile: empty.path().join("profile"), ..LaunchSpec::new(config, binary, &direct) };
    let begun = Instant::now();
    let tried = match tokio::time::timeout(LAUNCH_WAIT, spec.launch()).await {
        Err(_) => Tried::Failed(LaunchError::Silent(format!("{LAUNCH_WAIT:?} are over"))),
        Ok(Err(error)) => Tried::Failed(error),
        Ok(Ok(child)) => {
            let answered = answers(&child).await;
            let (took, sandboxed) = (begun.elapsed(), child.is_sandboxed());
            child.kill().await;
            match answered {
                Ok(()) => Tried::Started { took, sandboxed },
                Err(error) => Tried::Mute(error),
            }
        }
    };
    Ok(tried)
}

/// Whether its control port answers.
async fn answers(child: &Child) -> Result<(), String> {
    let asked = async {
        let (link, _events) = Link::connect(child.address()).await?;
        link.version().await
    };
    match tokio::time::timeout(Duration::from_secs(5), asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 5 seconds".into()),
    }
}

fn judge_launch(tried: &Tried, config: &Config) -> Finding {
    const NAME: &str = "launch";
    match tried {
        Tried::Started { took, sandboxed } => {
            let window = if config.headless { "without a window" } else { "with a window" };
            let text = format!("started {window} in {:.1} s", took.as_secs_f64());
            match (sandboxed, config.sandbox) {
                (true, _) => Finding::green(NAME, format!("{text}, in its sandbox")),
                (false, SandboxMode::Off) => {
                    Finding::green(NAME, format!("{text}, without its sandbox (TABPROXY_SANDBOX=off)"))
                }
                (false, _) if rustix::process::geteuid().is_root() => Finding::yellow(
                    NAME,
                    format!("{text}, without its sandbox, which Chromium does not have as root"),
                    "run as another user; or set TABPROXY_SANDBOX=off to accept it",
                ),
                (false, _) => Finding::yellow(
                    NAME,
                    format!("{text}, without its sandbox, which the kernel does not allow"),
                    "allow user namespaces (in Docker: --security-opt seccomp=docker/seccomp.json); or set \
                     TABPROXY_SANDBOX=off to accept it",
                ),
            }
        }
        Tried::Failed(error) => Finding::red(NAME, error.to_string(), remedy_for(&error.to_string())),
        Tried::Mute(error) => Finding::red(
            NAME,
            format!("it starts, but cannot be controlled: {error}"),
            "see whether a firewall or a policy closes loopback ports, and whether TABPROXY_CHROMIUM is a Chromium",
        ),
    }
}

/// What its last words call for.
fn remedy_for(said: &str) -> String {
    let missing: Vec<_> =
        said.split(|c: char| c.is_whitespace() || c == ':').filter(|it| is_library(it)).collect();
    if said.contains("error while loading shared libraries") && !missing.is_empty() {
        return format!(
            "install what it needs ({}): reinstall it as a package, as apt-get install --reinstall chromium",
            missing.join(", ")
        );
    }
    for (words, remedy) in [
        ("Missing X server", "set DISPLAY to a display that there is, or TABPROXY_HEADLESS=true"),
        ("no virtual screen", "install xvfb, or set TABPROXY_HEADLESS=true"),
        ("cannot use its sandbox", "run as another user than root, or set TABPROXY_SANDBOX=auto"),
        ("No space left", "make room in the directory for temporary files"),
        (
            "said nothing in time",
            "see that TABPROXY_CHROMIUM is a Chromium, and what else keeps the machine busy",
        ),
    ] {
        if said.contains(words) {
            return remedy.into();
        }
    }
    "read its words; reinstall it, look at TABPROXY_CHROMIUM_ARGS, or set TABPROXY_CHROMIUM to a Chromium that runs"
        .into()
}

fn is_library(word: &str) -> bool {
    word.starts_with("lib") && word.contains(".so")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Light::{Green, Red, Yellow};
    use super::*;

    #[test]
    fn versions_too_old_are_told() {
        let judge = |version: &str| judge(&Ok(("/usr/bin/chromium".into(), version.into()))).state;
        assert_eq!(judge("Chromium 156.0.8078.79 built on Debian 12.11, running on Debian 12.11"), Green);
        assert_eq!(judge("Google Chrome 120.0.6099.109"), Yellow);
        assert_eq!(judge("Chromium 99.0.1"), Red);
        assert_eq!(judge("bash, version five"), Red);
        let snap = Ok(("/snap/bin/chromium".into(), "Chromium 156.0.1 snap".into()));
        assert_eq!(super::judge(&snap).state, Yellow);
    }

    #[test]
    fn a_missing_library_is_named() {
        let said = "the browser ended at once (exit status: 127): /usr/lib/chromium/chromium: error while loading \
                    shared libraries: libnss3.so: cannot open shared object file: No such file or directory";
        assert!(remedy_for(said).contains("(libnss3.so)"), "{}", remedy_for(said));
        assert!(remedy_for("Missing X server or $DISPLAY").contains("TABPROXY_HEADLESS"));
        assert!(remedy_for("???").contains("TABPROXY_CHROMIUM_ARGS"));
    }

    #[test]
    fn a_sandbox_that_had_to_be_turned_off_is_yellow_unless_it_was_to_be() {
        let mut config = Config::for_origin("https://site.test/".parse().unwrap());
        let judge = |sandboxed, config: &Config| {
            judge_launch(&Tried::Started { took: Duration::from_secs(1), sandboxed }, config).state
        };
        assert_eq!((judge(true, &config), judge(false, &config)), (Green, Yellow));
        config.sandbox = SandboxMode::Off;
        assert_eq!(judge(false, &config), Green);
        let silent = Tried::Failed(LaunchError::Silent(String::new()));
        assert_eq!(judge_launch(&silent, &config).state, Red);
    }
}
