//! The command line: what can be asked of the program.
//!
//! It exists so that `--help` is the manual. It must not know how anything is served.

mod check;
pub mod doctor;
pub mod health;
pub mod keys;
pub mod status;

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Parser, Subcommand};
use url::Url;

pub use self::check::check;
use self::keys::KeyTask;
use crate::config::{Config, Problem, Settings};
use crate::practice::PracticeArgs;

/// A reverse proxy whose outbound leg is a browser tab
#[derive(Parser)]
#[command(name = "tabproxy", version, about, long_about = LONG_ABOUT)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Task,
}

const LONG_ABOUT: &str = "\
A reverse proxy whose outbound leg is a browser tab.

One real Chromium is kept warm on a chat site; each HTTP request runs as a fetch inside that page, and the \
answer is streamed out as it arrives. Every option is a flag and an environment variable.

Examples:

  See it work, without any account (a built-in practice site stands for the chat site):
    tabproxy demo

  Look whether everything is in place, then serve:
    tabproxy check && tabproxy serve
    curl -N http://127.0.0.1:3000/backend-api/models -H 'Authorization: Bearer …'

  Find out why it does not work, or whether nginx in front passes streams as they come:
    tabproxy doctor
    tabproxy doctor --nginx http://127.0.0.1/

  Make an access key, which callers need once somebody is signed in in the browser:
    export TABPROXY_KEYS_FILE=~/.config/tabproxy/keys.json
    tabproxy key new --name my-bot

  Serve other machines under a name, through a proxy that wants a password:
    HTTPS_PROXY=socks5://user:password@10.0.0.1:1080 \\
      tabproxy serve --listen 0.0.0.0:3000 --hosts chat.example.com";

/// What can be asked of the program.
#[derive(Subcommand)]
pub enum Task {
    /// Serve the page's site to HTTP clients
    Serve(Box<Settings>),
    /// Stream one conversation from the practice site through the proxy, then stay up to be tried
    Demo(DemoArgs),
    /// Run the practice site alone
    Practice(PracticeArgs),
    /// Check the configuration, the browser, the profile and the port; exit code 1 if anything is wrong
    Check(Box<Settings>),
    /// Look at everything that serving needs: machine, browser, the way to the site, files, port, nginx. One line
    /// for each, green, yellow or red, with a remedy; exit code 1 if anything is red
    Doctor(Box<doctor::DoctorArgs>),
    /// Make, list and revoke access keys
    #[command(subcommand)]
    Key(KeyTask),
    /// Print the hash of an admin password, which is read from the terminal or from stdin
    Password,
    /// Ask a running server whether it is ready; exit code 0 if so, otherwise 1, and the reason
    Health(health::HealthArgs),
    /// Show how a running server is, live on a terminal; q leaves
    Status(status::StatusArgs),
}

/// How the demo runs. Other options of the browser are taken from the environment, as by `serve`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DemoArgs {
    /// Address and port to serve on; port 0 picks a free one [default: 127.0.0.1:3000]
    #[arg(long, env = "TABPROXY_LISTEN", hide_env_values = true, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// Exit after the conversation
    #[arg(long, env = "TABPROXY_DEMO_ONCE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    pub once: bool,
    /// Run without a window: true, false, or auto (a window where DISPLAY or WAYLAND_DISPLAY is set)
    /// [default: auto]
    #[arg(long, env = "TABPROXY_HEADLESS", hide_env_values = true, value_name = "WHEN")]
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    pub headless: Option<String>,
}

/// The environment that the demo reads. Not the site and not the proxies: its site is the practice site.
const DEMO_ENV: [&str; 8] = [
    "TABPROXY_CHROMIUM",
    "TABPROXY_CHROMIUM_ARGS",
    "TABPROXY_SANDBOX",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XDG_DATA_HOME",
    "HOME",
    "TABPROXY_HEADLESS",
];

impl DemoArgs {
    /// The demo's configuration for the practice site at `origin`, on a profile of its own.
    ///
    /// # Errors
    /// Every mistake in its flags and in the variables that it reads.
    pub fn config(
        self,
        origin: Url,
        profile: PathBuf,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<Config, Vec<Problem>> {
        let env = |name: &str| if DEMO_ENV.contains(&name) { env(name) } else { None };
        let settings = Settings {
            listen: self.listen,
            headless: self.headless,
            profile: Some(profile.display().to_string()),
            ..Settings::default()
        };
        settings.check(&env).map(|config| Config { origin, ..config })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let parse = |args: &[&str]| Cli::try_parse_from(args.iter().copied());
        assert!(matches!(parse(&["tabproxy", "serve"]).ok().unwrap().command, Task::Serve(_)));
        // A bad value is not clap's business: the check reports it together with all others.
        let bad = ["tabproxy", "serve", "--listen", "x", "--queue=-1", "--chromium-args", "--a --b"];
        assert!(parse(&bad).is_ok());
        let Task::Check(settings) = parse(&["tabproxy", "check", "--headless"]).ok().unwrap().command else {
            panic!("check")
        };
        assert_eq!(settings.headless.as_deref(), Some("true"));
    }

    #[test]
    fn help_names_every_variable() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        for name in [
            "LISTEN",
            "ORIGIN",
            "CHROMIUM",
            "CHROMIUM_ARGS",
            "PROFILE",
            "HEADLESS",
            "SANDBOX",
            "RESOLVE",
            "TRUST_CERT",
            "ALLOW_PATHS",
            "ALLOW_HEADERS",
            "HOSTS",
            "MAX_INFLIGHT",
            "QUEUE",
            "QUEUE_WAIT",
            "MAX_BODY",
            "DRAIN",
            "LOG_FILE",
            "LOG",
            "KEYS_FILE",
            "ACCOUNTS_FILE",
            "REQUIRE_KEY",
            "ADMIN_PASSWORD",
            "CORS",
            "API_TARGET",
            "STRIP_HEADER_PREFIX",
            "TRUSTED_PROXIES",
            "PING",
            "JOIN",
            "FORMAT",
            "BUSY",
        ] {
            assert!(help.contains(&format!("[env: TABPROXY_{name}]")), "{name}");
        }
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
            assert!(help.contains(name), "{name}");
        }
    }
}
