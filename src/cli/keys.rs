//! `tabproxy key` and `tabproxy password`: making what the server only ever knows by its digest.
//!
//! A new key is printed once, alone on stdout, so that a script can take it; everything else goes to stderr.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::Subcommand;
use secrecy::{ExposeSecret, SecretString};

use crate::access::{self, password};

/// What can be done with access keys.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyTask {
    /// Make a key, add it to the file (made if missing, mode 0600) and print it, once
    New {
        /// The file of keys
        #[arg(long, env = "TABPROXY_KEYS_FILE", hide_env_values = true, value_name = "FILE")]
        keys_file: PathBuf,
        /// Its name, to revoke it by [default: key-1, key-2 and so on]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// The stored accounts that it opens, used in turn, separated by commas; `page` is the browser's own
        /// sign-in [default: all stored accounts, or the browser's own sign-in where none are stored]
        #[arg(long, visible_alias = "account", value_delimiter = ',', value_name = "NAMES")]
        accounts: Vec<String>,
    },
    /// List the names of all keys, with their accounts and when they were made
    List {
        /// The file of keys
        #[arg(long, env = "TABPROXY_KEYS_FILE", hide_env_values = true, value_name = "FILE")]
        keys_file: PathBuf,
    },
    /// Take a key out of the file; a running server follows within a second or two
    Revoke {
        /// The file of keys
        #[arg(long, env = "TABPROXY_KEYS_FILE", hide_env_values = true, value_name = "FILE")]
        keys_file: PathBuf,
        /// The key's name
        name: String,
    },
}

/// Does what was asked.
///
/// # Errors
/// One sentence that says what is wrong, never with a key in it.
pub fn run(task: KeyTask) -> Result<(), String> {
    match task {
        KeyTask::New { keys_file, name, accounts } => {
            let accounts = accounts.into_iter().map(|it| it.trim().to_owned()).collect();
            let (name, key) = access::add(&keys_file, name, accounts).map_err(|e| e.to_string())?;
            eprintln!("{name} was added to {}. This is the key; it is shown only now:", keys_file.display());
            println!("{}", key.expose_secret());
        }
        KeyTask::List { keys_file } => {
            for key in access::list(&keys_file).map_err(|e| e.to_string())? {
                let accounts = if key.accounts.is_empty() { "all".into() } else { key.accounts.join(",") };
                let made = match key.created {
                    0 => "unknown".into(),
                    seconds => httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.min(LATEST))),
                };
                println!("{:<20} accounts: {accounts:<30} made: {made}", key.name);
            }
        }
        KeyTask::Revoke { keys_file, name } => {
            access::revoke(&keys_file, &name).map_err(|e| e.to_string())?;
            eprintln!("{name} was revoked");
        }
    }
    Ok(())
}

/// The last second that a date has four digits for its year.
const LATEST: u64 = 253_402_300_799;

/// Reads a password from the terminal, or one line of stdin, and prints its hash.
///
/// # Errors
/// When there is none, or two that differ.
pub fn hash_password() -> Result<(), String> {
    let password = if io::stdin().is_terminal() {
        let ask = |prompt: &str| {
            rpassword::prompt_password(prompt).map(SecretString::from).map_err(|e| e.to_string())
        };
        let password = ask("Admin password: ")?;
        if ask("Once more: ")?.expose_secret() != password.expose_secret() {
            return Err("the two passwords differ".into());
        }
        password
    } else {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map_err(|e| e.to_string())?;
        SecretString::from(line.trim_end_matches(['\r', '\n']))
    };
    if password.expose_secret().trim().is_empty() {
        return Err("the password is empty".into());
    }
    println!("{}", password::hash(password.expose_secret())?);
    eprintln!("Set TABPROXY_ADMIN_PASSWORD to this, in single quotes where a shell reads it.");
    Ok(())
}
