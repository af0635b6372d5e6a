//! How `tabproxy status` shows what it is told.

use super::health::HealthArgs;

/// Whom to ask, and how it is shown.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StatusArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub server: HealthArgs,
    /// Print it once, as lines, and end with exit code 0 if the server is ready, otherwise 1; so it does too
    /// where the output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object, and end in the same way
    #[arg(long)]
    pub json: bool,
}
