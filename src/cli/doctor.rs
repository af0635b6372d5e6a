//! `tabproxy doctor`: what is asked, and where the findings go.

use std::io::{self, IsTerminal, Write};

use url::Url;

use crate::config::Settings;
use crate::doctor::examine;
use crate::doctor::finding::Light;

/// What the doctor is asked.
#[derive(clap::Args)]
pub struct DoctorArgs {
    /// Look also at the nginx at this address: whether event streams come through it as they are written, and
    /// whether it waits long enough in silence. Takes a quarter of a minute. Example: `http://127.0.0.1/`
    #[arg(long, value_name = "URL", value_parser = web_address)]
    pub nginx: Option<Url>,
    /// Print one JSON object: {"verdict": …, "checks": [{"name", "state", "text", "remedy"}]}
    #[arg(long)]
    pub json: bool,
    /// The options of `serve`.
    #[command(flatten)]
    pub settings: Settings,
}

fn web_address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let is_web = matches!(url.scheme(), "http" | "https") && url.host().is_some();
    if is_web { Ok(url) } else { Err("write it as http://host:port/ or https://host:port/".into()) }
}

/// Looks, and prints what is found to stdout; whether nothing is red.
///
/// # Errors
/// Nobody reads it.
pub async fn run(args: DoctorArgs, env: &impl Fn(&str) -> Option<String>) -> io::Result<bool> {
    // https://no-color.org: present and not empty.
    let no_color =
        env("NO_COLOR").is_some_and(|it| !it.is_empty()) || env("TERM").is_some_and(|it| it == "dumb");
    let coloured = io::stdout().is_terminal() && !no_color;
    let say = |text: &str| {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    let mut said = Ok(());
    let report = examine(args.settings, args.nginx, env, |finding| {
        if !args.json && said.is_ok() {
            said = say(&finding.lines(coloured));
        }
    });
    let report = report.await;
    said?;
    if args.json {
        say(&format!("{}\n", serde_json::to_string(&report)?))?;
    } else {
        say(&report.summary(coloured))?;
    }
    Ok(report.verdict != Light::Red)
}
