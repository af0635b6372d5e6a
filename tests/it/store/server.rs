//! No tests: a real Redis, as each test wants it.

use std::process::{Child, Command, Stdio};

use secrecy::ExposeSecret;
use tabproxy::config::{RedisServer, Settings};
use tempfile::TempDir;

use crate::rig::eventually;

/// Characters that have to be percent-encoded in an address.
pub const PASSWORD: &str = "canary/pass:word";

/// `redis-server` in a directory of its own, on a port of the system's choosing; ended when dropped.
pub struct RedisProgram {
    child: Child,
    home: TempDir,
    port: u16,
    options: Vec<String>,
    tls: bool,
}

impl RedisProgram {
    pub async fn start() -> RedisProgram {
        RedisProgram::with(&[], false).await
    }

    /// With further options; with `tls` its port speaks nothing else.
    pub async fn with(options: &[&str], tls: bool) -> RedisProgram {
        for _ in 0..5 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let home = TempDir::new().unwrap();
            let options: Vec<_> = options.iter().map(|it| it.to_string()).collect();
            let child = spawn(&home, port, &options, tls);
            let mut redis = RedisProgram { child, home, port, options, tls };
            // Somebody else may have taken the port meanwhile.
            if redis.is_up().await {
                return redis;
            }
        }
        panic!("no redis-server; scripts/deps.sh redis installs it");
    }

    async fn is_up(&mut self) -> bool {
        let log = self.home.path().join("log");
        let (child, read) = (&mut self.child, || std::fs::read_to_string(&log).unwrap_or_default());
        let look = || (read().contains("Ready to accept connections"), child.try_wait().unwrap().is_some());
        eventually(look, |(is_up, is_over)| *is_up || *is_over).await.0
    }

    /// Its address, with the password.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://:canary%2Fpass%3Aword@127.0.0.1:{}", self.port)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn server(&self) -> RedisServer {
        server(&self.url())
    }

    /// It ends at once, and with it all that it held.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(self.home.path().join("log"));
    }

    /// Starts it again where it was, empty.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.home, self.port, &self.options, self.tls);
        assert!(self.is_up().await, "its port is free");
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        crate::shared::procfs::signal(self.child.id().cast_signed(), signal);
    }

    /// A command, and its answer.
    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let server = self.server();
        let info =
            redis::RedisConnectionInfo::default().set_password(server.password.unwrap().expose_secret());
        let address = redis::ConnectionAddr::Tcp(server.host, server.port);
        let info = redis::IntoConnectionInfo::into_connection_info(address).unwrap().set_redis_settings(info);
        let mut connection = redis::Client::open(info).unwrap().get_connection().unwrap();
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|it| {
            command.arg(it);
        });
        command.query(&mut connection).unwrap()
    }
}

impl Drop for RedisProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(home: &TempDir, port: u16, options: &[String], tls: bool) -> Child {
    let mut command = Command::new("redis-server");
    command.args([if tls { "--tls-port" } else { "--port" }, &port.to_string()]);
    if tls {
        command.args(["--port", "0"]);
    }
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", PASSWORD]);
    command.args(["--logfile", "log", "--dir"]).arg(home.path()).args(options).current_dir(home.path());
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().expect("redis-server runs; scripts/deps.sh redis installs it")
}

/// The server at `url`, as the option is read.
pub fn server(url: &str) -> RedisServer {
    let settings =
        Settings { redis: Some(url.into()), profile: Some("/nowhere".into()), ..Settings::default() };
    settings.check(&|_| None).unwrap().redis.unwrap()
}
