//! Clients that others wrote, unchanged, against a running proxy: the scripts of `tests/clients` say what each
//! does and print what it gave its caller; here that is judged, together with what the site has seen.

mod bots;
mod contract;
mod openai;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tabproxy::config::Config;
use tabproxy::practice::PracticeArgs;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::rig::{PATIENCE, Rig};

/// A file of the repository.
pub(crate) fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// An installed client, without this test's surroundings: a proxy in its environment would be used.
fn installed(program: &str, list: &str, stamp: &str) -> Command {
    let is = |path: &str| std::fs::read(file(path)).ok();
    let (list, stamp) = (is(list), is(stamp));
    assert!(
        list.is_some() && list == stamp,
        "the clients are not installed as they are listed: make deps-test"
    );
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Node with one of the scripts; a module's imports are looked for in the directory that it runs in.
pub(crate) fn node(script: &str, ask: &Value) -> Command {
    let list = "tests/clients/package-lock.json";
    let mut command = installed("node", list, "target/clients/node_modules/.installed");
    command.args(["--input-type=module", "-", &ask.to_string()]).current_dir(file("target/clients"));
    command.stdin(File::open(file("tests/clients").join(script)).unwrap());
    command
}

/// Python with the packages that are listed.
pub(crate) fn python() -> Command {
    let program = file("target/clients/venv/bin/python");
    let list = "tests/clients/requirements.txt";
    installed(program.to_str().unwrap(), list, "target/clients/venv/.installed")
}

/// Runs a script until it has printed its line. It may go on after that, as long as the child is kept.
pub(crate) async fn run(mut command: Command) -> (Value, Child) {
    let mut child = command.spawn().expect("the program is installed (make deps-test)");
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let read = tokio::time::timeout(2 * PATIENCE, said.read_line(&mut line)).await;
    if let (Ok(Ok(_)), Ok(json)) = (read, serde_json::from_str(&line)) {
        return (json, child);
    }
    let _ = child.start_kill();
    let mut errors = String::new();
    let _ = child.stderr.take().unwrap().read_to_string(&mut errors).await;
    panic!("the client printed {line:?}\n{errors}");
}

/// What a client lists under this name.
fn listed<'a>(said: &'a Value, name: &str) -> &'a [Value] {
    said[name].as_array().unwrap_or_else(|| panic!("no {name}: {said}"))
}

/// The two official SDKs, which are asked the same things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sdk {
    Node,
    Python,
}

impl Sdk {
    const BOTH: [Sdk; 2] = [Sdk::Node, Sdk::Python];

    /// Starts it with what `ask` says, for this proxy.
    fn command(self, rig: &Rig, mut ask: Value) -> Command {
        ask["base"] = rig.url("/v1").into();
        match self {
            Sdk::Node => node("openai.mjs", &ask),
            Sdk::Python => {
                let mut command = python();
                command.arg(file("tests/clients/openai_sdk.py")).arg(ask.to_string());
                command
            }
        }
    }

    async fn ask(self, rig: &Rig, ask: Value) -> Value {
        run(self.command(rig, ask)).await.0
    }

    /// One prompt; what came of it.
    async fn say(self, rig: &Rig, prompt: &str, stream: bool) -> Value {
        let said = self.ask(rig, json!({"case": "talk", "prompts": [prompt], "stream": stream})).await;
        if said["answers"].is_array() { said["answers"][0].clone() } else { said }
    }
}

/// A rig with a change of its own, as the scripts need nothing else.
async fn rig(change: impl FnOnce(&mut Config)) -> Rig {
    Rig::with(PracticeArgs::default(), change).await
}
