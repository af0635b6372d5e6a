//! What the program says about itself: log lines, metrics, and what its processes use.
//!
//! Knows nothing of the browser or of HTTP: what it publishes about them is handed in as plain numbers.

pub mod figures;
pub mod log;
pub mod metrics;
mod named;
pub mod process;
pub mod recent;
pub mod redis;
mod rotate;
pub mod screen;
pub mod shared;
