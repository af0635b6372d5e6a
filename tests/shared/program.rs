//! The command that runs the program as users do, untouched by the variables of whoever runs the tests.

use std::fs::File;
use std::io;
use std::process::Stdio;

use tokio::process::Command;

/// `tabproxy serve`, killed when its handle is dropped, with all that it says in `log`. Settings are the caller's.
pub fn serve(log: File) -> io::Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tabproxy"));
    command.arg("serve").kill_on_drop(true).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    for (name, _) in std::env::vars().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    Ok(command)
}

/// Whether a variable of our own environment would change how it runs.
fn is_setting(name: &str) -> bool {
    name.starts_with("TABPROXY_") || name.to_ascii_lowercase().ends_with("_proxy")
}
