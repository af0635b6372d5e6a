//! A real nginx with the project's own files: only addresses and directories differ, and what a test changes.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{Fail, PORT_TRIES, free_port, procfs};

const POLL: Duration = Duration::from_millis(20);
/// The line of the project's groups that the servers take the place of.
const SERVER: &str = "server 127.0.0.1:3000 max_fails=0;";

/// What differs from the project's files.
#[derive(Clone)]
pub struct Setup<'a> {
    /// `TABPROXY_UPSTREAM`.
    pub upstream: String,
    /// `TABPROXY_RESOLVER`.
    pub resolver: String,
    /// The servers of the group.
    pub pool: Vec<SocketAddr>,
    /// The file that has it.
    pub group: &'static str,
    /// `worker_processes`.
    pub workers: &'static str,
    /// What stands in the server's file, and what is to stand there.
    pub changes: &'a [(&'a str, &'a str)],
    /// Names and texts of files beside the configuration, where the certificate is looked for.
    pub files: &'a [(&'a str, &'a str)],
}

impl Setup<'_> {
    /// Before one instance, without a group.
    pub fn at(addr: SocketAddr) -> Setup<'static> {
        Setup {
            upstream: addr.to_string(),
            // Nobody asks it for the name of a group, or for an address.
            resolver: "127.0.0.1:9".into(),
            pool: vec![addr],
            group: "pool.conf",
            workers: "1",
            changes: &[],
            files: &[],
        }
    }

    /// Before a group of instances; there is at least one.
    pub fn pool(pool: Vec<SocketAddr>) -> Setup<'static> {
        Setup { upstream: "tabproxy_pool".into(), pool: pool.clone(), ..Setup::at(pool[0]) }
    }
}

/// A running nginx; stopped when dropped.
pub struct Nginx {
    /// Where it listens.
    pub addr: SocketAddr,
    child: Child,
    home: TempDir,
}

impl Nginx {
    /// Starts one on a free port, and waits until it listens.
    ///
    /// # Errors
    /// When it does not start, or the project's files are not as they are known here.
    pub async fn start(setup: &Setup<'_>) -> Result<Nginx, Fail> {
        for _ in 0..PORT_TRIES {
            let (addr, home) = (free_port()?, TempDir::with_prefix("tabproxy-nginx-")?);
            for (name, text) in setup.files {
                fs::write(home.path().join(name), text)?;
            }
            fs::write(home.path().join("nginx.conf"), configuration(home.path(), addr, setup)?)?;
            // Outside root's PATH on Debian.
            let there = Path::new("/usr/sbin/nginx");
            let mut command = Command::new(if there.exists() { there } else { Path::new("nginx") });
            command.arg("-p").arg(home.path()).arg("-c").arg(home.path().join("nginx.conf"));
            command.arg("-e").arg(home.path().join("error.log")).stdin(Stdio::null()).stderr(Stdio::null());
            // A group of its own: its processor time is that of all its processes, and a Ctrl-C is for us alone.
            let child =
                command.process_group(0).spawn().map_err(|it| format!("nginx: {it} (make deps-test)"))?;
            let mut nginx = Nginx { addr, child, home };
            let mut tick = tokio::time::interval(POLL);
            while nginx.child.try_wait()?.is_none() {
                if TcpStream::connect(addr).await.is_ok() {
                    return Ok(nginx);
                }
                tick.tick().await;
            }
            if !nginx.log().contains("Address already in use") {
                return Err(format!("nginx does not start: {}", nginx.log()).into());
            }
        }
        Err("nginx finds no port".into())
    }

    /// Its main process, which leads its process group.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it has said so far, mostly of errors.
    pub fn log(&self) -> String {
        self.read("error.log")
    }

    /// A file that it writes.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.home.path().join(name)).unwrap_or_default()
    }

    /// Has it read its files again, as `systemctl reload nginx` does.
    pub fn reload(&self) {
        procfs::signal(self.pid(), Signal::HUP);
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // A clean stop of the master ends its workers; killed, it would leave them behind.
        procfs::signal(self.pid(), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// The whole configuration: the project's server and group, in what a distribution puts around them.
fn configuration(home: &Path, addr: SocketAddr, setup: &Setup<'_>) -> Result<String, Fail> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx");
    let (here, there) = (home.display().to_string(), files.display().to_string());
    let mut server = fs::read_to_string(files.join("tabproxy.conf.template"))?;
    let listen = format!("listen {addr}");
    let own = [
        ("${TABPROXY_UPSTREAM}", setup.upstream.as_str()),
        ("${TABPROXY_RESOLVER}", &setup.resolver),
        ("listen 80", &listen),
        ("/etc/nginx/tabproxy/tls", &here),
        ("/etc/nginx/tabproxy", &there),
        ("/var/log/nginx", &here),
    ];
    for (from, to) in own.iter().chain(setup.changes) {
        server = replaced(&server, from, to)?;
    }
    let servers: Vec<_> = setup.pool.iter().map(|it| format!("server {it} max_fails=0;")).collect();
    let group = fs::read_to_string(files.join(setup.group))?;
    // The first; what follows is how several look, and is a comment.
    let group = replaced(&group, &format!("\n    {SERVER}"), &format!("\n{}", servers.join("\n")))?;
    let temps = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temps: String = temps.map(|kind| format!("{kind}_temp_path {here}/{kind};\n")).concat();
    // What nginx runs as when root starts it must be able to read the pages, and to write here.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let workers = setup.workers;
    Ok(format!(
        "{user}daemon off;\npid {here}/pid;\nerror_log {here}/error.log info;\nworker_processes {workers};\n\
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
