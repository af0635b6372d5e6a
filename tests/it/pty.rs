//! No tests: a terminal, with a shell in it, and what is seen on its screen.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A terminal. What runs in it is killed when this is dropped, and waited for.
pub struct Pty {
    keys: Option<File>,
    seen: Arc<Mutex<Seen>>,
    shell: Child,
}

struct Seen {
    terminal: vt100::Parser,
    bytes: Vec<u8>,
}

impl Pty {
    /// A terminal of so many rows and columns in which a shell runs `script`, with the program as `$0` and an
    /// environment of nothing but PATH and these.
    pub fn run(script: &str, vars: &[(&str, &str)], (rows, columns): (u16, u16)) -> Pty {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        size(&master, rows, columns);
        let name = ptsname(&master, Vec::new()).unwrap();
        let end = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let end = File::from(end.unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "sh", "-c", script]).arg(env!("CARGO_BIN_EXE_tabproxy"));
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("TERM", "xterm-256color");
        command.envs(vars.iter().copied());
        command.stdin(Stdio::from(end.try_clone().unwrap())).stdout(Stdio::from(end.try_clone().unwrap()));
        let shell = command.stderr(Stdio::from(end)).spawn().unwrap();
        drop(command); // and with it our own copies of the terminal's other end
        let terminal = vt100::Parser::new(number(rows), number(columns), 0);
        let seen = Arc::new(Mutex::new(Seen { terminal, bytes: Vec::new() }));
        let keys = File::from(master);
        let (mut output, shared) = (keys.try_clone().unwrap(), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails once nothing has the other end open any more.
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let seen = &mut *shared.lock().unwrap();
                seen.bytes.extend_from_slice(&buffer[..length]);
                seen.terminal.process(&buffer[..length]);
            }
        });
        Pty { keys: Some(keys), seen, shell }
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.seen.lock().unwrap().terminal.screen().contents()
    }

    /// Whether it is the screen of a program of its own, not that of the shell; and whether the cursor is hidden.
    pub fn is_taken(&self) -> (bool, bool) {
        let seen = self.seen.lock().unwrap();
        (seen.terminal.screen().alternate_screen(), seen.terminal.screen().hide_cursor())
    }

    /// All that was ever written to it.
    pub fn bytes(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap().bytes).into_owned()
    }

    pub fn press(&self, keys: &str) {
        self.keys.as_ref().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Gives it another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.seen.lock().unwrap().terminal.set_size(number(rows), number(columns));
        size(self.keys.as_ref().unwrap(), rows, columns);
    }

    /// Whether the shell has ended.
    pub fn is_over(&mut self) -> bool {
        self.shell.try_wait().unwrap().is_some()
    }
}

fn number(it: u16) -> NonZeroU16 {
    NonZeroU16::new(it).unwrap()
}

fn size(terminal: &impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

impl Drop for Pty {
    fn drop(&mut self) {
        let leader = rustix::process::Pid::from_raw(self.shell.id().cast_signed()).unwrap();
        // The shell leads a session, and so a group, of its own. Not by a hang-up, which under `nohup` is ignored.
        let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        self.keys = None;
        let _ = self.shell.wait();
    }
}
