//! No tests: the program itself as a process of its own, in front of a practice site.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;
use tabproxy::practice::Practice;
use tempfile::TempDir;

use crate::rig::{client, eventually, turn, until};
use crate::shared::limit::Limit;
use crate::shared::procfs;

/// The program itself as a child process, with a directory of its own, in front of a practice site.
pub struct Program {
    pub home: TempDir,
    pub addr: SocketAddr,
    pub client: reqwest::Client,
    child: Child,
    _limit: Limit,
}

impl Program {
    /// Starts it; `vars` are added to an environment of nothing but PATH and what points it at the site.
    pub async fn start(site: &Practice, vars: &[(&str, &str)]) -> Program {
        Program::in_home(TempDir::new().unwrap(), site, vars).await
    }

    /// The same in a directory that exists.
    pub async fn in_home(home: TempDir, site: &Practice, vars: &[(&str, &str)]) -> Program {
        Program::in_shell("exec sh", "", home, site, vars).await
    }

    /// The same by a shell that `shell` becomes, and that has run `setup` before: it may change limits, but not fork.
    pub async fn in_shell(
        shell: &str,
        setup: &str,
        home: TempDir,
        site: &Practice,
        vars: &[(&str, &str)],
    ) -> Program {
        let cert = home.path().join("cert.pem");
        fs::write(&cert, site.cert_pem()).unwrap();
        let said = File::create(home.path().join("stdout")).unwrap();
        let script = format!("{setup}\nexec \"$0\" serve");
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{shell} -c \"$SCRIPT\" \"$0\"")).arg(env!("CARGO_BIN_EXE_tabproxy"));
        command.env_clear().env("SCRIPT", script).env("PATH", std::env::var("PATH").unwrap());
        command.env("HOME", home.path()).env("TABPROXY_HEADLESS", "true");
        command.env("TABPROXY_LISTEN", "127.0.0.1:0").env("TABPROXY_ORIGIN", site.front_url());
        command.env("TABPROXY_RESOLVE", site.resolve()).env("TABPROXY_TRUST_CERT", &cert);
        command.env("TABPROXY_PROFILE", home.path().join("profile")).envs(vars.iter().copied());
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let child = command.spawn().unwrap();
        let client = client();
        let said = home.path().join("stdout");
        let limit = Limit::new(move || fs::read_to_string(said).unwrap_or_default());
        let mut program = Program { home, addr: ([0; 4], 0).into(), client, child, _limit: limit };
        let listening = |log: &String| log.contains("listening on http://");
        let log = eventually(|| program.log(), listening).await;
        let addr = log.split("listening on http://").nth(1).and_then(|it| it.split_whitespace().next());
        program.addr = addr.unwrap().parse().unwrap();
        program
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        let said = fs::read(self.home.path().join("stdout")).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    /// As [`crate::rig::Rig::ask`], by a client that does not say what it accepts.
    pub async fn ask(&self, id: &str, prompt: &str) -> reqwest::Response {
        self.turn(id, prompt).send().await.unwrap()
    }

    /// What [`Program::ask`] sends.
    pub fn turn(&self, id: &str, prompt: &str) -> reqwest::RequestBuilder {
        self.client.post(self.url("/backend-api/conversation")).json(&turn(id, prompt))
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
    }

    pub async fn wait_ready(&self) {
        let look = async || (self.get("/readyz").await.status(), self.log());
        until(look, |(status, _)| *status == 200).await;
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The main process of its browser, while there is one.
    pub fn browser(&self) -> Option<i32> {
        procfs::processes()
            .into_iter()
            .find(|it| it.parent == self.pid() && it.group == it.pid)
            .map(|it| it.pid)
    }

    pub fn signal(&self, signal: Signal) {
        procfs::signal(self.pid(), signal);
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually(|| self.child.try_wait().unwrap(), Option::is_some).await.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
