//! nginx in front of a group of instances, with the project's own files: only addresses and directories differ.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{Fail, PORT_TRIES, free_port};
use crate::shared::procfs;

const POLL: Duration = Duration::from_millis(20);

/// A running nginx; stopped when dropped.
pub struct Front {
    /// Where it listens.
    pub addr: SocketAddr,
    child: Child,
}

impl Front {
    /// Starts one in `home` before the instances at `pool`.
    ///
    /// # Errors
    /// When it does not start, or the project's files are not as they are known here.
    pub async fn start(home: &Path, pool: &[SocketAddr]) -> Result<Front, Fail> {
        for _ in 0..PORT_TRIES {
            let addr = free_port()?;
            let written = configuration(home, addr, pool)?;
            fs::write(home.join("nginx.conf"), written)?;
            // Outside root's PATH on Debian.
            let there = Path::new("/usr/sbin/nginx");
            let mut command = Command::new(if there.exists() { there } else { Path::new("nginx") });
            command.arg("-p").arg(home).arg("-c").arg(home.join("nginx.conf"));
            command.arg("-e").arg(home.join("error.log")).stdin(Stdio::null()).stderr(Stdio::null());
            // A group of its own: its processor time is that of all its processes, and a Ctrl-C is for us alone.
            let child =
                command.process_group(0).spawn().map_err(|it| format!("nginx: {it} (make deps-test)"))?;
            let mut front = Front { addr, child };
            loop {
                if TcpStream::connect(addr).await.is_ok() {
                    return Ok(front);
                }
                if front.child.try_wait()?.is_some() {
                    break;
                }
                sleep(POLL).await;
            }
            let log = fs::read_to_string(home.join("error.log")).unwrap_or_default();
            if !log.contains("Address already in use") {
                return Err(format!("nginx does not start: {log}").into());
            }
        }
        Err("nginx finds no port".into())
    }

    /// Its main process, which leads its process group.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Has it read its files again, as `systemctl reload nginx` does.
    pub fn reload(&self) {
        procfs::signal(self.pid(), Signal::HUP);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // A clean stop of the master ends its workers; killed, it would leave them behind.
        procfs::signal(self.pid(), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// The whole configuration: the project's server and group, in what a distribution puts around them.
fn configuration(home: &Path, addr: SocketAddr, pool: &[SocketAddr]) -> Result<String, Fail> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx");
    let (here, there) = (home.display().to_string(), files.display().to_string());
    let mut server = fs::read_to_string(files.join("tabproxy.conf.template"))?;
    for (from, to) in [
        ("${TABPROXY_UPSTREAM}", "tabproxy_pool"),
        // Nobody asks it for the name of a group.
        ("${TABPROXY_RESOLVER}", "127.0.0.1:9"),
        ("listen 80", &format!("listen {addr}")),
        ("/etc/nginx/tabproxy", &there),
        ("/var/log/nginx", &here),
    ] {
        server = replaced(&server, from, to)?;
    }
    let servers: Vec<_> = pool.iter().map(|it| format!("server {it} max_fails=0;")).collect();
    let group = fs::read_to_string(files.join("pool.conf"))?;
    let group =
        replaced(&group, "\n    server 127.0.0.1:3000 max_fails=0;", &format!("\n{}", servers.join("\n")))?;
    let temps = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temps: String = temps.map(|kind| format!("{kind}_temp_path {here}/{kind};\n")).concat();
    // What nginx runs as when root starts it must be able to read the pages, and to write here.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    Ok(format!(
        "{user}daemon off;\npid {here}/pid;\nerror_log {here}/error.log info;\nworker_processes auto;\n\
         worker_rlimit_nofile 8192;\nevents {{ worker_connections 4096; }}\n\
         http {{\naccess_log off;\n{temps}{group}\n{server}\n}}\n"
    ))
}

fn replaced(text: &str, from: &str, to: &str) -> Result<String, Fail> {
    if !text.contains(from) {
        return Err(format!("nginx/: {from} is not in the file").into());
    }
    Ok(text.replace(from, to))
}
