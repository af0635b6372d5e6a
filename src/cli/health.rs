//! Whom `tabproxy health` asks.

use std::net::SocketAddr;

use super::Settings;
use super::check::problem;
use crate::config::Problem;

/// Whom to ask.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct HealthArgs {
    /// Address and port that the server was told to serve on [default: 127.0.0.1:3000]
    #[arg(long, env = "TABPROXY_LISTEN", hide_env_values = true, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
}

impl HealthArgs {
    /// The address, checked.
    ///
    /// # Errors
    /// The mistake in it.
    pub fn listen(self, env: &impl Fn(&str) -> Option<String>) -> Result<SocketAddr, Problem> {
        let (config, problems) = Settings { listen: self.listen, ..Settings::default() }.examine(env);
        match problems.into_iter().find(|it| it.variable == "TABPROXY_LISTEN") {
            Some(problem) => Err(problem),
            None if config.listen.port() == 0 => Err(problem(
                "TABPROXY_LISTEN",
                "TABPROXY_LISTEN (--listen): with port 0, nobody knows where the server is",
                "name the port that it serves on, as its log says",
            )),
            None => Ok(config.listen),
        }
    }
}
