//! stub
use super::{BrowserSpec, Command, Status};
use tokio::sync::{mpsc, watch};
pub(super) async fn start(_: BrowserSpec, _: mpsc::UnboundedReceiver<Command>) -> std::io::Result<watch::Receiver<Status>> { Err(std::io::Error::other("stub")) }
