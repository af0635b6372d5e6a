//! No tests: the program itself as a process of its own, on a practice site.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tabproxy::practice::Practice;

use crate::rig::{PATIENCE, client, turn};

/// `tabproxy serve`; stopped when dropped.
pub struct Program {
    child: Child,
    pub addr: SocketAddr,
    pub client: reqwest::Client,
    /// What it writes to stdout.
    pub stdout: PathBuf,
}

impl Program {
    /// Starts it with all its files in `home`, and with these environment variables.
    pub fn start(site: &Practice, home: &Path, env: &[(&str, &str)]) -> Program {
        let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (cert, stdout) = (home.join("cert.pem"), home.join("stdout"));
        fs::write(&cert, site.cert_pem()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tabproxy"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TABPROXY_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--headless", "true", "--listen", &addr.to_string()]);
        command.args(["--origin", &site.front_url(), "--resolve", &site.resolve()]);
        command.arg("--trust-cert").arg(cert).arg("--profile").arg(home.join("profile"));
        command.envs(env.iter().copied()).stdout(File::create(&stdout).unwrap()).stderr(Stdio::inherit());
        Program { child: command.spawn().unwrap(), addr, client: client(), stdout }
    }

    /// Waits until `path` is answered with 200.
    pub async fn wait_for(&self, path: &str) {
        let up = async {
            while !self.client.get(self.url(path)).send().await.is_ok_and(|it| it.status() == 200) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, up).await.unwrap_or_else(|_| panic!("no {path}"));
    }

    pub async fn wait_ready(&self) {
        self.wait_for("/readyz").await;
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// As [`crate::rig::Rig::ask`].
    pub fn ask(&self, id: &str, prompt: &str) -> reqwest::RequestBuilder {
        let request = self.client.post(self.url("/backend-api/conversation"));
        request.header("accept", "text/event-stream").json(&turn(id, prompt))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        for signal in [Signal::CONT, Signal::TERM] {
            let _ = kill_process(self.pid(), signal);
        }
        let _ = self.child.wait();
    }
}
