//! The wire between a proxy and its browser, led through a [`Relay`] so that it can be cut.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tabproxy::browser::launch;

use super::relay::Relay;

/// Runs the browser so that the address which it tells for CDP is the relay's. The browser keeps the process id of
/// the script, and with it the process group and the end with its parent.
const SCRIPT: &str = r#"#!/bin/sh
set -eu
port=
for word; do
    case $word in --remote-debugging-port=*) port=${word#*=} ;; esac
done
[ -n "$port" ] || exec "@BROWSER@" "$@"
printf %s "$port" >"@DIR@/cdp.port"
mkfifo "@DIR@/stderr.$$"
sed -u "s#ws://127.0.0.1:$port/#ws://@RELAY@/#" <"@DIR@/stderr.$$" >&2 &
exec "@BROWSER@" "$@" 2>"@DIR@/stderr.$$"
"#;

/// A relay to the CDP port of whatever browser is started by the program that comes with it, which is to be the
/// proxy's Chromium. Its files lie in `dir`.
///
/// # Errors
/// When there is no Chromium, no port, or `dir` cannot be written.
pub async fn to_the_browser(dir: &Path) -> io::Result<(Relay, PathBuf)> {
    let port_file = dir.join("cdp.port");
    let relay = Relay::start(move || {
        let port = fs::read_to_string(&port_file)?.parse().map_err(io::Error::other)?;
        Ok(SocketAddr::from(([127, 0, 0, 1], port)))
    })
    .await?;
    let chosen = std::env::var_os("TABPROXY_CHROMIUM").filter(|it| !it.is_empty()).map(PathBuf::from);
    let browser = chosen.or_else(launch::find_chromium).ok_or(io::Error::other("no Chromium found"))?;
    let script = SCRIPT
        .replace("@BROWSER@", &browser.to_string_lossy())
        .replace("@DIR@", &dir.to_string_lossy())
        .replace("@RELAY@", &relay.addr().to_string());
    let path = dir.join("browser");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok((relay, path))
}
